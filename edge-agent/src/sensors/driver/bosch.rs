//! Bosch's BME280 (temperature, pressure, humidity) and BMP280 (without humidity).
//!
//! Forced mode: each reading is asked for, and the chip sleeps between two. At start a value is written into a register
//! that has no other use in this mode; where it is gone, the chip lost its power, and what is known of it (its
//! calibration above all) may be another one's.

use embedded_hal::delay::DelayNs;
use embedded_hal::i2c::I2c;

use super::{Fault, Measured, rounded};

const CALIBRATION: u8 = 0x88;
const ID: u8 = 0xD0;
const RESET: u8 = 0xE0;
const CALIBRATION_HUMIDITY: u8 = 0xE1;
const CTRL_HUM: u8 = 0xF2;
const STATUS: u8 = 0xF3;
const CTRL_MEAS: u8 = 0xF4;
const CONFIG: u8 = 0xF5;
const DATA: u8 = 0xF7;

const RESET_WORD: u8 = 0xB6;
/// Once each of temperature (bits 7 to 5) and pressure (4 to 2), then sleep (1 and 0).
const MEASURE: u8 = 0b0010_0101;
/// Humidity, once.
const MEASURE_HUMIDITY: u8 = 0b001;
/// Standby of normal mode, which we do not use: it only says that the chip is as we left it.
const MARK: u8 = 0b1010_0000;
const MEASURING: u8 = 0b1000;
const COPYING: u8 = 0b0001;
/// What stands in the data registers until something was measured.
const NEVER_20: i64 = 0x80000;
const NEVER_16: i64 = 0x8000;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chip {
    Bme280,
    Bmp280,
}

impl Chip {
    /// By the number in its register 0xD0.
    pub(crate) const fn of_id(id: u8) -> Option<Self> {
        match id {
            0x60 => Some(Chip::Bme280),
            0x56..=0x58 => Some(Chip::Bmp280),
            _ => None,
        }
    }

    /// As `kind` names it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Chip::Bme280 => "bme280",
            Chip::Bmp280 => "bmp280",
        }
    }
}

/// The number in register 0xD0 of whatever sits there.
pub(crate) fn id<I: I2c<Error: Into<Fault>>>(bus: &mut I, address: u8) -> Result<u8, Fault> {
    let mut id = [0];
    bus.write_read(address, &[ID], &mut id).map_err(Into::into)?;
    Ok(id[0])
}

/// A chip that was set up.
#[derive(Debug)]
pub(crate) struct Bosch {
    address: u8,
    chip: Chip,
    calibration: Calibration,
}

impl Bosch {
    /// Resets the chip, reads its calibration and sets it up.
    pub(crate) fn start<I, D>(bus: &mut I, delay: &mut D, address: u8, chip: Chip) -> Result<Self, Fault>
    where
        I: I2c<Error: Into<Fault>>,
        D: DelayNs,
    {
        let id = id(bus, address)?;
        if Chip::of_id(id) != Some(chip) {
            return Err(Fault::WrongChip(match Chip::of_id(id) {
                Some(other) => format!("there sits a {0}; write kind = \"{0}\"", other.as_str()),
                None => format!("the chip there says id {id:#04x}, which no {} does", chip.as_str()),
            }));
        }
        bus.write(address, &[RESET, RESET_WORD]).map_err(Into::into)?;
        delay.delay_ms(3);
        wait(bus, delay, address, COPYING, "its start")?;
        let mut low = [0; 26];
        let low_bytes = if chip == Chip::Bme280 { 26 } else { 24 };
        bus.write_read(address, &[CALIBRATION], &mut low[..low_bytes]).map_err(Into::into)?;
        let mut high = [0; 7];
        if chip == Chip::Bme280 {
            bus.write_read(address, &[CALIBRATION_HUMIDITY], &mut high).map_err(Into::into)?;
        }
        let calibration = Calibration::parse(&low, &high);
        if matches!(calibration.t1, 0 | u16::MAX) {
            return Err(Fault::Implausible("its calibration is blank".to_owned()));
        }
        bus.write(address, &[CONFIG, MARK]).map_err(Into::into)?;
        Ok(Self { address, chip, calibration })
    }

    /// One measurement.
    pub(crate) fn read<I, D>(&self, bus: &mut I, delay: &mut D) -> Result<Vec<Measured>, Fault>
    where
        I: I2c<Error: Into<Fault>>,
        D: DelayNs,
    {
        let address = self.address;
        if self.chip == Chip::Bme280 {
            bus.write(address, &[CTRL_HUM, MEASURE_HUMIDITY]).map_err(Into::into)?;
        }
        bus.write(address, &[CTRL_MEAS, MEASURE]).map_err(Into::into)?;
        delay.delay_ms(10); // 9.3 ms at most, says the datasheet
        let [_, config] = wait(bus, delay, address, MEASURING, "a measurement")?;
        if config != MARK {
            return Err(Fault::Reset);
        }
        let mut data = [0; 8];
        let bytes = if self.chip == Chip::Bme280 { 8 } else { 6 };
        bus.write_read(address, &[DATA], &mut data[..bytes]).map_err(Into::into)?;
        let raw = Raw::parse(&data);
        let humid = self.chip == Chip::Bme280;
        if raw.temperature == NEVER_20 || raw.pressure == NEVER_20 || (humid && raw.humidity == NEVER_16) {
            return Err(Fault::Implausible("it measured nothing, though it was asked to".to_owned()));
        }
        self.measured(&raw).ok_or_else(|| Fault::Implausible(format!("{raw:?} does not go with its calibration")))
    }

    fn measured(&self, raw: &Raw) -> Option<Vec<Measured>> {
        let calibration = &self.calibration;
        let fine = calibration.fine(raw.temperature);
        let pascals = calibration.pressure(raw.pressure, fine)?;
        let mut all = vec![
            Measured::new(
                "temperature",
                as_f64(celsius_hundredths(fine)) / 100.0,
                "Cel",
                format!("adc_T={}", raw.temperature),
            ),
            Measured::new("pressure", rounded(as_f64(pascals) / 25_600.0, 4), "hPa", format!("adc_P={}", raw.pressure)),
        ];
        if self.chip == Chip::Bme280 {
            let percent = rounded(as_f64(calibration.humidity(raw.humidity, fine)) / 1024.0, 3);
            all.push(Measured::new("humidity", percent, "%", format!("adc_H={}", raw.humidity)));
        }
        Some(all)
    }
}

/// Waits until `busy` is gone from the status; gives `ctrl_meas` and `config`, which stand behind it.
fn wait<I, D>(bus: &mut I, delay: &mut D, address: u8, busy: u8, what: &'static str) -> Result<[u8; 2], Fault>
where
    I: I2c<Error: Into<Fault>>,
    D: DelayNs,
{
    for _ in 0..10 {
        let mut registers = [0; 3];
        bus.write_read(address, &[STATUS], &mut registers).map_err(Into::into)?;
        let [status, ctrl_meas, config] = registers;
        if status & busy == 0 {
            return Ok([ctrl_meas, config]);
        }
        delay.delay_ms(2);
    }
    Err(Fault::Timeout(what))
}

/// What the converter gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Raw {
    pressure: i64,
    temperature: i64,
    humidity: i64,
}

impl Raw {
    fn parse(data: &[u8; 8]) -> Self {
        let of20 = |at: usize| i64::from(data[at]) << 12 | i64::from(data[at + 1]) << 4 | i64::from(data[at + 2]) >> 4;
        Self { pressure: of20(0), temperature: of20(3), humidity: i64::from(data[6]) << 8 | i64::from(data[7]) }
    }
}

/// The numbers that Bosch burnt into the chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Calibration {
    t1: u16,
    t2: i16,
    t3: i16,
    p1: u16,
    p: [i16; 8], // dig_P2 … dig_P9
    h1: u8,
    h2: i16,
    h3: u8,
    h4: i16,
    h5: i16,
    h6: i8,
}

impl Calibration {
    fn parse(low: &[u8; 26], high: &[u8; 7]) -> Self {
        let unsigned = |at: usize| u16::from_le_bytes([low[at], low[at + 1]]);
        let signed = |at: usize| i16::from_le_bytes([low[at], low[at + 1]]);
        let [e1, e2, e3, e4, e5, e6, e7] = *high;
        let twelve_bits = |upper: u8, lower: u8| i16::from(i8::from_le_bytes([upper])) << 4 | i16::from(lower);
        Self {
            t1: unsigned(0),
            t2: signed(2),
            t3: signed(4),
            p1: unsigned(6),
            p: std::array::from_fn(|index| signed(8 + 2 * index)),
            h1: low[25],
            h2: i16::from_le_bytes([e1, e2]),
            h3: e3,
            h4: twelve_bits(e4, e5 & 0x0F),
            h5: twelve_bits(e6, e5 >> 4),
            h6: i8::from_le_bytes([e7]),
        }
    }

    /// The temperature in 1/5120 degree: it stands in the formulae of the other two.
    fn fine(&self, adc: i64) -> i64 {
        let (t1, t2, t3) = (i64::from(self.t1), i64::from(self.t2), i64::from(self.t3));
        let first = (((adc >> 3) - (t1 << 1)) * t2) >> 11;
        let off = (adc >> 4) - t1;
        first + ((((off * off) >> 12) * t3) >> 14)
    }

    /// Pascals, with 8 bits behind the point; `None` where these numbers cannot be.
    fn pressure(&self, adc: i64, fine: i64) -> Option<i64> {
        let [p2, p3, p4, p5, p6, p7, p8, p9] = self.p.map(i128::from);
        let off = i128::from(fine) - 128_000;
        let second = off * off * p6 + ((off * p5) << 17) + (p4 << 35);
        let first = ((off * off * p3) >> 8) + ((off * p2) << 12);
        let first = (((1 << 47) + first) * i128::from(self.p1)) >> 33;
        let scaled = (((1_048_576 - i128::from(adc)) << 31) - second) * 3125;
        let rough = scaled.checked_div(first)?;
        // Twice what the chip can measure, with 16 bits behind the point; what lies beyond is no pressure, and would not fit below.
        if !(0..220_000 << 16).contains(&rough) {
            return None;
        }
        let square = (p9 * (rough >> 13) * (rough >> 13)) >> 25;
        let linear = (p8 * rough) >> 19;
        i64::try_from(((rough + square + linear) >> 8) + (p7 << 4)).ok().filter(|pascals| 0 < *pascals)
    }

    /// Percent of relative humidity, with 10 bits behind the point.
    fn humidity(&self, adc: i64, fine: i64) -> i64 {
        let (h1, h2, h3) = (i64::from(self.h1), i64::from(self.h2), i64::from(self.h3));
        let (h4, h5, h6) = (i64::from(self.h4), i64::from(self.h5), i64::from(self.h6));
        let off = fine - 76_800;
        let measured = ((adc << 14) - (h4 << 20) - h5 * off + 16_384) >> 15;
        let gain = ((((((off * h6) >> 10) * (((off * h3) >> 11) + 32_768)) >> 10) + 2_097_152) * h2 + 8_192) >> 14;
        let product = measured * gain;
        let bent = product - (((((product >> 15) * (product >> 15)) >> 7) * h1) >> 4);
        bent.clamp(0, 419_430_400) >> 12
    }
}

fn celsius_hundredths(fine: i64) -> i64 {
    (fine * 5 + 128) >> 8
}

#[expect(clippy::cast_precision_loss, reason = "no value of these chips has more than 32 bits")]
fn as_f64(number: i64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::super::tape::{Tape, Waited};
    use super::*;

    /// The calculation example of the BMP280's datasheet (3.12).
    const EXAMPLE: Calibration = Calibration {
        t1: 27_504,
        t2: 26_435,
        t3: -1_000,
        p1: 36_477,
        p: [-10_685, 3_024, 2_855, 140, -7, 15_500, -14_600, 6_000],
        h1: 75,
        h2: 362,
        h3: 0,
        h4: 313,
        h5: 50,
        h6: 30,
    };

    /// The same as it lies in the chip; humidity's numbers are those of a chip at hand, in the datasheet's layout.
    const START: &str = "
        76 w D0 r 60
        76 w E0 B6                                      # reset
        76 w F3 r 01 00 00                              # still copying its calibration
        76 w F3 r 00 00 00
        76 w 88 r 70 6B 43 67 18 FC 7D 8E 43 D6 D0 0B 27 0B 8C 00 F9 FF 8C 3C F8 C6 70 17 00 4B
        76 w E1 r 6A 01 00 13 29 03 1E
        76 w F5 A0
    ";
    const READ: &str = "
        76 w F2 01
        76 w F4 25
        76 w F3 r 08 25 A0                              # still measuring
        76 w F3 r 00 24 A0
        76 w F7 r 65 5A C0 7E ED 00 80 01               # 415148, 519888
    ";

    fn started(log: &str) -> (Tape, Bosch) {
        let mut tape = Tape::new(&format!("{START}{log}"));
        let bosch = Bosch::start(&mut tape, &mut Waited::default(), 0x76, Chip::Bme280).expect("starts");
        (tape, bosch)
    }

    #[test]
    fn the_datasheets_example_is_25_08_degrees_and_1006_53_hectopascals() {
        let fine = EXAMPLE.fine(519_888);
        assert_eq!((fine, celsius_hundredths(fine)), (128_422, 2_508));
        // 100653.25 Pa. The datasheet prints 25767236, which is the formula with fractions, 0.01 Pa beside this one.
        assert_eq!(EXAMPLE.pressure(415_148, fine), Some(25_767_233));
    }

    #[test]
    fn a_chip_is_reset_read_out_and_measured_by_the_transactions_of_the_datasheet() {
        let (mut tape, bosch) = started(READ);
        assert_eq!(bosch.calibration, EXAMPLE);
        let mut waited = Waited::default();
        let measured = bosch.read(&mut tape, &mut waited).expect("reads");
        let values: Vec<_> = measured.iter().map(|m| (m.metric.as_str(), m.value, m.raw.as_str())).collect();
        assert_eq!(values[0], ("temperature", 25.08, "adc_T=519888"));
        assert_eq!(values[1], ("pressure", 1006.5325, "adc_P=415148"));
        assert_eq!((values[2].0, values[2].2), ("humidity", "adc_H=32769"));
        assert!(tape.is_at_its_end());
        assert!(9_300_000 <= waited.ns, "the longest measurement is waited for");
    }

    /// The formula with fractions, of the same datasheet.
    fn humidity_in_floats(c: &Calibration, adc: f64, fine: f64) -> f64 {
        let off = fine - 76_800.0;
        let h = (adc - (f64::from(c.h4) * 64.0 + f64::from(c.h5) / 16_384.0 * off))
            * (f64::from(c.h2) / 65_536.0
                * (1.0 + f64::from(c.h6) / 67_108_864.0 * off * (1.0 + f64::from(c.h3) / 67_108_864.0 * off)));
        (h * (1.0 - f64::from(c.h1) * h / 524_288.0)).clamp(0.0, 100.0)
    }

    #[test]
    fn humidity_in_whole_numbers_is_that_of_the_formula_with_fractions() {
        for fine in [-100_000, 0, 76_800, 128_422, 400_000] {
            for adc in (0..=65_535).step_by(1_111) {
                let whole = as_f64(EXAMPLE.humidity(adc, fine)) / 1024.0;
                let fraction = humidity_in_floats(&EXAMPLE, as_f64(adc), as_f64(fine));
                assert!((whole - fraction).abs() < 0.02, "{adc} {fine}: {whole} {fraction}");
            }
        }
    }

    #[test]
    fn a_chip_that_lost_its_power_is_seen_before_its_values_are_taken() {
        let (mut tape, bosch) = started("76 w F2 01\n76 w F4 25\n76 w F3 r 00 24 00");
        assert_eq!(bosch.read(&mut tape, &mut Waited::default()), Err(Fault::Reset));
    }

    #[test]
    fn what_was_never_measured_is_no_value() {
        for data in ["80 00 00 7E ED 00 80 01", "65 5A C0 80 00 00 80 01", "65 5A C0 7E ED 00 80 00"] {
            let (mut tape, bosch) = started(&format!("76 w F2 01\n76 w F4 25\n76 w F3 r 00 24 A0\n76 w F7 r {data}"));
            let fault = bosch.read(&mut tape, &mut Waited::default()).expect_err(data);
            assert_eq!(fault.kind(), "implausible", "{data}");
        }
    }

    #[test]
    fn each_misfortune_at_the_start_has_its_name() {
        let blank = START.replace("70 6B", "FF FF");
        let busy = format!("76 w D0 r 60\n76 w E0 B6\n{}", "76 w F3 r 01 00 00\n".repeat(10));
        for (log, kind) in [
            ("76 w D0 !nak", "no-answer"),
            ("76 w D0 !lost", "arbitration"),
            ("76 w D0 r 58", "wrong-chip"),
            ("76 w D0 r 00", "wrong-chip"),
            (blank.as_str(), "implausible"),
            (busy.as_str(), "timeout"),
        ] {
            let started = Bosch::start(&mut Tape::new(log), &mut Waited::default(), 0x76, Chip::Bme280);
            assert_eq!(started.expect_err(log).kind(), kind, "{log}");
        }
    }

    #[test]
    fn a_bmp280_has_no_humidity_and_is_not_asked_for_it() {
        let mut tape = Tape::new(
            "77 w D0 r 58\n77 w E0 B6\n77 w F3 r 00 00 00
             77 w 88 r 70 6B 43 67 18 FC 7D 8E 43 D6 D0 0B 27 0B 8C 00 F9 FF 8C 3C F8 C6 70 17
             77 w F5 A0\n77 w F4 25\n77 w F3 r 00 24 A0\n77 w F7 r 65 5A C0 7E ED 00",
        );
        let bosch = Bosch::start(&mut tape, &mut Waited::default(), 0x77, Chip::Bmp280).expect("starts");
        assert_eq!(bosch.read(&mut tape, &mut Waited::default()).expect("reads").len(), 2);
        assert!(tape.is_at_its_end());
    }

    proptest::proptest! {
        #[test]
        fn no_calibration_and_no_value_makes_it_panic(low: [u8; 26], high: [u8; 7], data: [u8; 8]) {
            let bosch = Bosch { address: 0x76, chip: Chip::Bme280, calibration: Calibration::parse(&low, &high) };
            for measured in bosch.measured(&Raw::parse(&data)).into_iter().flatten() {
                assert!(measured.value.is_finite());
            }
        }
    }
}
