//! Drivers: what goes over a bus, and what the answer means. Generic over embedded-hal's traits, so that a test can
//! hold them against the transactions of a datasheet; conversions are whole-number arithmetic, as the makers give it.
//!
//! The ADS1115 and the SHT4x are driven by crates that are kept up for embedded-hal 1.0. BME280 and BMP280 are ours: the
//! crate for them hides raw values, waits a fixed time and takes a chip that lost power for one that measured. So is the
//! SHT3x: its crate is of embedded-hal 0.2.

pub(crate) mod ads1115;

pub(crate) mod bosch; // BME280, BMP280

pub(crate) mod ds18b20;

pub(crate) mod sensirion; // SHT3x, SHT4x

#[cfg(test)]
pub(crate) mod tape;

use embedded_hal::i2c::ErrorKind;

/// One value, and what stood on the wire for it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measured {
    /// Its name.
    pub(crate) metric: String,
    /// The value.
    pub(crate) value: f64,
    /// UCUM unit, if it has one.
    pub(crate) unit: Option<String>,
    /// As it was read, for the technician.
    pub(crate) raw: String,
}

impl Measured {
    pub(crate) fn new(metric: &str, value: f64, unit: &str, raw: impl Into<String>) -> Self {
        Self { metric: metric.to_owned(), value, unit: Some(unit.to_owned()), raw: raw.into() }
    }
}

/// Why a sensor gave no reading.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// Nobody acknowledges the address.
    #[error("nobody answers; look at its power, its wires and its address")]
    NoAnswer,
    /// Another master was faster.
    #[error("arbitration was lost to another master of the bus")]
    Arbitration,
    /// The bus itself.
    #[error("the bus failed: {0}")]
    Bus(String),
    /// Nothing moves.
    #[error("{0} did not end in time; a device may hold the bus")]
    Timeout(&'static str),
    /// The answer is not what was sent.
    #[error("the answer's checksum is wrong; look at the length and shielding of its wires")]
    Crc,
    /// Another chip sits there.
    #[error("{0}")]
    WrongChip(String),
    /// It lost its settings since it was set up: it was without power, or another one took its place.
    #[error("it was without power since it was set up")]
    Reset,
    /// The answer is whole and cannot be.
    #[error("{0}")]
    Implausible(String),
    /// There is no such bus.
    #[error("{0}")]
    NoBus(String),
}

impl Fault {
    /// As it is counted.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Fault::NoAnswer => "no-answer",
            Fault::Arbitration => "arbitration",
            Fault::Bus(_) => "bus",
            Fault::Timeout(_) => "timeout",
            Fault::Crc => "crc",
            Fault::WrongChip(_) => "wrong-chip",
            Fault::Reset => "reset",
            Fault::Implausible(_) => "implausible",
            Fault::NoBus(_) => "no-bus",
        }
    }
}

impl From<ErrorKind> for Fault {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::NoAcknowledge(_) => Fault::NoAnswer,
            ErrorKind::ArbitrationLoss => Fault::Arbitration,
            other => Fault::Bus(other.to_string()),
        }
    }
}

/// `value` with so many decimals.
pub(super) fn rounded(value: f64, decimals: i32) -> f64 {
    let factor = 10_f64.powi(decimals);
    (value * factor).round() / factor
}
