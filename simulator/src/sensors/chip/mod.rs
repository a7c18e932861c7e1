//! Chips, as their datasheets describe them.

mod ads1115;

mod bosch;

mod sensirion;

use std::time::Duration;

pub(super) use self::ads1115::Ads1115;
pub(super) use self::bosch::Bosch;
pub(super) use self::sensirion::{Sht3x, Sht4x};

/// One chip on an I2C bus. `now` is the time since the start.
pub(super) trait Chip: Send {
    /// Takes a write; false: it does not acknowledge.
    fn write(&mut self, bytes: &[u8], now: Duration) -> bool;

    /// Fills a read; false: it does not acknowledge.
    fn read(&mut self, buffer: &mut [u8], now: Duration) -> bool;

    /// It gets power: everything is as after the start.
    fn power_on(&mut self, now: Duration);

    /// Another one of its kind takes its place.
    fn swap(&mut self) {}

    /// What it is to measure; false: it does not measure that.
    fn set(&mut self, quantity: &str, value: f64) -> bool;

    /// Whether it sends checksums.
    fn has_checksum(&self) -> bool {
        false
    }
}

/// The first number in `0 ..= last` for which `reaches` is true, where it stays true from there on; else `last`.
fn first(last: u32, reaches: impl Fn(u32) -> bool) -> u32 {
    let (mut low, mut high) = (0, last);
    while low < high {
        let middle = low + (high - low) / 2;
        if reaches(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}
