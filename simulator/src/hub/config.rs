//! The table `[hub]`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use shared::config::{Mistakes, Size, Span};
use tokio_util::sync::CancellationToken;

use super::changes::Source;
use super::commands::CommandLimits;
use super::faults::Rule;
use super::limits;
use crate::gate::{Books, Gate};

/// How a hub is set up; `default.toml` explains each key.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Name of the Event-Hubs-compatible endpoint.
    pub name: String,
    /// Name devices present.
    pub host_name: String,
    /// Everything the hub keeps.
    pub data_dir: PathBuf,
    /// Devices dial this.
    pub mqtt_listen: SocketAddr,
    /// Services dial this, without TLS.
    pub amqp_listen: SocketAddr,
    /// Services dial this, with TLS.
    #[serde(default)]
    pub amqps_listen: Option<SocketAddr>,
    /// Services dial this, with AMQP in WebSocket messages in TLS.
    #[serde(default)]
    pub amqp_websocket_listen: Option<SocketAddr>,
    /// Services dial this for the REST API, devices for MQTT in WebSocket messages; both in TLS.
    #[serde(default)]
    pub https_listen: Option<SocketAddr>,
    /// Consumer groups beside `$Default`, which is always there.
    pub consumer_groups: Vec<String>,
    /// More names for the server's certificate.
    pub server_names: Vec<String>,
    /// Partitions of a new log.
    pub partitions: u32,
    /// Age at which events are given up.
    #[serde(default)]
    pub retention_time: Option<Span>,
    /// Size above which events are given up.
    #[serde(default)]
    pub retention_size: Option<Size>,
    /// Devices registered at start.
    pub devices: Vec<String>,
    /// Files with authorities that may sign devices' certificates, beside the hub's own.
    pub device_cas: Vec<PathBuf>,
    /// Keys and certificates, if not in the data directory.
    #[serde(default)]
    pub identity_dir: Option<PathBuf>,
    /// The registry's file.
    #[serde(default)]
    pub registry: Option<PathBuf>,
    /// False leaves fsyncs of events out.
    pub fsync: bool,
    /// Of which of its own doings the hub tells on the Event-Hubs endpoint.
    pub event_sources: Vec<Source>,
    /// Limits of the device side.
    pub mqtt: MqttLimits,
    /// How long commands live.
    pub commands: CommandsConfig,
    /// Limits of the service side.
    pub amqp: AmqpLimits,
    /// Limits of the REST API's port.
    pub https: HttpsLimits,
    /// Throttles and quota.
    pub limits: limits::Config,
    /// Scripted misfortune.
    #[serde(default)]
    pub faults: Vec<Rule>,
    /// Health, metrics, status.
    pub http: Http,
}

/// The table `[hub.mqtt]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct MqttLimits {
    /// Connections at once.
    pub connections_max: usize,
    /// For TLS and CONNECT.
    pub connect_timeout: Span,
    /// For the rest of a packet that has begun.
    pub packet_timeout: Span,
    /// Publishes of one connection on their way to disk.
    pub unacknowledged_max: usize,
    /// So long after its end a token still lets a device in.
    pub clock_skew: Span,
}

/// The table `[hub.commands]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CommandsConfig {
    /// Of a command that does not say when it expires.
    pub time_to_live: Span,
    /// So often a command is given to its device.
    pub max_delivery_count: u32,
    /// So long a device has for it each time.
    pub lock_duration: Span,
    /// Of feedback.
    pub feedback_time_to_live: Span,
    /// So often feedback is given.
    pub feedback_max_delivery_count: u32,
    /// So long a service has for it each time.
    pub feedback_lock_duration: Span,
}

impl CommandsConfig {
    /// As the store wants them.
    pub fn limits(&self) -> CommandLimits {
        CommandLimits {
            time_to_live: self.time_to_live.duration(),
            max_delivery_count: self.max_delivery_count,
            lock_duration: self.lock_duration.duration(),
            feedback_time_to_live: self.feedback_time_to_live.duration(),
            feedback_lock_duration: self.feedback_lock_duration.duration(),
            feedback_max_delivery_count: self.feedback_max_delivery_count,
        }
    }

    fn check(&self, mistakes: &mut Mistakes) {
        for (key, count) in [
            ("max-delivery-count", self.max_delivery_count),
            ("feedback-max-delivery-count", self.feedback_max_delivery_count),
        ] {
            mistakes.ensure((1..=100).contains(&count), key, "must be 1 to 100, write e.g. 10");
        }
        for (key, span, least, most, fault) in [
            ("time-to-live", self.time_to_live, 1, 172_800, "must be from a second to 2 days, write e.g. \"1h\""),
            ("feedback-time-to-live", self.feedback_time_to_live, 1, 172_800, "must be from a second to 2 days"),
            ("lock-duration", self.lock_duration, 1, 300, "must be from a second to 5 minutes, write e.g. \"60s\""),
            ("feedback-lock-duration", self.feedback_lock_duration, 1, 300, "must be from a second to 5 minutes"),
        ] {
            mistakes.ensure((least..=most).contains(&span.duration().as_secs()), key, fault);
        }
    }
}

/// The table `[hub.amqp]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AmqpLimits {
    /// Connections of one port at once.
    pub connections_max: usize,
    /// For TLS, for WebSocket, and for SASL and `open`, each.
    pub connect_timeout: Span,
    /// For a silent peer.
    pub silence: Span,
}

impl AmqpLimits {
    /// As the service side wants them.
    pub fn limits(&self) -> super::amqp::Limits {
        super::amqp::Limits {
            connections_max: self.connections_max,
            handshake: self.connect_timeout.duration(),
            silence: self.silence.duration(),
        }
    }
}

/// The table `[hub.https]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct HttpsLimits {
    /// Connections at once, those of devices over WebSocket too.
    pub connections_max: usize,
    /// For TLS.
    pub connect_timeout: Span,
    /// For the head of a request to come, of the next one too.
    pub idle_timeout: Span,
}

impl HttpsLimits {
    /// As the port sees them.
    pub(super) fn gate(&self, books: Books, stop: CancellationToken) -> Gate {
        Gate {
            whom: "services and devices over WebSocket",
            connections_max: self.connections_max,
            connect_timeout: self.connect_timeout.duration(),
            books,
            stop,
        }
    }
}

/// The table `[hub.http]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Http {
    /// Where.
    pub listen: SocketAddr,
}

impl Config {
    /// Where the events lie.
    pub fn log_dir(&self) -> PathBuf {
        self.data_dir.join("log")
    }

    /// Where keys and certificates lie; it stays when the events are deleted.
    pub fn identity_dir(&self) -> PathBuf {
        self.identity_dir.clone().unwrap_or_else(|| self.data_dir.join("identity"))
    }

    /// The registry's file.
    pub fn registry_file(&self) -> PathBuf {
        self.registry.clone().unwrap_or_else(|| self.identity_dir().join("devices.toml"))
    }

    /// Where the device side keeps what outlives a connection.
    pub fn sessions_file(&self) -> PathBuf {
        self.data_dir.join("sessions.jsonl")
    }

    /// When devices came, went, and were heard.
    pub fn seen_file(&self) -> PathBuf {
        self.data_dir.join("seen.jsonl")
    }

    /// Twins that were ever written to.
    pub fn twins_file(&self) -> PathBuf {
        self.data_dir.join("twins.jsonl")
    }

    /// Commands that wait, and what became of others.
    pub fn commands_file(&self) -> PathBuf {
        self.data_dir.join("commands.jsonl")
    }

    /// Scheduled jobs.
    pub fn jobs_file(&self) -> PathBuf {
        self.data_dir.join("jobs.jsonl")
    }

    /// Every address the hub listens on.
    pub fn listens(&self) -> Vec<SocketAddr> {
        let always = [self.mqtt_listen, self.amqp_listen, self.http.listen];
        always.into_iter().chain(self.amqps_listen).chain(self.amqp_websocket_listen).chain(self.https_listen).collect()
    }

    /// Adds what cannot be used as it stands.
    pub fn check(&self, mistakes: &mut Mistakes) {
        let hub = !self.name.is_empty()
            && self.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        mistakes.ensure(hub, "name", "must be letters, digits, `-`, `_` and `.`, write e.g. \"local-hub\"");
        let host = !self.host_name.is_empty() && !self.host_name.contains(['/', ';', '=', ' ', '?']);
        mistakes.ensure(host, "host-name", "must be a host name, write e.g. \"local-hub.azure-devices.net\"");
        mistakes.ensure(!self.data_dir.as_os_str().is_empty(), "data-dir", "must not be empty, write e.g. \"hub\"");
        mistakes.ensure((1..=32).contains(&self.partitions), "partitions", "must be 1 to 32, write e.g. 4");
        let loopback = self.amqp_listen.ip().is_loopback();
        mistakes.ensure(
            loopback,
            "amqp-listen",
            "is without TLS and must be an address of this machine alone, write e.g. \"127.0.0.1:5672\"; \
             for others there is `amqps-listen`",
        );
        if self.retention_size.is_some_and(|size| size.bytes() < 1024 * 1024) {
            mistakes.add("retention-size", "must be at least 1 MiB, write e.g. \"16GiB\"");
        }
        if self.retention_time.is_some_and(|time| time.duration().as_secs() < 1) {
            mistakes.add("retention-time", "must be at least a second, write e.g. \"7d\"");
        }
        let listens: Vec<_> = self.listens().into_iter().filter(|addr| addr.port() != 0).collect();
        let distinct: BTreeSet<_> = listens.iter().collect();
        mistakes.ensure(
            distinct.len() == listens.len(),
            "mqtt-listen",
            "and `amqp-listen`, `amqps-listen`, `amqp-websocket-listen`, `https-listen`, `http.listen` must differ",
        );
        for (at, group) in self.consumer_groups.iter().enumerate() {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            let fits = (1..=50).contains(&group.len()) && group.bytes().all(allowed);
            let fault = "must be \"$Default\", or 1 to 50 ASCII letters, digits, `-`, `_` and `.`";
            mistakes.ensure(fits || group == super::amqp::DEFAULT_GROUP, format!("consumer-groups[{at}]"), fault);
        }
        for (at, device) in self.devices.iter().enumerate() {
            if let Some(fault) = super::devices::id_fault(device) {
                mistakes.add(format!("devices[{at}]"), fault);
            }
        }
        // The hub's own is one of them.
        let few = self.device_cas.len() < super::mqtt::AUTHORITIES_MAX;
        mistakes.ensure(few, "device-cas", "must be at most 24 files, as the service takes 25 with the hub's own");
        mistakes.within("limits", |mistakes| self.limits.check(mistakes));
        mistakes.within("commands", |mistakes| self.commands.check(mistakes));
        for (at, rule) in self.faults.iter().enumerate() {
            mistakes.within(&format!("faults[{at}]"), |mistakes| rule.check(self.partitions, mistakes));
        }
        mistakes.within("amqp", |mistakes| {
            let silence = self.amqp.silence.duration().as_secs();
            mistakes.ensure(0 < self.amqp.connections_max, "connections-max", "must be at least 1, write e.g. 1000");
            // The peer is told half of it, in milliseconds of 32 bits.
            let fits = (1..=3600).contains(&silence);
            mistakes.ensure(fits, "silence", "must be from a second to an hour, write e.g. \"2m\"");
        });
        mistakes.within("https", |mistakes| {
            let limits = &self.https;
            mistakes.ensure(0 < limits.connections_max, "connections-max", "must be at least 1, write e.g. 1000");
            let fits = 1 <= limits.idle_timeout.duration().as_secs();
            mistakes.ensure(fits, "idle-timeout", "must be at least a second, write e.g. \"60s\"");
        });
        mistakes.within("mqtt", |mistakes| {
            let limits = &self.mqtt;
            mistakes.ensure(0 < limits.connections_max, "connections-max", "must be at least 1, write e.g. 10000");
            let window = (1..=65_535).contains(&limits.unacknowledged_max);
            mistakes.ensure(window, "unacknowledged-max", "must be 1 to 65535, write e.g. 256");
        });
    }
}
