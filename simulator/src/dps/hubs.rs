//! The hubs that devices are given to: their registries, and, of those in this process, what they keep of a device.

use std::io;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::enrolments::InitialTwin;
use crate::hub::Link;
use crate::hub::desk::Desk;
use crate::hub::devices::{self, Auth, RegistryError};
use crate::hub::twins::{Change, Twin, TwinFault, Twins};
use crate::hub::who::Who;

/// One hub.
#[derive(Clone)]
pub(crate) struct LinkedHub {
    pub(crate) host_name: String,
    /// Its device registry; it sees a change at once.
    pub(crate) registry: PathBuf,
    /// `None` for a hub of another process: its twins stay as they are.
    pub(crate) link: Option<Link>,
}

/// All that are linked; clones are the same.
#[derive(Clone, Default)]
pub(super) struct Hubs(Vec<LinkedHub>);

/// What a device's twin is to be.
pub(super) enum Beginning<'a> {
    /// What it is.
    AsItIs,
    /// What it is, but for what the enrolment says.
    With(&'a InitialTwin),
    /// What the enrolment says, and nothing else.
    Anew(&'a InitialTwin),
    /// What it was elsewhere.
    Moved(Twin),
}

/// A hub did not take what it was to.
#[derive(Debug, thiserror::Error)]
pub(super) enum HubsError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("the device's twin: {0}")]
    Twin(#[from] TwinFault),
    #[error("what the hub keeps about its devices: {0}")]
    Keep(#[from] io::Error),
    #[error("writing a device registry: {0}")]
    Panic(#[from] tokio::task::JoinError),
}

impl Hubs {
    pub(super) fn new(hubs: Vec<LinkedHub>) -> Self {
        Self(hubs)
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.0.iter().map(|hub| hub.host_name.clone()).collect()
    }

    /// Waits until those of this process run.
    pub(super) async fn started(&self) {
        for link in self.0.iter().filter_map(|hub| hub.link.as_ref()) {
            link.started().await;
        }
    }

    /// Registers a device with a hub, or gives it these means of proof. A hub that is not linked any more keeps what it
    /// has.
    pub(super) async fn place(
        &self,
        host_name: &str,
        device: &str,
        auth: &Auth,
        beginning: Beginning<'_>,
    ) -> Result<(), HubsError> {
        let Some(hub) = self.find(host_name) else { return Ok(()) };
        let desk = hub.desk();
        if let Some(desk) = &desk {
            desk.clear(device).await?;
            // First: whoever hears of the device finds its twin.
            begin(&desk.twins, &Who::device(device), beginning).await?;
        }
        let (path, id, auth) = (hub.registry.clone(), device.to_owned(), auth.clone());
        // The file is locked, written and synced.
        tokio::task::spawn_blocking(move || devices::provision(&path, &id, &auth)).await??;
        heed(desk.as_ref()).await
    }

    /// Takes a device away from a hub, with all that it keeps of it.
    pub(super) async fn remove(&self, host_name: &str, device: &str) -> Result<(), HubsError> {
        let Some(hub) = self.find(host_name) else { return Ok(()) };
        let (path, id) = (hub.registry.clone(), device.to_owned());
        tokio::task::spawn_blocking(move || devices::remove(&path, &id)).await??;
        let desk = hub.desk();
        heed(desk.as_ref()).await?;
        match desk {
            Some(desk) => Ok(desk.clear(device).await?),
            None => Ok(()),
        }
    }

    /// A device's twin; `None` where the hub is not of this process.
    pub(super) fn twin(&self, host_name: &str, device: &str) -> Option<Twin> {
        Some(self.find(host_name)?.desk()?.twins.get(&Who::device(device)))
    }

    fn find(&self, host_name: &str) -> Option<&LinkedHub> {
        self.0.iter().find(|hub| hub.host_name.eq_ignore_ascii_case(host_name))
    }
}

impl LinkedHub {
    fn desk(&self) -> Option<Desk> {
        self.link.as_ref()?.desk()
    }
}

async fn heed(desk: Option<&Desk>) -> Result<(), HubsError> {
    match desk {
        Some(desk) => Ok(desk.heed().await?),
        None => Ok(()),
    }
}

async fn begin(twins: &Twins, who: &Who, beginning: Beginning<'_>) -> Result<(), HubsError> {
    let whole = |section: &Option<Value>| Some(section.clone().unwrap_or_else(|| json!({})));
    let (change, reported) = match beginning {
        Beginning::AsItIs => return Ok(()),
        Beginning::With(InitialTwin { tags, desired }) => {
            (Change { tags: tags.clone(), desired: desired.clone(), replace: true }, None)
        }
        Beginning::Anew(InitialTwin { tags, desired }) => {
            (Change { tags: whole(tags), desired: whole(desired), replace: true }, Some(Map::new()))
        }
        Beginning::Moved(twin) => {
            let (tags, desired) = (Some(Value::Object(twin.tags)), Some(Value::Object(twin.desired.values)));
            (Change { tags, desired, replace: true }, Some(twin.reported.values))
        }
    };
    let before = twins.get(who);
    let same = |now: &Map<String, Value>, wanted: &Option<Value>| {
        wanted.as_ref().is_none_or(|wanted| wanted.as_object().is_some_and(|wanted| wanted == now))
    };
    if !(same(&before.tags, &change.tags) && same(&before.desired.values, &change.desired)) {
        twins.change(who, change, None).await?;
    }
    if let Some(reported) = reported.filter(|reported| *reported != before.reported.values) {
        let mut patch: Map<String, Value> =
            before.reported.values.into_iter().map(|(name, _)| (name, Value::Null)).collect();
        patch.extend(reported);
        twins.report(who, &Value::Object(patch)).await?;
    }
    Ok(())
}
