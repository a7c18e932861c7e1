//! Topics of Sparkplug: what a message is about, the device it names, and where a rebirth is asked for.

use std::collections::BTreeMap;

use shared::reading::{DEVICE_BYTES_MAX, DeviceId};
use shared::time::Timestamp;

use super::super::Ask;
use super::wire;
use crate::presilver::mapping::pattern::Named;
use crate::presilver::mapping::plan::Plan;

/// The metric by which an edge node is asked to be born again.
const REBIRTH: &str = "Node Control/Rebirth";

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    NodeBirth,
    NodeData,
    NodeDeath,
    DeviceBirth,
    DeviceData,
    DeviceDeath,
}

/// A topic, taken apart.
pub(super) struct Topic<'t> {
    /// Up to `spBv1.0`, with what a bridge may have put before it.
    pub(super) namespace: &'t str,
    pub(super) group: &'t str,
    pub(super) kind: Kind,
    pub(super) node: &'t str,
    pub(super) device: Option<&'t str>,
}

/// Why a topic is none of a birth, data or death.
pub(super) enum Other {
    NoData(&'static str),
    Malformed,
}

pub(super) fn parse(topic: &str) -> Result<Topic<'_>, Other> {
    let levels: Vec<&str> = topic.split('/').collect();
    let at = levels.iter().position(|level| level.starts_with("spBv")).ok_or(Other::Malformed)?;
    let namespace = &topic[..levels[..=at].iter().map(|level| level.len() + 1).sum::<usize>() - 1];
    match levels[at..] {
        [_, "STATE", ..] => Err(Other::NoData("host-state")),
        [_, _, "NCMD" | "DCMD", ..] => Err(Other::NoData("command")),
        [_, group, kind, node, ref rest @ ..] if !group.is_empty() && !node.is_empty() => {
            let kind = match (kind, rest) {
                ("NBIRTH", []) => Kind::NodeBirth,
                ("NDATA", []) => Kind::NodeData,
                ("NDEATH", []) => Kind::NodeDeath,
                ("DBIRTH", [_]) => Kind::DeviceBirth,
                ("DDATA", [_]) => Kind::DeviceData,
                ("DDEATH", [_]) => Kind::DeviceDeath,
                _ => return Err(Other::Malformed),
            };
            let device = rest.first().copied();
            let names = [Some(group), Some(node), device];
            let is_long = DEVICE_BYTES_MAX < namespace.len();
            match is_long || names.into_iter().flatten().any(|name| DeviceId::fault(name).is_some()) {
                true => Err(Other::Malformed),
                false => Ok(Topic { namespace, group, kind, node, device }),
            }
        }
        _ => Err(Other::Malformed),
    }
}

pub(super) fn rebirth(topic: &Topic<'_>, now: Timestamp) -> Ask {
    let payload = wire::command(REBIRTH, u64::try_from(now.millis()).unwrap_or_default());
    Ask { topic: format!("{}/{}/NCMD/{}", topic.namespace, topic.group, topic.node), payload }
}

/// The device that a topic names.
pub fn device_of(plan: &Plan, names: &BTreeMap<&str, &str>, topic: &str) -> Option<String> {
    let topic = parse(topic).ok()?;
    Some(named(plan, names, &topic, topic.device.unwrap_or_default()))
}

/// The name of an edge node, or of a device behind it.
pub(super) fn named(plan: &Plan, names: &BTreeMap<&str, &str>, topic: &Topic<'_>, device: &str) -> String {
    let of = |named: &Named| match named {
        Named::Name(name) => Some(match name.as_str() {
            "group" => topic.group.to_owned(),
            "node" => topic.node.to_owned(),
            "device" => device.to_owned(),
            level => (*names.get(level)?).to_owned(),
        }),
        Named::At(_) => None,
    };
    match &plan.node {
        Some(node) if device.is_empty() => node.fill(of),
        _ => plan.device.fill(of),
    }
}
