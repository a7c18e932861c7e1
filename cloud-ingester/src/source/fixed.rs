//! Events from a Vec: a source for tests and for what needs no hub.

use tokio::sync::mpsc;

use super::Event;

/// Hands `events` downstream in order and ends.
pub async fn run(events: Vec<Event>, downstream: mpsc::Sender<Event>) {
    for event in events {
        if downstream.send(event).await.is_err() {
            return;
        }
    }
}
