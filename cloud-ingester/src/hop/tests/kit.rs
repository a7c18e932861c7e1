//! A lake in a temporary directory, filled with Events as bronze would be.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Date32Array, Int32Array, Int64Array, MapBuilder, MapFieldNames, RecordBatch, StringArray,
    StringBuilder, TimestampMicrosecondArray,
};
use arrow::util::pretty::pretty_format_batches;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::hop::{HopError, Hops, Settings};
use crate::lake::session::{Limits, lake_session, query};
use crate::lake::{Holder, Kind, Lake, Lease, Location, Table, TableCommit, Txn};

/// 2026-11-23T10:00:00Z.
pub(crate) const NOW: i64 = 1_795_428_000_000_000;
pub(crate) const SECOND: i64 = 1_000_000;
pub(crate) const EPOCH: &str = "00000000000000aa";

pub(crate) struct Stored {
    pub(crate) partition: i32,
    pub(crate) sequence: i64,
    pub(crate) enqueued: i64,
    pub(crate) device: Option<String>,
    pub(crate) message_id: Option<String>,
    pub(crate) encoding: Option<String>,
    pub(crate) properties: Vec<(String, String)>,
    pub(crate) source: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// An Event of `device`, at place `sequence` of partition 0, enqueued that many seconds after [`NOW`].
pub(crate) fn event(sequence: i64, device: &str, body: &Value) -> Stored {
    raw(sequence, device, body.to_string().into_bytes())
}

pub(crate) fn raw(sequence: i64, device: &str, body: Vec<u8>) -> Stored {
    Stored {
        partition: 0,
        sequence,
        enqueued: NOW + sequence * SECOND,
        device: Some(device.to_owned()),
        message_id: None,
        encoding: None,
        properties: vec![],
        source: Some("Telemetry".to_owned()),
        body,
    }
}

/// An Envelope of gateway `g` with readings of device `d`: seq, metric, value, seconds after [`NOW`].
pub(crate) fn envelope(high: i64, readings: &[(i64, &str, f64, i64)]) -> Value {
    let readings: Vec<Value> = readings
        .iter()
        .map(|(s, m, v, t)| json!({"s": s, "d": "d", "m": m, "v": v, "t": NOW + t * SECOND, "q": "device"}))
        .collect();
    json!({"v": 1, "gw": "g", "epoch": EPOCH, "high": high, "rules": "r1", "readings": readings})
}

pub(crate) struct Kit {
    pub(crate) lake: Arc<Lake>,
    _directory: TempDir,
}

pub(crate) const LIMITS: Limits = Limits { memory_bytes: 256 << 20 };

impl Kit {
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().to_str().expect("UTF-8");
        let location = Location::parse(path, HashMap::new()).expect("a path");
        location.prepare().expect("a disk with hard links");
        let lake = Lake::open(location).expect("a lake");
        lake.create_tables().await.expect("tables");
        Self { lake: Arc::new(lake), _directory: directory }
    }

    /// The same over a lake of one's own.
    pub(crate) async fn over(lake: Lake) -> Self {
        lake.create_tables().await.expect("tables");
        Self { lake: Arc::new(lake), _directory: tempfile::tempdir().expect("a directory") }
    }

    pub(crate) fn settings() -> Settings {
        Settings { limits: LIMITS, rest: 0, ..Settings::default() }
    }

    pub(crate) async fn hops(&self) -> Hops {
        self.hops_with(Self::settings()).await.expect("takes over")
    }

    pub(crate) async fn hops_with(&self, settings: Settings) -> Result<Hops, HopError> {
        let lease = Lease::acquire(&self.lake, &Holder::this("test", None)).await.expect("free");
        Hops::take_over(Arc::clone(&self.lake), lease, settings).await
    }

    /// A lake with these models of a user, given as file name and text; all of them have to fit.
    pub(crate) async fn with_models(files: &[(&str, &str)]) -> (Self, Settings) {
        let directory = tempfile::tempdir().expect("a directory");
        let folder = directory.path().join("models");
        std::fs::create_dir(&folder).expect("a folder");
        for (name, text) in files {
            std::fs::write(folder.join(name), text).expect("a file");
        }
        let location = Location::parse(directory.path().join("lake").to_str().expect("UTF-8"), HashMap::new());
        let location = location.expect("a path");
        location.prepare().expect("a disk with hard links");
        let (lake, own) = crate::gold::models::open(location, Some(&folder)).await.expect("a lake");
        assert_eq!(own.mistakes, []);
        lake.create_tables().await.expect("tables");
        let settings = Settings { own: own.models, ..Self::settings() };
        (Self { lake: Arc::new(lake), _directory: directory }, settings)
    }

    /// One commit of bronze.
    pub(crate) async fn store(&self, events: &[Stored]) {
        let mut upto: HashMap<i32, i64> = HashMap::new();
        for event in events {
            let upto = upto.entry(event.partition).or_insert(event.sequence);
            *upto = event.sequence.max(*upto);
        }
        let mut txns = vec![];
        for (partition, version) in upto {
            let app = format!("bronze/hub/1000/{partition}");
            let expected = self.lake.txn(Table::BronzeMessages, &app).await.expect("readable");
            let version = version.max(expected.map_or(0, |done| done + 1));
            txns.push(Txn { app, expected, version });
        }
        let commit = TableCommit {
            table: Table::BronzeMessages,
            kind: Kind::Append,
            batches: vec![bronze(events)],
            txns,
            metadata: vec![],
        };
        self.lake.commit(commit, None).await.expect("commits");
    }

    /// The lake in the same directory, opened anew and with the tables that are missing.
    pub(crate) async fn reopened(self) -> Self {
        let location = self.lake.location().clone();
        let lake = Lake::open(location).expect("a lake");
        lake.create_tables().await.expect("tables");
        Self { lake: Arc::new(lake), _directory: self._directory }
    }

    /// The version of every table, upstream first.
    pub(crate) async fn versions(&self) -> Vec<i64> {
        let mut versions = vec![];
        for &table in self.lake.tables() {
            versions.push(self.lake.view(table).await.expect("a view").version());
        }
        versions
    }

    /// The answer to a query, as text.
    pub(crate) async fn ask(&self, sql: &str) -> String {
        let session = lake_session(&self.lake, LIMITS).await.expect("a session");
        let batches = query(&session, sql).await.expect(sql);
        pretty_format_batches(&batches).expect("printable").to_string()
    }

    /// All of silver and gold that does not depend on when it was made; of sums of fractions not the last digits, which
    /// depend on the order in which they were added up.
    pub(crate) async fn everything(&self) -> Vec<String> {
        let mut all = vec![];
        for sql in [
            "select * from silver.readings order by reading_id",
            "select * from silver.quarantine order by id",
            "select * from silver.gaps order by gateway_id, epoch, kind, from_seq, to_seq",
            "select * except (value_avg, value_stddev), round(value_avg, 9), round(value_stddev, 9) from gold.metric_1m order by gateway_id, device_id, metric, unit, window_start",
            "select * from gold.device_latest order by gateway_id, device_id, metric, unit",
            "select * from gold.gateway_health order by gateway_id, epoch",
            "select * except (value_avg, value_stddev), round(value_avg, 9), round(value_stddev, 9) from gold.metric_1h order by gateway_id, device_id, metric, unit, window_start",
            "select * except (value_avg, value_stddev), round(value_avg, 9), round(value_stddev, 9) from gold.metric_1d order by gateway_id, device_id, metric, unit, window_start",
            "select * from gold.device_health order by gateway_id, device_id, window_start",
        ] {
            all.push(self.ask(sql).await);
        }
        all
    }

    /// Runs hops until nothing is new.
    pub(crate) async fn settle(&self, hops: &mut Hops) {
        let stop = tokio_util::sync::CancellationToken::new();
        hops.run_all(&stop, |_| {}).await.expect("hops");
    }
}

fn texts(values: impl Iterator<Item = Option<String>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn times(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC"))
}

fn maps<'a>(rows: impl Iterator<Item = Vec<(&'a str, &'a str)>>) -> ArrayRef {
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let mut builder = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for row in rows {
        for (key, value) in row {
            builder.keys().append_value(key);
            builder.values().append_value(value);
        }
        builder.append(true).expect("as many keys as values");
    }
    Arc::new(builder.finish())
}

fn bronze(events: &[Stored]) -> RecordBatch {
    let all = || events.iter();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(BinaryArray::from_iter_values(all().map(|event| &event.body))),
        texts(all().map(|event| event.encoding.clone())),
        texts(all().map(|_| Some("hub".to_owned()))),
        Arc::new(Int64Array::from_iter_values(all().map(|_| 1_000))),
        Arc::new(Int32Array::from_iter_values(all().map(|event| event.partition))),
        Arc::new(Int64Array::from_iter_values(all().map(|event| event.sequence))),
        texts(all().map(|event| Some(event.sequence.to_string()))),
        times(all().map(|event| event.enqueued)),
        texts(all().map(|event| event.device.clone())),
        texts(all().map(|event| event.message_id.clone())),
        texts(all().map(|_| None)),
        maps(all().map(|event| event.properties.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect())),
        maps(all().map(|event| event.source.iter().map(|source| ("iothub-message-source", source.as_str())).collect())),
        times(all().map(|event| event.enqueued + SECOND)),
        Arc::new(Date32Array::from_iter_values(
            all().map(|event| i32::try_from((event.enqueued + SECOND).div_euclid(86_400_000_000)).expect("a date")),
        )),
    ];
    RecordBatch::try_new(Table::BronzeMessages.schema(), columns).expect("as the table")
}
