//! Message ids of devices that give every message one of its own: a repeat of such a message is known by (device,
//! message id, bytes). Only for devices a mapping names, and only for so long as the horizon.
//!
//! The newest enqueued time of a device is its clock: what lies further back than the horizon is as if it had never
//! been. So a verdict depends on what came before, and not on when or in which order that was learnt.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};
use shared::time::Timestamp;

use super::decode::Event;
use super::judge::Rules;

/// Half of a SHA-256: more than enough for the messages of one device.
type Mark = [u8; 16];

/// The most that a message within the horizon takes of memory, where a device has more than 1,024 of them.
pub const BYTES_MAX: u64 = 72;

/// A device remembers at least so many before it looks for those that are too old.
const PRUNE_FROM: usize = 1_024;

/// What was seen. Of each message within the horizon 24 bytes; a table of them is at least 7 sixteenths full, and up to a
/// quarter of it may lie beyond the horizon: [`BYTES_MAX`] in all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Messages(HashMap<String, OfDevice>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct OfDevice {
    newest: Timestamp,
    seen: HashMap<Mark, Timestamp>,
    prune_at: usize,
}

impl Messages {
    /// Notes the message of an Event; true if it is a repeat. An Event whose device no mapping names, or without a
    /// message id, is none. (Of a gateway's Envelope, too, the repeat holds nothing that is new.)
    pub fn is_repeat(&mut self, event: &Event<'_>, rules: &Rules) -> bool {
        let (Some(device), Some(id)) = (event.device, event.message_id.filter(|id| !id.is_empty())) else {
            return false;
        };
        if event.message_source.is_some_and(|source| source != "Telemetry") || !rules.unique.names(device) {
            return false;
        }
        let mark = mark(id, event.body);
        if !self.0.contains_key(device) {
            self.0.insert(device.to_owned(), OfDevice::default());
        }
        let of = self.0.get_mut(device).expect("just inserted");
        let at = event.origin.reference_time();
        of.newest = of.newest.max(at);
        let oldest = of.newest.minus(rules.unique.horizon);
        if of.prune_at.max(PRUNE_FROM) <= of.seen.len() {
            of.seen.retain(|_, seen| oldest <= *seen);
            of.prune_at = of.seen.len() + of.seen.len() / 4;
        }
        let before = of.seen.get(&mark).copied();
        let last = before.map_or(at, |before| before.max(at));
        of.seen.insert(mark, last);
        before.is_some_and(|before| oldest <= before)
    }
}

impl Messages {
    /// How many are remembered.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.values().map(|of| of.seen.len() as u64).sum()
    }
}

fn mark(id: &str, body: &[u8]) -> Mark {
    let mut hash = Sha256::new();
    hash.update((id.len() as u64).to_le_bytes());
    hash.update(id);
    hash.update(body);
    let whole = hash.finalize();
    let mut mark = Mark::default();
    mark.copy_from_slice(&whole[..16]);
    mark
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::rules::TimeWindow;

    use super::super::decode::Properties;
    use super::super::judge::Unique;
    use super::super::rows::Origin;
    use super::*;

    fn rules() -> Rules {
        let horizon = Duration::from_secs(100);
        Rules::new(TimeWindow::SILVER, Unique { devices: vec!["press-*".into()], horizon })
    }

    /// Events as `device id body second`; which of them are repeats, by their place from 0.
    fn check(events: &[(&str, Option<&str>, &str, i64)], repeats: &[usize]) {
        let mut messages = Messages::default();
        let seen = events.iter().map(|(device, message_id, body, second)| {
            let at = Timestamp::from_micros(second * 1_000_000);
            let origin = Origin {
                hub: "hub".into(),
                incarnation: 1,
                partition_id: 0,
                sequence_number: 0,
                enqueued: Some(at),
                ingested: at,
            };
            messages.is_repeat(
                &Event {
                    origin,
                    body: body.as_bytes(),
                    packed: false,
                    device: Some(device),
                    message_id: *message_id,
                    message_source: Some("Telemetry"),
                    hub_retention: false,
                    properties: Properties::None,
                    replay: None,
                },
                &rules(),
            )
        });
        let seen: Vec<usize> = seen.enumerate().filter(|(_, repeat)| *repeat).map(|(at, _)| at).collect();
        assert_eq!(seen, repeats, "{events:?}");
    }

    #[test]
    fn the_same_device_id_and_bytes_are_a_repeat_and_nothing_else_is() {
        let id = Some("m1");
        check(&[("press-1", id, "{}", 0), ("press-1", id, "{}", 1), ("press-1", id, "{}", 2)], &[1, 2]);
        check(&[("press-1", id, "{}", 0), ("press-2", id, "{}", 1), ("press-1", Some("m2"), "{}", 2)], &[]);
        check(&[("press-1", id, "{}", 0), ("press-1", id, "{ }", 1)], &[]);
        check(&[("press-1", Some("a"), "bc", 0), ("press-1", Some("ab"), "c", 1)], &[]);
    }

    #[test]
    fn devices_that_no_mapping_names_and_messages_without_an_id_never_repeat() {
        check(&[("pump-1", Some("m1"), "{}", 0), ("pump-1", Some("m1"), "{}", 1)], &[]);
        check(&[("press-1", None, "{}", 0), ("press-1", None, "{}", 1)], &[]);
        check(&[("press-1", Some(""), "{}", 0), ("press-1", Some(""), "{}", 1)], &[]);
    }

    #[test]
    fn what_lies_further_back_than_the_horizon_is_forgotten() {
        let id = Some("m1");
        check(&[("press-1", id, "{}", 0), ("press-1", id, "{}", 100), ("press-1", id, "{}", 200)], &[1, 2]);
        check(&[("press-1", id, "{}", 0), ("press-1", id, "{}", 101), ("press-1", id, "{}", 102)], &[2]);
        check(&[("press-1", id, "{}", 0), ("press-1", None, "{}", 500), ("press-1", id, "{}", 50)], &[2]);
    }

    /// A message of its own from `press-1`, this many seconds on.
    fn each_second(second: i64, id: &str) -> Event<'_> {
        let at = Timestamp::from_micros(second * 1_000_000);
        let origin = Origin {
            hub: "hub".into(),
            incarnation: 1,
            partition_id: 0,
            sequence_number: second,
            enqueued: Some(at),
            ingested: at,
        };
        Event {
            origin,
            body: b"{}",
            packed: false,
            device: Some("press-1"),
            message_id: Some(id),
            message_source: None,
            hub_retention: false,
            properties: Properties::None,
            replay: None,
        }
    }

    #[test]
    fn memory_does_not_grow_beyond_the_horizon() {
        let mut messages = Messages::default();
        for second in 0..20_000 {
            let id = second.to_string();
            assert!(!messages.is_repeat(&each_second(second, &id), &rules()));
        }
        assert!(messages.0["press-1"].seen.len() <= PRUNE_FROM);
        assert_eq!(messages.count(), messages.0["press-1"].seen.len() as u64);
    }

    #[test]
    fn a_message_takes_no_more_memory_than_is_said() {
        // A table of marks doubles when it is 7 eighths full; each has a byte of control beside it.
        let room = (size_of::<(Mark, Timestamp)>() as u64 + 1) * 16 / 7;
        let stale = room / 4;
        assert!(room + stale <= BYTES_MAX, "{room} + {stale}");
        let horizon = 10_000_u64;
        let rules = Rules::new(
            TimeWindow::SILVER,
            Unique { devices: vec!["press-1".into()], horizon: Duration::from_secs(horizon) },
        );
        let mut messages = Messages::default();
        for second in 0..100_000_i64 {
            let id = second.to_string();
            assert!(!messages.is_repeat(&each_second(second, &id), &rules));
            let held = messages.count();
            assert!(held <= horizon + horizon / 4 + 2, "{held} of {horizon} are remembered");
        }
    }
}
