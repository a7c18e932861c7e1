//! A service: one `azure_messaging_eventhubs` client that reads every partition of a hub from its beginning.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use azure_messaging_eventhubs::{ConsumerClient, OpenReceiverOptions, StartLocation, StartPosition};
use futures::StreamExt as _;
use tokio::task::JoinSet;

use super::speak::{self, Line};

/// How often is looked whether events still come.
const LOOK: Duration = Duration::from_millis(50);
/// So long without an event, and all have been read.
const SILENCE: Duration = Duration::from_secs(2);

/// Arguments of the reader.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A file with `Endpoint=…;SharedAccessKeyName=…;SharedAccessKey=…;EntityPath=…`
    #[arg(long)]
    connection_string: PathBuf,
    /// Dials this: `amqp://127.0.0.1:5672`
    #[arg(long)]
    endpoint: String,
    /// Partitions, all read at once
    #[arg(long)]
    partitions: u32,
    /// Events before measuring begins
    #[arg(long, default_value_t = 0)]
    warm_up: u64,
    /// How long is measured at most; 0: until there are no more events, and then until told
    #[arg(long)]
    measure_s: f64,
}

/// Reads, measures, says how many events came.
pub(super) async fn run(args: Args) -> io::Result<()> {
    let text = std::fs::read_to_string(&args.connection_string)?;
    let builder = ConsumerClient::builder().with_custom_endpoint(args.endpoint.clone());
    let client = builder.open_with_connection_string(text.trim(), None).await.map_err(io::Error::other)?;
    let client = Arc::new(client);
    let received = Arc::new(AtomicU64::new(0));
    let mut partitions = JoinSet::new();
    for partition in 0..args.partitions {
        partitions.spawn(follow(Arc::clone(&client), partition, Arc::clone(&received)));
    }
    tokio::select! {
        measured = measure(&args, &received) => measured?,
        Some(ended) = partitions.join_next() => return ended.map_err(io::Error::other)?,
    }
    // Reading goes on until told: whoever measures memory wants it so.
    if args.measure_s != 0.0 {
        partitions.shutdown().await;
    }
    tokio::select! {
        () = speak::until_told() => Ok(()),
        Some(ended) = partitions.join_next() => ended.map_err(io::Error::other)?,
    }
}

async fn follow(client: Arc<ConsumerClient>, partition: u32, received: Arc<AtomicU64>) -> io::Result<()> {
    let start_position = Some(StartPosition { location: StartLocation::Earliest, inclusive: true });
    let options = OpenReceiverOptions { start_position, ..OpenReceiverOptions::default() };
    let receiver = client.open_receiver_on_partition(partition.to_string(), Some(options)).await;
    let receiver = receiver.map_err(io::Error::other)?;
    let mut events = receiver.stream_events();
    while let Some(event) = events.next().await {
        event.map_err(io::Error::other)?;
        received.fetch_add(1, Relaxed);
    }
    Err(io::Error::other(format!("the stream of partition {partition} ended")))
}

async fn measure(args: &Args, received: &AtomicU64) -> io::Result<()> {
    while received.load(Relaxed) < args.warm_up {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Line::Begin.say()?;
    let (begun, before) = (Instant::now(), received.load(Relaxed));
    let (mut seen, mut seen_at) = (before, begun);
    let limit = if args.measure_s == 0.0 { Duration::MAX } else { Duration::from_secs_f64(args.measure_s) };
    while begun.elapsed() < limit && seen_at.elapsed() < SILENCE {
        tokio::time::sleep(LOOK).await;
        let now = received.load(Relaxed);
        if now != seen {
            (seen, seen_at) = (now, Instant::now());
        }
    }
    Line::End { count: seen - before, took: seen_at - begun, all: seen }.say()
}
