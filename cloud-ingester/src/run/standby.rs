//! One ingester of a lake runs its hops; the others stand by.

use std::sync::Arc;
use std::time::Duration;

use shared::blame::Blame;
use shared::notify::Pulse;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::RunError;
use super::hops::{Asked, Ended, Hold, HopMetrics, Looks, hop_loop};
use crate::bronze::stage::Committed;
use crate::hop::{Hops, Settings};
use crate::lake::{Holder, Lake, Lease, Steps, Waiting};
use crate::source::eventhubs::Held;

/// After something failed that may pass.
const FAILED_PAUSE: Duration = Duration::from_secs(2);

/// What the hops of this ingester need, whether they run or wait.
pub(super) struct Standby {
    pub(super) lake: Arc<Lake>,
    pub(super) holder: Holder,
    pub(super) settings: Settings,
    pub(super) committed: watch::Receiver<Committed>,
    /// Who else reads the hub.
    pub(super) peers: watch::Receiver<Held>,
    pub(super) asked: mpsc::Receiver<Asked>,
    pub(super) pause: Duration,
    pub(super) metrics: HopMetrics,
    pub(super) looks: Looks,
    pub(super) stop: CancellationToken,
    /// Cancelled when all is done.
    pub(super) http: CancellationToken,
    pub(super) pulse: Pulse,
}

impl Standby {
    /// Waits for the lease, runs the hops, and waits again when the lease is lost; until told to stop.
    pub(super) async fn run(mut self) -> Result<(), RunError> {
        let _http = self.http.clone().drop_guard();
        let mut waiting = Waiting::default();
        let mut said = None;
        loop {
            self.pulse.beat();
            let tried = waiting.try_take(&self.lake, &self.holder).await;
            let pause = match tried {
                Ok(Ok(lease)) => {
                    tracing::info!(lake = %self.lake.location().root(), "the hops of this lake are ours");
                    said = None;
                    waiting = Waiting::default();
                    match self.hold(lease).await? {
                        Ended::Stopped => return Ok(()),
                        Ended::LeaseLost => Duration::ZERO,
                    }
                }
                Ok(Err(holder)) => {
                    self.looks.stands_by();
                    if said.as_ref() != Some(&holder.run) {
                        tracing::info!(%holder, "standing by: another ingester runs the hops");
                        said = Some(holder.run.clone());
                    }
                    Waiting::pause(&self.lake)
                }
                Err(error) if error.blame() == Blame::Peer => {
                    tracing::warn!(%error, "the lease of the hops can't be looked at; trying again");
                    self.looks.failed(&error);
                    FAILED_PAUSE
                }
                Err(error) => return Err(error.into()),
            };
            if self.wait(pause).await {
                return Ok(());
            }
        }
    }

    /// Whether it is over. Requests are turned away meanwhile.
    async fn wait(&mut self, pause: Duration) -> bool {
        let until = tokio::time::Instant::now() + pause;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return false,
                () = self.stop.cancelled() => break,
                Some(asked) = self.asked.recv() => {
                    let _ = asked.answer.send(Err("standing by: another ingester runs the hops".to_owned()));
                }
            }
        }
        // What bronze still commits is for whoever holds the lease; the face goes when bronze has ended.
        while self.committed.changed().await.is_ok() {}
        true
    }

    async fn hold(&mut self, lease: Lease) -> Result<Ended, RunError> {
        let steps = Steps::default();
        let taking = Hops::take_over_with(Arc::clone(&self.lake), lease, self.settings.clone(), steps.clone());
        let hops = match steps.of(taking, || self.pulse.beat()).await {
            Ok(hops) => hops,
            Err(error) => {
                self.looks.failed(&error);
                let _ = super::hops::patience(error.into())?;
                self.metrics.failed();
                tokio::time::sleep(FAILED_PAUSE).await;
                // Dropped with its lease, which is tried again.
                return Ok(if self.stop.is_cancelled() { Ended::Stopped } else { Ended::LeaseLost });
            }
        };
        let hold = Hold {
            committed: &mut self.committed,
            asked: &mut self.asked,
            peers: &self.peers,
            pause: self.pause,
            metrics: &self.metrics,
            looks: &self.looks,
            stop: &self.stop,
            pulse: &self.pulse,
        };
        hop_loop(hops, hold).await
    }
}
