//! Devices, recordings, a local IoT Hub, and the proof.
//!
//! ```text
//! hub:  devices ── MQTT ──> log on disk ── AMQP ──> services
//! ```

pub mod hub; // what stands in for Azure IoT Hub

pub mod config; // one file, a table for each command

pub mod cli; // arguments in, exit codes out
