//! Why a connection ended.

use std::io;
use std::time::Duration;

use super::auth::Denied;
use super::session::Fault;
use super::telemetry::Violation;
use crate::hub::log::AppendError;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the device left")]
    Left,
    #[error("the device closed the connection without DISCONNECT")]
    Vanished,
    #[error("{0}")]
    Fault(#[from] Fault),
    #[error("{0}")]
    Denied(#[from] Denied),
    #[error("{0}")]
    Violation(#[from] Violation),
    #[error("no TLS or no CONNECT within `hub.mqtt.connect-timeout`")]
    ConnectTimeout,
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("silence for 1.5 times the device's keep-alive")]
    Quiet,
    #[error("a packet did not end within `hub.mqtt.packet-timeout`")]
    Slow,
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
    #[error("the hub stops")]
    Stopping,
    #[error("reading or writing: {0}")]
    Io(#[from] io::Error),
}

impl End {
    /// As it stands in metrics; `None` where the device ended the connection.
    pub(super) const fn as_str(&self) -> Option<&'static str> {
        match self {
            End::Left | End::Vanished | End::Io(_) | End::Stopping => None,
            End::Fault(fault) => Some(fault.as_str()),
            End::Denied(denied) => Some(denied.as_str()),
            End::Violation(violation) => Some(violation.as_str()),
            End::ConnectTimeout => Some("connect-timeout"),
            End::Tls(_) => Some("tls"),
            End::Quiet => Some("keep-alive"),
            End::Slow => Some("slow"),
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
