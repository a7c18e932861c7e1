//! Presilver: RawMessage -> Reading | Rejected, one by one, each with its source key.
//!
//! [`judge`] is pure: it takes the message, the time it came and whether the gateway's clock is known good. It never
//! panics on what a device sends, and never loses a value: what is not a [`shared::reading::Reading`] is a refusal with
//! all its reasons.

pub mod config; // mappings, rules, limits

pub mod mapping; // topic -> where device, metric, time and number come from

pub mod format; // payloads of every format -> values

pub mod judge; // a message against mappings and rules

pub mod gateway; // this machine's clock: is it known good, and when did it boot

mod stage; // intake's channel -> outbox

mod metrics;

#[cfg(test)]
mod fuzz_tests; // every payload parser against mutated corpora

pub use config::Config;
pub use judge::{Judge, Publish, Verdict};
pub use metrics::{Counts, Metrics};
pub use stage::run;
