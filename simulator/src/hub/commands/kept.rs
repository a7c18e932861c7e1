//! What the journal holds of commands and feedback, under which keys, and what of it is in memory.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::time::Timestamp;

use super::command::Command;
use super::feedback::Outcome;
use super::queue::{DEPTH_MAX, Item, Queue};
use crate::hub::journal::Book;
use crate::hub::who::Who;

/// Records nobody fetches: more are dropped, and said to be.
pub(super) const FEEDBACK_MAX: usize = 10_000;

/// What the journal holds.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Record {
    Command(Box<Kept>),
    /// How often the command of the same number was given to its device.
    Deliveries(u32),
    Feedback(Fed),
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) who: Who,
    pub(super) generation_id: String,
    pub(super) expires: Timestamp,
    pub(super) command: Command,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Fed {
    pub(super) original_message_id: String,
    pub(super) enqueued_time: Timestamp,
    pub(super) outcome: Outcome,
    pub(super) device_id: String,
    pub(super) device_generation_id: String,
}

/// What is known of all commands without a look at the disk.
pub(super) struct State {
    /// The number of the next record.
    pub(super) next: u64,
    pub(super) queues: HashMap<Who, Queue>,
    pub(super) feedback: Queue,
}

impl State {
    /// As the journal has it.
    pub(super) fn read(book: &Book<'_, Record>, feedback_time_to_live: Duration) -> Self {
        let mut numbered: Vec<_> = book.iter().filter_map(|(key, record)| Some((number_of(key)?, record))).collect();
        numbered.sort_by_key(|(number, _)| *number);
        let next = numbered.last().map_or(0, |(number, _)| number + 1);
        let mut state = Self { next, queues: HashMap::new(), feedback: Queue::new(FEEDBACK_MAX) };
        for (number, record) in numbered {
            match record {
                Record::Command(kept) => {
                    let deliveries = match book.get(&deliveries_key(number)) {
                        Some(Record::Deliveries(deliveries)) => *deliveries,
                        _ => 0,
                    };
                    let item = Item { number, expires: kept.expires, deliveries, locked_until: None };
                    state.queue(&kept.who).push(item);
                }
                Record::Deliveries(_) => {}
                Record::Feedback(fed) => {
                    let expires = fed.enqueued_time.plus(feedback_time_to_live);
                    state.feedback.push(Item { number, expires, deliveries: 0, locked_until: None });
                }
            }
        }
        state
    }

    /// What waits for one device.
    pub(super) fn queue(&mut self, who: &Who) -> &mut Queue {
        self.queues.entry(who.clone()).or_insert_with(|| Queue::new(DEPTH_MAX))
    }
}

/// Numbers of commands and feedback come from one count.
pub(super) fn key(number: u64) -> String {
    number.to_string()
}

pub(super) fn deliveries_key(number: u64) -> String {
    format!("{number}+")
}

fn number_of(key: &str) -> Option<u64> {
    key.parse().ok()
}
