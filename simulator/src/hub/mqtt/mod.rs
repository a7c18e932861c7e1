//! The device side: MQTT 3.1.1 over TLS.
//!
//! ```text
//! listener --> TLS --> session --auth--> Guest --telemetry--> NewEvent --> log --fsync--> PUBACK
//!                         ^                    └─requests──> twins, methods
//!                         └── hearing <── mailbox, commands
//! ```

mod listener; // who gets in at all

mod connection; // one socket

mod end; // why it ended

mod ended; // tokens that a fault ended

mod underway; // publishes that are not acknowledged yet

mod session; // bytes <-> packets

mod auth; // user name, token and certificate against the registry

mod certificates; // X.509

mod seats; // one connection per device or module

mod seen; // when each was there last

mod mailbox; // what the hub has to say to it

mod sessions; // what outlives a connection

mod requests; // what devices ask about twins and answer to methods

mod twin; // their answers about it

mod filters; // what they are subscribed to

mod hearing; // what they are told

mod telemetry; // topics, properties, sizes

#[cfg(test)]
pub(super) mod tests;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub(crate) use mqtt_protocol_core::mqtt::packet::Qos;
pub(crate) use mqtt_protocol_core::mqtt::result_code::{ConnectReturnCode, SubackReturnCode};

pub(super) use self::certificates::{AUTHORITIES_MAX, AnyCertificate};
pub(crate) use self::certificates::{Authorities, CertificateFault, Chain, check_name, check_thumbprint};
pub(super) use self::ended::Ended;
pub(super) use self::listener::{attend, serve};
pub(crate) use self::mailbox::Letter;
pub(crate) use self::seats::Hears;
pub(super) use self::seats::Seats;
pub(crate) use self::session::{Act, Fault, Hello, Publish, Session};
pub(super) use self::sessions::Sessions;

use super::config::MqttLimits;
use super::desk::Desk;
use super::log::Log;
use super::metrics::Metrics;

/// What all connections share.
pub(super) struct Door {
    /// Who may connect, what waits for them, who is there.
    pub(super) desk: Desk,
    /// Whose signature on a device's certificate counts.
    pub(super) authorities: Authorities,
    pub(super) sessions: Sessions,
    pub(super) log: Log,
    pub(super) limits: MqttLimits,
    pub(super) ended: Ended,
    pub(super) metrics: Arc<Metrics>,
    pub(super) stop: CancellationToken,
}
