//! The hub's books, as `/status` shows them: what is stored, from the log itself; who is here, and rates since start.

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use serde::Serialize;

use super::amqp::{self, AmqpHub};
use super::commands::CommandStatus;
use super::desk::Desk;
use super::events;
use super::faults::{self, Armed};
use super::limits::Standing;
use super::log::{Log, PartitionInfo};
use super::mqtt::Sessions;

/// `GET /`, for people.
const PAGE: &str = include_str!("status.html");

/// Where the books are kept.
#[derive(Clone)]
pub(super) struct Books {
    pub(super) name: String,
    pub(super) host_name: String,
    pub(super) log: Log,
    pub(super) desk: Desk,
    pub(super) sessions: Sessions,
    pub(super) amqp: AmqpHub,
    /// Whether nobody but this machine asks.
    pub(super) loopback: bool,
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
    /// Those that were ever written to.
    twins: usize,
    commands: CommandStatus,
    /// Direct methods that wait for an answer.
    method_calls: usize,
    /// Since the hub started.
    metered_units: u64,
    services: amqp::Status,
    limits: Standing,
    faults: Vec<Armed>,
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
        let desk = &self.desk;
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
                registered: desk.registry.now().devices().len(),
                kept_sessions: self.sessions.len(),
                connections: desk.metrics.gate.connections(),
                connected: desk.seats.devices(),
            },
            twins: desk.twins.len(),
            commands: desk.commands.status(),
            method_calls: desk.methods.under_way(),
            metered_units: desk.metrics.metered_units(),
            services: self.amqp.status(),
            limits: desk.limits.lock().standing(desk.clock.now()),
            faults: desk.faults.rules(),
            trouble: self.log.trouble().map(|trouble| trouble.to_string()),
            partitions,
        }
    }

    /// The page, `GET /status`, and, where only this machine can ask, `/events` and `/faults`.
    pub(super) fn router(&self) -> Router {
        let books = self.clone();
        let status = shared::http::status(move || {
            let books = books.clone();
            async move { books.status() }
        });
        let page = status.route("/", get(async || Html(PAGE)));
        match self.loopback {
            true => page
                .merge(events::router(self.log.clone()))
                .merge(faults::router(self.desk.faults.clone(), self.log.partition_count())),
            false => page,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times are microseconds in `/status`, and milliseconds to a browser.
    #[test]
    fn the_page_shows_times_as_times() {
        let times: Vec<_> =
            PAGE.match_indices("enqueued-time\"]").map(|(at, found)| &PAGE[at + found.len()..]).collect();
        assert!(
            !times.is_empty() && times.iter().all(|after| after.starts_with(" / 1000).toISOString()")),
            "{times:?}"
        );
    }
}
