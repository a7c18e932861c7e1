//! Events from a Vec: a source for tests.

use super::flow::Sender;
use super::{Arrival, Event};

/// Hands `events` downstream in order and ends.
pub(crate) async fn run(events: Vec<Event>, downstream: Sender<Arrival>) {
    for event in events {
        if downstream.send(Arrival::Event(event)).await.is_err() {
            return;
        }
    }
}
