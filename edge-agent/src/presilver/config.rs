//! `[presilver]`.

use serde::Deserialize;
use shared::config::{Check, Mistakes, Span};
use shared::rules::Rule;

use super::mapping::Mapping;
use super::mapping::plan::Plan;

/// What is expected of messages, and how they are read.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// When the gateway's own clock counts as known good.
    pub clock: ClockTrust,
    /// How far ahead of the gateway's clock a payload's own time may be, while that clock is known good.
    pub max_ahead: Option<Span>,
    /// How far behind the gateway's clock a payload's own time may be, while that clock is known good.
    pub max_age: Option<Span>,
    /// How payloads are read: the first mapping whose topic fits.
    pub mapping: Vec<Mapping>,
    /// What is expected of values: all rules that fit. None by default.
    #[serde(default)]
    pub rule: Vec<Rule>,
}

/// When the gateway's own clock counts as known good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClockTrust {
    /// Always: the machine has a battery-backed clock, or is set by other means.
    Trusted,
    /// When the year is plausible and, where systemd-timesyncd runs, it says that the clock is set.
    Auto,
}

impl Check for Config {
    fn check(&self, mistakes: &mut Mistakes) {
        if self.mapping.is_empty() {
            mistakes.add("presilver.mapping", "is empty: no message could be read; leave it out for the default");
        }
        for (index, mapping) in self.mapping.iter().enumerate() {
            let at = format!("presilver.mapping[{index}]");
            for (key, fault) in Plan::new(mapping).err().unwrap_or_default() {
                mistakes.add(format!("{at}.{key}"), fault);
            }
        }
        for (index, rule) in self.rule.iter().enumerate() {
            for (key, fault) in rule.faults() {
                mistakes.add(format!("presilver.rule[{index}].{key}"), fault);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_about_mappings_and_rules_is_found_at_once() {
        let layers = shared::config::Layers { default: crate::config::DEFAULT, env_prefix: "EDGE" };
        let text = r#"
            [[presilver.mapping]]
            topic = "a/{x}/#/b"
            [[presilver.mapping]]
            topic = "a/{device}"
            format = "value"
            [[presilver.mapping]]
            topic = "b/{device}"
            device = "{who}"
            metric = "m"
            [[presilver.rule]]
            required = true
            min = 2.0
            max = 1.0
        "#;
        let errors =
            shared::config::load_from::<WholeLoose>(&layers, Some(("edge.toml", text)), &[]).expect_err("mistakes");
        let paths: Vec<_> = errors.mistakes().iter().map(|mistake| mistake.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "presilver.mapping[0].topic",
                "presilver.mapping[1].metric",
                "presilver.mapping[2].device",
                "presilver.mapping[2].metric",
                "presilver.rule[0].metric",
                "presilver.rule[0].min"
            ],
            "{errors}"
        );
    }

    /// The other sections are not looked at here.
    #[derive(Debug, Deserialize)]
    struct WholeLoose {
        presilver: Config,
        #[serde(flatten)]
        _rest: std::collections::BTreeMap<String, serde::de::IgnoredAny>,
    }

    impl Check for WholeLoose {
        fn check(&self, mistakes: &mut Mistakes) {
            self.presilver.check(mistakes);
        }
    }
}
