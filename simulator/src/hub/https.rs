//! The port that is 443 in Azure: the service API over HTTPS, and at `/$iothub/websocket` MQTT and AMQP in WebSocket
//! messages.
//!
//! ```text
//! socket ── line ── TLS ── patience ── HTTP/1.1 ──> api
//!                                         └─ upgrade ── WebSocket ──> mqtt | amqp
//! ```
//!
//! Bounds: connections by number, handshake, head and body of a request by time and size, and a peer that does not take
//! what it is sent is given up.

mod patience; // a stream whose writes must get on

mod upgrade; // [p] what is asked of WebSocket

#[cfg(test)]
pub(super) mod tests;

use std::convert::Infallible;
use std::mem;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;

use self::patience::Patient;
use super::amqp::{self, AmqpHub, Line, LineIo};
use super::api::Api;
use super::config::HttpsLimits;
use super::mqtt::{self, Door};
use super::websocket::{self, Spoken, WsIo};

/// After a failed accept (no file descriptors, most likely), so that the log is not flooded.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// A peer that does not take our bytes for this long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests under way may take when the hub stops.
const GRACE: Duration = Duration::from_secs(3);
/// Header fields of a request.
const HEADERS_MAX: usize = 64;
/// Bytes of a request's head, and of what is read ahead.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// What all connections share.
pub(super) struct Port {
    pub(super) api: Arc<Api>,
    /// Where devices go on to.
    pub(super) door: Arc<Door>,
    /// Where services go on to.
    pub(super) amqp: AmqpHub,
    pub(super) limits: HttpsLimits,
    pub(super) stop: CancellationToken,
}

type Tls = Patient<TlsStream<LineIo>>;

/// Serves until the port's token is cancelled and every connection has ended.
pub(super) async fn serve(listener: TcpListener, tls: Arc<rustls::ServerConfig>, port: Arc<Port>) {
    let tls = TlsAcceptor::from(tls);
    let room = Arc::new(Semaphore::new(port.limits.connections_max));
    let mut connections = JoinSet::new();
    let (mut failing, mut full) = (false, false);
    loop {
        let accepted = tokio::select! {
            () = port.stop.cancelled() => break,
            Some(joined) = connections.join_next() => {
                note_panic(joined);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if !mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "cannot accept connections at `hub.https-listen`");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        failing = false;
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            // Once: a flood of connections is not to become one of messages.
            if !mem::replace(&mut full, true) {
                let max = port.limits.connections_max;
                tracing::warn!(%peer, max, "refuses connections at `hub.https-listen`: too many are open");
            }
            continue;
        };
        full = false;
        let (tls, port) = (tls.clone(), Arc::clone(&port));
        connections.spawn(async move {
            connect(stream, peer, tls, port).await;
            drop(permit);
        });
    }
    drop(listener);
    while let Some(joined) = connections.join_next().await {
        note_panic(joined);
    }
}

fn note_panic(joined: Result<(), tokio::task::JoinError>) {
    if let Err(error) = joined {
        tracing::error!(%error, "a connection at `hub.https-listen` ended by a fault of the hub");
    }
}

async fn connect(stream: TcpStream, peer: SocketAddr, tls: TlsAcceptor, port: Arc<Port>) {
    let _ = stream.set_nodelay(true);
    let patience = Instant::now() + port.limits.connect_timeout.duration();
    let (stream, line) = LineIo::new(stream);
    let stream = tokio::select! {
        () = port.stop.cancelled() => return,
        opened = timeout_at(patience, tls.accept(stream)) => match opened {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "the TLS handshake failed"),
            Err(_) => return tracing::debug!(%peer, "no TLS within `hub.https.connect-timeout`"),
        },
    };
    let chain = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec).unwrap_or_default();
    let Some((upgraded, spoken)) = converse(Patient::new(stream, WRITE_TIMEOUT), peer, &port).await else { return };
    talk(upgraded, spoken, Peer { addr: peer, chain, line }, port).await;
}

/// Serves requests; gives the stream back if it becomes one of WebSocket messages.
async fn converse(stream: Tls, peer: SocketAddr, port: &Arc<Port>) -> Option<(WebSocketStream<Tls>, Spoken)> {
    let asked: Arc<Mutex<Option<(OnUpgrade, Spoken)>>> = Arc::default();
    let service = service_fn(|request: Request<Incoming>| {
        let (port, asked) = (Arc::clone(port), Arc::clone(&asked));
        async move { Ok::<_, Infallible>(answer(request, &port, &asked).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(port.limits.idle_timeout.duration())
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = port.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match timeout(GRACE, connection.as_mut()).await {
                Ok(ended) => ended,
                Err(_) => return None,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection at `hub.https-listen` ended");
        return None;
    }
    let (upgrade, spoken) = asked.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    let upgraded = upgrade.await.ok()?;
    let parts = upgraded.downcast::<TokioIo<Tls>>().ok()?;
    let read = parts.read_buf.to_vec();
    let config = Some(websocket::config());
    let stream = parts.io.into_inner();
    Some((WebSocketStream::from_partially_read(stream, read, Role::Server, config).await, spoken))
}

async fn answer(
    mut request: Request<Incoming>,
    port: &Port,
    asked: &Mutex<Option<(OnUpgrade, Spoken)>>,
) -> Response<Body> {
    if !upgrade::is_for_websocket(request.uri().path()) {
        return port.api.answer(request.map(Body::new)).await;
    }
    match upgrade::judge(request.method(), request.uri().path(), request.headers()) {
        Ok(accepted) => {
            let upgrade = hyper::upgrade::on(&mut request);
            *asked.lock().unwrap_or_else(PoisonError::into_inner) = Some((upgrade, accepted.spoken));
            accepted.response()
        }
        Err((status, why)) => {
            let mut refusal = Response::new(Body::from(why));
            *refusal.status_mut() = status;
            refusal
        }
    }
}

/// Who is at the other end of a stream of WebSocket messages.
struct Peer {
    addr: SocketAddr,
    /// The certificates it showed.
    chain: Vec<CertificateDer<'static>>,
    line: Arc<Line>,
}

async fn talk(socket: WebSocketStream<Tls>, spoken: Spoken, peer: Peer, port: Arc<Port>) {
    let stream = WsIo::new(socket);
    match spoken {
        Spoken::Mqtt => {
            let patience = Instant::now() + port.door.limits.connect_timeout.duration();
            let let_go = || peer.line.cut();
            mqtt::attend(stream, peer.chain, peer.addr, patience, Arc::clone(&port.door), let_go).await;
        }
        Spoken::Amqp => {
            let (hub, stop) = (port.amqp.clone(), port.stop.clone());
            Box::pin(amqp::attend(stream, peer.line, peer.addr, hub, stop)).await;
        }
    }
}
