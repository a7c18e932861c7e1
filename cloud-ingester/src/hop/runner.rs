//! One hop after the other, by the holder of the lease.

use std::sync::Arc;

use datafusion::prelude::SessionContext;
use shared::rules::{Rule, TimeWindow};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::catalogue::{Following, Source};
use super::error::HopError;
use super::gold::{GoldReport, HEALTH_SOURCES};
use super::plan::Why;
use super::silver::{SilverReport, TARGETS};
use crate::gold::Model;
use crate::lake::session::{Limits, session};
use crate::lake::{Lake, Layer, Lease, Table};
use crate::silver::{Mapping, Rules, Seen, Totals, Unique};

/// How hops work.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How far an event time may lie from the enqueued time.
    pub window: TimeWindow,
    /// Whose messages are known by their ids.
    pub unique: Unique,
    /// How messages of direct devices are read; the first that fits.
    pub mappings: Vec<Mapping>,
    /// What is expected of values of direct devices.
    pub rules: Vec<Rule>,
    /// Where the devices are described.
    pub catalogue: Option<Source>,
    /// About how many bytes of source files one commit reads.
    pub chunk_bytes: u64,
    /// What SQL may use of memory.
    pub limits: Limits,
    /// While silver has news, a model rests this many times as long as its last hop took: its windows are computed anew
    /// with each hop, so fewer hops cost less, and silver and whatever else runs here get on. 0: it never rests.
    pub rest: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            window: TimeWindow::SILVER,
            unique: Unique::default(),
            mappings: vec![],
            rules: vec![],
            catalogue: None,
            chunk_bytes: 32 << 20,
            limits: Limits { memory_bytes: 512 << 20 },
            rest: 2,
        }
    }
}

impl Settings {
    /// By what silver judges.
    #[must_use]
    pub fn rules_of_now(&self) -> Rules {
        Rules::with(self.window, self.unique.clone(), self.mappings.clone(), self.rules.clone())
    }
}

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
    pub(super) memory: Option<Memory>,
    pub(super) devices: Following,
    models: Vec<Model>,
    /// Until when each model rests.
    resting: Vec<Option<Instant>>,
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
        let mut hops = Self {
            session: session(settings.limits)?,
            rules: Arc::new(settings.rules_of_now()),
            devices: Following::new(settings.catalogue.clone()),
            models: Model::embedded(),
            resting: vec![],
            memory: None,
            lake,
            lease,
            settings,
            #[cfg(test)]
            end_before: None,
        };
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

    /// One round: reads what is new in bronze, up to the limit of one commit, and brings gold up to it. A model that
    /// rests is left out; where nothing is new in bronze none does, so an idle round means that all tables are level.
    ///
    /// # Errors
    /// What failed. A hop that was committed in part is finished by its own plan in the next round.
    pub async fn round(&mut self) -> Result<Report, HopError> {
        self.finish_what_failed().await?;
        self.follow_catalogue().await?;
        let mut report = Report { silver: self.silver().await?, gold: vec![] };
        self.resting.resize(self.models.len(), None);
        for at in 0..self.models.len() {
            let begun = Instant::now();
            if report.silver.is_some() && self.resting[at].is_some_and(|until| begun < until) {
                continue;
            }
            let model = self.models[at].clone();
            while let Some(done) = self.model(&model, None).await? {
                report.gold.push(done);
            }
            self.resting[at] = Some(Instant::now() + begun.elapsed() * self.settings.rest);
        }
        report.gold.extend(self.health(None).await?);
        Ok(report)
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
    pub async fn run_all(&mut self, stop: &CancellationToken, mut each: impl FnMut(&Report)) -> Result<(), HopError> {
        while !stop.is_cancelled() {
            let report = self.round().await?;
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
            Table::GoldGatewayHealth => {
                self.finish_what_failed().await?;
                report.gold.extend(self.health(Some(Why::Asked)).await?);
            }
            target => {
                let model = self.models.iter().find(|model| model.target == target).cloned();
                let model = model.ok_or_else(|| HopError::NoTarget(target.full_name().to_owned()))?;
                self.finish_what_failed().await?;
                report.gold.extend(self.model(&model, Some(Why::Asked)).await?);
            }
        }
        let after = self.round().await?;
        report.silver = report.silver.or(after.silver);
        report.gold.extend(after.gold);
        Ok(report)
    }

    /// The running totals of silver, as of the newest commit.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.memory.as_ref().map(|memory| memory.totals).unwrap_or_default()
    }

    /// Gives the lease back.
    #[must_use]
    pub fn into_lease(self) -> Lease {
        self.lease
    }
}
