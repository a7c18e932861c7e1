//! Sensors that are not there: an I2C bus, a 1-wire bus and GPIO lines, behind sockets and a folder.
//!
//! ```text
//! dir/i2c.sock    transactions ──> board ──> chips: registers, measuring times, checksums as in their datasheets
//! dir/gpio.sock   lines ─────────>   ^
//! dir/w1/28-…     as /sys/bus/w1/devices
//! dir/control.sock  "pull 0x76", "crc 0x44 3", "stick" …: misfortune, and values
//! ```
//!
//! What a gateway is to read is turned into registers by the formulae with fractions of the datasheets; a driver that
//! goes by those in whole numbers finds it again only if both are right.

mod chip; // [p] one chip's registers

mod board; // [p] chips, wires and lines, and their misfortunes

mod command; // [p] what can be told

mod config; // the table [sensors]

mod frame; // [p] what is said on the sockets

mod serve; // sockets and the folder

pub mod cli; // `simulator sensors`

#[cfg(test)]
mod tests;

pub use self::config::{Config, Device, Event};
pub use self::serve::{SensorsError, run};
