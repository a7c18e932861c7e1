//! What services change in the registry: identities made, changed, taken away, each under what the service that
//! asks believes it to be.

use std::collections::HashSet;

use shared::config::Secret;
use shared::sas;
use shared::time::Timestamp;

use super::file::{MODULES_MAX, new_generation, new_key};
use super::{Auth, Device, Identities, Module, Record, Thumbprint, id_fault};
use crate::hub::who::Who;

/// The service's own limit of devices of one hub.
pub(super) const DEVICES_MAX: usize = 1_000_000;
/// Of `deviceScope` and `managedBy`.
const TEXT_BYTES_MAX: usize = 512;
/// Of `statusReason`, as Microsoft documents it.
const REASON_CHARS_MAX: usize = 128;
/// Of a symmetric key, decoded.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=64;

/// One change of one identity.
#[derive(Debug, Clone)]
pub struct Edit {
    /// The device.
    pub device: String,
    /// Its module, if it is one that changes.
    pub module: Option<String>,
    /// What becomes of it.
    pub change: Change,
}

/// See [`Edit`].
#[derive(Debug, Clone)]
pub enum Change {
    /// It is new.
    Create(Draft),
    /// It becomes this.
    Update(Draft, IfMatch),
    /// It is no more; of a device its modules neither.
    Delete(IfMatch),
}

/// Which state of an identity is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// Whatever it is.
    Any,
    /// The one of this etag.
    Etag(String),
}

/// An identity as a service describes it.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    /// By what it proves itself; without, a new one by keys, and one that is there as before.
    pub auth: Option<AuthDraft>,
    /// A new one is enabled, one that is there stays as it is.
    pub enabled: Option<bool>,
    /// Why.
    pub status_reason: Option<String>,
    /// A device only.
    pub iot_edge: bool,
    /// A device only.
    pub scope: Option<String>,
    /// A module only.
    pub managed_by: Option<String>,
}

/// See [`Draft::auth`].
#[derive(Debug, Clone)]
pub enum AuthDraft {
    /// Keys that are missing are made, or stay as they were.
    Sas { primary_key: Option<Secret>, secondary_key: Option<Secret> },
    /// One or two.
    Thumbprint(Vec<Thumbprint>),
    /// A certificate that an authority signed.
    Ca,
}

impl Edit {
    /// Who is another one after it, if it can be made, or nobody any more.
    pub(super) fn renews(&self, before: &Identities) -> Vec<Who> {
        match (&self.change, &self.module) {
            (Change::Update(..), _) => vec![],
            (_, Some(module)) => vec![Who::module(&self.device, module)],
            (_, None) => {
                let modules = before.device(&self.device).into_iter().flat_map(|device| &device.modules);
                let modules = modules.map(|module| Who::module(&self.device, &module.id));
                modules.chain([Who::device(&self.device)]).collect()
            }
        }
    }
}

/// What became of an [`Edit`].
#[derive(Debug, Clone)]
pub enum Edited {
    /// A device as it is now.
    Device(Device),
    /// A module as it is now.
    Module(Module),
    /// Nothing is left of it.
    Gone,
}

/// Why an [`Edit`] was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditFault {
    /// There is a device of this id.
    #[error("A device with ID '{0}' is already registered.")]
    DeviceExists(String),
    /// There is a module of this id.
    #[error("A module with ID '{1}' is already registered on device '{0}'.")]
    ModuleExists(String, String),
    /// There is none.
    #[error("Device {0} not registered")]
    NoDevice(String),
    /// There is none.
    #[error("Module {1} on Device {0} not registered")]
    NoModule(String, String),
    /// It is not in the state that was meant.
    #[error("Precondition failed: Device version did not match, the etag is now {0}")]
    Etag(String),
    /// It cannot be so.
    #[error("{0}")]
    Invalid(String),
    /// A device has only so many.
    #[error("Device {0} has {MODULES_MAX} modules, which are the most it may have")]
    TooManyModules(String),
    /// A hub has only so many.
    #[error("There are {DEVICES_MAX} devices, which are the most a hub may have")]
    TooManyDevices,
}

/// Makes the edits in their order; devices taken away leave at the end, all at once.
pub(super) fn apply(identities: &mut Identities, edits: Vec<Edit>, now: Timestamp) -> Vec<Result<Edited, EditFault>> {
    let mut gone: HashSet<String> = HashSet::new();
    let mut done = vec![];
    for Edit { device, module, change } in edits {
        if gone.contains(&device) {
            // It left in this very batch: out of it now, so that the next may come.
            identities.remove(&HashSet::from([&*device]));
            gone.remove(&device);
        }
        done.push(match module {
            Some(module) => of_module(identities, device, module, change, now),
            None => of_device(identities, device, change, now, &mut gone),
        });
    }
    identities.remove(&gone.iter().map(String::as_str).collect());
    done
}

fn of_device(
    identities: &mut Identities,
    id: String,
    change: Change,
    now: Timestamp,
    gone: &mut HashSet<String>,
) -> Result<Edited, EditFault> {
    if let Some(fault) = id_fault(&id) {
        return Err(EditFault::Invalid(format!("deviceId '{}' {fault}", id.escape_debug())));
    }
    match change {
        Change::Create(draft) => {
            if identities.device(&id).is_some() {
                return Err(EditFault::DeviceExists(id));
            }
            if DEVICES_MAX <= identities.devices.len() {
                return Err(EditFault::TooManyDevices);
            }
            let generation_id = new_generation();
            // As the service makes it for devices that others may be below.
            let scope = || Some(format!("ms-azure-iot-edge://{id}-{generation_id}"));
            let made_scope = draft.scope.clone().or_else(|| scope().filter(|_| draft.iot_edge));
            let auth = draft.auth(None)?;
            let enabled = draft.enabled.unwrap_or(true);
            let record = Record { scope: made_scope, managed_by: None, ..draft.record(None, enabled, now)? };
            let device = Device { id, enabled, generation_id, auth, modules: vec![], record };
            identities.add(device.clone());
            Ok(Edited::Device(device))
        }
        Change::Update(draft, if_match) => {
            let device = identities.device_mut(&id).ok_or(EditFault::NoDevice(id))?;
            if_match.admits(|| device.etag())?;
            let auth = draft.auth(Some(&device.auth))?;
            let enabled = draft.enabled.unwrap_or(device.enabled);
            let record = draft.record(Some((&device.record, device.enabled)), enabled, now)?;
            let scope = record.scope.clone().or_else(|| device.record.scope.clone());
            device.record = Record { scope, managed_by: None, ..record };
            (device.auth, device.enabled) = (auth, enabled);
            Ok(Edited::Device(device.clone()))
        }
        Change::Delete(if_match) => {
            let device = identities.device(&id).ok_or_else(|| EditFault::NoDevice(id.clone()))?;
            if_match.admits(|| device.etag())?;
            gone.insert(id);
            Ok(Edited::Gone)
        }
    }
}

fn of_module(
    identities: &mut Identities,
    device_id: String,
    id: String,
    change: Change,
    now: Timestamp,
) -> Result<Edited, EditFault> {
    if let Some(fault) = id_fault(&id) {
        return Err(EditFault::Invalid(format!("moduleId '{}' {fault}", id.escape_debug())));
    }
    let device = identities.device_mut(&device_id).ok_or_else(|| EditFault::NoDevice(device_id.clone()))?;
    let at = device.modules.iter().position(|module| module.id == id);
    let (change, at) = match (change, at) {
        (Change::Create(_), Some(_)) => return Err(EditFault::ModuleExists(device_id, id)),
        (Change::Create(draft), None) => {
            if MODULES_MAX <= device.modules.len() {
                return Err(EditFault::TooManyModules(device_id));
            }
            let auth = draft.auth(None)?;
            let record = Record { scope: None, iot_edge: false, ..draft.record(None, true, now)? };
            let module = Module { id, enabled: true, generation_id: new_generation(), auth, record };
            device.modules.push(module.clone());
            return Ok(Edited::Module(module));
        }
        (_, None) => return Err(EditFault::NoModule(device_id, id)),
        (change, Some(at)) => (change, at),
    };
    let module = &mut device.modules[at];
    match change {
        Change::Update(draft, if_match) => {
            if_match.admits(|| module.etag())?;
            let auth = draft.auth(Some(&module.auth))?;
            let record = draft.record(Some((&module.record, module.enabled)), module.enabled, now)?;
            module.record = Record { scope: None, iot_edge: false, ..record };
            module.auth = auth;
            Ok(Edited::Module(module.clone()))
        }
        Change::Delete(if_match) => {
            if_match.admits(|| module.etag())?;
            device.modules.remove(at);
            Ok(Edited::Gone)
        }
        Change::Create(_) => Err(EditFault::ModuleExists(device_id, id)),
    }
}

impl IfMatch {
    /// Reads `If-Match`, or an etag of a body: quotes around it do not matter.
    pub fn read(text: &str) -> Self {
        let text = text.trim();
        let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
        match bare {
            "*" => IfMatch::Any,
            etag => IfMatch::Etag(etag.to_owned()),
        }
    }

    fn admits(&self, etag: impl FnOnce() -> String) -> Result<(), EditFault> {
        match self {
            IfMatch::Any => Ok(()),
            IfMatch::Etag(wanted) => {
                let etag = etag();
                if *wanted == etag { Ok(()) } else { Err(EditFault::Etag(etag)) }
            }
        }
    }
}

impl Draft {
    fn record(&self, before: Option<(&Record, bool)>, enabled: bool, now: Timestamp) -> Result<Record, EditFault> {
        if self.status_reason.as_ref().is_some_and(|reason| REASON_CHARS_MAX < reason.chars().count()) {
            return Err(EditFault::Invalid(format!("statusReason is longer than {REASON_CHARS_MAX} characters")));
        }
        for (name, text) in [("deviceScope", &self.scope), ("managedBy", &self.managed_by)] {
            if text.as_ref().is_some_and(|text| TEXT_BYTES_MAX < text.len()) {
                return Err(EditFault::Invalid(format!("{name} is longer than {TEXT_BYTES_MAX} bytes")));
            }
        }
        let status_updated = match before {
            Some((record, was)) if was == enabled => record.status_updated,
            Some(_) => Some(now),
            None => None,
        };
        Ok(Record {
            status_reason: self.status_reason.clone(),
            status_updated,
            iot_edge: self.iot_edge,
            scope: self.scope.clone(),
            managed_by: self.managed_by.clone(),
            revision: before.map_or(0, |(record, _)| record.revision + 1),
        })
    }

    fn auth(&self, before: Option<&Auth>) -> Result<Auth, EditFault> {
        match (&self.auth, before) {
            (None, Some(before)) => Ok(before.clone()),
            (None, None) => {
                Ok(Auth::Sas { primary_key: Secret::new(new_key()), secondary_key: Secret::new(new_key()) })
            }
            (Some(AuthDraft::Sas { primary_key, secondary_key }), before) => {
                let (primary, secondary) = match before {
                    Some(Auth::Sas { primary_key, secondary_key }) => (Some(primary_key), Some(secondary_key)),
                    _ => (None, None),
                };
                let key = |name: &str, given: &Option<Secret>, before: Option<&Secret>| match given {
                    Some(key) if is_key(key) => Ok(key.clone()),
                    Some(_) => Err(EditFault::Invalid(format!(
                        "the {name} symmetric key must be base64 of {} to {} bytes",
                        KEY_BYTES.start(),
                        KEY_BYTES.end()
                    ))),
                    None => Ok(before.cloned().unwrap_or_else(|| Secret::new(new_key()))),
                };
                Ok(Auth::Sas {
                    primary_key: key("primary", primary_key, primary)?,
                    secondary_key: key("secondary", secondary_key, secondary)?,
                })
            }
            (Some(AuthDraft::Thumbprint(known)), _) if known.is_empty() => {
                Err(EditFault::Invalid("authentication by selfSigned needs a thumbprint".to_owned()))
            }
            (Some(AuthDraft::Thumbprint(known)), _) => Ok(Auth::Thumbprint(known.clone())),
            (Some(AuthDraft::Ca), _) => Ok(Auth::Ca),
        }
    }
}

fn is_key(key: &Secret) -> bool {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(key.reveal());
    bytes.is_ok_and(|bytes| KEY_BYTES.contains(&bytes.len())) && sas::Key::device(key.reveal()).is_some()
}
