//! Why a connection ended, as far as it has nothing to do with what the device wanted.

use std::io;

use super::session::Fault;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error("the device left")]
    Left,
    #[error("the device closed the connection without DISCONNECT")]
    Vanished,
    #[error("{0}")]
    Fault(#[from] Fault),
    #[error("no TLS or no CONNECT within `connect-timeout`")]
    ConnectTimeout,
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("silence for 1.5 times the device's keep-alive")]
    Quiet,
    #[error("a packet did not end within `packet-timeout`")]
    Slow,
    #[error("this side stops")]
    Stopping,
    #[error("reading or writing: {0}")]
    Io(#[from] io::Error),
}

impl End {
    /// As it stands in metrics; `None` where the device ended the connection.
    pub(crate) const fn as_str(&self) -> Option<&'static str> {
        match self {
            End::Left | End::Vanished | End::Io(_) | End::Stopping => None,
            End::Fault(fault) => Some(fault.as_str()),
            End::ConnectTimeout => Some("connect-timeout"),
            End::Tls(_) => Some("tls"),
            End::Quiet => Some("keep-alive"),
            End::Slow => Some("slow"),
        }
    }
}
