//! The hub -> Events, in order per partition, each once per run.
//!
//! What a source tells downstream is a stream of [`Arrival`]s: its Events, and which partitions it reads no more.
//! The truth of what was ingested is bronze's `txn`; a source only asks where to go on.

pub mod claims; // which partitions are ours, where several ingesters read one hub

pub mod resume; // where to go on, what is lost, when to refuse

pub mod flow; // a channel that counts bytes

mod books; // what came, what failed

pub mod eventhubs; // azure_messaging_eventhubs; the only room that knows it

pub mod import; // Events out of files

#[cfg(test)]
pub(crate) mod fixed; // Events from a Vec

use std::sync::Arc;

pub use books::Books;
use bytes::Bytes;
use shared::time::Timestamp;

/// The property of a row that stands for Events the hub gave up before they were read.
pub const HUB_RETENTION: &str = "hub-retention";

/// One partition of one life of a hub: what a sequence number counts in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream {
    /// The event hub's name.
    pub hub: Arc<str>,
    /// When the hub was created, in milliseconds since the epoch: a hub that was deleted and made anew counts anew.
    pub incarnation: i64,
    /// The partition.
    pub partition: i32,
}

impl Stream {
    /// The app id under which bronze keeps this stream's progress.
    #[must_use]
    pub fn app_id(&self) -> String {
        format!("{}{}/{}", app_prefix(&self.hub), self.incarnation, self.partition)
    }

    /// Reads an app id back.
    #[must_use]
    pub fn from_app_id(app: &str) -> Option<Self> {
        let rest = app.strip_prefix("bronze/")?;
        let (rest, partition) = rest.rsplit_once('/')?;
        let (hub, incarnation) = rest.rsplit_once('/')?;
        Some(Self { hub: hub.into(), incarnation: incarnation.parse().ok()?, partition: partition.parse().ok()? })
    }
}

impl std::fmt::Display for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (created {}), partition {}", self.hub, self.incarnation, self.partition)
    }
}

/// How the app ids of a hub begin.
#[must_use]
pub fn app_prefix(hub: &str) -> String {
    format!("bronze/{hub}/")
}

/// One message as read from the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Where it was read.
    pub stream: Stream,
    /// Its number there; consecutive.
    pub sequence_number: i64,
    /// The hub's own position, opaque.
    pub offset: Option<String>,
    /// When the hub stored it.
    pub enqueued_time: Option<Timestamp>,
    /// The device the hub authenticated.
    pub device_id: Option<String>,
    /// The sender's message id.
    pub message_id: Option<String>,
    /// The body's type as the sender says.
    pub content_type: Option<String>,
    /// What the sender attached.
    pub properties: Vec<(String, String)>,
    /// What the hub attached, and the message's own standard properties.
    pub system_properties: Vec<(String, String)>,
    /// The body: as the device made it, or as it came.
    pub body: Bytes,
    /// The transport compression still on the body, e.g. `zstd`; `None` when there is none (left).
    pub body_encoding: Option<&'static str>,
}

impl Event {
    /// The row that stands for the numbers `from..=to` of a stream, which the hub gave up before they were read.
    /// It lies at `to`, so that the progress moves over the gap in the commit that names it.
    #[must_use]
    pub fn retention_gap(stream: Stream, from: i64, to: i64, now: Timestamp) -> Self {
        let body = format!("{{\"from\":{from},\"to\":{to}}}");
        Self {
            stream,
            sequence_number: to,
            offset: None,
            enqueued_time: Some(now),
            device_id: None,
            message_id: None,
            content_type: Some("application/json".to_owned()),
            properties: vec![(HUB_RETENTION.to_owned(), "true".to_owned())],
            system_properties: vec![],
            body: body.into(),
            body_encoding: None,
        }
    }

    /// How many numbers a row made by [`Event::retention_gap`] stands for; none of any other Event.
    #[must_use]
    pub fn given_up(&self) -> Option<u64> {
        // A device can set the property, but not be none.
        if self.device_id.is_some() || !self.properties.iter().any(|(name, _)| name == HUB_RETENTION) {
            return None;
        }
        let body: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        let (from, to) = (body["from"].as_i64()?, body["to"].as_i64()?);
        u64::try_from(to - from + 1).ok()
    }

    /// About how much memory it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let texts = self.properties.iter().chain(&self.system_properties);
        let texts: usize = texts.map(|(name, value)| name.len() + value.len() + 48).sum();
        self.body.len() + texts + 256
    }
}

/// What a source hands downstream, in order per stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are Events")]
pub enum Arrival {
    /// An Event.
    Event(Event),
    /// Another ingester reads this stream from now on: what came of it and is not committed will come to that one. Should
    /// it come back to us, it begins again at what bronze then holds.
    Lost(Stream),
}

impl flow::Weigh for Arrival {
    fn bytes(&self) -> usize {
        match self {
            Self::Event(event) => event.bytes(),
            Self::Lost(_) => 0,
        }
    }
}

/// What a source tells about a partition whenever it asks the hub; for people and for `/status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Which.
    pub stream: Stream,
    /// The oldest number the hub still holds.
    pub begin: i64,
    /// The newest number the hub gave.
    pub last_enqueued: i64,
    /// What bronze held when this ingester began to read it; unknown where it does not, or where that was nothing.
    pub begun: Option<i64>,
}

/// Why a source stopped for good.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The hub says less than bronze already holds: it was restored from a copy, or it is another one.
    #[error(
        "go on reading {stream}: the hub's last number is {last_enqueued}, but bronze holds up to {committed}; the hub was set back, and what it gives those numbers now would be taken for known. Give it a new creation time, or point `hub` at the right one"
    )]
    Regressed {
        /// Which partition.
        stream: Stream,
        /// What the hub says.
        last_enqueued: i64,
        /// What bronze says.
        committed: i64,
    },
    /// The configuration can't work.
    #[error("read the hub: {0}")]
    Config(String),
    /// The progress in bronze can't be read.
    #[error(transparent)]
    Lake(#[from] crate::lake::LakeError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_id_names_hub_incarnation_and_partition_and_reads_back() {
        let stream = Stream { hub: "demo".into(), incarnation: 1_790_000_000_123, partition: 3 };
        assert_eq!(stream.app_id(), "bronze/demo/1790000000123/3");
        assert_eq!(Stream::from_app_id(&stream.app_id()), Some(stream));
        for other in ["silver.readings<-1", "bronze/demo/x/3", "bronze/demo"] {
            assert_eq!(Stream::from_app_id(other), None, "{other}");
        }
    }
}
