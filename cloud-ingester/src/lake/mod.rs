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

mod error; // what can go wrong, and who must act

mod location; // a directory or a URL

mod door; // the moment before a commit

mod commit; // rows + progress: whether it fits, and one try

mod checkpoint; // the log so far in one file, encoded as every reader takes it

mod store; // every table's handle; tries until it is known to have landed

mod files; // rows straight out of files, and into them

mod view; // a table at one version; what changed between two

mod lease; // one holder runs the hops

mod records; // small records that several processes write

pub mod session; // SQL over the lake, with limits

pub use commit::{Kind, Landed, Removes, TableCommit, Txn};
pub use error::LakeError;
pub use files::{Extent, FileWriter};
pub use lease::{Holder, Lease, Waiting};
pub use location::Location;
pub use records::{Entry, Records, Running};
pub use store::{CHECKPOINT_EVERY, Lake};
pub use tables::{Definition, Layer, Table};
pub use view::{Change, View};

/// A file with rows, as the Delta log names it.
pub use deltalake::kernel::Add;
