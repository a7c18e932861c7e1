//! Topic patterns and the texts made of what they and a payload name.
//!
//! A topic pattern is MQTT's, and a level may have a name: `plant/{site}/{device}/+/#`. In a text names stand in braces:
//! `"{site}-{device}"`. `{.header.id}` is what a payload holds there, and `{a|b}` is the first of them that is there.

use std::collections::BTreeMap;

use super::super::format::tree::Path;

/// A topic pattern, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    levels: Vec<Level>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Text(String),
    Named(String),
    Any,
    Rest,
}

/// A text with names in braces, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// The first of them that is there.
    Any(Vec<Named>),
}

/// What a name in braces stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// A level of the topic, or a word of the format.
    Name(String),
    /// A place in the payload.
    At(Path),
}

/// What a text may name beside the levels of its topic.
#[derive(Debug, Clone, Copy, Default)]
pub struct Words<'w> {
    /// Words of the format.
    pub words: &'w [&'w str],
    /// Whether the payload has places.
    pub places: bool,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("is empty; write e.g. \"telemetry/{device}\"".to_owned());
        }
        let mut levels = Vec::new();
        let count = text.split('/').count();
        for (index, level) in text.split('/').enumerate() {
            let named = level.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            levels.push(match (level, named) {
                ("#", _) if index + 1 == count => Level::Rest,
                ("+", _) => Level::Any,
                (_, Some(name)) if !name.is_empty() && !name.contains(['{', '}', '+', '#']) => {
                    if levels.contains(&Level::Named(name.to_owned())) {
                        return Err(format!("names two levels `{name}`; give each a name of its own"));
                    }
                    Level::Named(name.to_owned())
                }
                (text, None) if !text.contains(['{', '}', '+', '#']) => Level::Text(text.to_owned()),
                (level, _) => {
                    return Err(format!(
                        "`{level}` is no topic level; write a text, a name in braces, `+` alone, or `#` alone at the end"
                    ));
                }
            });
        }
        Ok(Self { levels })
    }

    /// The named levels of `topic`, if the pattern fits it.
    pub fn fit<'t>(&self, topic: &'t str) -> Option<BTreeMap<&str, &'t str>> {
        let mut names = BTreeMap::new();
        let mut given = topic.split('/');
        for level in &self.levels {
            let Level::Rest = level else {
                let text = given.next()?;
                match level {
                    Level::Text(wanted) if wanted != text => return None,
                    Level::Named(_) if text.is_empty() => return None,
                    Level::Named(name) => {
                        names.insert(name.as_str(), text);
                    }
                    _ => {}
                }
                continue;
            };
            return Some(names);
        }
        given.next().is_none().then_some(names)
    }

    /// Whether it fits every topic that `other` fits.
    pub fn covers(&self, other: &Self) -> bool {
        let mut theirs = other.levels.iter();
        for level in &self.levels {
            let covered = match (level, theirs.next()) {
                (Level::Rest, _) => return true,
                (_, None | Some(Level::Rest)) => false,
                (Level::Any, Some(_)) => true,
                // A name stands for no empty level.
                (Level::Named(_), Some(their)) => match their {
                    Level::Text(text) => !text.is_empty(),
                    their => matches!(their, Level::Named(_)),
                },
                (Level::Text(text), Some(their)) => matches!(their, Level::Text(other) if other == text),
            };
            if !covered {
                return false;
            }
        }
        theirs.next().is_none()
    }

    /// What of `topic` the `#` at the end of the pattern stands for.
    pub fn rest<'t>(&self, topic: &'t str) -> Option<&'t str> {
        match self.levels.last()? {
            Level::Rest => topic.splitn(self.levels.len(), '/').nth(self.levels.len() - 1),
            _ => None,
        }
    }

    /// True if a level has this name.
    pub fn has(&self, name: &str) -> bool {
        self.levels.contains(&Level::Named(name.to_owned()))
    }

    /// True if it ends in `#`.
    pub fn is_open(&self) -> bool {
        self.levels.last() == Some(&Level::Rest)
    }

    /// Reads a text in which names of this pattern, and `more`, stand in braces.
    ///
    /// # Errors
    /// What is wrong with it and what to write.
    pub fn template(&self, text: &str, more: Words<'_>) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (names, behind) = after.split_once('}').ok_or("has a `{` without `}`")?;
            let mut any = Vec::new();
            for name in names.split('|') {
                any.push(match name.strip_prefix('.') {
                    Some(path) if more.places => Named::At(Path::parse(path)?),
                    _ if self.has(name) || more.words.contains(&name) => Named::Name(name.to_owned()),
                    _ => {
                        let known = self.names(more);
                        return Err(format!("`{{{name}}}` is no level of the topic; its names are {known}"));
                    }
                });
            }
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(Part::Any(any));
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        match parts.is_empty() {
            true => Err("is empty; write a name, or a level of the topic in braces".to_owned()),
            false => Ok(Template { parts }),
        }
    }

    fn names(&self, more: Words<'_>) -> String {
        let mut names: Vec<_> = self
            .levels
            .iter()
            .filter_map(|level| match level {
                Level::Named(name) => Some(format!("{{{name}}}")),
                _ => None,
            })
            .collect();
        names.extend(more.words.iter().map(|word| format!("{{{word}}}")));
        if more.places {
            names.push("{.path.into.the.payload}".to_owned());
        }
        if names.is_empty() { "none (write a level as `{device}`)".to_owned() } else { names.join(", ") }
    }
}

impl Template {
    /// The text, each name replaced by what `of` finds for it; nothing where it finds nothing.
    pub fn fill(&self, of: impl Fn(&Named) -> Option<String>) -> String {
        let text = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Any(any) => any.iter().filter_map(&of).find(|text| !text.is_empty()).unwrap_or_default(),
        };
        self.parts.iter().map(text).collect()
    }

    /// The places in a payload that it names.
    pub fn places(&self) -> impl Iterator<Item = &Path> {
        let any = self.parts.iter().flat_map(|part| match part {
            Part::Text(_) => &[][..],
            Part::Any(any) => &any[..],
        });
        any.filter_map(|named| match named {
            Named::At(path) => Some(path),
            Named::Name(_) => None,
        })
    }

    /// The same, of names alone.
    pub fn fill_names(&self, names: &BTreeMap<&str, &str>) -> String {
        self.fill(|named| match named {
            Named::Name(name) => names.get(name.as_str()).map(|text| (*text).to_owned()),
            Named::At(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_as_mqtt_fits_and_names_its_levels() {
        for (pattern, topic, fits) in [
            ("telemetry/{device}", "telemetry/press-3", Some("device=press-3")),
            ("telemetry/{device}", "telemetry/", None),
            ("telemetry/{device}", "telemetry/a/b", None),
            ("telemetry/{device}", "telemetry", None),
            ("{site}/+/{device}/#", "north/x/press-3/a/b", Some("device=press-3 site=north")),
            ("{site}/+/{device}/#", "north/x/press-3", Some("device=press-3 site=north")),
            ("#", "a/b", Some("")),
            ("a//b", "a//b", Some("")),
        ] {
            let names = Pattern::parse(pattern)
                .expect(pattern)
                .fit(topic)
                .map(|names| names.iter().map(|(name, text)| format!("{name}={text}")).collect::<Vec<_>>().join(" "));
            assert_eq!(names.as_deref(), fits, "{pattern} {topic}");
        }
    }

    #[test]
    fn a_pattern_covers_what_fits_no_topic_that_it_does_not_fit() {
        let covers =
            |one: &str, other: &str| Pattern::parse(one).expect(one).covers(&Pattern::parse(other).expect(other));
        for (one, other) in [
            ("telemetry/{device}", "telemetry/{device}"),
            ("telemetry/{device}", "telemetry/press-3"),
            ("telemetry/+", "telemetry/{device}"),
            ("telemetry/#", "telemetry/{device}/{metric}"),
            ("telemetry/#", "telemetry"),
            ("#", "a/+/#"),
            ("+/+", "{site}/{device}"),
        ] {
            assert!(covers(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("telemetry/press-3", "telemetry/{device}"),
            ("telemetry/{device}", "telemetry/{device}/{metric}"),
            ("telemetry/{device}", "telemetry/#"),
            ("telemetry/{device}", "telemetry/+"),
            ("{site}/a", "{site}/b"),
            ("a/{b}", "a/"),
        ] {
            assert!(!covers(one, other), "{one} {other}");
        }
    }

    #[test]
    fn a_pattern_that_cannot_be_meant_is_refused() {
        for bad in ["", "a/#/b", "a+", "{}", "{a}/{a}", "x{a}", "{a", "a#"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
        let pattern = Pattern::parse("{site}/{device}").expect("fits");
        for bad in ["", "{", "{who}", "a{site", "{site|who}", "{.a}"] {
            assert!(pattern.template(bad, Words::default()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_rest_is_what_stands_for_the_last_level() {
        for (pattern, topic, rest) in [
            ("zigbee2mqtt/#", "zigbee2mqtt/a/b", Some("a/b")),
            ("zigbee2mqtt/#", "zigbee2mqtt", None),
            ("#", "a/b", Some("a/b")),
            ("a/{b}", "a/b", None),
        ] {
            assert_eq!(Pattern::parse(pattern).expect(pattern).rest(topic), rest, "{pattern} {topic}");
        }
    }
}
