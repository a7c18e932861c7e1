//! The gold hops.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::prelude::SessionContext;
use serde_json::{Value, json};

use super::changes::{Marks, News, news};
use super::error::HopError;
use super::plan::{Plan, Why};
use super::runner::Hops;
use super::silver::{highs, refresh_app};
use crate::gold::watermark::Watermarks;
use crate::gold::{
    Final, Inputs, Mode, Model, Refresh, Rewrite, Scope, Windows, health, inputs, latest, plain, windowed,
};
use crate::lake::{Add, Kind, Lake, LakeError, Removes, Table, TableCommit, Txn, View};
use crate::silver::EpochKey;

/// What a gold hop did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoldReport {
    /// The table.
    pub table: Table,
    /// Rows computed.
    pub rows: u64,
    /// Everything was done anew.
    pub refreshed: bool,
}

/// How far one source is read by the commit to come.
struct Source {
    app: String,
    expected: Option<i64>,
    plan: Plan,
}

impl Source {
    fn new(target: Table, source: &View, expected: Option<i64>, from: i64, to: i64, rules: &str) -> Self {
        Self {
            app: target.app_id(&source.id()),
            expected,
            plan: Plan {
                source: source.table().full_name().to_owned(),
                from,
                to,
                rules: rules.to_owned(),
                catalogue: None,
                full: false,
            },
        }
    }
}

/// The sources of gold.gateway_health.
pub(super) const HEALTH_SOURCES: [Table; 3] = [Table::SilverReadings, Table::SilverQuarantine, Table::SilverGaps];

/// Watermarks are looked at this often at most, in microseconds: a commit each hop would cost more than they are worth.
const MARK_EVERY: i64 = 10_000_000;

/// And written this often where only the clock moved.
const IDLE_EVERY: i64 = 60_000_000;

/// The app id of the watermark up to which a model's windows were computed.
fn final_app(target: Table) -> String {
    format!("{}<-{}", target.full_name(), Table::GoldWatermarks.full_name())
}

/// Names how health is computed, as the digest of a SELECT names a model.
const HEALTH_RULES: &str = "gateway-health-1";

/// What it takes to make a model's next commit, without the lease that it takes to commit it.
#[derive(Clone)]
pub(super) struct Maker {
    pub(super) lake: Arc<Lake>,
    pub(super) session: SessionContext,
    pub(super) chunk_bytes: u64,
    pub(super) window_rows: u64,
    /// The lake's watermark.
    pub(super) watermark: Option<i64>,
    /// The watermark up to which the model's windows were looked at.
    pub(super) seen: Option<i64>,
}

/// What a model's hop came to.
pub(super) struct Made {
    /// The watermark up to which windows were looked at, where some wait for theirs.
    pub(super) seen: Option<i64>,
    /// To be committed; none where nothing is new.
    pub(super) commit: Option<ToCommit>,
}

/// Files that were written, and what their commit says.
pub(super) struct ToCommit {
    /// The target as the plan found it.
    planned: View,
    rewrite: Rewrite,
    sources: Vec<Source>,
    extra: Vec<Txn>,
    scope: Scope,
}

impl Hops {
    /// Brings one model's table up to what its sources hold; `None` if it is.
    pub(super) async fn model(&mut self, model: &Model, asked: Option<Why>) -> Result<Option<GoldReport>, HopError> {
        // Whatever is being made of it beside would be about an older state.
        self.beside.forget(model.target);
        let made = self.maker(model, self.session.clone()).make(model, asked).await?;
        self.land(model, made).await
    }

    /// What it takes to make a model's next commit, with this session.
    pub(super) fn maker(&self, model: &Model, session: SessionContext) -> Maker {
        Maker {
            lake: Arc::clone(&self.lake),
            session,
            chunk_bytes: self.settings.chunk_bytes,
            window_rows: self.settings.window_rows,
            watermark: self.watermark(),
            seen: self.seen(model.target),
        }
    }

    /// Commits what was made of a model.
    pub(super) async fn land(&mut self, model: &Model, made: Made) -> Result<Option<GoldReport>, HopError> {
        if made.seen.is_some() {
            self.turn(model.target).seen = made.seen;
        }
        let Some(ToCommit { planned, rewrite, sources, extra, scope }) = made.commit else { return Ok(None) };
        self.commit_gold(&planned, rewrite, sources, extra, &scope).await.map(Some)
    }
}

impl Maker {
    /// Computes and writes what brings the model's table up to what its sources hold; commits nothing.
    pub(super) async fn make(&self, model: &Model, asked: Option<Why>) -> Result<Made, HopError> {
        let target = self.lake.view(model.target).await?;
        let mut sources = vec![];
        let mut views = vec![];
        let mut files = vec![];
        let mut refresh = asked;
        let mut moved = false;
        let marks = match model.draft.mode {
            Mode::Window(Windows::Grid(_)) => Marks::News,
            // A session ends elsewhere without the row; what was appended has to go.
            Mode::Window(Windows::Session { .. }) | Mode::Append | Mode::Latest | Mode::Full => Marks::Replaced,
        };
        for &from in &model.draft.sources {
            let view = self.lake.view(from.table()).await?;
            let expected = target.txn(&model.target.app_id(&view.id())).await?;
            let mut done = Source::new(model.target, &view, expected, 0, view.version(), &model.digest());
            match news(&view, &target, expected, self.bytes_max(model), marks).await? {
                News::Nothing => done.plan.from = done.plan.to + 1,
                News::Some { from: first, to, changes } => {
                    moved = true;
                    (done.plan.from, done.plan.to) = (first, to);
                    let adds = changes.into_iter().flat_map(|change| change.adds);
                    files.extend(adds.map(|add| inputs::file(from, add)));
                }
                News::Refresh(why) => refresh = refresh.or(Some(why)),
            }
            sources.push(done);
            views.push((from, view));
        }
        if model.catalogue {
            let view = self.lake.view(Table::SilverDevices).await?;
            let expected = target.txn(&model.target.app_id(&view.id())).await?;
            let mut done = Source::new(model.target, &view, expected, 0, view.version(), &model.digest());
            match news(&view, &target, expected, u64::MAX, Marks::Replaced).await? {
                News::Nothing => done.plan.from = done.plan.to + 1,
                News::Some { from, to, changes } => {
                    moved = true;
                    (done.plan.from, done.plan.to) = (from, to);
                    if 0 < target.rows() && changes.iter().any(|change| !change.adds.is_empty()) {
                        refresh = refresh.or(Some(Why::Catalogue));
                    }
                }
                News::Refresh(Why::UnknownSource) if refresh.is_none() && view.rows() == 0 => moved = true,
                News::Refresh(why) => {
                    refresh = refresh.or(Some(match why {
                        Why::SourceReplaced => Why::Catalogue,
                        why => why,
                    }))
                }
            }
            sources.push(done);
        }
        let bounds = self.bounds(model, &target).await?;
        if refresh.is_none() && !moved && !self.crossed(model, bounds) {
            return Ok(Made { seen: None, commit: None });
        }
        let scope = match refresh {
            Some(why) => {
                tracing::info!(target = model.target.full_name(), %why, "full refresh begins");
                for source in &mut sources {
                    source.plan.from = 0;
                }
                // As the views are, not as far as one commit would have read.
                for (source, (_, view)) in sources.iter_mut().zip(&views) {
                    source.plan.to = view.version();
                }
                Scope::All
            }
            None => Scope::New(files),
        };
        let inputs = Inputs::new(&self.lake, model, views).await?;
        let (lake, session) = (&self.lake, &self.session);
        let rewrite = match model.draft.mode {
            Mode::Window(windows) => {
                let rows_max = self.window_rows;
                windowed::recompute(lake, session, model, windows, &inputs, &scope, bounds, rows_max).await
            }
            Mode::Latest => latest::recompute(lake, session, model, &inputs, &scope).await,
            Mode::Append => plain::append(lake, session, model, &inputs, &scope).await,
            Mode::Full => plain::full(lake, session, model, &inputs).await,
        };
        let rewrite = match rewrite {
            Err(LakeError::FileGone { .. }) if matches!(scope, Scope::New(_)) => {
                return Box::pin(self.make(model, Some(Why::FileGone))).await;
            }
            rewrite => rewrite?,
        };
        // Nothing new and no window to fill: the watermark alone is not worth a commit.
        if refresh.is_none() && !moved && rewrite.is_nothing() {
            return Ok(Made { seen: bounds.upto, commit: None });
        }
        let mut extra = vec![];
        if let Some(upto) = bounds.upto {
            let app = final_app(model.target);
            let expected = target.txn(&app).await?;
            if expected.is_none_or(|expected| expected < upto) {
                extra.push(Txn { app, expected, version: upto });
            }
        }
        let commit = ToCommit { planned: target, rewrite, sources, extra, scope };
        Ok(Made { seen: bounds.upto, commit: Some(commit) })
    }

    /// About how many bytes of a source one commit reads: what runs now and then has most of a window to compute anyway.
    fn bytes_max(&self, model: &Model) -> u64 {
        match (model.draft.mode, model.draft.refresh) {
            (Mode::Window(_), Refresh::Every { .. }) | (Mode::Full, _) => u64::MAX,
            _ => self.chunk_bytes,
        }
    }

    /// Which windows a model that waits for final ones may compute.
    async fn bounds(&self, model: &Model, target: &View) -> Result<Final, HopError> {
        if model.draft.refresh != Refresh::Final {
            return Ok(Final::default());
        }
        let upto = self.watermark.unwrap_or(i64::MIN);
        let after = target.txn(&final_app(model.target)).await?.unwrap_or(i64::MIN);
        Ok(Final { upto: Some(upto.max(after)), after: Some(after) })
    }

    /// Whether a window became final since they were last looked for.
    fn crossed(&self, model: &Model, bounds: Final) -> bool {
        let (Mode::Window(Windows::Grid(grid)), Some(upto), Some(after)) =
            (model.draft.mode, bounds.upto, bounds.after)
        else {
            return false;
        };
        let seen = self.seen.unwrap_or(i64::MIN).max(after);
        seen < grid.boundary(upto)
    }
}

impl Hops {
    /// Brings gold.watermarks up to silver.readings and the clock; `None` if nothing came.
    pub(super) async fn watermarks(
        &mut self,
        asked: Option<Why>,
        now_or_never: bool,
    ) -> Result<Option<GoldReport>, HopError> {
        let table = Table::GoldWatermarks;
        let now = self.settings.clock.now().micros();
        let since = now.saturating_sub(self.marked_at.unwrap_or(i64::MIN));
        if !now_or_never && asked.is_none() && since < MARK_EVERY {
            return Ok(None);
        }
        let target = self.lake.view(table).await?;
        let source = self.lake.view(Table::SilverReadings).await?;
        let expected = target.txn(&table.app_id(&source.id())).await?;
        let mut done = Source::new(table, &source, expected, 0, source.version(), "watermarks-1");
        let known = match self.marks.take() {
            Some(marks) => marks,
            None => Watermarks::of_table(&target, now).await?,
        };
        let mut marks = known.clone();
        let found = match asked {
            Some(why) => News::Refresh(why),
            None => news(&source, &target, expected, u64::MAX, Marks::Replaced).await?,
        };
        let mut moved = false;
        let scope = match found {
            News::Nothing => {
                done.plan.from = done.plan.to + 1;
                Scope::New(vec![])
            }
            News::Some { from, to, changes } => {
                moved = true;
                (done.plan.from, done.plan.to) = (from, to);
                for add in changes.iter().flat_map(|change| &change.adds) {
                    match marks.learn(&source, add, now).await {
                        // Rows of a file that is gone are in others by now; or came long ago.
                        Err(LakeError::FileGone { .. }) => {}
                        learned => learned?,
                    }
                }
                Scope::New(vec![])
            }
            News::Refresh(why) => {
                moved = true;
                tracing::info!(target = table.full_name(), %why, "full refresh begins");
                let mut anew = Watermarks::default();
                for add in source.all_files() {
                    anew.learn(&source, &add, now).await?;
                }
                // What was final stays final.
                anew.join(&marks);
                marks = anew;
                Scope::All
            }
        };
        let ticked = marks.settle(self.settings.patience, now);
        let clock = ticked && IDLE_EVERY <= since;
        if !moved && !clock {
            self.marks = Some(known);
            return Ok(None);
        }
        let mut writer = self.lake.writer(table).await?;
        writer.write(marks.rows()).await?;
        let rewrite =
            Rewrite { adds: writer.finish().await?, removes: Removes::All, rows: marks.rows().num_rows() as u64 };
        let app = format!("{}/clock", table.full_name());
        let before = target.txn(&app).await?;
        let version = now.max(before.map_or(i64::MIN, |before| before + 1));
        let clock = Txn { app, expected: before, version };
        let report = self.commit_gold(&target, rewrite, vec![done], vec![clock], &scope).await?;
        self.marks = Some(marks);
        self.marked_at = Some(now);
        Ok(moved.then_some(report))
    }

    /// Brings gold.gateway_health up to what silver holds; `None` if it is.
    pub(super) async fn health(&mut self, asked: Option<Why>) -> Result<Option<GoldReport>, HopError> {
        let table = Table::GoldGatewayHealth;
        let target = self.lake.view(table).await?;
        let mut sources = vec![];
        let mut changed = BTreeSet::new();
        let mut refresh = asked;
        let mut moved = false;
        for source in HEALTH_SOURCES {
            let source = self.lake.view(source).await?;
            let expected = target.txn(&table.app_id(&source.id())).await?;
            let mut done = Source::new(table, &source, expected, 0, source.version(), HEALTH_RULES);
            // One commit reads up to the newest version: what was seen is known for the newest only.
            match news(&source, &target, expected, u64::MAX, Marks::News).await? {
                News::Nothing => done.plan.from = done.plan.to + 1,
                News::Some { from, to, changes } => {
                    moved = true;
                    (done.plan.from, done.plan.to) = (from, to);
                    for (gateway, epochs) in changes.iter().flat_map(highs) {
                        let key = |epoch| EpochKey { gateway: gateway.clone(), epoch };
                        changed.extend(epochs.into_keys().map(key));
                    }
                    let adds: Vec<Add> = changes.into_iter().flat_map(|change| change.adds).collect();
                    match health::epochs_of(&source, &adds).await {
                        Err(LakeError::FileGone { .. }) => refresh = refresh.or(Some(Why::FileGone)),
                        epochs => changed.extend(epochs?),
                    }
                }
                News::Refresh(why) => refresh = refresh.or(Some(why)),
            }
            sources.push(done);
        }
        let scope = match refresh {
            Some(why) => {
                tracing::info!(target = table.full_name(), %why, "full refresh begins");
                for source in &mut sources {
                    source.plan.from = 0;
                }
                Scope::All
            }
            None if moved => Scope::New(vec![]),
            None => return Ok(None),
        };
        let memory = match self.memory.take() {
            Some(memory) => memory,
            None => self.remember(&self.rules, None).await?,
        };
        let memory = self.memory.insert(memory);
        let rewrite = health::recompute(&self.lake, &memory.seen, changed, &scope).await?;
        self.commit_gold(&target, rewrite, sources, vec![], &scope).await.map(Some)
    }

    /// `planned`: the target as the plan found it.
    async fn commit_gold(
        &self,
        planned: &View,
        rewrite: Rewrite,
        sources: Vec<Source>,
        extra: Vec<Txn>,
        scope: &Scope,
    ) -> Result<GoldReport, HopError> {
        let table = planned.table();
        let full = matches!(scope, Scope::All);
        let mut plans = vec![];
        let mut txns = extra;
        for mut source in sources {
            source.plan.full = full;
            // A source that did not move needs no progress; in a refresh all are named.
            if full || source.plan.from <= source.plan.to {
                txns.push(Txn { app: source.app, expected: source.expected, version: source.plan.to });
            }
            plans.push(serde_json::to_value(source.plan).expect("a plan is plain data"));
        }
        if full {
            let app = refresh_app(table);
            let expected = planned.txn(&app).await?;
            txns.push(Txn { app, expected, version: expected.unwrap_or(0) + 1 });
        }
        let plan = match plans.len() {
            1 => plans.remove(0),
            _ => json!({ "sources": Value::Array(plans), "full": full }),
        };
        let rows = rewrite.rows;
        #[cfg(test)]
        if self.end_before == Some(table) {
            return Err(HopError::Ended);
        }
        let commit = TableCommit {
            table,
            kind: Kind::Files { adds: rewrite.adds, removes: rewrite.removes },
            batches: vec![],
            txns,
            metadata: vec![("plan".to_owned(), plan)],
        };
        self.lake.commit(commit, Some(&self.lease)).await?;
        if full {
            tracing::info!(target = table.full_name(), rows, "full refresh done");
        }
        Ok(GoldReport { table, rows, refreshed: full })
    }
}
