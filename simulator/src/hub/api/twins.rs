//! Twins from the service's side: tags and desired properties are written here, all of a twin is read.

use serde::Deserialize;
use serde_json::Value;

use super::errors::{Code, Fault};
use super::query::Row as _;
use super::rows::TwinRow;
use super::wire::Properties;
use super::{Answer, Api, Asked};
use crate::hub::devices::{EditFault, IfMatch};
use crate::hub::twins::{Change, Twin};
use crate::hub::who::Who;

/// What a service writes; what it sends back beside is of no account.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Written {
    pub(super) etag: Option<String>,
    pub(super) tags: Option<Value>,
    pub(super) properties: Option<Properties>,
}

impl Written {
    /// The etag the body itself demands: jobs have no header for it.
    pub(super) fn if_match(&self) -> Option<IfMatch> {
        self.etag.as_deref().filter(|etag| !etag.is_empty()).map(IfMatch::read)
    }

    pub(super) fn change(self, replace: bool) -> Change {
        Change { tags: self.tags, desired: self.properties.and_then(|properties| properties.desired), replace }
    }
}

impl Api {
    pub(super) fn get_twin(&self, who: &Who) -> Result<Answer, Fault> {
        let twin = self.desk.twins.get(who);
        self.shown_twin(who, twin)
    }

    pub(super) async fn write_twin(&self, who: &Who, asked: &Asked, replace: bool) -> Result<Answer, Fault> {
        self.known(who)?;
        let written: Written = asked.json()?;
        let if_match = asked.if_match();
        let twin = self.change_twin(who, written.change(replace), if_match).await?;
        self.shown_twin(who, twin)
    }

    /// Writes a twin.
    pub(super) async fn change_twin(
        &self,
        who: &Who,
        change: Change,
        if_match: Option<IfMatch>,
    ) -> Result<Twin, Fault> {
        let if_match = match &if_match {
            None | Some(IfMatch::Any) => None,
            Some(IfMatch::Etag(etag)) => Some(etag.as_str()),
        };
        let changed = self.desk.twins.change(who, change, if_match).await;
        changed.map_err(|fault| Fault::new(Code::of_status(fault.status()), fault.to_string()))
    }

    fn shown_twin(&self, who: &Who, twin: Twin) -> Result<Answer, Fault> {
        let known = self.desk.registry.now();
        let device = known.device(&who.device).ok_or_else(|| EditFault::NoDevice(who.device.clone()))?;
        let module = match &who.module {
            None => None,
            Some(id) => {
                let absent = || EditFault::NoModule(who.device.clone(), id.clone());
                Some(device.module(id).ok_or_else(absent)?)
            }
        };
        let etag = twin.etag.clone();
        Ok(Answer::json(TwinRow::of(self, device, module).with(twin).whole()).with_etag(&etag))
    }

    /// That there is such an identity.
    pub(super) fn known(&self, who: &Who) -> Result<(), Fault> {
        let known = self.desk.registry.now();
        let device = known.device(&who.device).ok_or_else(|| EditFault::NoDevice(who.device.clone()))?;
        match &who.module {
            Some(id) if device.module(id).is_none() => Err(EditFault::NoModule(who.device.clone(), id.clone()).into()),
            _ => Ok(()),
        }
    }
}
