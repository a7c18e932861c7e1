//! Who may register, and what becomes of them: one TOML file that people edit, completed when keys are missing, read
//! again when somebody else changed it.
//!
//! Never: a key in a log.

mod file;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde_json::Value;
use shared::config::Secret;

use self::file::File;
pub(crate) use self::file::{Means, Wish};
use super::allocation::{Allocation, Reprovision};
use crate::hub::devices::Thumbprint;
use crate::hub::mqtt::Authorities;

/// By what a device proves that an enrolment is its own.
#[derive(Debug, Clone)]
pub(crate) enum Proof {
    /// A token signed with one of these; of a group, with the device's own key made of one of these.
    Keys { primary: Secret, secondary: Secret },
    /// A certificate with one of these.
    Thumbprints(Vec<Thumbprint>),
    /// A certificate that one of these vouches for, with the registration id as its common name.
    Authorities(Authorities),
}

/// What a device's twin begins with.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct InitialTwin {
    pub(crate) tags: Option<Value>,
    pub(crate) desired: Option<Value>,
}

/// One entry.
#[derive(Debug, Clone)]
pub(crate) struct Enrolment {
    /// The registration id; of a group, its own.
    pub(crate) id: String,
    pub(crate) is_group: bool,
    /// Devices of one that is not are told so.
    pub(crate) enabled: bool,
    pub(crate) proof: Proof,
    /// `None`: the registration id.
    pub(crate) device_id: Option<String>,
    pub(crate) allocation: Allocation,
    /// Host names of the hubs it may be given; none for all that are linked.
    pub(crate) hubs: Vec<String>,
    pub(crate) reprovision: Reprovision,
    pub(crate) initial_twin: InitialTwin,
    /// Returned to the device, as a custom allocation's function might.
    pub(crate) payload: Option<Value>,
}

/// All of them, in the order of the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Enrolments {
    individual: Vec<Enrolment>,
    /// By the id in small letters.
    by_id: HashMap<String, usize>,
    groups: Vec<Enrolment>,
}

impl Enrolments {
    pub(crate) fn individuals(&self) -> &[Enrolment] {
        &self.individual
    }

    pub(crate) fn groups(&self) -> &[Enrolment] {
        &self.groups
    }

    /// The enrolment of this device alone.
    pub(crate) fn individual(&self, registration_id: &str) -> Option<&Enrolment> {
        self.individual.get(*self.by_id.get(&registration_id.to_ascii_lowercase())?)
    }

    pub(crate) fn group(&self, id: &str) -> Option<&Enrolment> {
        self.groups.iter().find(|group| group.id.eq_ignore_ascii_case(id))
    }

    /// Adds an entry; false if there is one of this id.
    fn add(&mut self, enrolment: Enrolment) -> bool {
        match enrolment.is_group {
            true if self.group(&enrolment.id).is_some() => return false,
            true => self.groups.push(enrolment),
            false => {
                let id = enrolment.id.to_ascii_lowercase();
                if self.by_id.contains_key(&id) {
                    return false;
                }
                self.by_id.insert(id, self.individual.len());
                self.individual.push(enrolment);
            }
        }
        true
    }
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentsError {
    /// The disk said no.
    #[error("{act} the enrolments {}", path.display())]
    Disk { act: &'static str, path: PathBuf, source: io::Error },
    /// Somebody wrote something else into it.
    #[error("the enrolments {} cannot be understood: {what}", path.display())]
    Malformed { path: PathBuf, what: String },
}

/// The enrolments as of now.
#[derive(Debug)]
pub(super) struct Book {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Changes with the file.
    stamp: Option<Stamp>,
    enrolments: Arc<Enrolments>,
}

type Stamp = (Option<SystemTime>, u64);

impl Book {
    /// Reads the file, or makes it, and completes it.
    ///
    /// # Errors
    /// If it cannot be read, understood or written.
    pub(super) fn open(path: PathBuf) -> Result<Self, EnrolmentsError> {
        let enrolments = prepare(&path)?;
        let state = State { stamp: stamp(&path), enrolments: Arc::new(enrolments) };
        Ok(Self { path, state: Mutex::new(state) })
    }

    /// The enrolments as of now. A file that cannot be understood leaves them as they were.
    pub(super) fn now(&self) -> Arc<Enrolments> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&self.path);
        if stamp.is_some() && stamp != state.stamp {
            state.stamp = stamp;
            match File::read(&self.path).and_then(|file| parse(file.unwrap_or_default(), &self.path)) {
                Ok(enrolments) => {
                    let (individual, groups) = (enrolments.individual.len(), enrolments.groups.len());
                    tracing::info!(individual, groups, "the enrolments were changed");
                    state.enrolments = Arc::new(enrolments);
                }
                Err(error) => tracing::warn!(%error, "the enrolments were changed; going on with the old ones"),
            }
        }
        Arc::clone(&state.enrolments)
    }
}

/// Completes the file, makes it if there is none, and gives what it says.
///
/// # Errors
/// If it cannot be read, understood or written.
pub(super) fn prepare(path: &Path) -> Result<Enrolments, EnrolmentsError> {
    change(path, |_| ())
}

/// Adds an enrolment, or gives one that is there what the wish says; a service that runs sees it at the next
/// registration.
///
/// # Errors
/// If the file cannot be read, understood or written, or the result would not be one.
pub(super) fn enroll(path: &Path, wish: Wish) -> Result<Enrolments, EnrolmentsError> {
    change(path, |file| file.enroll(wish))
}

/// Changes the file and makes what is missing; writes nothing that cannot be read again.
fn change(path: &Path, change: impl FnOnce(&mut File)) -> Result<Enrolments, EnrolmentsError> {
    let _alone = alone(path)?;
    let before = File::read(path)?;
    let mut file = before.clone().unwrap_or_default();
    change(&mut file);
    file.complete();
    let enrolments = parse(file.clone(), path)?;
    if before.as_ref() != Some(&file) {
        file.write(path)?;
    }
    Ok(enrolments)
}

/// Held while the file is read, changed and written: of two who change it at once the second waits.
fn alone(path: &Path) -> Result<fs::File, EnrolmentsError> {
    let lock = path.with_extension("lock");
    let disk = |source| EnrolmentsError::Disk { act: "lock", path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(disk)?;
    }
    let file = fs::File::options().create(true).truncate(false).write(true).open(&lock).map_err(disk)?;
    file.lock().map_err(disk)?;
    Ok(file)
}

fn parse(file: File, path: &Path) -> Result<Enrolments, EnrolmentsError> {
    let beside = path.parent().unwrap_or(Path::new(""));
    let authorities = |files: &[PathBuf]| {
        let files: Vec<PathBuf> = files.iter().map(|file| beside.join(file)).collect();
        Authorities::read(&files).map_err(|error| error.to_string())
    };
    file.parse(authorities).map_err(|what| EnrolmentsError::Malformed { path: path.to_owned(), what })
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok(), metadata.len()))
}
