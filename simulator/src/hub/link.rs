//! A running hub, for its neighbours in the same process.

use std::sync::Arc;

use tokio::sync::watch;

use super::desk::Desk;

/// The desk of a hub once it runs; clones are of the same hub.
#[derive(Clone)]
pub struct Link {
    desk: Arc<watch::Sender<Option<Desk>>>,
}

impl Default for Link {
    fn default() -> Self {
        Self { desk: Arc::new(watch::Sender::new(None)) }
    }
}

impl Link {
    /// The hub runs.
    pub(super) fn set(&self, desk: Desk) {
        self.desk.send_replace(Some(desk));
    }

    /// Waits until it does.
    pub async fn started(&self) {
        // The sender is here.
        let _ = self.desk.subscribe().wait_for(Option::is_some).await;
    }

    /// What it knows and keeps about identities; `None` before it runs.
    pub fn desk(&self) -> Option<Desk> {
        self.desk.borrow().clone()
    }
}

#[cfg(test)]
impl Link {
    /// Of a hub that keeps what it keeps in `directory`, and serves nobody.
    pub(crate) fn standing(directory: &std::path::Path, registry: super::devices::Registry) -> Self {
        use super::limits::{Limits, Metered, SharedLimits};
        use super::log::{Log, Options};

        let limits = crate::config::Config::load(None).expect("the default").hub.limits;
        let options = Options::new(1, shared::clock::Clock::Real);
        let desk = Desk::stand(super::desk::Stood {
            directory,
            registry,
            log: Log::open(&directory.join("log"), &options).expect("a log"),
            limits: SharedLimits::new(Limits::new(limits, Metered::default())),
            hosts: vec![],
            metrics: super::metrics::Metrics::new(&mut prometheus_client::registry::Registry::default()),
            sources: vec![],
        });
        let link = Self::default();
        link.set(desk);
        link
    }
}
