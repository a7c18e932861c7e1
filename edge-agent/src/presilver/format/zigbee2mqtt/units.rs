//! What `bridge/devices` says of a bridge's devices, as far as values do not: the units of what they expose.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use shared::reading::{DEVICE_BYTES_MAX, DeviceId, MetricName};

use crate::presilver::format::{Note, units};

/// Most units that are remembered.
const UNITS_MAX: usize = 50_000;

/// By metric.
type OfDevice = BTreeMap<String, String>;

/// The units of all devices, by their bridge (what stands before it in topics) and friendly name.
#[derive(Debug, Clone, Default)]
pub struct Units {
    bridges: BTreeMap<String, BTreeMap<String, OfDevice>>,
}

/// Of a device. What else is said of it is passed over unread.
#[derive(Deserialize)]
struct Device {
    friendly_name: String,
    definition: Option<Definition>,
}

#[derive(Deserialize)]
struct Definition {
    exposes: Option<Vec<Exposed>>,
}

/// A value, or several under a name or under none.
#[derive(Deserialize)]
struct Exposed {
    property: Option<String>,
    unit: Option<String>,
    features: Option<Vec<Exposed>>,
}

impl Units {
    /// Takes over what a bridge says of all its devices. A device of which it makes no sense has no units.
    ///
    /// # Errors
    /// What a person should know: nothing could be learned, or not all of it.
    pub(super) fn learn(&mut self, bridge: &str, payload: &[u8]) -> Result<(), Note> {
        let note = |text| Note { kind: "zigbee2mqtt-devices", text };
        let devices: Vec<&RawValue> = serde_json::from_slice(payload).map_err(|error| {
            note(format!("{bridge}bridge/devices cannot be read, units stay as they were: {error}"))
        })?;
        if DEVICE_BYTES_MAX < bridge.len() {
            return Err(note(format!(
                "a bridge whose topics begin with more than {DEVICE_BYTES_MAX} bytes has no units"
            )));
        }
        self.bridges.remove(bridge);
        let others = self.bridges.values().flat_map(BTreeMap::values).map(BTreeMap::len).sum::<usize>();
        let mut room = UNITS_MAX.saturating_sub(others);
        let mut learned = BTreeMap::new();
        let mut is_full = false;
        for device in devices {
            let Ok(Device { friendly_name, definition: Some(definition) }) = serde_json::from_str(device.get()) else {
                continue; // the coordinator, and what the bridge does not know
            };
            if DeviceId::fault(&friendly_name).is_some() {
                continue; // its values are refused by its name
            }
            let mut of_device = OfDevice::new();
            for exposed in definition.exposes.unwrap_or_default() {
                exposed.collect("", &mut of_device);
            }
            match room.checked_sub(of_device.len()) {
                Some(rest) => room = rest,
                None => {
                    is_full = true;
                    continue;
                }
            }
            if !of_device.is_empty() {
                learned.insert(friendly_name, of_device);
            }
        }
        if !learned.is_empty() {
            self.bridges.insert(bridge.to_owned(), learned);
        }
        match is_full {
            true => Err(note(format!("{UNITS_MAX} units of Zigbee devices are remembered, no more"))),
            false => Ok(()),
        }
    }

    /// The unit of a metric.
    pub(super) fn of(&self, bridge: &str, device: &str, metric: &str) -> Option<&str> {
        self.bridges.get(bridge)?.get(device)?.get(metric).map(String::as_str)
    }
}

impl Exposed {
    /// The units of this and of what is in it, by their places below `place`.
    fn collect(self, place: &str, units: &mut OfDevice) {
        let place = match self.property.as_deref() {
            // A light or a thermostat: its values stand beside the others.
            None | Some("") => place.to_owned(),
            Some(property) if place.is_empty() => property.to_owned(),
            Some(property) => format!("{place}.{property}"),
        };
        let fits = |unit: &String| unit.len() <= 64 && !unit.chars().any(char::is_control);
        let unit = self.unit.filter(fits).and_then(|unit| units::ucum(&unit));
        if let Some(unit) = unit.filter(|_| MetricName::fault(&place).is_none()) {
            units.insert(place.clone(), unit);
        }
        for feature in self.features.unwrap_or_default() {
            feature.collect(&place, units);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, exposes: &str) -> String {
        format!(r#"{{"friendly_name":"{name}","definition":{{"exposes":{exposes}}}}}"#)
    }

    #[test]
    fn what_is_remembered_is_bounded_over_all_bridges_and_a_bridge_replaces_only_its_own() {
        let exposes = |count: usize| {
            let one = |at: usize| format!(r#"{{"property":"p{at}","unit":"V"}}"#);
            format!("[{}]", (0..count).map(one).collect::<Vec<_>>().join(","))
        };
        let mut units = Units::default();
        let list = |devices: &[String]| format!("[{}]", devices.join(","));
        let large = list(&[device("a", &exposes(UNITS_MAX - 1))]);
        assert_eq!(units.learn("north/", large.as_bytes()), Ok(()));
        let small = list(&[device("b", &exposes(2)), device("c", &exposes(1))]);
        let note = units.learn("south/", small.as_bytes()).expect_err("one does not fit");
        assert!(note.text.contains("no more"), "{note:?}");
        assert_eq!((units.of("south/", "b", "p0"), units.of("south/", "c", "p0")), (None, Some("V")));
        assert_eq!(units.learn("north/", b"[]"), Ok(()));
        assert_eq!(units.learn("south/", small.as_bytes()), Ok(()));
        assert_eq!((units.of("north/", "a", "p0"), units.of("south/", "b", "p1")), (None, Some("V")));
        let long = "x".repeat(DEVICE_BYTES_MAX + 1);
        units.learn(&long, small.as_bytes()).expect_err("nobody's topics are so long");
        assert_eq!(units.of(&long, "b", "p0"), None);
        let names =
            list(&[device(&long, &exposes(1)), device("d", &format!(r#"[{{"property":"{long}","unit":"V"}}]"#))]);
        assert_eq!(units.learn("south/", names.as_bytes()), Ok(()));
        assert!(units.bridges.is_empty(), "names that cannot be are not kept");
    }
}
