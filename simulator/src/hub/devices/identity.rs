//! [p] What the registry holds: policies, devices, their modules, and what they prove themselves by.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use shared::config::Secret;
use shared::sas;
use shared::time::Timestamp;

/// The policy a new registry gives to services.
pub const SERVICE_POLICY: &str = "service";
/// The policy a new registry gives to those who sign for any device.
pub const DEVICE_POLICY: &str = "device";
/// The policy a new registry gives to those who may do everything.
pub const OWNER_POLICY: &str = "iothubowner";

/// By what a device or module proves itself.
#[derive(Debug, Clone)]
pub enum Auth {
    /// A token signed with one of these, base64.
    Sas { primary_key: Secret, secondary_key: Secret },
    /// A certificate with one of these.
    Thumbprint(Vec<Thumbprint>),
    /// A certificate in its name, signed by an authority the hub trusts.
    Ca,
}

impl Auth {
    /// The keys that may sign.
    pub fn keys(&self) -> Vec<sas::Key> {
        match self {
            Auth::Sas { primary_key, secondary_key } => {
                [primary_key, secondary_key].into_iter().filter_map(|key| sas::Key::device(key.reveal())).collect()
            }
            Auth::Thumbprint(_) | Auth::Ca => vec![],
        }
    }

    /// The key for a connection string.
    pub fn primary_key(&self) -> Option<&Secret> {
        match self {
            Auth::Sas { primary_key, .. } => Some(primary_key),
            Auth::Thumbprint(_) | Auth::Ca => None,
        }
    }
}

/// A certificate's fingerprint: SHA-1 or SHA-256 of its DER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thumbprint(Vec<u8>);

impl Thumbprint {
    /// Reads 40 or 64 hexadecimal digits, with or without colons between them.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: Option<Vec<u8>> = text
            .trim()
            .chars()
            .filter(|digit| *digit != ':')
            .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect();
        let digits = digits.filter(|digits| [40, 64].contains(&digits.len()))?;
        Some(Self(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()))
    }

    /// SHA-256 of a certificate.
    pub fn sha256(der: &[u8]) -> Self {
        Self(ring::digest::digest(&ring::digest::SHA256, der).as_ref().to_vec())
    }

    /// True for the certificate it was taken of.
    pub fn fits(&self, der: &[u8]) -> bool {
        match self.0.len() {
            20 => ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, der).as_ref() == self.0,
            _ => Self::sha256(der) == *self,
        }
    }
}

impl std::fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

/// One device.
#[derive(Debug, Clone)]
pub struct Device {
    /// As in topics and connection strings.
    pub id: String,
    /// A device that is not may not connect, nor may its modules.
    pub enabled: bool,
    /// Tells this identity from a later one of the same id.
    pub generation_id: String,
    /// By what it proves itself.
    pub auth: Auth,
    /// In the order of the file.
    pub modules: Vec<Module>,
    /// What services wrote down about it.
    pub record: Record,
}

impl Device {
    /// Changes with everything the registry holds about the device, its modules aside.
    pub fn etag(&self) -> String {
        etag(&self.generation_id, self.enabled, &self.auth, &self.record)
    }

    /// The module of this id.
    pub fn module(&self, id: &str) -> Option<&Module> {
        self.modules.iter().find(|module| module.id == id)
    }
}

/// An identity within a device, with a connection of its own.
#[derive(Debug, Clone)]
pub struct Module {
    /// As in topics and connection strings.
    pub id: String,
    /// A module that is not may not connect.
    pub enabled: bool,
    /// Tells this identity from a later one of the same id.
    pub generation_id: String,
    /// By what it proves itself.
    pub auth: Auth,
    /// What services wrote down about it.
    pub record: Record,
}

/// What services write down about an identity, beside what it needs to connect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Why it is enabled or not.
    pub status_reason: Option<String>,
    /// When it was last enabled or disabled.
    pub status_updated: Option<Timestamp>,
    /// Whether the device calls itself an IoT Edge device.
    pub iot_edge: bool,
    /// `deviceScope`, as written.
    pub scope: Option<String>,
    /// `managedBy` of a module, as written.
    pub managed_by: Option<String>,
    /// How often services changed the identity.
    pub revision: u64,
}

/// What tells one state of an identity from another: of all that is written in the file, so an edit by hand counts.
fn etag(generation_id: &str, enabled: bool, auth: &Auth, record: &Record) -> String {
    let mut of = ring::digest::Context::new(&ring::digest::SHA256);
    let mut add = |text: &str| {
        of.update(&(text.len() as u64).to_le_bytes());
        of.update(text.as_bytes());
    };
    add(generation_id);
    add(if enabled { "enabled" } else { "disabled" });
    match auth {
        Auth::Sas { primary_key, secondary_key } => {
            add(primary_key.reveal());
            add(secondary_key.reveal());
        }
        Auth::Thumbprint(known) => known.iter().for_each(|thumbprint| add(&thumbprint.to_string())),
        Auth::Ca => add("ca"),
    }
    for text in [&record.status_reason, &record.scope, &record.managed_by] {
        add(text.as_deref().unwrap_or_default());
    }
    add(if record.iot_edge { "edge" } else { "" });
    add(&record.revision.to_string());
    let digest = of.finish();
    let number = digest.as_ref().iter().take(4).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    // The service's are numbers in base64.
    STANDARD.encode(number.to_string())
}

impl Module {
    /// Changes with everything the registry holds about the module.
    pub fn etag(&self) -> String {
        etag(&self.generation_id, self.enabled, &self.auth, &self.record)
    }
}

/// What a policy allows, by the service's own names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Right {
    /// To read the registry.
    RegistryRead,
    /// To change it.
    RegistryWrite,
    /// To read events, and all else on the service's side.
    ServiceConnect,
    /// To sign for any device.
    DeviceConnect,
}

/// A shared access policy of the hub.
#[derive(Debug, Clone)]
pub struct Policy {
    /// `skn` of its tokens.
    pub name: String,
    /// What it allows.
    pub rights: Vec<Right>,
    /// Base64: services use it as the text it is, devices decode it.
    pub primary_key: Secret,
    /// As the first one.
    pub secondary_key: Secret,
}

impl Policy {
    /// True if it may.
    pub fn may(&self, right: Right) -> bool {
        self.rights.contains(&right)
    }

    /// The keys that may sign, as an IoT Hub reads them: base64.
    pub fn keys(&self) -> Vec<sas::Key> {
        [&self.primary_key, &self.secondary_key].into_iter().filter_map(|key| sas::Key::device(key.reveal())).collect()
    }

    /// The keys that may sign for any device; none without that right.
    pub fn device_keys(&self) -> Vec<sas::Key> {
        if self.may(Right::DeviceConnect) { self.keys() } else { vec![] }
    }
}

/// What the registry holds, in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct Identities {
    /// Policies of the hub.
    pub policies: Vec<Policy>,
    pub(super) devices: Vec<Arc<Device>>,
    by_id: HashMap<String, usize>,
}

impl Identities {
    /// Devices.
    pub fn devices(&self) -> &[Arc<Device>] {
        &self.devices
    }

    /// The device of this id.
    pub fn device(&self, id: &str) -> Option<&Device> {
        self.devices.get(*self.by_id.get(id)?).map(|device| &**device)
    }

    /// The policy of this name.
    pub fn policy(&self, name: &str) -> Option<&Policy> {
        self.policies.iter().find(|policy| policy.name == name)
    }

    /// Adds a device; false if there is one of this id.
    pub fn add(&mut self, device: Device) -> bool {
        let new = !self.by_id.contains_key(&device.id);
        if new {
            self.by_id.insert(device.id.clone(), self.devices.len());
            self.devices.push(Arc::new(device));
        }
        new
    }

    /// The device of this id, to be changed; whoever holds the identities of before keeps them.
    pub(super) fn device_mut(&mut self, id: &str) -> Option<&mut Device> {
        self.devices.get_mut(*self.by_id.get(id)?).map(Arc::make_mut)
    }

    /// Takes all of `ids` away.
    pub(super) fn remove(&mut self, ids: &HashSet<&str>) {
        if !ids.is_empty() {
            self.devices.retain(|device| !ids.contains(&*device.id));
            self.by_id = self.devices.iter().enumerate().map(|(at, device)| (device.id.clone(), at)).collect();
        }
    }
}
