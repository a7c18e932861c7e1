//! Why a connection ended.

use std::io;

use super::session::{Bye, Fault};
use crate::intake::acks::Refused;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the device left")]
    Left,
    #[error("the device left, and wants its will to be published")]
    LeftWithWill,
    #[error("the device closed the connection without DISCONNECT")]
    Vanished,
    #[error("{0}")]
    Fault(#[from] Fault),
    #[error("no TLS came about: {0}")]
    Tls(io::Error),
    #[error("no WebSocket came about: {0}")]
    WebSocket(String),
    #[error("the certificate has neither a common name nor a DNS name")]
    Nameless,
    #[error("no CONNECT within `intake.listener.connect-timeout`")]
    ConnectTimeout,
    #[error("silence for 1.5 times the device's keep-alive")]
    Quiet,
    #[error("a packet did not end within `intake.listener.packet-timeout`")]
    Slow,
    #[error("the device does not read what we answer")]
    Deaf,
    #[error("user or password is wrong")]
    Denied,
    #[error("no `[[intake.listener.right]]` lets this device publish to this topic")]
    Barred,
    #[error("another connection came with the same user and client id")]
    TakenOver,
    #[error("{0}")]
    Refused(#[from] Refused),
    #[error("the agent stops")]
    Stopping,
    #[error("reading or writing: {0}")]
    Io(#[from] io::Error),
}

impl End {
    /// As it stands in metrics; `None` where the device ended the connection.
    pub(super) fn as_str(&self) -> Option<&'static str> {
        match self {
            // TLS or WebSocket that is none.
            End::Io(error) if error.kind() == io::ErrorKind::InvalidData => Some(Fault::Garbage.as_str()),
            End::Left | End::LeftWithWill | End::Vanished | End::Io(_) | End::Stopping => None,
            End::Fault(fault) => Some(fault.as_str()),
            End::Tls(_) => Some("tls"),
            End::WebSocket(_) => Some("websocket"),
            End::Nameless => Some("certificate-name"),
            End::ConnectTimeout => Some("connect-timeout"),
            End::Quiet => Some("keep-alive"),
            End::Slow => Some("slow"),
            End::Deaf => Some("deaf"),
            End::Denied => Some("denied"),
            End::Barred => Some("barred"),
            End::TakenOver => Some("taken-over"),
            End::Refused(_) => Some("not-stored"),
        }
    }

    /// What the device is still told, if its MQTT has a word for it.
    pub(super) const fn bye(&self) -> Option<Bye> {
        match self {
            End::TakenOver => Some(Bye::TakenOver),
            End::Quiet => Some(Bye::Quiet),
            End::Slow => Some(Bye::Slow),
            End::Refused(_) => Some(Bye::NotStored),
            End::Stopping => Some(Bye::Stopping),
            _ => None,
        }
    }

    /// Whether the device's will is published. A device that is only sent away by our stop comes back, or is missed
    /// by whoever runs then.
    pub(super) const fn leaves_will(&self) -> bool {
        !matches!(self, End::Left | End::Stopping)
    }
}
