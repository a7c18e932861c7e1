//! The device side: MQTT 3.1.1 over TLS.
//!
//! ```text
//! gate --> TLS --> session --auth--> Guest --telemetry--> NewEvent --> log --fsync--> PUBACK
//!                         ^                    └─requests──> twins, methods
//!                         └── hearing <── mailbox, commands
//! ```

mod listener; // the port

mod connection; // one device's conversation

mod admission; // who it is

mod end; // why it ended

mod ended; // tokens that a fault ended

mod underway; // publishes that are not acknowledged yet

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

pub(super) use self::certificates::{AUTHORITIES_MAX, AnyCertificate};
pub(crate) use self::certificates::{Authorities, CertificateFault, check_name, check_thumbprint};
pub(super) use self::ended::Ended;
pub(super) use self::listener::{attend, serve};
pub(crate) use self::mailbox::Letter;
pub(crate) use self::seats::Hears;
pub(super) use self::seats::Seats;
pub(super) use self::sessions::Sessions;

use super::config::MqttLimits;
use super::desk::Desk;
use super::limits::Verdict;
use super::log::Log;
use super::metrics::Metrics;
use crate::gate::Gate;

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

impl Door {
    /// As a port sees it.
    fn gate(&self) -> Gate {
        Gate {
            whom: "devices",
            connections_max: self.limits.connections_max,
            connect_timeout: self.limits.connect_timeout.duration(),
            books: self.metrics.gate.clone(),
            stop: self.stop.clone(),
        }
    }

    /// Asks the tier about a message of so many bytes. One that is let in is metered here, before it is stored and even
    /// if it never is: the service meters at ingress.
    fn meter(&self, bytes: usize) -> Verdict {
        let mut tier = self.desk.limits.lock();
        let units = tier.metered_units(bytes);
        let verdict = tier.send(self.desk.clock.now(), units);
        if !matches!(verdict, Verdict::Never { .. }) {
            self.metrics.metered(units);
        }
        verdict
    }
}
