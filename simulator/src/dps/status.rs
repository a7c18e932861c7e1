//! The service's books, as `/status` shows them.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use super::registrations::Outcome;
use super::seats::Seats;
use super::service::Service;

/// Where the books are kept.
#[derive(Clone)]
pub(super) struct Books {
    pub(super) id_scope: String,
    pub(super) host_name: String,
    /// Where devices come in.
    pub(super) listens: Vec<SocketAddr>,
    pub(super) service: Arc<Service>,
    pub(super) seats: Seats,
    /// Whether nobody but this machine asks.
    pub(super) loopback: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Status {
    id_scope: String,
    host_name: String,
    /// Where devices come in: MQTT, then WebSocket if that is set.
    listens: Vec<SocketAddr>,
    hubs: Vec<Hub>,
    enrolments: Enrolled,
    registrations: Registered,
    connections: i64,
    /// Registration ids of those whom an enrolment knows.
    connected: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Hub {
    host_name: String,
    /// Assigned to it.
    devices: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Enrolled {
    individual: usize,
    groups: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Registered {
    assigned: usize,
    failed: usize,
    under_way: usize,
}

impl Books {
    fn status(&self) -> Status {
        let enrolments = self.service.enrolments.now();
        let registrations = self.service.registrations.all();
        let at = |name: &String| {
            let there = registrations.iter().filter_map(|registration| registration.assigned.as_ref());
            there.filter(|assigned| assigned.hub.eq_ignore_ascii_case(name)).count()
        };
        let hub = |name: String| Hub { devices: at(&name), host_name: name };
        let assigned = registrations.iter().filter(|registration| registration.outcome == Outcome::Assigned).count();
        Status {
            id_scope: self.id_scope.clone(),
            host_name: self.host_name.clone(),
            listens: self.listens.clone(),
            hubs: self.service.hubs.names().into_iter().map(hub).collect(),
            enrolments: Enrolled { individual: enrolments.individuals().len(), groups: enrolments.groups().len() },
            registrations: Registered {
                assigned,
                failed: registrations.len() - assigned,
                under_way: self.service.under_way(),
            },
            connections: self.service.metrics.gate.connections(),
            connected: self.seats.registrations(),
        }
    }

    /// `GET /status`, and, where only this machine can ask, `/registrations`.
    pub(super) fn router(&self) -> Router {
        let books = self.clone();
        let status = shared::http::status(move || {
            let books = books.clone();
            async move { books.status() }
        });
        let service = Arc::clone(&self.service);
        let registrations = get(move || {
            let all = service.registrations.all();
            async move { Json(all) }
        });
        match self.loopback {
            true => status.route("/registrations", registrations),
            false => status,
        }
    }
}
