//! The two halves of the gateway's way in, each alone: what the whole is measured against.
//!
//! [`door`] is the listener and the judging of what it takes, with the write left out: what is judged is acknowledged
//! at once. [`rows`] is the outbox and the judging: the same readings, in group commits of its own, without a device.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use edge_agent::intake::listener::Listener;
use edge_agent::outbox::{self, BootTime, NewRow, Outbox};
use edge_agent::presilver::{Judge, Publish};
use edge_agent::{config, intake};
use shared::clock::Clock;
use shared::telemetry::Registry;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::press;
use super::speak::{self, Line};

/// Appends under way: the outbox is to have the next rows at hand when a commit ends.
const AT_ONCE: u64 = 4;

/// Arguments of either half.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The agent's config
    #[arg(long)]
    config: PathBuf,
    /// Of rows: how long is measured
    #[arg(long, default_value_t = 0.0)]
    measure_s: f64,
    /// Of rows: readings in each message
    #[arg(long, default_value_t = 1)]
    values: u64,
}

/// Serves until standard input ends.
pub(super) async fn door(args: Args) -> io::Result<()> {
    let config = config::load(Some(&args.config)).map_err(io::Error::other)?;
    let mut judge = Judge::new(&config.presilver);
    let listener = Listener::bind(config.intake.listener).await.map_err(io::Error::other)?;
    let (tx, mut messages) = mpsc::channel(intake::CAPACITY);
    let stop = CancellationToken::new();
    tokio::spawn(listener.serve(Clock::Real, tx, stop.clone(), intake::Metrics::default()));
    Line::Begin.say()?;
    let acknowledge = async {
        let mut batch = Vec::with_capacity(intake::CAPACITY);
        while 0 < messages.recv_many(&mut batch, intake::CAPACITY).await {
            for message in batch.drain(..) {
                let publish = Publish {
                    topic: &message.topic,
                    payload: &message.payload,
                    cut: None,
                    received: message.received,
                    clock_known_good: true,
                    again: false,
                };
                std::hint::black_box(judge.judge(&publish));
                message.ack.done();
            }
        }
    };
    tokio::select! {
        () = speak::until_told() => {}
        () = acknowledge => {}
    }
    stop.cancel();
    Ok(())
}

/// Appends rows for a while, and says how many were committed.
pub(super) async fn rows(args: Args) -> io::Result<()> {
    let config = config::load(Some(&args.config)).map_err(io::Error::other)?;
    let digest = Judge::new(&config.presilver).digest().to_owned();
    let metrics = outbox::Metrics::register(&mut Registry::default());
    let (outbox, _) = Outbox::open(&config.outbox, &digest, metrics).map_err(io::Error::other)?;
    let stored = Arc::new(AtomicU64::new(0));
    let until = Instant::now() + Duration::from_secs_f64(args.measure_s);
    Line::Begin.say()?;
    let begun = Instant::now();
    let mut appending = JoinSet::new();
    for lane in 0..AT_ONCE {
        let (outbox, stored) = (outbox.clone(), Arc::clone(&stored));
        // It learns from what it judges: each lane has its own.
        let mut judge = Judge::new(&config.presilver);
        let values = args.values;
        appending.spawn(async move {
            let mut number = 0;
            while Instant::now() < until {
                let rows = batch(&mut judge, lane, &mut number, values);
                let appended = outbox.append(rows).await.map_err(io::Error::other)?;
                stored.fetch_add(appended.stored, Relaxed);
            }
            io::Result::Ok(())
        });
    }
    while let Some(ended) = appending.join_next().await {
        ended.map_err(io::Error::other)??;
    }
    let count = stored.load(Relaxed);
    Line::End { count, took: begun.elapsed(), all: count }.say()?;
    outbox.close().await;
    speak::until_told().await;
    Ok(())
}

/// As many messages as presilver takes at once.
fn batch(judge: &mut Judge, lane: u64, number: &mut u64, values: u64) -> Vec<NewRow> {
    let mut rows = Vec::with_capacity(intake::CAPACITY);
    let topic = format!("telemetry/lane-{lane}");
    for _ in 0..intake::CAPACITY {
        *number += 1;
        let payload = press::payload(1_000_000_000 + *number, values);
        let publish = Publish {
            topic: &topic,
            payload: payload.as_bytes(),
            cut: None,
            received: Clock::Real.now(),
            clock_known_good: true,
            again: false,
        };
        let row = |verdict: edge_agent::presilver::Verdict| NewRow {
            item: verdict.item,
            key: verdict.key,
            boot_time: BootTime::default(),
        };
        rows.extend(judge.judge(&publish).verdicts.into_iter().map(row));
    }
    rows
}
