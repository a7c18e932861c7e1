//! Maxim's DS18B20, through the kernel's 1-wire: a folder for each sensor, and in it the nine bytes as it sent them.

use super::{Fault, Measured, rounded};

/// The family of its serial number.
pub(crate) const FAMILY: &str = "28-";

/// What the chip shows until it measured: 85 degrees, and the reserved byte as it is only then.
const UNMEASURED: ([u8; 2], u8) = ([0x50, 0x05], 0x0C);

/// Reads what stands in `w1_slave`.
pub(crate) fn parse(text: &str) -> Result<Measured, Fault> {
    // An adapter without a sensor gives nothing, or a whole line of ones.
    let bytes = scratchpad(text).ok_or(Fault::NoAnswer)?;
    if bytes == [0xFF; 9] || bytes == [0; 9] {
        return Err(Fault::NoAnswer); // zeros have a checksum that is right
    }
    let [low, high, .., sum] = bytes;
    if crc8(&bytes[..8]) != sum {
        return Err(Fault::Crc);
    }
    if ([low, high], bytes[6]) == UNMEASURED {
        return Err(Fault::Implausible("it shows the 85 degrees of its start: too little power to measure".to_owned()));
    }
    let sixteenths = i16::from_le_bytes([low, high]);
    if !(-55 * 16..=125 * 16).contains(&sixteenths) {
        return Err(Fault::Implausible(format!("{sixteenths}/16 degrees are beyond what it can measure")));
    }
    let celsius = rounded(f64::from(sixteenths) / 16.0, 4);
    Ok(Measured::new("temperature", celsius, "Cel", format!("{sixteenths}/16")))
}

fn scratchpad(text: &str) -> Option<[u8; 9]> {
    let mut words = text.lines().next()?.split_whitespace();
    let mut bytes = [0; 9];
    for byte in &mut bytes {
        *byte = u8::from_str_radix(words.next()?, 16).ok()?;
    }
    Some(bytes)
}

/// x⁸ + x⁵ + x⁴ + 1, the lowest bit first.
fn crc8(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ byte, |crc: u8, _| if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ 0x8C })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nine bytes with the checksum that goes with the first eight.
    fn text(bytes: [u8; 8]) -> String {
        let whole: Vec<String> = bytes.iter().chain(&[crc8(&bytes)]).map(|byte| format!("{byte:02x}")).collect();
        format!("{} : crc=00 YES\n{} t=0\n", whole.join(" "), whole.join(" "))
    }

    #[test]
    fn the_checksum_is_that_of_the_makers_example() {
        // Application note 27: the serial number 02 1C B8 01 00 00 00 has the checksum A2.
        assert_eq!(crc8(&[0x02, 0x1C, 0xB8, 0x01, 0, 0, 0]), 0xA2);
    }

    #[test]
    fn the_temperatures_are_those_of_the_datasheets_table() {
        for (low, high, celsius) in [
            (0xD0, 0x07, 125.0),
            (0x91, 0x01, 25.0625),
            (0xA2, 0x00, 10.125),
            (0x08, 0x00, 0.5),
            (0x00, 0x00, 0.0),
            (0xF8, 0xFF, -0.5),
            (0x5E, 0xFF, -10.125),
            (0x6F, 0xFE, -25.0625),
            (0x90, 0xFC, -55.0),
        ] {
            let measured = parse(&text([low, high, 0x4B, 0x46, 0x7F, 0xFF, 0x0E, 0x10])).expect("a temperature");
            assert_eq!(measured.value, celsius, "{low:02x} {high:02x}");
        }
    }

    #[test]
    fn what_the_kernel_shows_of_a_sensor_is_read() {
        let shown = "72 01 4b 46 7f ff 0e 10 57 : crc=57 YES\n72 01 4b 46 7f ff 0e 10 57 t=23125\n";
        assert_eq!(parse(shown).expect("a temperature").value, 23.125);
    }

    #[test]
    fn eighty_five_degrees_are_believed_only_if_they_were_measured() {
        let measured = parse(&text([0x50, 0x05, 0x4B, 0x46, 0x7F, 0xFF, 0x10, 0x10]));
        assert_eq!(measured.expect("a hot place").value, 85.0);
        let fault = parse(&text([0x50, 0x05, 0x4B, 0x46, 0x7F, 0xFF, 0x0C, 0x10])).expect_err("its start");
        assert_eq!(fault.kind(), "implausible");
    }

    #[test]
    fn what_is_no_answer_is_none() {
        let zeros = "00 00 00 00 00 00 00 00 00 : crc=00 YES\n00 00 00 00 00 00 00 00 00 t=0\n";
        let ones = "ff ff ff ff ff ff ff ff ff : crc=c9 NO\n";
        for (text, fault) in [
            ("", Fault::NoAnswer),
            ("72 01", Fault::NoAnswer),
            ("zz 01 4b 46 7f ff 0e 10 57", Fault::NoAnswer),
            (zeros, Fault::NoAnswer),
            (ones, Fault::NoAnswer),
            ("73 01 4b 46 7f ff 0e 10 57 : crc=57 NO\n", Fault::Crc),
        ] {
            assert_eq!(parse(text), Err(fault), "{text:?}");
        }
    }
}
