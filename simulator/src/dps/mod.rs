//! A local Device Provisioning Service: devices that know only it are told which hub is theirs.
//!
//! ```text
//! devices ── MQTT 3.1.1, TLS ──> connection ──> service ──allocation──> a hub's device registry
//!         └─ WebSocket ───────────┘                ├──> enrolments.toml   who may
//!                                                  └──> registrations     what became of each, on disk
//! ```
//!
//! Invariants: a device is assigned only to a hub that has it in its registry, with the proof it showed here; what is
//! assigned stays so across restarts, and moves only as the enrolment's policy says; no key in a log.
//!
//! What it does not imitate: TPM, HTTPS and AMQP, custom allocation, allocation by latency, the service's own
//! API (enrolments are a file).

mod config; // the table [dps]

mod topic; // [p] user names and topics

mod keys; // [p] keys of a group's devices

mod allocation; // [p] which hub

mod throttle; // [p] how many pass

mod enrolments; // who may register

mod attest; // [p] whether a device is who it says

mod answer; // [p] what devices are told

mod registrations; // what became of each, on disk

mod hubs; // the hubs' registries

mod service; // requests in, answers out

mod seats; // one connection per registration

mod connection; // one device's conversation

mod listener; // the ports

mod metrics; // rates

mod status; // the books

mod run; // all of it together

mod connect; // what devices need to register

pub mod cli; // `simulator hub enroll`

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use self::config::{Config, Elsewhere, Http, Limits};
pub(crate) use self::connect::Connect;
pub use self::enrolments::EnrolmentsError;
pub(crate) use self::hubs::LinkedHub;
pub use self::run::DpsError;
pub(crate) use self::run::{Place, prepare, run};
use self::seats::Seats;
use self::service::Service;
use crate::gate::Gate;

/// What all connections share.
struct Door {
    id_scope: String,
    limits: Limits,
    seats: Seats,
    service: Arc<Service>,
    stop: CancellationToken,
}

impl Door {
    /// As its port sees it.
    fn gate(&self) -> Gate {
        Gate {
            whom: "devices that register",
            connections_max: self.limits.connections_max,
            connect_timeout: self.limits.connect_timeout.duration(),
            books: self.service.metrics.gate.clone(),
            stop: self.stop.clone(),
        }
    }
}
