//! What upkeep asks of the storage: what lies there, whether it is needed, and its removal.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use deltalake::logstore::object_store::{
    CopyOptions, Error as StoreError, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
};
use deltalake::{DeltaTable, ObjectStore, Path};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};

use super::commit::delta;
use super::error::LakeError;
use super::store::Lake;
use super::tables::Table;
use super::view::View;

/// A file with rows, or that was to have some, as it lies below its table's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Relative to the table.
    pub path: String,
    /// How large.
    pub bytes: u64,
    /// When it was written, in milliseconds since the epoch.
    pub modified: i64,
}

/// A file of a table's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Relative to the table.
    pub path: String,
    /// Which version's.
    pub version: i64,
    /// A checkpoint; otherwise the version's own entry.
    pub checkpoint: bool,
    /// When it was written, in milliseconds since the epoch.
    pub modified: i64,
}

impl Lake {
    /// All that lies below a table's directory: files for rows, and the log's.
    ///
    /// # Errors
    /// When it can't be listed.
    pub async fn listing(&self, table: Table) -> Result<(Vec<Listed>, Vec<Logged>), LakeError> {
        let failed = delta("list the files of", table);
        let store = self.view(table).await?.delta().log_store().object_store(None);
        let found: Result<Vec<ObjectMeta>, StoreError> = store.list(None).try_collect().await;
        let (mut files, mut log) = (vec![], vec![]);
        for meta in found.map_err(|error| failed(error.into()))? {
            let path = meta.location.to_string();
            let modified = meta.last_modified.timestamp_millis();
            if let Some(name) = path.strip_prefix("_delta_log/") {
                if let Some((version, checkpoint)) = logged(name) {
                    log.push(Logged { path, version, checkpoint, modified });
                }
            } else if !path.starts_with('_') && path.ends_with(".parquet") {
                files.push(Listed { path, bytes: meta.size, modified });
            }
        }
        log.sort_by_key(|entry| (entry.version, entry.checkpoint));
        Ok((files, log))
    }

    /// Tries what a lake needs of its storage with a small file: to write, to refuse a name that is taken, to list, to
    /// read, to remove.
    ///
    /// # Errors
    /// What the storage can't do.
    pub async fn probe(&self) -> Result<(), LakeError> {
        let path = Path::from(format!("_leases/.check-{}", std::process::id()));
        let failed = |act: &'static str| {
            let path = path.to_string();
            move |error: StoreError| LakeError::Beside { act, path, detail: error.to_string() }
        };
        let create = || async {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            self.storage().put_opts(&path, "check".into(), options).await
        };
        // What an earlier check left, which was killed.
        let _ = self.storage().delete(&path).await;
        create().await.map_err(failed("write"))?;
        let refused = match create().await {
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(()),
            Ok(_) => Err(LakeError::Location {
                location: self.location().root().to_string(),
                detail: "it lets a name that is taken be written again, so two commits could take one version; use a \
                         storage with conditional writes"
                    .to_owned(),
            }),
            Err(error) => Err(failed("write once more")(error)),
        };
        let listed = self.storage().list(Some(&Path::from("_leases"))).try_collect::<Vec<_>>().await;
        let read = self.storage().get(&path).await;
        let removed = self.storage().delete(&path).await;
        refused?;
        read.map_err(failed("read"))?;
        let listed = listed.map_err(failed("list"))?;
        if !listed.iter().any(|meta| meta.location == path) {
            return Err(LakeError::Beside {
                act: "list",
                path: path.to_string(),
                detail: "what was just written is not among the names".to_owned(),
            });
        }
        removed.map_err(failed("remove"))
    }

    /// Removes files of a table for good. Not while they may be needed.
    ///
    /// # Errors
    /// When the storage refuses; some may be gone then.
    pub async fn remove(&self, table: Table, paths: Vec<String>) -> Result<(), LakeError> {
        let failed = delta("remove files of", table);
        let store = self.view(table).await?.delta().log_store().object_store(None);
        let paths = futures::stream::iter(paths.into_iter().map(|path| Ok(Path::from(path)))).boxed();
        let mut removed = store.delete_stream(paths);
        while let Some(one) = removed.next().await {
            match one {
                // Another holder was faster.
                Ok(_) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
        Ok(())
    }

    /// The table as a reader would find it if these files were not there.
    ///
    /// # Errors
    /// When it can't be read then.
    pub async fn view_without(&self, table: Table, paths: &[String]) -> Result<View, LakeError> {
        let url = self.location().table(table)?;
        let root = Path::from_url_path(url.path()).map_err(|error| LakeError::Beside {
            act: "name",
            path: table.path(),
            detail: error.to_string(),
        })?;
        let inner = self.view(table).await?.delta().log_store().root_object_store(None);
        // Beneath the table's own prefix some stores are rooted at the disk, some at the container: both spellings.
        let named =
            |path: &String| [Path::from(format!("{root}/{path}")), Path::from(format!("{}/{path}", table.path()))];
        let hidden: HashSet<Path> = paths.iter().flat_map(named).collect();
        let hiding: Arc<dyn ObjectStore> = Arc::new(Hiding { inner, hidden });
        let log_store = self.log_store_over(hiding, &url)?;
        let mut fresh = DeltaTable::new(log_store);
        fresh.load().await.map_err(delta("load", table))?;
        Ok(View::new(table, fresh))
    }
}

impl View {
    /// Files that are not part of the table any more, and when they were removed, in milliseconds since the epoch.
    ///
    /// # Errors
    /// When the log can't be read.
    pub async fn gone(&self) -> Result<HashMap<String, i64>, LakeError> {
        let failed = delta("read the log of", self.table());
        let state = self.delta().snapshot().map_err(&failed)?;
        let log_store = self.delta().log_store();
        let mut tombstones = state.all_tombstones(log_store.as_ref());
        let mut gone = HashMap::new();
        while let Some(tombstone) = tombstones.try_next().await.map_err(&failed)? {
            gone.insert(tombstone.path().into_owned(), tombstone.deletion_timestamp().unwrap_or(i64::MAX));
        }
        Ok(gone)
    }
}

/// The version a file of the log is of, and whether it is a checkpoint.
fn logged(name: &str) -> Option<(i64, bool)> {
    let (version, rest) = name.split_at_checked(20)?;
    let version = version.parse().ok()?;
    match rest {
        ".json" => Some((version, false)),
        _ if rest.starts_with(".checkpoint.") && rest.ends_with(".parquet") => Some((version, true)),
        _ => None,
    }
}

/// A storage without some of its files.
#[derive(Debug)]
struct Hiding {
    inner: Arc<dyn ObjectStore>,
    hidden: HashSet<Path>,
}

impl std::fmt::Display for Hiding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} without {} files", self.inner, self.hidden.len())
    }
}

fn read_only<T>() -> StoreResult<T> {
    Err(StoreError::NotSupported { source: "what is only looked at is not written".into() })
}

#[async_trait]
impl ObjectStore for Hiding {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> StoreResult<PutResult> {
        read_only()
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> StoreResult<Box<dyn MultipartUpload>> {
        read_only()
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> StoreResult<GetResult> {
        if self.hidden.contains(path) {
            return Err(StoreError::NotFound { path: path.to_string(), source: "hidden".into() });
        }
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, _: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        futures::stream::once(async { read_only() }).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let hidden = self.hidden.clone();
        let shown = self.inner.list(prefix);
        shown.try_filter(move |meta| std::future::ready(!hidden.contains(&meta.location))).boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let hidden = self.hidden.clone();
        let shown = self.inner.list_with_offset(prefix, offset);
        shown.try_filter(move |meta| std::future::ready(!hidden.contains(&meta.location))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        let mut found = self.inner.list_with_delimiter(prefix).await?;
        found.objects.retain(|meta| !self.hidden.contains(&meta.location));
        Ok(found)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> StoreResult<()> {
        read_only()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::Location;

    #[tokio::test]
    async fn a_storage_that_can_do_all_passes_and_nothing_is_left() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().to_str().expect("UTF-8");
        let location = Location::parse(path, HashMap::new()).expect("a path");
        location.prepare().expect("a local disk");
        let lake = Lake::open(location).expect("a lake");
        lake.probe().await.expect("a local disk can");
        lake.probe().await.expect("and again");
        assert_eq!(std::fs::read_dir(directory.path().join("_leases")).expect("there").count(), 0);
    }

    #[test]
    fn entries_of_a_log_are_known_by_their_names() {
        for (name, is) in [
            ("00000000000000000007.json", Some((7, false))),
            ("00000000000000000020.checkpoint.parquet", Some((20, true))),
            ("00000000000000000020.checkpoint.0000000001.0000000002.parquet", Some((20, true))),
            ("_last_checkpoint", None),
            ("00000000000000000007.json.tmp", None),
        ] {
            assert_eq!(logged(name), is, "{name}");
        }
    }
}
