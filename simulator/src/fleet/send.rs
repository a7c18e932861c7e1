//! One publish and what should become of it: payloads, with or without a fault. Pure.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value as Json, json};
use shared::payload::number_of;
use shared::reading::Value;
use shared::time::Timestamp;

use super::fault::{Fault, Rates};
use super::waveform::{Metric, mix, unit};

/// What should become of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Exactly one row of silver.readings, with this value and time.
    Reading,
    /// Exactly one row of silver.quarantine.
    Quarantine,
    /// Exactly one row of either: for recordings whose rules only the gateway knows.
    Either,
}

/// One value of a send and its fate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Expect {
    /// The metric; absent where the payload cannot be read as a whole.
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// The value as JSON (number, bool, text); absent where none was sent.
    #[serde(rename = "v", default, skip_serializing_if = "Option::is_none", deserialize_with = "exact")]
    pub value: Option<Json>,
    /// The unit, where one was sent.
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// What should become of it.
    #[serde(rename = "f")]
    pub fate: Fate,
}

/// Reads a value whose number is the double nearest to what is written, which serde_json alone does not promise.
fn exact<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Json>, D::Error> {
    let Some(raw) = Option::<Box<RawValue>>::deserialize(from)? else { return Ok(None) };
    match number_of(raw.get()) {
        Some(number) => Ok(Some(Json::from(number))),
        None => serde_json::from_str(raw.get()).map(Some).map_err(serde::de::Error::custom),
    }
}

/// A publish before the ledger has numbered it.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// Who sends.
    pub device: String,
    /// The device's own number.
    pub n: i64,
    /// Where to.
    pub topic: String,
    /// What.
    pub payload: Vec<u8>,
    /// The time in the payload.
    pub time: Timestamp,
    /// How many times it is published, all the same bytes.
    pub copies: u8,
    /// No PUBACK is asked for.
    pub best_effort: bool,
    /// What is wrong with it.
    pub fault: Option<Fault>,
    /// What should become of it.
    pub expect: Vec<Expect>,
}

/// Which way sends go to the cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Over a gateway, whose rules refuse what is out of range.
    Gateway,
    /// To an IoT Hub, each with a message id; nobody looks at its range.
    Hub {
        /// Begins the message ids of this run, so that they are like those of no other.
        run: String,
        /// No PUBACK is asked for.
        best_effort: bool,
    },
}

impl Route {
    /// Where send number `n` of `device` goes.
    fn topic(&self, device: &str, n: i64) -> String {
        match self {
            Route::Gateway => topic_of(device),
            // Spelt as Microsoft's SDKs do, with nothing in it that would have to be encoded.
            Route::Hub { run, .. } => {
                format!("devices/{device}/messages/events/%24.mid={run}-{n}&%24.ct=application%2Fjson&%24.ce=utf-8")
            }
        }
    }

    const fn best_effort(&self) -> bool {
        matches!(self, Route::Hub { best_effort: true, .. })
    }

    /// What becomes of a value that no sensor of its kind can have.
    const fn out_of_range(&self) -> Fate {
        match self {
            Route::Gateway => Fate::Quarantine,
            Route::Hub { .. } => Fate::Reading,
        }
    }
}

/// The topic of a device in the default mapping.
pub fn topic_of(device: &str) -> String {
    format!("telemetry/{device}")
}

/// The payload of the default mapping: time, number, then the values in order. A value stands bare where it has no unit;
/// without a value only `{"u": …}` or `{}` is left.
pub fn payload(time: Timestamp, n: i64, values: &[Expect]) -> Vec<u8> {
    let mut object = Vec::with_capacity(64 + 48 * values.len());
    let mut put = |bytes: &[u8]| object.extend_from_slice(bytes);
    put(b"{\"ts\":");
    put(time.micros().to_string().as_bytes());
    put(b",\"n\":");
    put(n.to_string().as_bytes());
    for Expect { metric, value, unit, .. } in values {
        object.push(b',');
        json(&mut object, metric.as_deref().unwrap_or_default());
        object.push(b':');
        match (value, unit) {
            (Some(value), None) => json(&mut object, value),
            (value, unit) => {
                object.push(b'{');
                if let Some(value) = value {
                    object.extend_from_slice(b"\"v\":");
                    json(&mut object, value);
                }
                if value.is_some() && unit.is_some() {
                    object.push(b',');
                }
                if let Some(unit) = unit {
                    object.extend_from_slice(b"\"u\":");
                    json(&mut object, unit);
                }
                object.push(b'}');
            }
        }
    }
    object.push(b'}');
    object
}

fn json(object: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(object, value).expect("texts and plain JSON, into memory");
}

/// What all devices of a fleet have in common.
#[derive(Debug, Clone)]
pub struct Maker {
    /// Everything drawn comes from it.
    pub seed: u64,
    /// What each device measures; at least one.
    pub metrics: Vec<Metric>,
    /// How often what goes wrong.
    pub faults: Rates,
    /// Which way it goes.
    pub route: Route,
}

impl Maker {
    /// The send number `n` (from 1) of the device called `name`, the `device`-th of the fleet, made at `now`.
    pub fn make(&self, name: &str, device: u64, n: i64, now: Timestamp) -> Draft {
        let tick = n.unsigned_abs();
        let fault = self.faults.draw(self.seed, device, tick);
        let chance = |lane: u64| mix(&[self.seed, device, tick, lane]);
        let time = match fault {
            Some(Fault::Late) => now.minus(self.faults.late_by.duration().mul_f64(unit(chance(11)))),
            Some(Fault::WrongClock) if chance(12).is_multiple_of(2) => {
                // A clock that was never set counts from 1970; one that was set wrongly is days ahead.
                Timestamp::from_micros((chance(13) % 86_400_000_000).cast_signed())
            }
            Some(Fault::WrongClock) => {
                Timestamp::from_micros(now.micros() + 3 * 86_400_000_000 + (chance(13) % 86_400_000_000).cast_signed())
            }
            _ => now,
        };
        let spoilt = self.spoilt(fault, chance(14));

        let mut expect = Vec::with_capacity(self.metrics.len());
        for (lane, metric) in self.metrics.iter().enumerate() {
            let true_value = json_of(&metric.at(self.seed, device, lane as u64, tick));
            let (value, fate) = match fault {
                Some(Fault::OutOfRange) if spoilt == Some(lane) => {
                    (metric.out_of_range.map(Json::from), self.route.out_of_range())
                }
                Some(Fault::MissingField) if spoilt == Some(lane) => (None, Fate::Quarantine),
                Some(Fault::WrongClock) => (Some(true_value), Fate::Quarantine),
                _ => (Some(true_value), Fate::Reading),
            };
            expect.push(Expect { metric: Some(metric.name.clone()), value, unit: metric.unit.clone(), fate });
        }
        let mut bytes = payload(time, n, &expect);
        if fault == Some(Fault::Garbled) {
            garble(&mut bytes, chance(15));
            expect = vec![Expect { metric: None, value: None, unit: None, fate: Fate::Quarantine }];
        }
        let best_effort = self.route.best_effort();
        // Where nobody recognises a repeat, there is none.
        let copies = if fault == Some(Fault::Twice) && !best_effort { 2 } else { 1 };
        let topic = self.route.topic(name, n);
        Draft { device: name.to_owned(), n, topic, payload: bytes, time, copies, best_effort, fault, expect }
    }

    /// Which metric the fault hits.
    fn spoilt(&self, fault: Option<Fault>, chance: u64) -> Option<usize> {
        let able: Vec<usize> = match fault {
            Some(Fault::OutOfRange) => {
                (0..self.metrics.len()).filter(|lane| self.metrics[*lane].out_of_range.is_some()).collect()
            }
            Some(Fault::MissingField) => (0..self.metrics.len()).collect(),
            _ => return None,
        };
        (!able.is_empty()).then(|| able[(chance % able.len() as u64) as usize])
    }
}

/// A value as the ledger keeps it.
pub fn json_of(value: &Value) -> Json {
    match value {
        Value::Number(number) => json!(number),
        Value::Bool(on) => json!(on),
        Value::Text(text) => json!(text),
    }
}

/// Spoils a JSON object for good: torn behind its number `n`, so that two garbled sends never have the same bytes, or
/// with a byte that no UTF-8 has.
fn garble(bytes: &mut Vec<u8>, chance: u64) {
    let kept = bytes.iter().enumerate().filter(|(_, byte)| **byte == b',').nth(1).map_or(bytes.len() / 2, |(at, _)| at);
    let at = kept + (chance >> 1) as usize % (bytes.len() - kept);
    if chance.is_multiple_of(2) {
        bytes.truncate(at);
    } else {
        bytes[at] = 0xff;
    }
}

#[cfg(test)]
mod tests {
    use shared::payload::{Fields, object};

    use super::super::fault::tests::no_faults;
    use super::super::waveform::Kind;
    use super::*;

    fn maker(faults: Rates) -> Maker {
        let metric = |name: &str, kind, unit: Option<&str>, out_of_range| Metric {
            name: name.into(),
            kind,
            unit: unit.map(Into::into),
            base: 20.0,
            amplitude: 5.0,
            period: 60.0,
            noise: 0.5,
            out_of_range,
        };
        let metrics =
            vec![metric("temperature", Kind::Number, Some("Cel"), Some(900.0)), metric("door", Kind::Bool, None, None)];
        Maker { seed: 3, metrics, faults, route: Route::Gateway }
    }

    const NOW: Timestamp = Timestamp::from_micros(1_790_000_000_000_000);

    /// Every send with the fault has exactly the fates given: one letter per expectation.
    fn check(fault: Fault, fates: &[&str]) {
        let rates = no_faults();
        let rates = match fault {
            Fault::OutOfRange => Rates { out_of_range: 1.0, ..rates },
            Fault::MissingField => Rates { missing_field: 1.0, ..rates },
            Fault::Garbled => Rates { garbled: 1.0, ..rates },
            Fault::Late => Rates { late: 1.0, ..rates },
            Fault::Twice => Rates { twice: 1.0, ..rates },
            Fault::WrongClock => Rates { wrong_clock: 1.0, ..rates },
        };
        let maker = maker(rates);
        let mut seen = std::collections::BTreeSet::new();
        for n in 1..300 {
            let draft = maker.make("dev-1", 1, n, NOW);
            assert_eq!(draft.fault, Some(fault));
            assert_eq!(draft, maker.make("dev-1", 1, n, NOW), "the same bytes again");
            assert_eq!(draft.copies, if fault == Fault::Twice { 2 } else { 1 });
            let letters: String = draft
                .expect
                .iter()
                .map(|expect| match expect.fate {
                    Fate::Reading => 'r',
                    Fate::Quarantine => 'q',
                    Fate::Either => 'e',
                })
                .collect();
            assert!(fates.contains(&letters.as_str()), "{letters}");
            // The gateway's own reader agrees about what can be read at all.
            let read = object(&draft.payload, &Fields::default());
            assert_eq!(read.is_err(), fault == Fault::Garbled);
            if let Ok(read) = read {
                assert_eq!((read.n, read.time), (Some(n), Some(draft.time)));
                let unreadable = read.measured.iter().filter(|m| m.value.is_err()).count();
                assert_eq!(unreadable, usize::from(fault == Fault::MissingField));
            }
            let ahead = draft.time.micros() - NOW.micros();
            match fault {
                Fault::Late => assert!((-1_200_000_000..=0).contains(&ahead)),
                Fault::WrongClock => assert!(2 * 86_400_000_000 < ahead || draft.time.micros() < 86_400_000_000),
                _ => assert_eq!(ahead, 0),
            }
            seen.insert(letters);
        }
        assert_eq!(seen.len(), fates.len(), "each fate is met");
    }

    #[test]
    fn every_fault_has_the_fate_its_table_says() {
        check(Fault::OutOfRange, &["qr"]);
        check(Fault::MissingField, &["qr", "rq"]);
        check(Fault::Garbled, &["q"]);
        check(Fault::Late, &["rr"]);
        check(Fault::Twice, &["rr"]);
        check(Fault::WrongClock, &["qq"]);
    }

    #[test]
    fn a_hub_gets_the_same_payload_under_a_message_id_and_refuses_no_range() {
        let gateway = maker(Rates { out_of_range: 1.0, ..no_faults() });
        let route = Route::Hub { run: "9f3c".into(), best_effort: false };
        let hub = Maker { route, ..gateway.clone() };
        let draft = hub.make("dev-1", 1, 7, NOW);
        assert_eq!(draft.payload, gateway.make("dev-1", 1, 7, NOW).payload);
        assert!(draft.expect.iter().all(|expect| expect.fate == Fate::Reading), "{draft:?}");
        let read = shared::topic::parse_events(&draft.topic).expect("a hub's topic");
        let bag = [("$.mid", "9f3c-7"), ("$.ct", "application/json"), ("$.ce", "utf-8")];
        assert_eq!((read.device, read.module), ("dev-1", None));
        assert_eq!(read.bag, bag.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_payload_is_the_default_mapping() {
        let draft = maker(no_faults()).make("dev-1", 1, 7, NOW);
        let text = String::from_utf8(draft.payload).expect("JSON");
        assert!(text.starts_with(r#"{"ts":1790000000000000,"n":7,"temperature":{"#), "{text}");
        assert!(text.contains(r#","u":"Cel"},"door":"#), "{text}");
        assert_eq!(draft.topic, "telemetry/dev-1");
    }
}
