//! The lake's writer: reads the hub, writes bronze, silver and gold Delta tables exactly once, answers SQL.
//!
//! ```text
//! hub --AMQP--> source --256--> bronze ==lake==> silver (+ quarantine, gaps) ==lake==> gold
//! ```
//!
//! Between stages that are joined by `==lake==` lies a Delta table; progress is a `txn` in the commit that carries the
//! rows, and nothing else remembers it. Killed anywhere, a restart goes on from what the tables say.

pub mod config; // what it can be told

pub mod source; // the hub -> Events

pub mod bronze; // Events -> bronze.messages

pub mod silver; // bronze rows -> readings, refusals, gaps

pub mod gold; // readings -> what people look at

pub mod hop; // one layer to the next, in one commit each

pub mod upkeep; // fewer files, shorter logs

pub mod lake; // tables, commits, sessions: the only rooms that know Delta

pub mod run; // the service: everything wired

pub mod status; // how far everything is

pub mod export; // what other services need to read the lake

mod tour; // what `check` tries

mod ask; // a request to a running service

pub mod cli; // arguments in, exit codes out
