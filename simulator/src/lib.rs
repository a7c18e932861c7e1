//! Devices, recordings, a local IoT Hub, sensors on buses that are not there, and the proof.
//!
//! ```text
//! fleet | replay ── MQTT ──> (gateway)
//!       └─ ledger ─────────────────────────────────> verify <── (lake)
//! hub:     devices ── MQTT ──> log on disk ── AMQP ──> services
//! dps:     devices ── MQTT ──> which hub is theirs
//! sensors: chips on a bus that is a socket ──> (gateway)
//! ```

pub mod fleet; // seeded devices, their faults and their ledger

pub mod replay; // recordings, sent as a device would have sent them

mod gate; // where devices come in to the next two

pub mod hub; // what stands in for Azure IoT Hub

pub mod dps; // what stands in for its Device Provisioning Service

pub mod sensors; // chips on buses that are not there

pub mod verify; // the lake against itself, and against the ledgers

pub mod config; // one file, a table for each command

pub mod cli; // arguments in, exit codes out
