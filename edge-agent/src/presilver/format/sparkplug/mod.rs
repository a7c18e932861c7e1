//! Sparkplug B: births name metrics, data may give only their aliases, deaths end what a birth began.
//!
//! ```text
//! spBv1.0/{group}/NBIRTH|NDATA|NDEATH/{node}            an edge node
//! spBv1.0/{group}/DBIRTH|DDATA|DDEATH/{node}/{device}   a device behind it
//! ```
//!
//! Per edge node is remembered what its last birth said. Where something does not fit it — a number that was left out, an
//! alias nobody named, data without a birth — what can be read is read, the rest is refused with its reason, and the
//! edge node is asked for a rebirth, at most once a minute.

mod topic; // what a message is about
mod wire; // protobuf

mod message; // one message: births, deaths, values
mod value; // by data type

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shared::payload::Unreadable;
use shared::time::Timestamp;

use self::message::Message;
pub use self::topic::device_of;
use self::topic::{Other, parse, rebirth};
use self::wire::Metric;
use super::{LeftOut, Taken, unreadable};
use crate::presilver::mapping::plan::Plan;

/// Most metrics of one message: births of large edge nodes have some thousand.
const METRICS_MAX: usize = 5_000;
/// Most edge nodes that are remembered.
const NODES_MAX: usize = 1_000;
/// Most metrics of births that are remembered, of all edge nodes together.
const REMEMBERED_MAX: usize = 100_000;
/// Time between two requests to one edge node.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// All edge nodes that were heard of.
#[derive(Debug, Clone, Default)]
pub struct Nodes {
    /// By namespace and group, and edge node.
    nodes: BTreeMap<(String, String), NodeState>,
    remembered: usize,
}

#[derive(Debug, Clone, Default)]
struct NodeState {
    born: Option<Born>,
    /// The time of its last birth. It tells deaths apart: some edge nodes never count them.
    birth: Option<Timestamp>,
    asked: Option<Timestamp>,
}

/// What an edge node's last birth, and its devices' births since, said.
#[derive(Debug, Clone)]
struct Born {
    bd_seq: Option<i64>,
    /// The number of the last message.
    seq: Option<u8>,
    /// The latest time of a message, in milliseconds: what is older and out of turn is a repeat.
    latest_ms: u64,
    devices: BTreeSet<String>,
    aliases: BTreeMap<u64, Known>,
    names: BTreeMap<(String, String), Known>,
}

/// A metric that a birth named. Device "" is the edge node itself.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    device: String,
    name: String,
    datatype: u64,
    unit: Option<String>,
    /// Two metrics have this alias: nobody can tell which one is meant.
    is_ambiguous: bool,
}

impl Nodes {
    /// Takes the values of a message that came at `now`.
    ///
    /// # Errors
    /// It cannot be read as a whole.
    pub fn take(
        &mut self,
        plan: &Plan,
        names: &BTreeMap<&str, &str>,
        (topic, payload): (&str, &[u8]),
        now: Timestamp,
    ) -> Result<Taken, Unreadable> {
        let topic = match parse(topic) {
            Ok(topic) => topic,
            Err(Other::NoData(why)) => return Ok(Taken::none("whole message", why)),
            Err(Other::Malformed) => return Err(unreadable("topic: no Sparkplug topic".to_owned())),
        };
        let read =
            wire::payload(payload, METRICS_MAX).map_err(|_| unreadable("payload: not Sparkplug B".to_owned()))?;
        if read.uuid == Some(&b"SPBV1.0_COMPRESSED"[..]) {
            return Err(unreadable("payload: compressed, which is not read; publish it as it is".to_owned()));
        }
        if METRICS_MAX < read.metrics.len() {
            return Err(unreadable(format!("payload: more than {METRICS_MAX} metrics")));
        }
        let metrics: Result<Vec<Metric<'_>>, _> = read.metrics.iter().map(|bytes| wire::metric(bytes)).collect();
        let metrics = metrics.map_err(|_| unreadable("payload: not Sparkplug B, in a metric".to_owned()))?;
        let key = (format!("{}/{}", topic.namespace, topic.group), topic.node.to_owned());
        if !self.nodes.contains_key(&key) && NODES_MAX <= self.nodes.len() {
            return Err(unreadable(format!("sparkplug: more than {NODES_MAX} edge nodes")));
        }
        let mut state = self.nodes.remove(&key).unwrap_or_default();
        let before = state.size();
        let mut message = Message {
            topic: &topic,
            names,
            plan,
            timestamp: read.timestamp,
            seq: read.seq,
            room: REMEMBERED_MAX.saturating_sub(self.remembered),
            taken: Taken::default(),
            wants_rebirth: false,
        };
        message.take(&mut state, &metrics);
        let Message { mut taken, wants_rebirth, .. } = message;
        if wants_rebirth && state.asked.is_none_or(|asked| now < asked || ASK_EVERY <= now.since(asked)) {
            state.asked = Some(now);
            taken.ask = Some(rebirth(&topic, now));
        }
        self.remembered = (self.remembered + state.size()).saturating_sub(before);
        self.nodes.insert(key, state);
        if taken.parts.is_empty() && taken.left_out.is_empty() {
            taken.left_out.push(LeftOut { what: "whole message".to_owned(), why: "no-metric" });
        }
        Ok(taken)
    }
}

impl NodeState {
    fn size(&self) -> usize {
        self.born.as_ref().map_or(0, |born| born.aliases.len() + born.names.len() + born.devices.len())
    }
}

impl Born {
    /// Forgets what the last birth of a device said.
    fn forget(&mut self, device: &str) {
        self.aliases.retain(|_, known| known.device != device);
        self.names.retain(|(of, _), _| of != device);
    }
}

#[cfg(test)]
mod tests;
