//! The hub's Event-Hubs-compatible endpoint, through `azure_messaging_eventhubs`.
//!
//! Invariants:
//! - The SDK's receiver re-attaches where it was *first* opened, whatever it has delivered since. So each Event's number
//!   is held against the last one handed downstream; a repeat is dropped and makes this module connect anew at its own
//!   position. So does a number that passes others over; only where they do not come then either is it taken, after a row
//!   that names them.
//! - Anything that fails ends the whole connection; a new one begins with the checks of [`super::resume`]. These run
//!   at every connection and every `check-every` on a live one.
//! - Only claimed partitions are read, each at the level of its claim, so that the hub detaches whoever read it before.
//!   When the claims change the connection ends, like after a failure, and a new one reads what is ours then.
//! - Never decides what is ingested: that is bronze's `txn`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use azure_messaging_eventhubs::error::ErrorKind;
use azure_messaging_eventhubs::{ConsumerClient, OpenReceiverOptions, StartLocation, StartPosition};
use futures::StreamExt as _;
use shared::backoff::Backoff;
use shared::clock::Clock;
use shared::config::Secret;
use shared::http::Condition;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::beginning::{Begin, positions};
use self::client::explain;
pub use self::client::{describe, open};
use self::follow::{Life, begin, check, hand_down, meet, take_up};
use self::keeper::Scope;
pub use self::keeper::{Claimed, Held, Keeper, keeper};
pub use self::ownership::LakeOwnership;
use super::flow::{self, Weigh};
use super::{Arrival, Books, Event, SourceError, Stream, Told};

mod client; // dialling, asking, and what the SDK's errors mean

mod ownership; // the client's own trait for claims, on the lake's storage

mod keeper; // looks at the claims, renews ours

mod follow; // what comes, held against what was read and what the hub says

mod received; // the SDK's message -> Event

mod beginning; // where a hub would be begun

/// Events in flight per partition, whatever room there is: more win nothing, fewer would wait for the network.
const PREFETCH: std::ops::RangeInclusive<u64> = 8..=300;

/// The hub's largest message.
const EVENT_BYTES_MAX: u64 = 256 << 10;

/// Bytes of all partitions that wait to be held against the position; a full channel stops the receivers, and so their
/// credit.
const BYTES_READ_AHEAD: usize = 4 << 20;

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
    /// About how many bytes may be on their way from the hub before they are taken.
    pub bytes_ahead: u64,
}

impl Target {
    /// How many Events of one of `partitions` may be on their way: the hub counts them, not their bytes.
    fn prefetch(&self, partitions: usize) -> u32 {
        let each = self.bytes_ahead / EVENT_BYTES_MAX / (partitions as u64).max(1);
        u32::try_from(each.clamp(*PREFETCH.start(), *PREFETCH.end())).unwrap_or(u32::MAX)
    }
}

/// Where the source goes on: what bronze holds, then what was handed downstream.
#[derive(Debug, Default)]
pub struct Positions {
    known: HashMap<Stream, i64>,
    /// Streams of which a hole was asked for again: the number behind the hole.
    asked_again: HashMap<Stream, i64>,
    /// Streams whose next number was gone from the hub at the last look: that number.
    trimmed: HashMap<Stream, i64>,
    /// Where bronze was when a stream was taken up.
    begun: HashMap<Stream, i64>,
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

    /// Knows nothing of a stream any more.
    fn forget(&mut self, stream: &Stream) {
        self.known.remove(stream);
        self.asked_again.remove(stream);
        self.trimmed.remove(stream);
        self.begun.remove(stream);
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
    pub downstream: flow::Sender<Arrival>,
    /// Which partitions are ours.
    pub claimed: Claimed,
    /// Where what the hub says goes.
    pub told: mpsc::UnboundedSender<Told>,
    /// Its books.
    pub books: Books,
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
    /// Other partitions are ours now.
    Moved,
    /// The hub let another reader have a partition.
    Stolen(Stream),
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
        read: BTreeMap::new(),
        current: None,
        stolen: 0,
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
            End::Moved => {}
            End::Stolen(stream) => {
                // Whoever has it wrote so before; the claims tell, and if they do not, somebody else reads here.
                wiring.claimed.look();
                wiring.books.stolen.inc();
                reader.stolen += 1;
                if reader.stolen == STOLEN_OFTEN {
                    tracing::warn!(
                        %stream, group = reader.target.consumer_group,
                        "another program keeps reading this partition, at a higher owner level; give this lake a consumer group of its own in `hub.consumer-group`"
                    );
                }
                tokio::select! {
                    () = wiring.stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(reader.backoff.next_wait()) => {}
                }
            }
            End::Fatal(error) => return Err(error),
            End::Failed(why) => {
                let wait = reader.backoff.next_wait();
                wiring.books.failed.inc();
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

/// A partition that is taken away so often in a row is not taken by one of us.
const STOLEN_OFTEN: u32 = 5;

/// What outlives a connection.
struct Reader {
    target: Target,
    positions: Positions,
    /// What is read, and at which level it was claimed.
    read: BTreeMap<Stream, i64>,
    /// How often in a row the hub let another reader have a partition of ours.
    stolen: u32,
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
    let life = match Life::new(name.into(), incarnation, ids) {
        Ok(life) => life,
        Err(why) => return End::Failed(why),
    };
    let mut claimed = wiring.claimed.clone();
    let held = claimed.aim(life.scope()).await;
    let learned = match meet(reader, wiring, &life).await {
        Ok(learned) => learned,
        Err(end) => return end,
    };
    if let Err(end) = take_up(reader, wiring, &life, &held.partitions, learned).await {
        return end;
    }
    let positions = &mut reader.positions;
    let (events, mut read) = flow::channel::<Read>(BYTES_READ_AHEAD);
    let mut readers = JoinSet::new();
    let prefetch = reader.target.prefetch(life.ids.len());
    for (stream, &level) in &reader.read {
        let from = match begin(wiring, positions, &**client, stream).await {
            Ok(from) => from,
            Err(end) => return end,
        };
        let opening = Opening { stream: stream.clone(), from, level, prefetch };
        readers.spawn(read_partition(Arc::clone(client), opening, events.clone()));
    }
    wiring.ready.met();
    wiring.books.connections.inc();
    reader.said.clear();
    tracing::info!(hub = &*life.hub, incarnation, partitions = reader.read.len(), "reading the hub");
    let mut ticks = tokio::time::interval(reader.target.check_every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    if reader.read.len() == life.ids.len() {
        // Each was asked for just now.
        ticks.tick().await;
    }
    let end = loop {
        tokio::select! {
            read = read.recv() => {
                let event = match read {
                    Some(Read::Event(event)) => event,
                    Some(Read::Stolen(stream)) => break End::Stolen(stream),
                    Some(Read::Failed(why)) => break End::Failed(why),
                    // One of them is ours.
                    None => break End::Stop,
                };
                wiring.books.received.inc();
                wiring.books.received_bytes.inc_by(event.bytes() as u64);
                match hand_down(wiring, positions, &**client, event).await {
                    Ok(()) => {
                        reader.backoff.reset();
                        reader.stolen = 0;
                    }
                    Err(end) => break end,
                }
            }
            _ = ticks.tick() => {
                if let Err(end) = check(wiring, positions, &**client, &life, &reader.read, read.len()).await {
                    break end;
                }
            }
            () = claimed.changed_from(&held) => break End::Moved,
        }
    };
    drop(events);
    readers.shutdown().await;
    end
}

/// What a receiver says.
#[expect(clippy::large_enum_variant, reason = "nearly all are Events")]
enum Read {
    Event(Event),
    Stolen(Stream),
    Failed(String),
}

impl Weigh for Read {
    fn bytes(&self) -> usize {
        match self {
            Self::Event(event) => event.bytes(),
            Self::Stolen(_) | Self::Failed(_) => 0,
        }
    }
}

/// How a partition is opened.
struct Opening {
    stream: Stream,
    from: Option<i64>,
    level: i64,
    prefetch: u32,
}

async fn read_partition(client: Arc<ConsumerClient>, opening: Opening, downstream: flow::Sender<Read>) {
    let Opening { stream, from, level, prefetch } = opening;
    let location = match from {
        Some(number) => StartLocation::SequenceNumber(number),
        None => StartLocation::Earliest,
    };
    let options = OpenReceiverOptions {
        owner_level: Some(level),
        prefetch: Some(prefetch),
        start_position: Some(StartPosition { location, inclusive: false }),
        ..OpenReceiverOptions::default()
    };
    let failed = |act: &str, error: &azure_messaging_eventhubs::EventHubsError| match error.kind {
        ErrorKind::ConsumerDisconnected(_) => Read::Stolen(stream.clone()),
        _ => Read::Failed(explain(act, error)),
    };
    let id = stream.partition.to_string();
    let receiver = match client.open_receiver_on_partition(id, Some(options)).await {
        Ok(receiver) => receiver,
        Err(error) => {
            let _ = downstream.send(failed("opening a partition", &error)).await;
            return;
        }
    };
    let mut received = std::pin::pin!(receiver.stream_events());
    while let Some(next) = received.next().await {
        let next = match next {
            Ok(message) => received::event(&stream, &message).map_or_else(Read::Failed, Read::Event),
            Err(error) => failed("reading a partition", &error),
        };
        let ended = !matches!(next, Read::Event(_));
        if downstream.send(next).await.is_err() || ended {
            return;
        }
    }
    let _ = downstream.send(Read::Failed("a receiver ended".to_owned())).await;
}
