//! Why a connection ended.

use std::io;
use std::time::Duration;

use super::auth::Denied;
use super::telemetry::Violation;
use crate::gate;
use crate::hub::log::AppendError;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error(transparent)]
    Gate(#[from] gate::End),
    #[error("{0}")]
    Denied(#[from] Denied),
    #[error("{0}")]
    Violation(#[from] Violation),
    #[error("its token expired")]
    Expired,
    #[error("another connection came with the same device id")]
    TakenOver,
    #[error("the hub dismissed it: {0}")]
    Dismissed(&'static str),
    #[error("what `hub.limits` lets through is exceeded: {0}")]
    Limited(&'static str),
    #[error("a fault was scripted: {0}")]
    Scripted(&'static str),
    #[error("a fault was scripted: the network is a black hole")]
    BlackHole(Duration),
    #[error("a fault was scripted: a PUBACK was lost")]
    PubackLost,
    #[error("{0}")]
    NotStored(#[from] AppendError),
    #[error("its subscriptions cannot be kept: {0}")]
    NotKept(io::Error),
}

impl End {
    /// As it stands in metrics; `None` where the device ended the connection.
    pub(super) const fn as_str(&self) -> Option<&'static str> {
        match self {
            End::Gate(end) => end.as_str(),
            End::Denied(denied) => Some(denied.as_str()),
            End::Violation(violation) => Some(violation.as_str()),
            End::Expired => Some("token-ended"),
            End::TakenOver => Some("taken-over"),
            End::Limited(why) | End::Scripted(why) | End::Dismissed(why) => Some(why),
            End::BlackHole(_) => Some("black-hole"),
            End::PubackLost => Some("puback-lost"),
            End::NotStored(_) => Some("not-stored"),
            End::NotKept(_) => Some("not-kept"),
        }
    }
}
