//! bronze.messages -> silver.readings, silver.quarantine, silver.gaps.
//!
//! ```text
//! bronze row --decode--> readings, refusals, gaps --judge--> readings, refusals --seen--> new | duplicate
//! ```
//!
//! - Nothing in a body stops this hop: what cannot be read is a row of quarantine, with its bytes and the reasons.
//! - A verdict is a function of (bytes, enqueued time, rules, ids seen before), never of the wall clock or the batch.
//! - Books: decoded = readings + quarantined + duplicates.

pub mod rows; // what is written, as plain values

pub mod events; // rows of bronze -> Events

pub mod decode; // an Event -> its rows and gaps

pub mod members; // an object -> what is known of it, and the rest to the byte

mod envelope; // what a gateway sends

mod plain; // the same where nothing is odd, in one walk

mod direct; // what a device without a gateway sends

pub mod mapping; // where its parts stand

pub mod judge; // silver's own rules

pub mod replays; // refusals taken up again

pub mod quarantined; // refusals, read back

pub mod repair; // what a replay of one holds

pub mod catalogue; // which devices there are

pub mod devices; // and what held of one at a time

pub mod ranges; // sets of seqs

pub mod seen; // what came before, per gateway and epoch

pub mod messages; // and of devices that number their messages

pub mod batches; // rows -> Arrow

mod work; // a batch of bronze rows -> batches of silver rows

mod rebuild; // what came before, out of the tables

pub use judge::{Rules, RulesError, Unique};
pub use mapping::{Mapping, MessageId};
pub use rebuild::{learn, rebuild, rebuild_messages};
pub use seen::{EpochKey, Highs, Kept, Seen};
pub use work::{Target, Totals, held, work};
