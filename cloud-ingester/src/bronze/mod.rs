//! Events -> bronze.messages, each once.
//!
//! ```text
//! Event --unpack--> Event --cutter--> Cut { events, spans } --rows--> RecordBatch --lake.commit(rows, txns)--> bronze
//! ```
//!
//! One committer: every partition's Events and progress go into one commit per cut, so commits never race each other.

pub mod cutter; // when is a batch big or old enough; what is a repeat

pub mod rows; // Events -> a RecordBatch; transport compression undone

pub mod stage; // Events in, commits out

pub mod backfill; // which Events of a file bronze lacks
