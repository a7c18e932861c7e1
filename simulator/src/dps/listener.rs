//! Devices at the ports of the service: MQTT as it is, or in WebSocket messages.

use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{CONNECTION, HeaderValue};
use axum::http::{Response, StatusCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout_at;
use tokio_rustls::TlsAcceptor;

use super::Door;
use super::connection::{Connection, End};
use crate::gate::websocket::{self, Spoken};
use crate::gate::{self, Gate, Web};

/// Of WebSocket: more than the largest packet, and no more memory for whoever has not said who it is.
const MESSAGE_BYTES_MAX: usize = 128 * 1024;

/// How MQTT comes in at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// In TLS.
    Plain,
    /// In WebSocket messages in TLS.
    WebSocket,
}

/// Serves devices until the door's token is cancelled and every connection has ended.
pub(super) async fn serve(listener: TcpListener, way: Way, tls: Arc<rustls::ServerConfig>, door: Arc<Door>) {
    let (tls, gate) = (TlsAcceptor::from(tls), door.gate());
    let attend = |stream, peer| {
        let (tls, gate, door) = (tls.clone(), gate.clone(), Arc::clone(&door));
        async move {
            let end = welcome(stream, peer, way, &tls, &gate, door).await;
            match &end {
                End::Denied(denied) => gate.books.closed(denied.as_str()), // said already, with its client id
                end => gate.note(peer, end.as_str(), end),
            }
        }
    };
    gate.clone().serve(listener, attend).await;
}

async fn welcome(
    stream: TcpStream,
    peer: SocketAddr,
    way: Way,
    tls: &TlsAcceptor,
    gate: &Gate,
    door: Arc<Door>,
) -> End {
    // For all of it, to the end of CONNECT.
    let patience = gate.patience();
    let (stream, chain) = match gate.open(stream, tls, patience).await {
        Ok(opened) => opened,
        Err(end) => return end.into(),
    };
    if way == Way::Plain {
        return Box::pin(Connection::new(stream, door).serve(chain, patience)).await;
    }
    let web = Web {
        key: "dps.websocket-listen",
        idle_timeout: gate.connect_timeout,
        spoken,
        message_bytes_max: MESSAGE_BYTES_MAX,
        stop: gate.stop.clone(),
    };
    let upgrade = Box::pin(web.converse(stream, peer, |_| ready(nothing_else())));
    match timeout_at(patience, upgrade).await {
        Err(_) => gate::End::ConnectTimeout.into(),
        Ok(None) if gate.stop.is_cancelled() => gate::End::Stopping.into(),
        Ok(None) => End::NoWebSocket,
        Ok(Some((stream, _))) => Box::pin(Connection::new(stream, door).serve(chain, patience)).await,
    }
}

/// What is spoken in WebSocket messages at a path.
fn spoken(path: &str) -> &'static [Spoken] {
    if websocket::is_at(path, websocket::DEVICES_PATH) { &[Spoken::Mqtt] } else { &[] }
}

/// In Azure its HTTP API is there, too.
fn nothing_else() -> Response<Body> {
    let mut refusal = Response::new(Body::from("there is only MQTT in WebSocket messages, at /$iothub/websocket"));
    *refusal.status_mut() = StatusCode::NOT_FOUND;
    refusal.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    refusal
}
