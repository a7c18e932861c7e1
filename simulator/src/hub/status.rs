//! The hub's books, as `/status` shows them: what is stored, from the log itself; who is here, and rates since start.

use std::sync::Arc;

use axum::extract::Path;
use axum::routing::post;
use axum::{Json, Router};
use serde::Serialize;

use super::amqp::{self, AmqpHub};
use super::devices::Registry;
use super::events;
use super::faults::Faults;
use super::log::{Log, PartitionInfo};
use super::metrics::Metrics;
use super::mqtt::{Seats, Sessions};

/// Where the books are kept.
#[derive(Clone)]
pub(super) struct Books {
    pub(super) name: String,
    pub(super) host_name: String,
    pub(super) log: Log,
    pub(super) registry: Registry,
    pub(super) seats: Seats,
    pub(super) sessions: Sessions,
    pub(super) amqp: AmqpHub,
    pub(super) metrics: Arc<Metrics>,
    pub(super) faults: Faults,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Status {
    name: String,
    host_name: String,
    /// Milliseconds since the Unix epoch: the incarnation.
    created_at: i64,
    events: Events,
    partitions: Vec<Numbered>,
    devices: Devices,
    /// Since the hub started.
    metered_units: u64,
    services: amqp::Status,
    pubacks_to_lose: u64,
    /// Why the log has stopped, if it has.
    trouble: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Events {
    /// Ever, in this incarnation.
    stored: i64,
    /// Not given up by retention.
    kept: i64,
    bytes: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Numbered {
    partition: u32,
    #[serde(flatten)]
    info: PartitionInfo,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Devices {
    registered: usize,
    /// Devices and modules whose subscriptions outlive their connections.
    kept_sessions: usize,
    connections: i64,
    connected: Vec<String>,
}

impl Books {
    pub(super) fn status(&self) -> Status {
        let partitions: Vec<_> = (0..self.log.partition_count())
            .filter_map(|partition| Some(Numbered { partition, info: self.log.info(partition)? }))
            .collect();
        let infos = || partitions.iter().map(|numbered| &numbered.info);
        let stored = infos().map(|info| info.last_enqueued_sequence_number + 1).sum();
        let given_up: i64 = infos().map(|info| info.begin_sequence_number).sum();
        Status {
            name: self.name.clone(),
            host_name: self.host_name.clone(),
            created_at: self.log.created_at(),
            events: Events { stored, kept: stored - given_up, bytes: infos().map(|info| info.bytes).sum() },
            devices: Devices {
                registered: self.registry.now().devices().len(),
                kept_sessions: self.sessions.len(),
                connections: self.metrics.connections(),
                connected: self.seats.devices(),
            },
            metered_units: self.metrics.metered_units(),
            services: self.amqp.status(),
            pubacks_to_lose: self.faults.pubacks_to_lose(),
            trouble: self.log.trouble().map(|trouble| trouble.to_string()),
            partitions,
        }
    }

    /// `GET /status`, `GET /events` and `POST /faults/lose-pubacks/{count}`.
    pub(super) fn router(&self) -> Router {
        let books = self.clone();
        let status = shared::http::status(move || {
            let books = books.clone();
            async move { books.status() }
        });
        let faults = self.faults.clone();
        let lose = move |Path(count): Path<u64>| {
            let faults = faults.clone();
            async move {
                tracing::warn!(count, "the next PUBACKs will be lost after their events are stored");
                faults.lose_pubacks(count);
                Json(count)
            }
        };
        status.route("/faults/lose-pubacks/{count}", post(lose)).merge(events::router(self.log.clone()))
    }
}
