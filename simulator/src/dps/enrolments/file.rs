//! The enrolments' file as people see it; what is missing is made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared::config::Secret;
use shared::sas;
use shared::time::Timestamp;

use super::{Enrolment, Enrolments, EnrolmentsError, InitialTwin, Proof};
use crate::dps::allocation::{Allocation, Reprovision};
use crate::dps::topic::registration_id_fault;
use crate::hub::devices::{Thumbprint, id_fault, write_private};
use crate::hub::mqtt::Authorities;
use crate::hub::twins::{Change, Twin};

/// The service's own limit of groups of each kind: every one is tried when a device comes.
const GROUPS_MAX: usize = 100;

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    individual: Vec<FileEnrolment>,
    #[serde(default)]
    groups: Vec<FileEnrolment>,
}

/// By what devices prove that an enrolment is their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Means {
    /// A token signed with a key; of a group, with a key made of the group's.
    #[default]
    SymmetricKey,
    /// A certificate: of an individual enrolment, of a known thumbprint; of a group, signed by a known authority.
    X509,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct FileEnrolment {
    id: String,
    #[serde(default = "yes")]
    enabled: bool,
    #[serde(default)]
    auth: Means,
    primary_key: Option<String>,
    secondary_key: Option<String>,
    primary_thumbprint: Option<String>,
    secondary_thumbprint: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    authorities: Vec<PathBuf>,
    device_id: Option<String>,
    #[serde(default)]
    allocation: Allocation,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    hubs: Vec<String>,
    #[serde(default)]
    reprovision_policy: Reprovision,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload: Option<toml::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    initial_twin: Option<FileTwin>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct FileTwin {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tags: Option<toml::Table>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    desired: Option<toml::Table>,
}

/// What the command line can say of an enrolment; what it leaves out stays.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wish {
    pub(crate) id: String,
    pub(crate) is_group: bool,
    pub(crate) auth: Option<Means>,
    pub(crate) thumbprint: Option<Thumbprint>,
    pub(crate) authorities: Vec<PathBuf>,
    pub(crate) device_id: Option<String>,
    pub(crate) enabled: Option<bool>,
    pub(crate) allocation: Option<Allocation>,
    pub(crate) hubs: Vec<String>,
    pub(crate) reprovision: Option<Reprovision>,
}

fn yes() -> bool {
    true
}

impl FileEnrolment {
    fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            enabled: true,
            auth: Means::default(),
            primary_key: None,
            secondary_key: None,
            primary_thumbprint: None,
            secondary_thumbprint: None,
            authorities: vec![],
            device_id: None,
            allocation: Allocation::default(),
            hubs: vec![],
            reprovision_policy: Reprovision::default(),
            payload: None,
            initial_twin: None,
        }
    }

    fn complete(&mut self) {
        if self.auth == Means::SymmetricKey {
            self.primary_key.get_or_insert_with(new_key);
            self.secondary_key.get_or_insert_with(new_key);
        }
    }

    fn proof(&self, name: &str, is_group: bool, read: &ReadAuthorities<'_>) -> Result<Proof, String> {
        let keys = [&self.primary_key, &self.secondary_key];
        let thumbprints = [&self.primary_thumbprint, &self.secondary_thumbprint];
        let means = (self.auth, is_group);
        if keys.iter().any(|key| key.is_some()) && self.auth != Means::SymmetricKey {
            return Err(format!("{name} has keys, which need `auth = \"symmetric-key\"`"));
        }
        if thumbprints.iter().any(|thumbprint| thumbprint.is_some()) && means != (Means::X509, false) {
            return Err(format!("{name} has thumbprints, which an individual enrolment with `auth = \"x509\"` has"));
        }
        if !self.authorities.is_empty() && means != (Means::X509, true) {
            return Err(format!("{name} has authorities, which a group with `auth = \"x509\"` has"));
        }
        let key = |key: &Option<String>, which: &str| {
            let key = key.as_deref().unwrap_or_default();
            let usable = sas::Key::device(key).map(|_| Secret::new(key));
            usable.ok_or_else(|| format!("the {which} key of {name} is not base64"))
        };
        match means {
            (Means::SymmetricKey, _) => Ok(Proof::Keys {
                primary: key(&self.primary_key, "primary")?,
                secondary: key(&self.secondary_key, "secondary")?,
            }),
            (Means::X509, false) => {
                let read = |text: &String| {
                    Thumbprint::parse(text).ok_or_else(|| {
                        format!("a thumbprint of {name} is not 40 (SHA-1) or 64 (SHA-256) hexadecimal digits")
                    })
                };
                let found = thumbprints.into_iter().flatten().map(read).collect::<Result<Vec<_>, _>>()?;
                if found.is_empty() {
                    return Err(format!("{name} has no thumbprint; write `primary-thumbprint = \"…\"`"));
                }
                Ok(Proof::Thumbprints(found))
            }
            (Means::X509, true) if self.authorities.is_empty() => {
                Err(format!("{name} has no authority; write `authorities = [\"ca.pem\"]`"))
            }
            (Means::X509, true) => Ok(Proof::Authorities(read(&self.authorities)?)),
        }
    }

    fn enrolment(self, is_group: bool, read: &ReadAuthorities<'_>) -> Result<Enrolment, String> {
        let kind = if is_group { "group" } else { "individual enrolment" };
        let name = format!("{kind} `{}`", self.id.escape_debug());
        if let Some(fault) = registration_id_fault(&self.id) {
            return Err(format!("the id of {name} {fault}"));
        }
        let proof = self.proof(&name, is_group, read)?;
        if is_group && self.device_id.is_some() {
            return Err(format!("{name} has a device id; its devices have their registration ids"));
        }
        if let Some(fault) = self.device_id.as_deref().and_then(id_fault) {
            return Err(format!("the device id of {name} {fault}"));
        }
        if self.hubs.iter().any(String::is_empty) {
            return Err(format!("{name} names a hub without a name"));
        }
        let twin = self.initial_twin.unwrap_or(FileTwin { tags: None, desired: None });
        let object = |table: toml::Table| json(toml::Value::Table(table));
        let initial_twin = InitialTwin { tags: twin.tags.map(object), desired: twin.desired.map(object) };
        // What a hub would not take is refused here, where somebody can mend it.
        let change = Change { tags: initial_twin.tags.clone(), desired: initial_twin.desired.clone(), replace: true };
        let fits = Twin::default().change(&change, None, Timestamp::from_millis(0));
        fits.map_err(|fault| format!("the initial twin of {name}: {fault}"))?;
        Ok(Enrolment {
            is_group,
            enabled: self.enabled,
            proof,
            device_id: self.device_id,
            allocation: self.allocation,
            hubs: self.hubs,
            reprovision: self.reprovision_policy,
            initial_twin,
            payload: self.payload.map(json),
            id: self.id,
        })
    }
}

/// JSON knows no dates: they become texts.
fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::from(text),
        toml::Value::Integer(number) => Value::from(number),
        toml::Value::Float(number) => Value::from(number),
        toml::Value::Boolean(flag) => Value::from(flag),
        toml::Value::Datetime(at) => Value::from(at.to_string()),
        toml::Value::Array(list) => Value::Array(list.into_iter().map(json).collect()),
        toml::Value::Table(table) => {
            Value::Object(table.into_iter().map(|(name, value)| (name, json(value))).collect::<Map<_, _>>())
        }
    }
}

/// Reads the authorities in these files, or says why not.
type ReadAuthorities<'a> = dyn Fn(&[PathBuf]) -> Result<Authorities, String> + 'a;

impl File {
    /// `None` if there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, EnrolmentsError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(EnrolmentsError::Disk { act: "read", path: path.to_owned(), source }),
        };
        let file = Self::understand(&text);
        file.map(Some).map_err(|what| EnrolmentsError::Malformed { path: path.to_owned(), what })
    }

    pub(super) fn understand(text: &str) -> Result<Self, String> {
        // The parser's full text would show the line, which may hold a key.
        toml::from_str(text).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    /// Written beside, then renamed: a reader finds the old file or the new one. Only its owner may read it.
    pub(super) fn write(&self, path: &Path) -> Result<(), EnrolmentsError> {
        let text = toml::to_string_pretty(self).expect("texts, flags and what came from TOML are TOML");
        let disk = |source| EnrolmentsError::Disk { act: "write", path: path.to_owned(), source };
        write_private(path, text.as_bytes()).map_err(disk)
    }

    /// Adds an enrolment; one that is there gets what the wish says, and keeps the rest.
    pub(super) fn enroll(&mut self, wish: Wish) {
        let list = if wish.is_group { &mut self.groups } else { &mut self.individual };
        let at = list.iter().position(|other| other.id.eq_ignore_ascii_case(&wish.id)).unwrap_or(list.len());
        if at == list.len() {
            list.push(FileEnrolment::new(&wish.id));
        }
        let enrolment = &mut list[at];
        if let Some(auth) = wish.auth.filter(|auth| *auth != enrolment.auth) {
            enrolment.auth = auth;
            (enrolment.primary_key, enrolment.secondary_key) = (None, None);
            (enrolment.primary_thumbprint, enrolment.secondary_thumbprint) = (None, None);
            enrolment.authorities.clear();
        }
        if let Some(thumbprint) = wish.thumbprint {
            (enrolment.primary_thumbprint, enrolment.secondary_thumbprint) = (Some(thumbprint.to_string()), None);
        }
        if !wish.authorities.is_empty() {
            enrolment.authorities = wish.authorities;
        }
        if !wish.hubs.is_empty() {
            enrolment.hubs = wish.hubs;
        }
        enrolment.enabled = wish.enabled.unwrap_or(enrolment.enabled);
        enrolment.device_id = wish.device_id.or(enrolment.device_id.take());
        enrolment.allocation = wish.allocation.unwrap_or(enrolment.allocation);
        enrolment.reprovision_policy = wish.reprovision.unwrap_or(enrolment.reprovision_policy);
    }

    /// Makes what is missing.
    pub(super) fn complete(&mut self) {
        self.individual.iter_mut().chain(&mut self.groups).for_each(FileEnrolment::complete);
    }

    /// What it says, or what is wrong with it.
    pub(super) fn parse(
        mut self,
        authorities: impl Fn(&[PathBuf]) -> Result<Authorities, String>,
    ) -> Result<Enrolments, String> {
        // Keys that were left out of a file that changed under a running service hold until it is started again.
        self.complete();
        let mut enrolments = Enrolments::default();
        for means in [Means::SymmetricKey, Means::X509] {
            if GROUPS_MAX < self.groups.iter().filter(|group| group.auth == means).count() {
                return Err(format!("there are more than {GROUPS_MAX} groups of one kind"));
            }
        }
        let individual = self.individual.into_iter().map(|enrolment| (enrolment, false));
        for (enrolment, is_group) in individual.chain(self.groups.into_iter().map(|group| (group, true))) {
            let id = enrolment.id.clone();
            if !enrolments.add(enrolment.enrolment(is_group, &authorities)?) {
                return Err(format!("`{id}` is there twice"));
            }
        }
        Ok(enrolments)
    }
}

fn new_key() -> String {
    // As long as the service's.
    let mut bytes = [0; 64];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    STANDARD.encode(bytes)
}
