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
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use self::patience::Patient;
use super::amqp::{self, AmqpHub, Line, LineIo};
use super::api::Api;
use super::mqtt::{self, Door};
use super::websocket::{self, Spoken, WsIo};
use crate::gate::{Chain, Gate};

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
    /// How long a connection without a request stays.
    pub(super) idle_timeout: Duration,
    pub(super) gate: Gate,
}

type Tls = Patient<TlsStream<LineIo>>;

/// Serves until the port's token is cancelled and every connection has ended.
pub(super) async fn serve(listener: TcpListener, tls: Arc<rustls::ServerConfig>, port: Arc<Port>) {
    let tls = TlsAcceptor::from(tls);
    let gate = port.gate.clone();
    gate.serve(listener, |stream, peer| connect(stream, peer, tls.clone(), Arc::clone(&port))).await;
}

async fn connect(stream: TcpStream, peer: SocketAddr, tls: TlsAcceptor, port: Arc<Port>) {
    let (stream, line) = LineIo::new(stream);
    let (stream, chain) = match port.gate.open(stream, &tls, port.gate.patience()).await {
        Ok(opened) => opened,
        Err(end) => return port.gate.note(peer, end.as_str(), &end),
    };
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
        .header_read_timeout(port.idle_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = port.gate.stop.cancelled() => {
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
    chain: Chain,
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
            let (hub, stop) = (port.amqp.clone(), port.gate.stop.clone());
            Box::pin(amqp::attend(stream, peer.line, peer.addr, hub, stop)).await;
        }
    }
}
