//! One hop after the other, by the holder of the lease.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::prelude::SessionContext;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::beside::{Beside, Finished};
use super::catalogue::Following;
use super::error::HopError;
use super::gold::{GoldReport, HEALTH_SOURCES};
use super::plan::Why;
use super::settings::Settings;
use super::silver::{SilverReport, TARGETS};
use super::turns::{Turn, Turns};
use crate::gold::models::embedded;
use crate::gold::watermark::Watermarks;
use crate::gold::{Mode, Model};
use crate::lake::session::watched;
use crate::lake::{Lake, LakeError, Layer, Lease, Steps, Table};
use crate::silver::{Rules, Seen, Totals};
use crate::upkeep::{self, Done, Upkeep};

/// What was seen and counted, as the newest commits have it.
pub(super) struct Memory {
    pub(super) seen: Seen,
    pub(super) totals: Totals,
}

/// The hops of a lake, run by the holder of its lease.
pub struct Hops {
    pub(super) lake: Arc<Lake>,
    pub(super) lease: Lease,
    pub(super) settings: Settings,
    pub(super) rules: Arc<Rules>,
    pub(super) session: SessionContext,
    steps: Steps,
    pub(super) beside: Beside,
    /// When what was seen was kept last.
    pub(super) noted: Option<Instant>,
    pub(super) memory: Option<Memory>,
    upkeep: Upkeep,
    pub(super) devices: Following,
    models: Vec<Model>,
    pub(super) turns: HashMap<Table, Turn>,
    /// The watermarks as the table has them, once it was read.
    pub(super) marks: Option<Watermarks>,
    /// When they were committed last, in microseconds.
    pub(super) marked_at: Option<i64>,
    #[cfg(test)]
    pub(super) end_before: Option<Table>,
}

/// What one round of hops did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The silver hop, if there was anything new in bronze.
    pub silver: Option<SilverReport>,
    /// The gold hops that had something to do.
    pub gold: Vec<GoldReport>,
    /// Models that failed: the table and why. They are tried again; the others went on.
    pub ailing: Vec<(Table, String)>,
}

impl Report {
    /// Whether nothing was new anywhere.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.silver.is_none() && self.gold.is_empty()
    }
}

impl Hops {
    /// Takes over as the new holder: fences every target against an older one, finishes what it left half done, and
    /// learns from the tables what was seen. The tables have to exist.
    ///
    /// # Errors
    /// When the lake refuses, or a half done commit cannot be finished.
    pub async fn take_over(lake: Arc<Lake>, lease: Lease, settings: Settings) -> Result<Self, HopError> {
        Box::pin(Self::take_over_with(lake, lease, settings, Steps::default())).await
    }

    /// The same; what the memory of SQL does counts among `steps`.
    ///
    /// # Errors
    /// As [`Hops::take_over`].
    pub async fn take_over_with(
        lake: Arc<Lake>,
        lease: Lease,
        settings: Settings,
        steps: Steps,
    ) -> Result<Self, HopError> {
        let mut hops = Self {
            session: watched(settings.limits, &steps)?,
            steps,
            beside: Beside::default(),
            noted: None,
            rules: Arc::new(settings.rules_of_now()),
            devices: Following::new(settings.catalogue.clone()),
            models: embedded().await?,
            turns: HashMap::new(),
            marks: None,
            marked_at: None,
            upkeep: Upkeep::new(settings.upkeep),
            memory: None,
            lake,
            lease,
            settings,
            #[cfg(test)]
            end_before: None,
        };
        for model in hops.settings.own.clone() {
            // A table that does not fit its model was named when it was looked at.
            match hops.lake.view(model.target).await?.check() {
                Err(LakeError::Foreign { .. }) => {}
                checked => {
                    checked?;
                    hops.models.push(model);
                }
            }
        }
        hops.keep_rules().await?;
        let bronze = hops.lake.view(Table::BronzeMessages).await?.id();
        for target in TARGETS {
            hops.lake.fence(target, &target.app_id(&bronze), &hops.lease).await?;
        }
        let readings = hops.lake.view(Table::SilverReadings).await?.id();
        let gold = hops.lake.tables().iter().filter(|table| table.layer() == Layer::Gold);
        for &target in gold.filter(|table| **table != Table::GoldGatewayHealth) {
            hops.lake.fence(target, &target.app_id(&readings), &hops.lease).await?;
        }
        for source in HEALTH_SOURCES {
            let source = hops.lake.view(source).await?.id();
            let target = Table::GoldGatewayHealth;
            hops.lake.fence(target, &target.app_id(&source), &hops.lease).await?;
        }
        hops.lake.fence(Table::SilverDevices, &Table::SilverDevices.app_id("catalogue"), &hops.lease).await?;
        hops.retain().await?;
        hops.remember_devices().await?;
        hops.finish_half_done().await?;
        if hops.memory.is_none() {
            hops.memory = match hops.remember(&hops.rules, None).await {
                // The first round refreshes.
                Err(error) if error.is_log_gone() => None,
                remembered => Some(remembered?),
            };
        }
        Ok(hops)
    }

    /// Has every table say how long it keeps what was removed.
    async fn retain(&self) -> Result<(), HopError> {
        for &table in self.lake.tables() {
            match self.lake.retain(table, upkeep::retention(&self.settings.upkeep), &self.lease).await {
                Err(lost @ LakeError::LeaseLost { .. }) => return Err(lost.into()),
                // Others commit to bronze all the time. Nothing waits for it: the next holder tries again.
                Err(error) => tracing::warn!(%error, "a table does not say yet how long it keeps what was removed"),
                Ok(true) => {
                    tracing::info!(table = table.full_name(), "the table says how long it keeps what was removed")
                }
                Ok(false) => {}
            }
        }
        Ok(())
    }

    /// One round: reads what is new in bronze, up to the limit of one commit, and brings gold up to it. A model whose turn
    /// it is not is left out.
    ///
    /// # Errors
    /// What failed. A hop that was committed in part is finished by its own plan in the next round.
    pub async fn round(&mut self) -> Result<Report, HopError> {
        self.turn_of(Turns::Due, &[]).await
    }

    /// `only`: none but these tables of gold, and the watermarks; empty: all.
    async fn turn_of(&mut self, turns: Turns, only: &[Table]) -> Result<Report, HopError> {
        match self.turn_once(turns, only).await {
            // A source behind what was read of it: before anybody is told to restore it, everything is listed anew.
            Err(HopError::Ahead { .. }) => {
                self.lake.forget().await;
                self.turn_once(turns, only).await
            }
            done => done,
        }
    }

    async fn turn_once(&mut self, turns: Turns, only: &[Table]) -> Result<Report, HopError> {
        let is_asked = |table: Table| only.is_empty() || only.contains(&table);
        self.finish_what_failed().await?;
        self.follow_catalogue().await?;
        let mut report = Report { silver: self.silver().await?, ..Report::default() };
        report.gold.extend(self.watermarks(None, turns == Turns::All).await?);
        let models = self.models.clone();
        let mut failed = None;
        if let Some(Finished { model, begun, done }) = self.finish_beside(&models).await {
            let done = done.map(|done| report.gold.extend(done));
            failed = failed.or(self.went(&model, begun, done, &mut report)?);
        }
        for model in models.into_iter().filter(|model| is_asked(model.target)) {
            let begun = Instant::now();
            let beside = turns == Turns::Due && self.settings.beside && model.draft.refresh.is_scheduled();
            if beside && self.beside.is_busy() {
                continue;
            }
            if turns == Turns::Due && !self.is_due(&model, begun, report.silver.is_some()) {
                continue;
            }
            if beside {
                self.begin_beside(&model, begun)?;
                continue;
            }
            let done = self.level(&model, &mut report).await;
            failed = failed.or(self.went(&model, begun, done, &mut report)?);
        }
        if is_asked(Table::GoldGatewayHealth) {
            report.gold.extend(self.health(None).await?);
        }
        self.upkeep.step(&self.lake, &self.lease).await?;
        // Only now: the others had their turn.
        match failed {
            None => Ok(report),
            Some(error) => Err(error.into()),
        }
    }

    async fn level(&mut self, model: &Model, report: &mut Report) -> Result<(), HopError> {
        while let Some(done) = self.model(model, None).await? {
            report.gold.push(done);
            // What reads everything is level at once, and would be again and again.
            if model.draft.mode == Mode::Full {
                break;
            }
        }
        Ok(())
    }

    /// The lake's watermark, in microseconds; none before anything came.
    pub(super) fn watermark(&self) -> Option<i64> {
        self.marks.as_ref().and_then(Watermarks::lake)
    }

    /// Does all the upkeep there is to do in these tables now, whatever the schedule says.
    ///
    /// # Errors
    /// What the lake says.
    pub async fn maintain(&mut self, tables: &[Table]) -> Result<Vec<Done>, HopError> {
        Ok(self.upkeep.all(&self.lake, &self.lease, tables).await?)
    }

    /// The count of what goes on inside a round.
    #[must_use]
    pub fn steps(&self) -> &Steps {
        &self.steps
    }

    /// The lake they work on.
    #[must_use]
    pub fn lake(&self) -> &Lake {
        &self.lake
    }

    /// What upkeep has done since the process began.
    #[must_use]
    pub fn upkeep(&self) -> upkeep::Report {
        self.upkeep.report()
    }

    /// A round that ends with silver: for those who measure the two apart.
    ///
    /// # Errors
    /// As [`Hops::round`].
    pub async fn silver_alone(&mut self) -> Result<Report, HopError> {
        self.finish_what_failed().await?;
        Ok(Report { silver: self.silver().await?, ..Report::default() })
    }

    /// No memory: the last hop failed midway. Its side tables may be ahead, only its own plan may finish it, and until then
    /// what was seen can't be learned from the tables.
    async fn finish_what_failed(&mut self) -> Result<(), HopError> {
        match self.memory {
            Some(_) => Ok(()),
            None => self.finish_half_done().await,
        }
    }

    /// Rounds until nothing is new, or `stop` is cancelled. `each` is told what every round did.
    ///
    /// # Errors
    /// As [`Hops::round`].
    pub async fn run_all(&mut self, stop: &CancellationToken, each: impl FnMut(&Report)) -> Result<(), HopError> {
        self.run_only(&[], stop, each).await
    }

    /// The same for silver, the watermarks and these tables of gold; the others are brought up when it is their turn.
    ///
    /// # Errors
    /// As [`Hops::round`].
    pub async fn run_only(
        &mut self,
        only: &[Table],
        stop: &CancellationToken,
        mut each: impl FnMut(&Report),
    ) -> Result<(), HopError> {
        while !stop.is_cancelled() {
            let mut report = self.turn_of(Turns::Due, only).await?;
            if report.is_idle() {
                report = self.turn_of(Turns::All, only).await?;
            }
            if report.is_idle() {
                break;
            }
            each(&report);
        }
        Ok(())
    }

    /// Fills `target` anew by the rules and models of now, then whatever is built on it. For any of silver's tables all
    /// three are.
    ///
    /// # Errors
    /// [`HopError::NoTarget`] for bronze; otherwise as [`Hops::round`].
    pub async fn full_refresh(&mut self, target: Table) -> Result<Report, HopError> {
        let mut report = Report::default();
        match target {
            Table::BronzeMessages | Table::SilverDevices => {
                return Err(HopError::NoTarget(target.full_name().to_owned()));
            }
            // Reads everything again, whatever was left half done.
            Table::SilverReadings | Table::SilverQuarantine | Table::SilverGaps => {
                report.silver = Some(self.refresh_silver(Why::Asked).await?);
            }
            Table::GoldWatermarks => {
                self.finish_what_failed().await?;
                report.gold.extend(self.watermarks(Some(Why::Asked), true).await?);
            }
            Table::GoldGatewayHealth => {
                self.finish_what_failed().await?;
                report.gold.extend(self.health(Some(Why::Asked)).await?);
            }
            target => {
                let model = self.models.iter().find(|model| model.target == target).cloned();
                let model = model.ok_or_else(|| HopError::NoTarget(target.full_name().to_owned()))?;
                self.finish_what_failed().await?;
                report.gold.extend(self.model(&model, Some(Why::Asked)).await?);
                self.lake.trouble(model.target.full_name(), None);
            }
        }
        let after = self.turn_of(Turns::All, &[]).await?;
        report.silver = report.silver.or(after.silver);
        report.ailing.extend(after.ailing);
        report.gold.extend(after.gold);
        Ok(report)
    }

    /// The running totals of silver, as of the newest commit.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.memory.as_ref().map(|memory| memory.totals).unwrap_or_default()
    }

    /// How many messages are remembered of devices that number them.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.memory.as_ref().map_or(0, |memory| memory.seen.messages.count())
    }

    /// Gives the lease back.
    #[must_use]
    pub fn into_lease(self) -> Lease {
        self.lease
    }
}
