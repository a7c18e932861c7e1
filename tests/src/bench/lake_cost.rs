//! `tests bench lake-cost`: whether the lake's work costs the same however old and large its tables are.
//!
//! Requests per commit and opening at a table's hundredth and hundred thousandth version (in memory, entries made up);
//! the time of a new row in silver and in the window models, beside a hundred times as many rows (on disk).

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloud_ingester::bronze::cutter::Limits;
use cloud_ingester::bronze::stage::{Committed, Metrics, Stage};
use cloud_ingester::hop::{Hops, Settings};
use cloud_ingester::lake::{CHECKPOINT_EVERY, Holder, Lake, Lease, Location, cost};
use cloud_ingester::source::{Arrival, Event, Stream, flow};
use serde_json::json;
use shared::clock::Clock;
use shared::time::Timestamp;
use tokio::sync::watch;

use super::{say, table};

/// Readings of one commit while it is measured, and commits measured: a commit costs more the more others came since the
/// last checkpoint, so as many as there are between two.
const READINGS: i64 = 2_000;
const COMMITS: i64 = CHECKPOINT_EVERY;
/// Readings of one Event.
const PER_EVENT: i64 = 40;
/// 2026-11-23T10:00:00Z.
const NOW: i64 = 1_795_428_000_000_000;

/// Arguments of `bench lake-cost`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A folder in it holds the tables, and is deleted afterwards
    #[arg(long, default_value = ".")]
    directory: PathBuf,
    /// How many times as large the large table is
    #[arg(long, default_value_t = 100)]
    times: i64,
}

pub(super) async fn run(args: Args) -> io::Result<()> {
    let young = cost::measure(100).await.map_err(io::Error::other)?;
    let old = cost::measure(100_000).await.map_err(io::Error::other)?;
    let mut rows = vec![vec!["a commit, and opening".into(), "version 100".into(), "version 100,000".into()]];
    let mut kinds: Vec<&String> = young.requests.keys().chain(old.requests.keys()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in kinds {
        let each = |cost: &cost::Cost| {
            format!("{:.2}", cost.requests.get(kind).copied().unwrap_or(0) as f64 / cost.commits as f64)
        };
        rows.push(vec![format!("{kind}, requests a commit"), each(&young), each(&old)]);
    }
    let all = |cost: &cost::Cost| cost.checkpoint.values().sum::<u64>().to_string();
    rows.push(vec!["checkpoint and reopening, requests".into(), all(&young), all(&old)]);
    let ms = |duration: Duration| format!("{:.1} ms", duration.as_secs_f64() * 1_000.0);
    rows.push(vec!["one commit".into(), ms(young.commit), ms(old.commit)]);
    rows.push(vec!["opening".into(), ms(young.open), ms(old.open)]);
    say(&table::table(&rows));

    let folder = tempfile::Builder::new().prefix(".bench-").tempdir_in(&args.directory)?;
    let mut filled = Filled::open(folder.path()).await?;
    let mut rows = vec![vec!["µs per new row".into(), "silver".into(), "gold".into(), "rows before".into()]];
    let mut told = vec![];
    for large in [false, true] {
        let before = if large { args.times } else { 1 } * READINGS * COMMITS;
        filled.fill(before).await?;
        let (silver, gold) = filled.measure().await?;
        told.push((silver, gold));
        rows.push(vec![
            if large { format!("{} times as large", args.times) } else { "small".into() },
            format!("{silver:.1}"),
            format!("{gold:.1}"),
            table::whole(before as f64),
        ]);
    }
    let ratio = |a: f64, b: f64| format!("{:.2}", b / a);
    rows.push(vec!["ratio".into(), ratio(told[0].0, told[1].0), ratio(told[0].1, told[1].1), String::new()]);
    say(&table::table(&rows));
    Ok(())
}

/// A lake that grows.
struct Filled {
    lake: Arc<Lake>,
    hops: Hops,
    events: i64,
}

impl Filled {
    async fn open(folder: &std::path::Path) -> io::Result<Self> {
        let location = Location::parse(&folder.display().to_string(), HashMap::new()).map_err(io::Error::other)?;
        location.prepare().map_err(io::Error::other)?;
        let lake = Arc::new(Lake::open(location).map_err(io::Error::other)?);
        lake.create_tables().await.map_err(io::Error::other)?;
        let lease = Lease::acquire(&lake, &Holder::this("bench", None)).await.map_err(io::Error::other)?;
        let settings = Settings { rest: 0, ..Settings::default() };
        let hops = Hops::take_over(Arc::clone(&lake), lease, settings).await.map_err(io::Error::other)?;
        Ok(Self { lake, hops, events: 0 })
    }

    /// Brings the table to so many readings, in large commits.
    async fn fill(&mut self, readings: i64) -> io::Result<()> {
        while self.events * PER_EVENT < readings {
            let left = readings / PER_EVENT - self.events;
            self.commit(left.min(50_000 / PER_EVENT)).await?;
            while !self.hops.round().await.map_err(io::Error::other)?.is_idle() {}
        }
        Ok(())
    }

    async fn commit(&mut self, events: i64) -> io::Result<()> {
        let (committed, _heard) = watch::channel(Committed::default());
        let stage = Stage {
            lake: Arc::clone(&self.lake),
            limits: Limits { rows_max: usize::MAX, bytes_max: usize::MAX, age_max: Duration::from_secs(3_600) },
            clock: Clock::Real,
            committed,
            metrics: Metrics::unheard(),
            pulse: shared::notify::Pulses::default().add("bronze"),
        };
        let (send, receive) = flow::channel(1 << 30);
        for number in self.events..self.events + events {
            let sent = send.send(Arrival::Event(event(number))).await;
            sent.map_err(|_| io::Error::other("nobody takes the events"))?;
        }
        self.events += events;
        drop(send);
        stage.run(receive).await.map_err(io::Error::other)
    }

    /// Microseconds per new row, over all commits: silver, and gold beside it.
    async fn measure(&mut self) -> io::Result<(f64, f64)> {
        let (mut silver, mut gold) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..COMMITS {
            self.commit(READINGS / PER_EVENT).await?;
            let begun = Instant::now();
            self.hops.silver_alone().await.map_err(io::Error::other)?;
            silver += begun.elapsed();
            let begun = Instant::now();
            while !self.hops.round().await.map_err(io::Error::other)?.is_idle() {}
            gold += begun.elapsed();
        }
        let each = |all: Duration| all.as_secs_f64() * 1e6 / (READINGS * COMMITS) as f64;
        Ok((each(silver), each(gold)))
    }
}

/// Forty readings of forty devices, a tenth of a second after those before.
fn event(number: i64) -> Event {
    let first = number * PER_EVENT + 1;
    let at = NOW + number * 100_000;
    let readings: Vec<_> = (first..first + PER_EVENT)
        .map(|seq| json!({"s": seq, "d": format!("device-{}", seq % PER_EVENT), "m": "temperature", "v": seq % 977, "u": "Cel", "t": at, "q": "device"}))
        .collect();
    let body = json!({"v": 1, "gw": "g", "epoch": "00000000000000aa", "high": first + PER_EVENT - 1, "rules": "r", "readings": readings});
    Event {
        stream: Stream { hub: "h".into(), incarnation: 7, partition: 0 },
        sequence_number: number,
        offset: None,
        enqueued_time: Some(Timestamp::from_micros(at)),
        device_id: Some("g".to_owned()),
        message_id: None,
        content_type: None,
        properties: vec![],
        system_properties: vec![("iothub-message-source".to_owned(), "Telemetry".to_owned())],
        body: body.to_string().into(),
        body_encoding: None,
    }
}
