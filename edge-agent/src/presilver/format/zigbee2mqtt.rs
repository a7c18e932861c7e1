//! Zigbee2MQTT: a JSON object of what a device exposes on `zigbee2mqtt/FRIENDLY NAME`.
//!
//! Friendly names may hold `/`. `…/availability` is the metric `online`; what is not an object is one attribute, named
//! by the last level; `bridge/…`, `…/set` and `…/get` are not telemetry. `last_seen` is the time, where it is switched on.
//! Units stand in no value: they are learned from the retained `bridge/devices`.

mod units; // what bridge/devices says

use std::collections::BTreeMap;

use shared::payload::{Measured, Unreadable};
use shared::reading::{MetricName, Value};

use super::tree::{Node, clip};
use super::{LeftOut, Part, Taken, json, plain, records, unreadable};
use crate::presilver::mapping::plan::Plan;

pub use self::units::Units;

/// What a device says of itself and its firmware: no measurements.
const ABOUT: [&str; 3] = ["update", "update_available", "device"];
/// Of all its devices.
const DEVICES: &str = "bridge/devices";

/// Takes the values of a message, or remembers what it says of units.
///
/// # Errors
/// It cannot be read.
pub fn take(
    units: &mut Units,
    plan: &Plan,
    names: &BTreeMap<&str, &str>,
    topic: &str,
    payload: &[u8],
) -> Result<Taken, Unreadable> {
    let name = plan.pattern.rest(topic).unwrap_or_default();
    let bridge = topic.strip_suffix(name).unwrap_or_default();
    if name == DEVICES && !payload.is_empty() {
        let notes = units.learn(bridge, payload).err().into_iter().collect();
        return Ok(Taken { notes, ..Taken::none(name, "bridge") });
    }
    let with_units = |measured: &mut Measured, device: &str| {
        if let Ok((Value::Number(_), unit @ None)) = &mut measured.value {
            *unit = units.of(bridge, device, &measured.metric).map(str::to_owned);
        }
    };
    let split = name.rsplit_once('/');
    match split {
        _ if name == "bridge" || name.starts_with("bridge/") => return Ok(Taken::none(name, "bridge")),
        Some((_, "set" | "get")) => return Ok(Taken::none(name, "command")),
        Some((_, last)) if name.contains("/set/") || name.contains("/get/") => return Ok(Taken::none(last, "command")),
        Some((device, "availability")) => return availability(plan, &of(names, device), payload).map_err(unreadable),
        _ if name.is_empty() => return Err(unreadable("topic: names no device".to_owned())),
        _ if payload.is_empty() => return Ok(Taken::none(name, "cleared")),
        _ => {}
    }
    let tree = json::read(payload);
    match (tree, split) {
        (Ok(Node::Map(members)), _) => {
            let (about, values): (Vec<_>, Vec<_>) = members.into_iter().partition(|(name, node)| {
                // Older bridges say after each action that it is over: so.
                let is_over = name == "action" && *node == Node::Text(String::new());
                is_over || ABOUT.contains(&name.as_str())
            });
            let taken = match values.iter().all(|(name, _)| name == "last_seen") {
                true => Ok(Taken::default()),
                false => records::take(plan, &of(names, name), &Node::Map(values)),
            };
            let mut taken = taken.map_err(unreadable)?;
            for measured in taken.parts.iter_mut().flat_map(|part| &mut part.measured) {
                with_units(measured, name);
            }
            taken.left_out.extend(about.into_iter().map(|(what, _)| LeftOut { what, why: "about" }));
            match taken.parts.is_empty() && taken.left_out.is_empty() {
                true => Ok(Taken::none(name, "no-metric")),
                false => Ok(taken),
            }
        }
        (tree, Some((device, attribute))) => {
            let node = tree.unwrap_or_else(|_| match std::str::from_utf8(payload) {
                Ok(text) => Node::Text(text.to_owned()),
                Err(_) => Node::Bad("type: a text that is not UTF-8".to_owned()),
            });
            if plan.leaves_out(attribute) {
                return Ok(Taken::none(attribute, "leave-out"));
            }
            let value = match MetricName::fault(attribute) {
                Some(fault) => Err(fault),
                None => node.measure(),
            };
            let mut measured = Measured { metric: attribute.to_owned(), value };
            with_units(&mut measured, device);
            let device = plan.device.fill_names(&of(names, device));
            Ok(Taken::one(Part { device, measured: vec![measured], ..Part::default() }))
        }
        (Ok(node), None) => Err(unreadable(format!("payload: not an object: {}", node.shown()))),
        (Err(why), None) => Err(unreadable(why)),
    }
}

/// True of a topic whose retained value tells how others are to be read.
pub fn learns(plan: &Plan, topic: &str) -> bool {
    plan.pattern.rest(topic) == Some(DEVICES)
}

/// The device that a topic names, as far as it can be told from an attribute of one.
pub fn device_of(plan: &Plan, names: &BTreeMap<&str, &str>, topic: &str) -> Option<String> {
    let name = plan.pattern.rest(topic)?;
    Some(plan.device.fill_names(&of(names, name.strip_suffix("/availability").unwrap_or(name))))
}

/// The topic's levels, and the friendly name.
fn of<'n>(names: &BTreeMap<&'n str, &'n str>, device: &'n str) -> BTreeMap<&'n str, &'n str> {
    let mut names = names.clone();
    names.insert("device", device);
    names
}

/// `online`, or `{"state":"online"}`.
fn availability(plan: &Plan, names: &BTreeMap<&str, &str>, payload: &[u8]) -> Result<Taken, String> {
    if payload.is_empty() {
        return Ok(Taken::none("availability", "cleared"));
    }
    let Some(metric) = plan.online.clone() else { return Ok(Taken::none("availability", "online")) };
    let state = match json::read(payload).ok().and_then(|tree| tree.member("state").ok().flatten().and_then(Node::name))
    {
        Some(state) => state,
        None => plain::text(payload)?.to_owned(),
    };
    let value = match state.as_str() {
        "online" => Ok((Value::Bool(true), None)),
        "offline" => Ok((Value::Bool(false), None)),
        other => Err(format!("type: neither online nor offline: {}", clip(other))),
    };
    let device = plan.device.fill_names(names);
    Ok(Taken::one(Part { device, measured: vec![Measured { metric, value }], ..Part::default() }))
}

#[cfg(test)]
mod tests;
