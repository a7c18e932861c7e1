//! What comes from the hub, held against what was read and against what the hub says. Knows it only by its answers.

use std::sync::Arc;

use shared::blame::Blame;

use super::{End, Positions, Progress, Reader, Wiring};
use crate::lake::LakeError;
use crate::source::resume::{Follows, Partition, Resume, follows, hole, resume};
use crate::source::{Event, SourceError, Stream, Told};

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

/// Learns where bronze is in this life of the hub; a life not met before is announced, never silent.
pub(super) async fn meet<P: Progress>(
    reader: &mut Reader,
    wiring: &Wiring<P>,
    hub: &Arc<str>,
    incarnation: i64,
    ids: &[String],
) -> Result<(), End> {
    if reader.current == Some(incarnation) {
        return Ok(());
    }
    let before = match reader.current {
        Some(before) => Some(before),
        None => wiring.progress.last_incarnation(hub).await.map_err(unread)?,
    };
    let mut known = false;
    for id in ids {
        let Some(stream) = stream(hub, incarnation, id) else {
            continue;
        };
        if let Some(committed) = wiring.progress.committed(&stream).await.map_err(unread)? {
            reader.positions.reach(&stream, committed);
            known = true;
        }
    }
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
    tell(wiring, stream, hub);
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
    wiring.downstream.send(gap).await.map_err(|_| End::Stop)?;
    positions.reach(stream, to);
    Ok(())
}

fn tell<P: Progress>(wiring: &Wiring<P>, stream: &Stream, hub: Partition) {
    // Nobody listening is fine: it is for people.
    let _ = wiring.told.send(Told { stream: stream.clone(), begin: hub.begin, last_enqueued: hub.last_enqueued });
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
    wiring.downstream.send(event).await.map_err(|_| End::Stop)?;
    positions.reach(&stream, number);
    Ok(())
}

/// Asks a live hub whether it is still the one that is read, and whether it still holds what is to be read next.
/// `waiting`: how many Events have come that were not handed down yet.
pub(super) async fn check<P: Progress>(
    wiring: &Wiring<P>,
    positions: &mut Positions,
    client: &impl Asked,
    hub: &Arc<str>,
    incarnation: i64,
    ids: &[String],
    waiting: usize,
) -> Result<(), End> {
    let (_, now, ids_now) = client.describe().await.map_err(End::Failed)?;
    if now != incarnation || ids_now != ids {
        return Err(End::Failed("the hub changed under the connection".to_owned()));
    }
    for id in ids {
        let Some(stream) = stream(hub, incarnation, id) else {
            continue;
        };
        // Taken before the question, so that the answer can't be older than what it is held against.
        let at = positions.at(&stream);
        let told = client.partition(id).await.map_err(End::Failed)?;
        tell(wiring, &stream, told);
        match resume(&stream, at, told).map_err(End::Fatal)? {
            Resume::AtTheBeginning | Resume::After(_) => {
                positions.trimmed.remove(&stream);
            }
            Resume::OverAGap { from, to } => {
                // What the hub gave up may have come before it did. Only where nothing is in hand, and nothing came since
                // the last look, is it gone.
                if waiting == 0 && positions.trimmed.insert(stream.clone(), from) == Some(from) {
                    name_gap(wiring, positions, &stream, from, to).await?;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
