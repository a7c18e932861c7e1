//! The lake: the only place that names deltalake.
//!
//! ```text
//! rows + progress --commit--> one Delta version of one table --view/changes--> the hop downstream
//! ```
//!
//! - A table is created before it is written, and never by a write.
//! - Progress lives in the commit that carries the data; nothing else remembers it.
//! - One holder of the lease `_leases/hops` writes silver and gold.

pub mod tables; // every table: name, columns, partitions, properties

mod columns; // and what is in them

mod error; // what can go wrong, and who must act

mod panics; // a panic that is none

mod location; // a directory or a URL

mod door; // the moment before a commit

mod attempt; // whether a commit landed, and what to do until that is known [p]

mod commit; // rows + progress, and one try

mod checkpoint; // the log so far in one file, encoded as every reader takes it

mod handle; // how one table is made, opened and kept quick

mod store; // every table's handle; tries until it is known to have landed

mod evolve; // columns of later versions, and of others

mod retention; // how long a table keeps what is not part of it any more

mod files; // rows straight out of files, and into them

pub mod foreign; // a table of somebody else

mod view; // a table at one version; what changed between two

mod steps; // signs of progress inside long work

mod keep; // what lies in the storage, and whether it is needed

mod lease; // one holder runs the hops

mod metered; // a storage that counts what is asked of it

pub mod cost; // what a commit costs, early and late

#[cfg(test)]
pub(crate) mod faulty; // a storage that fails, for simulations

mod records; // small records that several processes write

pub mod session; // SQL over the lake, with limits

mod extremes; // min_by and max_by, as Spark has them

mod sorted; // rows of files in order, within little memory

mod travel; // the lake as it was

mod numbers; // which sequence numbers bronze holds

#[cfg(test)]
pub(crate) use checkpoint::forgetting;
pub use commit::{Kind, Landed, Removes, TableCommit, Txn};
pub use error::LakeError;
pub use files::{Extent, FileWriter, Shape};
pub use handle::CHECKPOINT_EVERY;
pub use keep::{Listed, Logged};
pub use lease::{Holder, Lease, Waiting};
pub use location::Location;
pub use metered::{Metered, Requests};
pub use numbers::numbers;
pub use panics::hush_what_is_caught;
pub use records::{Entry, Records, Running};
pub use retention::Retention;
pub use sorted::sorted;
pub use steps::{Steps, carried};
pub use store::Lake;
pub use tables::{Definition, Layer, Table};
pub use travel::{Travel, lake_session_at};
pub use view::{Change, View};

/// A file with rows, as the Delta log names it.
pub use deltalake::kernel::Add;

/// The Parquet library that the lake's own files are written with.
pub(crate) use deltalake::parquet;
