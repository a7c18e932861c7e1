//! Connections: how many there are, and how long one may take.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::seats::{Cost, Seat, Seats};

/// Header fields of a request.
const HEADERS_MAX: usize = 64;
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Idle connections must not hold a program that is to stop.
const GRACE: Duration = Duration::from_secs(1);
/// Where none can be accepted (mostly: no file handle is free), it is tried again after this long.
const PAUSE: Duration = Duration::from_millis(100);
/// Those who had to give way are told of in the log this often.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// What is borne.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Connections at once.
    pub(super) connections: usize,
    /// How long it may take until a whole request is there: from the beginning, or from the answer before, which must
    /// have been taken in this time, too. How long an answer takes is our affair.
    pub(super) patience: Duration,
}

/// People and monitors are few.
pub(super) const BOUNDS: Bounds = Bounds { connections: 64, patience: Duration::from_secs(15) };

/// Serves until `stop`, then lets requests under way finish, for a while.
pub(super) async fn serve(listener: TcpListener, router: Router, bounds: Bounds, stop: CancellationToken) {
    let seats = Seats::new(bounds.connections);
    let mut connections = JoinSet::new();
    let (mut closed, mut told) = (0_u64, None::<Instant>);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(panic) = ended {
                    tracing::error!(%panic, "serving a connection of `http.listen` failed");
                }
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "accepting a connection of `http.listen` failed");
                sleep(PAUSE).await;
                continue;
            }
        };
        let now = Instant::now();
        let seat = seats.take(now);
        if !matches!(seat, Some((_, Cost::Nothing))) {
            closed += 1;
            if told.is_none_or(|told| TOLD_EVERY <= now - told) {
                told = Some(now);
                tracing::warn!(
                    %peer,
                    closed,
                    "more than {} connections at `http.listen`: those that ask nothing are closed",
                    bounds.connections
                );
            }
        }
        if let Some((seat, _)) = seat {
            connections.spawn(attend(stream, peer, router.clone(), seat, bounds.patience, stop.clone()));
        }
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    // Those that are left end with the set.
    let _ = timeout(GRACE, all).await;
}

async fn attend(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    seat: Seat,
    patience: Duration,
    stop: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let seat = Arc::new(seat);
    let service = service_fn(|request| {
        let (router, seat) = (router.clone(), Arc::clone(&seat));
        async move { Ok::<_, Infallible>(answer(request, peer, router, &seat).await) }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None) // ours counts body and answer, too
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let (mut look_at, mut stopping) = (Instant::now() + patience, false);
    loop {
        tokio::select! {
            biased; // what has come counts, however late this task looks
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "a connection of `http.listen` ended");
                }
                return;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = seat.leave.cancelled() => return,
            () = sleep_until(look_at) => {
                let now = Instant::now();
                look_at = seat.waits_since().unwrap_or(now) + patience;
                if look_at <= now {
                    tracing::debug!(%peer, "closed a connection of `http.listen`: no request within {patience:?}");
                    return;
                }
            }
        }
    }
}

/// Only a request that is there as a whole is answered: its handler waits for nobody.
async fn answer(request: Request<Incoming>, peer: SocketAddr, router: Router, seat: &Seat) -> Response {
    let (mut head, body) = request.into_parts();
    let Ok(body) = to_bytes(Body::new(body), BODY_BYTES_MAX).await else {
        let text = format!("a request's body has at most {BODY_BYTES_MAX} bytes\n");
        return (StatusCode::PAYLOAD_TOO_LARGE, text).into_response();
    };
    // Who asks is known to handlers that want it.
    head.extensions.insert(ConnectInfo(peer));
    seat.is_answered();
    let answer = TowerToHyperService::new(router).call(Request::from_parts(head, Body::from(body))).await;
    seat.waits(Instant::now());
    match answer {
        Ok(answer) => answer,
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests;
