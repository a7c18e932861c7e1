//! The hub's Event-Hubs-compatible endpoint, through `azure_messaging_eventhubs`.
//!
//! Invariants:
//! - The SDK's receiver re-attaches where it was *first* opened, whatever it has delivered since. So each Event's number
//!   is held against the last one handed downstream; a repeat is dropped and makes this module connect anew at its own
//!   position. So does a number that passes others over; only where they do not come then either is it taken, after a row
//!   that names them.
//! - Anything that fails ends the whole connection; a new one begins with the checks of [`super::resume`]. These run
//!   at every connection and every `check-every` on a live one.
//! - Never decides what is ingested: that is bronze's `txn`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use azure_messaging_eventhubs::{ConsumerClient, OpenReceiverOptions, StartLocation, StartPosition};
use futures::StreamExt as _;
use shared::backoff::Backoff;
use shared::clock::Clock;
use shared::config::Secret;
use shared::http::Condition;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::client::explain;
pub use self::client::{describe, open};
use self::follow::{begin, check, hand_down, meet, stream};
use super::{Event, SourceError, Stream, Told};

mod client; // dialling, asking, and what the SDK's errors mean

mod follow; // what comes, held against what was read and what the hub says

mod received; // the SDK's message -> Event

/// Events in flight per partition; the hub sends no more until they are taken.
const PREFETCH: u32 = 100;

/// Events of all partitions that wait to be taken; a full channel stops the receivers, and so their credit.
const EVENTS_AHEAD: usize = 64;

/// Which hub, as whom.
#[derive(Clone, Debug)]
pub struct Target {
    /// `Endpoint=sb://…;SharedAccessKeyName=…;SharedAccessKey=…;EntityPath=…`.
    pub connection_string: Secret,
    /// Dials this instead: `amqp://127.0.0.1:5672`, `amqps://host:5671`.
    pub endpoint: Option<String>,
    /// The consumer group.
    pub consumer_group: String,
    /// How often the hub is asked how far it is.
    pub check_every: Duration,
}

/// Where the source goes on: what bronze holds, then what was handed downstream.
#[derive(Debug, Default)]
pub struct Positions {
    known: HashMap<Stream, i64>,
    /// Streams of which a hole was asked for again: the number behind the hole.
    asked_again: HashMap<Stream, i64>,
    /// Streams whose next number was gone from the hub at the last look: that number.
    trimmed: HashMap<Stream, i64>,
}

impl Positions {
    /// The last number handed downstream or committed.
    #[must_use]
    pub fn at(&self, stream: &Stream) -> Option<i64> {
        self.known.get(stream).copied()
    }

    /// Moves a stream forward; never back.
    pub fn reach(&mut self, stream: &Stream, number: i64) {
        let at = self.known.entry(stream.clone()).or_insert(number);
        *at = number.max(*at);
    }
}

/// What bronze holds, asked when a hub's incarnation is met.
pub trait Progress: Send + Sync {
    /// The committed number of a stream.
    fn committed(&self, stream: &Stream) -> impl Future<Output = Result<Option<i64>, crate::lake::LakeError>> + Send;

    /// The incarnation of `hub` that bronze read last.
    fn last_incarnation(&self, hub: &str) -> impl Future<Output = Result<Option<i64>, crate::lake::LakeError>> + Send;
}

/// Everything [`run`] needs beside its target.
pub struct Wiring<P> {
    /// What bronze holds.
    pub progress: P,
    /// Where Events go.
    pub downstream: mpsc::Sender<Event>,
    /// Where what the hub says goes.
    pub told: mpsc::UnboundedSender<Told>,
    /// Whether the hub can be read.
    pub ready: Condition,
    /// What time it is.
    pub clock: Clock,
    /// Ends the source.
    pub stop: CancellationToken,
}

/// Why a connection ended.
enum End {
    Stop,
    /// The receiver went back to where it was opened; connect anew at once.
    WentBack,
    /// It passed over numbers the hub says it holds; connect anew and read them.
    Skipped {
        stream: Stream,
        from: i64,
        to: i64,
    },
    Failed(String),
    Fatal(SourceError),
}

/// Reads every partition until told to stop; connects anew whenever anything fails.
///
/// # Errors
/// [`SourceError`]: what no new attempt can mend.
pub async fn run<P: Progress>(target: Target, wiring: Wiring<P>) -> Result<(), SourceError> {
    let mut reader = Reader {
        target,
        positions: Positions::default(),
        current: None,
        backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(5), u64::from(std::process::id())),
        said: String::new(),
    };
    loop {
        let end = tokio::select! {
            () = wiring.stop.cancelled() => End::Stop,
            end = connection(&mut reader, &wiring) => end,
        };
        match end {
            End::Stop => return Ok(()),
            End::WentBack => {
                tracing::info!("the receiver began again at its first position; connecting anew at ours");
            }
            End::Skipped { stream, from, to } => {
                tracing::warn!(%stream, from, to, "numbers were passed over that the hub says it holds; reading them again");
                tokio::select! {
                    () = wiring.stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(reader.backoff.next_wait()) => {}
                }
            }
            End::Fatal(error) => return Err(error),
            End::Failed(why) => {
                let wait = reader.backoff.next_wait();
                wiring.ready.unmet(why.clone());
                if why == reader.said {
                    tracing::debug!(%why, ?wait, "still not reading the hub");
                } else {
                    tracing::warn!(%why, ?wait, "not reading the hub; trying again until it can be read");
                    reader.said = why;
                }
                tokio::select! {
                    () = wiring.stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(wait) => {}
                }
            }
        }
    }
}

/// What outlives a connection.
struct Reader {
    target: Target,
    positions: Positions,
    /// The life of the hub that is read.
    current: Option<i64>,
    backoff: Backoff,
    /// The last failure that was logged; the same one is not logged again.
    said: String,
}

async fn connection<P: Progress>(reader: &mut Reader, wiring: &Wiring<P>) -> End {
    let client = match open(&reader.target).await {
        Ok(client) => Arc::new(client),
        Err(why) => return End::Failed(why),
    };
    let end = live(reader, wiring, &client).await;
    if let Ok(client) = Arc::try_unwrap(client) {
        // A dead connection may not answer the farewell.
        let _ = tokio::time::timeout(Duration::from_secs(2), client.close()).await;
    }
    end
}

async fn live<P: Progress>(reader: &mut Reader, wiring: &Wiring<P>, client: &Arc<ConsumerClient>) -> End {
    let (name, incarnation, ids) = match describe(client).await {
        Ok(described) => described,
        Err(why) => return End::Failed(why),
    };
    let hub: Arc<str> = name.into();
    if let Err(end) = meet(reader, wiring, &hub, incarnation, &ids).await {
        return end;
    }
    let positions = &mut reader.positions;
    let (events, mut read) = mpsc::channel::<Result<Event, String>>(EVENTS_AHEAD);
    let mut readers = JoinSet::new();
    for id in &ids {
        let Some(stream) = stream(&hub, incarnation, id) else {
            return End::Failed(format!("partition `{id}` is not a number"));
        };
        let from = match begin(wiring, positions, &**client, &stream).await {
            Ok(from) => from,
            Err(end) => return end,
        };
        readers.spawn(read_partition(Arc::clone(client), stream, from, events.clone()));
    }
    drop(events);
    wiring.ready.met();
    reader.said.clear();
    tracing::info!(hub = &*hub, incarnation, partitions = ids.len(), "reading the hub");
    let mut ticks = tokio::time::interval(reader.target.check_every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    let end = loop {
        tokio::select! {
            event = read.recv() => {
                let event = match event {
                    Some(Ok(event)) => event,
                    Some(Err(why)) => break End::Failed(why),
                    None => break End::Failed("every receiver ended".to_owned()),
                };
                match hand_down(wiring, positions, &**client, event).await {
                    Ok(()) => reader.backoff.reset(),
                    Err(end) => break end,
                }
            }
            _ = ticks.tick() => {
                if let Err(end) = check(wiring, positions, &**client, &hub, incarnation, &ids, read.len()).await {
                    break end;
                }
            }
        }
    };
    readers.shutdown().await;
    end
}

async fn read_partition(
    client: Arc<ConsumerClient>,
    stream: Stream,
    from: Option<i64>,
    downstream: mpsc::Sender<Result<Event, String>>,
) {
    let location = match from {
        Some(number) => StartLocation::SequenceNumber(number),
        None => StartLocation::Earliest,
    };
    let options = OpenReceiverOptions {
        prefetch: Some(PREFETCH),
        start_position: Some(StartPosition { location, inclusive: false }),
        ..OpenReceiverOptions::default()
    };
    let id = stream.partition.to_string();
    let opened = client.open_receiver_on_partition(id, Some(options)).await;
    let receiver = match opened {
        Ok(receiver) => receiver,
        Err(error) => {
            let _ = downstream.send(Err(explain("opening a partition", &error))).await;
            return;
        }
    };
    let mut received = std::pin::pin!(receiver.stream_events());
    while let Some(next) = received.next().await {
        let next = match next {
            Ok(message) => received::event(&stream, &message),
            Err(error) => Err(explain("reading a partition", &error)),
        };
        let failed = next.is_err();
        if downstream.send(next).await.is_err() || failed {
            return;
        }
    }
}
