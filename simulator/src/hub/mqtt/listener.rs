//! Devices at the port of their own, and those that come through another.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::Door;
use super::connection::Connection;
use super::end::End;
use crate::gate::Chain;

/// Serves devices until the door's token is cancelled and every connection has ended.
pub(in crate::hub) async fn serve(listener: TcpListener, tls: Arc<rustls::ServerConfig>, door: Arc<Door>) {
    let tls = TlsAcceptor::from(tls);
    let attend = |stream, peer| {
        let (tls, door) = (tls.clone(), Arc::clone(&door));
        async move {
            let end = welcome(stream, tls, Arc::clone(&door)).await;
            note(&door, peer, &end);
        }
    };
    door.gate().serve(listener, attend).await;
}

async fn welcome(stream: TcpStream, tls: TlsAcceptor, door: Arc<Door>) -> End {
    let gate = door.gate();
    let patience = gate.patience();
    let (stream, chain) = match gate.open(stream, &tls, patience).await {
        Ok(opened) => opened,
        Err(end) => return end.into(),
    };
    drop((gate, tls));
    let (end, stream) = Connection::new(stream, door).serve(chain, patience).await;
    if matches!(end, End::BlackHole(_)) {
        // No FIN: where a network swallowed everything, none would have come through.
        let _ = SockRef::from(stream.get_ref().0).set_linger(Some(Duration::ZERO));
    }
    end
}

/// Serves a device over a stream that another port opened, to its end. `let_go` is done first where the stream is to
/// vanish without a word.
pub(in crate::hub) async fn attend<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    chain: Chain,
    peer: SocketAddr,
    patience: Instant,
    door: Arc<Door>,
    let_go: impl FnOnce(),
) {
    let connected = door.metrics.gate.connected();
    let (end, stream) = Box::pin(Connection::new(stream, Arc::clone(&door)).serve(chain, patience)).await;
    if matches!(end, End::BlackHole(_)) {
        let_go();
    }
    drop(stream);
    note(&door, peer, &end);
    drop(connected);
}

fn note(door: &Door, peer: SocketAddr, end: &End) {
    match end {
        End::Denied(denied) => door.metrics.gate.closed(denied.as_str()), // said already, with its client id
        end => door.gate().note(peer, end.as_str(), end),
    }
}
