//! Where device, metric, time and number of a message come from.
//!
//! A topic pattern is MQTT's, and a level may have a name: `plant/{site}/{device}/+/#`. `device` and `metric` are texts
//! in which such names stand in braces: `"{site}-{device}"`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::payload::{self, Fields, Payload, Unreadable};

/// How the payloads of some topics are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Mapping {
    /// Topics it fits: `telemetry/{device}`.
    pub topic: String,
    /// What the payload is.
    #[serde(default)]
    pub format: Format,
    /// The device.
    #[serde(default = "device_default")]
    pub device: String,
    /// The metric of a bare value.
    #[serde(default)]
    pub metric: Option<String>,
    /// The object's field that holds its time; "" if none does.
    #[serde(default = "time_default")]
    pub time: String,
    /// The object's field that holds the device's own number; "" if none does.
    #[serde(default = "n_default")]
    pub n: String,
}

/// What a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A JSON object: one metric per field.
    #[default]
    Object,
    /// One bare value.
    Value,
}

fn device_default() -> String {
    "{device}".to_owned()
}

fn time_default() -> String {
    Fields::default().time
}

fn n_default() -> String {
    Fields::default().n
}

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
    Name(String),
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

    /// Reads a text in which names of this pattern stand in braces.
    ///
    /// # Errors
    /// What is wrong with it and what to write.
    pub fn template(&self, text: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, behind) = after.split_once('}').ok_or("has a `{` without `}`")?;
            if !self.levels.contains(&Level::Named(name.to_owned())) {
                return Err(format!("`{{{name}}}` is no level of the topic; its names are {}", self.names()));
            }
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(Part::Name(name.to_owned()));
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

    fn names(&self) -> String {
        let names: Vec<_> = self
            .levels
            .iter()
            .filter_map(|level| match level {
                Level::Named(name) => Some(format!("{{{name}}}")),
                _ => None,
            })
            .collect();
        if names.is_empty() { "none (write a level as `{device}`)".to_owned() } else { names.join(", ") }
    }
}

impl Template {
    fn fill(&self, names: &BTreeMap<&str, &str>) -> String {
        let text = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Name(name) => names.get(name.as_str()).copied().unwrap_or_default().to_owned(),
        };
        self.parts.iter().map(text).collect()
    }
}

/// "" is to find nothing: no device names a field so.
fn field(name: &str) -> String {
    if name.is_empty() { "\u{0}none".to_owned() } else { name.to_owned() }
}

/// All mappings, ready for use.
#[derive(Debug, Clone)]
pub struct Mappings {
    all: Vec<Ready>,
}

#[derive(Debug, Clone)]
struct Ready {
    pattern: Pattern,
    device: Template,
    metric: Option<Template>,
    format: Format,
    fields: Fields,
}

/// A message, as its mapping reads it.
#[derive(Debug)]
pub struct Mapped {
    /// The device's name, unchecked.
    pub device: String,
    /// What the payload is.
    pub format: Format,
    /// The payload, taken apart.
    pub payload: Result<Payload, Unreadable>,
}

impl Mappings {
    /// Makes mappings ready; what [`shared::config::Check`] refuses is left out.
    pub fn new(mappings: &[Mapping]) -> Self {
        let ready = |mapping: &Mapping| {
            let pattern = Pattern::parse(&mapping.topic).ok()?;
            let device = pattern.template(&mapping.device).ok()?;
            let metric = mapping.metric.as_ref().map(|text| pattern.template(text)).transpose().ok()?;
            let fields = Fields { time: field(&mapping.time), n: field(&mapping.n) };
            Some(Ready { pattern, device, metric, format: mapping.format, fields })
        };
        Self { all: mappings.iter().filter_map(ready).collect() }
    }

    /// Reads a message by the first mapping whose topic fits; `None` if none does.
    pub fn read(&self, topic: &str, payload: &[u8]) -> Option<Mapped> {
        let (ready, names) = self.all.iter().find_map(|ready| Some((ready, ready.pattern.fit(topic)?)))?;
        let payload = match (ready.format, &ready.metric) {
            (Format::Value, Some(metric)) => payload::bare(&metric.fill(&names), payload),
            _ => payload::object(payload, &ready.fields),
        };
        Some(Mapped { device: ready.device.fill(&names), format: ready.format, payload })
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
    fn a_pattern_that_cannot_be_meant_is_refused() {
        for bad in ["", "a/#/b", "a+", "{}", "{a}/{a}", "x{a}", "{a", "a#"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
        let pattern = Pattern::parse("{site}/{device}").expect("fits");
        for bad in ["", "{", "{who}", "a{site"] {
            assert!(pattern.template(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn device_and_metric_are_made_of_the_topics_levels() {
        let mapping = Mapping {
            topic: "plant/{site}/{device}/{metric}".into(),
            format: Format::Value,
            device: "{site}-{device}".into(),
            metric: Some("{metric}.raw".into()),
            time: String::new(),
            n: String::new(),
        };
        let mapped = Mappings::new(&[mapping]).read("plant/north/3/rpm", b"12").expect("fits");
        assert_eq!(mapped.device, "north-3");
        assert_eq!(mapped.payload.expect("a number").measured[0].metric, "rpm.raw");
    }
}
