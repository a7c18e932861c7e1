//! Texas Instruments' ADS1115, asked for one conversion at a time.

use std::time::Duration;

use super::Chip;

/// The chip.
#[derive(Debug)]
pub(crate) struct Ads1115 {
    pointer: u8,
    config: u16,
    thresholds: [u16; 2],
    result: i16,
    converts_until: Option<Duration>,
    volts: [f64; 4],
}

impl Ads1115 {
    pub(crate) const fn new() -> Self {
        Self {
            pointer: 0,
            config: 0x8583,
            thresholds: [0x8000, 0x7FFF],
            result: 0,
            converts_until: None,
            volts: [1.2, 0.0, 3.3, 0.5],
        }
    }

    fn pass(&mut self, now: Duration) {
        if self.converts_until.is_some_and(|until| until <= now) {
            self.converts_until = None;
            self.result = self.convert();
        }
    }

    fn convert(&self) -> i16 {
        let [a0, a1, a2, a3] = self.volts;
        let volts = [a0 - a1, a0 - a3, a1 - a3, a2 - a3, a0, a1, a2, a3][usize::from(self.config >> 12 & 7)];
        let range = [6.144, 4.096, 2.048, 1.024, 0.512, 0.256, 0.256, 0.256][usize::from(self.config >> 9 & 7)];
        let steps = (volts / range * 32_768.0).round().clamp(-32_768.0, 32_767.0);
        #[expect(clippy::cast_possible_truncation, reason = "it was clamped")]
        let steps = steps as i16;
        steps
    }
}

impl Chip for Ads1115 {
    fn write(&mut self, bytes: &[u8], now: Duration) -> bool {
        self.pass(now);
        let Some((pointer, value)) = bytes.split_first() else { return true };
        self.pointer = pointer & 3;
        if let &[upper, lower] = value {
            let value = u16::from_be_bytes([upper, lower]);
            match self.pointer {
                1 => {
                    self.config = value & 0x7FFF;
                    if value & 0x8000 != 0 && self.converts_until.is_none() {
                        let per_second = [8, 16, 32, 64, 128, 250, 475, 860][usize::from(value >> 5 & 7)];
                        self.converts_until = Some(now + Duration::from_secs(1) / per_second);
                    }
                }
                2 => self.thresholds[0] = value,
                3 => self.thresholds[1] = value,
                _ => {} // the result is not written
            }
        }
        true
    }

    fn read(&mut self, buffer: &mut [u8], now: Duration) -> bool {
        self.pass(now);
        let idle = if self.converts_until.is_none() { 0x8000 } else { 0 };
        let value = match self.pointer {
            0 => self.result.to_be_bytes(),
            1 => (self.config & 0x7FFF | idle).to_be_bytes(),
            2 => self.thresholds[0].to_be_bytes(),
            _ => self.thresholds[1].to_be_bytes(),
        };
        for (to, from) in buffer.iter_mut().zip(value.into_iter().cycle()) {
            *to = from;
        }
        true
    }

    fn power_on(&mut self, _now: Duration) {
        *self = Self { volts: self.volts, ..Self::new() };
    }

    fn set(&mut self, quantity: &str, value: f64) -> bool {
        let Some(input) = ["a0", "a1", "a2", "a3"].iter().position(|name| *name == quantity) else { return false };
        self.volts[input] = value;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_conversion_takes_its_time_and_is_of_the_input_and_range_asked_for() {
        let mut chip = Ads1115::new();
        chip.set("a3", 1.024);
        let (start, mut word) = (Duration::from_secs(1), [0; 2]);
        chip.write(&[1, 0xF5, 0x83], start); // AIN3 against ground, ±2.048 V
        chip.read(&mut word, start);
        assert_eq!(word, [0x75, 0x83], "it converts");
        let done = start + Duration::from_millis(8);
        chip.read(&mut word, done);
        assert_eq!(word, [0xF5, 0x83]);
        chip.write(&[0], done);
        chip.read(&mut word, done);
        assert_eq!(i16::from_be_bytes(word), 16_384);
    }
}
