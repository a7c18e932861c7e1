//! The HTTP face beside what every service has: `/status` and `/hop`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use shared::clock::Clock;
use shared::http::Health;
use tokio::sync::{mpsc, oneshot};

use super::hops::{Asked, HopRequest};
use super::progress::Streams;
use crate::lake::Lake;
use crate::status;

/// `/status` and `/hop`.
pub(super) fn face(lake: Arc<Lake>, streams: Streams, health: Health, requests: mpsc::Sender<Asked>) -> Router {
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
    let hop = Router::new().route("/hop", axum::routing::post(hop)).with_state(requests);
    books.merge(hop)
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
