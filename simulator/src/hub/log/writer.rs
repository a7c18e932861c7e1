//! The one thread that writes a partition: takes what has come, writes it at once, syncs once, then answers everybody.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use shared::time::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::event::{self, NewEvent};
use super::partition::Partition;
use super::segment::{Mark, Segment, Start};
use super::{AppendError, Appended, Options, Trouble};

/// One sync stores at most this much.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

pub(super) enum Command {
    Append(Box<NewEvent>, oneshot::Sender<Result<Appended, AppendError>>),
    /// Look whether the files are still there, and give up what is past retention.
    Tick(Option<oneshot::Sender<()>>),
    /// Give up all there is.
    Trim(oneshot::Sender<()>),
}

pub(super) struct Writer {
    pub(super) number: u32,
    pub(super) partition: Arc<Partition>,
    pub(super) options: Options,
    pub(super) trouble: Trouble,
    /// Somebody wanted a tick and found no room to say so.
    pub(super) overdue: Arc<AtomicBool>,
}

struct Waiting {
    answer: oneshot::Sender<Result<Appended, AppendError>>,
    appended: Appended,
}

impl Writer {
    /// Works until every sender is gone. After the first failure nothing is written any more: an append that may or
    /// may not be on disk must not be followed by one that is.
    pub(super) fn run(self, mut commands: mpsc::Receiver<Command>) {
        while let Some(first) = commands.blocking_recv() {
            match first {
                Command::Append(event, answer) => self.commit(*event, answer, &mut commands),
                Command::Tick(done) => {
                    self.unless_failed(|| self.tick(self.options.clock.now()));
                    if let Some(done) = done {
                        let _ = done.send(());
                    }
                }
                Command::Trim(done) => {
                    self.unless_failed(|| self.trim());
                    let _ = done.send(());
                }
            }
        }
    }

    fn unless_failed(&self, work: impl FnOnce() -> io::Result<()>) {
        if self.trouble.get().is_none()
            && let Err(error) = work()
        {
            self.fail(&error);
        }
    }

    fn fail(&self, error: &io::Error) -> AppendError {
        self.trouble.set(format!("partition {}: {error}", self.number));
        self.trouble.get().expect("it was just set")
    }

    fn commit(
        &self,
        first: NewEvent,
        answer: oneshot::Sender<Result<Appended, AppendError>>,
        commands: &mut mpsc::Receiver<Command>,
    ) {
        if let Some(error) = self.trouble.get() {
            let _ = answer.send(Err(error));
            return;
        }
        let now = self.options.clock.now();
        if let Err(error) = self.roll_if_full(now) {
            let _ = answer.send(Err(self.fail(&error)));
            return;
        }

        let (segment, end, mut sequence, mut time) = {
            let state = self.partition.state();
            (Arc::clone(state.active()), state.end, state.next_sequence, state.last_time)
        };
        // The service keeps milliseconds; a clock that was set back does not turn the log back.
        time = time.max(Timestamp::from_millis(now.millis()));
        let mut buffer = vec![];
        let mut waiting = vec![];
        let (mut trims, mut ticks) = (vec![], vec![]);
        let mut next = Some((first, answer));
        while let Some((event, answer)) = next {
            let position = end + buffer.len() as u64;
            event::encode(&mut buffer, sequence, time, &event);
            segment.mark(Mark { sequence, position, enqueued: time });
            let appended = Appended {
                partition: self.number,
                sequence_number: sequence,
                offset: segment.offset_at(position),
                enqueued_time: time,
            };
            waiting.push(Waiting { answer, appended });
            sequence += 1;
            next = None;
            while next.is_none() && buffer.len() < BATCH_BYTES {
                match commands.try_recv() {
                    Ok(Command::Append(event, answer)) => next = Some((*event, answer)),
                    Ok(Command::Tick(done)) => ticks.push(done),
                    Ok(Command::Trim(done)) => {
                        trims.push(done);
                        break;
                    }
                    Err(_) => break,
                }
            }
        }

        match self.store(&segment, &buffer, end) {
            Ok(()) => {
                let last = waiting.last().expect("a batch has an event").appended;
                self.partition.publish(|state| {
                    state.end = end + buffer.len() as u64;
                    state.next_sequence = sequence;
                    state.last_offset = last.offset;
                    state.last_time = last.enqueued_time;
                });
                for Waiting { answer, appended } in waiting {
                    let _ = answer.send(Ok(appended));
                }
            }
            Err(error) => {
                let error = self.fail(&error);
                for Waiting { answer, .. } in waiting {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
        if self.overdue.swap(false, Ordering::Relaxed) || !ticks.is_empty() {
            self.unless_failed(|| self.tick(self.options.clock.now()));
        }
        for done in ticks.into_iter().flatten() {
            let _ = done.send(());
        }
        for done in trims {
            self.unless_failed(|| self.trim());
            let _ = done.send(());
        }
    }

    fn store(&self, segment: &Segment, buffer: &[u8], end: u64) -> io::Result<()> {
        segment.file.write_all_at(buffer, end)?;
        self.options.faults.slow_fsync(self.number);
        if self.options.fsync {
            segment.file.sync_data()?;
        }
        self.in_place(segment)
    }

    fn in_place(&self, segment: &Segment) -> io::Result<()> {
        if segment.is_in_place() {
            return Ok(());
        }
        let what = format!("{} was deleted or moved while the hub ran", segment.path.display());
        Err(io::Error::new(io::ErrorKind::NotFound, what))
    }

    fn roll_if_full(&self, now: Timestamp) -> io::Result<()> {
        let state = self.partition.state();
        // Without a record there is nothing to put behind us.
        let Some(first) = state.active().first_enqueued() else { return Ok(()) };
        let aged = self.options.segment_age().is_some_and(|age| first.plus(age) <= now);
        let full = self.options.segment_bytes() <= state.end;
        drop(state);
        if aged || full { self.roll() } else { Ok(()) }
    }

    fn roll(&self) -> io::Result<()> {
        let start = {
            let state = self.partition.state();
            Start {
                sequence: state.next_sequence,
                offset: state.active().offset_at(state.end),
                last_offset: state.last_offset,
                time: state.last_time,
            }
        };
        let segment = Segment::create(&self.partition.directory, start)?;
        self.partition.publish(|state| {
            state.segments.push_back(Arc::new(segment));
            state.end = super::segment::HEADER;
        });
        Ok(())
    }

    /// Gives up whole segments that are too old or too much, oldest first.
    fn tick(&self, now: Timestamp) -> io::Result<()> {
        let active = Arc::clone(self.partition.state().active());
        self.in_place(&active)?;
        self.roll_if_full(now)?;
        loop {
            let bytes = self.partition.info().bytes;
            let state = self.partition.state();
            let (Some(oldest), Some(next)) = (state.segments.front(), state.segments.get(1)) else { return Ok(()) };
            // The start of the next segment holds the time of this one's last event.
            let old = self.options.retention_time.is_some_and(|age| next.start.time.plus(age) <= now);
            let much = self.options.retention_bytes.is_some_and(|bytes_max| self.share(bytes_max) < bytes);
            if !(old || much) {
                return Ok(());
            }
            let first = oldest.start.sequence;
            let begin = next.start.sequence;
            drop(state);
            self.give_up_oldest()?;
            tracing::info!(partition = self.number, first, last = begin - 1, "events passed retention");
        }
    }

    fn give_up_oldest(&self) -> io::Result<()> {
        let path = self.partition.state().segments.front().map(|oldest| oldest.path.clone());
        if let Some(path) = path {
            fs::remove_file(path)?;
            self.partition.publish(|state| {
                state.segments.pop_front();
            });
        }
        Ok(())
    }

    fn trim(&self) -> io::Result<()> {
        // Without a record there is nothing to give up.
        if self.partition.state().active().first_enqueued().is_some() {
            self.roll()?;
        }
        while 1 < self.partition.state().segments.len() {
            self.give_up_oldest()?;
        }
        Ok(())
    }

    fn share(&self, bytes: u64) -> u64 {
        bytes / u64::from(self.options.partitions)
    }
}
