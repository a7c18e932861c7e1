//! Who may connect: devices with their keys, and the policies of services. One TOML file, written when keys are
//! made, read again when somebody else changed it.
//!
//! Never: a key in a log.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use shared::config::Secret;
use shared::sas;

/// The policy a new registry gives to services.
pub const SERVICE_POLICY: &str = "service";

/// One device.
#[derive(Debug, Clone)]
pub struct Device {
    /// As in topics and connection strings.
    pub id: String,
    /// A device that is not may not connect.
    pub enabled: bool,
    /// Tells this identity from a later one of the same id.
    pub generation_id: String,
    /// Base64.
    pub primary_key: Secret,
    /// Base64.
    pub secondary_key: Secret,
}

impl Device {
    /// The keys that may sign for the device.
    pub fn keys(&self) -> Vec<sas::Key> {
        [&self.primary_key, &self.secondary_key].into_iter().filter_map(|key| sas::Key::device(key.reveal())).collect()
    }
}

/// What a service signs with.
#[derive(Debug, Clone)]
pub struct Policy {
    /// `skn` of its tokens.
    pub name: String,
    /// Base64, used as the text it is.
    pub primary_key: Secret,
    /// Base64, used as the text it is.
    pub secondary_key: Secret,
}

impl Policy {
    /// The keys that may sign for the policy.
    pub fn keys(&self) -> Vec<sas::Key> {
        [&self.primary_key, &self.secondary_key].into_iter().map(|key| sas::Key::service(key.reveal())).collect()
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
}

/// All identities as of now; clones are the same registry.
#[derive(Debug, Clone)]
pub struct Registry {
    path: Arc<PathBuf>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// Changes with the file.
    stamp: Option<Stamp>,
    identities: Arc<Identities>,
}

type Stamp = (Option<SystemTime>, u64);

/// What the registry holds, in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct Identities {
    /// Devices.
    pub devices: Vec<Device>,
    /// Policies of services.
    pub policies: Vec<Policy>,
}

impl Identities {
    /// The device of this id.
    pub fn device(&self, id: &str) -> Option<&Device> {
        self.devices.iter().find(|device| device.id == id)
    }
}

impl Registry {
    /// Opens the registry, registers those of `devices` it does not know, and makes missing keys.
    ///
    /// # Errors
    /// If the file cannot be read, understood or written.
    pub fn prepare(path: PathBuf, devices: &[String]) -> Result<Self, RegistryError> {
        let mut file = File::read(&path)?.unwrap_or_default();
        let before = file.clone();
        for id in devices {
            if !file.devices.iter().any(|device| device.id == *id) {
                file.devices.push(FileDevice { id: id.clone(), ..FileDevice::default() });
            }
        }
        if file.policies.is_empty() {
            file.policies.push(FilePolicy { name: SERVICE_POLICY.to_owned(), ..FilePolicy::default() });
        }
        file.complete();
        if file != before {
            file.write(&path)?;
        }
        let identities = Arc::new(file.parse(&path)?);
        let state = State { stamp: stamp(&path), identities };
        Ok(Self { path: Arc::new(path), state: Arc::new(Mutex::new(state)) })
    }

    /// Reads the registry of a hub that runs, changing nothing.
    ///
    /// # Errors
    /// If the file is absent, cannot be read or understood.
    pub fn open(path: PathBuf) -> Result<Self, RegistryError> {
        let absent = || io::Error::from(io::ErrorKind::NotFound);
        let file = File::read(&path)?;
        let file = file.ok_or_else(|| RegistryError::Disk { act: "read", path: path.clone(), source: absent() })?;
        let identities = Arc::new(file.parse(&path)?);
        let state = State { stamp: stamp(&path), identities };
        Ok(Self { path: Arc::new(path), state: Arc::new(Mutex::new(state)) })
    }

    /// The identities as of now. A file that cannot be understood leaves them as they were.
    pub fn now(&self) -> Arc<Identities> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&self.path);
        if stamp.is_some() && stamp != state.stamp {
            state.stamp = stamp;
            match File::read(&self.path).and_then(|file| file.unwrap_or_default().parse(&self.path)) {
                Ok(identities) => {
                    tracing::info!(devices = identities.devices.len(), "the device registry was changed");
                    state.identities = Arc::new(identities);
                }
                Err(error) => tracing::warn!(%error, "the device registry was changed; going on with the old one"),
            }
        }
        Arc::clone(&state.identities)
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok(), metadata.len()))
}

/// What is wrong with a device id, in the words of the service's rules; `None` if nothing is.
pub fn id_fault(id: &str) -> Option<&'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-.%_*?!(),:=@$'".contains(&byte);
    let fits = (1..=128).contains(&id.len()) && id.bytes().all(allowed);
    (!fits).then_some("must be 1 to 128 ASCII letters, digits and - . % _ * ? ! ( ) , : = @ $ '")
}

/// The file as people see it; what is missing is made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    #[serde(default)]
    policies: Vec<FilePolicy>,
    #[serde(default)]
    devices: Vec<FileDevice>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct FileDevice {
    id: String,
    #[serde(default = "yes")]
    enabled: bool,
    generation_id: Option<String>,
    primary_key: Option<String>,
    secondary_key: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct FilePolicy {
    name: String,
    primary_key: Option<String>,
    secondary_key: Option<String>,
}

impl Default for FileDevice {
    fn default() -> Self {
        Self { id: String::new(), enabled: true, generation_id: None, primary_key: None, secondary_key: None }
    }
}

fn yes() -> bool {
    true
}

impl File {
    fn read(path: &Path) -> Result<Option<Self>, RegistryError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(RegistryError::Disk { act: "read", path: path.to_owned(), source }),
        };
        // The parser's full text would show the line, which may hold a key.
        let what = |error: toml::de::Error| error.message().to_owned();
        let file = toml::from_str(&text);
        file.map(Some).map_err(|error| RegistryError::Malformed { path: path.to_owned(), what: what(error) })
    }

    /// Written beside, then renamed: a reader finds the old file or the new one. Only its owner may read it.
    fn write(&self, path: &Path) -> Result<(), RegistryError> {
        let text = toml::to_string_pretty(self).expect("texts and flags are TOML");
        let disk = |source| RegistryError::Disk { act: "write", path: path.to_owned(), source };
        write_private(path, text.as_bytes()).map_err(disk)
    }

    fn complete(&mut self) {
        for device in &mut self.devices {
            device.generation_id.get_or_insert_with(new_generation);
            device.primary_key.get_or_insert_with(new_key);
            device.secondary_key.get_or_insert_with(new_key);
        }
        for policy in &mut self.policies {
            policy.primary_key.get_or_insert_with(new_key);
            policy.secondary_key.get_or_insert_with(new_key);
        }
    }

    fn parse(mut self, path: &Path) -> Result<Identities, RegistryError> {
        let malformed = |what: String| RegistryError::Malformed { path: path.to_owned(), what };
        // Keys that were left out of a file that changed under a running hub hold until it is started again.
        self.complete();
        let mut identities = Identities::default();
        for device in self.devices {
            if let Some(fault) = id_fault(&device.id) {
                return Err(malformed(format!("device id `{}` {fault}", device.id.escape_debug())));
            }
            if identities.device(&device.id).is_some() {
                return Err(malformed(format!("device `{}` is there twice", device.id)));
            }
            let key = |key: Option<String>, which: &str| {
                let key = key.expect("completed");
                let fault = || malformed(format!("the {which} key of device `{}` is not base64", device.id));
                sas::Key::device(&key).map(|_| Secret::new(&key)).ok_or_else(fault)
            };
            identities.devices.push(Device {
                primary_key: key(device.primary_key, "primary")?,
                secondary_key: key(device.secondary_key, "secondary")?,
                enabled: device.enabled,
                generation_id: device.generation_id.expect("completed"),
                id: device.id,
            });
        }
        identities.policies.extend(self.policies.into_iter().map(|policy| Policy {
            name: policy.name,
            primary_key: Secret::new(policy.primary_key.expect("completed")),
            secondary_key: Secret::new(policy.secondary_key.expect("completed")),
        }));
        Ok(identities)
    }
}

/// Writes a file only its owner may read, whole or not at all.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_whole(path, bytes, 0o600)
}

/// Writes a file everybody may read, whole or not at all.
pub(super) fn write_public(path: &Path, bytes: &[u8]) -> io::Result<()> {
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

fn new_key() -> String {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    STANDARD.encode(bytes)
}

fn new_generation() -> String {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    // The service's are 18 decimal digits.
    format!("{:018}", u64::from_le_bytes(bytes) % 1_000_000_000_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_stay() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("identity/devices.toml");
        let first = Registry::prepare(path.clone(), &["gw-01".to_owned()]).expect("made").now();
        let second = Registry::prepare(path, &["gw-01".to_owned(), "gw-02".to_owned()]).expect("read").now();
        let (old, new) = (first.device("gw-01").expect("there"), second.device("gw-01").expect("there"));
        assert_eq!(old.primary_key, new.primary_key);
        assert_eq!(old.generation_id, new.generation_id);
        assert_eq!(second.devices.len(), 2);
        assert_eq!(second.policies[0].name, SERVICE_POLICY);
        assert_ne!(old.primary_key, old.secondary_key);
    }

    #[test]
    fn a_file_made_by_hand_is_completed_and_a_change_is_seen() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("devices.toml");
        fs::write(&path, "[[devices]]\nid = \"d\"\nprimary-key = \"c2VjcmV0\"\n").expect("written");
        let registry = Registry::prepare(path.clone(), &[]).expect("read");
        let device = registry.now().device("d").expect("there").clone();
        assert!(device.enabled);
        assert_eq!((device.primary_key.reveal(), device.keys().len()), ("c2VjcmV0", 2));

        let text = fs::read_to_string(&path).expect("read").replace("enabled = true", "enabled = false # for now");
        fs::write(&path, text).expect("written");
        assert!(!registry.now().device("d").expect("there").enabled);
        fs::write(&path, "nonsense").expect("written");
        assert!(registry.now().device("d").is_some(), "the old one holds");
    }

    #[test]
    fn a_registry_with_nonsense_says_what_and_shows_no_key() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("devices.toml");
        for (text, needle) in [
            ("[[devices]]\nid = \"a/b\"\n", "device id"),
            ("[[devices]]\nid = \"d\"\nprimary-key = \"?? secret\"\n", "not base64"),
            ("[[devices]]\nid = \"d\"\n[[devices]]\nid = \"d\"\n", "twice"),
            ("[[devices]]\nid = \"d\"\nprimary_key = \"secret\"\n", "unknown field"),
        ] {
            fs::write(&path, text).expect("written");
            let error = Registry::prepare(path.clone(), &[]).expect_err(text).to_string();
            assert!(error.contains(needle) && !error.contains("secret"), "{error}");
        }
    }
}
