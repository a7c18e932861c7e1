//! What an earlier hop left half done, and what was seen and counted before: both out of the tables.

use std::sync::Arc;

use super::error::HopError;
use super::plan::{Plan, Why};
use super::runner::{Hops, Memory};
use super::seen::At;
use super::silver::{NewRange, highs, refresh_app, rules_path, stands};
use crate::lake::{LakeError, Table, View};
use crate::silver::{Rules, Totals, rebuild, rebuild_messages};

impl Hops {
    /// Finishes a hop whose side tables were committed and whose readings were not. Called once, by a new holder, after
    /// its fences.
    pub(super) async fn finish_half_done(&mut self) -> Result<(), HopError> {
        let bronze = self.lake.view(Table::BronzeMessages).await?;
        let targets = self.targets().await?;
        let stood = stands(&targets, |table| table.app_id(&bronze.id())).await?;
        let refreshes = stands(&targets, refresh_app).await?;
        let done = stood[2].filter(|done| 0 <= *done);
        let mut half: Option<Plan> = None;
        let mut before = targets.clone();
        for (at, view) in targets.iter().enumerate().take(2) {
            if refreshes[at] != refreshes[2] {
                // The refresh is wanted as it would be now: it reads everything again.
                self.refresh_silver(Why::Asked).await?;
                return Ok(());
            }
            let ahead = stood[at].filter(|to| done.is_none_or(|done| done < *to));
            let Some(to) = ahead.filter(|to| 0 <= *to) else {
                continue;
            };
            match last_plan(view, to).await? {
                Some((plan, version)) => {
                    before[at] = view.at(version - 1).await?;
                    half = Some(plan);
                }
                None => {
                    self.refresh_silver(Why::LogGone).await?;
                    return Ok(());
                }
            }
        }
        let Some(plan) = half else {
            return Ok(());
        };
        tracing::warn!(
            from = plan.from,
            to = plan.to,
            "a side table is ahead of silver.readings: doing that range again"
        );
        let rules = self.kept_rules(&plan.rules).await?;
        let mut changes = vec![];
        for version in plan.from..=plan.to {
            match bronze.change(version).await {
                Ok(change) => changes.push(change),
                Err(LakeError::Gone { .. }) => {
                    self.refresh_silver(Why::LogGone).await?;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        let [quarantine, gaps, _] = before;
        self.memory = Some(self.remember(&rules, Some((&quarantine, &gaps))).await?);
        let at = targets.each_ref().map(At::of);
        let range = NewRange { from: plan.from, to: plan.to, changes, rules, quarantine, stood, at };
        Box::pin(self.range(&bronze, range)).await?;
        // What was counted so far left the side tables' own rows out: ask the tables.
        self.memory = None;
        Ok(())
    }

    /// What was seen and counted, out of the tables; `sides`: quarantine and gaps, where they are not to be taken as they
    /// are now.
    pub(super) async fn remember(&self, rules: &Rules, sides: Option<(&View, &View)>) -> Result<Memory, HopError> {
        let readings = self.lake.view(Table::SilverReadings).await?;
        let (quarantine, gaps) = match sides {
            Some((quarantine, gaps)) => (quarantine.clone(), gaps.clone()),
            None => (self.lake.view(Table::SilverQuarantine).await?, self.lake.view(Table::SilverGaps).await?),
        };
        let mut seen = match self.recall_seen([&quarantine, &gaps, &readings]).await? {
            Some(seen) => seen,
            None => rebuild(&readings, &quarantine, &gaps).await?,
        };
        if !rules.unique.devices.is_empty() {
            let bronze = self.lake.view(Table::BronzeMessages).await?;
            let done = readings.txn(&Table::SilverReadings.app_id(&bronze.id())).await?.filter(|done| 0 <= *done);
            // Bronze that went back behind what was read stops the hop, which names it.
            if let Some(done) = done.map(|done| done.min(bronze.version())) {
                rebuild_messages(&bronze.at(done).await?, rules, &mut seen).await?;
            }
        }
        let mut totals = None;
        // Fences and upkeep may stand after the last commit of a hop.
        for version in (0..=readings.version()).rev() {
            match readings.change(version).await {
                Ok(change) => {
                    if let Some(found) = change.info.get("totals") {
                        totals = serde_json::from_value(found.clone()).ok();
                        for (gateway, epochs) in highs(&change) {
                            epochs.iter().for_each(|(epoch, high)| seen.name_high(&gateway, epoch, *high));
                        }
                        break;
                    }
                }
                Err(LakeError::Gone { .. }) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let totals = match totals {
            Some(totals) => totals,
            None => {
                // What a half done commit refused is counted when its range is done again.
                let decoded = readings.rows() + quarantine.rows();
                if decoded != 0 {
                    tracing::warn!(
                        "no commit of silver.readings tells the running totals: duplicates are counted from here"
                    );
                }
                Totals { decoded, ..Totals::default() }
            }
        };
        Ok(Memory { seen, totals })
    }

    async fn kept_rules(&self, digest: &str) -> Result<Arc<Rules>, HopError> {
        let target = Table::SilverReadings.full_name();
        if digest == &**self.rules.digest() {
            return Ok(Arc::clone(&self.rules));
        }
        let path = rules_path(digest);
        let kept = self.lake.get_beside(&path).await?;
        let text = kept.and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.ok_or_else(|| HopError::Rules { target, why: format!("{path} is not there") })?;
        Rules::parse(&text).map(Arc::new).map_err(HopError::rules(target))
    }
}

/// The plan of the commit that moved a side table to `to`, and the version it made; `None` where the log is gone.
async fn last_plan(side: &View, to: i64) -> Result<Option<(Plan, i64)>, LakeError> {
    for version in (0..=side.version()).rev() {
        let change = match side.change(version).await {
            Ok(change) => change,
            Err(LakeError::Gone { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        if let Some(plan) = Plan::of(&change.info)
            && plan.to == to
        {
            return Ok(Some((plan, version)));
        }
    }
    Ok(None)
}
