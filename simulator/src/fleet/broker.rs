//! Where devices connect: any MQTT 3.1.1 broker, or the gateway's own listener.

use std::path::PathBuf;

use rumqttc::{MqttOptions, Transport};
use serde::Deserialize;
use shared::config::{Mistakes, Secret, SecretError, SecretSource};
use url::Url;

/// The section `[broker]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// `mqtt://host:1883` or `mqtts://host:8883`.
    pub url: String,
    /// User name of all devices.
    #[serde(default)]
    pub user: Option<String>,
    /// Their password.
    #[serde(default)]
    pub password: Option<SecretSource>,
    /// Certificates (PEM) that vouch for the broker; needed with `mqtts`.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

/// Why the broker cannot be dialled at all.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Not an MQTT address.
    #[error("`{url}` is no broker address; write e.g. \"mqtt://127.0.0.1:1883\" or \"mqtts://broker:8883\"")]
    Url {
        /// As configured.
        url: String,
    },
    /// The authority's certificates cannot be read.
    #[error("read the broker's authority {path}: {source}")]
    Ca {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// `mqtts` without certificates to trust.
    #[error("`{url}` asks for TLS: name the broker's authority in `broker.ca-file`")]
    NoCa {
        /// As configured.
        url: String,
    },
    /// The password cannot be had.
    #[error("get the broker's password: {0}")]
    Password(SecretError),
}

/// A broker that can be dialled.
#[derive(Debug, Clone)]
pub struct Broker {
    host: String,
    port: u16,
    ca: Option<Vec<u8>>,
    login: Option<(String, Secret)>,
}

impl Config {
    /// Adds what cannot be used as it stands.
    pub fn check(&self, mistakes: &mut Mistakes) {
        if let Err(error) = address(&self.url) {
            mistakes.add("url", error.to_string());
        }
        mistakes.ensure(
            self.password.is_none() || self.user.is_some(),
            "password",
            "stands without a user; write `user = \"…\"` too",
        );
    }

    /// Reads files and secrets.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub fn open(&self) -> Result<Broker, BrokerError> {
        let (host, port, tls) = address(&self.url)?;
        let ca = match &self.ca_file {
            Some(path) if tls => {
                Some(std::fs::read(path).map_err(|source| BrokerError::Ca { path: path.clone(), source })?)
            }
            None if tls => return Err(BrokerError::NoCa { url: self.url.clone() }),
            _ => None,
        };
        let login = match (&self.user, &self.password) {
            (Some(user), Some(password)) => Some((user.clone(), password.read().map_err(BrokerError::Password)?)),
            (Some(user), None) => Some((user.clone(), Secret::new(""))),
            (None, _) => None,
        };
        Ok(Broker { host, port, ca, login })
    }
}

/// Host, port, and whether TLS is spoken.
fn address(text: &str) -> Result<(String, u16, bool), BrokerError> {
    let refuse = || BrokerError::Url { url: text.to_owned() };
    let url = Url::parse(text).map_err(|_| refuse())?;
    let (tls, port) = match url.scheme() {
        "mqtt" | "tcp" => (false, 1883),
        "mqtts" | "ssl" => (true, 8883),
        _ => return Err(refuse()),
    };
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(refuse)?;
    if !url.username().is_empty() || url.password().is_some() || !matches!(url.path(), "" | "/") {
        return Err(refuse()); // a login belongs into `user` and `password`, where it is not printed
    }
    Ok((host.to_owned(), url.port().unwrap_or(port), tls))
}

impl Broker {
    /// Options of one connection of `client_id`.
    pub(crate) fn options(&self, client_id: &str) -> MqttOptions {
        let mut options = MqttOptions::new(client_id, &self.host, self.port);
        if let Some((user, password)) = &self.login {
            options.set_credentials(user, password.reveal());
        }
        if let Some(ca) = &self.ca {
            options.set_transport(Transport::tls(ca.clone(), None, None));
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_scheme_a_host_and_a_port() {
        for (text, expected) in [
            ("mqtt://127.0.0.1:1884", Some(("127.0.0.1", 1884, false))),
            ("mqtt://broker", Some(("broker", 1883, false))),
            ("mqtts://broker.example/", Some(("broker.example", 8883, true))),
            ("broker:1883", None),
            ("http://broker", None),
            ("mqtt://user:secret@broker", None),
            ("", None),
        ] {
            let read = address(text).ok();
            assert_eq!(read.as_ref().map(|(host, port, tls)| (host.as_str(), *port, *tls)), expected, "{text}");
        }
    }
}
