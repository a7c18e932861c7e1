//! Rows of silver.quarantine, read back: which of them somebody asks for.

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use shared::rules::glob;
use shared::time::Timestamp;

use crate::lake::{LakeError, View};

/// Which refusals; what is left out asks for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Filter {
    /// One of these ids.
    pub id: Vec<String>,
    /// Devices; `*` stands for any run of characters.
    pub device: Option<String>,
    /// Metrics; `*` stands for any run of characters.
    pub metric: Option<String>,
    /// A part of one of the reasons.
    pub reason: Option<String>,
    /// Taken into the lake then or later, microseconds.
    pub since: Option<i64>,
    /// Also those that were taken up again.
    pub replayed: bool,
}

/// A row of silver.quarantine.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// Its id.
    pub id: String,
    /// Gateway, `-` for a direct device.
    pub gateway: Option<String>,
    /// Epoch.
    pub epoch: Option<String>,
    /// Seq.
    pub seq: Option<i64>,
    /// The highest seq its Envelope named.
    pub high: Option<i64>,
    /// Device.
    pub device: Option<String>,
    /// Metric.
    pub metric: Option<String>,
    /// `edge` or `silver`.
    pub layer: String,
    /// Why.
    pub reasons: Vec<String>,
    /// The bytes.
    pub raw: Vec<u8>,
    /// Length of the whole payload.
    pub raw_len: i64,
    /// The topic at the gateway.
    pub topic: Option<String>,
    /// When the hub took it.
    pub enqueued: Option<Timestamp>,
    /// When the lake took it.
    pub ingested: Timestamp,
    /// The hub's name.
    pub hub: String,
    /// The hub's incarnation.
    pub incarnation: i64,
    /// Partition.
    pub partition_id: i32,
    /// Sequence number.
    pub sequence_number: i64,
    /// Place in the Event.
    pub index: i32,
    /// When it was taken up again.
    pub replayed_at: Option<Timestamp>,
}

const COLUMNS: [&str; 20] = [
    "id",
    "gateway_id",
    "epoch",
    "seq",
    "high",
    "device_id",
    "metric",
    "layer",
    "reasons",
    "raw",
    "raw_len",
    "topic",
    "enqueued_time",
    "ingest_time",
    "hub",
    "incarnation",
    "partition_id",
    "sequence_number",
    "message_index",
    "replayed_at",
];

/// The refusals that fit, oldest first; of each its bytes only if `bytes`.
///
/// # Errors
/// When a file can't be read.
pub async fn refusals(quarantine: &View, filter: &Filter, bytes: bool) -> Result<Vec<Refusal>, LakeError> {
    let day = |text: &str| Timestamp::parse_rfc3339(&format!("{text}T00:00:00Z"));
    let from = filter.since.map(|since| Timestamp::from_micros(since).days());
    let young = |date: &str| from.is_none_or(|from| day(date).is_none_or(|day| from <= day.days()));
    let mut found = vec![];
    for add in quarantine.files_in("ingest_date", young) {
        let mut rows = quarantine.stream(&add, &COLUMNS).await?;
        while let Some(batch) = rows.try_next().await? {
            found.extend(fitting(&batch, filter, bytes));
        }
    }
    found.sort_by(|a, b| (a.ingested, &a.id).cmp(&(b.ingested, &b.id)));
    Ok(found)
}

fn fitting(batch: &RecordBatch, filter: &Filter, bytes: bool) -> Vec<Refusal> {
    let column = |name: &str| batch.column_by_name(name).expect("read with COLUMNS");
    let text = |name: &str| {
        let column = column(name).as_string::<i32>();
        move |at: usize| column.is_valid(at).then(|| column.value(at).to_owned())
    };
    let long = |name: &str| {
        let column = column(name).as_primitive::<Int64Type>();
        move |at: usize| column.is_valid(at).then(|| column.value(at))
    };
    let int = |name: &str| column(name).as_primitive::<Int32Type>();
    let time = |name: &str| {
        let column = column(name).as_primitive::<TimestampMicrosecondType>();
        move |at: usize| column.is_valid(at).then(|| Timestamp::from_micros(column.value(at)))
    };
    let (reasons, raw) = (column("reasons").as_list::<i32>(), column("raw").as_binary::<i32>());
    let refusal = |at: usize| Refusal {
        id: text("id")(at).unwrap_or_default(),
        gateway: text("gateway_id")(at),
        epoch: text("epoch")(at),
        seq: long("seq")(at),
        high: long("high")(at),
        device: text("device_id")(at),
        metric: text("metric")(at),
        layer: text("layer")(at).unwrap_or_default(),
        reasons: match reasons.is_valid(at) {
            true => reasons.value(at).as_string::<i32>().iter().flatten().map(str::to_owned).collect(),
            false => vec![],
        },
        raw: if bytes && raw.is_valid(at) { raw.value(at).to_vec() } else { vec![] },
        raw_len: long("raw_len")(at).unwrap_or(0),
        topic: text("topic")(at),
        enqueued: time("enqueued_time")(at),
        ingested: time("ingest_time")(at).unwrap_or_default(),
        hub: text("hub")(at).unwrap_or_default(),
        incarnation: long("incarnation")(at).unwrap_or(0),
        partition_id: int("partition_id").value(at),
        sequence_number: long("sequence_number")(at).unwrap_or(0),
        index: int("message_index").value(at),
        replayed_at: time("replayed_at")(at),
    };
    (0..batch.num_rows()).map(refusal).filter(|refusal| filter.fits(refusal)).collect()
}

impl Filter {
    /// Whether a refusal is asked for.
    #[must_use]
    pub fn fits(&self, refusal: &Refusal) -> bool {
        let named = |pattern: &Option<String>, name: &Option<String>| match pattern {
            None => true,
            Some(pattern) => name.as_deref().is_some_and(|name| glob(pattern, name)),
        };
        (self.id.is_empty() || self.id.contains(&refusal.id))
            && named(&self.device, &refusal.device)
            && named(&self.metric, &refusal.metric)
            && self
                .reason
                .as_ref()
                .is_none_or(|part| refusal.reasons.iter().any(|reason| reason.contains(part.as_str())))
            && self.since.is_none_or(|since| since <= refusal.ingested.micros())
            && (self.replayed || refusal.replayed_at.is_none())
    }
}
