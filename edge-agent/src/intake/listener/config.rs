//! `[intake.listener]`.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use shared::config::{Mistakes, Size, Span};

use super::rights::{Right, Rights};

/// `[intake.listener]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Whether devices may connect to the agent itself.
    pub enabled: bool,
    /// Address and port.
    pub listen: SocketAddr,
    /// Address and port of MQTT over WebSocket.
    pub websocket_listen: Option<SocketAddr>,
    /// Whether devices may connect without user, password and certificate.
    pub anonymous: bool,
    /// Users, in Mosquitto's format.
    pub password_file: Option<PathBuf>,
    /// Certificate chain, PEM. With it the listener speaks TLS.
    pub tls_cert: Option<PathBuf>,
    /// Private key, PEM.
    pub tls_key: Option<PathBuf>,
    /// Authorities whose certificates tell who a device is, PEM.
    pub tls_client_ca: Option<PathBuf>,
    /// Certificates of these authorities that are revoked, PEM.
    pub tls_client_crl: Option<PathBuf>,
    /// Who may publish what. Empty: everyone who is in, everything.
    #[serde(default)]
    pub right: Vec<Right>,
    /// Connections above this are closed at once.
    pub connections_max: usize,
    /// Connections of one address above this are closed at once.
    pub connections_per_address: usize,
    /// A larger packet closes its connection.
    pub max_packet: Size,
    /// Publishes of all connections together that may wait for their commit; above it no connection is read.
    pub bytes_max: Size,
    /// QoS 1 publishes of one connection that may wait for their commit; above it the connection is not read.
    pub unacked_max: usize,
    /// Packets of one connection in a second; above it the connection is read slower.
    pub rate_messages: Option<u32>,
    /// Bytes of one connection in a second; above it the connection is read slower.
    pub rate_bytes: Option<Size>,
    /// TLS and CONNECT must be done in this time.
    pub connect_timeout: Span,
    /// A packet that has begun must end in this time.
    pub packet_timeout: Span,
}

impl Config {
    /// True if nobody can come in but with a certificate.
    pub(super) fn certificate_only(&self) -> bool {
        self.tls_client_ca.is_some() && !self.anonymous && self.password_file.is_none()
    }

    pub(in crate::intake) fn check(&self, mistakes: &mut Mistakes) {
        if !self.enabled {
            return;
        }
        let mut limit = |ok: bool, setting: &str, what: &str| {
            if !ok {
                mistakes.add(format!("intake.listener.{setting}"), what);
            }
        };
        limit(
            self.anonymous || self.password_file.is_some() || self.tls_client_ca.is_some(),
            "password-file",
            "nobody could connect; name a password file or `tls-client-ca`, or write `anonymous = true` where every \
             device may publish",
        );
        limit(
            self.tls_cert.is_some() == self.tls_key.is_some(),
            "tls-key",
            "`tls-cert` and `tls-key` go together; name both, or neither",
        );
        limit(
            self.tls_client_ca.is_none() || self.tls_cert.is_some(),
            "tls-client-ca",
            "devices show certificates in TLS; name `tls-cert` and `tls-key`, too",
        );
        limit(
            self.tls_client_crl.is_none() || self.tls_client_ca.is_some(),
            "tls-client-crl",
            "is of the authorities in `tls-client-ca`; name that, too",
        );
        let same = self.websocket_listen == Some(self.listen) && self.listen.port() != 0;
        limit(!same, "websocket-listen", "is that of `listen`; choose another port, or leave it out");
        limit(1 <= self.connections_max, "connections-max", "must be at least 1, write e.g. 10000");
        limit(1 <= self.connections_per_address, "connections-per-address", "must be at least 1, write e.g. 100");
        limit(
            (256..=256 * 1024 * 1024).contains(&self.max_packet.bytes()),
            "max-packet",
            "must be from 256B to 256MiB, write e.g. \"256KiB\"",
        );
        limit(
            self.max_packet.bytes() <= self.bytes_max.bytes(),
            "bytes-max",
            "must hold at least one packet of `max-packet`, write e.g. \"64MiB\"",
        );
        limit((1..=65_535).contains(&self.unacked_max), "unacked-max", "must be from 1 to 65535, write e.g. 64");
        limit(self.rate_messages != Some(0), "rate-messages", "must not be 0; leave it out for no limit");
        limit(
            self.rate_bytes.is_none_or(|rate| 0 < rate.bytes()),
            "rate-bytes",
            "must not be 0; leave it out for no limit",
        );
        limit(!self.connect_timeout.duration().is_zero(), "connect-timeout", "must not be 0, write e.g. \"10s\"");
        limit(!self.packet_timeout.duration().is_zero(), "packet-timeout", "must not be 0, write e.g. \"30s\"");
        if let Err((index, what)) = Rights::parse(&self.right) {
            mistakes.add(format!("intake.listener.right[{index}].topic"), what);
        }
    }
}
