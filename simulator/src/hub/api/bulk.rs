//! Up to a hundred identities in one call and one write. What fails is listed; it does not keep the others from it.

use std::collections::HashSet;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::errors::{Code, Fault};
use super::wire::Described;
use super::{Answer, Api, Asked};
use crate::hub::devices::{Change, Edit, IfMatch};

/// The service's own limit of one call.
const BULK_MAX: usize = 100;

/// What one of a bulk asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Create,
    /// Whichever it takes.
    CreateOrUpdate,
    Update,
    UpdateIfMatch,
    Delete,
    DeleteIfMatch,
}

impl Mode {
    fn read(text: Option<&str>) -> Option<Self> {
        const MODES: [(&str, Mode); 7] = [
            ("create", Mode::Create),
            ("createOrUpdate", Mode::CreateOrUpdate),
            ("createOrUpdateIfMatchETag", Mode::CreateOrUpdate),
            ("update", Mode::Update),
            ("updateIfMatchETag", Mode::UpdateIfMatch),
            ("delete", Mode::Delete),
            ("deleteIfMatchETag", Mode::DeleteIfMatch),
        ];
        let text = text.unwrap_or("create");
        MODES.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, mode)| mode)
    }
}

impl Api {
    pub(super) async fn bulk(&self, asked: &Asked) -> Result<Answer, Fault> {
        let all: Vec<Described> = asked.json()?;
        if all.is_empty() || BULK_MAX < all.len() {
            return Err(Fault::argument(format!("a bulk holds 1 to {BULK_MAX} devices")));
        }
        let mut seen = HashSet::new();
        let mut edits = vec![];
        for described in &all {
            let id = described.device_id.clone().unwrap_or_default();
            if !seen.insert((id.clone(), described.module_id.clone())) {
                let twice = format!("device '{}' is there more than once", id.escape_debug());
                return Err(Fault::new(Code::DeviceDefinedMultipleTimes, twice));
            }
            edits.push(self.edit_of(described, id)?);
        }
        let done = self.edit(edits).await?;
        let errors: Vec<Value> = all
            .iter()
            .zip(&done)
            .filter_map(|(described, done)| {
                let fault = done.as_ref().err()?;
                Some(json!({
                    "deviceId": described.device_id,
                    "moduleId": described.module_id,
                    "errorCode": format!("{:?}", Code::from(fault)),
                    "errorStatus": fault.to_string(),
                }))
            })
            .collect();
        let status = if errors.is_empty() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
        let result = json!({ "isSuccessful": errors.is_empty(), "errors": errors, "warnings": [] });
        Ok(Answer { status, ..Answer::json(result) })
    }

    fn edit_of(&self, described: &Described, device: String) -> Result<Edit, Fault> {
        let mode = Mode::read(described.import_mode.as_deref())
            .ok_or_else(|| Fault::argument("importMode is not one that this hub imitates"))?;
        let known = |device: &str, module: Option<&str>| {
            let known = self.desk.registry.now();
            let device = known.device(device);
            device.is_some_and(|device| module.is_none_or(|module| device.module(module).is_some()))
        };
        let etag = || described.etag.as_deref().map(IfMatch::read).unwrap_or(IfMatch::Etag(String::new()));
        let module = described.module_id.clone();
        let change = match mode {
            Mode::Create => Change::Create(described.draft()?),
            Mode::CreateOrUpdate if known(&device, module.as_deref()) => {
                Change::Update(described.draft()?, described.etag.as_deref().map_or(IfMatch::Any, IfMatch::read))
            }
            Mode::CreateOrUpdate => Change::Create(described.draft()?),
            Mode::Update => Change::Update(described.draft()?, IfMatch::Any),
            Mode::UpdateIfMatch => Change::Update(described.draft()?, etag()),
            Mode::Delete => Change::Delete(IfMatch::Any),
            Mode::DeleteIfMatch => Change::Delete(etag()),
        };
        Ok(Edit { device, module, change })
    }
}
