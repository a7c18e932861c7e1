//! The HTTP face beside what every service has: `/status` and `/hop`.
//!
//! Anybody may look; what changes something is done for this machine alone, or for who shows the token.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use shared::clock::Clock;
use shared::config::Secret;
use shared::http::Health;
use tokio::sync::{mpsc, oneshot};

use super::hops::{Asked, HopRequest};
use super::progress::Streams;
use crate::lake::Lake;
use crate::status;

/// What those may ask who are let in.
pub(super) struct Requests {
    /// Where it goes.
    pub(super) to: mpsc::Sender<Asked>,
    /// What another machine has to show.
    pub(super) token: Option<Secret>,
}

/// `/status` and `/hop`.
pub(super) fn face(lake: Arc<Lake>, streams: Streams, health: Health, requests: Requests) -> Router {
    let books = shared::http::status(move || {
        let (lake, streams, live) = (Arc::clone(&lake), streams.clone(), health.is_ready());
        async move {
            let told = streams.told();
            match status::read(&lake, status::Hub::Heard { live, told: &told }).await {
                Ok(mut status) => {
                    for lag in streams.lags(Clock::Real.now()) {
                        status.lags(&lag.stream, lag.seconds);
                    }
                    serde_json::to_value(status).unwrap_or_default()
                }
                Err(error) => serde_json::json!({ "error": error.to_string() }),
            }
        }
    });
    books.merge(changes(requests))
}

fn changes(Requests { to, token }: Requests) -> Router {
    let token = token.map(Arc::new);
    let guard = from_fn(move |request: Request, next: Next| {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
        let let_in = may_change(peer, request.headers(), token.as_deref());
        async move {
            match let_in {
                true => next.run(request).await,
                false => {
                    (StatusCode::FORBIDDEN, "only from this machine, or with the token of http.token\n").into_response()
                }
            }
        }
    });
    Router::new().route("/hop", axum::routing::post(hop)).with_state(to).layer(guard)
}

/// Whether who asks may change something.
fn may_change(peer: Option<IpAddr>, headers: &HeaderMap, token: Option<&Secret>) -> bool {
    if peer.is_some_and(|peer| peer.to_canonical().is_loopback()) {
        return true;
    }
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    matches!((shown, token), (Some(shown), Some(token)) if same(shown.as_bytes(), token.reveal().as_bytes()))
}

/// Takes as long for any text of the same length: how long it takes tells nothing of the token.
fn same(shown: &[u8], token: &[u8]) -> bool {
    shown.len() == token.len() && shown.iter().zip(token).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

async fn hop(State(requests): State<mpsc::Sender<Asked>>, Json(request): Json<HopRequest>) -> Response {
    let (answer, answered) = oneshot::channel();
    if requests.send(Asked { request, answer }).await.is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response();
    }
    match answered.await {
        Ok(Ok(told)) => (StatusCode::OK, told + "\n").into_response(),
        Ok(Err(why)) => (StatusCode::CONFLICT, why + "\n").into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn what_changes_something_is_done_for_this_machine_or_for_who_shows_the_token() {
        let secret = Secret::new("open sesame");
        for (peer, shown, token, let_in) in [
            ("127.0.0.1", None, None, true),
            ("::1", None, Some(&secret), true),
            ("::ffff:127.0.0.1", None, None, true),
            ("10.0.0.7", None, None, false),
            ("10.0.0.7", Some("Bearer open sesame"), None, false),
            ("10.0.0.7", None, Some(&secret), false),
            ("10.0.0.7", Some("Bearer open"), Some(&secret), false),
            ("10.0.0.7", Some("open sesame"), Some(&secret), false),
            ("10.0.0.7", Some("Bearer open sesame"), Some(&secret), true),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(shown) = shown {
                headers.insert(header::AUTHORIZATION, HeaderValue::from_static(shown));
            }
            let peer: IpAddr = peer.parse().expect("an address");
            assert_eq!(may_change(Some(peer), &headers, token), let_in, "{peer} {shown:?}");
        }
        assert!(!may_change(None, &HeaderMap::new(), None));
    }
}
