//! Provisioning: which hub is ours, asked of Azure's Device Provisioning Service.
//!
//! ```text
//! [provisioning] -> exchange <--service (MQTT)--> the service
//!                      |
//!                      v
//!                 Assignment -> record, beside the outbox -> the uplink's target
//! ```
//!
//! What proves us to the service, a key or a certificate, proves us at the hub, as Azure has it; so the record holds names only.
//! [`exchange`] is pure; [`service`] drives it.

pub mod config; // [provisioning]

pub mod exchange; // what to ask, what an answer means

mod service; // rumqttc, TLS, token

pub mod record; // what became of it, beside the outbox

mod seek; // ask until there is an answer

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Instant;

pub use self::config::{Config, ConfigError};
pub use self::exchange::{Assigned, Refusal};
pub use self::record::Assignment;
pub use self::seek::{attempt, seek};
pub(crate) use self::seek::{backoff, keep};
pub use self::service::Fault;
use shared::reading::GatewayId;

use crate::hub::Dial;
use crate::identity::Identity;
use crate::line::{Network, Way};
use crate::uplink::HubTarget;

/// Who asks, and whom.
#[derive(Debug, Clone)]
pub struct Applicant {
    /// Tells one provisioning service from others.
    pub id_scope: String,
    /// Who we are there.
    pub registration_id: String,
    /// Our key or certificate, at the service and at the hub.
    pub identity: Identity,
    /// The service.
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
}

impl Applicant {
    /// The service's port, by the way taken.
    pub(crate) fn port_by(&self, way: Way) -> u16 {
        match way {
            Way::Mqtt => self.port,
            Way::WebSocket => self.websocket_port,
        }
    }

    /// The uplink's target, once a hub is assigned.
    pub fn target(&self, assignment: &Assignment, dial: &Dial) -> HubTarget {
        HubTarget {
            host: dial.host.clone().unwrap_or_else(|| assignment.hub.clone()),
            hub: assignment.hub.clone(),
            gateway: GatewayId::new(&assignment.device),
            identity: self.identity.clone(),
            port: dial.port,
            websocket_port: dial.websocket_port,
            network: dial.network.clone(),
            ca_file: dial.ca_file.clone(),
            tls: self.tls,
            ask_again_at: Some(Instant::now()),
        }
    }
}
