//! Accepts connections up to a limit, opens TLS, and waits for all of them at the end.

use std::fmt::Display;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::books::Books;
use super::end::End;

/// After a failed accept (no file descriptors, most likely), so that the log is not flooded.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What a client showed in its handshake, its own certificate first.
pub(crate) type Chain = Vec<CertificateDer<'static>>;

/// The limits of a port, and what is counted at it; clones are of the same.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    /// Who comes in, for the log.
    pub(crate) whom: &'static str,
    pub(crate) connections_max: usize,
    /// For TLS and what has to come first.
    pub(crate) connect_timeout: Duration,
    pub(crate) books: Books,
    pub(crate) stop: CancellationToken,
}

impl Gate {
    /// Gives each connection, in a task of its own, to `attend`, until the gate's token is cancelled and all have ended.
    pub(crate) async fn serve<F, Served>(self, listener: TcpListener, attend: F)
    where
        F: Fn(TcpStream, SocketAddr) -> Served,
        Served: Future<Output = ()> + Send + 'static,
    {
        let room = Arc::new(Semaphore::new(self.connections_max));
        let mut connections = JoinSet::new();
        let (mut failing, mut full) = (false, false);
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => break,
                Some(joined) = connections.join_next() => {
                    self.note_panic(joined);
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Once, until it works again: it will fail every time for as long as it lasts.
                    if !mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "cannot accept connections of {}", self.whom);
                    }
                    self.books.closed("not-accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            failing = false;
            let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                // Once: a flood of connections is not to become one of messages.
                if !mem::replace(&mut full, true) {
                    let max = self.connections_max;
                    tracing::warn!(%peer, max, "refuses connections of {}: too many are open", self.whom);
                }
                self.books.closed("connections-max");
                continue;
            };
            full = false;
            // Delay costs throughput only where packets are tiny, and they are.
            let _ = stream.set_nodelay(true);
            let (connected, served) = (self.books.connected(), attend(stream, peer));
            connections.spawn(async move {
                served.await;
                drop((connected, permit));
            });
        }
        drop(listener);
        while let Some(joined) = connections.join_next().await {
            self.note_panic(joined);
        }
    }

    /// By when a connection that comes now has to have said who it is.
    pub(crate) fn patience(&self) -> Instant {
        Instant::now() + self.connect_timeout
    }

    /// TLS, and what the peer showed.
    pub(crate) async fn open<S>(
        &self,
        stream: S,
        tls: &TlsAcceptor,
        patience: Instant,
    ) -> Result<(TlsStream<S>, Chain), End>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = tokio::select! {
            () = self.stop.cancelled() => return Err(End::Stopping),
            opened = timeout_at(patience, tls.accept(stream)) => match opened {
                Ok(opened) => opened.map_err(End::Tls)?,
                Err(_) => return Err(End::ConnectTimeout),
            },
        };
        // Most devices show no certificate: theirs is an empty chain.
        let chain = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec).unwrap_or_default();
        Ok((stream, chain))
    }

    /// Counts and says why a connection ended; `why` as in metrics, `None` where the peer ended it.
    pub(crate) fn note(&self, peer: SocketAddr, why: Option<&'static str>, end: &dyn Display) {
        match why {
            Some(why) => {
                self.books.closed(why);
                tracing::info!(%peer, why, "closed a connection of {}: {end}", self.whom);
            }
            None => tracing::debug!(%peer, "a connection of {} ended: {end}", self.whom),
        }
    }

    /// Nobody cancels a connection's task: one that did not end by itself has panicked.
    fn note_panic(&self, joined: Result<(), JoinError>) {
        if let Err(error) = joined {
            self.books.closed("panic");
            tracing::error!(%error, "a connection of {} ended by a fault of this program", self.whom);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(registry: &mut prometheus_client::registry::Registry) -> Gate {
        Gate {
            whom: "nobody",
            connections_max: 1,
            connect_timeout: Duration::from_secs(9),
            books: Books::new(registry),
            stop: CancellationToken::new(),
        }
    }

    fn counted(registry: &prometheus_client::registry::Registry, reason: &str) -> bool {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).expect("text");
        text.contains(&format!("closed_total{{reason=\"{reason}\"}} 1\n"))
    }

    #[tokio::test]
    async fn a_panic_of_a_connection_is_counted() {
        let mut registry = Default::default();
        let gate = gate(&mut registry);
        gate.note_panic(tokio::spawn(async {}).await);
        assert!(!counted(&registry, "panic"));
        gate.note_panic(tokio::spawn(async { panic!("as in a defect") }).await);
        assert!(counted(&registry, "panic"));
    }

    #[tokio::test]
    async fn one_too_many_is_counted_and_a_stop_waits_for_those_inside() {
        let mut registry = Default::default();
        let (gate, listener) = (gate(&mut registry), TcpListener::bind("127.0.0.1:0").await.expect("a port"));
        let (addr, books, stop) = (listener.local_addr().expect("an address"), gate.books.clone(), gate.stop.clone());
        let leave = CancellationToken::new();
        let serving = tokio::spawn(gate.serve(listener, {
            let leave = leave.clone();
            move |stream, _| {
                let leave = leave.clone();
                async move {
                    leave.cancelled().await;
                    drop(stream);
                }
            }
        }));
        let _inside = TcpStream::connect(addr).await.expect("connected");
        let outside = TcpStream::connect(addr).await.expect("connected");
        outside.readable().await.expect("closed");
        assert!(counted(&registry, "connections-max") && books.connections() == 1);
        stop.cancel();
        tokio::task::yield_now().await;
        assert!(!serving.is_finished());
        leave.cancel();
        serving.await.expect("no panic");
        assert_eq!(books.connections(), 0);
    }
}
