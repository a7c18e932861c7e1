//! Up to a hundred identities in one call and one write. What fails is listed; it does not keep the others from it.

use std::collections::HashSet;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::errors::{Code, Fault};
use super::twins::Written;
use super::wire::Described;
use super::{Answer, Api, Asked};
use crate::hub::devices::{Change, Edit, IfMatch};
use crate::hub::twins;
use crate::hub::who::Who;

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
    UpdateTwin,
    UpdateTwinIfMatch,
}

impl Mode {
    fn read(text: Option<&str>) -> Option<Self> {
        const MODES: [(&str, Mode); 9] = [
            ("create", Mode::Create),
            ("createOrUpdate", Mode::CreateOrUpdate),
            ("createOrUpdateIfMatchETag", Mode::CreateOrUpdate),
            ("update", Mode::Update),
            ("updateIfMatchETag", Mode::UpdateIfMatch),
            ("delete", Mode::Delete),
            ("deleteIfMatchETag", Mode::DeleteIfMatch),
            ("updateTwin", Mode::UpdateTwin),
            ("updateTwinIfMatchETag", Mode::UpdateTwinIfMatch),
        ];
        let text = text.unwrap_or("create");
        MODES.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, mode)| mode)
    }
}

/// What becomes of one of a bulk.
struct Item {
    who: Who,
    edit: Option<Edit>,
    twin: Option<(twins::Change, Option<IfMatch>)>,
    fault: Option<Fault>,
}

impl Api {
    pub(super) async fn bulk(&self, asked: &Asked) -> Result<Answer, Fault> {
        let all: Vec<Described> = asked.json()?;
        if all.is_empty() || BULK_MAX < all.len() {
            return Err(Fault::argument(format!("a bulk holds 1 to {BULK_MAX} devices")));
        }
        let mut seen = HashSet::new();
        let mut items = vec![];
        for described in all {
            let item = self.item(described)?;
            if !seen.insert(item.who.clone()) {
                let twice = format!("'{}' is there more than once", item.who.to_string().escape_debug());
                return Err(Fault::new(Code::DeviceDefinedMultipleTimes, twice));
            }
            items.push(item);
        }
        let edits: Vec<_> =
            items.iter_mut().enumerate().filter_map(|(at, item)| Some((at, item.edit.take()?))).collect();
        let (places, edits): (Vec<_>, Vec<_>) = edits.into_iter().unzip();
        if !edits.is_empty() {
            for (at, done) in places.into_iter().zip(self.edit(edits).await?) {
                items[at].fault = done.err().map(Fault::from);
            }
        }
        for item in items.iter_mut().filter(|item| item.fault.is_none()) {
            let Some((change, if_match)) = item.twin.take() else { continue };
            let changed = match self.known(&item.who) {
                Ok(()) => self.change_twin(&item.who, change, if_match).await.map(|_| ()),
                Err(fault) => Err(fault),
            };
            item.fault = changed.err();
        }
        let errors: Vec<Value> = items
            .iter()
            .filter_map(|item| {
                let fault = item.fault.as_ref()?;
                Some(json!({
                    "deviceId": item.who.device,
                    "moduleId": item.who.module,
                    "errorCode": format!("{:?}", fault.code),
                    "errorStatus": fault.message,
                }))
            })
            .collect();
        let status = if errors.is_empty() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
        let result = json!({ "isSuccessful": errors.is_empty(), "errors": errors, "warnings": [] });
        Ok(Answer { status, ..Answer::json(result) })
    }

    fn item(&self, mut described: Described) -> Result<Item, Fault> {
        let mode = Mode::read(described.import_mode.as_deref())
            .ok_or_else(|| Fault::argument("importMode is not one that this hub imitates"))?;
        let device = described.device_id.take().unwrap_or_default();
        let who = Who { device, module: described.module_id.take() };
        let etag = |etag: &Option<String>| IfMatch::read(etag.as_deref().unwrap_or_default());
        let draft = described.draft()?;
        let change = match mode {
            Mode::CreateOrUpdate if self.known(&who).is_ok() => {
                Some(Change::Update(draft, described.etag.as_deref().map_or(IfMatch::Any, IfMatch::read)))
            }
            Mode::Create | Mode::CreateOrUpdate => Some(Change::Create(draft)),
            Mode::Update => Some(Change::Update(draft, IfMatch::Any)),
            Mode::UpdateIfMatch => Some(Change::Update(draft, etag(&described.etag))),
            Mode::Delete => Some(Change::Delete(IfMatch::Any)),
            Mode::DeleteIfMatch => Some(Change::Delete(etag(&described.etag))),
            Mode::UpdateTwin | Mode::UpdateTwinIfMatch => None,
        };
        let if_match = (mode == Mode::UpdateTwinIfMatch).then(|| etag(&described.twin_etag));
        let written = Written { etag: None, tags: described.tags, properties: described.properties };
        let twin = Some(written.change(false)).filter(|change| {
            let says = change.tags.is_some() || change.desired.is_some();
            says && !matches!(mode, Mode::Delete | Mode::DeleteIfMatch)
        });
        let edit = change.map(|change| Edit { device: who.device.clone(), module: who.module.clone(), change });
        Ok(Item { who, edit, twin: twin.map(|change| (change, if_match)), fault: None })
    }
}
