//! Small records beside the tables that several processes write: each is replaced only by whoever saw its newest state.
//!
//! In an object store that is a conditional PUT. On a local disk it is a file replaced under a lock; there the system
//! also tells at once which process is gone: [`Running`] is a locked file, freed when its holder dies.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azure_core::Uuid;
use deltalake::logstore::object_store::{
    Error as StoreError, ObjectMeta, ObjectStoreExt as _, PutMode, PutOptions, UpdateVersion,
};
use deltalake::{ObjectStore, Path};
use futures::TryStreamExt as _;

use super::error::LakeError;
use super::store::Lake;

/// Where runs are known, on a local disk.
const RUNS: &str = "_leases/ingesters";

/// Files of runs that are gone are cleared away when they are this old.
const LITTER: Duration = Duration::from_secs(3_600);

/// How often a lock that another process holds is tried, and how long after each time; it takes one small write.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the folder.
    pub name: String,
    /// What it says.
    pub text: String,
    /// What identifies this state of it.
    pub tag: String,
}

/// The records of one folder of the lake.
pub struct Records {
    place: Place,
    folder: String,
}

enum Place {
    Local(PathBuf),
    Remote {
        store: Arc<dyn ObjectStore>,
        /// What was read last, by name, with the listing's own mark: what did not change is not read again.
        read: Mutex<HashMap<String, (String, Entry)>>,
    },
}

impl Records {
    /// The records in `folder`, below the lake's root; the folder need not exist.
    #[must_use]
    pub fn of(lake: &Lake, folder: &str) -> Self {
        let place = match lake.location().local() {
            Some(root) => Place::Local(root.to_owned()),
            None => Place::Remote { store: Arc::clone(lake.storage()), read: Mutex::default() },
        };
        Self { place, folder: folder.to_owned() }
    }

    /// All records, by name.
    ///
    /// # Errors
    /// What the storage says.
    pub async fn list(&self) -> Result<Vec<Entry>, LakeError> {
        let mut found = match &self.place {
            Place::Local(root) => list_local(&root.join(&self.folder)).map_err(|error| self.failed("list", &error))?,
            Place::Remote { store, read } => self.list_remote(store, read).await?,
        };
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Writes a record if it still is in the state `over`, or if it is not there and that is `None`. Its new tag; `None`
    /// where another was faster.
    ///
    /// # Errors
    /// What the storage says; it may have been written all the same.
    pub async fn put(&self, name: &str, text: &str, over: Option<&str>) -> Result<Option<String>, LakeError> {
        // Some stores tag an object by its bytes: two writes never have the same.
        let text = format!("{}\n{text}", Uuid::new_v4());
        match &self.place {
            Place::Local(root) => {
                let folder = root.join(&self.folder);
                let mut left = LOCK_TRIES;
                loop {
                    match put_local(&folder, name, &text, over) {
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && left != 0 => left -= 1,
                        done => return done.map_err(|error| self.failed("write", &error)),
                    }
                    tokio::time::sleep(LOCK_PAUSE).await;
                }
            }
            Place::Remote { store, .. } => {
                let mode = match over {
                    Some(tag) => PutMode::Update(version(tag)),
                    None => PutMode::Create,
                };
                let options = PutOptions { mode, ..PutOptions::default() };
                match store.put_opts(&self.path(name), text.into(), options).await {
                    Ok(done) => Ok(Some(tag(done.e_tag, done.version))),
                    Err(
                        StoreError::AlreadyExists { .. }
                        | StoreError::Precondition { .. }
                        | StoreError::NotFound { .. },
                    ) => Ok(None),
                    Err(error) => Err(self.failed("write", &error)),
                }
            }
        }
    }

    /// Whether a run is known to be gone. In an object store nobody can tell.
    #[must_use]
    pub fn is_gone(&self, run: &str) -> bool {
        match &self.place {
            Place::Local(root) => !is_locked(&root.join(RUNS).join(run)),
            Place::Remote { .. } => false,
        }
    }

    async fn list_remote(
        &self,
        store: &Arc<dyn ObjectStore>,
        read: &Mutex<HashMap<String, (String, Entry)>>,
    ) -> Result<Vec<Entry>, LakeError> {
        let listed: Result<Vec<ObjectMeta>, StoreError> =
            store.list(Some(&Path::from(self.folder.as_str()))).try_collect().await;
        let mut found = vec![];
        for meta in listed.map_err(|error| self.failed("list", &error))? {
            let name = meta.location.filename().unwrap_or_default().to_owned();
            let mark = tag(meta.e_tag.clone(), meta.version.clone());
            let known = read.lock().expect("no thread panics while it holds this").get(&name).cloned();
            if let Some((_, entry)) = known.filter(|(known, _)| *known == mark) {
                found.push(entry);
                continue;
            }
            let got = match store.get(&meta.location).await {
                Ok(got) => got,
                Err(StoreError::NotFound { .. }) => continue,
                Err(error) => return Err(self.failed("read", &error)),
            };
            let tag = tag(got.meta.e_tag.clone(), got.meta.version.clone());
            let bytes = got.bytes().await.map_err(|error| self.failed("read", &error))?;
            let entry = entry(name.clone(), &bytes, Some(tag));
            read.lock().expect("no thread panics while it holds this").insert(name, (mark, entry.clone()));
            found.push(entry);
        }
        Ok(found)
    }

    fn path(&self, name: &str) -> Path {
        Path::from(format!("{}/{name}", self.folder))
    }

    fn failed(&self, act: &'static str, error: &dyn std::fmt::Display) -> LakeError {
        LakeError::Beside { act, path: self.folder.clone(), detail: error.to_string() }
    }
}

/// The first line only makes two writes differ; on a local disk it is the tag.
fn entry(name: String, bytes: &[u8], tag: Option<String>) -> Entry {
    let text = String::from_utf8_lossy(bytes);
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    Entry { name, text: rest.to_owned(), tag: tag.unwrap_or_else(|| first.to_owned()) }
}

fn tag(e_tag: Option<String>, version: Option<String>) -> String {
    format!("{}\n{}", e_tag.unwrap_or_default(), version.unwrap_or_default())
}

fn version(tag: &str) -> UpdateVersion {
    let (e_tag, version) = tag.split_once('\n').unwrap_or((tag, ""));
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    UpdateVersion { e_tag: some(e_tag), version: some(version) }
}

fn list_local(folder: &FilePath) -> std::io::Result<Vec<Entry>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error),
    };
    let mut found = vec![];
    for file in entries {
        let file = file?;
        let name = file.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        found.push(entry(name, &std::fs::read(file.path())?, None));
    }
    Ok(found)
}

fn put_local(folder: &FilePath, name: &str, text: &str, over: Option<&str>) -> std::io::Result<Option<String>> {
    std::fs::create_dir_all(folder)?;
    let lock = File::options().write(true).create(true).truncate(false).open(folder.join(".lock"))?;
    lock.try_lock()?;
    let path = folder.join(name);
    let now = match std::fs::read(&path) {
        Ok(bytes) => Some(entry(String::new(), &bytes, None).tag),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if now.as_deref() != over {
        return Ok(None);
    }
    // Renamed into place: nobody reads half of it, also after a kill.
    let beside = folder.join(format!(".{name}"));
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, &path)?;
    Ok(Some(entry(String::new(), text.as_bytes(), None).tag))
}

/// Shows others on this disk that a run lives, until dropped or killed.
pub struct Running(Option<(File, PathBuf)>);

impl Running {
    /// Shows it. In an object store there is nothing to show.
    ///
    /// # Errors
    /// What the disk says.
    pub fn show(lake: &Lake, run: &str) -> Result<Self, LakeError> {
        let Some(root) = lake.location().local() else {
            return Ok(Self(None));
        };
        let folder = root.join(RUNS);
        let shown = || {
            std::fs::create_dir_all(&folder)?;
            clear_litter(&folder);
            let path = folder.join(run);
            let file = File::options().write(true).create(true).truncate(false).open(&path)?;
            file.lock()?;
            Ok((file, path))
        };
        let shown = shown().map_err(|error: std::io::Error| LakeError::Beside {
            act: "write",
            path: RUNS.to_owned(),
            detail: error.to_string(),
        });
        Ok(Self(Some(shown?)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some((_, path)) = &self.0 {
            // What stays is cleared away later.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn is_locked(path: &FilePath) -> bool {
    File::open(path).is_ok_and(|file| matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock)))
}

fn clear_litter(folder: &FilePath) {
    for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let age = file.metadata().and_then(|meta| meta.modified()).map(|at| at.elapsed().unwrap_or_default());
        if age.is_ok_and(|age| LITTER < age) && !is_locked(&file.path()) {
            let _ = std::fs::remove_file(file.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::Location;

    async fn check(records: Records) {
        assert_eq!(records.list().await.expect("empty"), []);
        let first = records.put("0", "a", None).await.expect("written").expect("the first");
        assert_eq!(records.put("0", "b", None).await.expect("asked"), None, "it is there already");
        assert_eq!(records.put("1", "b", Some(&first)).await.expect("asked"), None, "it is not there");
        let second = records.put("0", "b", Some(&first)).await.expect("written").expect("nobody was faster");
        assert_ne!(first, second);
        assert_eq!(records.put("0", "c", Some(&first)).await.expect("asked"), None, "somebody was faster");
        let third = records.put("0", "b", Some(&second)).await.expect("written").expect("nobody was faster");
        assert_ne!(second, third, "the same text is another state");
        for _ in 0..2 {
            let found = records.list().await.expect("one");
            assert_eq!(found, [Entry { name: "0".to_owned(), text: "b".to_owned(), tag: third.clone() }]);
        }
    }

    #[tokio::test]
    async fn a_record_is_replaced_only_by_who_saw_its_newest_state() {
        let directory = tempfile::tempdir().expect("a directory");
        let folder = "_leases/partitions/h".to_owned();
        check(Records { place: Place::Local(directory.path().to_owned()), folder: folder.clone() }).await;
        let store = Arc::new(deltalake::logstore::object_store::memory::InMemory::new());
        check(Records { place: Place::Remote { store, read: Mutex::default() }, folder }).await;
    }

    #[test]
    fn a_run_is_gone_when_its_file_is_free() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().to_str().expect("UTF-8");
        let lake = Lake::open(Location::parse(path, HashMap::new()).expect("a path")).expect("a lake");
        let records = Records::of(&lake, "x");
        assert!(records.is_gone("a"));
        let running = Running::show(&lake, "a").expect("shown");
        assert!(!records.is_gone("a"));
        drop(running);
        assert!(records.is_gone("a"));
    }
}
