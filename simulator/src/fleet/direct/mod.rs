//! Devices without a gateway: each its own connection to an IoT Hub, over TLS, with a token of its own.
//!
//! ```text
//! FILE --identities--> Hub (who, where, with what key) --token--> publisher == MQTT QoS 1 ==> hub
//! ```
//!
//! A token is good for one connection: before it ends, the connection is made anew with a fresh one.

pub(crate) mod identities; // connection strings, read

mod trust; // who vouches for a hub

#[cfg(feature = "azure-iot-sdk")]
pub(crate) mod best_effort; // one device through azure_iot_sdk

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{MqttOptions, TlsConfiguration, Transport};
use rustls::ClientConfig;
use serde::Deserialize;
use shared::clock::Clock;
use shared::config::{Mistakes, Span};
use shared::sas;
use shared::time::Timestamp;

use self::identities::{Identities, Identity};

/// Of Azure IoT Hub's MQTT; newer ones exist as previews only.
const API_VERSION: &str = "2021-04-12";

/// The section `[devices.direct]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Connection strings; with it, devices talk to an IoT Hub.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// Dialled instead of what the connection strings name.
    #[serde(default)]
    pub host: Option<String>,
    /// The port there.
    #[serde(default)]
    pub port: Option<u16>,
    /// Certificates (PEM) that vouch for the hub.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Which client devices have.
    pub through: Through,
    /// How long a token is valid.
    pub token_life: Span,
    /// How long before its end the token is renewed, by a new connection.
    pub token_margin: Span,
}

impl Config {
    /// Adds what cannot be used as it stands.
    pub fn check(&self, mistakes: &mut Mistakes) {
        mistakes.ensure(
            self.token_margin.duration() + Duration::from_secs(1) <= self.token_life.duration(),
            "token-margin",
            "must be shorter than `token-life` by a second or more, write e.g. \"5m\"",
        );
    }
}

/// Which client a device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Through {
    /// QoS 1: a send is done when the hub has acknowledged it.
    Rumqttc,
    /// QoS 0, best effort: a send arrives or not, and never twice. Only in a build with the feature `azure-iot-sdk`.
    AzureIotSdk,
}

/// Why a hub cannot be dialled at all.
#[derive(Debug, thiserror::Error)]
pub enum DirectError {
    /// The connection strings cannot be read.
    #[error("read the connection strings in {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// They cannot be used.
    #[error("use the connection strings in {path}: it {fault}")]
    Strings {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it; never a secret.
        fault: String,
    },
    /// This build has no azure_iot_sdk.
    #[error(
        "send through azure_iot_sdk: this program was built without it, because it needs OpenSSL's headers to build \
         (Debian: libssl-dev, pkg-config); build with the feature `azure-iot-sdk`, or leave `--through` out"
    )]
    NoSdk,
    /// azure_iot_sdk cannot do it.
    #[error("send through azure_iot_sdk: {0}")]
    Sdk(String),
    /// Nobody vouches for the hub.
    #[error(transparent)]
    Trust(#[from] trust::TrustError),
}

/// A hub, and the devices that may talk to it.
#[derive(Debug, Clone)]
pub struct Hub {
    /// In the order of their file.
    names: Vec<String>,
    identities: Identities,
    host: Option<String>,
    port: Option<u16>,
    tls: Arc<ClientConfig>,
    through: Through,
    token_life: Duration,
    token_margin: Duration,
}

impl Config {
    /// Reads `file` and who vouches for the hub; takes the first `count` devices, or all there are. `fleet` begins the
    /// names of the devices of a local hub, `name` gives those that a policy signs for.
    ///
    /// # Errors
    /// See [`DirectError`].
    pub fn open(
        &self,
        file: &Path,
        fleet: &str,
        count: Option<u64>,
        name: impl Fn(u64) -> String,
    ) -> Result<Hub, DirectError> {
        let text =
            std::fs::read_to_string(file).map_err(|source| DirectError::Read { path: file.to_owned(), source })?;
        let fault = |fault| DirectError::Strings { path: file.to_owned(), fault };
        let identities = identities::read(&text, fleet).map_err(fault)?;
        let ca_file = self.ca_file.as_deref().or(identities.ca_file.as_deref());
        let hub = Hub {
            names: identities.names(count, name).map_err(fault)?,
            host: self.host.clone(),
            port: self.port,
            tls: trust::client(ca_file)?,
            through: self.through,
            token_life: self.token_life.duration(),
            token_margin: self.token_margin.duration(),
            identities: identities.clone(),
        };
        if self.through == Through::AzureIotSdk {
            hub.suits_the_sdk(ca_file)?;
        }
        Ok(hub)
    }
}

impl Hub {
    /// The devices, in the order of their file.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Which client its devices have.
    pub fn through(&self) -> Through {
        self.through
    }

    /// Whether azure_iot_sdk can reach it: the SDK cannot be told where to, nor whom to trust.
    fn suits_the_sdk(&self, ca_file: Option<&Path>) -> Result<(), DirectError> {
        if cfg!(not(feature = "azure-iot-sdk")) {
            return Err(DirectError::NoSdk);
        }
        let refuse = |text: String| Err(DirectError::Sdk(text));
        for identity in self.names.iter().filter_map(|name| self.identity(name)) {
            let Identity { host, port, hub, device, proof, .. } = &identity;
            if host != hub || *port != identities::PORT {
                return refuse(format!(
                    "it dials the HostName at port 8883 and nothing else, {device} is to dial {host}:{port}; for a \
                     local hub let `hub.host-name` be the address of `hub.mqtt-listen`, with port 8883"
                ));
            }
            if let Some(policy) = &proof.policy {
                return refuse(format!("it signs with a device's own key, {device} has that of the policy {policy}"));
            }
        }
        match ca_file {
            Some(path) if std::env::var_os("SSL_CERT_FILE").is_none_or(|set| Path::new(&set) != path) => {
                refuse(format!("it trusts whom OpenSSL trusts; start with SSL_CERT_FILE={}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Who `device` is, and where its hub; `None`: nobody has its key.
    pub(crate) fn identity(&self, device: &str) -> Option<Identity> {
        let identity = self.identities.identity(device)?;
        let host = self.host.clone().unwrap_or(identity.host);
        Some(Identity { host, port: self.port.unwrap_or(identity.port), ..identity })
    }

    /// Options of one connection of `device`, and how long its token lets it last.
    pub(crate) fn options(&self, device: &str) -> Option<(MqttOptions, Duration)> {
        let identity = self.identity(device)?;
        let mut options = MqttOptions::new(device, &identity.host, identity.port);
        options.set_credentials(
            format!("{}/{device}/?api-version={API_VERSION}", identity.hub),
            token(&identity, Clock::Real.now(), self.token_life),
        );
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::clone(&self.tls))));
        Some((options, self.token_life.saturating_sub(self.token_margin)))
    }
}

fn token(identity: &Identity, now: Timestamp, life: Duration) -> String {
    let expiry = now.plus(life).micros().div_euclid(1_000_000);
    let resource = sas::device_resource(&identity.hub, &identity.device);
    sas::sign(&resource, &identity.proof.key, expiry, identity.proof.policy.as_deref())
}

#[cfg(test)]
mod tests {
    use shared::sas::{Refusal, Token};

    use super::*;

    #[test]
    fn a_token_is_signed_by_the_device_or_by_a_policy_and_ends_after_its_life() {
        let now = Timestamp::from_micros(1_000_000_000);
        for (text, policy) in [
            ("HostName=h;DeviceId=d;SharedAccessKey=c2VjcmV0", None),
            ("HostName=h;SharedAccessKeyName=p;SharedAccessKey=c2VjcmV0", Some("p")),
        ] {
            let read = identities::read(text, "x").expect("a connection string");
            let identity = read.identity("d").expect("its own key, or the policy's");
            let token = Token::parse(&token(&identity, now, Duration::from_secs(60))).expect("a token");
            assert_eq!((token.resource.as_str(), token.policy.as_deref()), ("h/devices/d", policy));
            assert_eq!(token.check([&identity.proof.key], 1_059), Ok(()));
            assert!(matches!(token.check([&identity.proof.key], 1_060), Err(Refusal::Expired { .. })));
        }
    }
}
