//! Tasmota: `tele/{device}/SENSOR` and `STATE` are JSON, `LWT` is the metric `online`; the rest is not telemetry.
//! What is answered to `Status 10` and `Status 11` holds the same, one level deeper.
//!
//! Metrics are named by their places, `BME280.Temperature`; units by what Tasmota says (`TempUnit`, `PressureUnit`,
//! `SpeedUnit`) and always uses. A `Time` without an offset from UTC tells repeats apart and nothing else, unless the mapping has a
//! `time-offset`: then it is the time.

use std::collections::BTreeMap;

use shared::payload::{Measured, Unreadable};
use shared::reading::Value;

use super::tree::{Node, Path, Twice, clip};
use super::{LeftOut, Part, Taken, json, plain, records, units, unreadable, when};
use crate::presilver::mapping::plan::{Plan, When};

/// Members that say how others are meant, or say it twice.
const ABOUT: [&str; 6] = ["TempUnit", "PressureUnit", "SpeedUnit", "Uptime", "SleepMode", "Sleep"];
/// Units that Tasmota always uses, by the end of a metric's name. (A distance is in cm of one sensor and mm of another; a
/// total is energy of a meter and rain of a gauge.) Source: Tasmota, and HATasmota, by which Home Assistant reads it.
const UNITS: [(&str, &str); 41] = [
    ("Humidity", "%"),
    ("Illuminance", "lx"),
    ("Voltage", "V"),
    ("Current", "A"),
    ("Power", "W"),
    ("ActivePower", "W"),
    ("ApparentPower", "VA"),
    ("ReactivePower", "var"),
    ("Frequency", "Hz"),
    ("ENERGY.Today", "kWh"),
    ("ENERGY.Yesterday", "kWh"),
    ("ENERGY.Total", "kWh"),
    ("TotalTariff", "kWh"),
    ("ENERGY.Period", "Wh"),
    ("Energy", "kWh"),
    ("ImportActive", "kWh"),
    ("ExportActive", "kWh"),
    ("ExportTariff", "kWh"),
    ("ImportReactive", "kvarh"),
    ("ExportReactive", "kvarh"),
    ("PhaseAngle", "°"),
    ("Vcc", "V"),
    ("Battery", "%"),
    ("BatteryPercentage", "%"),
    ("BatteryVoltage", "V"),
    ("Moisture", "%"),
    ("Ambient", "lx"),
    ("CCT", "K"),
    ("CF1", "µg/m³"),
    ("CF2.5", "µg/m³"),
    ("CF10", "µg/m³"),
    ("CarbonDioxide", "ppm"),
    ("eCO2", "ppm"),
    ("TVOC", "ppb"),
    ("PM1", "µg/m³"),
    ("PM2.5", "µg/m³"),
    ("PM10", "µg/m³"),
    ("Weight", "kg"),
    ("UptimeSec", "s"),
    ("Signal", "dBm"),
    ("Heap", "kBy"),
];

/// Takes the values of a message.
///
/// # Errors
/// It cannot be read.
pub fn take(plan: &Plan, names: &BTreeMap<&str, &str>, payload: &[u8]) -> Result<Taken, Unreadable> {
    let kind = names.get("kind").copied().unwrap_or_default();
    match kind {
        "SENSOR" | "STATE" => values(plan, names, payload, None).map_err(unreadable),
        "STATUS8" | "STATUS10" => values(plan, names, payload, Some("StatusSNS")).map_err(unreadable),
        "STATUS11" => values(plan, names, payload, Some("StatusSTS")).map_err(unreadable),
        "LWT" => online(plan, names, payload).map_err(unreadable),
        kind => Ok(Taken::none(kind, "no-telemetry")),
    }
}

fn values(
    plan: &Plan,
    names: &BTreeMap<&str, &str>,
    payload: &[u8],
    inside: Option<&'static str>,
) -> Result<Taken, String> {
    let Node::Map(mut members) = json::read(payload)? else { return Err("payload: not an object".to_owned()) };
    if let Some(inside) = inside {
        let tree = Node::Map(members);
        let within = tree.member(inside).map_err(|Twice| format!("payload: `{inside}` stands twice in it"))?;
        let Some(Node::Map(within)) = within else { return Ok(Taken::none("whole message", "no-telemetry")) };
        members = within.clone();
    }
    let (about, values): (Vec<_>, Vec<_>) = members.into_iter().partition(|(name, _)| ABOUT.contains(&name.as_str()));
    let about = Node::Map(about);
    // A unit that stands twice is none.
    let said = |name: &str| about.member(name).ok().flatten().and_then(Node::name);
    let told = Told { temperature: said("TempUnit"), pressure: said("PressureUnit"), speed: said("SpeedUnit") };
    let tree = Node::Map(values);
    let local = local(&tree, plan.when);
    // The time is looked at here, so that one without an offset is no fault.
    let mut plan = plan.clone();
    if local.is_some() {
        plan.time = None;
        plan.leave_out.push("Time".to_owned());
    }
    let mut taken = records::take(&plan, names, &tree)?;
    taken.left_out.retain(|left| left.what != "Time");
    if let Node::Map(about) = about {
        taken.left_out.extend(about.into_iter().map(|(what, _)| LeftOut { what, why: "about" }));
    }
    for part in &mut taken.parts {
        part.clock = local;
        part.is_whole = false;
        for measured in &mut part.measured {
            let unit = told.unit_of(&measured.metric);
            if let Ok((Value::Number(_), none @ None)) = &mut measured.value {
                *none = unit.and_then(units::ucum);
            }
        }
    }
    match taken.parts.is_empty() && taken.left_out.is_empty() {
        true => Ok(Taken::none("whole message", "no-metric")),
        false => Ok(taken),
    }
}

/// Units that a message tells.
struct Told {
    temperature: Option<String>,
    pressure: Option<String>,
    speed: Option<String>,
}

impl Told {
    /// The unit of a metric by its name; of one of several phases or inputs by what stands before its number.
    fn unit_of(&self, metric: &str) -> Option<&str> {
        let is_figures = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let without_phase = match metric.rsplit_once('.') {
            Some((name, phase)) if is_figures(phase) => name,
            _ => metric,
        };
        let without_number = without_phase.trim_end_matches(|letter: char| letter.is_ascii_digit());
        let ends_in = |name: &str| {
            let ends_in =
                |metric: &str| metric.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
            ends_in(metric) || ends_in(without_phase) || ends_in(without_number)
        };
        if ["Temperature", "DewPoint", "HeatIndex"].into_iter().any(ends_in) {
            self.temperature.as_deref()
        } else if ["Pressure", "SeaPressure"].into_iter().any(ends_in) {
            self.pressure.as_deref()
        } else if metric.split('.').any(|name| name == "Speed") {
            self.speed.as_deref()
        } else {
            UNITS.iter().find(|(name, _)| ends_in(name)).map(|(_, unit)| *unit)
        }
    }
}

/// What the device's clock showed, where it does not say how far it is from UTC.
fn local(tree: &Node, when: When) -> Option<shared::time::Timestamp> {
    let time = tree.at(&Path::parse("Time").ok()?).ok()??;
    match when::read(time, when) {
        Ok(when::Read::Local(local)) => Some(local),
        _ => None,
    }
}

fn online(plan: &Plan, names: &BTreeMap<&str, &str>, payload: &[u8]) -> Result<Taken, String> {
    if payload.is_empty() {
        return Ok(Taken::none("LWT", "cleared"));
    }
    let Some(metric) = plan.online.clone() else { return Ok(Taken::none("LWT", "online")) };
    let value = match plain::text(payload)? {
        "Online" => Ok((Value::Bool(true), None)),
        "Offline" => Ok((Value::Bool(false), None)),
        other => Err(format!("type: neither Online nor Offline: {}", clip(other))),
    };
    let device = plan.device.fill_names(names);
    Ok(Taken::one(Part { device, measured: vec![Measured { metric, value }], ..Part::default() }))
}

#[cfg(test)]
mod tests;
