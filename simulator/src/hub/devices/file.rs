//! The registry's file as people see it; what is missing is made.

use std::fs;
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use shared::config::Secret;
use shared::sas;
use shared::time::Timestamp;

use super::{
    Auth, DEVICE_POLICY, Device, Identities, Module, OWNER_POLICY, Policy, Record, RegistryError, Right,
    SERVICE_POLICY, Thumbprint, id_fault,
};

/// The service's own limit of modules of one device.
pub(super) const MODULES_MAX: usize = 50;

/// The policies of a new registry, as the service makes them; first the one that services are meant to use.
const POLICIES: [(&str, &[Right]); 5] = [
    (SERVICE_POLICY, &[Right::ServiceConnect]),
    (DEVICE_POLICY, &[Right::DeviceConnect]),
    (OWNER_POLICY, &[Right::RegistryRead, Right::RegistryWrite, Right::ServiceConnect, Right::DeviceConnect]),
    ("registryRead", &[Right::RegistryRead]),
    ("registryReadWrite", &[Right::RegistryRead, Right::RegistryWrite]),
];
/// So many of them the registries had that were made before there was an API to change them by.
const POLICIES_ONCE: usize = 2;

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    policies: Vec<FilePolicy>,
    #[serde(default)]
    devices: Vec<FileIdentity>,
}

/// By what an identity proves itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Means {
    /// A token signed with one of its two keys.
    #[default]
    Sas,
    /// A certificate with one of two thumbprints.
    X509Thumbprint,
    /// A certificate in its name, signed by an authority the hub trusts.
    X509Ca,
}

/// A device or one of its modules.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct FileIdentity {
    id: String,
    #[serde(default = "yes")]
    enabled: bool,
    #[serde(default)]
    auth: Means,
    generation_id: Option<String>,
    primary_key: Option<String>,
    secondary_key: Option<String>,
    primary_thumbprint: Option<String>,
    secondary_thumbprint: Option<String>,
    status_reason: Option<String>,
    status_updated_time: Option<String>,
    #[serde(default)]
    iot_edge: bool,
    scope: Option<String>,
    managed_by: Option<String>,
    #[serde(default)]
    revision: u64,
    #[serde(default)]
    modules: Vec<FileIdentity>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct FilePolicy {
    name: String,
    #[serde(default = "service_connect")]
    rights: Vec<Right>,
    primary_key: Option<String>,
    secondary_key: Option<String>,
}

impl FileIdentity {
    fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            enabled: true,
            auth: Means::Sas,
            generation_id: Some(new_generation()),
            primary_key: None,
            secondary_key: None,
            primary_thumbprint: None,
            secondary_thumbprint: None,
            status_reason: None,
            status_updated_time: None,
            iot_edge: false,
            scope: None,
            managed_by: None,
            revision: 0,
            modules: vec![],
        }
    }

    /// `path` are the ids that lead here. A generation that people left out is made of them: the same at each reading,
    /// before a start writes it down and after.
    fn complete(&mut self, path: &str) {
        let path = format!("{path}/{}", self.id);
        self.generation_id.get_or_insert_with(|| generation_of(&path));
        if self.auth == Means::Sas {
            self.primary_key.get_or_insert_with(new_key);
            self.secondary_key.get_or_insert_with(new_key);
        }
        self.modules.iter_mut().for_each(|module| module.complete(&path));
    }

    /// What this identity proves itself with; `name` is for people.
    fn auth(&self, name: &str) -> Result<Auth, String> {
        let keys = self.primary_key.is_some() || self.secondary_key.is_some();
        let thumbprints = self.primary_thumbprint.is_some() || self.secondary_thumbprint.is_some();
        if keys && self.auth != Means::Sas {
            return Err(format!("{name} has keys, which need `auth = \"sas\"`"));
        }
        if thumbprints && self.auth != Means::X509Thumbprint {
            return Err(format!("{name} has thumbprints, which need `auth = \"x509-thumbprint\"`"));
        }
        let key = |key: &Option<String>, which: &str| {
            let key = key.as_deref().unwrap_or_default();
            sas::Key::device(key)
                .map(|_| Secret::new(key))
                .ok_or_else(|| format!("the {which} key of {name} is not base64"))
        };
        let thumbprint = |text: &Option<String>, which: &str| match text.as_deref() {
            None => Ok(None),
            Some(text) => Thumbprint::parse(text).map(Some).ok_or_else(|| {
                format!("the {which} thumbprint of {name} is not 40 (SHA-1) or 64 (SHA-256) hexadecimal digits")
            }),
        };
        Ok(match self.auth {
            Means::Sas => Auth::Sas {
                primary_key: key(&self.primary_key, "primary")?,
                secondary_key: key(&self.secondary_key, "secondary")?,
            },
            Means::X509Thumbprint => {
                let both = [
                    thumbprint(&self.primary_thumbprint, "primary")?,
                    thumbprint(&self.secondary_thumbprint, "secondary")?,
                ];
                let thumbprints: Vec<_> = both.into_iter().flatten().collect();
                if thumbprints.is_empty() {
                    return Err(format!("{name} has no thumbprint; write `primary-thumbprint = \"…\"`"));
                }
                Auth::Thumbprint(thumbprints)
            }
            Means::X509Ca => Auth::Ca,
        })
    }

    fn record(&self, name: &str) -> Result<Record, String> {
        let status_updated = match self.status_updated_time.as_deref() {
            None => None,
            Some(text) => Some(Timestamp::parse_rfc3339(text).ok_or_else(|| {
                format!("`status-updated-time` of {name} is no time; write e.g. \"2026-11-29T10:00:00Z\"")
            })?),
        };
        Ok(Record {
            status_reason: self.status_reason.clone(),
            status_updated,
            iot_edge: self.iot_edge,
            scope: self.scope.clone(),
            managed_by: self.managed_by.clone(),
            revision: self.revision,
        })
    }

    fn module(self, device: &str) -> Result<Module, String> {
        let name = format!("module `{}` of device `{device}`", self.id.escape_debug());
        if let Some(fault) = id_fault(&self.id) {
            return Err(format!("the id of {name} {fault}"));
        }
        if !self.modules.is_empty() {
            return Err(format!("{name} has modules; only devices have"));
        }
        let (auth, record) = (self.auth(&name)?, self.record(&name)?);
        let generation_id = self.generation_id.unwrap_or_default();
        Ok(Module { enabled: self.enabled, generation_id, auth, record, id: self.id })
    }

    fn device(mut self) -> Result<Device, String> {
        let name = format!("device `{}`", self.id.escape_debug());
        if let Some(fault) = id_fault(&self.id) {
            return Err(format!("the id of {name} {fault}"));
        }
        let (auth, record) = (self.auth(&name)?, self.record(&name)?);
        if MODULES_MAX < self.modules.len() {
            return Err(format!("{name} has more than {MODULES_MAX} modules"));
        }
        let mut modules: Vec<Module> = vec![];
        for module in std::mem::take(&mut self.modules) {
            let module = module.module(&self.id)?;
            if modules.iter().any(|other| other.id == module.id) {
                return Err(format!("module `{}` of {name} is there twice", module.id));
            }
            modules.push(module);
        }
        let generation_id = self.generation_id.unwrap_or_default();
        Ok(Device { enabled: self.enabled, generation_id, auth, modules, record, id: self.id })
    }
}

fn yes() -> bool {
    true
}

/// What a policy of a file from before rights may do.
fn service_connect() -> Vec<Right> {
    vec![Right::ServiceConnect]
}

impl File {
    /// `None` if there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, RegistryError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(RegistryError::Disk { act: "read", path: path.to_owned(), source }),
        };
        let file = Self::understand(&text);
        file.map(Some).map_err(|what| RegistryError::Malformed { path: path.to_owned(), what })
    }

    pub(super) fn understand(text: &str) -> Result<Self, String> {
        // The parser's full text would show the line, which may hold a key.
        toml::from_str(text).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    /// Adds a device with keys unless there is one of that id.
    pub(super) fn add(&mut self, id: &str) {
        if !self.devices.iter().any(|device| device.id == id) {
            self.devices.push(FileIdentity::new(id));
        }
    }

    /// Adds a device or, with `module`, a module; one that is there already gets other means of proof.
    pub(super) fn register(&mut self, device: &str, module: Option<&str>, auth: Means, thumbprint: Option<String>) {
        fn of<'a>(list: &'a mut Vec<FileIdentity>, id: &str) -> &'a mut FileIdentity {
            let at = list.iter().position(|other| other.id == id).unwrap_or(list.len());
            if at == list.len() {
                list.push(FileIdentity::new(id));
            }
            &mut list[at]
        }
        let device = of(&mut self.devices, device);
        let identity = match module {
            Some(module) => of(&mut device.modules, module),
            None => device,
        };
        if identity.auth != auth {
            (identity.primary_key, identity.secondary_key) = (None, None);
        }
        identity.auth = auth;
        identity.primary_thumbprint = thumbprint;
        identity.secondary_thumbprint = None;
    }

    /// Adds a device with these means of proof; one that is there gets them.
    pub(super) fn provision(&mut self, device: &str, auth: &Auth) {
        let at = self.devices.iter().position(|other| other.id == device).unwrap_or(self.devices.len());
        if at == self.devices.len() {
            self.devices.push(FileIdentity::new(device));
        }
        let text = |key: &Secret| Some(key.reveal().to_owned());
        let (means, keys, thumbprints) = match auth {
            Auth::Sas { primary_key, secondary_key } => {
                (Means::Sas, (text(primary_key), text(secondary_key)), (None, None))
            }
            Auth::Thumbprint(known) => {
                let mut known = known.iter().map(Thumbprint::to_string);
                (Means::X509Thumbprint, (None, None), (known.next(), known.next()))
            }
            Auth::Ca => (Means::X509Ca, (None, None), (None, None)),
        };
        let identity = &mut self.devices[at];
        identity.enabled = true;
        identity.auth = means;
        (identity.primary_key, identity.secondary_key) = keys;
        (identity.primary_thumbprint, identity.secondary_thumbprint) = thumbprints;
    }

    pub(super) fn remove(&mut self, device: &str) {
        self.devices.retain(|other| other.id != device);
    }

    /// Makes what is missing.
    pub(super) fn complete(&mut self) {
        let made =
            |policy: &FilePolicy, (name, rights): &(&str, &[Right])| policy.name == *name && policy.rights == *rights;
        let once = self.policies.len() == POLICIES_ONCE
            && self.policies.iter().zip(&POLICIES).all(|(policy, default)| made(policy, default));
        if self.policies.is_empty() || once {
            for (name, rights) in &POLICIES[self.policies.len()..] {
                let (name, rights) = ((*name).to_owned(), rights.to_vec());
                self.policies.push(FilePolicy { name, rights, primary_key: None, secondary_key: None });
            }
        }
        self.devices.iter_mut().for_each(|device| device.complete(""));
        for policy in &mut self.policies {
            policy.primary_key.get_or_insert_with(new_key);
            policy.secondary_key.get_or_insert_with(new_key);
        }
    }

    /// What it says, or what is wrong with it.
    pub(super) fn parse(mut self) -> Result<Identities, String> {
        // Keys that were left out of a file that changed under a running hub hold until it is started again.
        self.complete();
        let mut identities = Identities::default();
        for device in self.devices {
            let device = device.device()?;
            if !identities.add(device.clone()) {
                return Err(format!("device `{}` is there twice", device.id));
            }
        }
        for policy in self.policies {
            if policy.name.is_empty() || policy.name.contains(['&', '=', ';']) {
                return Err(format!("`{}` cannot be a policy's name", policy.name.escape_debug()));
            }
            let (primary, secondary) =
                (policy.primary_key.unwrap_or_default(), policy.secondary_key.unwrap_or_default());
            // An empty key would let everybody in.
            if [&primary, &secondary].iter().any(|key| key.is_empty() || sas::Key::device(key).is_none()) {
                return Err(format!("a key of the policy `{}` is not base64", policy.name));
            }
            identities.policies.push(Policy {
                name: policy.name,
                rights: policy.rights,
                primary_key: Secret::new(primary),
                secondary_key: Secret::new(secondary),
            });
        }
        Ok(identities)
    }
}

pub(super) fn new_key() -> String {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    STANDARD.encode(bytes)
}

pub(super) fn new_generation() -> String {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    generation(bytes)
}

/// That of an identity somebody wrote down without one.
fn generation_of(path: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, path.as_bytes());
    generation(std::array::from_fn(|at| digest.as_ref()[at]))
}

/// The service's are 18 decimal digits.
fn generation(bytes: [u8; 8]) -> String {
    format!("{:018}", u64::from_le_bytes(bytes) % 1_000_000_000_000_000_000)
}
