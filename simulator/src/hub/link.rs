//! A running hub, for its neighbours in the same process.

use std::sync::Arc;

use tokio::sync::watch;

/// Whether a hub runs; clones are of the same hub.
#[derive(Debug, Clone)]
pub struct Link {
    runs: Arc<watch::Sender<bool>>,
}

impl Default for Link {
    fn default() -> Self {
        Self { runs: Arc::new(watch::Sender::new(false)) }
    }
}

impl Link {
    /// The hub runs.
    pub(super) fn set(&self) {
        self.runs.send_replace(true);
    }

    /// Waits until it does.
    pub async fn started(&self) {
        // The sender is here.
        let _ = self.runs.subscribe().wait_for(|runs| *runs).await;
    }
}
