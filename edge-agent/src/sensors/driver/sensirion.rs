//! Sensirion's SHT3x and SHT4x: temperature and humidity, each word with a checksum.

use embedded_hal::delay::DelayNs;
use embedded_hal::i2c::I2c;
use sht4x::{Address, Precision, Sht4x};

use super::{Fault, Measured};

/// Measure once, high repeatability, without stretching the clock.
const SHT3X_MEASURE: [u8; 2] = [0x24, 0x00];
const SHT3X_STATUS: [u8; 2] = [0xF3, 0x2D];
const SHT3X_RESET: [u8; 2] = [0x30, 0xA2];

/// Resets an SHT3x and looks whether it answers as one.
pub(crate) fn start_sht3x<I, D>(bus: &mut I, delay: &mut D, address: u8) -> Result<(), Fault>
where
    I: I2c<Error: Into<Fault>>,
    D: DelayNs,
{
    bus.write(address, &SHT3X_RESET).map_err(Into::into)?;
    delay.delay_ms(2);
    sht3x_status(bus, address).map(drop)
}

/// Its status register.
pub(crate) fn sht3x_status<I: I2c<Error: Into<Fault>>>(bus: &mut I, address: u8) -> Result<u16, Fault> {
    let mut answer = [0; 3];
    bus.write_read(address, &SHT3X_STATUS, &mut answer).map_err(Into::into)?;
    word(answer)
}

/// One measurement of an SHT3x.
pub(crate) fn read_sht3x<I, D>(bus: &mut I, delay: &mut D, address: u8) -> Result<Vec<Measured>, Fault>
where
    I: I2c<Error: Into<Fault>>,
    D: DelayNs,
{
    bus.write(address, &SHT3X_MEASURE).map_err(Into::into)?;
    delay.delay_ms(16); // 15.5 ms at most
    let mut answer = [0; 6];
    bus.read(address, &mut answer).map_err(Into::into)?;
    let [t0, t1, t2, h0, h1, h2] = answer;
    Ok(measured(word([t0, t1, t2])?, word([h0, h1, h2])?, (0, 100_000)))
}

/// Resets an SHT4x and asks for its serial number.
pub(crate) fn start_sht4x<I, D>(bus: &mut I, delay: &mut D, address: u8) -> Result<u32, Fault>
where
    I: I2c<Error: Into<Fault>>,
    D: DelayNs,
{
    sht4x(bus, address)?.soft_reset(delay).map_err(fault)?;
    serial_sht4x(bus, delay, address)
}

/// Its serial number.
pub(crate) fn serial_sht4x<I, D>(bus: &mut I, delay: &mut D, address: u8) -> Result<u32, Fault>
where
    I: I2c<Error: Into<Fault>>,
    D: DelayNs,
{
    sht4x(bus, address)?.serial_number(delay).map_err(fault)
}

/// One measurement of an SHT4x.
pub(crate) fn read_sht4x<I, D>(bus: &mut I, delay: &mut D, address: u8) -> Result<Vec<Measured>, Fault>
where
    I: I2c<Error: Into<Fault>>,
    D: DelayNs,
{
    let raw = sht4x(bus, address)?.measure_raw(Precision::High, delay).map_err(fault)?;
    Ok(measured(raw.temperature, raw.humidity, (-6_000, 125_000)))
}

fn sht4x<I: I2c, D: DelayNs>(bus: &mut I, address: u8) -> Result<Sht4x<&mut I, D>, Fault> {
    let address = match address {
        0x44 => Address::Address0x44,
        0x45 => Address::Address0x45,
        0x46 => Address::Address0x46,
        other => return Err(Fault::WrongChip(format!("an SHT4x has 0x44, 0x45 or 0x46, not {other:#04x}"))),
    };
    Ok(Sht4x::new_with_address(bus, address))
}

fn fault<E: Into<Fault>>(error: sht4x::Error<E>) -> Fault {
    match error {
        sht4x::Error::I2c(error) => error.into(),
        sht4x::Error::Crc => Fault::Crc,
        _ => Fault::Bus("the driver failed".to_owned()),
    }
}

/// Both map 0 ..= 65535 to a straight line: -45 … 130 degrees, and `humidity` (least, span) in thousandths of a percent.
/// The SHT4x's goes beyond both ends, which its datasheet has cropped.
fn measured(temperature: u16, humidity: u16, (least, span): (i64, i64)) -> Vec<Measured> {
    let on_line = |raw: u16, least: i64, span: i64| least + (span * i64::from(raw) + 32_767).div_euclid(65_535);
    let celsius = thousandths(on_line(temperature, -45_000, 175_000));
    let percent = thousandths(on_line(humidity, least, span).clamp(0, 100_000));
    vec![
        Measured::new("temperature", celsius, "Cel", format!("{temperature:#06x}")),
        Measured::new("humidity", percent, "%", format!("{humidity:#06x}")),
    ]
}

fn thousandths(number: i64) -> f64 {
    f64::from(i32::try_from(number).unwrap_or(i32::MAX)) / 1_000.0
}

fn word([upper, lower, sum]: [u8; 3]) -> Result<u16, Fault> {
    if crc8([upper, lower]) == sum { Ok(u16::from_be_bytes([upper, lower])) } else { Err(Fault::Crc) }
}

/// x⁸ + x⁵ + x⁴ + 1, from 0xFF.
fn crc8(bytes: [u8; 2]) -> u8 {
    bytes.into_iter().fold(0xFF, |crc, byte| {
        (0..8).fold(crc ^ byte, |crc: u8, _| if crc & 0x80 == 0 { crc << 1 } else { (crc << 1) ^ 0x31 })
    })
}

#[cfg(test)]
mod tests {
    use super::super::tape::{Tape, Waited};
    use super::*;

    fn values(measured: Result<Vec<Measured>, Fault>) -> Vec<(String, f64)> {
        measured.expect("reads").into_iter().map(|m| (m.metric, m.value)).collect()
    }

    #[test]
    fn the_checksum_is_that_of_the_datasheets_example() {
        assert_eq!(crc8([0xBE, 0xEF]), 0x92);
        assert_eq!(word([0xBE, 0xEF, 0x92]), Ok(0xBEEF));
        assert_eq!(word([0xBE, 0xEE, 0x92]), Err(Fault::Crc));
    }

    #[test]
    fn an_sht3x_is_reset_asked_for_its_status_and_measured_by_the_transactions_of_the_datasheet() {
        let mut tape = Tape::new("44 w 30 A2\n44 w F3 2D r 80 10 E1\n44 w 24 00\n44 r 66 66 93 80 00 A2");
        let mut waited = Waited::default();
        start_sht3x(&mut tape, &mut waited, 0x44).expect("starts");
        let measured = read_sht3x(&mut tape, &mut waited, 0x44);
        assert_eq!(values(measured), [("temperature".to_owned(), 25.0), ("humidity".to_owned(), 50.001)]);
        assert!(tape.is_at_its_end());
        assert!(17_000_000 <= waited.ns);
    }

    #[test]
    fn an_sht4x_is_reset_asked_for_its_number_and_measured_by_the_transactions_of_the_datasheet() {
        let mut tape = Tape::new("44 w 94\n44 w 89\n44 r BE EF 92 BE EF 92\n44 w FD\n44 r 66 66 93 80 00 A2");
        let mut waited = Waited::default();
        assert_eq!(start_sht4x(&mut tape, &mut waited, 0x44), Ok(0xBEEF_BEEF));
        let measured = read_sht4x(&mut tape, &mut waited, 0x44);
        assert_eq!(values(measured), [("temperature".to_owned(), 25.0), ("humidity".to_owned(), 56.501)]);
        assert!(tape.is_at_its_end());
    }

    #[test]
    fn the_ends_of_both_lines_are_those_of_the_datasheet() {
        for (raw, celsius, of_3x, of_4x) in [(0, -45.0, 0.0, 0.0), (0xFFFF, 130.0, 100.0, 100.0)] {
            assert_eq!(measured(raw, raw, (0, 100_000)).iter().map(|m| m.value).collect::<Vec<_>>(), [celsius, of_3x]);
            assert_eq!(measured(raw, raw, (-6_000, 125_000))[1].value, of_4x);
        }
    }

    #[test]
    fn a_flipped_bit_in_either_word_is_seen_and_so_is_silence() {
        for (answer, fault) in [
            ("44 r 66 67 93 80 00 A2", Fault::Crc),
            ("44 r 66 66 93 80 01 A2", Fault::Crc),
            ("44 r !nak", Fault::NoAnswer),
        ] {
            let read = read_sht3x(&mut Tape::new(&format!("44 w 24 00\n{answer}")), &mut Waited::default(), 0x44);
            assert_eq!(read, Err(fault.clone()), "{answer}");
            let read = read_sht4x(&mut Tape::new(&format!("44 w FD\n{answer}")), &mut Waited::default(), 0x44);
            assert_eq!(read, Err(fault), "{answer}");
        }
    }
}
