//! What comes from the hub, held against what was read and against what the hub says. Knows it only by its answers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use shared::blame::Blame;

use super::{End, Positions, Progress, Reader, Scope, Wiring};
use crate::lake::LakeError;
use crate::source::resume::{Follows, Partition, Resume, follows, hole, resume};
use crate::source::{Arrival, Event, SourceError, Stream, Told};

/// What the hub can be asked.
pub(super) trait Asked: Sync {
    /// Its name, its incarnation and its partitions' ids.
    fn describe(&self) -> impl Future<Output = Result<(String, i64, Vec<String>), String>> + Send;

    /// What a partition holds.
    fn partition(&self, id: &str) -> impl Future<Output = Result<Partition, String>> + Send;
}

pub(super) fn stream(hub: &Arc<str>, incarnation: i64, id: &str) -> Option<Stream> {
    Some(Stream { hub: Arc::clone(hub), incarnation, partition: id.parse().ok()? })
}

/// One life of a hub.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) hub: Arc<str>,
    pub(super) incarnation: i64,
    /// Its partitions, as it names them.
    pub(super) ids: Vec<String>,
    streams: Vec<Stream>,
}

impl Life {
    /// What a hub says of itself.
    pub(super) fn new(hub: Arc<str>, incarnation: i64, ids: Vec<String>) -> Result<Self, String> {
        let named = |id: &String| stream(&hub, incarnation, id).ok_or(format!("partition `{id}` is not a number"));
        let streams = ids.iter().map(named).collect::<Result<_, _>>()?;
        Ok(Self { hub, incarnation, ids, streams })
    }

    pub(super) fn scope(&self) -> Scope {
        let partitions = self.streams.iter().map(|stream| stream.partition).collect();
        Scope { hub: Arc::clone(&self.hub), incarnation: self.incarnation, partitions }
    }
}

/// What bronze holds of each stream.
pub(super) type Learned = HashMap<Stream, Option<i64>>;

/// Meets a life of the hub; one not met before is announced, never silent. Says what bronze was asked for meanwhile.
pub(super) async fn meet<P: Progress>(reader: &mut Reader, wiring: &Wiring<P>, life: &Life) -> Result<Learned, End> {
    let (hub, incarnation) = (&life.hub, life.incarnation);
    if reader.current == Some(incarnation) {
        return Ok(Learned::new());
    }
    let before = match reader.current {
        Some(before) => Some(before),
        None => wiring.progress.last_incarnation(hub).await.map_err(unread)?,
    };
    let mut learned = Learned::new();
    for stream in &life.streams {
        let committed = wiring.progress.committed(stream).await.map_err(unread)?;
        learned.insert(stream.clone(), committed);
    }
    let known = learned.values().any(Option::is_some);
    match before {
        Some(before) if before != incarnation && known => tracing::warn!(
            hub = &**hub,
            before,
            now = incarnation,
            "the hub is an earlier one again; going on where it was left"
        ),
        Some(before) if before != incarnation => tracing::warn!(
            hub = &**hub,
            before,
            now = incarnation,
            "the hub was created anew: its incarnation changed, and it is read from the beginning of its retention; \
             what the hub of before still held unread is lost"
        ),
        _ => {}
    }
    reader.current = Some(incarnation);
    Ok(learned)
}

/// Takes up what is claimed now, and lets go of what is not. What was ours all the time goes on where it is; whatever else
/// is ours goes on where bronze is, since others may have read it meanwhile.
pub(super) async fn take_up<P: Progress>(
    reader: &mut Reader,
    wiring: &Wiring<P>,
    life: &Life,
    held: &BTreeMap<i32, i64>,
    learned: Learned,
) -> Result<(), End> {
    let level = |stream: &Stream| held.get(&stream.partition).copied().filter(|_| life.streams.contains(stream));
    let lost: Vec<Stream> = reader
        .read
        .iter()
        .filter(|(stream, at)| level(stream) != Some(**at))
        .map(|(stream, _)| stream.clone())
        .collect();
    for stream in lost {
        wiring.downstream.send(Arrival::Lost(stream.clone())).await.map_err(|_| End::Stop)?;
        reader.positions.forget(&stream);
        reader.read.remove(&stream);
    }
    for stream in &life.streams {
        let Some(level) = level(stream) else { continue };
        if reader.read.contains_key(stream) {
            continue;
        }
        let committed = match learned.get(stream) {
            Some(committed) => *committed,
            None => wiring.progress.committed(stream).await.map_err(unread)?,
        };
        if let Some(committed) = committed {
            reader.positions.reach(stream, committed);
            reader.positions.begun.insert(stream.clone(), committed);
        }
        reader.read.insert(stream.clone(), level);
    }
    Ok(())
}

/// Bronze could not be asked: what may pass is tried again, like a hub that does not answer.
fn unread(error: LakeError) -> End {
    match error.blame() {
        Blame::Peer => End::Failed(format!(
            "learn from bronze where to go on: {error}; see that the storage of `lake.url` can be reached and read"
        )),
        Blame::Data | Blame::Config | Blame::Bug => End::Fatal(SourceError::Lake(error)),
    }
}

/// Checks a partition before it is read; names what is gone; says where to go on.
pub(super) async fn begin<P: Progress>(
    wiring: &Wiring<P>,
    positions: &mut Positions,
    client: &impl Asked,
    stream: &Stream,
) -> Result<Option<i64>, End> {
    let id = stream.partition.to_string();
    let at = positions.at(stream);
    let hub = client.partition(&id).await.map_err(End::Failed)?;
    tell(wiring, positions, stream, hub);
    match resume(stream, at, hub).map_err(End::Fatal)? {
        Resume::AtTheBeginning => Ok(None),
        Resume::After(at) => Ok(Some(at)),
        Resume::OverAGap { from, to } => {
            name_gap(wiring, positions, stream, from, to).await?;
            Ok(Some(to))
        }
    }
}

async fn name_gap<P: Progress>(
    wiring: &Wiring<P>,
    positions: &mut Positions,
    stream: &Stream,
    from: i64,
    to: i64,
) -> Result<(), End> {
    tracing::error!(%stream, from, to, "the hub does not hold these Events any more; the gap is recorded");
    let gap = Event::retention_gap(stream.clone(), from, to, wiring.clock.now());
    wiring.downstream.send(Arrival::Event(gap)).await.map_err(|_| End::Stop)?;
    wiring.books.sent.inc();
    positions.reach(stream, to);
    Ok(())
}

fn tell<P: Progress>(wiring: &Wiring<P>, positions: &Positions, stream: &Stream, hub: Partition) {
    // Nobody listening is fine: it is for people.
    let _ = wiring.told.send(Told {
        stream: stream.clone(),
        begin: hub.begin,
        last_enqueued: hub.last_enqueued,
        begun: positions.begun.get(stream).copied(),
    });
}

/// Hands an Event down, after whatever gap it makes known. Numbers it passes over are never passed without a row: what the
/// hub gave up is named at once; what it says it holds is read again, and named where it does not come then either.
pub(super) async fn hand_down<P: Progress>(
    wiring: &Wiring<P>,
    positions: &mut Positions,
    client: &impl Asked,
    event: Event,
) -> Result<(), End> {
    let stream = event.stream.clone();
    let number = event.sequence_number;
    match follows(positions.at(&stream), number) {
        Follows::Directly => {
            // What was asked for again comes; another hole behind it is another question.
            positions.asked_again.remove(&stream);
        }
        Follows::WentBack => return Err(End::WentBack),
        Follows::OverAHole(from) => {
            let hub = client.partition(&stream.partition.to_string()).await.map_err(End::Failed)?;
            let hole = hole(from, number, hub);
            if let Some((from, to)) = hole.given_up {
                name_gap(wiring, positions, &stream, from, to).await?;
            }
            if let Some((from, to)) = hole.held {
                if positions.asked_again.insert(stream.clone(), number) != Some(number) {
                    return Err(End::Skipped { stream, from, to });
                }
                name_gap(wiring, positions, &stream, from, to).await?;
            }
        }
    }
    wiring.downstream.send(Arrival::Event(event)).await.map_err(|_| End::Stop)?;
    wiring.books.sent.inc();
    positions.reach(&stream, number);
    Ok(())
}

/// Asks a live hub whether it is still the one that is read, and whether it still holds what is to be read next.
/// `waiting`: how many Events have come that were not handed down yet. Of partitions that others read it is only told how
/// far they are.
pub(super) async fn check<P: Progress>(
    wiring: &Wiring<P>,
    positions: &mut Positions,
    client: &impl Asked,
    life: &Life,
    read: &BTreeMap<Stream, i64>,
    waiting: usize,
) -> Result<(), End> {
    let (_, now, ids_now) = client.describe().await.map_err(End::Failed)?;
    if now != life.incarnation || ids_now != life.ids {
        return Err(End::Failed("the hub changed under the connection".to_owned()));
    }
    for (stream, id) in life.streams.iter().zip(&life.ids) {
        if !read.contains_key(stream) {
            let told = client.partition(id).await.map_err(End::Failed)?;
            tell(wiring, positions, stream, told);
            continue;
        }
        // Taken before the question, so that the answer can't be older than what it is held against.
        let at = positions.at(stream);
        let told = client.partition(id).await.map_err(End::Failed)?;
        tell(wiring, positions, stream, told);
        match resume(stream, at, told).map_err(End::Fatal)? {
            Resume::AtTheBeginning | Resume::After(_) => {
                positions.trimmed.remove(stream);
            }
            Resume::OverAGap { from, to } => {
                // What the hub gave up may have come before it did. Only where nothing is in hand, and nothing came since
                // the last look, is it gone.
                if waiting == 0 && positions.trimmed.insert(stream.clone(), from) == Some(from) {
                    name_gap(wiring, positions, stream, from, to).await?;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
