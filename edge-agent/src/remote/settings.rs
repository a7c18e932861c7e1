//! What the twin can change here: read from its desired properties as one set, which is applied whole or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value as Json;
use shared::config::Span;
use shared::rules::Rule;

use super::document::Section;
use super::level;
use crate::sensors::Sensor;

/// What is logged.
pub const LOG_LEVEL: &str = "log-level";
/// What is expected of values.
pub const RULES: &str = "rules";
/// How long something waits, and how often something is done.
pub const INTERVALS: &str = "intervals";
/// All of them.
pub const NAMES: [&str; 3] = [LOG_LEVEL, RULES, INTERVALS];

/// Each message is judged by every rule.
const RULES_MAX: usize = 500;
/// As in the configuration.
const LINGER_MAX: Duration = Duration::from_secs(3_600);
/// Of devices, so many are named where there is no such.
const TOLD_MAX: usize = 10;
/// The hub takes texts of 4 KB in reported properties. What is desired may be longer, and stands in the reason.
const WHY_BYTES_MAX: usize = 1_500;

/// The devices as which this gateway's own sensors count: by these a set names them. (What sensors are called in logs and
/// metrics holds blanks, which no name in a twin may.)
pub type Devices = BTreeSet<String>;

/// A set. What it leaves out is as configured.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// What is logged.
    pub level: Option<String>,
    /// In place of the configured rules.
    pub rules: Option<Vec<Rule>>,
    /// In place of `uplink.linger`.
    pub linger: Option<Duration>,
    /// In place of `every` of the sensors that count as this device.
    pub sensors: BTreeMap<String, Duration>,
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
    #[serde(default)]
    sensors: Option<BTreeMap<String, Option<Span>>>,
}

/// Reads the set, for a gateway with sensors of `devices`.
///
/// # Errors
/// Every property that cannot be: then none of them is to be applied.
pub fn read(desired: &Section, devices: &Devices) -> Result<Settings, Vec<Fault>> {
    let mut faults = vec![];
    let level = one(desired, LOG_LEVEL, &mut faults, level_of);
    let rules = one(desired, RULES, &mut faults, rules_of);
    let intervals = one(desired, INTERVALS, &mut faults, |value| intervals_of(value, devices));
    let (linger, sensors) = intervals.unwrap_or_default();
    if faults.is_empty() { Ok(Settings { level, rules, linger, sensors }) } else { Err(faults) }
}

/// Takes the sensors out that this gateway does not have (any more); gives the devices as which they counted.
pub fn forget_strangers(desired: &mut Section, devices: &Devices) -> Vec<String> {
    let sensors = desired.get_mut(INTERVALS).and_then(|intervals| intervals.get_mut("sensors"));
    let Some(Json::Object(sensors)) = sensors else { return vec![] };
    let strangers: Vec<String> = sensors.keys().filter(|name| !devices.contains(*name)).cloned().collect();
    sensors.retain(|name, _| devices.contains(name));
    strangers
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
        Err(mut why) => {
            if WHY_BYTES_MAX < why.len() {
                why.truncate(why.floor_char_boundary(WHY_BYTES_MAX));
                why.push('…');
            }
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

fn intervals_of(value: &Json, devices: &Devices) -> Result<(Option<Duration>, BTreeMap<String, Duration>), String> {
    let told: Intervals = serde_json::from_value(value.clone()).map_err(|error| {
        format!(
            "they cannot be read ({error}); write e.g. {{\"linger\": \"5s\", \"sensors\": {{\"boiler-1\": \"30s\"}}}}"
        )
    })?;
    let linger = told.linger.map(Span::duration);
    let named = told.sensors.unwrap_or_default();
    let strangers = named.keys().filter(|name| !devices.contains(*name)).collect::<Vec<_>>();
    let wanted = named.iter().filter_map(|(device, every)| Some((device.clone(), every.as_ref()?.duration())));
    let sensors: BTreeMap<String, Duration> = wanted.collect();

    let mut faults = vec![];
    if linger.is_some_and(|linger| LINGER_MAX < linger) {
        faults.push("`linger` must be at most 1h, write e.g. \"5s\"".to_owned());
    }
    if !strangers.is_empty() {
        let there = if devices.is_empty() { "none".to_owned() } else { names(&devices.iter().collect::<Vec<_>>()) };
        faults.push(format!("no sensor of this gateway counts as {}; there are: {there}", names(&strangers)));
    }
    let wrong = sensors.iter().filter_map(|(device, every)| Some((device, Sensor::every_fault(*every)?)));
    faults.extend(wrong.map(|(device, fault)| format!("{}: {fault}", names(&[device]))));
    if faults.is_empty() { Ok((linger, sensors)) } else { Err(faults.join("; ")) }
}

/// As they are told; of very many the first.
fn names(all: &[&String]) -> String {
    let mut told: Vec<String> = all.iter().take(TOLD_MAX).map(|name| format!("`{}`", name.escape_debug())).collect();
    if TOLD_MAX < all.len() {
        told.push(format!("and {} more", all.len() - TOLD_MAX));
    }
    told.join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn section(value: Json) -> Section {
        value.as_object().expect("an object").clone()
    }

    /// For a gateway with these sensors.
    fn read(desired: &Section) -> Result<Settings, Vec<Fault>> {
        super::read(desired, &devices())
    }

    fn devices() -> Devices {
        ["boiler-1", "hall"].map(str::to_owned).into()
    }

    #[test]
    fn a_set_is_read_whole_and_leaves_the_rest_as_configured() {
        let set = section(json!({
            "log-level": "debug",
            "rules": [{ "metric": "temperature", "max": 150, "unit": "Cel" }, { "device": "press-*", "type": "number" }],
            "intervals": { "linger": "5s", "sensors": { "boiler-1": "100ms", "hall": null } },
            "fan": 3,
        }));
        let settings = read(&set).expect("good");
        assert_eq!((settings.level.as_deref(), settings.linger), (Some("debug"), Some(Duration::from_secs(5))));
        assert_eq!(settings.sensors, BTreeMap::from([("boiler-1".to_owned(), Duration::from_millis(100))]));
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
            (json!({ "intervals": { "sensors": { "boiler-1": "99ms" } } }), vec!["intervals"]),
            (json!({ "intervals": { "sensors": { "boiler-1": 30 } } }), vec!["intervals"]),
            (json!({ "intervals": { "sensors": { "boiler-2": "1s" } } }), vec!["intervals"]),
            (json!({ "intervals": { "sensors": { "boiler-2": null } } }), vec!["intervals"]),
            (json!({ "intervals": { "sensors": "1s" } }), vec!["intervals"]),
        ] {
            let faults = read(&section(set.clone())).expect_err("faulty");
            assert_eq!(faults.iter().map(|fault| fault.name).collect::<Vec<_>>(), faulty, "{set}");
        }
    }

    #[test]
    fn a_sensor_that_is_not_there_is_answered_with_those_that_are_and_every_interval_is_judged() {
        let set = json!({ "intervals": { "linger": "2h", "sensors": { "boiler-2": "1s", "hall": "1ms", "boiler-1": "1h" } } });
        let faults = read(&section(set.clone())).expect_err("faulty");
        assert_eq!(
            faults[0].why,
            "`linger` must be at most 1h, write e.g. \"5s\"; no sensor of this gateway counts as `boiler-2`; \
             there are: `boiler-1`, `hall`; `hall`: must be at least 100ms; write e.g. \"10s\""
        );
        let faults = super::read(&section(set), &Devices::new()).expect_err("faulty");
        assert!(faults[0].why.contains("there are: none"), "{faults:?}");
        let many: Section = (0..300).map(|n| (format!("{n}\u{7}{}", "ö".repeat(100)), json!("1s"))).collect();
        for set in [json!({ "intervals": { "sensors": many } }), json!({ "intervals": "x".repeat(4_000) })] {
            let faults = read(&section(set)).expect_err("faulty");
            assert!(faults[0].why.len() < 2_000 && !faults[0].why.contains('\u{7}'), "the hub takes 4 KB: {faults:?}");
        }
    }

    #[test]
    fn what_is_kept_of_a_sensor_that_has_gone_is_left_out_and_the_rest_of_its_set_is_not() {
        let set = json!({ "rules": [], "intervals": { "linger": "1s", "sensors": { "gone": "1s", "hall": "2s" } } });
        let mut set = section(set);
        assert_eq!(forget_strangers(&mut set, &devices()), ["gone"]);
        let settings = read(&set).expect("good");
        assert_eq!((settings.rules, settings.linger), (Some(vec![]), Some(Duration::from_secs(1))));
        assert_eq!(settings.sensors, BTreeMap::from([("hall".to_owned(), Duration::from_secs(2))]));
        for odd in [json!({}), json!({ "intervals": 1 }), json!({ "intervals": { "sensors": [] } })] {
            assert!(forget_strangers(&mut section(odd), &devices()).is_empty());
        }
    }

    proptest! {
        #[test]
        fn no_document_makes_it_panic(text in "\\{\"(log-level|rules|intervals)\":[\\[{]{0,3}\"(min|max|linger|sensors|device)\":(\"?.{0,8}|[0-9e]{1,9})[\\]}]{0,4}") {
            if let Ok(Json::Object(section)) = serde_json::from_str(&text) {
                let _ = read(&section);
            }
        }
    }
}
