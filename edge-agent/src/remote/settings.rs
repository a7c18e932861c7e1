//! What the twin can change here: read from its desired properties as one set, which is applied whole or not at all.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value as Json;
use shared::config::Span;
use shared::rules::Rule;

use super::document::Section;
use super::level;

/// What is logged.
pub const LOG_LEVEL: &str = "log-level";
/// What is expected of values.
pub const RULES: &str = "rules";
/// How long something waits.
pub const INTERVALS: &str = "intervals";
/// All of them.
pub const NAMES: [&str; 3] = [LOG_LEVEL, RULES, INTERVALS];

/// Each message is judged by every rule.
const RULES_MAX: usize = 500;
/// As in the configuration.
const LINGER_MAX: Duration = Duration::from_secs(3_600);

/// A set. What it leaves out is as configured.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// What is logged.
    pub level: Option<String>,
    /// In place of the configured rules.
    pub rules: Option<Vec<Rule>>,
    /// In place of `uplink.linger`.
    pub linger: Option<Duration>,
}

/// A property that cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which.
    pub name: &'static str,
    /// Why, and what to write.
    pub why: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Intervals {
    #[serde(default)]
    linger: Option<Span>,
}

/// Reads the set.
///
/// # Errors
/// Every property that cannot be: then none of them is to be applied.
pub fn read(desired: &Section) -> Result<Settings, Vec<Fault>> {
    let mut faults = vec![];
    let level = one(desired, LOG_LEVEL, &mut faults, level_of);
    let rules = one(desired, RULES, &mut faults, rules_of);
    let linger = one(desired, INTERVALS, &mut faults, linger_of).flatten();
    if faults.is_empty() { Ok(Settings { level, rules, linger }) } else { Err(faults) }
}

/// What of a document is ours.
pub fn known(desired: &Section) -> Section {
    let ours = desired.iter().filter(|(name, _)| NAMES.contains(&name.as_str()));
    ours.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn one<T>(
    desired: &Section,
    name: &'static str,
    faults: &mut Vec<Fault>,
    read: impl FnOnce(&Json) -> Result<T, String>,
) -> Option<T> {
    match read(desired.get(name)?) {
        Ok(value) => Some(value),
        Err(why) => {
            faults.push(Fault { name, why });
            None
        }
    }
}

fn level_of(value: &Json) -> Result<String, String> {
    let level = value.as_str().ok_or("it is no text; write e.g. \"debug\"")?;
    level::check(level).map(|()| level.to_owned())
}

fn rules_of(value: &Json) -> Result<Vec<Rule>, String> {
    let rules: Vec<Rule> = serde_json::from_value(value.clone()).map_err(|error| {
        format!("they cannot be read ({error}); write e.g. [{{\"metric\": \"temperature\", \"max\": 150}}], as [[presilver.rule]]")
    })?;
    if RULES_MAX < rules.len() {
        return Err(format!("{} rules, at most {RULES_MAX} are taken", rules.len()));
    }
    for (at, rule) in rules.iter().enumerate() {
        if let Some((key, fault)) = rule.faults().first() {
            return Err(format!("rule {at}: `{key}` {fault}"));
        }
    }
    Ok(rules)
}

fn linger_of(value: &Json) -> Result<Option<Duration>, String> {
    let told: Intervals = serde_json::from_value(value.clone())
        .map_err(|error| format!("they cannot be read ({error}); write e.g. {{\"linger\": \"5s\"}}"))?;
    match told.linger.map(Span::duration) {
        Some(linger) if LINGER_MAX < linger => Err("`linger` must be at most 1h, write e.g. \"5s\"".to_owned()),
        linger => Ok(linger),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn section(value: Json) -> Section {
        value.as_object().expect("an object").clone()
    }

    #[test]
    fn a_set_is_read_whole_and_leaves_the_rest_as_configured() {
        let set = section(json!({
            "log-level": "debug",
            "rules": [{ "metric": "temperature", "max": 150, "unit": "Cel" }, { "device": "press-*", "type": "number" }],
            "intervals": { "linger": "5s" },
            "fan": 3,
        }));
        let settings = read(&set).expect("good");
        assert_eq!((settings.level.as_deref(), settings.linger), (Some("debug"), Some(Duration::from_secs(5))));
        let rules = settings.rules.expect("rules");
        assert_eq!((rules.len(), rules[0].max, rules[1].device.as_deref()), (2, Some(150.0), Some("press-*")));
        assert_eq!(known(&set).len(), 3);
        assert_eq!(read(&section(json!({}))), Ok(Settings::default()));
        assert_eq!(read(&section(json!({ "rules": [], "intervals": {} }))).expect("good").rules, Some(vec![]));
    }

    #[test]
    fn everything_that_cannot_be_is_named_at_once() {
        let many: Vec<Json> = (0..501).map(|_| json!({})).collect();
        for (set, faulty) in [
            (json!({ "log-level": 3, "rules": {}, "intervals": 1 }), vec!["log-level", "rules", "intervals"]),
            (json!({ "log-level": "info", "rules": [{ "maximum": 1 }] }), vec!["rules"]),
            (json!({ "rules": [{ "min": 3, "max": 2 }] }), vec!["rules"]),
            (json!({ "rules": [{ "required": true }] }), vec!["rules"]),
            (json!({ "rules": many }), vec!["rules"]),
            (json!({ "intervals": { "linger": "2h" } }), vec!["intervals"]),
            (json!({ "intervals": { "linger": "soon" } }), vec!["intervals"]),
            (json!({ "intervals": { "lingre": "1s" } }), vec!["intervals"]),
        ] {
            let faults = read(&section(set.clone())).expect_err("faulty");
            assert_eq!(faults.iter().map(|fault| fault.name).collect::<Vec<_>>(), faulty, "{set}");
        }
    }

    proptest! {
        #[test]
        fn no_document_makes_it_panic(text in "\\{\"(log-level|rules|intervals)\":[\\[{]{0,3}\"(min|max|linger|device)\":(\"?.{0,8}|[0-9e]{1,9})[\\]}]{0,4}") {
            if let Ok(Json::Object(section)) = serde_json::from_str(&text) {
                let _ = read(&section);
            }
        }
    }
}
