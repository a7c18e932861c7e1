//! The port that is 443 in Azure: the service API over HTTPS, and at `/$iothub/websocket` MQTT and AMQP in WebSocket
//! messages.
//!
//! ```text
//! socket ── line ── TLS ── web ── HTTP/1.1 ──> api
//!                                    └─ upgrade ── WebSocket ──> mqtt | amqp
//! ```
//!
//! Bounds: connections by number, handshake, head and body of a request by time and size, and a peer that does not take
//! what it is sent is given up.

#[cfg(test)]
pub(super) mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::amqp::{self, AmqpHub, Line, LineIo};
use super::api::Api;
use super::mqtt::{self, Door};
use crate::gate::websocket::{self, Spoken};
use crate::gate::{Chain, Gate, Upgraded, Web};

/// Of the Event-Hubs-compatible endpoint: only AMQP.
const SERVICE_BUS_PATH: &str = "/$servicebus/websocket";

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
    let web = Web {
        key: "hub.https-listen",
        idle_timeout: port.idle_timeout,
        spoken,
        message_bytes_max: websocket::MESSAGE_BYTES_MAX,
        stop: port.gate.stop.clone(),
    };
    let answer = |request: Request<_>| port.api.answer(request.map(Body::new));
    let Some((upgraded, spoken)) = web.converse(stream, peer, answer).await else { return };
    talk(upgraded, spoken, Peer { addr: peer, chain, line }, port).await;
}

/// What is spoken in WebSocket messages at a path.
fn spoken(path: &str) -> &'static [Spoken] {
    match path {
        path if websocket::is_at(path, websocket::DEVICES_PATH) => &[Spoken::Mqtt, Spoken::Amqp],
        path if websocket::is_at(path, SERVICE_BUS_PATH) => &[Spoken::Amqp],
        _ => &[],
    }
}

/// Who is at the other end of a stream of WebSocket messages.
struct Peer {
    addr: SocketAddr,
    /// The certificates it showed.
    chain: Chain,
    line: Arc<Line>,
}

async fn talk(stream: Upgraded<TlsStream<LineIo>>, spoken: Spoken, peer: Peer, port: Arc<Port>) {
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
