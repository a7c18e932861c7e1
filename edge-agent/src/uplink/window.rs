//! Envelopes in flight: published, or about to be, and not yet acknowledged by the hub.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::batch::Cut;

/// Our own bound on what is in flight, far below rumqttc's: with packet ids to spare, a PUBACK out of order can never
/// make two publishes want the same id.
#[derive(Debug)]
pub struct Window {
    flights: VecDeque<Flight>,
    envelopes_max: usize,
}

#[derive(Debug)]
struct Flight {
    cut: Arc<Cut>,
    /// Given by the client as it writes the publish, in the order of publishing.
    packet_id: Option<u16>,
    /// When it was last handed over.
    handed_at: Instant,
}

impl Window {
    /// A window of at most `envelopes_max` Envelopes.
    pub fn new(envelopes_max: usize) -> Self {
        Self { flights: VecDeque::new(), envelopes_max }
    }

    /// True if nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// Envelopes in flight.
    pub fn len(&self) -> usize {
        self.flights.len()
    }

    /// True if one more may fly.
    pub fn has_room(&self) -> bool {
        self.flights.len() < self.envelopes_max
    }

    /// `cut` is handed to the client.
    pub fn push(&mut self, cut: Arc<Cut>, now: Instant) {
        self.flights.push_back(Flight { cut, packet_id: None, handed_at: now });
    }

    /// The client has written the next publish under `packet_id`. False if none was waiting for an id, or if the id is
    /// in use: then client and window disagree, and the connection must be given up.
    #[must_use]
    pub fn published(&mut self, packet_id: u16) -> bool {
        if self.flights.iter().any(|flight| flight.packet_id == Some(packet_id)) {
            return false;
        }
        match self.flights.iter_mut().find(|flight| flight.packet_id.is_none()) {
            Some(flight) => {
                flight.packet_id = Some(packet_id);
                true
            }
            None => false,
        }
    }

    /// The hub has acknowledged `packet_id`: what was under it has landed. `None` for an id that is not in flight.
    pub fn acked(&mut self, packet_id: u16) -> Option<Arc<Cut>> {
        let at = self.flights.iter().position(|flight| flight.packet_id == Some(packet_id))?;
        self.flights.remove(at).map(|flight| flight.cut)
    }

    /// A new connection: everything goes again, in order, under new ids.
    pub fn again(&mut self, now: Instant) -> Vec<Arc<Cut>> {
        for flight in &mut self.flights {
            flight.packet_id = None;
            flight.handed_at = now;
        }
        self.flights.iter().map(|flight| flight.cut.clone()).collect()
    }

    /// When what is under `packet_id` was handed to the client.
    pub fn handed_at(&self, packet_id: u16) -> Option<Instant> {
        self.flights.iter().find(|flight| flight.packet_id == Some(packet_id)).map(|flight| flight.handed_at)
    }

    /// Since when the oldest waits for its PUBACK.
    pub fn oldest(&self) -> Option<Instant> {
        self.flights.iter().map(|flight| flight.handed_at).min()
    }

    /// What is in flight, oldest first.
    pub fn cuts(&self) -> impl Iterator<Item = &Cut> {
        self.flights.iter().map(|flight| flight.cut.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::RowId;

    fn cut(row: i64) -> Arc<Cut> {
        Arc::new(Cut { rows: vec![RowId(row)], ..Cut::default() })
    }

    fn window_with(rows: impl IntoIterator<Item = i64>) -> Window {
        let mut window = Window::new(100);
        for row in rows {
            window.push(cut(row), Instant::now());
        }
        window
    }

    fn rows(window: &Window) -> Vec<i64> {
        window.cuts().flat_map(|cut| cut.rows.iter().map(|row| row.0)).collect()
    }

    #[test]
    fn ids_are_given_in_the_order_of_publishing_and_acks_may_come_in_any() {
        let mut window = window_with(1..=3);
        for packet_id in [11, 12, 13] {
            assert!(window.published(packet_id));
        }
        assert_eq!(window.acked(12).map(|cut| cut.rows[0]), Some(RowId(2)));
        assert_eq!(window.acked(12), None, "an ack counts once");
        assert_eq!(rows(&window), [1, 3]);
        window.push(cut(4), Instant::now());
        assert!(window.published(14));
        assert_eq!(window.acked(14).map(|cut| cut.rows[0]), Some(RowId(4)));
        assert_eq!(rows(&window), [1, 3]);
    }

    #[test]
    fn an_id_nobody_waits_for_is_a_disagreement() {
        let mut window = window_with(1..=2);
        assert!(window.published(1));
        assert!(!window.published(1), "the id is in use");
        assert!(window.published(2));
        assert!(!window.published(3), "nothing waits");
    }

    #[test]
    fn on_a_new_connection_everything_goes_again_in_order_and_old_ids_mean_nothing() {
        let mut window = window_with(1..=3);
        assert!(window.published(1) && window.published(2));
        assert!(window.acked(1).is_some());
        let again: Vec<i64> = window.again(Instant::now()).iter().map(|cut| cut.rows[0].0).collect();
        assert_eq!(again, [2, 3]);
        assert_eq!(window.acked(2), None, "the id of a dead connection acknowledges nothing");
        assert!(window.published(1));
        assert_eq!(window.acked(1).map(|cut| cut.rows[0]), Some(RowId(2)));
    }

    #[test]
    fn the_bound_holds() {
        let mut window = Window::new(2);
        assert!(window.has_room());
        window.push(cut(1), Instant::now());
        window.push(cut(2), Instant::now());
        assert!(!window.has_room());
    }
}
