//! The port: connections up to a limit, TLS first where it is configured, each in a task of its own.

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{AmqpHub, connection};

/// Microsoft's Python SDK sets the segment size it reads, and on loopback it may read one that cannot be set.
const SEGMENT_BYTES: u32 = 16_384;
/// A pause after a failed `accept`, which fails again at once where file descriptors ran out.
const BREATH: Duration = Duration::from_millis(50);
/// How long connections may take to close when the hub stops.
const GRACE: Duration = Duration::from_secs(3);

/// Serves connections until `stop` is cancelled; then closes them and returns.
///
/// # Errors
/// If the listener is unusable.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    hub: AmqpHub,
    stop: CancellationToken,
) -> io::Result<()> {
    if let Err(error) = SockRef::from(&listener).set_tcp_mss(SEGMENT_BYTES) {
        tracing::warn!(%error, "failed to set the segment size; Microsoft's Python SDK may fail to connect on loopback");
    }
    let tls = tls.map(TlsAcceptor::from);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if hub.limits().connections_max <= connections.len() => {
                    tracing::warn!(%peer, max = hub.limits().connections_max, "refused a connection: too many are open");
                    hub.books().connection_refused();
                    drop(stream);
                }
                Ok((stream, peer)) => {
                    connections.spawn(connect(stream, peer, tls.clone(), hub.clone(), stop.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(BREATH).await;
                }
            },
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "the task of a connection panicked");
                }
            }
            () = stop.cancelled() => break,
        }
    }
    // Whatever is left after the grace is dropped with the set.
    let _ = timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
    Ok(())
}

async fn connect(stream: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>, hub: AmqpHub, stop: CancellationToken) {
    let _open = hub.books().connection_opened();
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "failed to set nodelay");
    }
    match tls {
        None => talk(stream, peer, hub, stop).await,
        Some(tls) => match timeout(hub.limits().handshake, tls.accept(stream)).await {
            Ok(Ok(stream)) => talk(stream, peer, hub, stop).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "the TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "the TLS handshake took too long"),
        },
    }
}

async fn talk<S>(stream: S, peer: SocketAddr, hub: AmqpHub, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Debug + Send + Unpin + 'static,
{
    match connection::serve(stream, hub, stop).await {
        Ok(()) => tracing::debug!(%peer, "the connection is closed"),
        Err(error) => tracing::debug!(%peer, %error, "no connection"),
    }
}
