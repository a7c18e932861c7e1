//! What devices need to register, ready to paste.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;
use shared::config::Secret;

use super::config::Config;
use super::enrolments::{Enrolment, Enrolments, Means, Proof};
use crate::hub::ca;
use crate::hub::connect::{Dial, absolute};

/// Everything a device must be told. Holds secrets.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Connect {
    #[serde(flatten)]
    service: Service,
    /// By registration id.
    individual: BTreeMap<String, Entry>,
    /// By the group's id.
    groups: BTreeMap<String, Entry>,
    /// By registration id: the certificates that `hub enroll` issued.
    certificates: BTreeMap<String, Certificate>,
}

/// Where the service is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Service {
    pub(super) id_scope: String,
    host_name: String,
    ca_file: PathBuf,
    mqtt: Dial,
    /// MQTT in WebSocket messages.
    websocket: Option<Dial>,
    /// Status, health, metrics.
    http: String,
}

/// An enrolment's secrets.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Entry {
    auth: Means,
    enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    primary_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secondary_key: Option<String>,
}

/// A certificate that was issued here.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Certificate {
    pub(super) certificate_file: PathBuf,
    pub(super) key_file: PathBuf,
}

impl Service {
    pub(super) fn new(config: &Config, listen: SocketAddr, identity: &Path) -> Self {
        Self {
            id_scope: config.id_scope.clone(),
            host_name: config.host_name.clone(),
            ca_file: absolute(ca::ca_file(identity)),
            mqtt: Dial::new("mqtts", listen),
            websocket: config.websocket_listen.map(|listen| Dial::new("wss", listen)),
            http: Dial::new("http", config.http.listen).url,
        }
    }

    pub(super) fn print(&self, out: &mut impl io::Write) -> io::Result<()> {
        let Self { id_scope, ca_file, mqtt, websocket, .. } = self;
        let ways = [Some(mqtt), websocket.as_ref()].into_iter().flatten();
        let ways: Vec<_> = ways.map(|dial| dial.url.as_str()).collect();
        let (ways, ca_file) = (ways.join(" or "), ca_file.display());
        writeln!(out, "Devices that register dial {ways}, id scope {id_scope}, and trust {ca_file}")
    }
}

impl Entry {
    pub(super) fn new(enrolment: &Enrolment) -> Self {
        let (auth, keys) = match &enrolment.proof {
            Proof::Keys { primary, secondary } => (Means::SymmetricKey, Some((primary, secondary))),
            Proof::Thumbprints(_) | Proof::Authorities(_) => (Means::X509, None),
        };
        let text = |key: &Secret| key.reveal().to_owned();
        Self {
            auth,
            enabled: enrolment.enabled,
            primary_key: keys.map(|(primary, _)| text(primary)),
            secondary_key: keys.map(|(_, secondary)| text(secondary)),
        }
    }

    pub(super) fn auth(&self) -> Means {
        self.auth
    }

    /// One line, after its name.
    pub(super) fn text(&self) -> String {
        let proof = match &self.primary_key {
            Some(key) => format!("key {key}"),
            None => "certificate".to_owned(),
        };
        if self.enabled { proof } else { format!("{proof} (disabled)") }
    }
}

impl Connect {
    pub(crate) fn new(config: &Config, listen: SocketAddr, identity: &Path, enrolments: &Enrolments) -> Self {
        let entries = |list: &[Enrolment]| list.iter().map(|one| (one.id.clone(), Entry::new(one))).collect();
        Self {
            service: Service::new(config, listen, identity),
            individual: entries(enrolments.individuals()),
            groups: entries(enrolments.groups()),
            certificates: certificates(&config.identity_dir()),
        }
    }

    /// For people.
    pub(crate) fn print(&self, out: &mut impl io::Write) -> io::Result<()> {
        self.service.print(out)?;
        for (id, entry) in &self.individual {
            writeln!(out, "  {id}: {}", entry.text())?;
        }
        for (id, entry) in &self.groups {
            let own = format!("`simulator hub enroll {id} --group --member ID` says the device's own");
            writeln!(out, "  group {id}: {}; {own}", entry.text())?;
        }
        for (id, Certificate { certificate_file, key_file }) in &self.certificates {
            writeln!(out, "  {id}: {} and {}", certificate_file.display(), key_file.display())?;
        }
        if self.individual.is_empty() && self.groups.is_empty() {
            writeln!(out, "  none is enrolled; write e.g. `simulator hub enroll press-7`")?;
        }
        Ok(())
    }
}

/// Those that lie where certificates are issued to; of a folder that cannot be read, none.
fn certificates(identity: &Path) -> BTreeMap<String, Certificate> {
    let (folder, _) = ca::device_files(identity, "x", None);
    let files = folder.parent().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let ids = files.filter_map(|file| Some(file.file_name().to_str()?.strip_suffix(".pem")?.to_owned()));
    let pair = |id: String| {
        let (certificate, key) = ca::device_files(identity, &id, None);
        let found = certificate.exists() && key.exists();
        found.then(|| (id, Certificate { certificate_file: absolute(certificate), key_file: absolute(key) }))
    };
    ids.filter_map(pair).collect()
}
