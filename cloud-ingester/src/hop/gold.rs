//! The gold hops.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::changes::{News, news};
use super::error::HopError;
use super::plan::{Plan, Why};
use super::runner::Hops;
use super::silver::{highs, refresh_app};
use crate::gold::{Mode, Model, Rewrite, Scope, health, latest, windowed};
use crate::lake::{Add, Kind, LakeError, Table, TableCommit, Txn, View};
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

/// Names how health is computed, as the digest of a SELECT names a model.
const HEALTH_RULES: &str = "gateway-health-1";

impl Hops {
    /// Brings one model's table up to what silver holds; `None` if it is.
    pub(super) async fn model(&mut self, model: &Model, asked: Option<Why>) -> Result<Option<GoldReport>, HopError> {
        let source = self.lake.view(Table::SilverReadings).await?;
        let target = self.lake.view(model.target).await?;
        let expected = target.txn(&model.target.app_id(&source.id())).await?;
        let found = match asked {
            Some(why) => News::Refresh(why),
            None => news(&source, &target, expected, self.settings.chunk_bytes).await?,
        };
        let (scope, from, to) = match found {
            News::Nothing => return Ok(None),
            News::Some { from, to, changes } => {
                (Scope::New(changes.into_iter().flat_map(|change| change.adds).collect()), from, to)
            }
            News::Refresh(why) => {
                tracing::info!(target = model.target.full_name(), version = source.version(), %why, "full refresh begins");
                (Scope::All, 0, source.version())
            }
        };
        let rewrite = match model.mode {
            Mode::Window(size) => windowed::recompute(&self.lake, &self.session, model, size, &source, &scope).await,
            Mode::Latest => latest::recompute(&self.lake, &self.session, model, &source, &scope).await,
        };
        let rewrite = match rewrite {
            Err(LakeError::FileGone { .. }) if matches!(scope, Scope::New(_)) => {
                return Box::pin(self.model(model, Some(Why::FileGone))).await;
            }
            rewrite => rewrite?,
        };
        let sources = vec![Source::new(model.target, &source, expected, from, to, &model.digest)];
        self.commit_gold(&target, rewrite, sources, &scope).await.map(Some)
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
            match news(&source, &target, expected, u64::MAX).await? {
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
        self.commit_gold(&target, rewrite, sources, &scope).await.map(Some)
    }

    /// `planned`: the target as the plan found it.
    async fn commit_gold(
        &self,
        planned: &View,
        rewrite: Rewrite,
        sources: Vec<Source>,
        scope: &Scope,
    ) -> Result<GoldReport, HopError> {
        let table = planned.table();
        let full = matches!(scope, Scope::All);
        let mut plans = vec![];
        let mut txns = vec![];
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
