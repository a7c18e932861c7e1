//! Uplink: rows -> Envelopes -> the hub. A row is done on the hub's PUBACK and on nothing else.
//!
//! ```text
//! outbox --rows--> batch::Cutter --Cut--> link::Link (window::Window) --publish--> iothub::Client
//!    ^                                        |                                        |
//!    +------------------ done ----------------+<------------------ PUBACK -------------+
//! ```
//!
//! [`batch`], [`window`] and [`link`] are pure; [`stage`] drives them.

pub mod batch; // rows -> Envelopes

pub mod window; // Envelopes in flight

pub mod link; // offline, catching up, live

mod iothub; // rumqttc, TLS, token or certificate

pub(crate) mod trial; // a connection that carries nothing

mod taken; // out of the outbox and not yet marked

mod stage; // outbox -> iothub -> outbox

mod metrics;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Deserialize;
use shared::config::{Mistakes, Span};
use shared::envelope::{Compression, MESSAGE_BYTES_MAX, METERING_UNIT_BYTES};
use shared::reading::GatewayId;

pub use self::metrics::{Metrics, Status};
pub use self::stage::{Ended, run};

use crate::identity::Identity;
use crate::line::Network;
use crate::outbox::OutboxError;
use crate::trust::TrustError;

/// Azure IoT Hub waits for 1.5 times the keep-alive and at most 1767 s.
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(1177);
/// Bound of `uplink.window`: rumqttc's packet ids are 16 bits, and we want eight of them per Envelope.
const WINDOW_MAX: usize = 8_000;

/// `[uplink]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Envelopes that may be without PUBACK.
    pub window: usize,
    /// How long a row waits for company while the link is live.
    pub linger: Span,
    /// Metering units (4 KB) of an Envelope while the link is live.
    pub units: usize,
    /// Metering units of an Envelope while there is a backlog.
    pub units_behind: usize,
    /// `zstd` or `none`.
    pub compression: Compression,
    /// Time between pings.
    pub keep_alive: Span,
    /// TCP, TLS and CONNACK must be done in this time.
    pub connect_timeout: Span,
    /// A PUBACK that takes longer ends the connection.
    pub puback_timeout: Span,
    /// How long a token is valid.
    pub token_life: Span,
    /// How long before its end the token is renewed, by a new connection.
    pub token_margin: Span,
    /// Ceiling of the first wait between attempts.
    pub backoff_min: Span,
    /// Ceiling of all waits between attempts.
    pub backoff_max: Span,
    /// A connection that lasted this long makes the next wait a short one again.
    pub stable: Span,
    /// On stop, how long held rows are still sent while the link is up.
    pub drain: Span,
}

impl Config {
    /// Limits between settings; paths are those of the whole configuration.
    pub fn check(&self, mistakes: &mut Mistakes) {
        let mut limit = |ok: bool, path: &str, what: &str| {
            if !ok {
                mistakes.add(path, what);
            }
        };
        let units_max = MESSAGE_BYTES_MAX / METERING_UNIT_BYTES;
        let seconds = Duration::from_secs;
        limit((1..=WINDOW_MAX).contains(&self.window), "uplink.window", "must be from 1 to 8000, write e.g. 100");
        limit(self.linger.duration() <= seconds(3600), "uplink.linger", "must be at most 1h, write e.g. \"500ms\"");
        limit((1..=units_max).contains(&self.units), "uplink.units", "must be from 1 to 64, write e.g. 1");
        limit(
            (1..=units_max).contains(&self.units_behind),
            "uplink.units-behind",
            "must be from 1 to 64, write e.g. 8",
        );
        limit(
            (seconds(1)..=KEEP_ALIVE_MAX).contains(&self.keep_alive.duration()),
            "uplink.keep-alive",
            "must be from 1s to 1177s, which is what the hub allows; write e.g. \"60s\"",
        );
        limit(
            seconds(1) <= self.connect_timeout.duration(),
            "uplink.connect-timeout",
            "must be at least 1s, write e.g. \"60s\"",
        );
        limit(
            seconds(1) <= self.puback_timeout.duration(),
            "uplink.puback-timeout",
            "must be at least 1s, write e.g. \"60s\"",
        );
        limit(
            self.token_margin < self.token_life,
            "uplink.token-margin",
            "must be shorter than `token-life`, write e.g. \"5m\"",
        );
        limit(
            !self.backoff_min.duration().is_zero() && self.backoff_min <= self.backoff_max,
            "uplink.backoff-min",
            "must be above 0 and at most `backoff-max`, write e.g. \"1s\"",
        );
    }
}

/// The hub, and who we are there.
#[derive(Debug, Clone)]
pub struct HubTarget {
    /// The hub's name, as in the connection string; it stands in the user name and the token.
    pub hub: String,
    /// Our device id.
    pub gateway: GatewayId,
    /// Our key, or our certificate.
    pub identity: Identity,
    /// The host to dial; mostly the hub's name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its port for MQTT in WebSocket messages.
    pub websocket_port: u16,
    /// Which ways may be taken, and through which proxy.
    pub network: Network,
    /// Certificate authorities to trust, PEM; without it the machine's.
    pub ca_file: Option<PathBuf>,
    /// False only in tests on loopback.
    pub tls: bool,
    /// Of a hub that was assigned: from when on it is worth asking again which one is ours, if this one refuses us.
    pub ask_again_at: Option<Instant>,
}

/// The uplink cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// No certificate authority can be had.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The outbox cannot be read or written.
    #[error("send what the outbox holds: {0}")]
    Outbox(#[from] OutboxError),
}
