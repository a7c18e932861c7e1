//! `[intake.broker]`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use shared::config::{Mistakes, SecretSource, Size, Span};

/// `[intake.broker]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Whether the agent is a client of a broker.
    pub enabled: bool,
    /// The broker's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Must not change from run to run: the broker keeps undelivered messages under it. Default `edge-agent-{gateway}`.
    pub client_id: Option<String>,
    /// User, if the broker wants one.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<SecretSource>,
    /// File that holds it: the same as `password = { file = … }`.
    pub password_file: Option<PathBuf>,
    /// Topic filters, subscribed to at QoS 1.
    pub topics: Vec<String>,
    /// Whether to speak TLS.
    pub tls: bool,
    /// Certificate authorities to trust, PEM. Default: the machine's.
    pub ca_file: Option<PathBuf>,
    /// Time between pings.
    pub keep_alive: Span,
    /// A larger message is refused with its beginning, counted and acknowledged.
    pub max_packet: Size,
    /// QoS 1 messages that may wait for their commit; at this bound the connection is given up for a while, and the
    /// broker keeps them.
    pub unacked_max: u16,
    /// Ceiling of the first wait between attempts.
    pub backoff_min: Span,
    /// Ceiling of all waits between attempts.
    pub backoff_max: Span,
    /// A connection that lasted this long makes the next wait a short one again.
    pub stable: Span,
}

impl Config {
    /// Where the user's password is.
    pub(crate) fn password(&self) -> Option<SecretSource> {
        self.password.clone().or_else(|| self.password_file.clone().map(SecretSource::File))
    }

    pub(in crate::intake) fn check(&self, mistakes: &mut Mistakes) {
        if !self.enabled {
            return;
        }
        let mut limit = |ok: bool, path: &str, what: &str| {
            if !ok {
                mistakes.add(path, what);
            }
        };
        limit(!self.host.is_empty(), "intake.broker.host", "must name the broker, write e.g. \"localhost\"");
        limit(self.port != 0, "intake.broker.port", "must not be 0, write e.g. 1883");
        limit(
            self.client_id.as_ref().is_none_or(|id| !id.is_empty() && !id.starts_with(' ')),
            "intake.broker.client-id",
            "must not be empty: the broker keeps undelivered messages under it; leave it out for the default",
        );
        limit(
            self.password().is_none() || self.user.is_some(),
            "intake.broker.user",
            "a password without a user cannot be sent; write the user's name",
        );
        limit(
            self.password.is_none() || self.password_file.is_none(),
            "intake.broker.password-file",
            "is there beside `password`; write one of the two",
        );
        limit(
            !self.topics.is_empty(),
            "intake.broker.topics",
            "must hold at least one filter, write e.g. [\"telemetry/#\"]",
        );
        for (index, topic) in self.topics.iter().enumerate() {
            limit(
                rumqttc::valid_filter(topic),
                &format!("intake.broker.topics[{index}]"),
                "is no MQTT topic filter; `#` stands alone at the end, `+` alone between two `/`",
            );
            limit(
                levels(topic).next() != Some("$sensors"),
                &format!("intake.broker.topics[{index}]"),
                "is where this gateway's own sensors come; choose another topic",
            );
        }
        limit(
            Duration::from_secs(1) <= self.keep_alive.duration()
                && self.keep_alive.duration() <= Duration::from_secs(65_535),
            "intake.broker.keep-alive",
            "must be from 1s to 65535s, write e.g. \"30s\"",
        );
        limit(1 <= self.unacked_max, "intake.broker.unacked-max", "must be at least 1, write e.g. 1000");
        limit(
            (256..=256 * 1024 * 1024).contains(&self.max_packet.bytes()),
            "intake.broker.max-packet",
            "must be from 256B to 256MiB, write e.g. \"4MiB\"",
        );
        limit(
            !self.backoff_min.duration().is_zero() && self.backoff_min <= self.backoff_max,
            "intake.broker.backoff-min",
            "must be above 0 and at most `backoff-max`, write e.g. \"1s\"",
        );
    }
}

/// The levels of a filter, without what makes it a shared subscription.
fn levels(filter: &str) -> impl Iterator<Item = &str> {
    let shared = filter.starts_with("$share/");
    filter.split('/').skip(if shared { 2 } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_subscription_is_to_what_stands_behind_its_group() {
        for (filter, first) in [
            ("telemetry/#", Some("telemetry")),
            ("$share/g/$sensors/#", Some("$sensors")),
            ("$share/g", None),
            ("#", Some("#")),
        ] {
            assert_eq!(levels(filter).next(), first, "{filter}");
        }
    }
}
