//! Devices at the port of the service.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::Door;
use super::connection::{Connection, End};
use crate::gate::Gate;

/// Serves devices until the door's token is cancelled and every connection has ended.
pub(super) async fn serve(listener: TcpListener, tls: Arc<rustls::ServerConfig>, door: Arc<Door>) {
    let (tls, gate) = (TlsAcceptor::from(tls), door.gate());
    let attend = |stream, peer| attend(stream, peer, tls.clone(), gate.clone(), Arc::clone(&door));
    gate.clone().serve(listener, attend).await;
}

async fn attend(stream: TcpStream, peer: SocketAddr, tls: TlsAcceptor, gate: Gate, door: Arc<Door>) {
    let patience = gate.patience();
    let end = match gate.open(stream, &tls, patience).await {
        Ok((stream, chain)) => Connection::new(stream, door).serve(chain, patience).await,
        Err(end) => end.into(),
    };
    match &end {
        End::Denied(denied) => gate.books.closed(denied.as_str()), // said already, with its client id
        end => gate.note(peer, end.as_str(), end),
    }
}
