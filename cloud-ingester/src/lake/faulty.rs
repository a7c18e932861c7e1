//! A storage in memory that fails as storages do: for simulations in virtual time.
//!
//! One [`World`] is the storage; each process reaches it through a [`Process`] of its own, which may fail, be slow, die
//! or fall asleep at an operation chosen by its seed. All of it can be drawn again from the seed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use deltalake::logstore::object_store::memory::InMemory;
use deltalake::logstore::object_store::path::Path;
use deltalake::logstore::object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use shared::clock::{Clock, VirtualClock};
use shared::time::Timestamp;
use tokio::sync::Notify;

/// Draws numbers from a seed.
#[derive(Debug)]
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    /// The next number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    /// True once in so many times.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// The storage, and what time it is.
#[derive(Debug)]
pub(crate) struct World {
    inner: InMemory,
    hands: VirtualClock,
    log: Mutex<Vec<String>>,
}

impl World {
    pub(crate) fn new(now: Timestamp) -> Arc<Self> {
        Arc::new(Self { inner: InMemory::new(), hands: VirtualClock::hasty(now), log: Mutex::default() })
    }

    pub(crate) fn clock(&self) -> Clock {
        Clock::Virtual(self.hands.clone())
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.hands.advance(time);
    }

    pub(crate) fn note(&self, line: String) {
        self.log.lock().expect("no test panics here").push(line);
    }

    /// What happened, line by line.
    pub(crate) fn told(&self) -> String {
        self.log.lock().expect("no test panics here").join("\n")
    }
}

/// What a process does when it comes to its fateful commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing befalls it.
    None,
    /// It dies before the write leaves it.
    DiesBefore,
    /// It dies when the write has landed and nobody has heard.
    DiesAfter,
    /// It falls asleep before the write leaves it, and wakes when everything else has gone on.
    Sleeps,
}

/// What may befall a process.
#[derive(Debug)]
pub(crate) struct Plan {
    /// How many operations may fail.
    pub(crate) faults: u64,
    /// How it ends, and at which commit.
    pub(crate) end: (End, u64),
    /// What is drawn from.
    pub(crate) draw: Draw,
}

/// One process's way to the storage.
#[derive(Debug)]
pub(crate) struct Process {
    world: Arc<World>,
    name: String,
    plan: Mutex<Plan>,
    commits: AtomicU64,
    dead: AtomicBool,
    ended: Notify,
    wake: Notify,
}

/// What an operation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Commit,
    Checkpoint,
    Lease,
    Data,
    Read,
    List,
}

/// What befalls an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Fine,
    /// Refused: nothing was written.
    Refused,
    /// Written, and the answer is lost.
    TimedOutAfterWrite,
    /// Written; the answer was a 503, so it was sent again and found itself.
    FoundItself,
    /// Done, after long.
    Slow(u64),
    /// The newest names are missing from a listing.
    Cut(usize),
}

impl Process {
    pub(crate) fn new(world: &Arc<World>, name: String, plan: Plan) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            name,
            plan: Mutex::new(plan),
            commits: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            ended: Notify::new(),
            wake: Notify::new(),
        })
    }

    /// Returns once the process has died or fallen asleep.
    pub(crate) async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Whether it can be woken.
    pub(crate) fn is_asleep(&self) -> bool {
        !self.dead.load(Ordering::SeqCst)
    }

    pub(crate) fn wake(&self) {
        self.world.note(format!("{} wakes", self.name));
        self.wake.notify_one();
    }

    fn fate(&self, act: Act) -> Fate {
        let mut plan = self.plan.lock().expect("no test panics here");
        let often = match act {
            Act::Commit => 4,
            Act::Checkpoint | Act::Lease => 3,
            Act::Data => 20,
            Act::List => 60,
            Act::Read => 400,
        };
        if plan.faults == 0 || !plan.draw.once_in(often) {
            return Fate::Fine;
        }
        plan.faults -= 1;
        let kind = plan.draw.below(4);
        match (act, kind) {
            (Act::List, 0 | 1) => Fate::Cut(1 + usize::try_from(plan.draw.below(3)).expect("small")),
            (Act::Read | Act::List, _) | (_, 0) => Fate::Refused,
            (_, 1) => Fate::TimedOutAfterWrite,
            (Act::Commit | Act::Lease, 2) => Fate::FoundItself,
            _ => Fate::Slow(1 + plan.draw.below(90)),
        }
    }

    fn alive(&self) -> Result<()> {
        if self.dead.load(Ordering::SeqCst) { Err(failed("the process is dead")) } else { Ok(()) }
    }

    async fn end(&self, place: &str) {
        self.world.note(format!("{} dies {place}", self.name));
        self.dead.store(true, Ordering::SeqCst);
        self.ended.notify_one();
        std::future::pending::<()>().await;
    }

    async fn write(&self, act: Act, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.alive()?;
        let commit = match act {
            Act::Commit => self.commits.fetch_add(1, Ordering::SeqCst) + 1,
            _ => 0,
        };
        let (end, at) = self.plan.lock().expect("no test panics here").end;
        let now = commit != 0 && commit == at;
        if now && end == End::DiesBefore {
            self.end(&format!("before {path}")).await;
        }
        if now && end == End::Sleeps {
            self.world.note(format!("{} sleeps before {path}", self.name));
            self.ended.notify_one();
            self.wake.notified().await;
        }
        let fate = self.fate(act);
        if fate != Fate::Fine {
            self.world.note(format!("{} {fate:?} {path}", self.name));
        }
        if let Fate::Slow(seconds) = fate {
            self.world.pass(Duration::from_secs(seconds));
        }
        if fate == Fate::Refused {
            return Err(failed("503"));
        }
        let done = self.world.inner.put_opts(path, payload, options).await;
        if act == Act::Commit {
            self.world.note(format!("{} {path}: {}", self.name, if done.is_ok() { "landed" } else { "refused" }));
        }
        if now && end == End::DiesAfter {
            self.end(&format!("after {path}")).await;
        }
        match fate {
            Fate::TimedOutAfterWrite => Err(failed("timed out")),
            Fate::FoundItself if done.is_ok() => {
                let source = "409".into();
                Err(match act {
                    Act::Lease => Error::Precondition { path: path.to_string(), source },
                    _ => Error::AlreadyExists { path: path.to_string(), source },
                })
            }
            _ => done,
        }
    }

    fn read(&self, path: &Path) -> Result<()> {
        self.alive()?;
        match self.fate(Act::Read) {
            Fate::Refused => {
                self.world.note(format!("{} can't read {path}", self.name));
                Err(failed("503"))
            }
            _ => Ok(()),
        }
    }
}

fn failed(what: &str) -> Error {
    Error::Generic { store: "simulated", source: what.into() }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

fn act_of(path: &Path, mode: &PutMode) -> Act {
    let name = path.filename().unwrap_or_default();
    let log = path.as_ref().contains("_delta_log/");
    match () {
        () if path.as_ref().contains("_leases/") => Act::Lease,
        () if log && name.len() == 25 && *mode == PutMode::Create => Act::Commit,
        () if log => Act::Checkpoint,
        () => Act::Data,
    }
}

#[async_trait]
impl ObjectStore for Process {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.write(act_of(path, &options.mode), path, payload, options).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.alive()?;
        match self.fate(act_of(path, &PutMode::Overwrite)) {
            Fate::Fine | Fate::Slow(_) => self.world.inner.put_multipart_opts(path, options).await,
            fate => {
                self.world.note(format!("{} {fate:?} {path}", self.name));
                Err(failed("503"))
            }
        }
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.read(path)?;
        self.world.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.world.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let fate = match self.alive() {
            Ok(()) => self.fate(Act::List),
            Err(_) => Fate::Refused,
        };
        let shown = prefix.map(ToString::to_string).unwrap_or_default();
        match fate {
            Fate::Refused => {
                self.world.note(format!("{} can't list {shown}", self.name));
                futures::stream::once(async { Err(failed("503")) }).boxed()
            }
            Fate::Cut(by) => {
                self.world.note(format!("{} sees {shown} without its newest {by}", self.name));
                let all = self.world.inner.list(prefix);
                let cut = async move {
                    let mut found: Vec<ObjectMeta> = all.try_collect().await?;
                    found.sort_by(|a, b| a.location.cmp(&b.location));
                    // Of a log: the newest versions come last, but for the hint of the newest checkpoint.
                    let hint = found.last().is_some_and(|last| last.location.filename() == Some("_last_checkpoint"));
                    let hint = if hint { found.pop() } else { None };
                    found.truncate(found.len().saturating_sub(by).max(1));
                    found.extend(hint);
                    Ok::<_, Error>(futures::stream::iter(found.into_iter().map(Ok)))
                };
                futures::stream::once(cut).try_flatten().boxed()
            }
            _ => self.world.inner.list(prefix),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.alive()?;
        self.world.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.alive()?;
        self.world.inner.copy_opts(from, to, options).await
    }
}
