//! The lease `_leases/hops`: one holder runs the hops of a lake.
//!
//! On a local disk it is a locked file, freed by the system when its holder dies. In an object store it is an object
//! that is renewed by conditional PUT and may be taken over once it has not been renewed for [`LIFETIME`]. Either
//! way its text says who holds it and where to ask.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use azure_core::Uuid;
use deltalake::logstore::object_store::{Error as StoreError, ObjectStoreExt as _, PutMode, PutOptions, UpdateVersion};
use deltalake::{ObjectStore, Path};
use serde::{Deserialize, Serialize};
use shared::clock::Clock;
use tokio::sync::Mutex;

use super::error::LakeError;
use super::store::Lake;

const PATH: &str = "_leases/hops";

/// An object that was not renewed for this long belongs to nobody.
const LIFETIME: Duration = Duration::from_secs(60);

/// An object older than this is renewed when it is checked.
const RENEW_AFTER: Duration = Duration::from_secs(15);

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
    /// Drawn for each lease taken in an object store: an answer that was lost is told from another holder by it.
    #[serde(default)]
    pub token: String,
    /// The machine since it was booted, and the room of process ids on it; empty where that is not known.
    #[serde(default)]
    pub place: String,
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
        Self {
            program: program.to_owned(),
            host: host.to_owned(),
            pid: std::process::id(),
            http,
            renewed: 0,
            token: String::new(),
            place: place(),
        }
    }
}

/// Two processes of the same place see each other's ids.
fn place() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let room = std::fs::read_link("/proc/self/ns/pid");
    match (boot, room) {
        (Ok(boot), Ok(room)) => format!("{} {}", boot.trim(), room.display()),
        _ => String::new(),
    }
}

impl Holder {
    /// Whether its process is known to have ended: what is left of a holder that was killed need not be waited for.
    fn has_ended(&self) -> bool {
        !self.place.is_empty()
            && self.place == place()
            && !std::path::Path::new(&format!("/proc/{}", self.pid)).exists()
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
    Local { file: File, path: std::path::PathBuf },
    Remote(Arc<Remote>),
}

/// A lease in an object store.
struct Remote {
    store: Arc<dyn ObjectStore>,
    clock: Clock,
    holder: Holder,
    state: Mutex<Renewed>,
}

/// When the lease was last renewed.
struct Renewed {
    /// The object's version.
    version: UpdateVersion,
    /// By the clock that stands still while the machine is suspended, and cannot be set back.
    at: Instant,
    /// By the other one.
    seconds: u64,
}

impl Lease {
    /// Takes the lease, or says who has it. One in an object store is renewed until it is dropped.
    ///
    /// # Errors
    /// [`LakeError::LeaseHeld`], or what the storage says.
    pub async fn acquire(lake: &Lake, holder: &Holder) -> Result<Self, LakeError> {
        match lake.location().local() {
            Some(root) => acquire_patiently(&root.join(PATH), holder).await,
            None => {
                let remote = Arc::new(Remote::acquire(Arc::clone(lake.storage()), lake.clock().clone(), holder).await?);
                tokio::spawn(keep(Arc::downgrade(&remote)));
                Ok(Self { kind: Kind::Remote(remote) })
            }
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
    /// [`LakeError::LeaseLost`]: another has it, stop at once. Any other: nobody knows; commit nothing and ask again.
    pub async fn check(&self) -> Result<(), LakeError> {
        match &self.kind {
            Kind::Local { file, path } => check_local(file, path),
            Kind::Remote(remote) => remote.check().await,
        }
    }

    /// Gives the lease back at once; without this the next holder of one in an object store waits for it to run out.
    pub async fn release(self) {
        let Kind::Remote(remote) = self.kind else {
            return;
        };
        let state = remote.state.lock().await;
        let nobody = remote.put(0, PutMode::Update(state.version.clone())).await;
        if let Err(error) = nobody {
            tracing::warn!(%error, "the lease could not be given back; it runs out by itself");
        }
    }
}

/// Renews the lease while its holder is busy with something that takes long, or idle.
async fn keep(remote: Weak<Remote>) {
    loop {
        let Some(held) = remote.upgrade() else { return };
        let Clock::Real = held.clock else { return };
        // Whoever commits asks for itself, and is told.
        if let Err(error) = held.check().await {
            tracing::debug!(%error, "the lease was not renewed");
        }
        drop(held);
        tokio::time::sleep(RENEW_AFTER).await;
    }
}

impl Remote {
    /// | the object          | answer                                                        |
    /// |---------------------|---------------------------------------------------------------|
    /// | none                | ours, by a PUT that creates                                   |
    /// | ours by its token   | ours: the answer to an earlier PUT was lost                   |
    /// | another's, run out  | ours, by a PUT that replaces exactly this version             |
    /// | another's, who died | the same: a process of this machine that is not there any more |
    /// | another's           | held                                                          |
    async fn acquire(store: Arc<dyn ObjectStore>, clock: Clock, holder: &Holder) -> Result<Self, LakeError> {
        let holder = Holder { token: Uuid::new_v4().to_string(), ..holder.clone() };
        let version = UpdateVersion { e_tag: None, version: None };
        let state = Renewed { version, at: Instant::now(), seconds: seconds(&clock) };
        let remote = Self { store, clock, holder, state: Mutex::new(state) };
        let mut mode = PutMode::Create;
        let mut left = 3;
        loop {
            left -= 1;
            let (at, seconds) = (Instant::now(), seconds(&remote.clock));
            let refused = match remote.put(seconds, mode.clone()).await {
                Ok(version) => {
                    *remote.state.lock().await = Renewed { version, at, seconds };
                    return Ok(remote);
                }
                Err(refused) => refused,
            };
            let Some((other, seen)) = remote.look().await? else {
                if left == 0 {
                    return Err(failed("create", &refused));
                }
                mode = PutMode::Create;
                continue;
            };
            match other {
                Some(other) if other.token == remote.holder.token => {
                    *remote.state.lock().await = Renewed { version: seen, at, seconds };
                    return Ok(remote);
                }
                Some(other) if !expired(&other, &remote.clock) && !other.has_ended() => {
                    return Err(LakeError::LeaseHeld { holder: other.to_string() });
                }
                // Run out, or nobody can read it.
                _ if left == 0 => return Err(failed("take over", &refused)),
                _ => mode = PutMode::Update(seen),
            }
        }
    }

    async fn check(&self) -> Result<(), LakeError> {
        let mut state = self.state.lock().await;
        let (at, seconds) = (Instant::now(), seconds(&self.clock));
        // A machine that was suspended finds only its wall clock moved.
        if state.at.elapsed() < RENEW_AFTER && seconds < state.seconds + RENEW_AFTER.as_secs() {
            return Ok(());
        }
        let refused = match self.put(seconds, PutMode::Update(state.version.clone())).await {
            Ok(version) => {
                *state = Renewed { version, at, seconds };
                return Ok(());
            }
            Err(refused) => refused,
        };
        // The answer to this PUT or to the one before may have been lost; the text tells whose the object is.
        match self.look().await? {
            Some((Some(other), seen)) if other.token == self.holder.token && other.renewed != 0 => {
                // As of the time that stands in it: the PUT of now may not be the one that landed.
                let age = Duration::from_secs(seconds.saturating_sub(other.renewed));
                *state = Renewed { version: seen, at: at.checked_sub(age).unwrap_or(at), seconds: other.renewed };
                if age < RENEW_AFTER { Ok(()) } else { Err(failed("renew", &refused)) }
            }
            Some((Some(other), _)) => Err(lost(&format!("it is held by {other}"))),
            Some((None, _)) | None => Err(lost("its object is gone")),
        }
    }

    /// Who the object names, and its version; `None` where there is none.
    async fn look(&self) -> Result<Option<(Option<Holder>, UpdateVersion)>, LakeError> {
        let found = match self.store.get(&Path::from(PATH)).await {
            Ok(found) => found,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed("read", &error)),
        };
        let seen = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
        let text = found.bytes().await.map_err(|error| failed("read", &error))?;
        Ok(Some((serde_json::from_slice(&text).ok(), seen)))
    }

    async fn put(&self, renewed: u64, mode: PutMode) -> Result<UpdateVersion, StoreError> {
        let holder = Holder { renewed, ..self.holder.clone() };
        let text = serde_json::to_vec(&holder).expect("a holder is plain text and numbers");
        let options = PutOptions { mode, ..PutOptions::default() };
        let done = self.store.put_opts(&Path::from(PATH), text.into(), options).await?;
        Ok(UpdateVersion { e_tag: done.e_tag, version: done.version })
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
    holder.unwrap_or_else(|| Holder {
        program: "another process".to_owned(),
        host: "this machine".to_owned(),
        pid: 0,
        http: None,
        renewed: 0,
        token: String::new(),
        place: String::new(),
    })
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use shared::clock::VirtualClock;
    use shared::time::Timestamp;

    use super::*;
    use crate::lake::Location;

    #[tokio::test]
    async fn a_second_holder_is_refused_and_told_who_holds_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().to_str().expect("UTF-8");
        let location = Location::parse(path, HashMap::new()).expect("a path");
        let lake = Lake::open(location).expect("a lake");
        let holder = Holder::this("cloud-ingester run", Some("127.0.0.1:9102".into()));
        let lease = Lease::acquire(&lake, &holder).await.expect("free");
        lease.check().await.expect("ours");
        let refused = Lease::acquire(&lake, &holder).await.err().expect("held");
        assert!(refused.to_string().contains("127.0.0.1:9102"), "{refused}");
        assert_eq!(Lease::holder(&lake).await.expect("readable"), Some(holder.clone()));
        drop(lease);
        assert_eq!(Lease::holder(&lake).await.expect("readable"), None);
        Lease::acquire(&lake, &holder).await.expect("free again");
    }

    #[tokio::test]
    async fn a_holder_whose_file_was_replaced_has_lost_the_lease() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("hops");
        let holder = Holder::this("test", None);
        let lease = acquire_local(&path, &holder).expect("free");
        std::fs::remove_file(&path).expect("removed");
        let second = acquire_local(&path, &holder).expect("free by its name");
        assert!(lease.check().await.is_err());
        second.check().await.expect("ours");
    }

    fn remote(hands: &VirtualClock) -> (Arc<dyn ObjectStore>, Clock) {
        (Arc::new(deltalake::logstore::object_store::memory::InMemory::new()), Clock::Virtual(hands.clone()))
    }

    #[tokio::test]
    async fn in_an_object_store_a_lease_is_one_holders_until_it_runs_out() {
        let hands = VirtualClock::at(Timestamp::from_millis(1_790_000_000_000));
        let (store, clock) = remote(&hands);
        let holder = Holder::this("first", None);
        let first = Remote::acquire(Arc::clone(&store), clock.clone(), &holder).await.expect("free");
        hands.advance(Duration::from_secs(20));
        first.check().await.expect("renewed");
        hands.advance(LIFETIME);
        let refused = Remote::acquire(Arc::clone(&store), clock.clone(), &holder).await.err();
        assert!(matches!(refused, Some(LakeError::LeaseHeld { .. })));
        hands.advance(Duration::from_secs(1));
        let second = Remote::acquire(store, clock, &holder).await.expect("run out");
        assert!(matches!(first.check().await, Err(LakeError::LeaseLost { .. })), "the first one slept");
        second.check().await.expect("ours");
    }

    #[tokio::test]
    async fn the_lease_of_a_process_that_died_on_this_machine_is_free_at_once() {
        let hands = VirtualClock::at(Timestamp::from_millis(1_790_000_000_000));
        let (store, clock) = remote(&hands);
        let died = Holder { pid: u32::MAX, ..Holder::this("first", None) };
        Remote::acquire(Arc::clone(&store), clock.clone(), &died).await.expect("free");
        let second =
            Remote::acquire(Arc::clone(&store), clock.clone(), &Holder::this("second", None)).await.expect("free");
        second.check().await.expect("ours");
        let elsewhere = Holder { place: "another machine".into(), ..died };
        hands.advance(LIFETIME * 2);
        Remote::acquire(Arc::clone(&store), clock.clone(), &elsewhere).await.expect("run out");
        assert!(Remote::acquire(store, clock, &Holder::this("third", None)).await.is_err(), "nobody can know");
    }

    #[tokio::test]
    async fn a_lease_that_nobody_took_meanwhile_is_still_ours_after_a_sleep() {
        let hands = VirtualClock::at(Timestamp::from_millis(1_790_000_000_000));
        let (store, clock) = remote(&hands);
        let first = Remote::acquire(store, clock, &Holder::this("first", None)).await.expect("free");
        hands.advance(LIFETIME * 10);
        first.check().await.expect("ours");
    }

    #[tokio::test]
    async fn a_renewal_whose_answer_was_lost_is_known_by_its_token() {
        let hands = VirtualClock::at(Timestamp::from_millis(1_790_000_000_000));
        let (store, clock) = remote(&hands);
        let first = Remote::acquire(store, clock.clone(), &Holder::this("first", None)).await.expect("free");
        hands.advance(RENEW_AFTER);
        // It lands, and its new version is never told.
        let current = first.state.lock().await.version.clone();
        first.put(seconds(&clock), PutMode::Update(current)).await.expect("lands");
        first.check().await.expect("ours");
    }

    #[tokio::test]
    async fn a_lease_given_back_is_free_at_once() {
        let hands = VirtualClock::at(Timestamp::from_millis(1_790_000_000_000));
        let (store, clock) = remote(&hands);
        let holder = Holder::this("first", None);
        let first = Remote::acquire(Arc::clone(&store), clock.clone(), &holder).await.expect("free");
        Lease { kind: Kind::Remote(Arc::new(first)) }.release().await;
        Remote::acquire(store, clock, &holder).await.expect("free again").check().await.expect("ours");
    }
}
