//! The agent's own listener: a publish-only MQTT server for devices, 3.1.1 and 5, over TCP and WebSocket.
//!
//! ```text
//! TCP ──┐                        ┌── session (CONNECT: who?) ── rights (PUBLISH: may it?) ──> presilver
//!       ├─ limits ── [TLS] ──────┤
//! TCP ──┘                        └── [WebSocket] ── session …
//! ```
//!
//! Not a broker: it has no subscriptions, no retained messages, and no session that outlives a connection. What it is
//! handed at QoS 1 it acknowledges once the outbox has committed it, in order. Everything a device can make it hold is
//! bounded: connections, TLS handshakes at a time, packet size, unacknowledged publishes, time to say CONNECT, time to end a
//! packet, and the bytes of all devices together. At a bound a device is read no further, or closed, and counted with the reason.

mod config; // what can be set

mod door; // what all connections share

mod conn; // one connection

mod end; // why it ended

mod session; // MQTT without the socket

mod rights; // who may publish what

mod pace; // how fast a connection is read

mod passwords; // Mosquitto's password files

mod tls; // certificates and keys

mod told; // what was logged when

mod turns; // how many shake hands at a time

mod websocket; // MQTT in WebSocket messages

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::Acceptor;
use shared::clock::Clock;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

pub use self::config::Config;
pub use self::passwords::{Passwords, PasswordsError};
pub use self::rights::Right;

use self::conn::Peer;
use self::door::{Caller, Door};
use self::end::End;
use self::rights::Rights;
use super::{Metrics, RawMessage};

/// Open files the agent needs beside its connections: the outbox, its log, its own ports and connections.
const SPARE_FILES: u64 = 128;
/// A device that asked for no keep-alive and has vanished is found by TCP: asked after this silence,
const PROBED_AFTER: Duration = Duration::from_secs(120);
/// again and again at this distance (the kernel gives up after some).
const PROBED_EVERY: Duration = Duration::from_secs(30);

/// The listener cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The address cannot be listened on.
    #[error("listen for devices on {listen}: {source}; choose a free `intake.listener.{setting}`")]
    Bind {
        /// The address.
        listen: SocketAddr,
        /// The setting that names it.
        setting: &'static str,
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
    /// The authorities of devices, or their revoked certificates, cannot be used.
    #[error("judge certificates of devices by {path}: {what}")]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A right cannot be used.
    #[error("use `intake.listener.right[{index}].topic`: it {what}")]
    Right {
        /// Which.
        index: usize,
        /// What is wrong.
        what: String,
    },
}

/// A listener that has its address and files, and serves nobody yet.
pub struct Listener {
    socket: TcpListener,
    websocket: Option<TcpListener>,
    tls: Option<TlsAcceptor>,
    passwords: Option<Arc<Passwords>>,
    rights: Rights,
    config: Config,
}

impl Listener {
    /// Reads the files the settings name and takes the addresses.
    ///
    /// # Errors
    /// A file or an address cannot be had: the operator must act.
    pub async fn bind(config: Config) -> Result<Self, ListenerError> {
        let passwords = door::passwords(&config)?;
        let rights = Rights::parse(&config.right).map_err(|(index, what)| ListenerError::Right { index, what })?;
        let tls = tls::acceptor(&config)?;
        let socket = bind(config.listen, "listen").await?;
        let websocket = match config.websocket_listen {
            Some(listen) => Some(bind(listen, "websocket-listen").await?),
            None => None,
        };
        Ok(Self { socket, websocket, tls, passwords, rights, config })
    }

    /// The address it really has.
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap_or(self.config.listen)
    }

    /// The address of MQTT over WebSocket, if there is one.
    pub fn websocket_address(&self) -> Option<SocketAddr> {
        self.websocket.as_ref().and_then(|socket| socket.local_addr().ok())
    }

    /// Serves devices until `stop`; what was taken before it is still acknowledged if it is committed soon.
    pub async fn serve(self, clock: Clock, tx: mpsc::Sender<RawMessage>, stop: CancellationToken, metrics: Metrics) {
        let config = &self.config;
        provide_files(config.connections_max as u64 + SPARE_FILES);
        let metrics = metrics.of("listener");
        let (listen, websocket) = (self.address(), self.websocket_address());
        let door = Door::new(config, self.passwords, self.rights, clock, metrics, stop.clone());
        let visit = Visit { tls: self.tls, wrapped: false, door: Arc::new(door), tx };
        let (tls, anonymous) = (visit.tls.is_some(), config.anonymous);
        info!(%listen, websocket = websocket.map(tracing::field::display), tls, anonymous, "devices may connect");
        let mut connections = JoinSet::new();
        loop {
            let (accepted, wrapped) = tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next(), if !connections.is_empty() => {
                    if let Err(panic) = ended {
                        visit.door.metrics.refuse("panic");
                        error!(%panic, "serving a connection failed");
                    }
                    continue;
                }
                accepted = self.socket.accept() => (accepted, false),
                accepted = accept(self.websocket.as_ref()) => (accepted, true),
            };
            match accepted {
                Ok((stream, peer)) => {
                    let room = connections.len() < config.connections_max;
                    match visit.door.callers.one_more(peer.ip()) {
                        Some(caller) if room => {
                            connections.spawn(Visit { wrapped, ..visit.clone() }.attend(stream, peer, caller));
                        }
                        Some(_) => visit.turned_away(peer, "connections-max"),
                        None => visit.turned_away(peer, "connections-per-address"),
                    }
                }
                Err(error) => {
                    // Mostly: no file handle is free. Connections end all the time, so try again soon.
                    visit.door.metrics.refuse("not-accepted");
                    if let Some(quiet) = visit.door.told.again("not-accepted", Instant::now()) {
                        warn!(%error, quiet, "accepting a connection failed");
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop((self.socket, self.websocket, visit));
        while connections.join_next().await.is_some() {}
    }
}

/// Reads the files the settings name, as [`Listener::bind`] does: for `check`.
///
/// # Errors
/// One of them cannot be used.
pub(crate) fn look_at_files(config: &Config) -> Result<(), ListenerError> {
    door::passwords(config)?;
    tls::acceptor(config)?;
    Ok(())
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

async fn bind(listen: SocketAddr, setting: &'static str) -> Result<TcpListener, ListenerError> {
    TcpListener::bind(listen).await.map_err(|source| ListenerError::Bind { listen, setting, source })
}

async fn accept(socket: Option<&TcpListener>) -> std::io::Result<(TcpStream, SocketAddr)> {
    match socket {
        Some(socket) => socket.accept().await,
        None => std::future::pending().await,
    }
}

/// Each connection takes a file descriptor, and most services and shells are given 1,024.
fn provide_files(wanted: u64) {
    match rlimit::increase_nofile_limit(wanted) {
        Ok(files) if wanted <= files => {}
        had => {
            let files = had.unwrap_or_default();
            warn!(files, wanted, "fewer open files are allowed than `intake.listener.connections-max` may need");
        }
    }
}

/// What a connection is served with.
#[derive(Clone)]
struct Visit {
    tls: Option<TlsAcceptor>,
    /// In WebSocket messages.
    wrapped: bool,
    door: Arc<Door>,
    tx: mpsc::Sender<RawMessage>,
}

impl Visit {
    async fn attend(self, stream: TcpStream, peer: SocketAddr, _caller: Caller) {
        let door = Arc::clone(&self.door);
        let _open = door.metrics.open();
        // PUBACKs are small and somebody waits for each.
        let _ = stream.set_nodelay(true);
        let probes = TcpKeepalive::new().with_time(PROBED_AFTER).with_interval(PROBED_EVERY);
        let _ = SockRef::from(&stream).set_tcp_keepalive(&probes);
        // TLS, WebSocket and CONNECT all within it.
        let patience = Instant::now() + door.connect_timeout;
        let end = self.welcome(stream, peer, patience).await;
        match end.as_str() {
            Some(reason) => {
                door.metrics.refuse(reason);
                debug!(%peer, reason, "closed: {end}");
                if let Some(quiet) = door.told.again(reason, Instant::now()) {
                    info!(%peer, reason, quiet, "closed: {end}");
                }
            }
            None => debug!(%peer, "ended: {end}"),
        }
    }

    /// Each way to be connected has a box of its own: in one future together they would cost every connection as much as
    /// TLS and WebSocket do.
    async fn welcome(self, stream: TcpStream, peer: SocketAddr, patience: Instant) -> End {
        match self.tls.clone() {
            Some(acceptor) => Box::pin(self.shake_hands(acceptor, stream, peer, patience)).await,
            None => Box::pin(self.converse(stream, Peer { addr: peer, certified: None }, patience)).await,
        }
    }

    async fn shake_hands(self, acceptor: TlsAcceptor, stream: TcpStream, peer: SocketAddr, patience: Instant) -> End {
        let shaking = async {
            // What a device says first is read as it comes; from then on it costs a processor something.
            let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
            let shaken = async { begun.into_stream(Arc::clone(acceptor.config())).await };
            self.door.turns.take(Box::pin(shaken)).await
        };
        let shaken = tokio::select! {
            () = self.door.stop.cancelled() => return End::Stopping,
            shaken = timeout_at(patience, Box::pin(shaking)) => shaken,
        };
        let stream = match shaken {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return End::Tls(error),
            Err(_) => return End::ConnectTimeout,
        };
        let certified = match stream.get_ref().1.peer_certificates() {
            None | Some([]) => None,
            Some([certificate, ..]) => match tls::name_of(certificate) {
                Some(name) => Some(name),
                None => return End::Nameless,
            },
        };
        Box::pin(self.converse(stream, Peer { addr: peer, certified }, patience)).await
    }

    async fn converse<S>(self, stream: S, peer: Peer, patience: Instant) -> End
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if !self.wrapped {
            return Box::pin(conn::serve(stream, peer, patience, self.door, self.tx)).await;
        }
        let upgraded = tokio::select! {
            () = self.door.stop.cancelled() => return End::Stopping,
            upgraded = timeout_at(patience, Box::pin(websocket::accept(stream))) => upgraded,
        };
        match upgraded {
            Ok(Ok(stream)) => Box::pin(conn::serve(stream, peer, patience, self.door, self.tx)).await,
            Ok(Err(end)) => end,
            Err(_) => End::ConnectTimeout,
        }
    }

    fn turned_away(&self, peer: SocketAddr, limit: &'static str) {
        self.door.metrics.refuse(limit);
        if let Some(quiet) = self.door.told.again(limit, Instant::now()) {
            warn!(%peer, quiet, "closed at once: `intake.listener.{limit}` is reached");
        }
    }
}
