//! Finds the hub and sends to it; and where that hub does not take us any more, finds it again.
//!
//! ```text
//! connection string, or the provisioning service -> uplink --stop------> the end
//!        ^                  ^                          |
//!        | read anew        +-- asked anew, rarely ----+-- the assigned hub refuses us, or is away for long
//!        +---------------------------------------------+-- a call: restart-uplink
//! ```
//!
//! Whoever ends the uplink leaves all that has no PUBACK in the outbox, from where the next one takes it.

use std::time::Instant;

use shared::clock::Clock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Config;
use crate::hub::{Known, Source};
use crate::outbox::Outbox;
use crate::provision::{self, Applicant, Assignment, Fault};
use crate::remote::Remote;
use crate::uplink::{self, Ended, HubTarget, UplinkError};

/// What the uplink needs, whichever hub it is.
pub(crate) struct Means {
    pub(crate) outbox: Outbox,
    pub(crate) clock: Clock,
    pub(crate) metrics: uplink::Metrics,
    pub(crate) remote: Remote,
}

/// Sends until `stop`, as [`uplink::run`] does.
///
/// # Errors
/// As [`uplink::run`].
pub(crate) async fn run(
    config: &Config,
    mut source: Source,
    mut means: Means,
    known: &watch::Sender<Known>,
    stop: &CancellationToken,
) -> Result<(), UplinkError> {
    let Some(mut target) = Box::pin(first(config, &source, &means, known, stop)).await? else {
        return Ok(()); // stopped before; what is held waits for the next run
    };
    let mut waits = provision::backoff(&config.provisioning, &means.clock);
    loop {
        let (settings, outbox, clock) = (config.uplink.clone(), means.outbox.clone(), means.clock.clone());
        let (metrics, stop_here) = (means.metrics.clone(), stop.clone());
        let sending = uplink::run(settings, target.clone(), outbox, clock, stop_here, metrics, &mut means.remote);
        match (Box::pin(sending).await?, &source) {
            (Ended::Stopped, _) => return Ok(()),
            (Ended::Restart, _) => match config.source() {
                Ok(anew) => {
                    source = anew;
                    if let Source::Fixed(anew) = &source {
                        target = anew.clone();
                    } else if let Some(anew) = Box::pin(first(config, &source, &means, known, stop)).await? {
                        target = anew;
                    } else {
                        return Ok(());
                    }
                    info!(hub = target.hub, "credentials were read anew");
                }
                Err(error) => warn!("the credentials of before stay in use: {error}"),
            },
            (Ended::Doubted { was_up }, Source::Provisioned(applicant)) => {
                if was_up {
                    waits.reset();
                }
                let asked = stop.run_until_cancelled(ask_again(config, applicant, &means.clock, known)).await;
                let Some(asked) = asked else { return Ok(()) };
                if let Some(assignment) = asked {
                    target = applicant.target(&assignment, &config.hub.dial(applicant.network.clone()));
                }
                // Each question is paid for, and the same answer will come again for a while.
                target.ask_again_at =
                    Some(Instant::now() + waits.next_wait().max(config.provisioning.backoff_min.duration()));
                waits.escalate();
            }
            // Only an assigned hub is doubted.
            (Ended::Doubted { .. }, Source::Fixed(_)) => target.ask_again_at = None,
        }
    }
}

/// The hub to begin with; `None` on `stop`.
async fn first(
    config: &Config,
    source: &Source,
    means: &Means,
    known: &watch::Sender<Known>,
    stop: &CancellationToken,
) -> Result<Option<HubTarget>, UplinkError> {
    match source {
        Source::Fixed(target) => Ok(Some(target.clone())),
        Source::Provisioned(applicant) => {
            let (settings, path) = (&config.provisioning, &config.outbox.path);
            let sought = Box::pin(provision::seek(applicant, settings, path, &means.clock, known, stop)).await?;
            Ok(sought.map(|assignment| applicant.target(&assignment, &config.hub.dial(applicant.network.clone()))))
        }
    }
}

/// What the service says now; `None` where it says nothing of use, and the hub of before is tried on.
async fn ask_again(
    config: &Config,
    applicant: &Applicant,
    clock: &Clock,
    known: &watch::Sender<Known>,
) -> Option<Assignment> {
    let before = known.borrow().name.clone();
    info!(hub = before, "the assigned hub does not take this gateway: asking the provisioning service again");
    match Box::pin(provision::attempt(applicant, &config.provisioning, clock)).await {
        Ok(assignment) => {
            let moved = before.as_ref() != Some(&assignment.hub);
            info!(hub = assignment.hub, device = assignment.device, moved, "provisioned again");
            provision::keep(&config.outbox.path, &assignment).await;
            known.send_modify(|known| known.assigned(&assignment));
            Some(assignment)
        }
        Err(fault) => {
            let refused = matches!(fault, Fault::Refused(_));
            warn!(refused, "the hub of before is tried on: {fault}");
            known.send_modify(|known| known.last_error = Some(fault.to_string()));
            None
        }
    }
}
