//! Where the lake lies: a local directory or the URL of an object store.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use url::Url;

use super::error::LakeError;
use super::tables::Table;

/// A lake's root and what its storage wants to know.
#[derive(Clone)]
pub struct Location {
    root: Url,
    local: Option<PathBuf>,
    options: HashMap<String, String>,
}

impl std::fmt::Debug for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Options hold account keys.
        write!(f, "Location({})", self.root)
    }
}

impl Location {
    /// Reads a path (`/var/lib/lake`, `lake`) or a URL (`az://container/lake`, `file:///lake`).
    ///
    /// # Errors
    /// When the location can never work: a `%` in a local path, or a URL that does not parse.
    pub fn parse(text: &str, options: HashMap<String, String>) -> Result<Self, LakeError> {
        let refuse = |detail: String| LakeError::Location { location: text.to_owned(), detail };
        let path = match text.split_once("://") {
            Some(("file", rest)) => rest,
            Some((scheme, _)) => {
                known(scheme).map_err(refuse)?;
                let directory = format!("{}/", text.trim_end_matches('/'));
                let root = Url::parse(&directory).map_err(|error| refuse(error.to_string()))?;
                return Ok(Self { root, local: None, options });
            }
            None => text,
        };
        if path.is_empty() {
            return Err(refuse("write a directory or a URL such as az://container/lake".into()));
        }
        if path.contains('%') {
            return Err(refuse("a `%` in a local path confuses Delta readers, choose a directory without one".into()));
        }
        let path = std::path::absolute(path).map_err(|error| refuse(error.to_string()))?;
        let root = Url::from_directory_path(&path).map_err(|()| refuse("the path can't be written as a URL".into()))?;
        Ok(Self { root, local: Some(path), options })
    }

    /// The lake's root; ends with `/`.
    #[must_use]
    pub fn root(&self) -> &Url {
        &self.root
    }

    /// The local directory, unless the lake lies in an object store.
    #[must_use]
    pub fn local(&self) -> Option<&Path> {
        self.local.as_deref()
    }

    /// What the storage wants to know (account, keys, endpoint).
    #[must_use]
    pub fn options(&self) -> &HashMap<String, String> {
        &self.options
    }

    /// The URL of a table.
    ///
    /// # Errors
    /// When the root can't be extended, which no parsed root does.
    pub fn table(&self, table: Table) -> Result<Url, LakeError> {
        self.root
            .join(&format!("{}/", table.path()))
            .map_err(|error| LakeError::Location { location: self.root.to_string(), detail: error.to_string() })
    }

    /// Creates a local root and tries what Delta needs from a file system: that a file can be linked to a second name
    /// and that linking to a taken name fails. SMB and FUSE mounts often can't.
    ///
    /// # Errors
    /// When the directory can't be written or can't link.
    pub fn prepare(&self) -> Result<(), LakeError> {
        let Some(local) = &self.local else {
            return Ok(());
        };
        let refuse = |detail: String| LakeError::Location { location: local.display().to_string(), detail };
        let leases = local.join("_leases");
        std::fs::create_dir_all(&leases).map_err(|error| refuse(format!("it can't be created: {error}")))?;
        let probe = tempfile_in(&leases);
        let second = probe.with_extension("link");
        std::fs::write(&probe, b"probe").map_err(|error| refuse(format!("it can't be written: {error}")))?;
        let linked = std::fs::hard_link(&probe, &second);
        let again = linked.is_ok().then(|| std::fs::hard_link(&probe, &second));
        let _ = std::fs::remove_file(&second);
        let _ = std::fs::remove_file(&probe);
        links(&linked, again.as_ref()).map_err(refuse)
    }
}

/// Whether a file system can make a commit atomic: by a hard link, which fails where the name is taken.
fn links(linked: &std::io::Result<()>, again: Option<&std::io::Result<()>>) -> Result<(), String> {
    match (linked, again) {
        (Ok(()), Some(Err(_))) => Ok(()),
        (Err(error), _) => Err(format!(
            "its file system has no hard links ({error}), without which commits are not atomic; use a local disk or an object store"
        )),
        (Ok(()), _) => Err(
            "its file system links over existing names, so commits are not atomic; use a local disk or an object store"
                .into(),
        ),
    }
}

/// Whether this build serves the scheme of a URL.
fn known(scheme: &str) -> Result<(), String> {
    let without = |what: &str, feature: &str| {
        Err(format!("this build has no {what}: build it with `--features {feature}`, or use another storage"))
    };
    match scheme {
        "az" | "adl" | "azure" | "abfs" | "abfss" => Ok(()),
        "s3" | "s3a" if cfg!(feature = "s3") => Ok(()),
        "s3" | "s3a" => without("S3", "s3"),
        "gs" if cfg!(feature = "gcs") => Ok(()),
        "gs" => without("Google Cloud Storage", "gcs"),
        // For simulations; lives as long as the process.
        "memory" => Ok(()),
        other => Err(format!(
            "`{other}://` is no storage of Delta's: write a directory, az://CONTAINER/PATH, \
             abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH (OneLake: abfss://WORKSPACE@onelake.dfs.fabric.microsoft.com/ITEM/Files/PATH), \
             s3://BUCKET/PATH or gs://BUCKET/PATH"
        )),
    }
}

fn tempfile_in(directory: &Path) -> PathBuf {
    directory.join(format!(".probe-{}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::Lake;

    fn parse(text: &str) -> Result<Location, LakeError> {
        Location::parse(text, HashMap::new())
    }

    #[test]
    fn a_path_and_a_url_are_both_locations() {
        let local = parse("/tmp/a lake").expect("a path");
        assert_eq!(local.root().as_str(), "file:///tmp/a%20lake/");
        assert_eq!(local.local(), Some(Path::new("/tmp/a lake")));
        let remote = parse("az://container/lake").expect("a URL");
        assert_eq!(remote.root().as_str(), "az://container/lake/");
        let table = remote.table(Table::SilverReadings).expect("a table");
        assert_eq!(table.as_str(), "az://container/lake/silver/readings/");
    }

    #[test]
    fn a_storage_is_named_as_its_cloud_names_it_and_anything_else_is_refused_with_what_to_write() {
        let onelake = "abfss://workspace@onelake.dfs.fabric.microsoft.com/item.Lakehouse/Files/lake";
        for (text, table) in [
            ("az://container/a/b/", "az://container/a/b/silver/readings/"),
            (onelake, &format!("{onelake}/silver/readings/")),
            ("abfss://c@account.dfs.core.windows.net", "abfss://c@account.dfs.core.windows.net/silver/readings/"),
        ] {
            let account = HashMap::from([("azure_storage_account_name".to_owned(), "account".to_owned())]);
            let parsed = Location::parse(text, account).expect(text);
            assert_eq!(parsed.table(Table::SilverReadings).expect("a table").as_str(), table);
            Lake::open(parsed).expect("who we are is asked when something is read");
        }
        for (text, says) in [
            ("https://account.blob.core.windows.net/c", "az://CONTAINER/PATH"),
            ("ftp://x/y", "write a directory"),
            #[cfg(not(feature = "s3"))]
            ("s3://bucket/lake", "--features s3"),
            #[cfg(not(feature = "gcs"))]
            ("gs://bucket/lake", "--features gcs"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_file_system_without_hard_links_or_with_careless_ones_is_refused() {
        let no = || Err(std::io::Error::from(std::io::ErrorKind::Unsupported));
        assert_eq!(links(&Ok(()), Some(&no())), Ok(()));
        for (linked, again, says) in [(no(), None, "no hard links"), (Ok(()), Some(Ok(())), "links over")] {
            let error = links(&linked, again.as_ref()).expect_err("refused");
            assert!(error.contains(says) && error.contains("use a local disk"), "{error}");
        }
    }

    #[test]
    fn a_percent_sign_in_a_local_path_is_refused() {
        let error = parse("/tmp/100%").expect_err("refused");
        assert!(error.to_string().contains('%'), "{error}");
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_refused() {
        let location = parse("/proc/nowhere/lake").expect("parses");
        let error = location.prepare().expect_err("refused");
        assert!(error.to_string().contains("can't be created"), "{error}");
    }
}
