//! SenML (RFC 8428): a list of records, whose base fields hold for those behind them.
//!
//! Texts of the mapping may name `{name}` (base name and name), `{base}` (the base name without the `:` or `/` it ends
//! in) and `{own}` (the name, or where there is none the whole name). A time below 2^28 seconds is relative to the
//! receipt. A sum is a metric of its own, `….sum`: an integral over time, in the unit times seconds (UCUM's `W.s`).

use std::collections::BTreeMap;

use shared::payload::{METRICS_MAX, Measured};
use shared::reading::{MetricName, Value};
use shared::time::Timestamp;

use super::tree::{Node, Twice, unit_of};
use super::when::micros_of;
use super::{LeftOut, Part, Taken};
use crate::presilver::mapping::pattern::Named;
use crate::presilver::mapping::plan::Plan;

/// Times below it are relative to now.
const RELATIVE_S: f64 = 268_435_456.0;
/// The version that RFC 8428 describes.
const VERSION: f64 = 10.0;
/// Labels of fields in CBOR.
const LABELS: [(&str, &str); 15] = [
    ("-1", "bver"),
    ("-2", "bn"),
    ("-3", "bt"),
    ("-4", "bu"),
    ("-5", "bv"),
    ("-6", "bs"),
    ("0", "n"),
    ("1", "u"),
    ("2", "v"),
    ("3", "vs"),
    ("4", "vb"),
    ("5", "s"),
    ("6", "t"),
    ("7", "ut"),
    ("8", "vd"),
];

/// Gives the fields of a pack in CBOR their names.
#[must_use]
pub fn named(tree: Node) -> Node {
    let rename =
        |name: String| LABELS.iter().find(|(label, _)| *label == name).map_or(name, |(_, field)| (*field).into());
    match tree {
        Node::List(records) => Node::List(
            records
                .into_iter()
                .map(|record| match record {
                    Node::Map(members) => {
                        Node::Map(members.into_iter().map(|(name, node)| (rename(name), node)).collect())
                    }
                    other => other,
                })
                .collect(),
        ),
        other => other,
    }
}

/// What holds for the records behind.
#[derive(Debug, Default)]
struct Base {
    name: String,
    time: f64,
    unit: Option<String>,
    value: Option<f64>,
    sum: Option<f64>,
}

/// Takes the values out of a pack.
///
/// # Errors
/// Why it cannot be taken as a whole.
pub fn take(plan: &Plan, names: &BTreeMap<&str, &str>, tree: &Node) -> Result<Taken, String> {
    let Node::List(records) = tree else {
        return Err(format!("payload: not a list of SenML records: {}", tree.shown()));
    };
    if METRICS_MAX < records.len() {
        return Err(format!("payload: more than {METRICS_MAX} records"));
    }
    let mut base = Base::default();
    let mut taken = Taken::default();
    for record in records {
        let Node::Map(members) = record else { return Err(format!("payload: no SenML record: {}", record.shown())) };
        base.take(record, members)?;
        base.record(plan, names, record, &mut taken)?;
    }
    match taken.parts.is_empty() && taken.left_out.is_empty() {
        true => Err("payload: holds no metric".to_owned()),
        false => Ok(taken),
    }
}

fn field<'n>(record: &'n Node, name: &str) -> Result<Option<&'n Node>, String> {
    record.member(name).map_err(|Twice| format!("payload: `{name}` stands twice in a record"))
}

fn number(node: &Node, name: &str) -> Result<f64, String> {
    match node.value() {
        Ok(Value::Number(number)) => Ok(number),
        Ok(_) => Err(format!("type: `{name}` is no number: {}", node.shown())),
        Err(reason) => Err(reason),
    }
}

impl Base {
    /// Takes over what a record says for itself and those behind it.
    fn take(&mut self, record: &Node, members: &[(String, Node)]) -> Result<(), String> {
        let known = |name: &str| LABELS.iter().any(|(_, field)| *field == name);
        if let Some((name, _)) = members.iter().find(|(name, _)| name.ends_with('_') && !known(name)) {
            return Err(format!("payload: `{name}` must be understood, and is not"));
        }
        if let Some(node) = field(record, "bver")? {
            let version = number(node, "bver").map_err(|reason| format!("payload: {reason}"))?;
            if VERSION < version {
                return Err(format!("payload: SenML of version {version}, {VERSION} is known"));
            }
        }
        if let Some(node) = field(record, "bn")? {
            let Node::Text(name) = node else { return Err(format!("payload: `bn` is no text: {}", node.shown())) };
            self.name.clone_from(name);
        }
        if let Some(node) = field(record, "bt")? {
            self.time = number(node, "bt").map_err(|reason| format!("payload: {reason}"))?;
        }
        for (name, place) in [("bv", &mut self.value), ("bs", &mut self.sum)] {
            if let Some(node) = field(record, name)? {
                *place = Some(number(node, name).map_err(|reason| format!("payload: {reason}"))?);
            }
        }
        if let Some(node) = field(record, "bu")? {
            self.unit = unit_of(node).map_err(|reason| format!("payload: `bu`: {reason}"))?;
        }
        Ok(())
    }

    fn record(
        &self,
        plan: &Plan,
        names: &BTreeMap<&str, &str>,
        record: &Node,
        taken: &mut Taken,
    ) -> Result<(), String> {
        let regular = ["n", "u", "v", "vs", "vb", "vd", "s", "t", "ut"];
        if regular.iter().all(|name| matches!(record.member(name), Ok(None))) {
            return Ok(()); // base fields alone, for those behind
        }
        let mut part = Part::default();
        let own = match field(record, "n")? {
            None => "",
            Some(Node::Text(name)) => name,
            Some(node) => return Err(format!("payload: `n` is no text: {}", node.shown())),
        };
        let named = |part: &Named| self.named(part, own, names);
        part.device = plan.device.fill(named);
        let metric = plan.metric.as_ref().map(|template| template.fill(named)).unwrap_or_default();
        self.time(record, &mut part)?;
        let unit = match field(record, "u")? {
            Some(node) => unit_of(node),
            None => Ok(self.unit.clone()),
        };
        let with_unit =
            |value: Result<Value, String>| -> Result<(Value, Option<String>), String> { Ok((value?, unit.clone()?)) };
        let value = self.value(record);
        let sum = match field(record, "s")? {
            Some(node) => Some(number(node, "s").and_then(|own| sum(own, self.sum))),
            None => self.sum.map(|base| Ok(Value::Number(base))),
        };
        let mut add = |metric: String, value: Result<(Value, Option<String>), String>| {
            if plan.leaves_out(&metric) {
                taken.left_out.push(LeftOut { what: metric, why: "leave-out" });
                return;
            }
            let value = match MetricName::fault(&metric) {
                Some(fault) => Err(fault),
                None => value,
            };
            part.measured.push(Measured { metric, value });
        };
        match (value, &sum) {
            (Some(value), _) => add(metric.clone(), with_unit(value)),
            (None, None) => add(metric.clone(), Err("type: a record without a value".to_owned())),
            (None, Some(_)) => {}
        }
        if let Some(sum) = sum {
            add(format!("{metric}.sum"), with_unit(sum).map(|(sum, unit)| (sum, unit.map(over_time))));
        }
        if !part.measured.is_empty() {
            taken.parts.push(part);
        }
        Ok(())
    }

    fn named(&self, named: &Named, own: &str, names: &BTreeMap<&str, &str>) -> Option<String> {
        let Named::Name(name) = named else { return None };
        Some(match name.as_str() {
            "name" => format!("{}{own}", self.name),
            "base" => self.name.trim_end_matches([':', '/']).to_owned(),
            "own" if own.is_empty() => self.name.clone(),
            "own" => own.to_owned(),
            level => (*names.get(level)?).to_owned(),
        })
    }

    fn time(&self, record: &Node, part: &mut Part) -> Result<(), String> {
        let own = match field(record, "t")?.map(|node| number(node, "t")) {
            None => 0.0,
            Some(Ok(seconds)) => seconds,
            Some(Err(reason)) => {
                part.faults.push(format!("time: {reason}"));
                return Ok(());
            }
        };
        let seconds = self.time + own;
        match micros_of(seconds * 1e6) {
            Some(micros) if seconds.abs() < RELATIVE_S => part.shift_us = micros,
            Some(micros) if Timestamp::from_micros(micros).is_printable() => {
                part.time = Some(Timestamp::from_micros(micros));
            }
            _ => part.faults.push(format!("time: outside the years 1 to 9999: {seconds}")),
        }
        Ok(())
    }

    /// The value of a record, the base value in it; `None` where it has none.
    fn value(&self, record: &Node) -> Option<Result<Value, String>> {
        let mut found = Vec::new();
        for name in ["v", "vs", "vb", "vd"] {
            match record.member(name) {
                Ok(None) => {}
                Ok(Some(node)) => found.push((name, node)),
                Err(Twice) => return Some(Err(format!("type: `{name}` stands twice in the record"))),
            }
        }
        match found[..] {
            [] => self.value.map(|value| Ok(Value::Number(value))),
            [("v", node)] => Some(number(node, "v").and_then(|value| sum(value, self.value))),
            [("vs", node @ Node::Text(_))] | [("vb", node @ Node::Bool(_))] => Some(node.value()),
            [("vd", _)] => Some(Err("type: data (`vd`), which are neither number, boolean nor text".to_owned())),
            [(name, node)] => Some(Err(match node {
                Node::Bad(reason) => reason.clone(),
                node => format!("type: `{name}` is not what its name says: {}", node.shown()),
            })),
            _ => Some(Err("type: a record with more than one value".to_owned())),
        }
    }
}

/// The unit of an integral over time.
fn over_time(unit: String) -> String {
    match unit.as_str() {
        "/" | "1" => "s".to_owned(),
        _ => unit + ".s",
    }
}

fn sum(own: f64, base: Option<f64>) -> Result<Value, String> {
    let sum = own + base.unwrap_or_default();
    if sum.is_finite() { Ok(Value::Number(sum)) } else { Err(format!("type: {sum} is no finite number")) }
}

#[cfg(test)]
mod tests;
