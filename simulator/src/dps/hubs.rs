//! The hubs that devices are given to: their registries, and, of those in this process, what they keep of a device.

use std::path::PathBuf;

use crate::hub::Link;
use crate::hub::devices::{self, Auth, RegistryError};

/// One hub.
#[derive(Debug, Clone)]
pub(crate) struct LinkedHub {
    pub(crate) host_name: String,
    /// Its device registry; it sees a change at once.
    pub(crate) registry: PathBuf,
    /// `None` for a hub of another process.
    pub(crate) link: Option<Link>,
}

/// All that are linked; clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Hubs(Vec<LinkedHub>);

/// A hub did not take what it was to.
#[derive(Debug, thiserror::Error)]
pub(super) enum HubsError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
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
    pub(super) fn place(&self, host_name: &str, device: &str, auth: &Auth) -> Result<(), HubsError> {
        let Some(hub) = self.find(host_name) else { return Ok(()) };
        Ok(devices::provision(&hub.registry, device, auth)?)
    }

    /// Takes a device away from a hub.
    pub(super) fn remove(&self, host_name: &str, device: &str) -> Result<(), HubsError> {
        let Some(hub) = self.find(host_name) else { return Ok(()) };
        Ok(devices::remove(&hub.registry, device)?)
    }

    fn find(&self, host_name: &str) -> Option<&LinkedHub> {
        self.0.iter().find(|hub| hub.host_name.eq_ignore_ascii_case(host_name))
    }
}
