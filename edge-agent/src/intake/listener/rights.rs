//! Who may publish what: `[[intake.listener.right]]`.
//!
//! A right names users and topics. A level of its topic is a text, in which `{user}` and `{client}` stand for the
//! device's user and client id, or `+` for any level, or `#` at the end for the rest. A user or client id is only ever
//! compared with one level of a topic: one that is called `#` or `a/b` may publish no more for that.

use serde::Deserialize;
use shared::rules::glob;

/// A right, as configured.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Right {
    /// Users who have it; `*` stands for any run of characters. Left out: everyone, without a user too.
    #[serde(default)]
    pub user: Option<String>,
    /// Topics they may publish to.
    pub topic: String,
}

/// All rights, parsed.
#[derive(Debug, Clone, Default)]
pub(super) struct Rights(Vec<(Option<String>, Vec<Level>)>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Text(Vec<Part>),
    Any,
    Rest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    User,
    Client,
}

/// What one device may publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum May {
    Everything,
    Only(Vec<Vec<Allowed>>),
}

/// A level of a topic that is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Allowed {
    Text(String),
    Any,
    Rest,
}

impl Rights {
    /// Reads rights.
    ///
    /// # Errors
    /// The first that cannot be used, by its place, and what is wrong with its topic.
    pub(super) fn parse(rights: &[Right]) -> Result<Self, (usize, String)> {
        let parsed = rights.iter().enumerate().map(|(index, right)| {
            let levels = levels(&right.topic).map_err(|what| (index, what))?;
            Ok((right.user.clone(), levels))
        });
        Ok(Self(parsed.collect::<Result<_, _>>()?))
    }

    /// What a device may publish. Without any right configured that is everything.
    pub(super) fn of(&self, user: Option<&str>, client: &str) -> May {
        if self.0.is_empty() {
            return May::Everything;
        }
        let has = |wanted: &Option<String>| match (wanted, user) {
            (None, _) => true,
            (Some(pattern), Some(user)) => glob(pattern, user),
            (Some(_), None) => false,
        };
        let rights = self.0.iter().filter(|(wanted, _)| has(wanted));
        May::Only(rights.filter_map(|(_, levels)| allowed(levels, user, client)).collect())
    }
}

impl May {
    /// True if the device may publish to this topic.
    pub(super) fn publish_to(&self, topic: &str) -> bool {
        match self {
            May::Everything => true,
            May::Only(patterns) => patterns.iter().any(|pattern| fits(pattern, topic)),
        }
    }
}

fn levels(topic: &str) -> Result<Vec<Level>, String> {
    if topic.is_empty() {
        return Err("is empty; write e.g. \"telemetry/{user}/#\"".to_owned());
    }
    let count = topic.split('/').count();
    let level = |(index, text): (usize, &str)| match text {
        "#" if index + 1 == count => Ok(Level::Rest),
        "+" => Ok(Level::Any),
        text if text.contains(['+', '#']) => {
            Err(format!("`{text}` is no topic level; write a text, `+` alone, or `#` alone at the end"))
        }
        text => parts(text).map(Level::Text),
    };
    topic.split('/').enumerate().map(level).collect()
}

fn parts(text: &str) -> Result<Vec<Part>, String> {
    let (mut parts, mut rest) = (Vec::new(), text);
    while let Some((before, after)) = rest.split_once('{') {
        let (name, behind) = after.split_once('}').ok_or_else(|| format!("`{text}` has a `{{` without `}}`"))?;
        parts.push(Part::Text(before.to_owned()));
        parts.push(match name {
            "user" => Part::User,
            "client" => Part::Client,
            other => return Err(format!("`{{{other}}}` is not known here; there are `{{user}}` and `{{client}}`")),
        });
        rest = behind;
    }
    parts.push(Part::Text(rest.to_owned()));
    Ok(parts)
}

/// The levels of a right for one device; `None` if the right names a user or client id that the device does not have.
fn allowed(levels: &[Level], user: Option<&str>, client: &str) -> Option<Vec<Allowed>> {
    let part = |part: &Part| match part {
        Part::Text(text) => Some(text.clone()),
        Part::User => user.filter(|user| !user.is_empty()).map(str::to_owned),
        Part::Client => Some(client).filter(|client| !client.is_empty()).map(str::to_owned),
    };
    let level = |level: &Level| match level {
        Level::Any => Some(Allowed::Any),
        Level::Rest => Some(Allowed::Rest),
        Level::Text(parts) => parts.iter().map(part).collect::<Option<String>>().map(Allowed::Text),
    };
    levels.iter().map(level).collect()
}

fn fits(pattern: &[Allowed], topic: &str) -> bool {
    let mut given = topic.split('/');
    for level in pattern {
        let text = match (level, given.next()) {
            // As MQTT has it, `a/#` stands for `a`, too.
            (Allowed::Rest, _) => return true,
            (_, None) => return false,
            (_, Some(text)) => text,
        };
        if let Allowed::Text(wanted) = level
            && wanted != text
        {
            return false;
        }
    }
    given.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(rights: &[(Option<&str>, &str)]) -> Result<Rights, (usize, String)> {
        let right =
            |(user, topic): &(Option<&str>, &str)| Right { user: user.map(str::to_owned), topic: (*topic).to_owned() };
        Rights::parse(&rights.iter().map(right).collect::<Vec<_>>())
    }

    #[test]
    fn a_device_may_publish_where_one_of_its_rights_says_so() {
        let some = rights(&[
            (Some("press-*"), "telemetry/{user}/#"),
            (Some("plc"), "plant/+/state"),
            (None, "hello/{client}"),
            (Some("*"), "x-{user}-{client}"),
        ])
        .expect("well-formed");
        for (user, client, topic, may) in [
            (Some("press-3"), "c", "telemetry/press-3", true),
            (Some("press-3"), "c", "telemetry/press-3/a/b", true),
            (Some("press-3"), "c", "telemetry/press-33", false),
            (Some("press-3"), "c", "telemetry/press-4", false),
            (Some("press-3"), "c", "telemetry", false),
            (Some("press-3"), "c", "plant/a/state", false),
            (Some("plc"), "c", "plant/a/state", true),
            (Some("plc"), "c", "plant//state", true),
            (Some("plc"), "c", "plant/a/b/state", false),
            (Some("plc"), "c", "plant/a/state/x", false),
            (None, "c", "hello/c", true),
            (None, "c", "hello/d", false),
            (None, "", "hello/", false),
            (None, "c", "telemetry/", false),
            (Some("u"), "c", "x-u-c", true),
            (None, "c", "x--c", false),
            // Nobody becomes somebody else by calling himself a pattern.
            (Some("press-#"), "#", "telemetry/press-3", false),
            (Some("press-+"), "+", "hello/x", false),
            (Some("press-3/.."), "a/b", "telemetry/press-3/../x", false),
            (Some(""), "c", "telemetry/", false),
        ] {
            assert_eq!(some.of(user, client).publish_to(topic), may, "{user:?} {client} {topic}");
        }
        assert_eq!(rights(&[]).expect("none").of(None, "c"), May::Everything);
        assert!(!rights(&[(Some("a"), "#")]).expect("one").of(None, "c").publish_to("t"), "the others may nothing");
    }

    #[test]
    fn a_topic_that_cannot_be_is_named_with_what_to_write() {
        for (topic, what) in [
            ("", "is empty"),
            ("a/#/b", "no topic level"),
            ("a/b+", "no topic level"),
            ("a/{device}", "there are `{user}`"),
            ("a/{user", "without `}`"),
        ] {
            let (index, said) = rights(&[(None, "ok"), (None, topic)]).expect_err(topic);
            assert!(index == 1 && said.contains(what), "{topic}: {said}");
        }
    }
}
