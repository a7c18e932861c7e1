//! Who may connect: devices and modules with what they prove themselves by, and the policies of the hub. One TOML
//! file that people may edit: written when keys are made and when services change it, read again when somebody else did.
//!
//! Never: a key in a log.

mod file; // as people see it

mod text; // [p] how it is written

mod edit; // [p] what services change

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use shared::config::Secret;
use shared::sas;
use shared::time::Timestamp;

pub use self::edit::{AuthDraft, Change, Draft, Edit, EditFault, Edited, IfMatch};
use self::file::File;
pub use self::file::Means;

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

/// The registry cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The disk said no.
    #[error("{act} the device registry {}", path.display())]
    Disk { act: &'static str, path: PathBuf, source: io::Error },
    /// Somebody wrote something else into it.
    #[error("the device registry {} cannot be understood: {what}", path.display())]
    Malformed { path: PathBuf, what: String },
    /// As before, said again.
    #[error("{0}; correct it, until then nothing is changed")]
    Slip(String),
}

/// All identities as of now; clones are the same registry.
#[derive(Debug, Clone)]
pub struct Registry {
    path: Arc<PathBuf>,
    state: Arc<Mutex<State>>,
    /// Held by who writes the file, so that the state can be read meanwhile.
    writing: Arc<Mutex<()>>,
}

#[derive(Debug)]
struct State {
    /// Changes with the file.
    stamp: Option<Stamp>,
    /// Why the file of that stamp cannot be understood, if it cannot.
    slip: Option<String>,
    identities: Arc<Identities>,
}

type Stamp = (Option<SystemTime>, u64);

/// What the registry holds, in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct Identities {
    /// Policies of the hub.
    pub policies: Vec<Policy>,
    devices: Vec<Arc<Device>>,
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
    fn device_mut(&mut self, id: &str) -> Option<&mut Device> {
        self.devices.get_mut(*self.by_id.get(id)?).map(Arc::make_mut)
    }

    /// Takes all of `ids` away.
    fn remove(&mut self, ids: &HashSet<&str>) {
        if !ids.is_empty() {
            self.devices.retain(|device| !ids.contains(&*device.id));
            self.by_id = self.devices.iter().enumerate().map(|(at, device)| (device.id.clone(), at)).collect();
        }
    }
}

impl Registry {
    /// Opens the registry, registers those of `devices` it does not know, and makes missing keys.
    ///
    /// # Errors
    /// If the file cannot be read, understood or written.
    pub fn prepare(path: PathBuf, devices: &[String]) -> Result<Self, RegistryError> {
        change(&path, |file| devices.iter().for_each(|id| file.add(id)))?;
        Self::open(path)
    }

    /// Reads the registry of a hub that runs, changing nothing.
    ///
    /// # Errors
    /// If the file is absent, cannot be read or understood.
    pub fn open(path: PathBuf) -> Result<Self, RegistryError> {
        let absent = || io::Error::from(io::ErrorKind::NotFound);
        let stamp = stamp(&path);
        let file = File::read(&path)?;
        let file = file.ok_or_else(|| RegistryError::Disk { act: "read", path: path.clone(), source: absent() })?;
        let identities = Arc::new(parse(file, &path)?);
        let state = State { stamp, slip: None, identities };
        Ok(Self { path: Arc::new(path), state: Arc::new(Mutex::new(state)), writing: Arc::default() })
    }

    /// The identities as of now. A file that cannot be understood leaves them as they were.
    pub fn now(&self) -> Arc<Identities> {
        let mut state = self.state();
        if let Err(error) = state.refresh(&self.path) {
            tracing::warn!(%error, "the device registry was changed; going on with the old one");
        }
        Arc::clone(&state.identities)
    }

    /// Changes identities in their order, all in one write of the file, and says of each what became of it. One that
    /// cannot be changed does not keep the others from it. Blocks on the disk.
    ///
    /// # Errors
    /// If the file cannot be read, understood or written. Then nothing was changed.
    pub fn edit(&self, edits: Vec<Edit>, now: Timestamp) -> Result<Vec<Result<Edited, EditFault>>, RegistryError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let _alone = alone(&self.path)?;
        let before = {
            let mut state = self.state();
            state.refresh(&self.path)?;
            // What somebody wrote by hand is not to be written over because it has a slip in it.
            if let Some(what) = state.slip.clone() {
                return Err(RegistryError::Slip(what));
            }
            Arc::clone(&state.identities)
        };
        let mut identities = (*before).clone();
        let done = edit::apply(&mut identities, edits, now);
        if done.iter().any(Result::is_ok) {
            write(&identities, &self.path)?;
            let mut state = self.state();
            state.stamp = stamp(&self.path);
            state.identities = Arc::new(identities);
        }
        Ok(done)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Reads the file if it is another one by now. One that cannot be understood is an error once.
    fn refresh(&mut self, path: &Path) -> Result<(), RegistryError> {
        let stamp = stamp(path);
        if stamp.is_some() && stamp != self.stamp {
            self.stamp = stamp;
            self.slip = None;
            match File::read(path).and_then(|file| parse(file.unwrap_or_default(), path)) {
                Ok(identities) => {
                    tracing::info!(devices = identities.devices.len(), "the device registry was changed");
                    self.identities = Arc::new(identities);
                }
                Err(error) => {
                    self.slip = Some(error.to_string());
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// Registers a device or, with `module`, one of its modules, or gives it other means of proof. A hub that runs sees it
/// at the next connection.
///
/// # Errors
/// If the file cannot be read, understood or written, or the result would not be a registry.
pub fn register(
    path: &Path,
    device: &str,
    module: Option<&str>,
    auth: Means,
    thumbprint: Option<&Thumbprint>,
) -> Result<(), RegistryError> {
    change(path, |file| file.register(device, module, auth, thumbprint.map(Thumbprint::to_string)))
}

/// Registers a device that a provisioning service assigned, or gives it these means of proof and lets it in; it keeps
/// its modules. A hub that runs sees it at the next connection.
///
/// # Errors
/// If the file cannot be read, understood or written, or the result would not be a registry.
pub(crate) fn provision(path: &Path, device: &str, auth: &Auth) -> Result<(), RegistryError> {
    change(path, |file| file.provision(device, auth))
}

/// Takes a device and its modules out of the registry; none of this id is fine, too.
///
/// # Errors
/// As [`provision`].
pub(crate) fn remove(path: &Path, device: &str) -> Result<(), RegistryError> {
    change(path, |file| file.remove(device))
}

/// Changes the file and makes what is missing; writes nothing that cannot be read again.
fn change(path: &Path, change: impl FnOnce(&mut File)) -> Result<(), RegistryError> {
    let _alone = alone(path)?;
    let before = File::read(path)?;
    let mut file = before.clone().unwrap_or_default();
    change(&mut file);
    file.complete();
    let identities = parse(file.clone(), path)?;
    if before.as_ref() != Some(&file) {
        write(&identities, path)?;
    }
    Ok(())
}

/// Written beside, then renamed: a reader finds the old file or the new one. Only its owner may read it.
fn write(identities: &Identities, path: &Path) -> Result<(), RegistryError> {
    let disk = |source| RegistryError::Disk { act: "write", path: path.to_owned(), source };
    write_private(path, text::of(identities).as_bytes()).map_err(disk)
}

/// Held while the file is read, changed and written: of two who change it at once the second waits.
fn alone(path: &Path) -> Result<fs::File, RegistryError> {
    let lock = path.with_extension("lock");
    let disk = |source| RegistryError::Disk { act: "lock", path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(disk)?;
    }
    let file = fs::File::options().create(true).truncate(false).write(true).open(&lock).map_err(disk)?;
    file.lock().map_err(disk)?;
    Ok(file)
}

fn parse(file: File, path: &Path) -> Result<Identities, RegistryError> {
    file.parse().map_err(|what| RegistryError::Malformed { path: path.to_owned(), what })
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok(), metadata.len()))
}

/// What is wrong with a device's or module's id, in the words of the service's rules; `None` if nothing is.
pub fn id_fault(id: &str) -> Option<&'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-.%_*?!(),:=@$'".contains(&byte);
    let fits = (1..=128).contains(&id.len()) && id.bytes().all(allowed);
    (!fits).then_some("must be 1 to 128 ASCII letters, digits and - . % _ * ? ! ( ) , : = @ $ '")
}

/// Writes a file only its owner may read, whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_whole(path, bytes, 0o600)
}

/// Writes a file everybody may read, whole or not at all.
pub(crate) fn write_public(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_whole(path, bytes, 0o644)
}

fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory)?;
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}
