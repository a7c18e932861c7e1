//! The table `[dps]`.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use shared::config::{Mistakes, Span};

/// How a provisioning service is set up; `default.toml` explains each key.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Devices dial this; without it there is no service.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// Devices dial this for MQTT in WebSocket messages.
    #[serde(default)]
    pub websocket_listen: Option<SocketAddr>,
    /// Tells this service from others; part of user names and tokens.
    pub id_scope: String,
    /// A name of the service, to stand in its certificate.
    pub host_name: String,
    /// Everything the service keeps.
    pub data_dir: PathBuf,
    /// The enrolments' file.
    #[serde(default)]
    pub enrolments: Option<PathBuf>,
    /// More names for the server's certificate.
    pub server_names: Vec<String>,
    /// Hubs of other processes; none: those of this one.
    pub hubs: Vec<Elsewhere>,
    /// What devices are told to wait before they ask again.
    pub retry_after: Span,
    /// So many pass in a minute, and at once.
    pub registrations_per_minute: u32,
    /// Limits of connections.
    pub mqtt: Limits,
    /// Health, metrics, status.
    pub http: Http,
}

/// A hub of another process, which sees its registry change.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Elsewhere {
    /// What devices are told.
    pub host_name: String,
    /// Its `devices.toml`.
    pub registry: PathBuf,
}

/// The table `[dps.mqtt]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Limits {
    /// Connections at once, at each port.
    pub connections_max: usize,
    /// For TLS and CONNECT; and as long as one stays that no enrolment knows.
    pub connect_timeout: Span,
    /// For the rest of a packet that has begun.
    pub packet_timeout: Span,
}

/// The table `[dps.http]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Http {
    /// Where.
    pub listen: SocketAddr,
}

impl Config {
    /// The enrolments' file.
    pub fn enrolments_file(&self) -> PathBuf {
        self.enrolments.clone().unwrap_or_else(|| self.data_dir.join("enrolments.toml"))
    }

    /// Where registrations are kept.
    pub fn registrations_file(&self) -> PathBuf {
        self.data_dir.join("registrations.jsonl")
    }

    /// Where certificates that were made for enrolments lie.
    pub fn identity_dir(&self) -> PathBuf {
        self.data_dir.join("identity")
    }

    /// Every address the service listens on; none if there is no service.
    pub fn listens(&self) -> Vec<SocketAddr> {
        let beside = |listen| [Some(listen), self.websocket_listen, Some(self.http.listen)].into_iter().flatten();
        self.listen.into_iter().flat_map(beside).collect()
    }

    /// Adds what cannot be used as it stands.
    pub fn check(&self, mistakes: &mut Mistakes) {
        let scope = !self.id_scope.is_empty() && self.id_scope.bytes().all(|byte| byte.is_ascii_alphanumeric());
        mistakes.ensure(scope, "id-scope", "must be letters and digits, write e.g. \"0ne0000CAFE\"");
        let host = |name: &str| !name.is_empty() && !name.contains(['/', ';', '=', ' ', '?']);
        let example = "must be a host name, write e.g. \"local-dps.azure-devices-provisioning.net\"";
        mistakes.ensure(host(&self.host_name), "host-name", example);
        mistakes.ensure(!self.data_dir.as_os_str().is_empty(), "data-dir", "must not be empty, write e.g. \"dps\"");
        for (at, hub) in self.hubs.iter().enumerate() {
            let named = |other: &Elsewhere| other.host_name.eq_ignore_ascii_case(&hub.host_name);
            let once = !self.hubs[..at].iter().any(named);
            let fault = "must be a host name, and another than those before it";
            mistakes.ensure(host(&hub.host_name) && once, format!("hubs[{at}].host-name"), fault);
        }
        let wait = self.retry_after.duration().as_secs();
        mistakes.ensure(wait <= 3_600, "retry-after", "must be at most an hour, write e.g. \"3s\"");
        let rate = 0 < self.registrations_per_minute;
        mistakes.ensure(rate, "registrations-per-minute", "must be at least 1, write e.g. 1000");
        let listens = self.listens();
        let once = |at: usize| listens[at].port() == 0 || !listens[..at].contains(&listens[at]);
        let distinct = (0..listens.len()).all(once);
        mistakes.ensure(distinct, "listen", "and `websocket-listen`, `http.listen` must differ");
        let beside = self.websocket_listen.is_none() || self.listen.is_some();
        mistakes.ensure(beside, "websocket-listen", "stands beside `listen`, write that, too: e.g. \"127.0.0.2:8883\"");
        let some = 0 < self.mqtt.connections_max;
        mistakes.ensure(some, "mqtt.connections-max", "must be at least 1, write e.g. 1000");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = crate::config::Config::load(None).expect("the default").dps;
        change(&mut config);
        let mut mistakes = Mistakes::default();
        config.check(&mut mistakes);
        mistakes.into_iter().map(|(path, message)| format!("{path} {message}")).collect()
    }

    #[test]
    fn the_port_for_websocket_stands_beside_the_other_and_is_another() {
        let at = |port| Some(SocketAddr::from(([127, 0, 0, 2], port)));
        assert!(mistakes(|config| (config.listen, config.websocket_listen) = (at(8883), at(443))).is_empty());
        let alone = mistakes(|config| config.websocket_listen = at(443));
        assert!(matches!(&alone[..], [mistake] if mistake.contains("websocket-listen")), "{alone:?}");
        let twice = mistakes(|config| (config.listen, config.websocket_listen) = (at(443), at(443)));
        assert!(matches!(&twice[..], [mistake] if mistake.contains("must differ")), "{twice:?}");
    }
}
