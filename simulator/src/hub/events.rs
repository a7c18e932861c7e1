//! `GET /events`: what the log holds, as JSON, for tests that want to see what arrived without speaking AMQP.
//!
//! It is no part of what the hub imitates. It needs no token: it is there only where `hub.http.listen` is on loopback.

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::log::{Log, StoredEvent};

/// More are not given at once.
const EVENTS_MAX: usize = 1_000;
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// `?device=ID` or `?partition=N`, `&from=` a sequence number (0), `&max=` events (100).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// Only this device's events, wherever they are.
    device: Option<String>,
    partition: Option<u32>,
    #[serde(default)]
    from: i64,
    #[serde(default = "some")]
    max: usize,
}

fn some() -> usize {
    100
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Page {
    partition: u32,
    /// Where to go on reading: `from` of the next page.
    next: i64,
    events: Vec<Shown>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Shown {
    sequence_number: i64,
    offset: String,
    enqueued_time: String,
    device_id: String,
    module_id: Option<String>,
    auth_method: String,
    auth_generation_id: String,
    message_source: String,
    message_id: Option<String>,
    correlation_id: Option<String>,
    user_id: Option<String>,
    content_type: Option<String>,
    content_encoding: Option<String>,
    absolute_expiry_time: Option<String>,
    creation_time: Option<String>,
    component: Option<String>,
    output: Option<String>,
    model_id: Option<String>,
    /// Pairs, in the order sent.
    properties: Vec<(String, String)>,
    body_bytes: usize,
    body_base64: String,
}

impl From<StoredEvent> for Shown {
    fn from(event: StoredEvent) -> Self {
        let system = event.system;
        Self {
            sequence_number: event.sequence_number,
            offset: event.offset,
            enqueued_time: event.enqueued_time.to_string(),
            device_id: event.device_id,
            module_id: event.module_id,
            auth_method: event.auth_method,
            auth_generation_id: event.auth_generation_id,
            message_source: event.message_source,
            message_id: system.message_id,
            correlation_id: system.correlation_id,
            user_id: system.user_id,
            content_type: system.content_type,
            content_encoding: system.content_encoding,
            absolute_expiry_time: system.absolute_expiry_time,
            creation_time: system.creation_time,
            component: system.subject,
            output: system.output,
            model_id: system.model_id,
            properties: event.properties,
            body_bytes: event.body.len(),
            body_base64: STANDARD.encode(&event.body),
        }
    }
}

pub(super) fn router(log: Log) -> Router {
    Router::new().route("/events", get(events)).with_state(log)
}

async fn events(State(log): State<Log>, Query(asked): Query<Asked>) -> Result<Json<Page>, (StatusCode, String)> {
    let partition = match (asked.partition, &asked.device) {
        (Some(partition), _) => partition,
        (None, Some(device)) => log.partition_of(device),
        (None, None) => return Err((StatusCode::BAD_REQUEST, "say ?device=ID or ?partition=N".to_owned())),
    };
    let read = log.read(partition, asked.from, asked.max.min(EVENTS_MAX), BYTES_MAX).await;
    let read = read.map_err(|error| (StatusCode::NOT_FOUND, error.to_string()))?;
    let next = read.last().map_or(asked.from, |event| event.sequence_number + 1);
    let wanted = |event: &StoredEvent| asked.device.as_ref().is_none_or(|device| *device == event.device_id);
    let events = read.into_iter().filter(wanted).map(Shown::from).collect();
    Ok(Json(Page { partition, next, events }))
}
