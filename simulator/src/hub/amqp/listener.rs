//! The port: connections up to a limit, TLS and WebSocket first where it is configured, each in a task of its own.

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

use super::line::{Line, LineIo};
use super::{AmqpHub, connection, websocket};

/// Microsoft's Python SDK sets the segment size it reads, and on loopback it may read one that cannot be set.
const SEGMENT_BYTES: u32 = 16_384;
/// A pause after a failed `accept`, which fails again at once where file descriptors ran out.
const BREATH: Duration = Duration::from_millis(50);
/// How long connections may take to close when the hub stops.
const GRACE: Duration = Duration::from_secs(3);

/// What AMQP is wrapped in.
#[derive(Clone)]
pub enum Wrapping {
    /// Nothing.
    Plain,
    /// TLS.
    Tls(Arc<rustls::ServerConfig>),
    /// WebSocket within TLS.
    WebSocket(Arc<rustls::ServerConfig>),
}

/// Serves connections until `stop` is cancelled; then closes them and returns.
///
/// # Errors
/// If the listener is unusable.
pub async fn serve(listener: TcpListener, wrapping: Wrapping, hub: AmqpHub, stop: CancellationToken) -> io::Result<()> {
    if let Err(error) = SockRef::from(&listener).set_tcp_mss(SEGMENT_BYTES) {
        tracing::warn!(%error, "failed to set the segment size; Microsoft's Python SDK may fail to connect on loopback");
    }
    let mut connections = JoinSet::new();
    let mut full = false;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if hub.limits().connections_max <= connections.len() => {
                    // Once: a flood of connections is not to become one of messages.
                    if !std::mem::replace(&mut full, true) {
                        let max = hub.limits().connections_max;
                        tracing::warn!(%peer, max, "refuses connections: too many are open");
                    }
                    hub.books().connection_refused();
                    drop(stream);
                }
                Ok((stream, peer)) => {
                    full = false;
                    connections.spawn(connect(stream, peer, wrapping.clone(), hub.clone(), stop.clone()));
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

async fn connect(stream: TcpStream, peer: SocketAddr, wrapping: Wrapping, hub: AmqpHub, stop: CancellationToken) {
    let _open = hub.books().connection_opened();
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "failed to set nodelay");
    }
    let (stream, line) = LineIo::new(stream);
    let patience = hub.limits().handshake;
    let failed = |what: &'static str, error: &dyn std::fmt::Display| {
        tracing::debug!(%peer, %error, "the {what} handshake failed");
        hub.books().handshake_failed();
    };
    let (tls, websocket) = match wrapping {
        Wrapping::Plain => return Box::pin(talk(stream, line, peer, hub, stop)).await,
        Wrapping::Tls(tls) => (tls, false),
        Wrapping::WebSocket(tls) => (tls, true),
    };
    let stream = match timeout(patience, TlsAcceptor::from(tls).accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return failed("TLS", &error),
        Err(slow) => return failed("TLS", &slow),
    };
    if !websocket {
        return Box::pin(talk(stream, line, peer, hub, stop)).await;
    }
    match timeout(patience, websocket::accept(stream)).await {
        Ok(Ok(stream)) => Box::pin(talk(stream, line, peer, hub, stop)).await,
        Ok(Err(error)) => failed("WebSocket", &error),
        Err(slow) => failed("WebSocket", &slow),
    }
}

/// Serves a peer over a stream that another port opened, to its end.
pub(in crate::hub) async fn attend<S>(
    stream: S,
    line: Arc<Line>,
    peer: SocketAddr,
    hub: AmqpHub,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Debug + Send + Unpin + 'static,
{
    let _open = hub.books().connection_opened();
    Box::pin(talk(stream, line, peer, hub, stop)).await;
}

async fn talk<S>(stream: S, line: Arc<Line>, peer: SocketAddr, hub: AmqpHub, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Debug + Send + Unpin + 'static,
{
    match connection::serve(stream, line, hub.clone(), stop).await {
        Ok(()) => tracing::debug!(%peer, "the connection is closed"),
        Err(error) => {
            hub.books().handshake_failed();
            tracing::debug!(%peer, %error, "no connection");
        }
    }
}
