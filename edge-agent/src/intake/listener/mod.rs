//! The agent's own listener: a publish-only MQTT 3.1.1 server for devices.
//!
//! Not a broker: it has no subscriptions, no retained messages, no wills, and no session that outlives a connection.
//! What it is handed at QoS 1 it acknowledges once the outbox has committed it, in order. Everything a device can make
//! it hold is bounded: connections, packet size, unacknowledged publishes, time to say CONNECT, time to end a packet.

mod conn; // one connection

mod passwords; // Mosquitto's password files

mod session; // MQTT without the socket

mod tls; // certificate and key

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use shared::clock::Clock;
use shared::config::{Mistakes, Secret, Size, Span};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

pub use self::passwords::{Passwords, PasswordsError};

use super::metrics::WayMetrics;
use super::{Metrics, RawMessage};

/// `[intake.listener]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Whether devices may connect to the agent itself.
    pub enabled: bool,
    /// Address and port.
    pub listen: SocketAddr,
    /// Whether devices may connect without user and password.
    pub anonymous: bool,
    /// Users, in Mosquitto's format.
    pub password_file: Option<PathBuf>,
    /// Certificate chain, PEM. With it the listener speaks TLS.
    pub tls_cert: Option<PathBuf>,
    /// Private key, PEM.
    pub tls_key: Option<PathBuf>,
    /// Connections above this are closed at once.
    pub connections_max: usize,
    /// A larger packet closes its connection.
    pub max_packet: Size,
    /// QoS 1 publishes of one connection that may wait for their commit; above it the connection is not read.
    pub unacked_max: usize,
    /// TLS and CONNECT must be done in this time.
    pub connect_timeout: Span,
    /// A packet that has begun must end in this time.
    pub packet_timeout: Span,
}

impl Config {
    pub(super) fn check(&self, mistakes: &mut Mistakes) {
        if !self.enabled {
            return;
        }
        let mut limit = |ok: bool, path: &str, what: &str| {
            if !ok {
                mistakes.add(path, what);
            }
        };
        limit(
            self.anonymous || self.password_file.is_some(),
            "intake.listener.password-file",
            "nobody could connect; name a password file, or write `anonymous = true` where every device may publish",
        );
        limit(
            self.tls_cert.is_some() == self.tls_key.is_some(),
            "intake.listener.tls-key",
            "`tls-cert` and `tls-key` go together; name both, or neither",
        );
        limit(1 <= self.connections_max, "intake.listener.connections-max", "must be at least 1, write e.g. 1000");
        limit(
            (256..=256 * 1024 * 1024).contains(&self.max_packet.bytes()),
            "intake.listener.max-packet",
            "must be from 256B to 256MiB, write e.g. \"256KiB\"",
        );
        limit(
            (1..=65_535).contains(&self.unacked_max),
            "intake.listener.unacked-max",
            "must be from 1 to 65535, write e.g. 64",
        );
        limit(
            !self.connect_timeout.duration().is_zero(),
            "intake.listener.connect-timeout",
            "must not be 0, write e.g. \"10s\"",
        );
        limit(
            !self.packet_timeout.duration().is_zero(),
            "intake.listener.packet-timeout",
            "must not be 0, write e.g. \"30s\"",
        );
    }
}

/// The listener cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The address cannot be listened on.
    #[error("listen for devices on {listen}: {source}; choose a free `intake.listener.listen`")]
    Bind {
        /// The address.
        listen: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// A file that the settings name cannot be read.
    #[error("read {path}, named by `intake.listener.{setting}`: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The setting that names it.
        setting: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The password file cannot be used.
    #[error("use the password file {path}: {source}")]
    Passwords {
        /// The file.
        path: PathBuf,
        /// The line, and what is wrong.
        source: PasswordsError,
    },
    /// Certificate or key cannot be used.
    #[error("use the certificate {cert} with the key {key}: {what}")]
    Tls {
        /// The certificate chain.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// What all connections share.
struct Door {
    packet_bytes_max: u32,
    unacked_max: usize,
    connect_timeout: Duration,
    packet_timeout: Duration,
    anonymous: bool,
    passwords: Option<Arc<Passwords>>,
    guests: Mutex<Guests>,
    clock: Clock,
    metrics: WayMetrics,
    stop: CancellationToken,
}

#[derive(Default)]
struct Guests {
    by_client_id: HashMap<String, (u64, CancellationToken)>,
    entered: u64,
}

impl Door {
    /// Whether user and password are right, or none are given and none are needed. A given password is always checked
    /// where there is a password file.
    async fn admits(&self, user: Option<String>, password: Option<Secret>) -> bool {
        match (&self.passwords, user) {
            (_, None) => self.anonymous,
            (None, Some(_)) => self.anonymous,
            (Some(passwords), Some(user)) => {
                let passwords = passwords.clone();
                let password = password.unwrap_or_else(|| Secret::new(""));
                // Hashing takes milliseconds on purpose.
                let check = move || passwords.admit(&user, password.reveal().as_bytes());
                tokio::task::spawn_blocking(check).await.unwrap_or(false)
            }
        }
    }
}

/// A device that is in. A second one with the same client id makes the first leave, as MQTT has it.
struct Guest {
    door: Arc<Door>,
    client_id: String,
    number: u64,
    leave: CancellationToken,
}

impl Guest {
    fn enter(door: &Arc<Door>, client_id: String) -> Self {
        let leave = CancellationToken::new();
        let mut guests = door.guests.lock().unwrap_or_else(PoisonError::into_inner);
        guests.entered += 1;
        let number = guests.entered;
        if !client_id.is_empty()
            && let Some((_, former)) = guests.by_client_id.insert(client_id.clone(), (number, leave.clone()))
        {
            former.cancel();
        }
        drop(guests);
        Self { door: door.clone(), client_id, number, leave }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut guests = self.door.guests.lock().unwrap_or_else(PoisonError::into_inner);
        if guests.by_client_id.get(&self.client_id).is_some_and(|(number, _)| *number == self.number) {
            guests.by_client_id.remove(&self.client_id);
        }
    }
}

/// A listener that has its address and files, and serves nobody yet.
pub struct Listener {
    socket: TcpListener,
    tls: Option<tokio_rustls::TlsAcceptor>,
    passwords: Option<Arc<Passwords>>,
    config: Config,
}

impl Listener {
    /// Reads the files the settings name and takes the address.
    ///
    /// # Errors
    /// A file or the address cannot be had: the operator must act.
    pub async fn bind(config: Config) -> Result<Self, ListenerError> {
        let passwords = match &config.password_file {
            None => None,
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|source| ListenerError::Read {
                    path: path.clone(),
                    setting: "password-file",
                    source,
                })?;
                let passwords = Passwords::parse(&text)
                    .map_err(|source| ListenerError::Passwords { path: path.clone(), source })?;
                Some(Arc::new(passwords))
            }
        };
        let tls = tls::acceptor(&config)?;
        let socket = TcpListener::bind(config.listen)
            .await
            .map_err(|source| ListenerError::Bind { listen: config.listen, source })?;
        Ok(Self { socket, tls, passwords, config })
    }

    /// The address it really has.
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap_or(self.config.listen)
    }

    /// Serves devices until `stop`; what was taken before it is still acknowledged if it is committed soon.
    pub async fn serve(self, clock: Clock, tx: mpsc::Sender<RawMessage>, stop: CancellationToken, metrics: Metrics) {
        let metrics = metrics.of("listener");
        let config = &self.config;
        let door = Arc::new(Door {
            packet_bytes_max: u32::try_from(config.max_packet.bytes()).unwrap_or(u32::MAX),
            unacked_max: config.unacked_max,
            connect_timeout: config.connect_timeout.duration(),
            packet_timeout: config.packet_timeout.duration(),
            anonymous: config.anonymous,
            passwords: self.passwords.clone(),
            guests: Mutex::default(),
            clock,
            metrics: metrics.clone(),
            stop: stop.clone(),
        });
        info!(listen = %self.address(), tls = self.tls.is_some(), anonymous = config.anonymous, "devices may connect");
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next(), if !connections.is_empty() => {
                    if let Err(panic) = ended {
                        error!(%panic, "serving a connection failed");
                    }
                    continue;
                }
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((_, peer)) if config.connections_max <= connections.len() => {
                    metrics.refuse("connections-max");
                    debug!(%peer, "closed at once: `intake.listener.connections-max` is reached");
                }
                Ok((stream, peer)) => {
                    connections.spawn(attend(stream, peer, self.tls.clone(), door.clone(), tx.clone()));
                }
                Err(error) => {
                    // Mostly: no file handle is free. Connections end all the time, so try again soon.
                    warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(self.socket);
        drop(tx);
        while connections.join_next().await.is_some() {}
    }
}

/// Binds and serves, until `stop`.
///
/// # Errors
/// As [`Listener::bind`].
pub async fn run_listener(
    config: Config,
    clock: Clock,
    tx: mpsc::Sender<RawMessage>,
    stop: CancellationToken,
    metrics: Metrics,
) -> Result<(), ListenerError> {
    Listener::bind(config).await?.serve(clock, tx, stop, metrics).await;
    Ok(())
}

async fn attend(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<tokio_rustls::TlsAcceptor>,
    door: Arc<Door>,
    tx: mpsc::Sender<RawMessage>,
) {
    let _open = door.metrics.open();
    // PUBACKs are small and somebody waits for each.
    let _ = stream.set_nodelay(true);
    let end = match tls {
        None => conn::serve(stream, peer, door.clone(), tx).await,
        Some(acceptor) => {
            let shaken = tokio::select! {
                () = door.stop.cancelled() => return,
                shaken = timeout(door.connect_timeout, acceptor.accept(stream)) => shaken,
            };
            match shaken {
                Ok(Ok(stream)) => conn::serve(stream, peer, door.clone(), tx).await,
                Ok(Err(error)) => {
                    door.metrics.refuse("tls");
                    debug!(%peer, %error, "no TLS came about");
                    return;
                }
                Err(_) => {
                    door.metrics.refuse("connect-timeout");
                    return;
                }
            }
        }
    };
    match end.as_str() {
        Some(reason) => {
            door.metrics.refuse(reason);
            info!(%peer, reason, "closed: {end}");
        }
        None => debug!(%peer, "ended: {end}"),
    }
}
