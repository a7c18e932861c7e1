//! A local IoT Hub: devices publish over MQTT, services read over AMQP, events lie on disk in between.
//!
//! ```text
//! devices ── MQTT 3.1.1, TLS ──> mqtt ──append──> log ──fsync──> PUBACK
//!                                                  └──read──> amqp ── AMQP 1.0 ──> services
//! ```

pub mod log; // events on disk: the hub's memory
