//! The twins of all identities: what services wish, what devices report. Only those that were ever written to are kept.
//!
//! ```text
//! change, report --> document [p] --> journal --fsync--> the answer
//!                                          └──────────> news: what the device, and readers of events, are told
//! ```
//!
//! Invariants: changes of a twin are one after another, none is lost, each counts once; whoever is told of a change finds
//! it after a restart.

pub mod document; // [p] one twin

mod patch; // [p] what changes it

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use shared::clock::Clock;
use shared::crash;
use shared::time::Timestamp;
use tokio::sync::Notify;

pub use self::document::{Change, Section, Twin};
pub(in crate::hub) use self::patch::metadata_of;
pub use self::patch::{SECTION_BYTES_MAX, TAGS_BYTES_MAX, TwinFault};
use super::journal::{Journal, Ticket};
use super::who::Who;

/// All twins; clones are the same.
#[derive(Clone)]
pub struct Twins {
    journal: Journal<Twin>,
    news: Arc<News>,
    clock: Clock,
}

#[derive(Default)]
struct News {
    /// In the order of the changes.
    queued: Mutex<VecDeque<(Ticket, TwinNews)>>,
    added: Notify,
}

/// What is to be told of a change.
#[derive(Debug, Clone, PartialEq)]
pub struct TwinNews {
    /// Whose twin.
    pub who: Who,
    /// As it was asked for.
    pub change: Change,
    /// What the device reported.
    pub reported: Option<Value>,
    /// What the device is to be told of its desired properties, with `$version`.
    pub told: Option<Value>,
    /// Versions after the change: of the twin, the desired and the reported properties.
    pub versions: (i64, i64, i64),
    /// When it was changed.
    pub at: Timestamp,
    /// The twin as it is now, if it was replaced.
    pub whole: Option<Box<Twin>>,
}

/// A patch of reported properties that is taken, but not known to be safe yet.
#[must_use]
pub struct Reporting {
    journal: Journal<Twin>,
    ticket: Ticket,
    version: i64,
}

impl Twins {
    /// Reads the file, or makes it.
    ///
    /// # Errors
    /// If the disk says no.
    pub fn open(path: PathBuf, clock: Clock) -> io::Result<Self> {
        Ok(Self { journal: Journal::open(path)?, news: Arc::default(), clock })
    }

    /// The twin; an identity nobody wrote to has an empty one. Whether there is such an identity only the registry knows.
    pub fn get(&self, who: &Who) -> Twin {
        self.journal.book().get(&who.to_string()).cloned().unwrap_or_default()
    }

    /// Takes a device's patch of its reported properties; gives their new `$version` once it is safe.
    ///
    /// # Errors
    /// If it is not one, would make them too large, or the disk says no.
    pub async fn report(&self, who: &Who, patch: &Value) -> Result<i64, TwinFault> {
        self.begin_report(who, patch)?.done().await
    }

    /// The part of [`Twins::report`] that decides the order of patches.
    ///
    /// # Errors
    /// As [`Twins::report`].
    pub fn begin_report(&self, who: &Who, patch: &Value) -> Result<Reporting, TwinFault> {
        let key = who.to_string();
        let mut book = self.journal.book();
        let mut twin = book.get(&key).cloned().unwrap_or_default();
        let at = self.clock.now();
        let version = twin.report(patch, at)?;
        let news = TwinNews {
            who: who.clone(),
            change: Change::default(),
            reported: Some(patch.clone()),
            told: None,
            versions: twin.versions(),
            at,
            whole: None,
        };
        let ticket = book.put(&key, twin)?;
        self.news.add(ticket, news);
        drop(book);
        Ok(Reporting { journal: self.journal.clone(), ticket, version })
    }

    /// Takes a service's change of tags and desired properties; gives the twin once it is safe. With `if_match`, only if
    /// the twin still has that etag (`*`: any).
    ///
    /// # Errors
    /// If it is not one, comes too late, would make a section too large, or the disk says no.
    pub async fn change(&self, who: &Who, change: Change, if_match: Option<&str>) -> Result<Twin, TwinFault> {
        let key = who.to_string();
        let (twin, ticket) = {
            let mut book = self.journal.book();
            let before = book.get(&key).cloned().unwrap_or_default();
            let mut twin = before.clone();
            let at = self.clock.now();
            let told = twin.change(&change, if_match, at)?;
            if twin == before {
                return Ok(twin);
            }
            let ticket = book.put(&key, twin.clone())?;
            let whole = change.replace.then(|| Box::new(twin.clone()));
            let versions = twin.versions();
            let news = TwinNews { who: who.clone(), change, reported: None, told, versions, at, whole };
            self.news.add(ticket, news);
            (twin, ticket)
        };
        self.journal.settle(ticket).await?;
        crash::here("hub-twin-written");
        Ok(twin)
    }

    /// Forgets the twins of a device and of its modules, which are deleted.
    ///
    /// # Errors
    /// If the disk says no.
    pub async fn forget(&self, device: &str) -> io::Result<()> {
        let is_one = |key: &str| Who::parse(key).device == device;
        let whose: Vec<Who> = {
            let book = self.journal.book();
            book.iter().filter(|(key, _)| is_one(key)).map(|(key, _)| Who::parse(key)).collect()
        };
        for who in whose {
            self.forget_one(&who).await?;
        }
        Ok(())
    }

    /// Forgets the twin of a device or module alone.
    ///
    /// # Errors
    /// If the disk says no.
    pub async fn forget_one(&self, who: &Who) -> io::Result<()> {
        let ticket = self.journal.book().remove(&who.to_string())?;
        self.journal.settle(ticket).await
    }

    /// Twins that were ever written to.
    pub fn all(&self) -> Vec<(Who, Twin)> {
        let book = self.journal.book();
        let mut all: Vec<_> = book.iter().map(|(key, twin)| (Who::parse(key), twin.clone())).collect();
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        all
    }

    /// Whose twins were ever written to.
    pub fn whose(&self) -> Vec<Who> {
        self.journal.book().iter().map(|(key, _)| Who::parse(key)).collect()
    }

    /// How many were ever written to.
    pub fn len(&self) -> usize {
        self.journal.book().len()
    }

    /// True if none was.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next change that is safe and to be told, in the order of the changes. For one listener.
    pub(super) async fn next_news(&self) -> io::Result<TwinNews> {
        loop {
            let front = self.news.lock().front().map(|(ticket, _)| *ticket);
            match front {
                None => self.news.added.notified().await,
                Some(ticket) => {
                    self.journal.settle(ticket).await?;
                    if let Some((_, news)) = self.news.lock().pop_front() {
                        return Ok(news);
                    }
                }
            }
        }
    }
}

impl Reporting {
    /// Waits until it is; gives the new `$version`.
    ///
    /// # Errors
    /// If the disk says no.
    pub async fn done(self) -> Result<i64, TwinFault> {
        self.journal.settle(self.ticket).await?;
        crash::here("hub-twin-written");
        Ok(self.version)
    }
}

impl News {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(Ticket, TwinNews)>> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, ticket: Ticket, news: TwinNews) {
        self.lock().push_back((ticket, news));
        self.added.notify_one();
    }
}

impl Twin {
    fn versions(&self) -> (i64, i64, i64) {
        (self.version, self.desired.version, self.reported.version)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn racing_patches_lose_nothing_and_each_counts_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("twins.jsonl");
        let twins = Twins::open(path.clone(), Clock::Real).expect("made");
        let who = Who::device("d");
        let tasks: Vec<_> = (0..100)
            .map(|number| {
                let (twins, who) = (twins.clone(), who.clone());
                tokio::spawn(async move {
                    let name = format!("p{number}");
                    let patch = json!({ name.clone(): number });
                    twins.report(&who, &patch).await.expect("taken");
                    let change = Change { desired: Some(patch), ..Change::default() };
                    twins.change(&who, change, None).await.expect("taken").desired.version
                })
            })
            .collect();
        let mut versions = vec![];
        for task in tasks {
            versions.push(task.await.expect("no panic"));
        }
        versions.sort_unstable();
        assert_eq!(versions, (2..=101).collect::<Vec<_>>());
        let mut told = vec![];
        while told.len() < 100 {
            told.extend(twins.next_news().await.expect("news").told.and_then(|told| told["$version"].as_i64()));
        }
        assert_eq!(told, versions, "in order");
        drop(twins);
        let twin = Twins::open(path, Clock::Real).expect("read").get(&who);
        assert_eq!(
            (twin.versions(), twin.reported.values.len(), twin.desired.values.len()),
            ((201, 101, 101), 100, 100)
        );
    }

    #[tokio::test]
    async fn a_device_that_is_deleted_takes_the_twins_of_its_modules_with_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let twins = Twins::open(dir.path().join("twins.jsonl"), Clock::Real).expect("made");
        for who in [Who::device("d"), Who::module("d", "m"), Who::device("d2")] {
            twins.report(&who, &json!({"a": 1})).await.expect("taken");
        }
        twins.forget("d").await.expect("forgotten");
        assert_eq!(twins.all().into_iter().map(|(who, _)| who).collect::<Vec<_>>(), [Who::device("d2")]);
        assert_eq!(twins.get(&Who::module("d", "m")), Twin::default());
    }
}
