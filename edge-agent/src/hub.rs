//! `[hub]`: which hub, and who we are there.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use shared::config::{SecretError, SecretSource};
use shared::reading::GatewayId;
use shared::sas;

use crate::identity::{Certificate, CertificateError, Identity};
use crate::line::{self, Network};
use crate::provision::{self, Applicant, Assignment};
use crate::uplink::HubTarget;

/// The hub's name, the dialled host, its port and whom to trust are separate settings, so that the same binary serves
/// Azure and a local hub.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// `HostName=…;DeviceId=…;SharedAccessKey=…`, as the hub gives it for the gateway's device; with `x509=true` in place of
    /// the key, where a certificate proves us.
    pub connection_string: Option<SecretSource>,
    /// Our certificate and its chain, PEM.
    pub certificate_file: Option<PathBuf>,
    /// Its private key, PEM.
    pub private_key: Option<SecretSource>,
    /// The host to dial; the connection string's, if left out.
    pub host: Option<String>,
    /// Its port.
    pub port: u16,
    /// Its port for MQTT in WebSocket messages.
    pub websocket_port: u16,
    /// Certificate authorities to trust, PEM; the machine's, if left out.
    pub ca_file: Option<PathBuf>,
}

/// How the hub is dialled, whichever it is.
#[derive(Debug, Clone)]
pub struct Dial {
    /// Another host than the hub's name.
    pub host: Option<String>,
    /// The port.
    pub port: u16,
    /// The port for WebSocket.
    pub websocket_port: u16,
    /// Which ways may be taken, and through which proxy.
    pub network: Network,
    /// Certificate authorities to trust.
    pub ca_file: Option<PathBuf>,
}

/// Where the hub comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The connection string.
    Fixed(HubTarget),
    /// The provisioning service, asked now or earlier.
    Provisioned(Applicant),
}

/// What is known of the hub, for the status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Known {
    /// Its name; `None` until it is assigned.
    pub name: Option<String>,
    /// Our device id there; until it is assigned, the registration id.
    #[serde(skip)]
    pub gateway: GatewayId,
    /// `connection-string` or `provisioning`.
    pub by: &'static str,
    /// When it was assigned.
    pub assigned_at: Option<String>,
    /// Why it is not assigned yet.
    pub last_error: Option<String>,
}

impl Source {
    /// What is known at start.
    pub fn known(&self) -> Known {
        let (name, gateway, by) = match self {
            Source::Fixed(target) => (Some(target.hub.clone()), target.gateway.clone(), "connection-string"),
            Source::Provisioned(applicant) => (None, GatewayId::new(&applicant.registration_id), "provisioning"),
        };
        Known { name, gateway, by, assigned_at: None, last_error: None }
    }
}

impl Known {
    /// The hub is assigned.
    pub fn assigned(&mut self, assignment: &Assignment) {
        self.name = Some(assignment.hub.clone());
        self.gateway = GatewayId::new(&assignment.device);
        self.assigned_at = Some(assignment.assigned_at.clone());
        self.last_error = None;
    }
}

/// No hub can be had from the settings. Never holds a key.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Of the connection string.
    #[error("`{path}` {0}", path = .0.path())]
    Hub(#[from] HubError),
    /// Of the provisioning.
    #[error("`{path}` {0}", path = .0.path())]
    Provisioning(#[from] provision::ConfigError),
    /// Of the way there.
    #[error("`{path}` {0}", path = .0.path())]
    Network(#[from] line::ConfigError),
}

/// The connection string cannot be used. Never holds the key.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// It is not set.
    #[error(
        "is missing; write {{ file = \"PATH\" }} with the device's connection string in that file, or set EDGE__HUB__CONNECTION_STRING; \
         or let the provisioning service name the hub: [provisioning]"
    )]
    Missing,
    /// It cannot be read.
    #[error("cannot {0}")]
    Secret(#[from] SecretError),
    /// A part is missing or wrong.
    #[error("is no connection string of a device: {0}; write HostName=…;DeviceId=…;SharedAccessKey=…")]
    Malformed(&'static str),
    /// The certificate cannot be used.
    #[error("{0}")]
    Certificate(#[from] CertificateError),
    /// A key and a certificate.
    #[error("is there beside a SharedAccessKey in the connection string; leave one of them out")]
    Both,
}

impl HubError {
    /// The setting to correct.
    pub fn path(&self) -> &'static str {
        match self {
            HubError::Missing | HubError::Secret(_) | HubError::Malformed(_) => "hub.connection-string",
            HubError::Certificate(_) | HubError::Both => "hub.certificate-file",
        }
    }
}

impl Config {
    /// How to dial the hub.
    pub fn dial(&self, network: Network) -> Dial {
        Dial {
            host: self.host.clone(),
            port: self.port,
            websocket_port: self.websocket_port,
            network,
            ca_file: self.ca_file.clone(),
        }
    }

    /// The connection string's hub, or, without one, the provisioning service's.
    ///
    /// # Errors
    /// Neither can be had from the settings.
    pub fn source(&self, provisioning: &provision::Config, network: &line::Config) -> Result<Source, SourceError> {
        let network = network.network()?;
        match &self.connection_string {
            None if provisioning.is_set() => Ok(Source::Provisioned(provisioning.applicant(network)?)),
            _ => Ok(Source::Fixed(self.target(network)?)),
        }
    }

    /// Reads the secret and takes it apart.
    ///
    /// # Errors
    /// What is wrong with `hub.connection-string`, or with the certificate.
    pub fn target(&self, network: Network) -> Result<HubTarget, HubError> {
        let secret = self.connection_string.as_ref().ok_or(HubError::Missing)?.read()?;
        let parts = Parts::parse(secret.reveal())?;
        let certificate = Certificate::of(self.certificate_file.as_deref(), self.private_key.as_ref())?;
        let identity = match (parts.key, certificate) {
            (Some(_), Some(_)) => return Err(HubError::Both),
            (Some(key), None) => {
                Identity::Key(sas::Key::device(key).ok_or(HubError::Malformed("SharedAccessKey is not base64"))?)
            }
            (None, Some(certificate)) => Identity::Certificate(certificate),
            (None, None) if parts.x509 => {
                let words = "it says x509=true, and `hub.certificate-file` and `hub.private-key` are missing";
                return Err(HubError::Malformed(words));
            }
            (None, None) => return Err(HubError::Malformed("SharedAccessKey is missing")),
        };
        Ok(HubTarget {
            host: self.host.clone().unwrap_or_else(|| parts.host.to_owned()),
            hub: parts.host.to_owned(),
            gateway: GatewayId::new(parts.device),
            identity,
            port: self.port,
            websocket_port: self.websocket_port,
            network,
            ca_file: self.ca_file.clone(),
            tls: true,
            ask_again_at: None,
        })
    }
}

/// IoT Hub's alphabet for device ids; anything else would bend topics and user names.
pub(crate) fn is_device_id(text: &str) -> bool {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-:.+%_#*?!(),=@;$'".contains(letter);
    !text.is_empty() && text.len() <= 128 && text.chars().all(allowed)
}

struct Parts<'t> {
    host: &'t str,
    device: &'t str,
    key: Option<&'t str>,
    x509: bool,
}

impl<'t> Parts<'t> {
    fn parse(text: &'t str) -> Result<Self, HubError> {
        let (mut host, mut device, mut key, mut x509) = (None, None, None, false);
        for part in text.trim().split(';').filter(|part| !part.trim().is_empty()) {
            let (name, value) = part.split_once('=').ok_or(HubError::Malformed("a part has no `=`"))?;
            match name.trim() {
                "HostName" => host = Some(value.trim()),
                "DeviceId" => device = Some(value.trim()),
                "SharedAccessKey" => key = Some(value.trim()).filter(|key| !key.is_empty()),
                "x509" => x509 = value.trim().eq_ignore_ascii_case("true"),
                "ModuleId" => return Err(HubError::Malformed("it is that of a module (ModuleId)")),
                "SharedAccessKeyName" => {
                    return Err(HubError::Malformed("it is that of a service (SharedAccessKeyName)"));
                }
                _ => {}
            }
        }
        let given =
            |part: Option<&'t str>, missing| part.filter(|text| !text.is_empty()).ok_or(HubError::Malformed(missing));
        let device = given(device, "DeviceId is missing")?;
        if !is_device_id(device) {
            return Err(HubError::Malformed("DeviceId has a letter the hub does not allow, or more than 128"));
        }
        Ok(Self { host: given(host, "HostName is missing")?, device, key, x509 })
    }
}

#[cfg(test)]
mod tests {
    use shared::config::Secret;

    use super::*;

    fn config(text: &str) -> Config {
        Config {
            connection_string: Some(SecretSource::Inline(Secret::new(text))),
            certificate_file: None,
            private_key: None,
            host: None,
            port: 8883,
            websocket_port: 443,
            ca_file: None,
        }
    }

    fn target(text: &str) -> Result<HubTarget, HubError> {
        config(text).target(Network::default())
    }

    #[test]
    fn a_devices_connection_string_is_taken_apart() {
        let target = target("HostName=h.azure-devices.net;DeviceId=gw-01;SharedAccessKey=a2V5PT0=\n").expect("good");
        assert_eq!((target.hub.as_str(), target.host.as_str()), ("h.azure-devices.net", "h.azure-devices.net"));
        assert_eq!(target.gateway.as_str(), "gw-01");
    }

    #[test]
    fn anything_else_is_refused_without_showing_the_key() {
        for bad in [
            "x",
            "HostName=h;DeviceId=d",
            "HostName=h;SharedAccessKey=c2VjcmV0",
            "DeviceId=d;SharedAccessKey=c2VjcmV0",
            "HostName=h;DeviceId=d;SharedAccessKey=c2VjcmV0!",
            "HostName=h;DeviceId=d/e;SharedAccessKey=c2VjcmV0",
            "HostName=h;DeviceId=d;x509=true",
            "HostName=h;SharedAccessKeyName=service;SharedAccessKey=c2VjcmV0",
            "HostName=h;DeviceId=d;ModuleId=m;SharedAccessKey=c2VjcmV0",
        ] {
            let error = target(bad).expect_err(bad).to_string();
            assert!(!error.contains("c2VjcmV0"), "{error}");
        }
    }

    #[test]
    fn a_certificate_stands_in_the_place_of_the_key_and_not_beside_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("gw-01.pem");
        std::fs::write(&file, crate::identity::tests::CERTIFICATE).expect("written");
        let with = |text: &str| Config {
            certificate_file: Some(file.clone()),
            private_key: Some(SecretSource::Inline(Secret::new(crate::identity::tests::KEY))),
            ..config(text)
        };
        let target = with("HostName=h;DeviceId=gw-01;x509=true").target(Network::default()).expect("good");
        assert!(target.identity.certificate().is_some());
        let shown = format!("{target:?}");
        assert!(!shown.contains("PRIVATE") && shown.contains("***"), "{shown}");
        let error = with("HostName=h;DeviceId=gw-01;SharedAccessKey=c2VjcmV0").target(Network::default());
        let error = error.expect_err("both");
        assert_eq!(error.path(), "hub.certificate-file");
        assert!(error.to_string().contains("leave one of them out"), "{error}");
        let half = Config { private_key: None, ..with("HostName=h;DeviceId=gw-01;x509=true") };
        assert!(half.target(Network::default()).expect_err("half").to_string().contains("belong together"));
    }
}
