//! TLS, as far as a technician can tell: whose certificate, for which name, until when.

use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConnection, Error};
use shared::clock::Clock;
use shared::time::Timestamp;

use super::Finding;
use crate::config::Config;
use crate::hub::Source;
use crate::line::Choice;
use crate::provision::record;
use crate::trust;
use crate::uplink::HubTarget;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whom TLS is spoken with.
struct Peer<'c> {
    what: &'static str,
    host: &'c str,
    port: u16,
    ca_file: Option<&'c Path>,
    /// The section of its settings.
    section: &'static str,
}

/// A handshake with the hub, and with the broker where TLS is wanted. What does not even answer is told elsewhere.
pub(super) fn secured(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let target = match config.source() {
        Ok(Source::Fixed(target)) => Some(target),
        Ok(Source::Provisioned(applicant)) => {
            let assigned = record::read(&config.outbox.path).ok().flatten();
            let assigned = assigned.filter(|assignment| assignment.is_of(&applicant));
            assigned.map(|assignment| applicant.target(&assignment, &config.hub.dial(applicant.network.clone())))
        }
        Err(_) => None,
    };
    // Through a proxy, or as WebSocket only, it is dialled otherwise; whether that works is told with the hub.
    let straight = |target: &HubTarget| target.network.proxy.is_none() && target.network.choice != Choice::WebSocket;
    if let Some(target) = target.filter(straight) {
        let (host, port, ca_file) = (target.host.as_str(), target.port, target.ca_file.as_deref());
        findings.extend(Peer { what: "hub TLS", host, port, ca_file, section: "hub" }.greet());
    }
    let broker = &config.intake.broker;
    if broker.enabled && broker.tls {
        let (host, port, ca_file) = (broker.host.as_str(), broker.port, broker.ca_file.as_deref());
        findings.extend(Peer { what: "broker TLS", host, port, ca_file, section: "intake.broker" }.greet());
    }
    findings
}

impl Peer<'_> {
    fn greet(&self) -> Option<Finding> {
        let stream = (self.host, self.port).to_socket_addrs().ok()?;
        let stream = stream.into_iter().find_map(|address| TcpStream::connect_timeout(&address, PATIENCE).ok())?;
        // Whom to trust cannot be told: that is a finding already.
        let config = trust::client(self.ca_file).ok()?;
        let name = match ServerName::try_from(self.host.to_owned()) {
            Ok(name) => name,
            Err(_) => {
                return Some(Finding::fail(self.what, format!("`{}` can be no name in a certificate", self.host)));
            }
        };
        let shaken = ClientConnection::new(config, name).map_err(io::Error::other);
        let shaken = shaken.and_then(|client| shake(client, stream));
        Some(match shaken {
            Ok(version) => Finding::ok(self.what, format!("the certificate of {} is trusted ({version})", self.host)),
            Err(error) => self.explain(&error, Clock::Real.now()),
        })
    }

    fn explain(&self, error: &io::Error, now: Timestamp) -> Finding {
        let (host, port, section) = (self.host, self.port, self.section);
        let said = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
        let (text, todo) = match said {
            Some(Error::InvalidCertificate(fault)) => match fault {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
                    format!("the certificate of {host} has expired, by this machine's clock ({now})"),
                    "if that is not the time, set the clock; else the certificate must be renewed over there"
                        .to_owned(),
                ),
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
                    format!("the certificate of {host} is not valid yet, by this machine's clock ({now})"),
                    "set the clock: `timedatectl set-ntp true`".to_owned(),
                ),
                CertificateError::UnknownIssuer => (
                    format!("the certificate of {host} is signed by nobody we trust"),
                    format!(
                        "set `{section}.ca-file` if it is an authority of your own; if a firewall opens TLS here, have it let {host} through"
                    ),
                ),
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
                    format!("the certificate is for another name than {host}"),
                    format!("correct `{section}.host`: it must be a name the certificate carries"),
                ),
                other => (
                    format!("the certificate of {host} cannot be trusted: {other}"),
                    "have it looked at over there".to_owned(),
                ),
            },
            Some(Error::InvalidMessage(_)) => (
                format!("what answers on {host} port {port} does not speak TLS"),
                format!("correct `{section}.port`; the port without TLS is another one"),
            ),
            Some(Error::AlertReceived(alert)) => (
                format!("{host} refuses to speak TLS with us: {alert:?}"),
                "it wants other versions, or a client's certificate".to_owned(),
            ),
            Some(other) => (format!("TLS with {host} fails: {other}"), format!("correct `{section}.host` or its port")),
            None if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => (
                format!("{host} port {port} takes the connection and says nothing for {} s", PATIENCE.as_secs()),
                "a firewall that inspects may hold it back; or the port is not one of TLS".to_owned(),
            ),
            None => (
                format!("the connection to {host} port {port} ends while TLS begins: {error}"),
                "a firewall or proxy in between does not let it through".to_owned(),
            ),
        };
        Finding::fail(self.what, text).so(todo)
    }
}

/// The version that was agreed on.
fn shake(mut client: ClientConnection, mut stream: TcpStream) -> io::Result<&'static str> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    while client.is_handshaking() {
        client.complete_io(&mut stream)?;
    }
    client.send_close_notify();
    // They have said what was asked; a farewell that does not get through changes nothing.
    let _ = client.complete_io(&mut stream);
    Ok(match client.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "TLS",
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::*;
    use crate::cli::check::Grade;

    const PEER: Peer<'static> =
        Peer { what: "hub TLS", host: "hub.example", port: 8883, ca_file: None, section: "hub" };

    fn said(error: Error) -> String {
        let error = io::Error::new(io::ErrorKind::InvalidData, error);
        let finding = PEER.explain(&error, Timestamp::from_micros(0));
        format!("{} -> {}", finding.text, finding.todo.unwrap_or_default())
    }

    #[test]
    fn each_fault_of_a_certificate_has_its_own_advice() {
        for (fault, parts) in [
            (
                CertificateError::Expired,
                ["has expired, by this machine's clock (1970-01-01T00:00:00Z)", "set the clock"],
            ),
            (CertificateError::NotValidYet, ["not valid yet", "timedatectl"]),
            (CertificateError::UnknownIssuer, ["nobody we trust", "hub.ca-file"]),
            (CertificateError::NotValidForName, ["another name than hub.example", "correct `hub.host`"]),
            (CertificateError::BadSignature, ["cannot be trusted", "over there"]),
        ] {
            let said = said(Error::InvalidCertificate(fault));
            assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        }
    }

    /// What listens there is no server of TLS: one that talks of something else, one that hangs up.
    #[test]
    fn a_port_without_tls_is_told_from_a_broken_connection() {
        shared::tls::install_provider();
        let dir = tempfile::tempdir().expect("a folder");
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, include_str!("../../intake/listener/testdata/ca.pem")).expect("written");
        for (greeting, part) in [
            ("220 mail.example ESMTP, and long enough to be read\r\n", "does not speak TLS"),
            ("", "ends while TLS begins"),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let port = listener.local_addr().expect("an address").port();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("a client");
                stream.write_all(greeting.as_bytes()).expect("written");
                let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
            });
            let finding = Peer { host: "127.0.0.1", port, ca_file: Some(&ca), ..PEER }.greet().expect("a finding");
            server.join().expect("no panic");
            assert_eq!(finding.grade, Grade::Fail);
            assert!(finding.text.contains(part) && finding.todo.is_some(), "{finding:?}");
        }
    }
}
