//! `[provisioning]`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use shared::config::{Check, Mistakes, SecretError, SecretSource, Span};
use shared::sas;

use super::Applicant;
use crate::identity::{Certificate, CertificateError, Identity};
use crate::line::Network;

/// Whom to ask for a hub, and who we are there. Without id scope nobody is asked.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Tells one provisioning service from others.
    pub id_scope: Option<String>,
    /// Who we are there.
    pub registration_id: Option<String>,
    /// The key of an individual enrolment.
    pub key: Option<SecretSource>,
    /// The key of an enrolment group, from which ours is made.
    pub group_key: Option<SecretSource>,
    /// In place of a key: our certificate and its chain, PEM.
    pub certificate_file: Option<PathBuf>,
    /// Its private key, PEM.
    pub private_key: Option<SecretSource>,
    /// The service to dial.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its port for MQTT in WebSocket messages.
    pub websocket_port: u16,
    /// Certificate authorities to trust, PEM; the machine's, if left out.
    pub ca_file: Option<PathBuf>,
    /// How long one attempt may take, from dialling to the hub's name.
    pub timeout: Span,
    /// Ceiling of the first wait between attempts.
    pub backoff_min: Span,
    /// Ceiling of all waits between attempts.
    pub backoff_max: Span,
}

/// The settings do not say who we are: what is wrong with [`ConfigError::path`]. Never holds a key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A setting is missing.
    #[error("is missing; {1}")]
    Missing(&'static str, &'static str),
    /// A key cannot be read.
    #[error("cannot {1}")]
    Secret(&'static str, SecretError),
    /// A key is none.
    #[error("is not base64; write it as the provisioning service shows it")]
    Key(&'static str),
    /// The certificate cannot be used.
    #[error("{0}")]
    Certificate(#[from] CertificateError),
}

impl ConfigError {
    /// The setting to correct.
    pub fn path(&self) -> String {
        let name = match self {
            ConfigError::Missing(name, _) | ConfigError::Secret(name, _) | ConfigError::Key(name) => name,
            ConfigError::Certificate(_) => "certificate-file",
        };
        format!("provisioning.{name}")
    }
}

impl Config {
    /// True if a hub is to be asked for.
    pub fn is_set(&self) -> bool {
        let Self { id_scope, registration_id, key, group_key, certificate_file, .. } = self;
        id_scope.is_some()
            || registration_id.is_some()
            || key.is_some()
            || group_key.is_some()
            || certificate_file.is_some()
    }

    /// Reads the certificate, or the key, and makes ours of a group's.
    ///
    /// # Errors
    /// What is missing or cannot be read.
    pub fn applicant(&self, network: Network) -> Result<Applicant, ConfigError> {
        let id_scope = self.id_scope.as_ref();
        let id_scope =
            id_scope.ok_or(ConfigError::Missing("id-scope", "write the service's ID scope, e.g. \"0ne0000CAFE\""))?;
        let registration_id = self.registration_id.as_ref();
        let registration_id = registration_id
            .ok_or(ConfigError::Missing("registration-id", "write this gateway's name, e.g. \"gw-01\""))?;
        let read = |name, source: &SecretSource| {
            let secret = source.read().map_err(|error| ConfigError::Secret(name, error))?;
            sas::Key::device(secret.reveal()).ok_or(ConfigError::Key(name))
        };
        let certificate = Certificate::of(self.certificate_file.as_deref(), self.private_key.as_ref())?;
        let identity = match (&self.key, &self.group_key, certificate) {
            (Some(source), _, _) => Identity::Key(read("key", source)?),
            (None, Some(source), _) => Identity::Key(read("group-key", source)?.derived(registration_id)),
            (None, None, Some(certificate)) => Identity::Certificate(certificate),
            (None, None, None) => {
                let words =
                    "write key = { file = \"PATH\" }, group-key for a group's, or certificate-file and private-key";
                return Err(ConfigError::Missing("key", words));
            }
        };
        Ok(Applicant {
            id_scope: id_scope.clone(),
            registration_id: registration_id.clone(),
            identity,
            host: self.host.clone(),
            port: self.port,
            websocket_port: self.websocket_port,
            network,
            ca_file: self.ca_file.clone(),
            tls: true,
        })
    }
}

impl Check for Config {
    fn check(&self, mistakes: &mut Mistakes) {
        let scope =
            |text: &str| !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric());
        if let Some(text) = &self.id_scope {
            mistakes.ensure(scope(text), "provisioning.id-scope", "must be letters and digits, e.g. \"0ne0000CAFE\"");
        }
        if let Some(text) = &self.registration_id {
            let words = "must be 1 to 128 letters, digits and - . _ : that end in a letter, a digit or -";
            mistakes.ensure(is_registration_id(text), "provisioning.registration-id", words);
        }
        let both = self.key.is_some() && self.group_key.is_some();
        mistakes.ensure(!both, "provisioning.group-key", "and `key` are both there; leave one of them out");
        let keyed = self.key.is_some() || self.group_key.is_some();
        let words = "and a key are both there; leave one of them out";
        mistakes.ensure(
            !(keyed && self.certificate_file.is_some() && self.private_key.is_some()),
            "provisioning.certificate-file",
            words,
        );
        mistakes.ensure(!self.host.is_empty(), "provisioning.host", "is empty; leave it out for Azure's own");
        mistakes.ensure(self.port != 0, "provisioning.port", "must not be 0; write 8883");
        mistakes.ensure(self.websocket_port != 0, "provisioning.websocket-port", "must not be 0; write 443");
        mistakes.ensure(
            Duration::from_secs(1) <= self.timeout.duration(),
            "provisioning.timeout",
            "must be at least 1s, write e.g. \"2m\"",
        );
        mistakes.ensure(
            !self.backoff_min.duration().is_zero() && self.backoff_min <= self.backoff_max,
            "provisioning.backoff-min",
            "must be above 0 and at most `backoff-max`, write e.g. \"2s\"",
        );
    }
}

/// The service's own rule. What passes it bends no topic and no user name.
fn is_registration_id(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    let ends_well = text.bytes().last().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    text.len() <= 128 && ends_well && text.bytes().all(allowed)
}
