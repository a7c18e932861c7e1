//! Where the lake lies, as each service writes it.

use url::Url;

/// The root of a lake that services can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Azure storage: account, container, path without a slash at its ends.
    Azure {
        /// The storage account.
        account: String,
        /// The container.
        container: String,
        /// The folder in it; may be empty.
        path: String,
    },
    /// OneLake, by its ABFS URL without a slash at its end.
    OneLake(String),
    /// S3.
    S3 {
        /// The bucket.
        bucket: String,
        /// The folder in it; may be empty.
        path: String,
    },
    /// Google Cloud Storage.
    Gcs {
        /// The bucket.
        bucket: String,
        /// The folder in it; may be empty.
        path: String,
    },
}

/// A place that no service can reach.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// A folder of this machine.
    #[error(
        "the lake {0} is a folder on this machine, which no service reaches; say where it will lie: \
         --url abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH, s3://BUCKET/PATH or gs://BUCKET/PATH"
    )]
    Local(String),
    /// An Azure URL without an account.
    #[error("{0} names no storage account; give it as --url abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH")]
    NoAccount(String),
    /// Anything else.
    #[error("{0} is no URL of a lake: {1}")]
    Url(String, String),
}

const AZURE: &str = ".dfs.core.windows.net";
const BLOB: &str = ".blob.core.windows.net";
const ONELAKE: &str = "onelake.dfs.fabric.microsoft.com";

impl Place {
    /// Reads a URL as `lake.url` has it; `account` is the storage account where the URL names none.
    ///
    /// # Errors
    /// No service can reach it.
    pub fn parse(text: &str, account: Option<&str>) -> Result<Self, PlaceError> {
        if !text.contains("://") || text.starts_with("file:") {
            return Err(PlaceError::Local(text.to_owned()));
        }
        let refuse = |why: &str| PlaceError::Url(text.to_owned(), why.to_owned());
        let url = Url::parse(text).map_err(|error| refuse(&error.to_string()))?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| refuse("it names no host"))?;
        // What stands in SQL, JSON and YAML later has nothing in it that ends a text there.
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=".contains(c);
        if !(url.path().chars().all(plain) && host.chars().all(plain) && url.username().chars().all(plain)) {
            return Err(refuse("write its path in ASCII letters, digits and -_./="));
        }
        let path = url.path().trim_matches('/').to_owned();
        let azure = |account: &str, container: &str, path: String| Self::Azure {
            account: account.to_owned(),
            container: container.to_owned(),
            path,
        };
        match url.scheme() {
            "abfs" | "abfss" | "azure" | "az" | "adl" if host == ONELAKE => Ok(Self::OneLake(trimmed(text))),
            "abfs" | "abfss" if !url.username().is_empty() => {
                let account = host.strip_suffix(AZURE).ok_or_else(|| refuse("its host is no storage account"))?;
                Ok(azure(account, url.username(), path))
            }
            "https" => {
                let account = host.strip_suffix(AZURE).or_else(|| host.strip_suffix(BLOB));
                let account = account.ok_or_else(|| refuse("its host is no storage account"))?;
                let (container, path) = path.split_once('/').unwrap_or((&path, ""));
                if container.is_empty() {
                    return Err(refuse("it names no container"));
                }
                Ok(azure(account, container, path.to_owned()))
            }
            "az" | "azure" | "adl" | "abfs" | "abfss" => match account {
                Some(account) => Ok(azure(account, host, path)),
                None => Err(PlaceError::NoAccount(text.to_owned())),
            },
            "s3" | "s3a" => Ok(Self::S3 { bucket: host.to_owned(), path }),
            "gs" => Ok(Self::Gcs { bucket: host.to_owned(), path }),
            scheme => Err(refuse(&format!("{scheme}:// is not known"))),
        }
    }

    /// What its URL begins with.
    pub(super) const fn scheme(&self) -> &'static str {
        match self {
            Self::Azure { .. } => "abfss://",
            Self::OneLake(_) => "OneLake",
            Self::S3 { .. } => "s3://",
            Self::Gcs { .. } => "gs://",
        }
    }

    /// As Spark writes it, without a slash at its end.
    pub(super) fn for_spark(&self) -> String {
        let below = |path: &str| if path.is_empty() { String::new() } else { format!("/{path}") };
        match self {
            Self::Azure { account, container, path } => format!("abfss://{container}@{account}{AZURE}{}", below(path)),
            Self::OneLake(url) => url.clone(),
            Self::S3 { bucket, path } => format!("s3://{bucket}{}", below(path)),
            Self::Gcs { bucket, path } => format!("gs://{bucket}{}", below(path)),
        }
    }

    /// As HTTPS clients of Azure write it, without a slash at its end; `None` outside Azure.
    pub(super) fn for_https(&self) -> Option<String> {
        match self {
            Self::Azure { account, container, path } => {
                Some(format!("https://{account}{AZURE}/{container}/{path}").trim_end_matches('/').to_owned())
            }
            Self::OneLake(url) => {
                let (workspace, host_and_path) = url.split_once("://")?.1.split_once('@')?;
                let (host, path) = host_and_path.split_once('/').unwrap_or((host_and_path, ""));
                Some(format!("https://{host}/{workspace}/{path}").trim_end_matches('/').to_owned())
            }
            Self::S3 { .. } | Self::Gcs { .. } => None,
        }
    }
}

fn trimmed(text: &str) -> String {
    text.trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lake_in_a_cloud_is_known_and_one_on_this_machine_is_refused_with_what_to_write() {
        for (text, account, expected) in [
            ("abfss://lake@acme.dfs.core.windows.net/iot", None, "abfss://lake@acme.dfs.core.windows.net/iot"),
            ("az://lake/iot/", Some("acme"), "abfss://lake@acme.dfs.core.windows.net/iot"),
            ("https://acme.blob.core.windows.net/lake", None, "abfss://lake@acme.dfs.core.windows.net"),
            ("s3://lake/iot", None, "s3://lake/iot"),
            ("gs://lake", None, "gs://lake"),
        ] {
            assert_eq!(Place::parse(text, account).map(|place| place.for_spark()).as_deref(), Ok(expected));
        }
        for (text, expected) in [
            ("lake", "say where it will lie: --url"),
            ("file:///lake", "say where it will lie: --url"),
            ("az://lake/iot", "names no storage account"),
            ("abfss://lake@acme.example.com/iot", "its host is no storage account"),
            ("https://acme.dfs.core.windows.net/", "names no container"),
            ("s3://lake/it's", "write its path in ASCII"),
            ("ftp://lake/iot", "ftp:// is not known"),
            ("s3://", "is no URL of a lake"),
        ] {
            let error = Place::parse(text, None).expect_err(text).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn https_is_as_azure_writes_it() {
        let https = |text| Place::parse(text, None).ok().and_then(|place| place.for_https());
        let azure = https("abfss://lake@acme.dfs.core.windows.net/iot");
        assert_eq!(azure.as_deref(), Some("https://acme.dfs.core.windows.net/lake/iot"));
        let onelake = https("abfss://work@onelake.dfs.fabric.microsoft.com/lake.Lakehouse/Files/iot");
        assert_eq!(onelake.as_deref(), Some("https://onelake.dfs.fabric.microsoft.com/work/lake.Lakehouse/Files/iot"));
        assert_eq!(https("s3://lake/iot"), None);
    }
}
