//! Keeps this ingester's claims: looks at the records, writes what [`super::super::claims`] wishes, tells what is held.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use azure_core::http::Etag;
use azure_messaging_eventhubs::CheckpointStore;
use azure_messaging_eventhubs::models::Ownership;
use shared::clock::Clock;
use shared::notify::Pulse;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ownership::{id, read_id};
use crate::source::claims::{Claims, Member, Moment, Record, Timing, Wish};

/// What is claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    pub(super) hub: Arc<str>,
    pub(super) incarnation: i64,
    pub(super) partitions: Vec<i32>,
}

/// What this ingester may read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Of which partitions this tells; none before the first look.
    scope: Option<Scope>,
    /// The partitions, and the level at which each is read.
    pub partitions: BTreeMap<i32, i64>,
    /// How many other ingesters read partitions of the same hub.
    pub others: usize,
    /// Since when the claims can't be looked at, and why; what is ours runs out meanwhile, and nobody reads it.
    pub blind: Option<(Instant, String)>,
}

impl Held {
    /// Another number whenever other partitions are ours.
    #[must_use]
    pub fn level_sum(&self) -> i32 {
        self.partitions.iter().fold(0, |sum, (partition, level)| {
            let level = i32::try_from(level % 10_000).unwrap_or_default();
            sum + (partition + 1) * 7 + level
        })
    }
}

/// The source's end.
#[derive(Clone, Debug)]
pub struct Claimed {
    aim: watch::Sender<Option<Scope>>,
    held: watch::Receiver<Held>,
    look: Arc<Notify>,
}

impl Claimed {
    /// Says what is to be read, and waits until it is known what of it is ours.
    pub(super) async fn aim(&mut self, scope: Scope) -> Held {
        let wanted = Some(scope);
        self.aim.send_if_modified(|aim| {
            let changed = *aim != wanted;
            aim.clone_from(&wanted);
            changed
        });
        match self.held.wait_for(|held| held.scope == wanted).await {
            Ok(held) => held.clone(),
            Err(_) => Held::default(),
        }
    }

    /// Returns when it is not `held` any more that is ours.
    pub(super) async fn changed_from(&mut self, held: &Held) {
        let same = |now: &Held| now.partitions == held.partitions && now.scope == held.scope;
        // The keeper outlives the source; should it not, nothing changes any more.
        if self.held.wait_for(|now| !same(now)).await.is_err() {
            std::future::pending().await
        }
    }

    /// What is ours now.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Held> {
        self.held.clone()
    }

    /// Makes the keeper look at once.
    pub(super) fn look(&self) {
        self.look.notify_one();
    }
}

/// The keeper.
pub struct Keeper {
    store: Arc<dyn CheckpointStore>,
    me: Member,
    timing: Timing,
    group: String,
    aim: watch::Receiver<Option<Scope>>,
    held: watch::Sender<Held>,
    look: Arc<Notify>,
    born: Instant,
    blind: Option<(Instant, String)>,
}

/// A keeper of claims and the end through which the source asks it.
#[must_use]
pub fn keeper(store: Arc<dyn CheckpointStore>, me: Member, timing: Timing, group: String) -> (Keeper, Claimed) {
    let (aim, aimed) = watch::channel(None);
    let (held, holds) = watch::channel(Held::default());
    let look = Arc::new(Notify::new());
    let claimed = Claimed { aim, held: holds, look: Arc::clone(&look) };
    let keeper = Keeper { store, me, timing, group, aim: aimed, held, look, born: Instant::now(), blind: None };
    (keeper, claimed)
}

impl Keeper {
    /// Claims, renews, takes over, until `done`; then gives everything back. Once `stopping`, nothing new is claimed.
    pub async fn run(mut self, stopping: CancellationToken, done: CancellationToken, pulse: Pulse) {
        loop {
            let scope = self.aim.borrow_and_update().clone();
            let Some(scope) = scope else {
                tokio::select! {
                    () = done.cancelled() => return,
                    changed = self.aim.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(self.timing.round) => pulse.beat(),
                }
                continue;
            };
            let mut claims = Claims::new(self.me.clone(), self.timing);
            let mut looked = Instant::now();
            loop {
                pulse.beat();
                let begun = Instant::now();
                match self.round(&mut claims, &scope, stopping.is_cancelled()).await {
                    Ok(()) => (looked, self.blind) = (begun, None),
                    Err(why) => self.failed(looked, why),
                }
                if self.rest(&claims, &scope, &done).await {
                    break;
                }
            }
            if done.is_cancelled() {
                for wish in claims.give_back() {
                    let _ = self.write(&scope, &wish).await;
                }
                return;
            }
        }
    }

    /// A look failed; the last one that did not was begun at `looked`.
    fn failed(&mut self, looked: Instant, why: String) {
        let (since, said) = self.blind.take().unwrap_or((looked, String::new()));
        if why == said {
            tracing::debug!(%why, "still not looking at the claims");
        } else {
            tracing::warn!(%why, "who reads which partition can't be looked at; trying again");
        }
        self.blind = Some((since, why));
    }

    /// Until the next look; tells meanwhile what runs out. Whether the scope is over.
    async fn rest(&mut self, claims: &Claims, scope: &Scope, done: &CancellationToken) -> bool {
        let until = tokio::time::Instant::now() + self.timing.round;
        loop {
            self.tell(claims, scope);
            tokio::select! {
                () = done.cancelled() => return true,
                // The source ends before bronze does; until then its claims are kept.
                Ok(()) = self.aim.changed() => return self.aim.borrow().as_ref() != Some(scope),
                () = self.look.notified() => return false,
                () = tokio::time::sleep_until(until) => return false,
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
        }
    }

    fn tell(&self, claims: &Claims, scope: &Scope) {
        let now = Held {
            scope: Some(scope.clone()),
            partitions: claims.held(self.moment()),
            others: claims.others(),
            blind: self.blind.clone(),
        };
        self.held.send_if_modified(|held| {
            let changed = *held != now;
            if held.partitions != now.partitions {
                let partitions: Vec<_> = now.partitions.keys().collect();
                tracing::info!(?partitions, others = now.others, "reading these partitions");
            }
            *held = now;
            changed
        });
    }

    async fn round(&self, claims: &mut Claims, scope: &Scope, stopping: bool) -> Result<(), String> {
        let namespace = scope.incarnation.to_string();
        let listed = self.in_time(self.store.list_ownerships(&namespace, &scope.hub, &self.group)).await;
        let now = self.moment();
        let found: Vec<Record> = listed?.into_iter().filter_map(record).collect();
        let wishes = claims.plan(now, &scope.partitions, &found, stopping);
        let asked = self.moment();
        let written = futures::future::join_all(wishes.iter().map(|wish| self.write(scope, wish))).await;
        let mut failed = Ok(());
        for (wish, written) in wishes.iter().zip(written) {
            match written {
                Ok(tag) => claims.wrote(asked, wish, tag),
                Err(why) => {
                    claims.wrote(asked, wish, None);
                    failed = Err(why);
                }
            }
        }
        failed
    }

    async fn write(&self, scope: &Scope, wish: &Wish) -> Result<Option<String>, String> {
        let ownership = Ownership {
            fully_qualified_namespace: scope.incarnation.to_string(),
            event_hub_name: scope.hub.to_string(),
            consumer_group: self.group.clone(),
            partition_id: wish.partition.to_string(),
            owner_id: Some(id(wish.level, wish.ours.then_some(&self.me))),
            etag: wish.over.clone().map(Etag::from),
            last_modified_time: None,
        };
        let claimed = self.in_time(self.store.claim_ownership(std::slice::from_ref(&ownership))).await?;
        Ok(claimed.into_iter().next().and_then(|claimed| claimed.etag).map(|tag| tag.to_string()))
    }

    /// What takes longer than a claim lasts is of no use.
    async fn in_time<T>(&self, asked: impl Future<Output = azure_core::Result<T>>) -> Result<T, String> {
        match tokio::time::timeout(self.timing.renewed, asked).await {
            Ok(answer) => answer.map_err(|error| shared::cli::chain(&error)),
            Err(_) => Err(format!("no answer within {:?}", self.timing.renewed)),
        }
    }

    fn moment(&self) -> Moment {
        Moment { steady: self.born.elapsed(), wall: Clock::Real.now() }
    }
}

fn record(ownership: Ownership) -> Option<Record> {
    let (level, owner) = read_id(ownership.owner_id.as_deref().unwrap_or_default());
    let tag = ownership.etag.map(|tag| tag.to_string()).unwrap_or_default();
    Some(Record { partition: ownership.partition_id.parse().ok()?, owner, level, tag })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use azure_messaging_eventhubs::models::Checkpoint;
    use shared::notify::Pulses;

    use super::*;

    /// Holds records, and keeps silent while it is told to.
    #[derive(Default)]
    struct Store {
        silent: watch::Sender<bool>,
        kept: Mutex<BTreeMap<String, Ownership>>,
    }

    impl Store {
        async fn answer(&self) {
            let mut silent = self.silent.subscribe();
            silent.wait_for(|silent| !silent).await.expect("it is ours");
        }
    }

    #[async_trait::async_trait]
    impl CheckpointStore for Store {
        async fn claim_ownership(&self, wanted: &[Ownership]) -> azure_core::Result<Vec<Ownership>> {
            self.answer().await;
            let mut kept = self.kept.lock().expect("no test panics here");
            let claimed = wanted.iter().map(|wanted| {
                let before = kept.get(&wanted.partition_id).and_then(|record| record.etag.clone());
                let tag = before.map_or(0, |tag| tag.to_string().parse().unwrap_or(0)) + 1;
                let claimed = Ownership { etag: Some(Etag::from(tag.to_string())), ..wanted.clone() };
                kept.insert(wanted.partition_id.clone(), claimed.clone());
                claimed
            });
            Ok(claimed.collect())
        }

        async fn list_checkpoints(&self, _: &str, _: &str, _: &str) -> azure_core::Result<Vec<Checkpoint>> {
            Ok(vec![])
        }

        async fn list_ownerships(&self, _: &str, _: &str, _: &str) -> azure_core::Result<Vec<Ownership>> {
            self.answer().await;
            Ok(self.kept.lock().expect("no test panics here").values().cloned().collect())
        }

        async fn update_checkpoint(&self, _: Checkpoint) -> azure_core::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn while_the_storage_is_silent_nothing_is_held_and_since_when_it_is_told() {
        let store = Arc::new(Store::default());
        let me = Member { run: "run".to_owned(), place: "here".to_owned() };
        let timing = Timing::expiring_after(Duration::from_millis(600));
        let (keeper, mut claimed) = keeper(Arc::clone(&store) as _, me, timing, "g".to_owned());
        let done = CancellationToken::new();
        let pulse = Pulses::default().add("claims");
        let running = tokio::spawn(keeper.run(CancellationToken::new(), done.clone(), pulse));
        claimed.aim(Scope { hub: "h".into(), incarnation: 7, partitions: vec![0] }).await;

        let mut held = claimed.watch();
        let all = |held: &Held| held.partitions.contains_key(&0) && held.blind.is_none();
        held.wait_for(all).await.expect("it runs");
        store.silent.send_replace(true);
        let first = held.wait_for(|held| held.blind.is_some()).await.expect("it runs").blind.clone();
        let last = held.wait_for(|held| held.partitions.is_empty()).await.expect("it runs").blind.clone();
        assert_eq!(last.map(|(since, _)| since), first.map(|(since, _)| since), "since it fell silent");
        store.silent.send_replace(false);
        held.wait_for(all).await.expect("it runs");
        done.cancel();
        running.await.expect("it ends");
    }
}
