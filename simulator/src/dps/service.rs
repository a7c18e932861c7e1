//! Requests in, answers out: what a registration is judged by, and what it does.
//!
//! A registration is an operation: the device is told at once that it is under way, asks again, and finds what became of
//! it. Of one device at most one is under way; whoever asks for another is told of that one. One that a restart cut off
//! goes on when its device asks for it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use shared::clock::Clock;
use shared::crash;
use shared::time::Timestamp;

use super::allocation::{self, Step};
use super::answer::{self, Answer, Refused};
use super::attest::{self, Attested, Guest};
use super::enrolments::{Book, Enrolment};
use super::hubs::{Beginning, Hubs, HubsError};
use super::metrics::Metrics;
use super::registrations::{Assigned, Outcome, Registration, Registrations, Substatus};
use super::throttle::Bucket;
use crate::hub::devices::Auth;

/// Code of a registration that fails for want of a hub.
const NOWHERE: u32 = 400_000;
/// Code of one that fails by no fault of its own.
const INTERNAL: u32 = 500_000;

/// All the service is made of.
pub(super) struct Service {
    pub(super) enrolments: Book,
    pub(super) hubs: Hubs,
    pub(super) registrations: Registrations,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    /// What devices are told to wait before they ask again.
    pub(super) retry_after: Duration,
    pub(super) throttle: Mutex<Bucket>,
    /// Operations under way, by registration id in small letters.
    pub(super) underway: Mutex<HashMap<String, String>>,
}

/// The body of a registration. What it holds for a custom allocation is not kept: there is none.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    registration_id: Option<String>,
    tpm: Option<IgnoredAny>,
}

/// What an operation is about.
struct Operation {
    id: String,
    registration_id: String,
    enrolment: Enrolment,
    auth: Auth,
}

impl Service {
    /// True if an enrolment fits what the guest shows, enabled or not.
    pub(super) fn knows(&self, guest: &Guest) -> bool {
        attest::attest(&self.enrolments.now(), guest, self.clock.now()).is_ok()
    }

    /// Begins a registration.
    pub(super) fn register(self: &Arc<Self>, guest: &Guest, body: &[u8]) -> Answer {
        let answer = self.begin(guest, body);
        answer.unwrap_or_else(|refused| self.refuse(&refused))
    }

    /// Says what became of an operation.
    pub(super) fn status(self: &Arc<Self>, guest: &Guest, operation_id: &str) -> Answer {
        self.metrics.polled();
        let answer = self.look(guest, operation_id);
        answer.unwrap_or_else(|refused| self.refuse(&refused))
    }

    /// Says why not.
    pub(super) fn refuse(&self, refused: &Refused) -> Answer {
        self.metrics.refused(refused.code());
        refused.answer(&answer::uuid(random()), self.clock.now())
    }

    /// Operations that have not ended.
    pub(super) fn under_way(&self) -> usize {
        self.underway().len()
    }

    fn begin(self: &Arc<Self>, guest: &Guest, body: &[u8]) -> Result<Answer, Refused> {
        let (id, now) = (&guest.registration_id, self.clock.now());
        check(body, id)?;
        let enrolments = self.enrolments.now();
        let Attested { enrolment, auth } = attest::attest(&enrolments, guest, now).inspect_err(|refused| {
            tracing::info!(registration_id = %id, %refused, "a device may not register");
        })?;
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner).take(now).map_err(Refused::Throttled)?;
        let operation_id = operation_id();
        if !enrolment.enabled {
            tracing::info!(registration_id = %id, enrolment = %enrolment.id, "the enrolment of a device is disabled");
            self.metrics.registered("disabled");
            return Ok(answer::disabled(&operation_id, id));
        }
        // One that was cut off is this device's, too.
        let operation_id = self.registrations.begun(id).unwrap_or(operation_id);
        let operation = Operation { id: operation_id, registration_id: id.clone(), enrolment: enrolment.clone(), auth };
        Ok(self.start(operation))
    }

    /// Carries an operation out, unless one of the same device is under way; says which one is.
    fn start(self: &Arc<Self>, operation: Operation) -> Answer {
        let id = operation.registration_id.clone();
        let operation_id = match self.underway().entry(id.to_ascii_lowercase()) {
            Entry::Occupied(other) => other.get().clone(),
            Entry::Vacant(free) => {
                let operation_id = operation.id.clone();
                free.insert(operation_id.clone());
                if let Err(error) = self.registrations.begin(&id, &operation_id) {
                    tracing::error!(registration_id = %id, %error, "a registration that begins cannot be kept");
                }
                let service = Arc::clone(self);
                tokio::spawn(async move { service.carry_out(&operation).await });
                operation_id
            }
        };
        answer::assigning(&operation_id, &id, self.retry_after)
    }

    fn look(self: &Arc<Self>, guest: &Guest, operation_id: &str) -> Result<Answer, Refused> {
        let id = &guest.registration_id;
        let enrolments = self.enrolments.now();
        let Attested { enrolment, auth } = attest::attest(&enrolments, guest, self.clock.now())?;
        // In this order: an operation that ends in between is found ended.
        let is_underway = self.underway().get(&id.to_ascii_lowercase()).is_some_and(|other| other == operation_id);
        if is_underway {
            return Ok(answer::assigning(operation_id, id, self.retry_after));
        }
        if let Some(done) = self.registrations.get(id).filter(|known| known.operation_id == operation_id) {
            return Ok(answer::done(&done));
        }
        let is_cut_off = self.registrations.begun(id).is_some_and(|begun| begun == operation_id);
        if !is_cut_off || !enrolment.enabled {
            return Err(Refused::Operation);
        }
        tracing::info!(registration_id = %id, "a registration that was cut off goes on");
        Ok(self.start(Operation {
            id: operation_id.to_owned(),
            registration_id: id.clone(),
            enrolment: enrolment.clone(),
            auth,
        }))
    }

    /// Assigns a device and keeps what became of it.
    async fn carry_out(&self, operation: &Operation) {
        let _underway = Underway { service: self, registration_id: &operation.registration_id };
        let before = self.registrations.get(&operation.registration_id);
        let (assigned, outcome) = match self.assign(operation, before.as_ref()).await {
            Ok(assigned) => {
                tracing::info!(
                    registration_id = %operation.registration_id,
                    hub = %assigned.hub,
                    device = %assigned.device_id,
                    substatus = ?assigned.substatus,
                    "a device was assigned"
                );
                (Some(assigned), Outcome::Assigned)
            }
            Err(failure) => {
                let registration_id = &operation.registration_id;
                let before = before.as_ref().and_then(|before| before.assigned.clone());
                let (code, message) = match failure {
                    Failure::Nowhere(nowhere) => {
                        tracing::warn!(%registration_id, %nowhere, "a device cannot be assigned");
                        (NOWHERE, nowhere.to_string())
                    }
                    Failure::Hub(error) => {
                        tracing::error!(%registration_id, %error, "a device cannot be assigned");
                        (INTERNAL, "Internal server error".to_owned())
                    }
                };
                (before, Outcome::Failed { code, message })
            }
        };
        let now = self.clock.now();
        let registration = Registration {
            registration_id: before
                .as_ref()
                .map_or(&operation.registration_id, |before| &before.registration_id)
                .clone(),
            group: operation.enrolment.is_group.then(|| operation.enrolment.id.clone()),
            by_certificate: matches!(operation.auth, Auth::Thumbprint(_) | Auth::Ca),
            created_at: before.as_ref().map_or(now, |before| before.created_at),
            updated_at: updated_at(before.as_ref(), assigned.as_ref(), now),
            operation_id: operation.id.clone(),
            etag: STANDARD.encode(format!("\"{}\"", answer::uuid(random()))),
            first_hub: before
                .and_then(|before| before.first_hub)
                .or_else(|| assigned.as_ref().map(|assigned| assigned.hub.clone())),
            payload: operation.enrolment.payload.clone().filter(|_| outcome == Outcome::Assigned),
            assigned,
            outcome,
        };
        self.metrics.registered(match &registration.outcome {
            Outcome::Assigned => "assigned",
            Outcome::Failed { .. } => "failed",
        });
        crash::here("dps-assigned");
        let kept = self.registrations.put(registration).await;
        if let Err(error) = kept.and_then(|()| self.registrations.end(&operation.registration_id)) {
            // The device asks, and it is tried again.
            tracing::error!(registration_id = %operation.registration_id, %error, "a registration cannot be kept");
        }
    }

    async fn assign(&self, operation: &Operation, before: Option<&Registration>) -> Result<Assigned, Failure> {
        let Operation { registration_id, enrolment, auth, .. } = operation;
        let linked = self.hubs.names();
        let chosen = allocation::choose(enrolment.allocation, &enrolment.hubs, &linked, registration_id);
        let had = before.and_then(|before| before.assigned.as_ref());
        let step = allocation::plan(had.map(|had| had.hub.as_str()), enrolment.reprovision, chosen);
        let step = step.map_err(Failure::Nowhere)?;
        // As it was written first: a device is the same however it writes its id, a hub's are not.
        let own = before.map_or(registration_id, |before| &before.registration_id);
        let device_id = enrolment.device_id.clone().unwrap_or_else(|| own.clone());
        let elsewhere = |hub: &str, otherwise| match before.and_then(|before| before.first_hub.as_deref()) {
            Some(first) if first.eq_ignore_ascii_case(hub) => Substatus::ReprovisionedToInitialAssignment,
            _ => otherwise,
        };
        let initial = &enrolment.initial_twin;
        let (hub, substatus, beginning) = match step {
            Step::First { hub } => (hub, Substatus::InitialAssignment, Beginning::With(initial)),
            Step::Stay { hub } => {
                (hub, had.map_or(Substatus::InitialAssignment, |had| had.substatus), Beginning::AsItIs)
            }
            Step::Reset { hub } => (hub, Substatus::DeviceDataReset, Beginning::Anew(initial)),
            Step::Migrate { from, to } => {
                // Of a hub of another process it is not known.
                let twin = had.and_then(|had| self.hubs.twin(from, &had.device_id));
                let beginning = twin.map_or(Beginning::With(initial), Beginning::Moved);
                (to, elsewhere(to, Substatus::DeviceDataMigrated), beginning)
            }
            Step::ResetElsewhere { to, .. } => {
                (to, elsewhere(to, Substatus::DeviceDataReset), Beginning::Anew(initial))
            }
        };
        self.hubs.place(hub, &device_id, auth, beginning).await?;
        // There first: a device is at two hubs for a moment rather than at none.
        if let Some(had) = had.filter(|had| !had.hub.eq_ignore_ascii_case(hub) || had.device_id != device_id) {
            self.hubs.remove(&had.hub, &had.device_id).await?;
        }
        Ok(Assigned { hub: hub.to_owned(), device_id, substatus })
    }

    fn underway(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.underway.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An operation that is under way until this is dropped, be it by a panic.
struct Underway<'a> {
    service: &'a Service,
    registration_id: &'a str,
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        self.service.underway().remove(&self.registration_id.to_ascii_lowercase());
    }
}

/// Why a device is not assigned.
enum Failure {
    Nowhere(allocation::Nowhere),
    Hub(HubsError),
}

impl From<HubsError> for Failure {
    fn from(error: HubsError) -> Self {
        Failure::Hub(error)
    }
}

/// Judges the body of a registration.
fn check(body: &[u8], registration_id: &str) -> Result<(), Refused> {
    let asked: Asked = serde_json::from_slice(body).map_err(|error| Refused::Malformed(error.to_string()))?;
    if asked.registration_id.is_some_and(|id| !id.eq_ignore_ascii_case(registration_id)) {
        return Err(Refused::Malformed("the registration id is not that of the connection".to_owned()));
    }
    match asked.tpm {
        Some(_) => Err(Refused::Malformed("TPM attestation is not supported over MQTT".to_owned())),
        None => Ok(()),
    }
}

/// A registration that changed nothing is as old as it was.
fn updated_at(before: Option<&Registration>, assigned: Option<&Assigned>, now: Timestamp) -> Timestamp {
    match before {
        Some(before) if before.assigned.as_ref() == assigned => before.updated_at,
        _ => now,
    }
}

/// Shaped as the service's.
fn operation_id() -> String {
    let partition: [u8; 8] = random();
    format!("4.{:016x}.{}", u64::from_be_bytes(partition), answer::uuid(random()))
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_body_is_json_of_the_same_registration() {
        // What nobody reads is skipped, however deep.
        let deep = format!("{{\"payload\":{}{}}}", "[".repeat(40_000), "]".repeat(40_000));
        for good in ["{}", r#"{"registrationId":"D"}"#, r#"{"payload":{"a":[1]},"registrationId":"d"}"#, &deep] {
            assert_eq!(check(good.as_bytes(), "d"), Ok(()), "{good}");
        }
        for bad in ["", " ", "[]", "{", r#"{"registrationId":"e"}"#, r#"{"registrationId":7}"#, r#"{"tpm":{}}"#] {
            let refused = check(bad.as_bytes(), "d").expect_err(bad);
            assert_eq!(refused.status(), 400);
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), like in "[\\[\\]{}\":,a-zA-Z0-9]{0,60}") {
            let _ = check(&bytes, "d");
            let _ = check(like.as_bytes(), "d");
        }
    }
}
