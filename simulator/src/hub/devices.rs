//! Who may connect: devices and modules with what they prove themselves by, and the policies of the hub. One TOML
//! file that people may edit: written when keys are made and when services change it, read again when somebody else did.
//!
//! Never: a key in a log.

mod identity; // [p] what it holds

mod file; // as people see it

mod text; // [p] how it is written

mod edit; // what services change

#[cfg(test)]
mod tests;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use shared::time::Timestamp;

use super::who::Who;

pub use self::edit::{AuthDraft, Change, Draft, Edit, EditFault, Edited, IfMatch};
use self::file::File;
pub use self::file::Means;
pub use self::identity::{
    Auth, DEVICE_POLICY, Device, Identities, Module, OWNER_POLICY, Policy, Record, Right, SERVICE_POLICY, Thumbprint,
};

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
    /// Who was made or deleted by a service since it was asked last.
    renewed: Vec<Who>,
}

type Stamp = (Option<SystemTime>, u64);

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
        let state = State { stamp, slip: None, identities, renewed: vec![] };
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

    /// The identities as of now, and who was made or deleted by a service since this was asked last: whatever an earlier
    /// identity of that id left behind is nobody's.
    pub(super) fn renewed(&self) -> (Arc<Identities>, Vec<Who>) {
        let identities = self.now();
        let mut state = self.state();
        match state.renewed.is_empty() {
            true => (identities, vec![]),
            false => (Arc::clone(&state.identities), std::mem::take(&mut state.renewed)),
        }
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
        let renews: Vec<Vec<Who>> = edits.iter().map(|edit| edit.renews(&before)).collect();
        let done = edit::apply(&mut identities, edits, now);
        if done.iter().any(Result::is_ok) {
            write(&identities, &self.path)?;
            let mut state = self.state();
            let made = renews.into_iter().zip(&done).filter(|(_, done)| done.is_ok());
            state.renewed.extend(made.flat_map(|(renews, _)| renews));
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
