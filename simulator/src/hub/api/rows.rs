//! Devices, modules and the twins of both, as queries see them: what a condition does not ask for is not looked up.

use std::cell::OnceCell;

use serde_json::{Map, Value, json};

use super::Api;
use super::query::{Row, Source, Step, bare, last_name, walk};
use super::wire::{self, Presence};
use crate::hub::devices::{Device, Module, Record};
use crate::hub::twins::{Section, Twin};
use crate::hub::who::Who;

/// A device or module and its twin.
pub(super) struct TwinRow<'a> {
    api: &'a Api,
    device: &'a Device,
    module: Option<&'a Module>,
    who: Who,
    twin: OnceCell<Twin>,
    presence: OnceCell<Presence>,
}

impl<'a> TwinRow<'a> {
    pub(super) fn of(api: &'a Api, device: &'a Device, module: Option<&'a Module>) -> Self {
        let who = Who { device: device.id.clone(), module: module.map(|module| module.id.clone()) };
        Self { api, device, module, who, twin: OnceCell::new(), presence: OnceCell::new() }
    }

    /// With a twin that is known already.
    pub(super) fn with(self, twin: Twin) -> Self {
        Self { twin: OnceCell::from(twin), ..self }
    }

    /// Which one it is.
    pub(super) fn who(&self) -> &Who {
        &self.who
    }

    fn twin(&self) -> &Twin {
        self.twin.get_or_init(|| self.api.desk.twins.get(&self.who))
    }

    fn presence(&self) -> &Presence {
        let generation_id = self.module.map_or(&self.device.generation_id, |module| &module.generation_id);
        self.presence.get_or_init(|| self.api.presence(&self.who, generation_id))
    }

    fn properties(&self) -> Value {
        let Twin { desired, reported, .. } = self.twin();
        json!({ "desired": desired.to_json_with_metadata(), "reported": reported.to_json_with_metadata() })
    }

    /// A module has no status of its own; it is shown with its device's.
    fn record(&self) -> &Record {
        &self.device.record
    }

    /// What is neither tags nor properties.
    fn column(&self, name: &str) -> Option<Value> {
        let auth = self.module.map_or(&self.device.auth, |module| &module.auth);
        Some(match name.to_ascii_lowercase().as_str() {
            "deviceid" => json!(self.device.id),
            "moduleid" => json!(self.module?.id),
            "etag" => json!(self.twin().etag),
            "deviceetag" => json!(self.module.map_or_else(|| self.device.etag(), Module::etag)),
            "status" => json!(wire::status(self.device.enabled)),
            "statusreason" => json!(self.record().status_reason.as_ref()?),
            "statusupdatetime" => json!(wire::time(self.record().status_updated)),
            "connectionstate" => json!(self.presence().state()),
            "lastactivitytime" => json!(wire::time(self.presence().active)),
            "cloudtodevicemessagecount" => json!(self.presence().messages),
            "authenticationtype" => json!(wire::auth_type(auth)),
            "x509thumbprint" => wire::thumbprints(auth),
            "managedby" => json!(self.module?.record.managed_by.as_ref()?),
            "version" => json!(self.twin().version),
            "capabilities" => json!({ "iotEdge": self.device.record.iot_edge }),
            "devicescope" => json!(self.record().scope.as_ref()?),
            _ => return None,
        })
    }
}

/// In the order they are shown in.
const COLUMNS: [&str; 14] = [
    "deviceId",
    "moduleId",
    "etag",
    "deviceEtag",
    "status",
    "statusReason",
    "statusUpdateTime",
    "connectionState",
    "lastActivityTime",
    "cloudToDeviceMessageCount",
    "authenticationType",
    "x509Thumbprint",
    "managedBy",
    "version",
];

/// What is at a path of a section, as the service side sees it.
fn walk_section(section: &Section, path: &[Step]) -> Option<Value> {
    match path {
        [] => Some(section.to_json_with_metadata()),
        [Step::Name(name)] if name == "$version" => Some(json!(section.version)),
        [Step::Name(name)] if name == "$metadata" => Some(Value::Object(section.metadata.clone())),
        [Step::Name(name), rest @ ..] if name == "$metadata" => walk(&section.metadata, rest),
        path => walk(&section.values, path),
    }
}

impl Row for TwinRow<'_> {
    fn walk(&self, path: &[Step]) -> Option<Value> {
        let source = if self.module.is_some() { Source::Modules } else { Source::Devices };
        let [Step::Name(first), rest @ ..] = bare(path, source) else { return None };
        let is = |wanted: &str| first.eq_ignore_ascii_case(wanted);
        if is("tags") {
            return match rest {
                [] => Some(Value::Object(self.twin().tags.clone())),
                rest => walk(&self.twin().tags, rest),
            };
        }
        if is("properties") {
            return match rest {
                [Step::Name(name), rest @ ..] if name == "desired" => walk_section(&self.twin().desired, rest),
                [Step::Name(name), rest @ ..] if name == "reported" => walk_section(&self.twin().reported, rest),
                [] => Some(self.properties()),
                _ => None,
            };
        }
        let column = self.column(first)?;
        match rest {
            [] => Some(column),
            rest => walk(column.as_object()?, rest),
        }
    }

    /// The service's own names as it spells them, however they were asked for.
    fn name(&self, path: &[Step]) -> String {
        let source = if self.module.is_some() { Source::Modules } else { Source::Devices };
        let own = match bare(path, source) {
            [Step::Name(name)] => {
                let mut own = COLUMNS.into_iter().chain(["capabilities", "deviceScope", "tags", "properties"]);
                own.find(|own| own.eq_ignore_ascii_case(name))
            }
            _ => None,
        };
        own.map_or_else(|| last_name(path), str::to_owned)
    }

    fn whole(&self) -> Value {
        let mut shown = Map::new();
        for name in COLUMNS {
            shown.extend(self.column(name).map(|value| (name.to_owned(), value)));
        }
        let twin = self.twin();
        shown.insert("tags".to_owned(), Value::Object(twin.tags.clone()));
        shown.insert("properties".to_owned(), self.properties());
        for name in ["capabilities", "deviceScope"] {
            shown.extend(self.column(name).map(|value| (name.to_owned(), value)));
        }
        Value::Object(shown)
    }
}
