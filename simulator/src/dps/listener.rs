//! Accepts connections up to a limit, opens TLS, and waits for all of them at the end.

use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;

use super::Door;
use super::connection::{Connection, End};

/// After a failed accept (no file descriptors, most likely), so that the log is not flooded.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves devices until the door's token is cancelled and every connection has ended.
pub(super) async fn serve(listener: TcpListener, tls: Arc<rustls::ServerConfig>, door: Arc<Door>) {
    let tls = TlsAcceptor::from(tls);
    let room = Arc::new(Semaphore::new(door.limits.connections_max));
    let mut connections = JoinSet::new();
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            () = door.stop.cancelled() => break,
            Some(joined) = connections.join_next() => {
                note_panic(&door, joined);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Once, until it works again: it will fail every time for as long as it lasts.
                if !mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "cannot accept connections of devices that register");
                }
                door.service.metrics.closed("not-accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        failing = false;
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            door.service.metrics.closed("connections-max");
            continue;
        };
        let (tls, door) = (tls.clone(), Arc::clone(&door));
        connections.spawn(async move {
            let connected = door.service.metrics.connected();
            let end = welcome(stream, tls, Arc::clone(&door)).await;
            note(&door, peer, &end);
            drop((connected, permit));
        });
    }
    drop(listener);
    while let Some(joined) = connections.join_next().await {
        note_panic(&door, joined);
    }
}

/// Nobody cancels a connection's task: one that did not end by itself has panicked.
fn note_panic(door: &Door, joined: Result<(), JoinError>) {
    if let Err(error) = joined {
        door.service.metrics.closed("panic");
        tracing::error!(%error, "a device's connection ended by a fault of the provisioning service");
    }
}

async fn welcome(stream: TcpStream, tls: TlsAcceptor, door: Arc<Door>) -> End {
    // Delay costs throughput only where packets are tiny, and they are.
    let _ = stream.set_nodelay(true);
    let patience = Instant::now() + door.limits.connect_timeout.duration();
    let stream = tokio::select! {
        () = door.stop.cancelled() => return End::Stopping,
        opened = timeout_at(patience, tls.accept(stream)) => match opened {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return End::Tls(error),
            Err(_) => return End::ConnectTimeout,
        },
    };
    let chain = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec).unwrap_or_default();
    Connection::new(stream, door).serve(chain, patience).await
}

fn note(door: &Door, peer: SocketAddr, end: &End) {
    match end.as_str() {
        Some(why) => {
            door.service.metrics.closed(why);
            tracing::info!(%peer, why, "closed the connection of a device that registers: {end}");
        }
        None => tracing::debug!(%peer, "the connection of a device that registers ended: {end}"),
    }
}
