//! The Homie convention, versions 3 to 5: a topic per property, its value as plain text.
//!
//! ```text
//! homie/{device}/$state                       ready, lost, …          -> the metric `online`
//! homie/{device}/{node}/{property}            21.5                    -> a value
//! homie/{device}/{node}/{property}/$unit      °C                      -> remembered (3 and 4)
//! homie/5/{device}/$description               {"nodes":{…}}           -> remembered (5)
//! ```
//!
//! Data types and units come in retained attributes. Until they are known a value is a number if it reads as one, a
//! boolean if it says `true` or `false`, and a text otherwise.

use std::collections::BTreeMap;

use shared::payload::{Measured, Unreadable};
use shared::reading::{DEVICE_BYTES_MAX, DeviceId, MetricName, Value};

use super::tree::{Node, clip};
use super::{LeftOut, Note, Part, Taken, json, plain, units, unreadable};
use crate::presilver::mapping::pattern::Named;
use crate::presilver::mapping::plan::Plan;

/// Most properties that are remembered.
const PROPERTIES_MAX: usize = 50_000;

/// What retained attributes said of properties: by device (as in its topic), node and property.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    properties: BTreeMap<(String, String, String), About>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct About {
    datatype: Option<String>,
    unit: Option<String>,
}

/// What a message is about, as its topic says.
#[derive(Clone, Copy)]
struct Of<'t> {
    /// Levels with a name.
    names: &'t BTreeMap<&'t str, &'t str>,
    /// What stands before the device: another convention's tree may have devices of the same names.
    within: &'t str,
    device: &'t str,
    node: &'t str,
    property: &'t str,
}

impl Of<'_> {
    fn named(&self, named: &Named) -> Option<String> {
        let Named::Name(name) = named else { return None };
        Some(match name.as_str() {
            "device" => self.device.to_owned(),
            "node" => self.node.to_owned(),
            "property" => self.property.to_owned(),
            level => (*self.names.get(level)?).to_owned(),
        })
    }

    fn key(&self) -> (String, String, String) {
        (format!("{}{}", self.within, self.device), self.node.to_owned(), self.property.to_owned())
    }

    fn has_fault(&self) -> bool {
        DEVICE_BYTES_MAX < self.within.len()
            || [self.device, self.node, self.property].iter().any(|name| DeviceId::fault(name).is_some())
    }
}

impl Memory {
    /// Takes the value of a message, or remembers what it says.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn take(
        &mut self,
        plan: &Plan,
        names: &BTreeMap<&str, &str>,
        topic: &str,
        payload: &[u8],
    ) -> Result<Taken, Unreadable> {
        let rest = plan.pattern.rest(topic).unwrap_or_default();
        let rest = rest.strip_prefix("5/").unwrap_or(rest);
        let levels: Vec<&str> = rest.split('/').collect();
        let within = topic.strip_suffix(rest).unwrap_or_default();
        let of = |device, node, property| Of { names, within, device, node, property };
        let why = match levels[..] {
            [first, ..] if first.starts_with('$') => "broadcast",
            [device, "$state"] => return state(plan, of(device, "", ""), payload).map_err(unreadable),
            [device, "$description"] => return self.describe(of(device, "", ""), payload).map_err(unreadable),
            [device, node, property, attribute @ ("$unit" | "$datatype")] => {
                return self.attribute(of(device, node, property), attribute, payload).map_err(unreadable);
            }
            [_, _, _, "set" | "$target"] => "command",
            [_, _, property] if property.starts_with('$') => "attribute",
            [_, node, ..] if node.starts_with('$') => "attribute",
            [_, _, _, attribute] if attribute.starts_with('$') => "attribute",
            [device, node, property] if levels.iter().all(|level| !level.is_empty()) => {
                return self.value(plan, of(device, node, property), payload).map_err(unreadable);
            }
            _ => return Err(unreadable("topic: no Homie topic".to_owned())),
        };
        Ok(Taken::none(levels.last().copied().unwrap_or_default(), why))
    }

    fn value(&self, plan: &Plan, of: Of<'_>, payload: &[u8]) -> Result<Taken, String> {
        // An empty payload clears a retained value; an empty text is one zero byte.
        if payload.is_empty() {
            return Ok(Taken::none(of.property, "cleared"));
        }
        let text = match payload {
            [0] => "",
            bytes => {
                std::str::from_utf8(bytes).map_err(|e| format!("payload: not UTF-8 from byte {}", e.valid_up_to()))?
            }
        };
        let named = |named: &Named| of.named(named);
        let metric = plan.metric.as_ref().map(|metric| metric.fill(named)).unwrap_or_default();
        if plan.leaves_out(&metric) {
            return Ok(Taken { left_out: vec![LeftOut { what: metric, why: "leave-out" }], ..Taken::default() });
        }
        let about = self.properties.get(&of.key());
        let read = |text: &str| -> Result<(Value, Option<String>), String> {
            let datatype = about.and_then(|about| about.datatype.as_deref());
            let unit = about.and_then(|about| about.unit.clone());
            let value = typed(datatype, text)?.value()?;
            Ok((value, unit.or_else(|| (datatype == Some("percent")).then(|| "%".to_owned()))))
        };
        let value = match MetricName::fault(&metric) {
            Some(fault) => Err(fault),
            None => read(text),
        };
        let device = plan.device.fill(named);
        Ok(Taken::one(Part { device, measured: vec![Measured { metric, value }], ..Part::default() }))
    }

    fn attribute(&mut self, of: Of<'_>, attribute: &str, payload: &[u8]) -> Result<Taken, String> {
        let text = std::str::from_utf8(payload).map_err(|_| "payload: not UTF-8".to_owned())?.trim();
        let mut taken = Taken::none(attribute, "attribute");
        if 64 < text.len() || text.chars().any(char::is_control) {
            return Err(format!("payload: no {attribute}: {}", clip(text)));
        }
        if of.has_fault() {
            return Err("topic: a name in it is empty, too long, or holds a control character".to_owned());
        }
        match self.about(of) {
            None => taken.notes.push(full()),
            Some(about) if attribute == "$unit" => about.unit = units::ucum(text),
            Some(about) => about.datatype = Some(text.to_owned()).filter(|text| !text.is_empty()),
        }
        Ok(taken)
    }

    /// What is remembered of a property; `None` if it is a new one, and too many are.
    fn about(&mut self, of: Of<'_>) -> Option<&mut About> {
        let key = of.key();
        let is_full = PROPERTIES_MAX <= self.properties.len() && !self.properties.contains_key(&key);
        (!is_full).then(|| self.properties.entry(key).or_default())
    }

    fn describe(&mut self, of: Of<'_>, payload: &[u8]) -> Result<Taken, String> {
        let mut taken = Taken::none("$description", "attribute");
        if payload.is_empty() {
            return Ok(taken); // the device is gone
        }
        let tree = json::read(payload)?;
        let members = |node: Option<&Node>| match node {
            Some(Node::Map(members)) => members.clone(),
            _ => Vec::new(),
        };
        let member = |node: &Node, name: &str| node.member(name).ok().flatten().cloned();
        let text = |node: Option<Node>| match node {
            Some(Node::Text(text)) if text.len() <= 64 && !text.chars().any(char::is_control) => Some(text),
            _ => None,
        };
        for (node, about_node) in members(member(&tree, "nodes").as_ref()) {
            for (property, says) in members(member(&about_node, "properties").as_ref()) {
                let of = Of { node: &node, property: &property, ..of };
                if of.has_fault() {
                    continue; // its values are refused by their names
                }
                let Some(about) = self.about(of) else {
                    taken.notes.push(full());
                    return Ok(taken);
                };
                about.datatype = text(member(&says, "datatype"));
                about.unit = text(member(&says, "unit")).and_then(|unit| units::ucum(&unit));
            }
        }
        Ok(taken)
    }
}

/// The device that a topic names.
pub fn device_of(plan: &Plan, names: &BTreeMap<&str, &str>, topic: &str) -> Option<String> {
    let rest = plan.pattern.rest(topic)?;
    let device = rest.strip_prefix("5/").unwrap_or(rest).split('/').next()?;
    let of = Of { names, within: "", device, node: "", property: "" };
    Some(plan.device.fill(|named| of.named(named)))
}

fn full() -> Note {
    Note { kind: "homie-full", text: format!("{PROPERTIES_MAX} Homie properties are remembered, no more") }
}

fn state(plan: &Plan, of: Of<'_>, payload: &[u8]) -> Result<Taken, String> {
    if payload.is_empty() {
        return Ok(Taken::none("$state", "cleared"));
    }
    let Some(metric) = plan.online.clone() else { return Ok(Taken::none("$state", "online")) };
    let value = match plain::text(payload)? {
        "ready" | "alert" | "sleeping" => Ok((Value::Bool(true), None)),
        "init" | "disconnected" | "lost" => Ok((Value::Bool(false), None)),
        other => Err(format!("type: no Homie state: {}", clip(other))),
    };
    let device = plan.device.fill(|named| of.named(named));
    Ok(Taken::one(Part { device, measured: vec![Measured { metric, value }], ..Part::default() }))
}

/// The value of a text by the data type of its property.
fn typed(datatype: Option<&str>, text: &str) -> Result<Node, String> {
    let misfit = |name: &str| format!("type: no {name}: {}", clip(text));
    match datatype {
        Some(name @ ("integer" | "float" | "percent")) => plain::number(text).ok_or_else(|| misfit(name)),
        Some("boolean") => match text {
            "true" => Ok(Node::Bool(true)),
            "false" => Ok(Node::Bool(false)),
            _ => Err(misfit("boolean")),
        },
        Some(_) => Ok(Node::Text(text.to_owned())),
        None => Ok(match text {
            "true" => Node::Bool(true),
            "false" => Node::Bool(false),
            // What microcontrollers print of a sensor that is not there.
            text if ["nan", "inf", "-inf", "ovf"].iter().any(|none| none.eq_ignore_ascii_case(text)) => {
                return Err(misfit("number"));
            }
            text => plain::number(text).unwrap_or_else(|| Node::Text(text.to_owned())),
        }),
    }
}

#[cfg(test)]
mod tests;
