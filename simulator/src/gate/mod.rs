//! Where devices come in: what the hub and the provisioning service have in common.
//!
//! ```text
//! port ── room for one more ── TLS ── wire <──bytes──> session ──> CONNECT, then a packet at a time
//!          each in a task       │ └── web ── the same bytes in WebSocket messages
//!                               └─ by `connect-timeout` ─┘
//! ```
//!
//! Bounds: connections by number; TLS and CONNECT together, a packet that has begun, silence, and a write that the device
//! does not take, by time. Whoever is sent away is counted under a reason.

mod port; // who gets in at all

mod wire; // one socket: packets in, answers out

mod session; // [p] bytes <-> packets

mod end; // why a connection ended

mod books; // rates

mod web; // HTTP, and what becomes of it WebSocket messages

pub(crate) use mqtt_protocol_core::mqtt::packet::Qos;
pub(crate) use mqtt_protocol_core::mqtt::result_code::{ConnectReturnCode, SubackReturnCode};

pub(crate) use self::books::Books;
pub(crate) use self::end::End;
pub(crate) use self::port::{Chain, Gate};
pub(crate) use self::session::{Act, Fault, Hello, Publish, Session};
#[cfg(test)]
pub(crate) use self::web::bridge;
pub(crate) use self::web::{Upgraded, Web, websocket};
pub(crate) use self::wire::{Came, Wire};
