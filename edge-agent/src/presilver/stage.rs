//! Intake's channel -> outbox. While one commit runs the next messages are judged and handed over, and whatever has been
//! handed over by its end is committed together: the busier it is, the larger the commits.

use std::collections::VecDeque;
use std::sync::Arc;

use shared::clock::Clock;
use shared::rules::Rule;
use tokio::sync::{mpsc, watch};

use super::format::Note;
use super::gateway::Gateway;
use super::judge::{Judge, Judged, Publish};
use super::metrics::Metrics;
use crate::intake::{Ack, RawMessage, Senders};
use crate::outbox::{Appending, NewRow, Outbox, OutboxError};

/// Most messages judged before they are handed over.
const MESSAGES_MAX: usize = crate::intake::CAPACITY;
/// Rows from which on they are handed over before more messages are judged: a message may hold a thousand. With so many
/// under way no more are handed over: that is one commit.
const ROWS_MAX: usize = 5_000;
/// Most notices logged per batch.
const TOLD_MAX: usize = 3;
/// Appends under way: each has one of the outbox's places, and others have questions, too.
const APPENDS_MAX: usize = 32;

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
    let mut under_way = UnderWay { outbox: &outbox, appends: VecDeque::new(), rows: 0 };
    loop {
        let count = tokio::select! {
            stored = under_way.oldest() => match under_way.settle(stored)? {
                Took::All => continue,
                Took::Sealed => return Ok(()),
            },
            count = messages.recv_many(&mut batch, MESSAGES_MAX), if !under_way.is_full() => count,
        };
        if count == 0 {
            break;
        }
        if rules.has_changed().unwrap_or(false) {
            // What was judged by the former ones gets its numbers first.
            if let Took::Sealed = under_way.finish().await? {
                return Ok(());
            }
            turn(&mut judge, &mut rules, &outbox).await?;
        }
        let (mut rows, mut acks) = (Vec::new(), Vec::with_capacity(batch.len()));
        let mut told = 0;
        let boot_time = gateway.boot_time();
        let clock_known_good = gateway.is_known_good(clock.now());
        for message in batch.drain(..) {
            let publish = Publish {
                topic: &message.topic,
                payload: &message.payload,
                cut: message.cut.as_ref(),
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
                match under_way.begin(std::mem::take(&mut rows), std::mem::take(&mut acks)).await? {
                    Took::All => {}
                    Took::Sealed => return Ok(()),
                }
            }
        }
        match under_way.begin(rows, acks).await? {
            Took::All => {}
            Took::Sealed => return Ok(()),
        }
    }
    under_way.finish().await.map(|_| ())
}

/// Judges by other rules: from the next row on, which the outbox is told before.
async fn turn(
    judge: &mut Judge,
    rules: &mut watch::Receiver<Option<Arc<[Rule]>>>,
    outbox: &Outbox,
) -> Result<(), OutboxError> {
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

/// What the outbox has and has not stored yet, in the order it was handed over.
struct UnderWay<'o> {
    outbox: &'o Outbox,
    appends: VecDeque<Append<'o>>,
    rows: usize,
}

/// Rows on their way, and who waits for them.
struct Append<'o> {
    rows: usize,
    appending: Appending<'o>,
    acks: Vec<Ack>,
}

impl<'o> UnderWay<'o> {
    fn is_full(&self) -> bool {
        ROWS_MAX <= self.rows || APPENDS_MAX <= self.appends.len()
    }

    /// All that was handed over is stored, or nothing more is.
    async fn finish(&mut self) -> Result<Took, OutboxError> {
        while !self.appends.is_empty() {
            let stored = self.oldest().await;
            if let Took::Sealed = self.settle(stored)? {
                return Ok(Took::Sealed);
            }
        }
        Ok(Took::All)
    }

    /// Hands rows over, once there is room for them.
    async fn begin(&mut self, rows: Vec<NewRow>, acks: Vec<Ack>) -> Result<Took, OutboxError> {
        while self.is_full() {
            let stored = self.oldest().await;
            if let Took::Sealed = self.settle(stored)? {
                return Ok(Took::Sealed);
            }
        }
        let count = rows.len();
        let appending = self.outbox.begin(rows).await?;
        self.appends.push_back(Append { rows: count, appending, acks });
        self.rows += count;
        Ok(Took::All)
    }

    /// Resolves once the oldest is stored, or not; never without any. [`UnderWay::settle`] takes what comes of it.
    /// Cancel-safe.
    async fn oldest(&mut self) -> Result<(), OutboxError> {
        match self.appends.front_mut() {
            Some(oldest) => oldest.appending.stored().await.map(|_| ()),
            None => std::future::pending().await,
        }
    }

    /// The oldest is stored: whoever waits for it is told.
    fn settle(&mut self, stored: Result<(), OutboxError>) -> Result<Took, OutboxError> {
        let Some(Append { rows, acks, .. }) = self.appends.pop_front() else { return Ok(Took::All) };
        self.rows -= rows;
        match stored {
            Ok(()) => {
                acks.into_iter().for_each(Ack::done);
                Ok(Took::All)
            }
            Err(OutboxError::Sealed) => Ok(Took::Sealed),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
