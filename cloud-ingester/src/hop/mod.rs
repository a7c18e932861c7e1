//! Hops: bronze -> silver -> gold, incrementally, each in one commit that carries its progress.
//!
//! ```text
//! bronze.messages --silver--> quarantine, gaps, readings --gold--> metric_1m, device_latest, gateway_health
//! ```
//!
//! - Progress is the txn `<target><-<source's id>` = source version read up to, in the commit that carries the rows.
//! - Silver's side tables are committed first, and only with rows; readings last, and always. Where a side table is
//!   ahead when a holder starts, exactly that range is done again by its plan, and only what is missing is written.
//! - A new holder of the lease first commits to every target, so that an older one is refused wherever it wakes up.
//! - Only this module writes silver and gold, and only while the lease is held.

pub mod plan; // nothing, a range, or everything anew

mod changes; // what a range of source versions added

mod error; // what can go wrong

mod silver; // the silver hop

mod piped; // read ahead of what it decides, and written behind it

mod replays; // which refusals a range takes up again, and marking them

mod seen; // what was seen, kept beside the tables

mod beside; // a model computed beside the other hops

mod half_done; // what an earlier one left, and what was seen before

pub mod replay; // refusals sent through bronze again

pub mod catalogue; // silver.devices follows its catalogue

mod gold; // the gold hops

mod settings; // how hops work

mod turns; // whose turn it is

mod runner; // one after the other

#[cfg(test)]
pub(crate) mod tests;

pub use error::HopError;
pub use plan::{Plan, Why};
pub use runner::{Hops, Report};
pub use settings::Settings;
