//! A device's connection: TLS, CONNECT, CONNACK.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::mqtt::{self, Who};

/// Tokens hold longer than any run.
const TOKEN_S: i64 = 24 * 3600;

/// What `simulator hub connection-strings --json` says, as far as devices need it.
pub(super) struct Credentials {
    told: Json,
    tls: TlsConnector,
    expiry_s: i64,
}

impl Credentials {
    /// Reads what was told, and the authority it names.
    ///
    /// # Errors
    /// A file that cannot be read or understood.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let told: Json = serde_json::from_slice(&std::fs::read(path)?)?;
        let authority = told["ca-file"].as_str().ok_or_else(|| io::Error::other("no ca-file"))?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority).map_err(io::Error::other)?).map_err(io::Error::other)?;
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let expiry_s = shared::clock::Clock::Real.now().micros() / 1_000_000 + TOKEN_S;
        Ok(Self { told, tls: TlsConnector::from(Arc::new(config)), expiry_s })
    }

    /// The ids of all devices, in order.
    pub(super) fn devices(&self) -> Vec<String> {
        self.told["devices"].as_object().into_iter().flat_map(|devices| devices.keys().cloned()).collect()
    }

    /// How a device introduces itself.
    ///
    /// # Errors
    /// There is no such device.
    pub(super) fn who(&self, device: &str) -> io::Result<Who> {
        let text = self.told["devices"][device].as_str().unwrap_or_default();
        let part = |name: &str| text.split(';').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        let (Some(host), Some(key)) = (part("HostName"), part("SharedAccessKey")) else {
            return Err(io::Error::other(format!("{device} is not registered with a key")));
        };
        let key = shared::sas::Key::device(key).ok_or_else(|| io::Error::other("a key that is not base64"))?;
        let password = shared::sas::sign(&shared::sas::device_resource(host, device), &key, self.expiry_s, None);
        let user = format!("{host}/{device}/?api-version=2021-04-12");
        Ok(Who { client_id: device.to_owned(), user, password })
    }

    /// Connects as `who`; a session that is not `clean` stays when the client goes.
    ///
    /// # Errors
    /// The server cannot be reached, is not trusted, or says no.
    pub(super) async fn connect(
        &self,
        addr: SocketAddr,
        who: &Who,
        keep_alive_s: u16,
        clean: bool,
    ) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let mut stream = self.tls.connect(ServerName::from(addr.ip()), stream).await?;
        stream.write_all(&mqtt::connect(who, keep_alive_s, clean)).await?;
        stream.flush().await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        match answer {
            [0x20, 2, _, 0] => Ok(stream),
            other => Err(io::Error::other(format!("{} was refused: {other:?}", who.client_id))),
        }
    }
}
