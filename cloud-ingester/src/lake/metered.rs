//! A storage in memory that counts what is asked of it: what a commit costs is told in requests, not in time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use deltalake::logstore::object_store::memory::InMemory;
use deltalake::logstore::object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStoreExt as _,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use deltalake::{ObjectStore, Path};
use futures::StreamExt as _;
use futures::stream::BoxStream;

/// How often something was asked of a part of the storage: `log put`, `log list`, `data get`, …
pub type Requests = BTreeMap<String, u64>;

/// The storage.
#[derive(Debug, Default)]
pub struct Metered {
    inner: InMemory,
    requests: Mutex<Requests>,
    /// Names that listings gave.
    listed: Arc<Mutex<u64>>,
}

impl Metered {
    /// What was asked since the last time, and how many names listings gave.
    ///
    /// # Panics
    /// Never: nobody panics while counting.
    pub fn take(&self) -> (Requests, u64) {
        let requests = std::mem::take(&mut *self.requests.lock().expect("nobody panics while counting"));
        (requests, std::mem::take(&mut *self.listed.lock().expect("nobody panics while counting")))
    }

    /// Puts a file there, uncounted.
    ///
    /// # Errors
    /// Never, in memory.
    pub async fn place(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.inner.put(&Path::from(path), bytes.into()).await.map(|_| ())
    }

    /// Reads a file, uncounted.
    ///
    /// # Errors
    /// There is none.
    pub async fn fetch(&self, path: &str) -> Result<Bytes> {
        self.inner.get(&Path::from(path)).await?.bytes().await
    }

    fn count(&self, act: &str, path: &str) {
        let part = match path {
            _ if path.contains("checkpoint") => "checkpoint",
            _ if path.contains("_delta_log") => "log",
            _ if path.contains("_leases") => "lease",
            _ => "data",
        };
        *self.requests.lock().expect("nobody panics while counting").entry(format!("{part} {act}")).or_default() += 1;
    }

    fn counted(&self, list: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
        let listed = Arc::clone(&self.listed);
        list.inspect(move |_| *listed.lock().expect("nobody panics while counting") += 1).boxed()
    }
}

impl std::fmt::Display for Metered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("memory, metered")
    }
}

#[async_trait]
impl ObjectStore for Metered {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.count("put", path.as_ref());
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.count("put", path.as_ref());
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.count("get", path.as_ref());
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.count("list", prefix.map(AsRef::as_ref).unwrap_or_default());
        self.counted(self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.count("list", prefix.map(AsRef::as_ref).unwrap_or_default());
        self.counted(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.count("list", prefix.map(AsRef::as_ref).unwrap_or_default());
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.count("copy", to.as_ref());
        self.inner.copy_opts(from, to, options).await
    }
}
