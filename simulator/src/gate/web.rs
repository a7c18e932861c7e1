//! Ports that are 443 in Azure: HTTP/1.1, and streams that become WebSocket messages.
//!
//! ```text
//! TLS ── patience ── HTTP/1.1 ──> what the port answers
//!                       └─ upgrade ── websocket ──> a stream of bytes
//! ```
//!
//! Bounds: head of a request by time and size, and a peer that does not take what it is sent is given up. The body of a
//! request is whoever's who answers.

mod patience; // a stream whose writes must get on

mod upgrade; // [p] what is asked of WebSocket

pub(crate) mod websocket; // bytes in WebSocket messages

#[cfg(test)]
pub(crate) mod bridge;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request, Response};
use futures::future::{Either, ready};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;

use self::patience::Patient;
use self::websocket::{Spoken, WsIo};

/// A peer that does not take our bytes for this long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests under way may take when the port closes.
const GRACE: Duration = Duration::from_secs(3);
/// Header fields of a request.
const HEADERS_MAX: usize = 64;
/// Bytes of a request's head, and of what is read ahead.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// How a port converses.
#[derive(Debug, Clone)]
pub(crate) struct Web {
    /// The setting it stands under, for the log.
    pub(crate) key: &'static str,
    /// How long a connection without a request stays.
    pub(crate) idle_timeout: Duration,
    /// What is spoken in WebSocket messages at a path; where that is nothing, requests are answered.
    pub(crate) spoken: fn(&str) -> &'static [Spoken],
    /// A message of more bytes ends the connection.
    pub(crate) message_bytes_max: usize,
    pub(crate) stop: CancellationToken,
}

/// A stream that became one of WebSocket messages.
pub(crate) type Upgraded<S> = WsIo<Patient<S>>;

/// What was granted, and what it will be spoken in.
type Asked = Mutex<Option<(OnUpgrade, Spoken)>>;

impl Web {
    /// Serves requests by `answer`; gives the stream back if it becomes one of WebSocket messages.
    pub(crate) async fn converse<S, F>(
        &self,
        stream: S,
        peer: SocketAddr,
        answer: impl Fn(Request<Incoming>) -> F,
    ) -> Option<(Upgraded<S>, Spoken)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = Response<Body>>,
    {
        let stream = Patient::new(stream, WRITE_TIMEOUT);
        let asked = Asked::default();
        let service = service_fn(|mut request: Request<Incoming>| {
            let answered = match self.upgrade(&mut request, &asked) {
                Some(upgraded) => Either::Left(ready(upgraded)),
                None => Either::Right(answer(request)),
            };
            async move { Ok::<_, Infallible>(answered.await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.idle_timeout)
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                match timeout(GRACE, connection.as_mut()).await {
                    Ok(ended) => ended,
                    Err(_) => return None,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a connection at `{}` ended", self.key);
            return None;
        }
        let (upgrade, spoken) = asked.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let upgraded = upgrade.await.ok()?;
        let parts = upgraded.downcast::<TokioIo<Patient<S>>>().ok()?;
        let read = parts.read_buf.to_vec();
        let config = Some(websocket::config(self.message_bytes_max));
        let stream = parts.io.into_inner();
        let socket = WebSocketStream::from_partially_read(stream, read, Role::Server, config).await;
        Some((WsIo::new(socket), spoken))
    }

    /// What a request for WebSocket is answered; `None` where there is none.
    fn upgrade(&self, request: &mut Request<Incoming>, asked: &Asked) -> Option<Response<Body>> {
        let spoken = (self.spoken)(request.uri().path());
        if spoken.is_empty() {
            return None;
        }
        Some(match upgrade::judge(request.method(), request.headers(), spoken) {
            Ok(accepted) => {
                let upgrade = hyper::upgrade::on(request);
                *asked.lock().unwrap_or_else(PoisonError::into_inner) = Some((upgrade, accepted.spoken));
                accepted.response()
            }
            Err((status, why)) => {
                let mut refusal = Response::new(Body::from(why));
                *refusal.status_mut() = status;
                // Whoever came for WebSocket has nothing else to ask here.
                refusal.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                refusal
            }
        })
    }
}
