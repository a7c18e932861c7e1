//! The gateway's agent.
//!
//! ```text
//! world --> intake --256--> presilver --> outbox ==disk==> uplink --window--> IoT Hub
//!   |        ^   ^                           |
//!   |        +------- ack after commit ------+
//!   +--> sensors-+
//! ```
//!
//! A device is acknowledged after its message is on disk, and a row leaves the disk only after the hub has acknowledged
//! it. Nothing else is kept anywhere: `kill -9` at any point loses nothing that was acknowledged.
//!
//! Stopping goes from the head to the tail: intake stops pulling, presilver stores what it has, the outbox is sealed
//! (this run's epoch gets its exact end), the uplink drains, the database is checkpointed.

pub mod intake; // the world -> RawMessage

pub mod sensors; // the machine's own buses and pins -> RawMessage

pub mod presilver; // RawMessage -> Reading | Rejected

pub mod outbox; // Reading | Rejected -> Row, on disk until the hub has it

pub mod uplink; // Row -> Envelope -> the hub, done on PUBACK only

pub mod remote; // what the hub desires of us and calls, beside the rows

pub mod hub; // which hub, and who we are there

pub mod identity; // a key, or a certificate

pub mod provision; // asking the provisioning service which hub that is

pub mod trust; // whom outgoing TLS connections trust

pub mod line; // through a proxy, in WebSocket messages

mod homing; // finds the hub, and finds it again

pub mod config; // all of it, and default.toml

pub mod led; // how we are, on a pin

mod run; // wire, run, drain

mod history; // the last hour, in memory

mod machine; // disk, memory, heat, power

mod status; // what /status, the page and `status` show

mod page; // the page, and the last hour for its plots

pub mod cli; // the command line

pub use config::Config;
pub use run::{RunError, run};
