//! Texas Instruments' ADS1115: four inputs, as volts, and as what the transmitter behind them means.

use ads1x1x::{Ads1x1x, Error, FullScaleRange, TargetAddr, channel, ic, mode};
use embedded_hal::delay::DelayNs;
use embedded_hal::i2c::I2c;
use serde::Deserialize;

use super::{Fault, Measured, rounded};

/// Between two looks whether a conversion is done.
const LOOK_MS: u32 = 2;
/// A conversion takes 7.8 ms, by a clock that is 10 % off at most; setting the range starts one more, which ends first.
const LOOKS_MAX: u32 = 20;

/// Between which pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Input {
    /// AIN0 against ground.
    A0,
    /// AIN1 against ground.
    A1,
    /// AIN2 against ground.
    A2,
    /// AIN3 against ground.
    A3,
    /// AIN0 against AIN1.
    A0A1,
    /// AIN0 against AIN3.
    A0A3,
    /// AIN1 against AIN3.
    A1A3,
    /// AIN2 against AIN3.
    A2A3,
}

/// How far up and down it measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Range {
    /// 187.5 µV steps.
    #[serde(rename = "6.144V")]
    V6144,
    /// 125 µV steps.
    #[default]
    #[serde(rename = "4.096V")]
    V4096,
    /// 62.5 µV steps.
    #[serde(rename = "2.048V")]
    V2048,
    /// 31.25 µV steps.
    #[serde(rename = "1.024V")]
    V1024,
    /// 15.625 µV steps.
    #[serde(rename = "0.512V")]
    V0512,
    /// 7.8125 µV steps.
    #[serde(rename = "0.256V")]
    V0256,
}

/// One input and what it means.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Channel {
    /// Which.
    pub input: Input,
    /// The name of its metric.
    pub metric: String,
    /// Its unit, UCUM.
    #[serde(default)]
    pub unit: Option<String>,
    /// How far it measures.
    #[serde(default)]
    pub range: Range,
    /// Two voltages …
    #[serde(default)]
    pub volts: Option<[f64; 2]>,
    /// … and what they stand for; a straight line goes through both. Without them the value is the voltage.
    #[serde(default)]
    pub values: Option<[f64; 2]>,
}

impl Range {
    /// The end of the range, in microvolts.
    const fn microvolts(self) -> i64 {
        match self {
            Range::V6144 => 6_144_000,
            Range::V4096 => 4_096_000,
            Range::V2048 => 2_048_000,
            Range::V1024 => 1_024_000,
            Range::V0512 => 512_000,
            Range::V0256 => 256_000,
        }
    }
}

impl Channel {
    /// Volts of what the converter gave.
    fn volts_of(&self, raw: i16) -> f64 {
        // In nanovolts it is a whole number for every range but the last, which has half ones.
        let half_nanovolts = self.range.microvolts() * 2_000 * i64::from(raw) / 32_768;
        #[expect(clippy::cast_precision_loss, reason = "34 bits")]
        let volts = half_nanovolts as f64 / 2e9;
        volts
    }

    /// What so many volts mean.
    fn value_of(&self, volts: f64) -> f64 {
        match (self.volts, self.values) {
            (Some([from, to]), Some([low, high])) => rounded(low + (volts - from) * (high - low) / (to - from), 6),
            _ => volts,
        }
    }

    /// What is wrong with it, by the key.
    pub(crate) fn faults(&self) -> Vec<(&'static str, &'static str)> {
        let mut faults = Vec::new();
        match (self.volts, self.values) {
            (Some(_), None) => {
                faults.push(("values", "is missing: two values that `volts` stand for, e.g. [0.0, 16.0]"))
            }
            (None, Some(_)) => {
                faults.push(("volts", "is missing: two voltages that stand for `values`, e.g. [0.4, 2.0]"))
            }
            (Some([from, to]), Some(values)) => {
                let usable = |numbers: [f64; 2]| numbers.iter().all(|number| number.is_finite());
                if !usable([from, to]) || (to - from).abs() < 1e-9 {
                    faults.push(("volts", "must be two different voltages, e.g. [0.4, 2.0]"));
                }
                if !usable(values) {
                    faults.push(("values", "must be two numbers, e.g. [0.0, 16.0]"));
                }
            }
            (None, None) => {}
        }
        faults
    }
}

/// Looks whether something answers that can be one.
pub(crate) fn start<I: I2c<Error: Into<Fault>>>(bus: &mut I, address: u8) -> Result<(), Fault> {
    Ads1x1x::new_ads1115(bus, target(address)?).is_measurement_in_progress().map(drop).map_err(fault)
}

/// Its register 1, the configuration.
pub(crate) fn register<I: I2c<Error: Into<Fault>>>(bus: &mut I, address: u8) -> Result<u16, Fault> {
    let mut register = [0; 2];
    bus.write_read(address, &[1], &mut register).map_err(Into::into)?;
    Ok(u16::from_be_bytes(register))
}

/// One conversion of each channel.
pub(crate) fn read<I, D>(bus: &mut I, delay: &mut D, address: u8, channels: &[Channel]) -> Result<Vec<Measured>, Fault>
where
    I: I2c<Error: Into<Fault>>,
    D: DelayNs,
{
    let mut chip = Ads1x1x::new_ads1115(bus, target(address)?);
    let mut measured = Vec::with_capacity(channels.len());
    for channel in channels {
        let raw = convert(&mut chip, delay, channel)?;
        if matches!(raw, i16::MIN | i16::MAX) {
            let name = &channel.metric;
            return Err(Fault::Implausible(format!(
                "{name} is at the end of its range: set a wider `range`, or look for a short"
            )));
        }
        let volts = channel.volts_of(raw);
        measured.push(Measured {
            metric: channel.metric.clone(),
            value: channel.value_of(volts),
            unit: channel.unit.clone().or_else(|| channel.values.is_none().then(|| "V".to_owned())),
            raw: format!("{raw} = {volts} V"),
        });
    }
    Ok(measured)
}

type Chip<'b, I> = Ads1x1x<&'b mut I, ic::Ads1115, ic::Resolution16Bit, mode::OneShot>;

fn convert<I, D>(chip: &mut Chip<'_, I>, delay: &mut D, channel: &Channel) -> Result<i16, Fault>
where
    I: I2c<Error: Into<Fault>>,
    D: DelayNs,
{
    let range = match channel.range {
        Range::V6144 => FullScaleRange::Within6_144V,
        Range::V4096 => FullScaleRange::Within4_096V,
        Range::V2048 => FullScaleRange::Within2_048V,
        Range::V1024 => FullScaleRange::Within1_024V,
        Range::V0512 => FullScaleRange::Within0_512V,
        Range::V0256 => FullScaleRange::Within0_256V,
    };
    chip.set_full_scale_range(range).map_err(fault)?;
    for _ in 0..LOOKS_MAX {
        let looked = match channel.input {
            Input::A0 => chip.read(channel::SingleA0),
            Input::A1 => chip.read(channel::SingleA1),
            Input::A2 => chip.read(channel::SingleA2),
            Input::A3 => chip.read(channel::SingleA3),
            Input::A0A1 => chip.read(channel::DifferentialA0A1),
            Input::A0A3 => chip.read(channel::DifferentialA0A3),
            Input::A1A3 => chip.read(channel::DifferentialA1A3),
            Input::A2A3 => chip.read(channel::DifferentialA2A3),
        };
        match looked {
            Ok(raw) => return Ok(raw),
            Err(nb::Error::WouldBlock) => delay.delay_ms(LOOK_MS),
            Err(nb::Error::Other(error)) => return Err(fault(error)),
        }
    }
    Err(Fault::Timeout("a conversion"))
}

fn target(address: u8) -> Result<TargetAddr, Fault> {
    match address {
        0x48 => Ok(TargetAddr::Gnd),
        0x49 => Ok(TargetAddr::Vdd),
        0x4A => Ok(TargetAddr::Sda),
        0x4B => Ok(TargetAddr::Scl),
        other => Err(Fault::WrongChip(format!("an ADS1115 has 0x48, 0x49, 0x4a or 0x4b, not {other:#04x}"))),
    }
}

fn fault<E: Into<Fault>>(error: Error<E>) -> Fault {
    match error {
        Error::I2C(error) => error.into(),
        Error::InvalidInputData => Fault::Bus("the driver refused its own input".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tape::{Tape, Waited};
    use super::*;

    fn channel(text: &str) -> Channel {
        toml::from_str(text).expect(text)
    }

    /// A0, ±4.096 V: the range is set (which starts a conversion), that one ends, ours is started, ends, is read.
    const A0: &str = "
        48 w 01 83 83
        48 w 01 r 03 83
        48 w 01 r 83 83
        48 w 01 C3 83                                   # AIN0 against ground, ±4.096 V, once, 128 a second
        48 w 01 r 43 83
        48 w 01 r C3 83
    ";

    fn read(answer: &str, channel: &Channel) -> Result<Vec<Measured>, Fault> {
        let mut tape = Tape::new(&format!("{A0}{answer}"));
        let measured = read_from(&mut tape, channel);
        assert!(tape.is_at_its_end() || measured.is_err());
        measured
    }

    fn read_from(tape: &mut Tape, channel: &Channel) -> Result<Vec<Measured>, Fault> {
        super::read(tape, &mut Waited::default(), 0x48, std::slice::from_ref(channel))
    }

    #[test]
    fn an_input_is_converted_by_the_transactions_of_the_datasheet() {
        let plain = channel("input = \"a0\"\nmetric = \"supply\"");
        let measured = read("48 w 00 r 40 00", &plain).expect("reads");
        let expected =
            Measured { metric: "supply".into(), value: 2.048, unit: Some("V".into()), raw: "16384 = 2.048 V".into() };
        assert_eq!(measured, [expected]);
        assert_eq!(read("48 w 00 r FF FF", &plain).expect("reads")[0].value, -0.000_125);
    }

    #[test]
    fn a_transmitter_of_4_to_20_milliamperes_at_100_ohms_reads_as_what_it_measures() {
        let text = "input = \"a0\"\nmetric = \"level\"\nunit = \"m\"\nvolts = [0.4, 2.0]\nvalues = [0.0, 16.0]";
        let level = channel(text);
        assert_eq!(level.value_of(0.4), 0.0);
        assert_eq!(level.value_of(1.2), 8.0);
        assert_eq!(level.value_of(2.0), 16.0);
        assert_eq!(level.value_of(0.0), -4.0, "a broken wire is below what can be, and a rule can say so");
        let measured = read("48 w 00 r 25 80", &level).expect("reads"); // 9600 = 1.2 V
        assert_eq!((measured[0].value, measured[0].unit.as_deref()), (8.0, Some("m")));
    }

    #[test]
    fn each_ranges_step_is_that_of_the_datasheet() {
        for (range, microvolts) in [
            ("6.144V", 187.5),
            ("4.096V", 125.0),
            ("2.048V", 62.5),
            ("1.024V", 31.25),
            ("0.512V", 15.625),
            ("0.256V", 7.8125),
        ] {
            let one = channel(&format!("input = \"a0\"\nmetric = \"m\"\nrange = \"{range}\""));
            assert_eq!(one.volts_of(2) * 1e6, 2.0 * microvolts, "{range}");
            assert_eq!(one.volts_of(-32_768) * 1e6, -32_768.0 * microvolts, "{range}");
        }
    }

    #[test]
    fn an_input_at_its_end_a_conversion_without_end_and_silence_are_faults() {
        let plain = channel("input = \"a0\"\nmetric = \"supply\"");
        for end in ["7F FF", "80 00"] {
            assert_eq!(read(&format!("48 w 00 r {end}"), &plain).expect_err(end).kind(), "implausible");
        }
        let endless = format!("48 w 01 83 83\n{}", "48 w 01 r 03 83\n".repeat(20));
        assert_eq!(read_from(&mut Tape::new(&endless), &plain).expect_err("endless").kind(), "timeout");
        assert_eq!(read_from(&mut Tape::new("48 w 01 !nak"), &plain), Err(Fault::NoAnswer));
        let elsewhere = super::read(&mut Tape::new(""), &mut Waited::default(), 0x50, &[plain]);
        assert_eq!(elsewhere.expect_err("no such address").kind(), "wrong-chip");
    }
}
