//! Tree + mapping -> parts: which records a payload holds, and which metrics each.
//!
//! A place is looked for in the record first, then in what encloses it: a time that stands once above a list is the time
//! of every record in it.

use std::collections::{BTreeMap, HashMap};

use shared::payload::{METRICS_MAX, Measured};
use shared::reading::{MetricName, Value};

use super::tree::{Node, Path, Twice, unit_of};
use super::when;
use super::{LeftOut, Part, Taken};
use crate::presilver::mapping::Nulls;
use crate::presilver::mapping::pattern::{Named, Template};
use crate::presilver::mapping::plan::{Place, Plan};

/// A record and what encloses it.
struct Record<'n> {
    /// From the payload itself to the record.
    within: Vec<&'n Node>,
    /// The name or index of the record under each `*`.
    keys: Vec<String>,
}

/// Takes the values out of a tree.
///
/// # Errors
/// Why the payload cannot be taken as a whole.
pub fn take(plan: &Plan, names: &BTreeMap<&str, &str>, tree: &Node) -> Result<Taken, String> {
    let mut records = Vec::new();
    let steps = plan.records.as_ref().map_or(&[][..], |path| &path.steps[..]);
    find(tree, steps, &mut vec![tree], &mut Vec::new(), &mut records)?;
    if let (Some(path), []) = (&plan.records, &records[..]) {
        return Err(format!("payload: no record at `{}`", path.steps.join(".")));
    }
    let mut taken = Taken::default();
    let mut count = 0;
    for record in &records {
        let part = record.part(plan, names, &mut taken.left_out)?;
        count += part.measured.len();
        if METRICS_MAX < count {
            return Err(format!("payload: more than {METRICS_MAX} metrics"));
        }
        if !part.measured.is_empty() {
            taken.parts.push(part);
        }
    }
    if taken.parts.is_empty() && taken.left_out.is_empty() {
        return Err("payload: holds no metric".to_owned());
    }
    Ok(taken)
}

fn find<'n>(
    node: &'n Node,
    steps: &[String],
    within: &mut Vec<&'n Node>,
    keys: &mut Vec<String>,
    found: &mut Vec<Record<'n>>,
) -> Result<(), String> {
    let Some((step, rest)) = steps.split_first() else {
        if METRICS_MAX <= found.len() {
            return Err(format!("payload: more than {METRICS_MAX} records"));
        }
        found.push(Record { within: within.clone(), keys: keys.clone() });
        return Ok(());
    };
    let members: Vec<(String, &Node)> = match (step.as_str(), node) {
        ("*", Node::Map(members)) => members.iter().map(|(name, member)| (name.clone(), member)).collect(),
        ("*", Node::List(elements)) => {
            elements.iter().enumerate().map(|(i, element)| (i.to_string(), element)).collect()
        }
        (name, node) => match node.member(name) {
            Ok(member) => member.map(|member| (String::new(), member)).into_iter().collect(),
            Err(Twice) => return Err(format!("payload: `{name}` stands twice in it")),
        },
    };
    for (key, member) in members {
        within.push(member);
        keys.push(key);
        find(member, rest, within, keys, found)?;
        keys.pop();
        within.pop();
    }
    Ok(())
}

impl Record<'_> {
    /// What stands at `path`, in the record or in what encloses it.
    fn at(&self, path: &Path) -> Result<Option<&Node>, Twice> {
        for node in self.within.iter().rev() {
            if let Some(found) = node.at(path)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn text(&self, template: &Template, names: &BTreeMap<&str, &str>) -> String {
        template.fill(|named| match named {
            Named::Name(name) if name == "*" => self.keys.last().cloned(),
            Named::Name(name) => names.get(name.as_str()).map(|text| (*text).to_owned()),
            Named::At(path) => self.at(path).ok().flatten().and_then(Node::name),
        })
    }

    fn part(&self, plan: &Plan, names: &BTreeMap<&str, &str>, left_out: &mut Vec<LeftOut>) -> Result<Part, String> {
        let mut part = Part {
            device: self.text(&plan.device, names),
            is_whole: plan.value.is_none() && plan.records.is_none(),
            ..Part::default()
        };
        self.time(plan, &mut part);
        self.number(plan, &mut part);
        let record = *self.within.last().unwrap_or(&&Node::Null);
        let mut all = Metrics { plan, left_out, seen: HashMap::new(), part: &mut part };
        if let Some(value) = &plan.value {
            let metric = plan.metric.as_ref().map(|metric| self.text(metric, names)).unwrap_or_default();
            match self.at(value) {
                Ok(Some(Node::Null)) if plan.nulls == Nulls::LeaveOut => all.null(&metric),
                Ok(Some(node)) => {
                    all.add(metric, node.measure().and_then(|(value, unit)| Ok((value, self.unit(plan, unit)?))));
                }
                Ok(None) => all.add(metric, Err("type: a record without its value".to_owned())),
                Err(Twice) => all.add(metric, Err("type: the value stands twice in the record".to_owned())),
            }
        } else if !plan.fields.is_empty() {
            for (metric, place) in &plan.fields {
                match self.at(&place.at) {
                    Ok(Some(Node::Null)) if plan.nulls == Nulls::LeaveOut => all.null(metric),
                    Ok(Some(node)) => all.add(metric.clone(), placed(node, place)),
                    Ok(None) => {}
                    Err(Twice) => all.add(metric.clone(), Err("type: it stands twice in the payload".to_owned())),
                }
            }
        } else {
            match (record, &plan.metric) {
                (Node::Map(_), _) => all.members(record, &mut Vec::new(), &reserved(plan))?,
                (node, Some(metric)) => all.one(self.text(metric, names), node),
                (node, None) => return Err(format!("payload: not an object: {}", node.shown())),
            }
        }
        Ok(part)
    }

    fn unit(&self, plan: &Plan, unit: Option<String>) -> Result<Option<String>, String> {
        match plan.unit.as_ref().map(|path| self.at(path)) {
            None | Some(Ok(None)) => Ok(unit),
            Some(Ok(Some(node))) => unit_of(node),
            Some(Err(Twice)) => Err("unit: it stands twice in the record".to_owned()),
        }
    }

    fn time(&self, plan: &Plan, part: &mut Part) {
        let Some(path) = &plan.time else { return };
        match self.at(path) {
            Ok(None | Some(Node::Null)) => {}
            Ok(Some(node)) => match when::read(node, plan.when) {
                Ok(when::Read::At(time)) => part.time = Some(time),
                Ok(when::Read::Local(_)) => part.faults.push(format!(
                    "time: has no offset from UTC: {}; write `time-offset` into its mapping",
                    node.shown()
                )),
                Err(fault) => part.faults.push(fault),
            },
            Err(Twice) => part.faults.push(format!("time: `{}` stands twice in the payload", path.steps.join("."))),
        }
    }

    fn number(&self, plan: &Plan, part: &mut Part) {
        let Some(path) = &plan.n else { return };
        match self.at(path) {
            Ok(None | Some(Node::Null)) => {}
            Ok(Some(Node::Int(n))) => part.n = Some(*n),
            Ok(Some(node)) => {
                part.faults.push(format!("number: `{}` is no whole number: {}", path.steps.join("."), node.shown()));
            }
            Err(Twice) => part.faults.push(format!("number: `{}` stands twice in the payload", path.steps.join("."))),
        }
    }
}

/// Places that are no metrics: they tell time, number and names.
fn reserved(plan: &Plan) -> Vec<&Path> {
    let named = [Some(&plan.device), plan.metric.as_ref()].into_iter().flatten().flat_map(Template::places);
    [&plan.time, &plan.n].into_iter().flatten().chain(named).collect()
}

/// A value with the unit and the factor of its place.
fn placed(node: &Node, place: &Place) -> Result<(Value, Option<String>), String> {
    let (mut value, unit) = node.measure()?;
    if let Some(scale) = place.scale {
        value = match value {
            Value::Number(number) if (number * scale).is_finite() => Value::Number(number * scale),
            Value::Number(number) => {
                return Err(format!("type: {number:e} times {scale:e} is more than a double can hold"));
            }
            other => return Err(format!("type: {other} cannot be multiplied by {scale}")),
        };
    }
    Ok((value, unit.or_else(|| place.unit.clone())))
}

/// The metrics of a record, as they are gathered.
struct Metrics<'a> {
    plan: &'a Plan,
    left_out: &'a mut Vec<LeftOut>,
    /// Where in the part a metric stands; `None`: it was a null that is left out.
    seen: HashMap<String, Option<usize>>,
    part: &'a mut Part,
}

impl Metrics<'_> {
    fn leave_out(&mut self, metric: &str, why: &'static str) {
        self.left_out.push(LeftOut { what: metric.to_owned(), why });
    }

    /// Says that there is no value; beside another one of the same metric it is believed as little as that.
    fn null(&mut self, metric: &str) {
        match self.seen.get(metric) {
            Some(Some(at)) => self.part.measured[*at].stands_twice(),
            Some(None) => {}
            None => {
                self.seen.insert(metric.to_owned(), None);
            }
        }
        self.leave_out(metric, "null");
    }

    fn one(&mut self, metric: String, node: &Node) {
        match node {
            Node::Null if self.plan.nulls == Nulls::LeaveOut => self.null(&metric),
            node => self.add(metric, node.measure()),
        }
    }

    fn add(&mut self, metric: String, value: Result<(Value, Option<String>), String>) {
        if self.plan.leaves_out(&metric) {
            return self.leave_out(&metric, "leave-out");
        }
        let before = self.seen.get(&metric).copied();
        if let Some(Some(at)) = before {
            return self.part.measured[at].stands_twice();
        }
        self.seen.insert(metric.clone(), Some(self.part.measured.len()));
        let value = MetricName::fault(&metric).map_or(value, Err);
        let mut measured = Measured { metric, value };
        if before.is_some() {
            measured.stands_twice();
        }
        self.part.measured.push(measured);
    }

    /// Every member is a metric, or with a separator the members within it are.
    fn members(&mut self, node: &Node, at: &mut Vec<String>, reserved: &[&Path]) -> Result<(), String> {
        let members: Vec<(String, &Node)> = match node {
            Node::Map(members) => members.iter().map(|(name, member)| (name.clone(), member)).collect(),
            Node::List(elements) => elements.iter().enumerate().map(|(i, element)| (i.to_string(), element)).collect(),
            _ => Vec::new(),
        };
        for (name, member) in members {
            at.push(name);
            if !reserved.iter().any(|path| path.steps == *at) {
                match (member, &self.plan.separator) {
                    (Node::Map(inner), Some(_)) if !is_measurement(inner) => self.members(member, at, reserved)?,
                    (Node::List(_), Some(_)) => self.members(member, at, reserved)?,
                    (Node::Map(inner), None) if !inner.iter().any(|(name, _)| name == "v") => self.add(
                        at.join(""),
                        Err("type: an object; what is in it is taken with a `separator` in its mapping".to_owned()),
                    ),
                    (_, separator) => self.one(at.join(separator.as_deref().unwrap_or_default()), member),
                }
            }
            at.pop();
            if METRICS_MAX < self.part.measured.len() {
                return Err(format!("payload: more than {METRICS_MAX} metrics"));
            }
        }
        Ok(())
    }
}

/// An object of `v`, or of `v` and `u`.
fn is_measurement(members: &[(String, Node)]) -> bool {
    members.iter().any(|(name, _)| name == "v") && members.iter().all(|(name, _)| name == "v" || name == "u")
}

#[cfg(test)]
mod tests;
