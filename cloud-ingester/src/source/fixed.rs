//! Events from a Vec: a source for tests.

use tokio::sync::mpsc;

use super::Event;

/// Hands `events` downstream in order and ends.
pub(crate) async fn run(events: Vec<Event>, downstream: mpsc::Sender<Event>) {
    for event in events {
        if downstream.send(event).await.is_err() {
            return;
        }
    }
}
