//! `backfill`: where a hub is begun, and Events out of files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Subcommand;
use shared::cli::Exit;
use shared::clock::Clock;
use shared::time::Timestamp;

use super::progress::Progress;
use super::say;
use crate::bronze::backfill::{Fate, Filling};
use crate::bronze::rows;
use crate::config::Config;
use crate::lake::{Kind, Lake, LakeError, Table, TableCommit, Txn};
use crate::run::RunError;
use crate::source::import::{self, Origin};
use crate::source::{Event, Stream, eventhubs};

/// Events of one commit.
const ROWS_MAX: usize = 10_000;
/// Bytes of one commit.
const BYTES_MAX: usize = 32 << 20;

/// What is filled in.
#[derive(Debug, Subcommand)]
pub(super) enum Backfill {
    /// Say where a hub that was never read shall be begun; without this it is the beginning of its retention
    Start {
        /// `latest`, a time (RFC 3339), or the number of the first Event to be read
        #[arg(long, value_name = "POSITION")]
        at: String,
        /// Only this partition
        #[arg(long)]
        partition: Option<i32>,
    },
    /// Add Events out of files (Avro as Capture or IoT Hub's routing writes it, or JSON lines); what bronze has is skipped
    Files {
        /// The files, in the order of their Events
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The event hub; otherwise the files' folders tell (…/HUB/PARTITION/YEAR/MONTH/DAY/HOUR/MINUTE/SECOND.avro)
        #[arg(long)]
        hub: Option<String>,
        /// The life of the hub: when it was created, in milliseconds since 1970 (`status` shows those of the lake)
        #[arg(long)]
        incarnation: i64,
        /// The partition; otherwise the line or the folders tell
        #[arg(long)]
        partition: Option<i32>,
        /// Where numbers are missing in the files, and the hub does not hold them any more: name them as gaps and go on
        #[arg(long)]
        over_gaps: bool,
    },
}

/// Runs it.
pub(super) async fn backfill(config: Config, what: Backfill) -> Result<Exit, RunError> {
    let location = config.location()?;
    location.prepare()?;
    let lake = Lake::open(location)?;
    lake.create_tables().await?;
    match what {
        Backfill::Start { at, partition } => start(&config, &lake, &at, partition).await,
        Backfill::Files { files, hub, incarnation, partition, over_gaps } => {
            let origin = Origin { hub: hub.map(|hub| hub.as_str().into()), incarnation, partition };
            let mut filler =
                Filler { lake, over_gaps, streams: BTreeMap::new(), cut: vec![], bytes: 0, books: Books::default() };
            filler.fill(&files, &origin).await
        }
    }
}

async fn start(config: &Config, lake: &Lake, at: &str, only: Option<i32>) -> Result<Exit, RunError> {
    let begin = match (at, at.parse(), Timestamp::parse_rfc3339(at)) {
        ("latest", ..) => eventhubs::Begin::Latest,
        (_, Ok(number), _) => eventhubs::Begin::Number(number),
        (.., Some(time)) => eventhubs::Begin::Time(time),
        _ => {
            return Err(RunError::Asked(format!(
                "begin at `{at}`: write `latest`, a time such as 2026-11-23T21:00:00Z, or a number"
            )));
        }
    };
    let positions = eventhubs::positions(&config.target()?, begin, only).await.map_err(RunError::Hub)?;
    let mut exit = Exit::Ok;
    for (stream, first) in positions {
        let app = stream.app_id();
        if let Some(committed) = lake.txn(Table::BronzeMessages, &app).await? {
            say(&format!("{stream}: was begun already, bronze stands at {committed}; left as it is\n"));
            exit = Exit::No;
            continue;
        }
        if first <= 0 {
            say(&format!("{stream}: begins at the beginning\n"));
            continue;
        }
        let txns = vec![Txn { app, expected: None, version: first - 1 }];
        commit(lake, vec![], txns, "start").await?;
        say(&format!("{stream}: begins at {first}\n"));
    }
    Ok(exit)
}

async fn commit(lake: &Lake, events: Vec<Event>, txns: Vec<Txn>, what: &str) -> Result<(), LakeError> {
    let batches = if events.is_empty() { vec![] } else { vec![rows::batch(&events, Clock::Real.now())] };
    let metadata = vec![("backfill".to_owned(), what.into())];
    let commit = TableCommit { table: Table::BronzeMessages, kind: Kind::Append, batches, txns, metadata };
    lake.commit(commit, None).await.map(|_| ())
}

#[derive(Debug, Default)]
struct Books {
    read: u64,
    added: u64,
    held: u64,
    beyond: u64,
    gaps: u64,
}

/// One stream while it is filled.
struct Open {
    filling: Filling,
    /// What the tables say: of the stream, and of earlier fillings.
    stands: Option<i64>,
    fills: Option<i64>,
    beyond: Option<(i64, i64)>,
}

struct Filler {
    lake: Lake,
    over_gaps: bool,
    streams: BTreeMap<Stream, Open>,
    cut: Vec<Event>,
    bytes: usize,
    books: Books,
}

impl Filler {
    async fn fill(&mut self, files: &[PathBuf], origin: &Origin) -> Result<Exit, RunError> {
        let bytes: u64 = files.iter().filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum();
        let mut progress = Progress::bytes("backfill", bytes);
        let mut next = 0;
        for file in files {
            // Decoding is plain work; the lake is asked between two blocks of Events.
            let (events, taken) = std::sync::mpsc::sync_channel(256);
            let (path, placed, begin) = (file.clone(), origin.clone(), next);
            let reading = tokio::task::spawn_blocking(move || {
                let mut next = begin;
                let read = import::read(&path, &placed, &mut next, |event| {
                    // Whoever stopped taking has an error of its own.
                    let _ = events.send(event);
                });
                read.map(|()| next)
            });
            while let Ok(event) = tokio::task::block_in_place(|| taken.recv()) {
                self.take(event).await?;
                progress.say(&format!("{} added", self.books.added));
            }
            let read = reading.await.map_err(|error| RunError::Asked(error.to_string()))?;
            next = read.map_err(|error| RunError::Asked(error.to_string()))?;
            progress.advance(file.metadata().map(|meta| meta.len()).unwrap_or(0));
        }
        self.flush().await?;
        progress.done();
        let Books { read, added, held, beyond, gaps } = self.books;
        say(&format!("{read} Events read = {added} added + {held} bronze had + {beyond} left\n"));
        if 0 < gaps {
            say(&format!("{gaps} gaps named\n"));
        }
        for (stream, open) in &self.streams {
            if let Some((from, to)) = open.beyond {
                say(&format!(
                    "{stream}: {from} to {to} are in none of the files; what comes after was left. If the hub does not \
                     hold them either, say --over-gaps\n"
                ));
            }
        }
        Ok(if beyond == 0 { Exit::Ok } else { Exit::No })
    }

    async fn take(&mut self, event: Event) -> Result<(), RunError> {
        self.books.read += 1;
        if !self.streams.contains_key(&event.stream) {
            let open = open(&self.lake, &event.stream).await?;
            self.streams.insert(event.stream.clone(), open);
        }
        let open = self.streams.get_mut(&event.stream).expect("it was just put there");
        let number = event.sequence_number;
        let mut fate = open.filling.take(number);
        if let Fate::Beyond(from) = fate
            && self.over_gaps
        {
            let gap = Event::retention_gap(event.stream.clone(), from, number - 1, Clock::Real.now());
            open.filling.pass(number - 1);
            self.books.gaps += 1;
            self.bytes += gap.bytes();
            self.cut.push(gap);
            fate = open.filling.take(number);
        }
        match fate {
            Fate::Held => self.books.held += 1,
            Fate::Beyond(from) => {
                self.books.beyond += 1;
                open.beyond.get_or_insert((from, number - 1));
            }
            Fate::Filled | Fate::Next => {
                self.books.added += 1;
                let event = rows::unpack(event);
                self.bytes += event.bytes();
                self.cut.push(event);
            }
        }
        if ROWS_MAX <= self.cut.len() || BYTES_MAX <= self.bytes {
            self.flush().await?;
        }
        Ok(())
    }

    /// One commit: the rows, the progress of streams that moved on, and of the fillings, which keeps two backfills apart.
    async fn flush(&mut self) -> Result<(), RunError> {
        let events = std::mem::take(&mut self.cut);
        self.bytes = 0;
        if events.is_empty() {
            return Ok(());
        }
        let mut txns = vec![];
        let touched: std::collections::BTreeSet<Stream> = events.iter().map(|event| event.stream.clone()).collect();
        for stream in &touched {
            let open = self.streams.get_mut(stream).expect("every Event's stream is open");
            let fills = open.fills.map_or(0, |fills| fills + 1);
            txns.push(Txn { app: fill_app(stream), expected: open.fills, version: fills });
            open.fills = Some(fills);
            if let Some(version) = open.filling.at().filter(|at| Some(*at) != open.stands) {
                txns.push(Txn { app: stream.app_id(), expected: open.stands, version });
                open.stands = Some(version);
            }
        }
        match commit(&self.lake, events, txns, "files").await {
            Err(error @ LakeError::Fenced { .. }) => Err(RunError::Busy(format!(
                "add Events to bronze: {error}; a service or another backfill wrote the same partition. Run it again: what is added is skipped"
            ))),
            done => Ok(done?),
        }
    }
}

fn fill_app(stream: &Stream) -> String {
    format!("backfill/{}", stream.app_id())
}

async fn open(lake: &Lake, stream: &Stream) -> Result<Open, LakeError> {
    let bronze = lake.view(Table::BronzeMessages).await?;
    let stands = bronze.txn(&stream.app_id()).await?;
    let fills = bronze.txn(&fill_app(stream)).await?;
    let held = crate::lake::numbers(&bronze, &stream.hub, stream.incarnation, stream.partition).await?;
    Ok(Open { filling: Filling::new(held, stands), stands, fills, beyond: None })
}
