//! Sensirion's SHT3x and SHT4x: a command, a while, an answer once.

use std::time::Duration;

use super::Chip;

/// What both have.
#[derive(Debug)]
struct Sensirion {
    celsius: f64,
    percent: f64,
    /// What is read next, and from when on.
    answer: Option<(Duration, Vec<u8>)>,
    /// It does not listen until then.
    busy_until: Duration,
}

impl Sensirion {
    const fn new() -> Self {
        Self { celsius: 21.5, percent: 45.0, answer: None, busy_until: Duration::ZERO }
    }

    /// Before its answer is ready it does not acknowledge; an answer is given once.
    fn read(&mut self, buffer: &mut [u8], now: Duration) -> bool {
        match self.answer.take() {
            Some((ready, answer)) if ready <= now => {
                buffer.fill(0xFF);
                for (to, from) in buffer.iter_mut().zip(answer) {
                    *to = from;
                }
                true
            }
            waits => {
                self.answer = waits;
                false
            }
        }
    }

    fn set(&mut self, quantity: &str, value: f64) -> bool {
        match quantity {
            "temperature" => self.celsius = value,
            "humidity" => self.percent = value,
            _ => return false,
        }
        true
    }

    /// Temperature and humidity, with `least` and `span` of the latter.
    fn measured(&self, least: f64, span: f64) -> Vec<u8> {
        words(&[part_of(self.celsius, -45.0, 175.0), part_of(self.percent, least, span)])
    }

    fn reset(&mut self, now: Duration) {
        self.answer = None;
        self.busy_until = now + Duration::from_millis(1);
    }
}

/// Where `value` stands on the line, as 16 bits.
fn part_of(value: f64, least: f64, span: f64) -> u16 {
    let part = ((value - least) / span * 65_535.0).round().clamp(0.0, 65_535.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was clamped")]
    let part = part as u16;
    part
}

/// Each word with its checksum behind it.
fn words(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes().into_iter().chain([checksum(*word)])).collect()
}

/// The rest of the word, begun with ones, divided by x⁸ + x⁵ + x⁴ + 1.
fn checksum(word: u16) -> u8 {
    let mut rest = (u32::from(word) ^ 0xFF00) << 8;
    for bit in (8..24).rev() {
        if rest >> bit & 1 == 1 {
            rest ^= 0x131 << (bit - 8);
        }
    }
    rest.to_le_bytes()[0]
}

/// The third generation.
#[derive(Debug)]
pub(crate) struct Sht3x {
    common: Sensirion,
    status: u16,
}

impl Sht3x {
    pub(crate) const fn new() -> Self {
        Self { common: Sensirion::new(), status: 0x8010 }
    }
}

impl Chip for Sht3x {
    fn write(&mut self, bytes: &[u8], now: Duration) -> bool {
        let &[upper, lower, ..] = bytes else { return false };
        if now < self.common.busy_until {
            return false;
        }
        match u16::from_be_bytes([upper, lower]) {
            0x2400 => {
                let ready = now + Duration::from_micros(12_500);
                self.common.answer = Some((ready, self.common.measured(0.0, 100.0)));
                self.common.busy_until = ready;
            }
            0xF32D => self.common.answer = Some((now, words(&[self.status]))),
            0x3041 => self.status &= !0x8010,
            0x30A2 => self.power_on(now),
            _ => return false,
        }
        true
    }

    fn read(&mut self, buffer: &mut [u8], now: Duration) -> bool {
        self.common.read(buffer, now)
    }

    fn power_on(&mut self, now: Duration) {
        self.status = 0x8010;
        self.common.reset(now);
    }

    fn set(&mut self, quantity: &str, value: f64) -> bool {
        self.common.set(quantity, value)
    }

    fn has_checksum(&self) -> bool {
        true
    }
}

/// The fourth.
#[derive(Debug)]
pub(crate) struct Sht4x {
    common: Sensirion,
    serial: u32,
}

impl Sht4x {
    pub(crate) const fn new() -> Self {
        Self { common: Sensirion::new(), serial: 0x0F5A_1234 }
    }
}

impl Chip for Sht4x {
    fn write(&mut self, bytes: &[u8], now: Duration) -> bool {
        if now < self.common.busy_until {
            return false;
        }
        match bytes {
            [0xFD] => {
                let ready = now + Duration::from_micros(8_300);
                self.common.answer = Some((ready, self.common.measured(-6.0, 125.0)));
                self.common.busy_until = ready;
            }
            [0x89] => {
                let [a, b, c, d] = self.serial.to_be_bytes();
                let serial = words(&[u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]);
                self.common.answer = Some((now + Duration::from_micros(100), serial));
            }
            [0x94] => self.power_on(now),
            _ => return false,
        }
        true
    }

    fn read(&mut self, buffer: &mut [u8], now: Duration) -> bool {
        self.common.read(buffer, now)
    }

    fn power_on(&mut self, now: Duration) {
        self.common.reset(now);
    }

    fn swap(&mut self) {
        self.serial += 1;
    }

    fn set(&mut self, quantity: &str, value: f64) -> bool {
        self.common.set(quantity, value)
    }

    fn has_checksum(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_datasheets_example() {
        assert_eq!(checksum(0xBEEF), 0x92);
    }

    #[test]
    fn it_does_not_acknowledge_before_it_has_measured_and_answers_once() {
        let mut chip = Sht3x::new();
        let (start, mut answer) = (Duration::from_secs(1), [0; 6]);
        assert!(chip.write(&[0x24, 0x00], start));
        assert!(!chip.read(&mut answer, start + Duration::from_millis(12)));
        assert!(chip.read(&mut answer, start + Duration::from_millis(13)));
        assert!(!chip.read(&mut answer, start + Duration::from_millis(14)));
    }
}
