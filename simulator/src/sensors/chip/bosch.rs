//! Bosch's BME280 and BMP280.

use std::time::Duration;

use super::{Chip, first};

const CTRL_HUM: usize = 0xF2;
const STATUS: usize = 0xF3;
const CTRL_MEAS: usize = 0xF4;
const CONFIG: usize = 0xF5;
const DATA: usize = 0xF7;

/// After a reset its calibration is copied.
const COPIES_FOR: Duration = Duration::from_millis(2);
/// One measurement of each.
const MEASURES_FOR: Duration = Duration::from_micros(8_000);

/// The chip.
pub(crate) struct Bosch {
    humid: bool,
    calibration: Calibration,
    registers: [u8; 256],
    pointer: u8,
    copies_until: Duration,
    measures_until: Option<Duration>,
    celsius: f64,
    hectopascals: f64,
    percent: f64,
}

/// The numbers in its memory.
#[derive(Clone, Copy)]
struct Calibration {
    t: [i32; 3],
    p: [i32; 9],
    h: [i32; 6],
}

impl Calibration {
    /// Those of the datasheet's example.
    const EXAMPLE: Self = Self {
        t: [27_504, 26_435, -1_000],
        p: [36_477, -10_685, 3_024, 2_855, 140, -7, 15_500, -14_600, 6_000],
        h: [75, 362, 0, 313, 50, 30],
    };

    fn fine(&self, adc: f64) -> f64 {
        let [t1, t2, t3] = self.t.map(f64::from);
        let one = (adc / 16_384.0 - t1 / 1_024.0) * t2;
        let two = adc / 131_072.0 - t1 / 8_192.0;
        one + two * two * t3
    }

    fn pascals(&self, adc: f64, fine: f64) -> f64 {
        let [p1, p2, p3, p4, p5, p6, p7, p8, p9] = self.p.map(f64::from);
        let one = fine / 2.0 - 64_000.0;
        let two = one * one * p6 / 32_768.0 + one * p5 * 2.0;
        let two = two / 4.0 + p4 * 65_536.0;
        let one = (p3 * one * one / 524_288.0 + p2 * one) / 524_288.0;
        let one = (1.0 + one / 32_768.0) * p1;
        let p = (1_048_576.0 - adc - two / 4_096.0) * 6_250.0 / one;
        p + (p9 * p * p / 2_147_483_648.0 + p * p8 / 32_768.0 + p7) / 16.0
    }

    fn percent(&self, adc: f64, fine: f64) -> f64 {
        let [h1, h2, h3, h4, h5, h6] = self.h.map(f64::from);
        let h = fine - 76_800.0;
        let h = (adc - (h4 * 64.0 + h5 / 16_384.0 * h))
            * (h2 / 65_536.0 * (1.0 + h6 / 67_108_864.0 * h * (1.0 + h3 / 67_108_864.0 * h)));
        h * (1.0 - h1 * h / 524_288.0)
    }
}

impl Bosch {
    /// A BME280, or a BMP280.
    pub(crate) fn new(humid: bool) -> Self {
        let mut chip = Self {
            humid,
            calibration: Calibration::EXAMPLE,
            registers: [0; 256],
            pointer: 0,
            copies_until: Duration::ZERO,
            measures_until: None,
            celsius: 21.5,
            hectopascals: 1_013.25,
            percent: 45.0,
        };
        chip.power_on(Duration::ZERO);
        chip
    }

    fn write_register(&mut self, register: u8, value: u8, now: Duration) {
        let at = usize::from(register);
        match (register, value) {
            (0xE0, 0xB6) => self.power_on(now),
            (0xF2, _) if !self.humid => {}
            (0xF2 | 0xF5, _) => self.registers[at] = value,
            (0xF4, _) => {
                self.registers[at] = value;
                if value & 3 != 0 {
                    self.measures_until = Some(now + MEASURES_FOR);
                }
            }
            _ => {} // read only
        }
    }

    /// What is over by now.
    fn pass(&mut self, now: Duration) {
        if self.measures_until.is_some_and(|until| until <= now) {
            self.measures_until = None;
            self.measure();
            if self.registers[CTRL_MEAS] & 3 != 3 {
                self.registers[CTRL_MEAS] &= !3; // a forced measurement ends in sleep
            }
        }
        let measuring = u8::from(self.measures_until.is_some()) << 3;
        self.registers[STATUS] = measuring | u8::from(now < self.copies_until);
    }

    fn measure(&mut self) {
        const LAST: u32 = (1 << 20) - 1;
        let calibration = self.calibration;
        let adc_t = first(LAST, |adc| self.celsius <= calibration.fine(adc.into()) / 5_120.0);
        let fine = calibration.fine(adc_t.into());
        let adc_p = first(LAST, |adc| calibration.pascals(adc.into(), fine) <= self.hectopascals * 100.0);
        let adc_h = first(0xFFFF, |adc| self.percent <= calibration.percent(adc.into(), fine));
        let meas = self.registers[CTRL_MEAS];
        let of20 = |measured: bool, adc: u32| {
            let shown: u32 = if measured { adc } else { 0x80000 };
            let [_, a, b, c] = (shown << 4).to_be_bytes();
            [a, b, c]
        };
        self.registers[DATA..DATA + 3].copy_from_slice(&of20(meas & 0x1C != 0, adc_p));
        self.registers[DATA + 3..DATA + 6].copy_from_slice(&of20(meas & 0xE0 != 0, adc_t));
        if self.humid {
            let shown: u32 = if self.registers[CTRL_HUM] & 7 != 0 { adc_h } else { 0x8000 };
            let [_, _, a, b] = shown.to_be_bytes();
            self.registers[DATA + 6..DATA + 8].copy_from_slice(&[a, b]);
        }
    }

    fn burn(&mut self) {
        let Calibration { t, p, h } = self.calibration;
        let low = |number: i32| {
            let [a, b, ..] = number.to_le_bytes();
            [a, b]
        };
        for (at, number) in (0x88..).step_by(2).zip(t.into_iter().chain(p)) {
            self.registers[at..at + 2].copy_from_slice(&low(number));
        }
        if self.humid {
            self.registers[0xA1] = low(h[0])[0];
            self.registers[0xE1..0xE3].copy_from_slice(&low(h[1]));
            self.registers[0xE3] = low(h[2])[0];
            self.registers[0xE4] = low(h[3] >> 4)[0];
            self.registers[0xE5] = low((h[3] & 0xF) | (h[4] & 0xF) << 4)[0];
            self.registers[0xE6] = low(h[4] >> 4)[0];
            self.registers[0xE7] = low(h[5])[0];
        }
    }
}

impl Chip for Bosch {
    fn write(&mut self, bytes: &[u8], now: Duration) -> bool {
        self.pass(now);
        match bytes {
            [pointer] => self.pointer = *pointer,
            pairs => {
                for pair in pairs.chunks_exact(2) {
                    self.write_register(pair[0], pair[1], now);
                }
            }
        }
        true
    }

    fn read(&mut self, buffer: &mut [u8], now: Duration) -> bool {
        self.pass(now);
        for byte in buffer {
            *byte = self.registers[usize::from(self.pointer)];
            self.pointer = self.pointer.wrapping_add(1);
        }
        true
    }

    fn power_on(&mut self, now: Duration) {
        self.registers = [0; 256];
        self.registers[0xD0] = if self.humid { 0x60 } else { 0x58 };
        self.registers[DATA] = 0x80;
        self.registers[DATA + 3] = 0x80;
        if self.humid {
            self.registers[DATA + 6] = 0x80;
        }
        self.registers[CONFIG] = 0;
        self.burn();
        self.measures_until = None;
        self.copies_until = now + COPIES_FOR;
    }

    fn swap(&mut self) {
        self.calibration.t[0] += 300;
        self.calibration.p[0] += 200;
        self.calibration.h[1] += 5;
    }

    fn set(&mut self, quantity: &str, value: f64) -> bool {
        match quantity {
            "temperature" => self.celsius = value,
            "pressure" => self.hectopascals = value,
            "humidity" if self.humid => self.percent = value,
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_datasheets_example_comes_out_of_the_registers_it_was_put_into() {
        let mut chip = Bosch::new(true);
        chip.set("temperature", 25.08);
        chip.set("pressure", 1_006.532_7);
        chip.write(&[0xF2, 1, 0xF4, 0x25], Duration::from_secs(1));
        let mut status = [0];
        chip.write(&[0xF3], Duration::from_secs(1));
        chip.read(&mut status, Duration::from_secs(1));
        assert_eq!(status, [8], "it measures");
        let mut data = [0; 8];
        chip.write(&[0xF7], Duration::from_secs(2));
        chip.read(&mut data, Duration::from_secs(2));
        let adc = |at: usize| u32::from_be_bytes([0, data[at], data[at + 1], data[at + 2]]) >> 4;
        assert!(adc(0).abs_diff(415_148) < 100, "{}", adc(0));
        assert!(adc(3).abs_diff(519_888) < 50, "{}", adc(3));
    }
}
