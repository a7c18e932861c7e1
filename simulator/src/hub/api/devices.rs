//! The registry: devices and modules made, shown, changed, taken away, counted.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::errors::{Code, Fault};
use super::wire::{self, Described};
use super::{Answer, Api, Asked};
use crate::hub::devices::{Change, Device, Edit, EditFault, Edited, IfMatch};
use crate::hub::who::Who;

/// Devices of one list.
const LIST_MAX: usize = 1_000;

impl Api {
    pub(super) fn devices(&self, asked: &Asked) -> Result<Answer, Fault> {
        let top = asked.parameter("top").map(str::parse::<usize>);
        let top = match top {
            // As documented: whatever is outside of the range is the most.
            Some(Ok(top)) if (1..=LIST_MAX).contains(&top) => top,
            Some(Err(_)) => return Err(Fault::argument("top must be a number")),
            Some(Ok(_)) | None => LIST_MAX,
        };
        let known = self.desk.registry.now();
        let shown = known.devices().iter().take(top).map(|device| self.shown(device)).collect();
        Ok(Answer::json(Value::Array(shown)))
    }

    pub(super) fn get_device(&self, id: &str) -> Result<Answer, Fault> {
        let known = self.desk.registry.now();
        let device = known.device(id).ok_or_else(|| EditFault::NoDevice(id.to_owned()))?;
        Ok(Answer::json(self.shown(device)).with_etag(&device.etag()))
    }

    pub(super) async fn put_device(&self, id: String, asked: &Asked) -> Result<Answer, Fault> {
        let described: Described = asked.json()?;
        same("deviceId", described.device_id.as_deref(), &id)?;
        let draft = described.draft()?;
        let change = match asked.if_match() {
            None => Change::Create(draft),
            Some(if_match) => Change::Update(draft, if_match),
        };
        match self.edit_one(Edit { device: id, module: None, change }).await? {
            Edited::Device(device) => Ok(Answer::json(self.shown(&device)).with_etag(&device.etag())),
            Edited::Module(_) | Edited::Gone => Ok(Answer::empty()),
        }
    }

    pub(super) async fn delete(&self, who: Who, asked: &Asked) -> Result<Answer, Fault> {
        let change = Change::Delete(asked.if_match().unwrap_or(IfMatch::Any));
        self.edit_one(Edit { device: who.device, module: who.module, change }).await?;
        Ok(Answer::empty())
    }

    pub(super) fn modules(&self, device_id: &str) -> Result<Answer, Fault> {
        let known = self.desk.registry.now();
        let device = known.device(device_id).ok_or_else(|| EditFault::NoDevice(device_id.to_owned()))?;
        let shown = device.modules.iter().map(|module| {
            let who = Who { device: device.id.clone(), module: Some(module.id.clone()) };
            wire::module(&device.id, module, &self.presence(&who, &module.generation_id))
        });
        Ok(Answer::json(Value::Array(shown.collect())))
    }

    pub(super) fn get_module(&self, who: &Who) -> Result<Answer, Fault> {
        let known = self.desk.registry.now();
        let device = known.device(&who.device).ok_or_else(|| EditFault::NoDevice(who.device.clone()))?;
        let id = who.module.as_deref().unwrap_or_default();
        let absent = || EditFault::NoModule(device.id.clone(), id.to_owned());
        let module = device.module(id).ok_or_else(absent)?;
        let shown = wire::module(&device.id, module, &self.presence(who, &module.generation_id));
        Ok(Answer::json(shown).with_etag(&module.etag()))
    }

    pub(super) async fn put_module(&self, who: Who, asked: &Asked) -> Result<Answer, Fault> {
        let described: Described = asked.json()?;
        same("deviceId", described.device_id.as_deref(), &who.device)?;
        same("moduleId", described.module_id.as_deref(), who.module.as_deref().unwrap_or_default())?;
        let draft = described.draft()?;
        let (change, status) = match asked.if_match() {
            None => (Change::Create(draft), StatusCode::CREATED),
            Some(if_match) => (Change::Update(draft, if_match), StatusCode::OK),
        };
        let edit = Edit { device: who.device.clone(), module: who.module.clone(), change };
        match self.edit_one(edit).await? {
            Edited::Module(module) => {
                let shown = wire::module(&who.device, &module, &self.presence(&who, &module.generation_id));
                let shown = Answer::json(shown);
                Ok(Answer { status, ..shown.with_etag(&module.etag()) })
            }
            Edited::Device(_) | Edited::Gone => Ok(Answer::empty()),
        }
    }

    pub(super) fn device_statistics(&self) -> Answer {
        let known = self.desk.registry.now();
        let total = known.devices().len();
        let enabled = known.devices().iter().filter(|device| device.enabled).count();
        Answer::json(json!({
            "totalDeviceCount": total,
            "enabledDeviceCount": enabled,
            "disabledDeviceCount": total - enabled,
        }))
    }

    pub(super) fn service_statistics(&self) -> Answer {
        // Modules are connected on their own, but are no devices.
        let connected = self.desk.seats.devices().iter().filter(|name| !name.contains('/')).count();
        Answer::json(json!({ "connectedDeviceCount": connected }))
    }

    fn shown(&self, device: &Device) -> Value {
        wire::device(device, &self.presence(&Who::device(&device.id), &device.generation_id))
    }

    async fn edit_one(&self, edit: Edit) -> Result<Edited, Fault> {
        let mut done = self.edit(vec![edit]).await?;
        Ok(done.pop().ok_or_else(|| Fault::server("an edit had no outcome"))??)
    }

    /// Changes identities, away from where others wait, and does what follows from it.
    pub(super) async fn edit(&self, edits: Vec<Edit>) -> Result<Vec<Result<Edited, EditFault>>, Fault> {
        let (registry, now) = (self.desk.registry.clone(), self.desk.clock.now());
        let done = tokio::task::spawn_blocking(move || registry.edit(edits, now)).await;
        let done = done.map_err(|panic| Fault::server(panic.to_string()))?;
        let done = done.map_err(|error| Fault::new(Code::ServerError, error.to_string()))?;
        if done.iter().any(Result::is_ok) {
            // Whoever is told of it finds connections, twins and commands of who is gone, gone.
            self.desk.heed().await.map_err(|error| Fault::server(error.to_string()))?;
        }
        Ok(done)
    }
}

/// What a body calls itself must be what the path calls it.
fn same(name: &str, said: Option<&str>, of_path: &str) -> Result<(), Fault> {
    match said {
        Some(said) if said != of_path => Err(Fault::argument(format!("{name} is another one than that of the path"))),
        _ => Ok(()),
    }
}
