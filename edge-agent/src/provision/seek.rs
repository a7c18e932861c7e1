//! Asks for a hub: once, for the command; until there is one, for a run.

use std::path::Path;
use std::time::Duration;

use shared::backoff::Backoff;
use shared::clock::Clock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::record::{self, Assignment};
use super::service::{self, Fault};
use super::{Applicant, Config};
use crate::hub::Known;
use crate::line::Dial;
use crate::trust;

/// Where another way is left, a service that does not let us in is not waited for longer.
const LET_IN: Duration = Duration::from_secs(30);

pub(crate) fn backoff(config: &Config, clock: &Clock) -> Backoff {
    let seed = clock.now().micros().unsigned_abs() ^ u64::from(std::process::id()).rotate_left(32);
    Backoff::new(config.backoff_min.duration(), config.backoff_max.duration(), seed)
}

/// Asks once: by the first way; where the service is not reached so, by the next.
///
/// # Errors
/// The service is away, or says no.
pub async fn attempt(applicant: &Applicant, config: &Config, clock: &Clock) -> Result<Assignment, Fault> {
    let certificate = applicant.identity.certificate();
    let tls = applicant.tls.then(|| trust::client_as(applicant.ca_file.as_deref(), certificate)).transpose()?;
    let mut ways = applicant.network.choice.ways().iter().peekable();
    // What came of the ways before, for who gets no answer by the last one either.
    let mut before = String::new();
    loop {
        let way = *ways.next().expect("there is a way, and the last one returns");
        let last = ways.peek().is_none();
        let whole = config.timeout.duration();
        let dial = Dial {
            host: applicant.host.clone(),
            port: applicant.port_by(way),
            way,
            proxy: applicant.network.proxy.clone(),
            tls: tls.clone(),
            timeout: if last { whole } else { whole.min(LET_IN) },
        };
        let asking = service::ask(applicant, config, &dial, backoff(config, clock), clock.now());
        match Box::pin(asking).await {
            Ok(assigned) => return Ok(Assignment::new(assigned, applicant, clock.now())),
            Err(fault @ Fault::Away { reached: false, .. }) if !last => {
                info!("{fault}; now by the other way");
                if let Fault::Away { port, why, .. } = fault {
                    before += &format!("; nor from port {port}: {why}");
                }
            }
            Err(Fault::Away { host, port, why, reached }) => {
                return Err(Fault::Away { host, port, why: why + &before, reached });
            }
            Err(fault) => return Err(fault),
        }
    }
}

/// The hub that was assigned before, else the one the service assigns now, asked until it does. `None` on `stop`.
///
/// Readings are taken in and kept meanwhile: that the hub is not known yet is no more than that it is away.
///
/// # Errors
/// No authority to trust.
pub async fn seek(
    applicant: &Applicant,
    config: &Config,
    database: &Path,
    clock: &Clock,
    known: &watch::Sender<Known>,
    stop: &CancellationToken,
) -> Result<Option<Assignment>, trust::TrustError> {
    match record::read(database) {
        Ok(Some(assignment)) if assignment.is_of(applicant) => {
            info!(
                hub = assignment.hub,
                device = assignment.device,
                since = assignment.assigned_at,
                "hub of an earlier provisioning"
            );
            known.send_modify(|known| known.assigned(&assignment));
            return Ok(Some(assignment));
        }
        Ok(Some(other)) => info!(
            id_scope = other.id_scope,
            registration_id = other.registration_id,
            "the hub of an earlier provisioning was assigned to another registration: asking anew"
        ),
        Ok(None) => {}
        Err(error) => warn!("no hub of an earlier provisioning: {error}"),
    }
    let (host, registration_id) = (&applicant.host, &applicant.registration_id);
    let port = applicant.port_by(applicant.network.choice.ways()[0]);
    info!(host, port, registration_id, "no hub is set: asking the provisioning service");
    let mut waits = backoff(config, clock);
    loop {
        let asked = stop.run_until_cancelled(attempt(applicant, config, clock)).await;
        let fault = match asked {
            None => return Ok(None),
            Some(Ok(assignment)) => {
                keep(database, &assignment).await;
                known.send_modify(|known| known.assigned(&assignment));
                return Ok(Some(assignment));
            }
            Some(Err(Fault::Trust(error))) => return Err(error),
            Some(Err(fault)) => fault,
        };
        let text = fault.to_string();
        let repeated = known.borrow().last_error.as_ref() == Some(&text);
        match (&fault, repeated) {
            (Fault::Refused(_), _) => {
                error!("no hub yet: {text}");
                waits.escalate();
            }
            (_, false) => warn!("no hub yet: {text}"),
            (_, true) => tracing::debug!("still no hub: {text}"),
        }
        known.send_modify(|known| known.last_error = Some(text));
        if stop.run_until_cancelled(tokio::time::sleep(waits.next_wait())).await.is_none() {
            return Ok(None);
        }
    }
}

/// A hub that cannot be written down is asked for again by the next start.
pub(crate) async fn keep(database: &Path, assignment: &Assignment) {
    let (database, copy) = (database.to_owned(), assignment.clone());
    let written = tokio::task::spawn_blocking(move || record::write(&database, &copy)).await;
    match written {
        Ok(Ok(())) => info!(hub = assignment.hub, device = assignment.device, "provisioned"),
        Ok(Err(error)) => error!(hub = assignment.hub, "provisioned, but the hub cannot be written down: {error}"),
        Err(error) => error!("provisioned, but the hub was not written down: {error}"),
    }
}
