//! A local IoT Hub: devices publish over MQTT, services read over AMQP, events lie on disk in between; and what services
//! want of devices goes the other way.
//!
//! ```text
//! devices ── MQTT 3.1.1, TLS ──> mqtt ──append──> log ──fsync──> PUBACK
//!    ^                            │                └──read──> amqp ── AMQP 1.0 ──> services
//!    └── seats, mailboxes <───────┴── desk: registry, twins, commands, methods <── api, amqp ── services
//! ```
//!
//! Invariants: no PUBACK before the fsync that stored the event; no two hubs on one data directory; a log that was
//! deleted comes back as another incarnation, never as the same one with numbers given twice. What was answered for,
//! twins and commands, is there after `kill -9`; a command ends once, by its device's PUBACK or by a limit.
//!
//! What it does not imitate: routing, file upload, IoT Edge, the HTTPS and AMQP device protocols; the README has the
//! list.

mod config; // the table [hub]

pub mod devices; // who may connect

pub mod who; // a device or a module

pub(crate) mod journal; // records that survive a restart

pub mod twins; // what services wish, what devices report

pub mod commands; // cloud-to-device messages

pub mod methods; // direct methods under way

pub mod changes; // what the hub itself says on the Event-Hubs endpoint

pub mod desk; // all of these, for whoever serves identities

pub mod ca; // whom clients trust

pub(crate) mod mqtt; // device side: MQTT -> the log

pub mod log; // events on disk: the hub's memory

pub mod amqp; // service side: the log -> AMQP 1.0

mod api; // what services ask for over HTTPS

mod https; // the port for it, and for WebSocket

pub mod limits; // what a tier lets through

mod meter; // the day's count on disk

pub mod faults; // misfortune on demand

mod metrics; // rates

mod status; // the books

mod events; // a look into the log, for tests

pub(crate) mod connect; // what each side needs to connect

mod link; // a running hub, for its neighbours in the process

mod run; // all of it together

pub mod cli; // `simulator hub`

pub use self::config::{Config, Http, MqttLimits};
pub use self::faults::Faults;
pub use self::link::Link;
pub use self::run::{HubError, run};
