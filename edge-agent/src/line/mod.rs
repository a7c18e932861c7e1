//! The line to the hub, to the provisioning service and to a broker, where it is more than TCP and TLS.
//!
//! ```text
//! rumqttc == abstract Unix socket == Tunnel == TCP, or a proxy's CONNECT == TLS == WebSocket, or nothing == hub
//! ```
//!
//! To a broker: rumqttc == abstract Unix socket == Tunnel == Sieve == TCP == TLS, or nothing == broker.
//!
//! rumqttc itself dials TCP and TLS; everything else is laid by us, and it is given our end. MQTT over WebSocket goes to port
//! 443, which is open where 8883 is not. [`ways`] is pure.

pub mod config; // [network]

pub mod ways; // 8883 or 443, and when to try the other

mod proxy; // CONNECT

mod websocket; // bytes in binary messages

mod sieve; // cuts what is too large for rumqttc

mod tunnel; // our end for rumqttc

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::time::Duration;

use rumqttc::{MqttOptions, TlsConfiguration, Transport};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub use self::config::{Config, ConfigError, Network};
pub use self::proxy::Proxy;
pub use self::sieve::Cut;
pub(crate) use self::sieve::Cuts;
pub(crate) use self::tunnel::{Broken, Tunnel};
pub use self::ways::{Choice, Way, Ways};

use self::sieve::{CUT_BYTES_MAX, Sieve};

/// Where to dial, and what it takes.
#[derive(Debug, Clone)]
pub struct Dial {
    /// The host.
    pub host: String,
    /// Its port, which goes with the way.
    pub port: u16,
    /// MQTT as it is, or in WebSocket messages.
    pub way: Way,
    /// The proxy between us and it.
    pub proxy: Option<Proxy>,
    /// Whom to trust, and who we are; `None` only in tests on loopback.
    pub tls: Option<Arc<ClientConfig>>,
    /// A line that takes longer is given up.
    pub timeout: Duration,
}

/// Why there is no line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// For metrics.
    pub reason: &'static str,
    /// For people.
    pub text: String,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Dial {
    /// Options of a client by this line, and what must live as long as its connection.
    ///
    /// # Errors
    /// This machine has no socket for it.
    pub(crate) fn options(&self, id: &str) -> std::io::Result<(MqttOptions, Option<Tunnel>)> {
        if self.proxy.is_none() && self.way == Way::Mqtt {
            let mut options = MqttOptions::new(id, &self.host, self.port);
            if let Some(tls) = &self.tls {
                options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls.clone())));
            }
            return Ok((options, None));
        }
        let (options, tunnel) = self.through(id, None)?;
        Ok((options, Some(tunnel)))
    }

    /// As [`Dial::options`], with PUBLISHes larger than `packet_bytes_max` cut. What was cut is told.
    ///
    /// # Errors
    /// This machine has no socket for it.
    pub(crate) fn sieved(&self, id: &str, packet_bytes_max: usize) -> std::io::Result<(MqttOptions, Tunnel, Cuts)> {
        let sieve = Sieve::new(packet_bytes_max);
        let cuts = sieve.cuts();
        let (mut options, tunnel) = self.through(id, Some(sieve))?;
        options.set_max_packet_size(packet_bytes_max.max(CUT_BYTES_MAX), packet_bytes_max);
        Ok((options, tunnel, cuts))
    }

    fn through(&self, id: &str, sieve: Option<Sieve>) -> std::io::Result<(MqttOptions, Tunnel)> {
        let tunnel = Tunnel::open(self.clone(), sieve)?;
        let mut options = MqttOptions::new(id, tunnel.name(), self.port);
        options.set_transport(Transport::unix());
        Ok((options, tunnel))
    }

    /// Lays the line once and lets it go: for `check`.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn probe(&self) -> Result<(), Fault> {
        self.lay().await.map(drop)
    }

    async fn lay(&self) -> Result<Box<dyn Stream>, Fault> {
        let laying = Box::pin(self.lay_in_time());
        let late = || Fault { reason: "timeout", text: format!("{} did not answer in time", self.place()) };
        tokio::time::timeout(self.timeout, laying).await.unwrap_or_else(|_| Err(late()))
    }

    async fn lay_in_time(&self) -> Result<Box<dyn Stream>, Fault> {
        let tcp = match &self.proxy {
            None => connect(&self.host, self.port).await?,
            Some(proxy) => {
                let mut tcp = connect(proxy.host(), proxy.port()).await?;
                proxy.ask(&mut tcp, &self.host, self.port).await?;
                tcp
            }
        };
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(tcp),
            Some(tls) => {
                let fault = |error: &dyn std::fmt::Display| Fault { reason: "tls", text: error.to_string() };
                let name = ServerName::try_from(self.host.clone()).map_err(|error| fault(&error))?;
                let stream = TlsConnector::from(tls.clone()).connect(name, tcp).await;
                Box::new(stream.map_err(|error| fault(&error))?)
            }
        };
        match self.way {
            Way::Mqtt => Ok(stream),
            Way::WebSocket => Ok(Box::new(websocket::open(stream, &self.host, self.port).await?)),
        }
    }

    /// For people.
    pub fn place(&self) -> String {
        let through = self.proxy.as_ref().map_or(String::new(), |proxy| format!(" through the proxy {proxy}"));
        format!("{} port {}{through}", self.host, self.port)
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, Fault> {
    let tcp = TcpStream::connect((host, port)).await;
    let tcp = tcp.map_err(|error| Fault { reason: "network", text: format!("{host} port {port}: {error}") })?;
    // An error means that packets are a little later.
    let _ = tcp.set_nodelay(true);
    Ok(tcp)
}
