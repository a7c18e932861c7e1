//! How far everything is, from what is stored.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::lake::{Lake, LakeError, Lease, Table, View};
use crate::source::{Stream, Told};

/// How many commits of a table are looked back at, for streams and totals that are not named elsewhere.
const LOOK_BACK: i64 = 500;

/// Which table is filled from which.
pub const HOPS: [(Table, Table); 6] = [
    (Table::SilverReadings, Table::BronzeMessages),
    (Table::GoldMetric1m, Table::SilverReadings),
    (Table::GoldDeviceLatest, Table::SilverReadings),
    (Table::GoldGatewayHealth, Table::SilverReadings),
    (Table::GoldGatewayHealth, Table::SilverQuarantine),
    (Table::GoldGatewayHealth, Table::SilverGaps),
];

/// Which tables are filled now and then rather than with each hop: they say nothing of whether all is caught up.
pub const SCHEDULED: [(Table, Table); 5] = [
    (Table::GoldMetric1h, Table::SilverReadings),
    (Table::GoldMetric1d, Table::SilverReadings),
    (Table::GoldDeviceHealth, Table::SilverReadings),
    (Table::GoldDeviceHealth, Table::SilverQuarantine),
    (Table::GoldWatermarks, Table::SilverReadings),
];

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The lake's root.
    pub lake: String,
    /// Who runs its hops, if anybody.
    pub holder: Option<String>,
    /// One per partition and life of a hub.
    pub streams: Vec<StreamStatus>,
    /// One per table.
    pub tables: Vec<TableStatus>,
    /// One per target and source.
    pub hops: Vec<HopStatus>,
    /// The running totals of silver, as its newest commit has them.
    pub totals: Option<serde_json::Value>,
    /// What is wrong with models, by file or table, and with the upkeep of a table.
    pub troubles: BTreeMap<String, String>,
    /// Whether every row the hub told of has reached every table. While the hub can't
    /// be read: no. Where no service runs, which alone hears the hub: whether all hops are level.
    pub caught_up: bool,
}

/// How far one partition is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// The event hub.
    pub hub: String,
    /// Its incarnation.
    pub incarnation: i64,
    /// The partition.
    pub partition: i32,
    /// The newest number the hub told of; unknown to those that do not read it.
    pub last_enqueued: Option<i64>,
    /// The last number in bronze.
    pub committed: Option<i64>,
    /// Events between the two.
    pub lag: Option<i64>,
    /// How long ago the hub took the last Event in bronze, where more are to come; 0 where none are. Known to who reads it.
    pub lag_seconds: Option<f64>,
}

/// How large a table is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableStatus {
    /// Its name.
    pub table: &'static str,
    /// Its version; none if it does not exist yet.
    pub version: Option<i64>,
    /// Its rows.
    pub rows: u64,
    /// Its files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How far a table is behind its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HopStatus {
    /// The table that is filled.
    pub target: &'static str,
    /// From which.
    pub source: &'static str,
    /// The source's version read up to.
    pub done: Option<i64>,
    /// The source's newest version.
    pub newest: i64,
    /// The difference.
    pub behind: i64,
    /// Filled now and then, or by a user's model: being behind is no sign of anything.
    pub scheduled: bool,
}

/// What is known of the hub.
#[derive(Clone, Copy, Debug)]
pub enum Hub<'a> {
    /// Nothing: the asker does not read it.
    NotAsked,
    /// What it said last.
    Heard {
        /// Whether it is being read now.
        live: bool,
        /// How far each partition is.
        told: &'a BTreeMap<Stream, Told>,
    },
}

impl Status {
    /// Says how many seconds a stream is behind.
    pub fn lags(&mut self, stream: &Stream, seconds: Option<f64>) {
        let found = self.streams.iter_mut().find(|found| {
            (&*found.hub, found.incarnation, found.partition) == (&*stream.hub, stream.incarnation, stream.partition)
        });
        if let Some(found) = found.filter(|found| found.lag != Some(0)) {
            found.lag_seconds = seconds;
        }
    }

    /// Takes over what the status of a running service says of the hub, unless that one serves another lake.
    pub fn hear(&mut self, told: &str) {
        #[derive(Deserialize)]
        struct Heard {
            lake: String,
            streams: Vec<StreamStatus>,
            caught_up: bool,
            #[serde(default)]
            troubles: BTreeMap<String, String>,
        }
        match serde_json::from_str::<Heard>(told) {
            Ok(heard) if heard.lake == self.lake => {
                self.streams = heard.streams;
                self.caught_up = heard.caught_up;
                self.troubles.extend(heard.troubles);
            }
            Ok(heard) => tracing::debug!(lake = heard.lake, "what answers serves another lake"),
            Err(error) => tracing::debug!(%error, "what answers is no status"),
        }
    }
}

/// Reads the lake.
///
/// # Errors
/// When the lake can't be read.
pub async fn read(lake: &Lake, hub: Hub<'_>) -> Result<Status, LakeError> {
    let nothing = BTreeMap::new();
    let (heard, told) = match hub {
        Hub::NotAsked => (true, &nothing),
        Hub::Heard { live, told } => (live && !told.is_empty(), told),
    };
    let mut views = BTreeMap::new();
    for &table in lake.tables() {
        if lake.exists(table).await? {
            views.insert(table, lake.view(table).await?);
        }
    }
    let tables = lake.tables().iter().map(|&table| table_status(table, views.get(&table)));
    let streams = streams(views.get(&Table::BronzeMessages), told).await?;
    let hops = hops(&views).await?;
    let caught_up = heard
        && !hops.is_empty()
        && hops.iter().all(|hop| hop.scheduled || hop.behind == 0)
        && streams.iter().all(|stream| stream.lag.is_none_or(|lag| lag == 0));
    Ok(Status {
        lake: lake.location().root().to_string(),
        holder: Lease::holder(lake).await?.map(|holder| holder.to_string()),
        streams,
        tables: tables.collect(),
        hops,
        troubles: lake.troubles(),
        totals: match views.get(&Table::SilverReadings) {
            Some(readings) => totals(readings).await?,
            None => None,
        },
        caught_up,
    })
}

fn table_status(table: Table, view: Option<&View>) -> TableStatus {
    let (files, bytes) = view.map(View::files).unwrap_or_default();
    TableStatus {
        table: table.full_name(),
        version: view.map(View::version),
        rows: view.map(View::rows).unwrap_or_default(),
        files,
        bytes,
    }
}

async fn streams(bronze: Option<&View>, told: &BTreeMap<Stream, Told>) -> Result<Vec<StreamStatus>, LakeError> {
    let Some(bronze) = bronze else {
        return Ok(vec![]);
    };
    let mut named: BTreeSet<Stream> = told.keys().cloned().collect();
    if named.is_empty() {
        named = recent_streams(bronze).await?;
    }
    let mut streams = vec![];
    for stream in named {
        let committed = bronze.txn(&stream.app_id()).await?;
        let last_enqueued = told.get(&stream).map(|told| told.last_enqueued);
        // A partition that never held anything has nothing to be read.
        let lag = last_enqueued.map(|last| match (committed, told.get(&stream)) {
            (Some(committed), _) => (last - committed).max(0),
            (None, Some(told)) => (last + 1 - told.begin.max(0)).max(0),
            (None, None) => 0,
        });
        streams.push(StreamStatus {
            hub: stream.hub.to_string(),
            incarnation: stream.incarnation,
            partition: stream.partition,
            last_enqueued,
            committed,
            lag,
            lag_seconds: lag.filter(|lag| *lag == 0).map(|_| 0.0),
        });
    }
    Ok(streams)
}

/// The streams whose progress moved lately; Delta's log can be asked for an app id, but not which there are.
async fn recent_streams(bronze: &View) -> Result<BTreeSet<Stream>, LakeError> {
    let mut found = BTreeSet::new();
    let newest = bronze.version();
    for version in (0..=newest).rev().take_while(|version| newest - version < LOOK_BACK) {
        let change = match bronze.change(version).await {
            Err(LakeError::Gone { .. }) => break,
            change => change?,
        };
        found.extend(change.txns.iter().filter_map(|(app, _)| Stream::from_app_id(app)));
    }
    Ok(found)
}

/// The incarnation of `hub` that bronze read last, if it was among its newest commits.
///
/// # Errors
/// When the log can't be read.
pub async fn last_incarnation(bronze: &View, hub: &str) -> Result<Option<i64>, LakeError> {
    let newest = bronze.version();
    for version in (0..=newest).rev().take_while(|version| newest - version < LOOK_BACK) {
        let change = match bronze.change(version).await {
            Err(LakeError::Gone { .. }) => break,
            change => change?,
        };
        let streams = change.txns.iter().filter_map(|(app, _)| Stream::from_app_id(app));
        if let Some(stream) = streams.into_iter().find(|stream| &*stream.hub == hub) {
            return Ok(Some(stream.incarnation));
        }
    }
    Ok(None)
}

async fn hops(views: &BTreeMap<Table, View>) -> Result<Vec<HopStatus>, LakeError> {
    let mut hops = vec![];
    let own = views.keys().filter(|table| matches!(table, Table::Own(_)));
    let scheduled = SCHEDULED.into_iter().chain(own.map(|&table| (table, Table::SilverReadings)));
    let all = HOPS.into_iter().map(|hop| (hop, false)).chain(scheduled.map(|hop| (hop, true)));
    for ((target, source), scheduled) in all {
        let (Some(filled), Some(from)) = (views.get(&target), views.get(&source)) else {
            continue;
        };
        let done = filled.txn(&target.app_id(&from.id())).await?.filter(|done| 0 <= *done);
        hops.push(HopStatus {
            target: target.full_name(),
            source: source.full_name(),
            done,
            newest: from.version(),
            behind: from.version() - done.unwrap_or(-1),
            scheduled,
        });
    }
    Ok(hops)
}

async fn totals(readings: &View) -> Result<Option<serde_json::Value>, LakeError> {
    let newest = readings.version();
    for version in (0..=newest).rev().take_while(|version| newest - version < LOOK_BACK) {
        let mut change = match readings.change(version).await {
            Err(LakeError::Gone { .. }) => break,
            change => change?,
        };
        if let Some(totals) = change.info.remove("totals") {
            return Ok(Some(totals));
        }
    }
    Ok(None)
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        writeln!(f, "lake      {}", self.lake)?;
        writeln!(f, "hops run  {}", self.holder.as_deref().unwrap_or("by nobody now"))?;
        writeln!(f, "\n{:<24} {:>9} {:>12} {:>7} {:>12}", "table", "version", "rows", "files", "bytes")?;
        for table in &self.tables {
            let version = shown(table.version);
            writeln!(f, "{:<24} {version:>9} {:>12} {:>7} {:>12}", table.table, table.rows, table.files, table.bytes)?;
        }
        writeln!(f, "\n{:<24} {:<24} {:>9} {:>9} {:>7}", "target", "source", "done", "newest", "behind")?;
        for hop in &self.hops {
            let done = shown(hop.done);
            writeln!(f, "{:<24} {:<24} {done:>9} {:>9} {:>7}", hop.target, hop.source, hop.newest, hop.behind)?;
        }
        writeln!(
            f,
            "\n{:<20} {:>14} {:>9} {:>12} {:>12} {:>7} {:>9}",
            "hub", "incarnation", "partition", "in bronze", "at the hub", "lag", "seconds"
        )?;
        for stream in &self.streams {
            let (committed, last, lag) = (shown(stream.committed), shown(stream.last_enqueued), shown(stream.lag));
            let seconds = stream.lag_seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1}"));
            writeln!(
                f,
                "{:<20} {:>14} {:>9} {committed:>12} {last:>12} {lag:>7} {seconds:>9}",
                stream.hub, stream.incarnation, stream.partition
            )?;
        }
        for (of, what) in &self.troubles {
            writeln!(f, "\nWRONG {of}: {what}")?;
        }
        if let Some(totals) = &self.totals {
            writeln!(f, "\nsilver since it was created or refreshed: {totals}")?;
        }
        write!(f, "caught up: {}", if self.caught_up { "yes" } else { "no" })
    }
}
