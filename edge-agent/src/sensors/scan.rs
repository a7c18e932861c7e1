//! For the technician: what answers on a bus, and one reading of each sensor.

use std::path::Path;

use embedded_hal::delay::DelayNs;
use embedded_hal::i2c::I2c;
use linux_embedded_hal::Delay;
use serde::Serialize;

use super::bus::i2c;
use super::config::{Place, Sensor};
use super::driver::{Fault, ads1115, bosch, ds18b20, sensirion};
use super::probe::{Bus, Probe};

/// Addresses that are not reserved for the bus itself.
const ADDRESSES: std::ops::RangeInclusive<u8> = 0x08..=0x77;
/// So many addresses one after the other give the same trouble: it is the bus's.
const TROUBLES_MAX: usize = 4;

/// Something that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Its address or serial number.
    pub at: String,
    /// The `kind` to write for it, where it is known.
    pub kind: Option<&'static str>,
    /// By what it was recognised.
    pub by: String,
}

/// One reading, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Taken {
    /// Kind, bus and address.
    pub sensor: String,
    /// The device as which it counts.
    pub device: String,
    /// What it measured.
    pub values: Vec<Value>,
    /// Why it gave nothing.
    pub error: Option<String>,
}

/// One value of a reading.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Value {
    /// Its metric.
    pub metric: String,
    /// As it is stored.
    pub value: f64,
    /// UCUM.
    pub unit: Option<String>,
    /// As it stood on the wire.
    pub raw: String,
}

/// Whatever answers there: a folder is a 1-wire bus, all else an I2C bus.
///
/// # Errors
/// The bus itself cannot be used; the text says why.
pub fn scan(place: &Place) -> Result<Vec<Found>, String> {
    if place.path().is_dir() {
        return serials(place.path()).map_err(|error| error.to_string());
    }
    on_bus(&mut i2c::Bus::new(place.clone()), &mut Delay).map_err(|fault| fault.to_string())
}

/// Reads each of these once.
pub fn read(sensors: &[Sensor]) -> Vec<Taken> {
    let read = |sensor: &Sensor| {
        let mut probe = Probe::new(sensor.clone());
        let (values, error) = match probe.read(&mut Bus::of(sensor), &mut false) {
            Ok(values) => (values, None),
            Err(fault) => (Vec::new(), Some(fault.to_string())),
        };
        let values = values
            .into_iter()
            .map(|one| Value { metric: one.metric, value: one.value, unit: one.unit, raw: one.raw })
            .collect();
        Taken { sensor: sensor.name(), device: sensor.device.clone(), values, error }
    };
    sensors.iter().map(read).collect()
}

fn serials(folder: &Path) -> std::io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let at = entry?.file_name().to_string_lossy().into_owned();
        if at.starts_with(ds18b20::FAMILY) {
            found.push(Found { at, kind: Some("ds18b20"), by: "its family".to_owned() });
        }
    }
    found.sort_by(|one, other| one.at.cmp(&other.at));
    Ok(found)
}

fn on_bus<I, D>(bus: &mut I, delay: &mut D) -> Result<Vec<Found>, Fault>
where
    I: I2c<Error: Into<Fault>>,
    D: DelayNs,
{
    let (mut found, mut troubles) = (Vec::new(), 0);
    for address in ADDRESSES {
        let at = format!("{address:#04x}");
        match recognise(bus, delay, address) {
            Ok((kind, by)) => found.push(Found { at, kind, by }),
            Err(Fault::NoAnswer) => {
                troubles = 0;
                continue;
            }
            Err(fault @ (Fault::NoBus(_) | Fault::Timeout(_))) => return Err(fault),
            Err(fault) => {
                troubles += 1;
                if TROUBLES_MAX <= troubles {
                    return Err(fault);
                }
                found.push(Found { at, kind: None, by: fault.to_string() });
            }
        }
    }
    Ok(found)
}

/// What sits at an address, and by what it is known. Reads registers only, and asks nothing of a chip that it could not be.
fn recognise<I, D>(bus: &mut I, delay: &mut D, address: u8) -> Result<(Option<&'static str>, String), Fault>
where
    I: I2c<Error: Into<Fault>>,
    D: DelayNs,
{
    match address {
        // These acknowledge a read only if they were asked something before.
        0x44..=0x46 => {
            if let Ok(status) = sensirion::sht3x_status(bus, address) {
                return Ok((Some("sht3x"), format!("its status, {status:#06x}")));
            }
            if let Ok(serial) = sensirion::serial_sht4x(bus, delay, address) {
                return Ok((Some("sht4x"), format!("its serial number, {serial:08x}")));
            }
        }
        0x76 | 0x77 => {
            if let Ok(id) = bosch::id(bus, address)
                && let Some(chip) = bosch::Chip::of_id(id)
            {
                return Ok((Some(chip.as_str()), format!("its id, {id:#04x}")));
            }
        }
        0x48..=0x4B => {
            if let Ok(register) = ads1115::register(bus, address) {
                return Ok((Some("ads1115"), format!("its address only; register 1 is {register:#06x}")));
            }
        }
        _ => {}
    }
    let mut byte = [0];
    bus.read(address, &mut byte).map_err(Into::into)?;
    Ok((None, "it acknowledges".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::driver::tape::Waited;
    use super::*;
    use embedded_hal::i2c::{ErrorKind, ErrorType, NoAcknowledgeSource, Operation};

    /// Acknowledges some addresses; answers of their own for the first bytes written.
    struct Chips(Vec<(u8, Vec<u8>, Vec<u8>)>, Option<ErrorKind>);

    impl ErrorType for Chips {
        type Error = ErrorKind;
    }

    impl I2c for Chips {
        fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), ErrorKind> {
            if let Some(kind) = self.1 {
                return Err(kind);
            }
            let mut written = Vec::new();
            for operation in operations {
                match operation {
                    Operation::Write(bytes) => written = bytes.to_vec(),
                    Operation::Read(buffer) => {
                        let known = self.0.iter().find(|(at, asked, _)| *at == address && *asked == written);
                        let Some((.., answer)) = known else {
                            return Err(ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address));
                        };
                        for (to, from) in buffer.iter_mut().zip(answer.iter().cycle()) {
                            *to = *from;
                        }
                    }
                }
            }
            Ok(())
        }
    }

    #[test]
    fn each_kind_is_recognised_and_others_are_shown_as_there() {
        let mut chips = Chips(
            vec![
                (0x20, vec![], vec![0]),
                (0x44, vec![0xF3, 0x2D], vec![0x80, 0x10, 0xE1]),
                (0x48, vec![0x01], vec![0x85, 0x83]),
                (0x76, vec![0xD0], vec![0x60]),
                (0x77, vec![0xD0], vec![0x58]),
            ],
            None,
        );
        let found = on_bus(&mut chips, &mut Waited::default()).expect("scans");
        let shown: Vec<_> = found.iter().map(|one| (one.at.as_str(), one.kind)).collect();
        assert_eq!(
            shown,
            [
                ("0x20", None),
                ("0x44", Some("sht3x")),
                ("0x48", Some("ads1115")),
                ("0x76", Some("bme280")),
                ("0x77", Some("bmp280"))
            ]
        );
    }

    #[test]
    fn a_bus_in_trouble_is_one_fault_and_not_a_hundred_findings() {
        let fault = on_bus(&mut Chips(vec![], Some(ErrorKind::Bus)), &mut Waited::default()).expect_err("trouble");
        assert_eq!(fault.kind(), "bus");
    }
}
