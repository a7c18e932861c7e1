//! Round after round of hops, and requests between two rounds.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use shared::blame::Blame;
use shared::notify::Pulse;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::RunError;
use crate::bronze::stage::Committed;
use crate::hop::replay::ReplayRequest;
use crate::hop::{HopError, Hops, Report};
use crate::lake::{Lake, LakeError, Table};
use crate::source::eventhubs::Held;
use crate::upkeep::{self, Done};

/// While nothing comes the tables are looked at this often: somebody else may have written them.
const IDLE_ROUND: Duration = Duration::from_secs(5);

/// What one request asks of the running hops.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HopRequest {
    /// A table to fill anew, by its full name; without one, hops run as they always do.
    #[serde(default)]
    pub full_refresh: Option<String>,
    /// Tables, by their full names, that are to be brought up to date; none: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// Upkeep in place of hops.
    #[serde(default)]
    pub maintain: Option<Maintain>,
    /// Refusals to take up again; nothing else is done then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<Box<ReplayRequest>>,
}

/// Which tables upkeep is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Maintain {
    /// All.
    All,
    /// This one, by its full name.
    Table(String),
}

impl Maintain {
    /// The tables meant.
    ///
    /// # Errors
    /// [`HopError::NoTable`]: there is none of that name.
    pub fn tables(&self, lake: &Lake) -> Result<Vec<Table>, HopError> {
        match self {
            Self::All => Ok(lake.tables().to_vec()),
            Self::Table(name) => match lake.named(name) {
                Some(table) => Ok(vec![table]),
                None => Err(HopError::NoTable(name.clone())),
            },
        }
    }
}

impl HopRequest {
    /// The table of `lake` to fill anew, if one is asked for.
    ///
    /// # Errors
    /// [`HopError::NoTarget`]: no hop fills a table of that name.
    pub fn target(&self, lake: &Lake) -> Result<Option<Table>, HopError> {
        self.full_refresh.as_ref().map(|name| filled(lake, name)).transpose()
    }

    /// The tables it is for, beside silver and the watermarks, which every hop brings up; empty: all.
    ///
    /// # Errors
    /// [`HopError::NoTarget`]: no hop fills a table of that name.
    pub fn only(&self, lake: &Lake) -> Result<Vec<Table>, HopError> {
        self.only.iter().map(|name| filled(lake, name)).collect()
    }
}

/// A table that hops fill.
fn filled(lake: &Lake, name: &str) -> Result<Table, HopError> {
    match lake.named(name) {
        None | Some(Table::BronzeMessages | Table::SilverDevices) => Err(HopError::NoTarget(name.to_owned())),
        Some(table) => Ok(table),
    }
}

/// A request that waits for its answer.
pub(super) struct Asked {
    pub(super) request: HopRequest,
    pub(super) answer: oneshot::Sender<Result<String, String>>,
}

/// Rates of the hops.
#[derive(Clone, Debug)]
pub(super) struct HopMetrics {
    rounds: Counter,
    readings: Counter,
    quarantined: Counter,
    duplicates: Counter,
    failed: Counter,
    models_failed: Counter,
    merged: Gauge,
    removed: Gauge,
    log_removed: Gauge,
    upkeep_failed: Gauge,
    put_off: Gauge,
    messages: Gauge,
}

impl HopMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("ingest_hops");
        let metrics = Self {
            rounds: Counter::default(),
            readings: Counter::default(),
            quarantined: Counter::default(),
            duplicates: Counter::default(),
            failed: Counter::default(),
            models_failed: Counter::default(),
            merged: Gauge::default(),
            removed: Gauge::default(),
            log_removed: Gauge::default(),
            upkeep_failed: Gauge::default(),
            put_off: Gauge::default(),
            messages: Gauge::default(),
        };
        registry.register("upkeep_merged_files", "Small files merged since the start", metrics.merged.clone());
        registry.register("upkeep_removed_files", "Files removed for good since the start", metrics.removed.clone());
        registry.register("upkeep_removed_log", "Log entries removed since the start", metrics.log_removed.clone());
        registry.register("upkeep_failed", "Times that upkeep was left for later", metrics.upkeep_failed.clone());
        let put_off = metrics.put_off.clone();
        registry.register(
            "upkeep_put_off",
            "Models so far behind that upkeep does not wait for them any more",
            put_off,
        );
        let messages = metrics.messages.clone();
        registry.register("messages_remembered", "Messages known by their ids, at most 72 bytes each", messages);
        registry.register("rounds", "Rounds that had something to do", metrics.rounds.clone());
        registry.register("readings", "Rows committed to silver.readings", metrics.readings.clone());
        registry.register("quarantined", "Rows committed to silver.quarantine", metrics.quarantined.clone());
        registry.register("duplicates", "Readings that were seen before", metrics.duplicates.clone());
        registry.register("failed", "Rounds that failed and were tried again", metrics.failed.clone());
        let failed = metrics.models_failed.clone();
        registry.register("models_failed", "Turns of models that failed; the others went on", failed);
        metrics
    }

    fn remember(&self, messages: u64) {
        self.messages.set(i64::try_from(messages).unwrap_or(i64::MAX));
    }

    fn keep(&self, report: upkeep::Report) {
        let shown = [
            (&self.merged, report.merged),
            (&self.removed, report.removed),
            (&self.log_removed, report.log),
            (&self.upkeep_failed, report.failed),
            (&self.put_off, report.put_off),
        ];
        for (gauge, value) in shown {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }

    pub(super) fn failed(&self) {
        self.failed.inc();
    }

    fn count(&self, report: &Report) {
        self.rounds.inc();
        if let Some(silver) = report.silver.filter(|silver| !silver.refreshed) {
            self.readings.inc_by(silver.readings);
            self.quarantined.inc_by(silver.quarantined);
            self.duplicates.inc_by(silver.moved.duplicates);
        }
    }
}

/// How the hops do, for readiness.
#[derive(Clone, Debug, Default)]
pub(super) struct Looks {
    state: Arc<Mutex<Look>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    /// Since when rounds fail, and why the last one did.
    pub(super) failing: Option<(Instant, String)>,
}

impl Looks {
    fn went_well(&self) {
        self.lock().failing = None;
    }

    pub(super) fn stands_by(&self) {
        self.went_well();
    }

    pub(super) fn failed(&self, error: &dyn std::fmt::Display) {
        let mut look = self.lock();
        let since = look.failing.take().map_or_else(Instant::now, |(since, _)| since);
        look.failing = Some((since, error.to_string()));
    }

    pub(super) fn now(&self) -> Look {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Look> {
        self.state.lock().expect("no thread panics while it holds this")
    }
}

/// What the hops are given while they run.
pub(super) struct Hold<'a> {
    pub(super) committed: &'a mut watch::Receiver<Committed>,
    pub(super) asked: &'a mut mpsc::Receiver<Asked>,
    pub(super) peers: &'a watch::Receiver<Held>,
    pub(super) pause: Duration,
    pub(super) metrics: &'a HopMetrics,
    pub(super) looks: &'a Looks,
    pub(super) stop: &'a CancellationToken,
    pub(super) pulse: &'a Pulse,
}

/// Why the hops ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Bronze is done, and so are they; the lease is given back.
    Stopped,
    /// Another has the lease.
    LeaseLost,
}

pub(super) async fn hop_loop(mut hops: Hops, hold: Hold<'_>) -> Result<Ended, RunError> {
    let mut open = true;
    loop {
        hold.pulse.beat();
        while let Ok(asked) = hold.asked.try_recv() {
            let steps = hops.steps().clone();
            if steps.of(answer(&mut hops, asked, hold.metrics), || hold.pulse.beat()).await?.is_break() {
                return Ok(Ended::LeaseLost);
            }
        }
        hold.committed.borrow_and_update();
        let steps = hops.steps().clone();
        let idle = match steps.of(hops.round(), || hold.pulse.beat()).await {
            Ok(report) => {
                hold.looks.went_well();
                let idle = report.is_idle();
                hold.metrics.models_failed.inc_by(report.ailing.len() as u64);
                if !idle {
                    hold.metrics.count(&report);
                    tracing::debug!(?report, "hops");
                }
                idle
            }
            Err(error) => {
                hold.looks.failed(&error);
                if patience(error.into())?.is_break() {
                    return Ok(Ended::LeaseLost);
                }
                hold.metrics.failed.inc();
                tokio::time::sleep(Duration::from_secs(2)).await;
                continue;
            }
        };
        hold.metrics.keep(hops.upkeep());
        hold.metrics.remember(hops.messages());
        // Where others go on reading there is always something new: they do the rest.
        if !open && (idle || 0 < hold.peers.borrow().others) {
            hops.into_lease().release().await;
            return Ok(Ended::Stopped);
        }
        if !open {
            continue;
        }
        // In haste while stopping; else rows are worth more together.
        if !idle {
            tokio::select! {
                () = tokio::time::sleep(hold.pause) => {}
                () = hold.stop.cancelled() => {}
            }
        }
        if idle {
            tokio::select! {
                changed = hold.committed.changed() => open = changed.is_ok(),
                Some(asked) = hold.asked.recv() => {
                    let steps = hops.steps().clone();
                    if steps.of(answer(&mut hops, asked, hold.metrics), || hold.pulse.beat()).await?.is_break() {
                        return Ok(Ended::LeaseLost);
                    }
                }
                () = tokio::time::sleep(IDLE_ROUND) => {}
            }
        } else if hold.stop.is_cancelled() && hold.committed.has_changed().is_err() {
            open = false;
        }
    }
}

/// Passes on what no new attempt can mend; breaks where the lease is lost.
pub(super) fn patience(error: RunError) -> Result<ControlFlow<()>, RunError> {
    let lost = matches!(
        error,
        RunError::Hop(HopError::Lake(LakeError::LeaseLost { .. } | LakeError::Fenced { .. }))
            | RunError::Lake(LakeError::LeaseLost { .. } | LakeError::Fenced { .. })
    );
    if lost {
        tracing::warn!(%error, "another ingester runs the hops now");
        return Ok(ControlFlow::Break(()));
    }
    if error.blame() != Blame::Peer {
        return Err(error);
    }
    tracing::warn!(%error, "hops failed; trying again");
    Ok(ControlFlow::Continue(()))
}

async fn answer(hops: &mut Hops, asked: Asked, metrics: &HopMetrics) -> Result<ControlFlow<()>, RunError> {
    tracing::info!(request = ?asked.request, "asked to hop");
    if let Some(maintain) = &asked.request.maintain {
        let done = match maintain.tables(hops.lake()) {
            Ok(tables) => hops.maintain(&tables).await,
            Err(error) => Err(error),
        };
        let told = match &done {
            Ok(done) if upkeep::is_whole(done) => Ok(tell_upkeep(done)),
            Ok(done) => Err(tell_upkeep(done)),
            Err(error) => Err(error.to_string()),
        };
        let _ = asked.answer.send(told);
        return match done {
            Ok(_) | Err(HopError::NoTable(_)) => Ok(ControlFlow::Continue(())),
            Err(error) => patience(error.into()),
        };
    }
    if let Some(replay) = &asked.request.replay {
        let done = hops.replay(replay).await;
        let told = match &done {
            Ok(report) => Ok(serde_json::to_string(report).expect("a report is plain data")),
            Err(error) => Err(error.to_string()),
        };
        let _ = asked.answer.send(told);
        return done.map(|_| ControlFlow::Continue(())).or_else(|error| patience(error.into()));
    }
    let done = obey(hops, &asked.request).await;
    let told = match &done {
        Ok(report) => {
            metrics.count(report);
            Ok(tell(report))
        }
        Err(error) => Err(error.to_string()),
    };
    // Whoever asked may be gone.
    let _ = asked.answer.send(told);
    match done {
        Err(error @ HopError::NoTarget(_)) => {
            tracing::warn!(%error, "refused");
            Ok(ControlFlow::Continue(()))
        }
        Err(error) => patience(error.into()),
        Ok(_) => Ok(ControlFlow::Continue(())),
    }
}

/// Does what a request asks: a full refresh, or rounds until nothing is new.
///
/// # Errors
/// What the hop says.
pub async fn obey(hops: &mut Hops, request: &HopRequest) -> Result<Report, HopError> {
    let Some(target) = request.target(hops.lake())? else {
        let mut sum = Report::default();
        let stop = CancellationToken::new();
        let only = request.only(hops.lake())?;
        hops.run_only(&only, &stop, |report| sum = add(std::mem::take(&mut sum), report)).await?;
        return Ok(sum);
    };
    hops.full_refresh(target).await
}

fn add(mut sum: Report, report: &Report) -> Report {
    let silver = match (sum.silver, report.silver) {
        (Some(mut before), Some(now)) => {
            before.versions += now.versions;
            before.readings += now.readings;
            before.quarantined += now.quarantined;
            before.gaps += now.gaps;
            before.moved.duplicates += now.moved.duplicates;
            before.refreshed |= now.refreshed;
            Some(before)
        }
        (before, now) => now.or(before),
    };
    sum.silver = silver;
    sum.gold.extend(report.gold.iter().copied());
    sum.ailing.extend(report.ailing.iter().cloned());
    sum
}

/// What upkeep did, in words.
#[must_use]
pub fn tell_upkeep(done: &[Done]) -> String {
    match done {
        [] => "nothing was to be done".to_owned(),
        done => done.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    }
}

/// A report in words.
#[must_use]
pub fn tell(report: &Report) -> String {
    if report.is_idle() && report.ailing.is_empty() {
        return "nothing was new".to_owned();
    }
    let mut lines = vec![];
    if let Some(silver) = &report.silver {
        lines.push(format!(
            "silver: {} versions of bronze, {} readings, {} quarantined, {} gaps, {} duplicates{}",
            silver.versions,
            silver.readings,
            silver.quarantined,
            silver.gaps,
            silver.moved.duplicates,
            if silver.refreshed { " (all anew)" } else { "" }
        ));
    }
    for gold in &report.gold {
        let anew = if gold.refreshed { " (all anew)" } else { "" };
        lines.push(format!("{}: {} rows computed{anew}", gold.table.full_name(), gold.rows));
    }
    for (table, why) in &report.ailing {
        lines.push(format!("{}: failed: {why}", table.full_name()));
    }
    lines.join("\n")
}
