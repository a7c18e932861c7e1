//! What is expected of a measurement, and what is said when it is not met.
//!
//! A reason is `kind: detail`; the kinds are `type`, `unit`, `missing-value`, `range`, `required`, `age`, `ahead`, `skew`
//! and, from reading the payload, `payload`, `too-large`, `name`, `time`, `number`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::reading::Value;
use crate::time::Timestamp;

/// The type a rule asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A number.
    Number,
    /// `true` or `false`.
    Bool,
    /// A text.
    Text,
}

/// What is expected of the metrics it fits. A field left out asks for nothing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Rule {
    /// Devices it fits; `*` stands for any run of characters.
    pub device: Option<String>,
    /// Metrics it fits; `*` stands for any run of characters.
    pub metric: Option<String>,
    /// The type; left out beside `metric` and `min` or `max` it is a number.
    pub r#type: Option<Kind>,
    /// Every payload of a device it fits must hold this metric (which then has no `*`).
    pub required: bool,
    /// Least value. Where a metric is named, what is no number is refused.
    pub min: Option<f64>,
    /// Greatest value. Where a metric is named, what is no number is refused.
    pub max: Option<f64>,
    /// The unit: given to values without one; a value with another one is refused.
    pub unit: Option<String>,
    /// Values that stand for "no value".
    pub missing_values: Vec<f64>,
}

impl Rule {
    /// True if the rule speaks about this metric of this device.
    pub fn fits(&self, device: &str, metric: &str) -> bool {
        self.fits_device(device) && self.metric.as_deref().is_none_or(|pattern| glob(pattern, metric))
    }

    /// True if the rule speaks about this device.
    pub fn fits_device(&self, device: &str) -> bool {
        self.device.as_deref().is_none_or(|pattern| glob(pattern, device))
    }

    /// What is wrong with the rule itself, each as the key it stands under and what to write; empty if nothing is.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = vec![];
        if let (Some(min), Some(max)) = (self.min, self.max)
            && max < min
        {
            faults.push(("min", format!("{min} is above max, which is {max}; no value could pass")));
        }
        for (key, limit) in [("min", self.min), ("max", self.max)] {
            if limit.is_some_and(f64::is_nan) {
                faults.push((key, "is not a number; write e.g. -40.0".to_owned()));
            }
        }
        if self.required && self.metric.as_deref().unwrap_or("*").contains('*') {
            faults.push((
                "metric",
                "must name one metric where `required = true`; write it without `*`, e.g. \"temperature\"".to_owned(),
            ));
        }
        if self.is_ranged() && self.r#type.is_some_and(|kind| kind != Kind::Number) {
            faults.push(("type", "has no range; leave out `min` and `max`, or write type = \"number\"".to_owned()));
        }
        faults
    }

    fn is_ranged(&self) -> bool {
        self.min.is_some() || self.max.is_some()
    }

    /// Adds what speaks against `value`; gives it the rule's unit if it has none.
    pub fn judge(&self, value: &Value, unit: &mut Option<String>, reasons: &mut Vec<String>) {
        // "900" as a text is no way around a greatest value. A rule for all that a device sends is for its numbers.
        let implied = (self.is_ranged() && self.metric.is_some()).then_some(Kind::Number);
        if let Some(kind) = self.r#type.or(implied) {
            let fits = matches!(
                (kind, value),
                (Kind::Number, Value::Number(_)) | (Kind::Bool, Value::Bool(_)) | (Kind::Text, Value::Text(_))
            );
            if !fits {
                let kind = match kind {
                    Kind::Number => "number",
                    Kind::Bool => "bool",
                    Kind::Text => "text",
                };
                let why = if self.r#type.is_none() { ", and `min` or `max` asks for one" } else { "" };
                reasons.push(format!("type: {value} is no {kind}{why}"));
            }
        }
        match (&self.unit, unit.as_ref()) {
            (Some(wanted), None) => *unit = Some(wanted.clone()),
            (Some(wanted), Some(got)) if wanted != got => reasons.push(format!("unit: {got} instead of {wanted}")),
            _ => {}
        }
        let Value::Number(number) = value else { return };
        let shown = |limit: f64| unit.as_ref().map_or(limit.to_string(), |unit| format!("{limit} {unit}"));
        if self.missing_values.contains(number) {
            reasons.push(format!("missing-value: {number}"));
        } else if let Some(min) = self.min.filter(|min| number < min) {
            reasons.push(format!("range: {number} < {}", shown(min)));
        } else if let Some(max) = self.max.filter(|max| max < number) {
            reasons.push(format!("range: {number} > {}", shown(max)));
        }
    }
}

/// Metrics that every payload of `device` must hold and one without those that `holds` names does not; in order, none
/// twice.
pub fn missing<'r>(rules: &'r [Rule], device: &str, holds: impl Fn(&str) -> bool) -> Vec<&'r str> {
    let required = rules.iter().filter(|rule| rule.required && rule.fits_device(device));
    let mut missing: Vec<&str> =
        required.filter_map(|rule| rule.metric.as_deref()).filter(|metric| !holds(metric)).collect();
    missing.sort_unstable();
    missing.dedup();
    missing
}

/// How far an event time may be from the time it is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeWindow {
    /// How much older.
    pub max_age: Duration,
    /// How much newer.
    pub max_ahead: Duration,
}

impl TimeWindow {
    /// The defaults of silver: 400 days back, one hour ahead.
    pub const SILVER: TimeWindow =
        TimeWindow { max_age: Duration::from_secs(400 * 86_400), max_ahead: Duration::from_secs(3_600) };

    /// Why `event` is refused beside `reference`, if it is.
    pub fn judge(&self, event: Timestamp, reference: Timestamp) -> Option<String> {
        if event < reference.minus(self.max_age) {
            Some(format!("age: {event} is more than {} before {reference}", seconds(self.max_age)))
        } else if reference.plus(self.max_ahead) < event {
            Some(format!("ahead: {event} is more than {} after {reference}", seconds(self.max_ahead)))
        } else {
            None
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

/// The digest by which rules are named: the first 16 hex digits of the SHA-256 of their text.
pub fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The canonical text of some rules, from which their digest is made.
pub fn canonical(rules: &[Rule], settings: &BTreeMap<String, String>) -> String {
    serde_json::to_string(&(rules, settings)).expect("rules are plain data")
}

/// True if `text` fits `pattern`, in which `*` stands for any run of characters.
pub fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> Rule {
        Rule {
            r#type: Some(Kind::Number),
            min: Some(-40.0),
            max: Some(150.0),
            unit: Some("Cel".into()),
            missing_values: vec![-200.0],
            ..Rule::default()
        }
    }

    #[test]
    fn a_value_is_refused_with_all_its_reasons() {
        for (value, unit, expected) in [
            (Value::Number(21.5), None, vec![]),
            (Value::Number(900.0), Some("Cel"), vec!["range: 900 > 150 Cel"]),
            (Value::Number(-41.0), Some("K"), vec!["unit: K instead of Cel", "range: -41 < -40 K"]),
            (Value::Number(-200.0), None, vec!["missing-value: -200"]),
            (Value::Bool(true), None, vec!["type: true is no number"]),
            (Value::Text("hot".into()), Some("K"), vec!["type: \"hot\" is no number", "unit: K instead of Cel"]),
        ] {
            let (mut unit, mut reasons) = (unit.map(str::to_owned), Vec::new());
            rule().judge(&value, &mut unit, &mut reasons);
            assert_eq!(reasons, expected, "{value}");
            assert!(unit.is_some());
        }
    }

    #[test]
    fn the_range_of_a_metric_asks_for_a_number_whether_the_type_says_so_or_not() {
        let ranges = [(Some(0.0), None), (None, Some(150.0)), (Some(0.0), Some(150.0))];
        for (min, max) in ranges {
            let rule = Rule { metric: Some("temp*".into()), min, max, ..Rule::default() };
            for (value, expected) in [
                (Value::Number(21.5), None),
                (Value::Text("21.5".into()), Some("type: \"21.5\" is no number, and `min` or `max` asks for one")),
                (Value::Text("900".into()), Some("type: \"900\" is no number, and `min` or `max` asks for one")),
                (Value::Bool(true), Some("type: true is no number, and `min` or `max` asks for one")),
            ] {
                let mut reasons = Vec::new();
                rule.judge(&value, &mut None, &mut reasons);
                assert_eq!(reasons.first().map(String::as_str), expected, "{min:?} to {max:?}: {value}");
            }
        }
        let mut reasons = Vec::new();
        let rule = Rule { max: Some(150.0), ..Rule::default() };
        rule.judge(&Value::Text("900".into()), &mut None, &mut reasons);
        assert!(reasons.is_empty(), "it may be about another metric than this: {reasons:?}");
        let rule = Rule { unit: Some("Cel".into()), missing_values: vec![-200.0], ..Rule::default() };
        rule.judge(&Value::Text("900".into()), &mut None, &mut reasons);
        assert!(reasons.is_empty(), "without a range and a type any value will do: {reasons:?}");
    }

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("press-*", "press-3", true),
            ("press-*", "pump-3", false),
            ("*(GT)", "CO(GT)", true),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "acb", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn the_time_window_includes_its_ends() {
        let at = Timestamp::from_micros(1_000_000_000_000_000);
        let window = TimeWindow { max_age: Duration::from_secs(10), max_ahead: Duration::from_secs(5) };
        for (offset_s, fits) in [(-10, true), (-11, false), (5, true), (6, false)] {
            let event = Timestamp::from_micros(at.micros() + offset_s * 1_000_000);
            assert_eq!(window.judge(event, at).is_none(), fits, "{offset_s}");
        }
        assert!(window.judge(Timestamp::from_micros(i64::MIN), at).is_some());
        assert!(window.judge(Timestamp::from_micros(i64::MAX), at).is_some());
    }
}
