//! Secrets: where they come from, and a type that does not show them.

use std::fmt;
use std::path::PathBuf;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A key, a password, a connection string. `Debug` shows `***`; there is no `Display` and no `Serialize`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where a secret is to be found.
///
/// In TOML `connection-string = { file = "/etc/edge/hub" }`, `{ env = "NAME" }` or `{ credential = "hub" }` (a systemd
/// credential, from `$CREDENTIALS_DIRECTORY`). A bare text is the secret itself: so `EDGE__HUB__CONNECTION_STRING=…`
/// in the environment works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file that holds the secret and at most a line end behind it.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// A systemd credential (`LoadCredential=`, `SetCredentialEncrypted=`).
    Credential(String),
    /// The secret itself.
    Inline(Secret),
}

/// Why a secret could not be had. Never holds the secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("read the secret in {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The variable is absent or not UTF-8.
    #[error("read the secret in the environment variable {name}: it is not set, or not UTF-8")]
    Env {
        /// The variable.
        name: String,
    },
    /// The program was not started by systemd with credentials.
    #[error(
        "read the systemd credential {name}: $CREDENTIALS_DIRECTORY is not set (add LoadCredential={name}:PATH to the unit)"
    )]
    NoCredentials {
        /// The credential.
        name: String,
    },
    /// The secret is an empty text.
    #[error("read a secret from {place}: it is empty")]
    Empty {
        /// Where it was looked for.
        place: String,
    },
}

impl SecretSource {
    /// Fetches the secret; line ends behind it are cut off.
    ///
    /// # Errors
    /// It is not there, cannot be read, or is empty.
    pub fn read(&self) -> Result<Secret, SecretError> {
        let text = match self {
            SecretSource::Inline(secret) => secret.0.clone(),
            SecretSource::Env(name) => std::env::var(name).map_err(|_| SecretError::Env { name: name.clone() })?,
            SecretSource::File(path) => read_file(path.clone())?,
            SecretSource::Credential(name) => match std::env::var_os("CREDENTIALS_DIRECTORY") {
                Some(folder) => read_file(PathBuf::from(folder).join(name))?,
                None => return Err(SecretError::NoCredentials { name: name.clone() }),
            },
        };
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            return Err(SecretError::Empty { place: self.to_string() });
        }
        Ok(Secret::new(text))
    }
}

fn read_file(path: PathBuf) -> Result<String, SecretError> {
    std::fs::read_to_string(&path).map_err(|source| SecretError::File { path, source })
}

impl fmt::Display for SecretSource {
    /// Where, never what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretSource::File(path) => write!(f, "file {}", path.display()),
            SecretSource::Env(name) => write!(f, "environment variable {name}"),
            SecretSource::Credential(name) => write!(f, "systemd credential {name}"),
            SecretSource::Inline(_) => f.write_str("the configuration"),
        }
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(SourceVisitor)? {
            SecretSource::Inline(secret) => Ok(secret),
            _ => Err(de::Error::custom("a secret is a text in quotes")),
        }
    }
}

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SourceVisitor)
    }
}

/// Refuses without repeating what it met, which may be the secret.
struct SourceVisitor;

const EXPECTED: &str =
    "a secret is a text in quotes, { file = \"PATH\" }, { env = \"NAME\" } or { credential = \"NAME\" }";

impl<'de> Visitor<'de> for SourceVisitor {
    type Value = SecretSource;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a secret")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<SecretSource, E> {
        Ok(SecretSource::Inline(Secret::new(text)))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<SecretSource, E> {
        Err(E::custom(EXPECTED))
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<SecretSource, E> {
        Err(E::custom(EXPECTED))
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<SecretSource, E> {
        Err(E::custom(EXPECTED))
    }

    fn visit_i128<E: de::Error>(self, _: i128) -> Result<SecretSource, E> {
        Err(E::custom(EXPECTED))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<SecretSource, E> {
        Err(E::custom(EXPECTED))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SecretSource, A::Error> {
        let Some((key, value)) = map.next_entry::<String, String>().map_err(|_| de::Error::custom(EXPECTED))? else {
            return Err(de::Error::custom(EXPECTED));
        };
        let source = match key.as_str() {
            "file" => SecretSource::File(PathBuf::from(value)),
            "env" => SecretSource::Env(value),
            "credential" => SecretSource::Credential(value),
            _ => return Err(de::Error::custom(EXPECTED)),
        };
        match map.next_key::<String>()? {
            None => Ok(source),
            Some(_) => Err(de::Error::custom(EXPECTED)),
        }
    }
}
