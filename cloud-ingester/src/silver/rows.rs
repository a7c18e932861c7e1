//! The rows this hop writes, as plain values. What Arrow makes of them stands in `batches`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use shared::reading::Value;
use shared::time::Timestamp;

use super::seen::GapKey;

/// Where an Event stands in the hub, and when it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The event hub's name.
    pub hub: Arc<str>,
    /// The hub's created-at, ms.
    pub incarnation: i64,
    /// Partition.
    pub partition_id: i32,
    /// Sequence number in the partition.
    pub sequence_number: i64,
    /// When the hub took it.
    pub enqueued: Option<Timestamp>,
    /// When bronze took it.
    pub ingested: Timestamp,
}

impl Origin {
    /// The id of the `index`-th thing in this Event, for what has no id of its own.
    #[must_use]
    pub fn id(&self, index: i32) -> String {
        format!("{}/{}/{}/{index}", self.incarnation, self.partition_id, self.sequence_number)
    }

    /// What event times are held against: never the wall clock.
    #[must_use]
    pub fn reference_time(&self) -> Timestamp {
        self.enqueued.unwrap_or(self.ingested)
    }
}

/// A text that the rows of an Event share: as it stands in the body, or held by all of them.
#[derive(Debug, Clone)]
pub enum Name<'a> {
    /// In the body.
    Read(&'a str),
    /// Beside it.
    Held(Arc<str>),
}

impl Name<'_> {
    /// For what outlives the body.
    #[must_use]
    pub fn kept(&self) -> Name<'static> {
        Name::Held(match self {
            Self::Read(text) => Arc::from(*text),
            Self::Held(text) => Arc::clone(text),
        })
    }
}

impl std::ops::Deref for Name<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Read(text) => text,
            Self::Held(text) => text,
        }
    }
}

impl AsRef<str> for Name<'_> {
    fn as_ref(&self) -> &str {
        self
    }
}

impl PartialEq for Name<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Name<'_> {}

/// Who vouches for a row's number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbered<'a> {
    /// The gateway's device id at the hub.
    pub gateway: Name<'a>,
    /// Epoch, 16 hex digits.
    pub epoch: Name<'a>,
    /// Seq, at least 1.
    pub seq: i64,
    /// The highest seq given in the epoch, as far as this Event knows; at least `seq`.
    pub high: i64,
}

impl Numbered<'_> {
    /// For what outlives the body.
    #[must_use]
    pub fn kept(&self) -> Numbered<'static> {
        Numbered { gateway: self.gateway.kept(), epoch: self.epoch.kept(), seq: self.seq, high: self.high }
    }

    /// `gateway/epoch/seq`.
    #[must_use]
    pub fn id(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Numbered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&*self.gateway, "/", &*self.epoch, "/"] {
            f.write_str(part)?;
        }
        write!(f, "{}", self.seq)
    }
}

/// A row of silver.readings.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadingRow<'a> {
    /// Its number; none for direct devices.
    pub numbered: Option<Numbered<'a>>,
    /// Its id, where neither number nor place in the Event says it: of a replay.
    pub named: Option<String>,
    /// The device's own number.
    pub source_seq: Option<i64>,
    /// Device.
    pub device: Cow<'a, str>,
    /// Metric.
    pub metric: Cow<'a, str>,
    /// Value.
    pub value: Value,
    /// UCUM unit.
    pub unit: Option<Cow<'a, str>>,
    /// When it was measured.
    pub event_time: Timestamp,
    /// When the gateway received it.
    pub received_time: Option<Timestamp>,
    /// Whose clock the event time is from.
    pub time_quality: Option<Cow<'a, str>>,
    /// Place in the Event.
    pub index: i32,
    /// Digest of the rules it was judged by before it came here.
    pub rules: Option<Name<'a>>,
    /// Fields this code does not know, as JSON.
    pub rescued: Option<String>,
    /// The bytes it was read from.
    pub raw: &'a [u8],
}

impl ReadingRow<'_> {
    /// Its id; `origin`: of the Event it came in.
    #[must_use]
    pub fn id(&self, origin: &Origin) -> String {
        id(self.named.as_ref(), self.numbered.as_ref(), origin, self.index)
    }

    /// The same, written to where it is wanted.
    ///
    /// # Errors
    /// What `to` says.
    pub fn write_id(&self, origin: &Origin, to: &mut impl fmt::Write) -> fmt::Result {
        match (&self.named, &self.numbered) {
            (None, Some(numbered)) => write!(to, "{numbered}"),
            _ => to.write_str(&self.id(origin)),
        }
    }
}

fn id(named: Option<&String>, numbered: Option<&Numbered<'_>>, origin: &Origin, index: i32) -> String {
    match (named, numbered) {
        (Some(named), _) => named.clone(),
        (None, Some(numbered)) => numbered.id(),
        (None, None) => origin.id(index),
    }
}

/// Who refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedBy {
    /// The gateway.
    Edge,
    /// This hop.
    Silver,
}

impl RefusedBy {
    /// As it stands in the table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Silver => "silver",
        }
    }
}

/// A row of silver.quarantine.
#[derive(Debug, Clone, PartialEq)]
pub struct RefusedRow {
    /// Its number; none for direct devices, for Events refused as a whole and for things without a valid seq.
    pub numbered: Option<Numbered<'static>>,
    /// Its id, where neither number nor place in the Event says it: of a replay.
    pub named: Option<String>,
    /// The gateway where it has no number: `-` for a direct device, the hub-stamped device for a whole Event.
    pub gateway: Option<String>,
    /// Device.
    pub device: Option<String>,
    /// Metric.
    pub metric: Option<String>,
    /// Who refused.
    pub by: RefusedBy,
    /// All the reasons, each as `kind: detail`.
    pub reasons: Vec<String>,
    /// The bytes.
    pub raw: Vec<u8>,
    /// Length of the whole payload, which may be longer than `raw`.
    pub raw_len: i64,
    /// The topic it came on at the gateway.
    pub topic: Option<String>,
    /// Digest of the rules it was judged by.
    pub rules: Option<Arc<str>>,
    /// Fields around it that this code does not know, as JSON; its own are in `raw`.
    pub rescued: Option<String>,
    /// Place in the Event.
    pub index: i32,
}

impl RefusedRow {
    /// Its id; `origin`: of the Event it came in.
    #[must_use]
    pub fn id(&self, origin: &Origin) -> String {
        id(self.named.as_ref(), self.numbered.as_ref(), origin, self.index)
    }
}

/// A row of either table.
#[derive(Debug, Clone, PartialEq)]
pub enum Row<'a> {
    /// For silver.readings.
    Reading(ReadingRow<'a>),
    /// For silver.quarantine.
    Refused(RefusedRow),
}

impl Row<'_> {
    /// Its number, if a gateway gave it one.
    #[must_use]
    pub const fn numbered(&self) -> Option<&Numbered<'_>> {
        match self {
            Self::Reading(row) => row.numbered.as_ref(),
            Self::Refused(row) => row.numbered.as_ref(),
        }
    }

    /// Its id; `origin`: of the Event it came in.
    #[must_use]
    pub fn id(&self, origin: &Origin) -> String {
        match self {
            Self::Reading(row) => row.id(origin),
            Self::Refused(row) => row.id(origin),
        }
    }

    /// Gives it this id.
    pub fn name(&mut self, id: String) {
        match self {
            Self::Reading(row) => row.named = Some(id),
            Self::Refused(row) => row.named = Some(id),
        }
    }
}

/// What kind of gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GapKind {
    /// Seqs the gateway gave up: the only kind that covers.
    GivenUp,
    /// An epoch is closed: from 1 to its last seq.
    Closed,
    /// An epoch is lost: from 1 to a mark above which no seq was given.
    UnknownLoss,
    /// The hub's own sequence numbers that expired before they were read.
    HubRetention,
}

impl GapKind {
    const ALL: [Self; 4] = [Self::GivenUp, Self::Closed, Self::UnknownLoss, Self::HubRetention];

    /// As it stands in the table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GivenUp => "given-up",
            Self::Closed => "closed",
            Self::UnknownLoss => "unknown-loss",
            Self::HubRetention => "hub-retention",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// A row of silver.gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapRow {
    /// The gateway; none for the hub's own losses.
    pub gateway_id: Option<String>,
    /// The epoch; none for the hub's own losses.
    pub epoch: Option<String>,
    /// First number.
    pub from: i64,
    /// Last number.
    pub to: i64,
    /// Kind.
    pub kind: GapKind,
    /// Why.
    pub reason: Option<String>,
    /// How many readings of each device it holds.
    pub readings: BTreeMap<String, i64>,
    /// Fields this code does not know, as JSON.
    pub rescued: Option<String>,
    /// The Event that told of it.
    pub origin: Origin,
}

impl GapRow {
    /// What makes it unique in the table.
    #[must_use]
    pub fn key(&self) -> GapKey {
        GapKey {
            gateway: self.gateway_id.clone(),
            epoch: self.epoch.clone(),
            kind: self.kind,
            from: self.from,
            to: self.to,
            hub: self.origin.hub.to_string(),
            incarnation: self.origin.incarnation,
            partition_id: self.origin.partition_id,
        }
    }
}
