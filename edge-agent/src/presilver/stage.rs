//! Intake's channel -> outbox. What came while the last commit ran is judged and committed together.

use std::sync::Arc;

use shared::clock::Clock;
use shared::rules::Rule;
use tokio::sync::{mpsc, watch};

use super::format::Note;
use super::gateway::Gateway;
use super::judge::{Judge, Judged, Publish};
use super::metrics::Metrics;
use crate::intake::{RawMessage, Senders};
use crate::outbox::{NewRow, Outbox, OutboxError};

/// Most messages judged before they are stored.
const MESSAGES_MAX: usize = crate::intake::CAPACITY;
/// Rows from which on a batch is stored before more messages are judged: a message may hold a thousand.
const ROWS_MAX: usize = 5_000;
/// Most notices logged per batch.
const TOLD_MAX: usize = 3;

/// Judges until intake's channel closes, or until the outbox takes no more rows.
///
/// # Errors
/// The outbox's writer has ended.
pub async fn run(
    (mut judge, mut rules): (Judge, watch::Receiver<Option<Arc<[Rule]>>>),
    mut gateway: Gateway,
    clock: Clock,
    mut messages: mpsc::Receiver<RawMessage>,
    (outbox, senders): (Outbox, Senders),
    metrics: Metrics,
) -> Result<(), OutboxError> {
    let mut batch = Vec::with_capacity(MESSAGES_MAX);
    while 0 < messages.recv_many(&mut batch, MESSAGES_MAX).await {
        turn(&mut judge, &mut rules, &outbox).await?;
        let mut rows = Vec::new();
        let mut acks = Vec::with_capacity(batch.len());
        let mut told = 0;
        let boot_time = gateway.boot_time();
        let clock_known_good = gateway.is_known_good(clock.now());
        for message in batch.drain(..) {
            let publish = Publish {
                topic: &message.topic,
                payload: &message.payload,
                received: message.received,
                clock_known_good,
                again: message.again,
            };
            let Judged { verdicts, notes, ask, .. } = {
                let judged = judge.judge(&publish);
                metrics.judged(&judged);
                judged
            };
            tell(notes, &mut told);
            if let Some(ask) = ask {
                metrics.asked(senders.ask(ask));
            }
            rows.extend(verdicts.into_iter().map(|verdict| NewRow { item: verdict.item, key: verdict.key, boot_time }));
            acks.push(message.ack);
            if ROWS_MAX <= rows.len() {
                match store(&outbox, std::mem::take(&mut rows), std::mem::take(&mut acks)).await? {
                    Took::All => {}
                    Took::Sealed => return Ok(()),
                }
            }
        }
        match store(&outbox, rows, acks).await? {
            Took::All => {}
            Took::Sealed => return Ok(()),
        }
    }
    Ok(())
}

/// Judges by other rules, if there are: from the next row on, which the outbox is told before.
async fn turn(
    judge: &mut Judge,
    rules: &mut watch::Receiver<Option<Arc<[Rule]>>>,
    outbox: &Outbox,
) -> Result<(), OutboxError> {
    if !rules.has_changed().unwrap_or(false) {
        return Ok(());
    }
    let now = rules.borrow_and_update().clone();
    judge.judge_by(now.as_deref());
    match outbox.judge_by(judge.digest().to_owned()).await {
        Err(OutboxError::Gone) => Err(OutboxError::Gone),
        Err(error) => {
            tracing::warn!("Envelopes name the rules of before: {error}");
            Ok(())
        }
        Ok(()) => {
            tracing::info!(rules = judge.digest(), "judging by other rules");
            Ok(())
        }
    }
}

/// Logs what was noticed, at most a few lines per batch: all of it is counted.
fn tell(notes: Vec<Note>, told: &mut usize) {
    for note in notes {
        *told += 1;
        if *told <= TOLD_MAX {
            tracing::warn!(kind = note.kind, "{}", note.text);
        }
    }
}

enum Took {
    All,
    /// Stopping: what was not stored is not acknowledged, so its sender repeats it.
    Sealed,
}

async fn store(outbox: &Outbox, rows: Vec<NewRow>, acks: Vec<crate::intake::Ack>) -> Result<Took, OutboxError> {
    match outbox.append(rows).await {
        Ok(_) => {
            acks.into_iter().for_each(crate::intake::Ack::done);
            Ok(Took::All)
        }
        Err(OutboxError::Sealed) => Ok(Took::Sealed),
        Err(error) => Err(error),
    }
}
