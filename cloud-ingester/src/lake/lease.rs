//! The lease `_leases/hops`: one holder runs the hops of a lake.
//!
//! On a local disk it is a locked file, freed by the system when its holder dies. In an object store it is an object
//! that its holder renews by conditional PUT, by itself, and that may be taken over once it has not been renewed for
//! [`LIFETIME`]; at once by who was started in the holder's place. Either way its text says who holds it and where to ask.
//!
//! Whoever stands by counts the lifetime by its own clock, from when it first saw the lease as it is. A command that asks
//! once has only the wall clock; should that be wrong, the older holder is fenced by the log all the same.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use deltalake::logstore::object_store::{Error as StoreError, ObjectStoreExt as _, PutMode, PutOptions, UpdateVersion};
use deltalake::{ObjectStore, Path};
use serde::{Deserialize, Serialize};
use shared::clock::Clock;
use tokio::sync::Mutex;

use super::error::LakeError;
use super::store::Lake;

const PATH: &str = "_leases/hops";

/// An object that was not renewed for this long belongs to nobody.
const LIFETIME: Duration = Duration::from_secs(30);

/// An object older than this is renewed.
const RENEW_AFTER: Duration = Duration::from_secs(10);

/// An object that could not be renewed for this long is not believed in any more.
const BELIEVED: Duration = Duration::from_secs(20);

/// How often whoever stands by looks at an object, and at a file.
const LOOKS: [Duration; 2] = [Duration::from_secs(3), Duration::from_millis(500)];

/// Who holds the lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Holder {
    /// The program and what it is doing, e.g. `cloud-ingester run`.
    pub program: String,
    /// Where it runs.
    pub host: String,
    /// Its process id.
    pub pid: u32,
    /// Its HTTP face, where requests are handed in.
    pub http: Option<String>,
    /// When the lease was last renewed, in seconds since the epoch.
    #[serde(default)]
    pub renewed: u64,
    /// One start of the program; no other has the same.
    #[serde(default)]
    pub run: String,
    /// Where only one process can be at a time, if it is in such a place: who is there later knows that this one is gone.
    #[serde(default)]
    pub place: Option<String>,
}

impl Holder {
    /// This process, doing `program`.
    #[must_use]
    pub fn this(program: &str, http: Option<String>) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = match host.trim() {
            "" => "this machine",
            named => named,
        };
        let run = azure_core::Uuid::new_v4().simple().to_string();
        let pid = std::process::id();
        Self { program: program.to_owned(), host: host.to_owned(), pid, http, renewed: 0, run, place: None }
    }

    fn is_before(&self, me: &Self) -> bool {
        self.place.is_some() && self.place == me.place && self.run != me.run
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (process {} on {}", self.program, self.pid, self.host)?;
        match &self.http {
            Some(http) => write!(f, ", http://{http})"),
            None => f.write_str(")"),
        }
    }
}

/// The lease, held until dropped (local disk) or until it runs out (object store).
pub struct Lease {
    kind: Kind,
}

enum Kind {
    Local {
        file: File,
        path: std::path::PathBuf,
    },
    Remote {
        held: Arc<Held>,
        /// Renews it.
        renewal: tokio::task::JoinHandle<()>,
    },
}

/// A lease in an object store.
struct Held {
    store: Arc<dyn ObjectStore>,
    clock: Clock,
    holder: Holder,
    /// Its version, and when it was last renewed: by both clocks. Or how it was lost.
    state: Mutex<Result<(UpdateVersion, Instant, u64), String>>,
}

impl Held {
    /// Renews it if it is due; what it says is whether it is still ours.
    async fn keep(&self) -> Result<(), LakeError> {
        let mut state = self.state.lock().await;
        let (version, at, at_wall) = match &*state {
            Ok(state) => state.clone(),
            Err(why) => return Err(lost(why)),
        };
        // A machine that was suspended finds only its wall clock moved.
        let age = at.elapsed().max(Duration::from_secs(seconds(&self.clock).saturating_sub(at_wall)));
        if age < RENEW_AFTER {
            return Ok(());
        }
        let (asked, wall) = (Instant::now(), seconds(&self.clock));
        let renewed = tokio::time::timeout(RENEW_AFTER, self.renew(version)).await;
        match renewed {
            Ok(Ok(version)) => {
                *state = Ok((version, asked, wall));
                Ok(())
            }
            Ok(Err(Renewal::Lost(why))) => {
                *state = Err(why.clone());
                Err(lost(&why))
            }
            // The store does not answer; whoever stands by asks the same store.
            Ok(Err(Renewal::Unknown(why))) if BELIEVED < age => Err(lost(&why)),
            Err(_) if BELIEVED < age => Err(lost("the storage does not answer")),
            _ => Ok(()),
        }
    }

    async fn renew(&self, version: UpdateVersion) -> Result<UpdateVersion, Renewal> {
        match put(&self.store, &self.clock, &self.holder, PutMode::Update(version)).await {
            Ok(version) => Ok(version),
            Err(StoreError::Precondition { .. } | StoreError::NotFound { .. } | StoreError::AlreadyExists { .. }) => {
                // Either somebody took it, or the answer to an earlier renewal of ours was lost.
                let unknown = |error: LakeError| Renewal::Unknown(error.to_string());
                match read_remote(&self.store).await.map_err(unknown)? {
                    Some((found, version)) if found.run == self.holder.run => {
                        let again = put(&self.store, &self.clock, &self.holder, PutMode::Update(version)).await;
                        again.map_err(|error| Renewal::Unknown(error.to_string()))
                    }
                    Some((found, _)) => Err(Renewal::Lost(format!("{found} has it"))),
                    None => Err(Renewal::Lost("it is gone".to_owned())),
                }
            }
            Err(error) => Err(Renewal::Unknown(error.to_string())),
        }
    }
}

enum Renewal {
    Lost(String),
    Unknown(String),
}

/// Renews as long as somebody holds it: a hop may take longer than a lease lives.
async fn renew_by_itself(held: Weak<Held>) {
    loop {
        tokio::time::sleep(RENEW_AFTER / 4).await;
        let Some(held) = held.upgrade() else { return };
        // In a simulation only what a process does itself happens.
        let Clock::Real = held.clock else { return };
        if let Err(error) = held.keep().await {
            tracing::debug!(%error, "not renewed");
        }
    }
}

/// Waits for the lease.
#[derive(Debug, Default)]
pub struct Waiting {
    /// The lease as it was seen first, and when.
    seen: Option<(String, Instant)>,
}

impl Waiting {
    /// Takes the lease if it is free, or its holder is gone; otherwise says who has it.
    ///
    /// # Errors
    /// What the storage says.
    pub async fn try_take(&mut self, lake: &Lake, holder: &Holder) -> Result<Result<Lease, Holder>, LakeError> {
        if let Some(root) = lake.location().local() {
            return match acquire_local(&root.join(PATH), holder) {
                Ok(lease) => Ok(Ok(lease)),
                Err(LakeError::LeaseHeld { .. }) => Ok(Err(Lease::holder(lake).await?.unwrap_or_else(unknown))),
                Err(error) => Err(error),
            };
        }
        let store = lake.storage();
        let Some((found, version)) = read_remote(store).await? else {
            return Ok(match take(store, lake.clock(), holder, PutMode::Create).await? {
                Some(lease) => Ok(lease),
                None => Err(unknown()),
            });
        };
        let tag = format!("{:?}", version.e_tag.as_ref().or(version.version.as_ref()));
        let since = match &self.seen {
            Some((seen, since)) if *seen == tag => *since,
            _ => {
                let now = Instant::now();
                self.seen = Some((tag, now));
                now
            }
        };
        // One of our own run is one that was dropped.
        let free = found.renewed == 0 || found.run == holder.run || found.is_before(holder);
        if free || LIFETIME <= since.elapsed() {
            return Ok(match take(store, lake.clock(), holder, PutMode::Update(version)).await? {
                Some(lease) => Ok(lease),
                None => Err(found),
            });
        }
        Ok(Err(found))
    }

    /// How long to wait before the next look.
    #[must_use]
    pub fn pause(lake: &Lake) -> Duration {
        LOOKS[usize::from(lake.location().local().is_some())]
    }
}

impl Lease {
    /// Takes the lease, or says who has it.
    ///
    /// # Errors
    /// [`LakeError::LeaseHeld`], or what the storage says.
    pub async fn acquire(lake: &Lake, holder: &Holder) -> Result<Self, LakeError> {
        match lake.location().local() {
            Some(root) => acquire_patiently(&root.join(PATH), holder).await,
            None => acquire_remote(lake.storage(), lake.clock(), holder).await,
        }
    }

    /// Who holds the lease of a lake now, if anybody does.
    ///
    /// # Errors
    /// What the storage says.
    pub async fn holder(lake: &Lake) -> Result<Option<Holder>, LakeError> {
        let Some(root) = lake.location().local() else {
            let found = lake.get_beside(PATH).await?;
            let holder: Option<Holder> = found.and_then(|text| serde_json::from_slice(&text).ok());
            return Ok(holder.filter(|holder| !expired(holder, lake.clock())));
        };
        let path = root.join(PATH);
        let Ok(mut file) = File::open(&path) else {
            return Ok(None);
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(std::fs::TryLockError::WouldBlock) => Ok(Some(read_holder(&mut file))),
            Err(std::fs::TryLockError::Error(error)) => Err(failed("read", &error)),
        }
    }

    /// Whether the lease is still ours; called before every commit of a hop.
    ///
    /// # Errors
    /// [`LakeError::LeaseLost`]: stop at once. Storage errors likewise, since nothing is known then.
    pub async fn check(&self) -> Result<(), LakeError> {
        match &self.kind {
            Kind::Local { file, path } => check_local(file, path),
            Kind::Remote { held, .. } => held.keep().await,
        }
    }
}

impl Lease {
    /// Gives the lease back at once; without this the next holder of one in an object store waits for it to run out.
    pub async fn release(self) {
        let Kind::Remote { held, renewal } = &self.kind else {
            return;
        };
        renewal.abort();
        // Another has it already.
        let Ok((version, ..)) = &*held.state.lock().await else { return };
        let nobody = put_at(&held.store, &held.holder, 0, PutMode::Update(version.clone())).await;
        if let Err(error) = nobody {
            tracing::warn!(%error, "the lease could not be given back; it runs out by itself");
        }
    }
}

fn failed(act: &'static str, error: &dyn std::fmt::Display) -> LakeError {
    LakeError::Beside { act, path: PATH.to_owned(), detail: error.to_string() }
}

fn lost(detail: &str) -> LakeError {
    LakeError::LeaseLost { detail: detail.to_owned() }
}

fn read_holder(file: &mut File) -> Holder {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    let holder = read.ok().and_then(|_| serde_json::from_str(&text).ok());
    // Between locking and writing the text of the holder before may stand here, or none.
    holder.unwrap_or_else(unknown)
}

fn unknown() -> Holder {
    Holder {
        program: "another process".to_owned(),
        host: "this machine".to_owned(),
        pid: 0,
        http: None,
        renewed: 0,
        run: String::new(),
        place: None,
    }
}

/// Whoever asks who the holder is holds the file for a moment.
async fn acquire_patiently(path: &std::path::Path, holder: &Holder) -> Result<Lease, LakeError> {
    let mut left = 5;
    loop {
        match acquire_local(path, holder) {
            Err(LakeError::LeaseHeld { .. }) if left != 0 => left -= 1,
            done => return done,
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
}

fn acquire_local(path: &std::path::Path, holder: &Holder) -> Result<Lease, LakeError> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| failed("create", &error))?;
    }
    let opened = File::options().read(true).write(true).create(true).truncate(false).open(path);
    let mut file = opened.map_err(|error| failed("open", &error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            return Err(LakeError::LeaseHeld { holder: read_holder(&mut file).to_string() });
        }
        Err(std::fs::TryLockError::Error(error)) => return Err(failed("lock", &error)),
    }
    let text = serde_json::to_vec(holder).expect("a holder is plain text and numbers");
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(&text))
        .and_then(|()| file.sync_data());
    written.map_err(|error| failed("write", &error))?;
    Ok(Lease { kind: Kind::Local { file, path: path.to_owned() } })
}

/// The lock is on a file, not on a name: when the name leads elsewhere, somebody else may hold that.
#[cfg(unix)]
fn check_local(file: &File, path: &std::path::Path) -> Result<(), LakeError> {
    use std::os::unix::fs::MetadataExt as _;
    let held = file.metadata().map_err(|error| lost(&error.to_string()))?;
    let named = std::fs::metadata(path).map_err(|error| lost(&error.to_string()))?;
    if (held.dev(), held.ino()) == (named.dev(), named.ino()) { Ok(()) } else { Err(lost("its file was replaced")) }
}

#[cfg(not(unix))]
fn check_local(_file: &File, path: &std::path::Path) -> Result<(), LakeError> {
    std::fs::metadata(path).map_or_else(|error| Err(lost(&error.to_string())), |_| Ok(()))
}

/// A lease is about wall time between machines.
fn seconds(clock: &Clock) -> u64 {
    u64::try_from(clock.now().millis() / 1_000).unwrap_or(0)
}

fn expired(holder: &Holder, clock: &Clock) -> bool {
    seconds(clock) > holder.renewed + LIFETIME.as_secs()
}

async fn put(
    store: &Arc<dyn ObjectStore>,
    clock: &Clock,
    holder: &Holder,
    mode: PutMode,
) -> Result<UpdateVersion, StoreError> {
    put_at(store, holder, seconds(clock), mode).await
}

async fn put_at(
    store: &Arc<dyn ObjectStore>,
    holder: &Holder,
    renewed: u64,
    mode: PutMode,
) -> Result<UpdateVersion, StoreError> {
    let holder = Holder { renewed, ..holder.clone() };
    let text = serde_json::to_vec(&holder).expect("a holder is plain text and numbers");
    let options = PutOptions { mode, ..PutOptions::default() };
    let done = store.put_opts(&Path::from(PATH), text.into(), options).await?;
    Ok(UpdateVersion { e_tag: done.e_tag, version: done.version })
}

async fn read_remote(store: &Arc<dyn ObjectStore>) -> Result<Option<(Holder, UpdateVersion)>, LakeError> {
    let found = match store.get(&Path::from(PATH)).await {
        Ok(found) => found,
        Err(StoreError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(failed("read", &error)),
    };
    let version = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
    let text = found.bytes().await.map_err(|error| failed("read", &error))?;
    // What can't be read belongs to nobody.
    Ok(Some((serde_json::from_slice(&text).unwrap_or_else(|_| unknown()), version)))
}

/// Takes it; `None` where another was faster.
async fn take(
    store: &Arc<dyn ObjectStore>,
    clock: &Clock,
    holder: &Holder,
    mode: PutMode,
) -> Result<Option<Lease>, LakeError> {
    let (asked, at) = (Instant::now(), seconds(clock));
    let version = match put(store, clock, holder, mode).await {
        Ok(version) => version,
        Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } | StoreError::NotFound { .. }) => {
            return Ok(None);
        }
        Err(error) => return Err(failed("take over", &error)),
    };
    let state = Mutex::new(Ok((version, asked, at)));
    let held = Arc::new(Held { store: Arc::clone(store), clock: clock.clone(), holder: holder.clone(), state });
    let renewal = tokio::spawn(renew_by_itself(Arc::downgrade(&held)));
    Ok(Some(Lease { kind: Kind::Remote { held, renewal } }))
}

async fn acquire_remote(store: &Arc<dyn ObjectStore>, clock: &Clock, holder: &Holder) -> Result<Lease, LakeError> {
    let taken = match read_remote(store).await? {
        None => take(store, clock, holder, PutMode::Create).await?,
        Some((other, version)) if expired(&other, clock) || other.is_before(holder) => {
            take(store, clock, holder, PutMode::Update(version)).await?
        }
        Some((other, _)) => return Err(LakeError::LeaseHeld { holder: other.to_string() }),
    };
    taken.ok_or_else(|| LakeError::LeaseHeld { holder: unknown().to_string() })
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
