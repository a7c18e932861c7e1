//! The handle everybody holds: it asks the worker and waits.

use std::collections::HashMap;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use shared::envelope::Closing;
use shared::reading::{Epoch, Seq};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot, watch};

use super::store::{Opened, Selection, Store, StoreError};
use super::worker::{self, Command, Metrics};
use super::{Acked, Appended, Books, Config, HeldGap, NewRow, Row, RowId, history};

/// Questions waiting at the worker; more wait at the handle. Each holds at most one batch.
const QUESTIONS_MAX: usize = 64;

/// Why the outbox did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// No more rows are taken in this run.
    #[error("store a row: the outbox is sealed, the agent is stopping")]
    Sealed,
    /// The worker has ended; its own error was logged and ends the run.
    #[error("reach the outbox: its writer has ended")]
    Gone,
    /// One statement failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What can be seen without asking the worker.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The books after the last commit.
    pub books: Books,
    /// Bytes of database, write-ahead log and shared memory.
    pub bytes: u64,
    /// Why nothing can be stored now; `None` while all is well.
    pub full: Option<String>,
    /// Per epoch with rows: highest seq given, and by which rules its rows were judged.
    pub epochs: HashMap<Epoch, (Seq, Arc<str>)>,
}

pub(super) struct Inner {
    pub(super) queue: Sender<Command>,
    pub(super) places: Semaphore,
    pub(super) epoch: Epoch,
    pub(super) rules: Arc<str>,
    pub(super) view: Arc<Mutex<View>>,
    pub(super) changed: watch::Receiver<u64>,
    pub(super) ended: watch::Receiver<Option<Arc<StoreError>>>,
}

/// Rows on their way to the disk. Dropped, they are stored nevertheless.
#[derive(Debug)]
pub struct Appending<'o> {
    answer: oneshot::Receiver<Result<Appended, OutboxError>>,
    _place: SemaphorePermit<'o>,
}

impl Appending<'_> {
    /// Resolves as [`Outbox::append`]. Cancel-safe until then.
    ///
    /// # Errors
    /// As [`Outbox::append`].
    pub async fn stored(&mut self) -> Result<Appended, OutboxError> {
        (&mut self.answer).await.unwrap_or(Err(OutboxError::Gone))
    }
}

/// A cheap handle on the outbox.
#[derive(Clone)]
pub struct Outbox {
    inner: Arc<Inner>,
}

impl Outbox {
    /// Opens the database, names what earlier runs lost, draws this run's epoch and starts the writer. Blocks on disk.
    ///
    /// # Errors
    /// Where the place cannot be written or another agent holds it. An unreadable database is no error: it is moved
    /// aside and reported.
    pub fn open(config: &Config, rules: &str, metrics: Metrics) -> Result<(Self, Opened), StoreError> {
        let (changed_to, changed) = watch::channel(0);
        let (ended_to, ended) = watch::channel(None);
        let (queue, commands) = std::sync::mpsc::channel();
        let view = Arc::new(Mutex::new(View::default()));
        let rules: Arc<str> = rules.into();
        let (epoch, opened) = worker::start(worker::Start {
            config: config.clone(),
            rules: Arc::clone(&rules),
            commands,
            view: Arc::clone(&view),
            changed: changed_to,
            ended: ended_to,
            metrics,
        })?;
        let places = Semaphore::new(QUESTIONS_MAX);
        Ok((Self { inner: Arc::new(Inner { queue, places, epoch, rules, view, changed, ended }) }, opened))
    }

    /// This run's epoch.
    pub fn epoch(&self) -> Epoch {
        self.inner.epoch
    }

    /// Stores rows; resolves once all of them are in fsynced commits. While the disk or `bytes-max` leaves no room it
    /// waits. Rows of one call that are too many for one transaction are stored in several, in their order.
    ///
    /// # Errors
    /// `Sealed` once the agent is stopping: of this call nothing was stored or, where it was waiting for room, its first
    /// rows. Either way the caller acknowledges nothing; what its sender repeats of them is recognised by the source keys.
    pub async fn append(&self, rows: Vec<NewRow>) -> Result<Appended, OutboxError> {
        self.begin(rows).await?.stored().await
    }

    /// Hands rows to the writer, behind those handed over before, and does not wait until they are stored.
    ///
    /// # Errors
    /// The writer has ended.
    pub async fn begin(&self, rows: Vec<NewRow>) -> Result<Appending<'_>, OutboxError> {
        let (reply, answer) = oneshot::channel();
        let place = self.send(Command::Append { rows, reply }).await?;
        Ok(Appending { answer, _place: place })
    }

    /// Held rows after `after` in the order of storing, at most `rows_max` of them and about `bytes_max` of stored
    /// bytes (at least one row, if there is one). What is in flight only the caller knows.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn pending(&self, after: RowId, rows_max: usize, bytes_max: usize) -> Result<Vec<Row>, OutboxError> {
        self.ask(move |store| store.pending(after, rows_max, bytes_max)).await
    }

    /// Gaps without PUBACK, oldest first.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn gaps_pending(&self) -> Result<Vec<HeldGap>, OutboxError> {
        self.ask(|store| store.gaps_pending()).await
    }

    /// Closings that may be sent now: of ended epochs of which no row and no gap is held any more. After
    /// [`Outbox::seal`] that includes the current epoch.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn closings_pending(&self) -> Result<Vec<Closing>, OutboxError> {
        self.ask(|store| store.closings_pending()).await
    }

    /// Marks what the hub has acknowledged; durable when it resolves. Called on PUBACK and nowhere else.
    ///
    /// # Errors
    /// Where it could not be written: the rows stay held and go again.
    pub async fn done(&self, acked: Acked) -> Result<(), OutboxError> {
        let (reply, answer) = oneshot::channel();
        let _place = self.send(Command::Done { acked, reply }).await?;
        answer.await.unwrap_or(Err(OutboxError::Gone))
    }

    /// The highest seq given in `epoch`; 0 if none.
    pub fn high(&self, epoch: Epoch) -> Seq {
        self.look(|view| view.epochs.get(&epoch).map_or(Seq(0), |(high, _)| *high))
    }

    /// The digest of the rules by which the row `seq` of `epoch` was judged, and the last row of which that holds, if
    /// others follow.
    pub fn rules_at(&self, epoch: Epoch, seq: Seq) -> (String, Option<Seq>) {
        let history = self.history(epoch);
        let (digest, upto) = history::at(&history, seq);
        (digest.to_owned(), upto)
    }

    /// The digest of the rules by which rows of this run are judged now.
    pub fn rules(&self) -> String {
        history::last(&self.history(self.inner.epoch)).to_owned()
    }

    /// From the next row of this run on, rows are judged by rules of this digest.
    ///
    /// # Errors
    /// Where it could not be written: then Envelopes name the rules of before.
    pub async fn judge_by(&self, digest: String) -> Result<(), OutboxError> {
        self.change(move |store| store.judge_by(&digest)).await
    }

    fn history(&self, epoch: Epoch) -> Arc<str> {
        self.look(|view| view.epochs.get(&epoch).map(|(_, rules)| Arc::clone(rules)))
            .unwrap_or_else(|| Arc::clone(&self.inner.rules))
    }

    /// Counts up with every row, gap and closing that becomes pending.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.inner.changed.clone()
    }

    /// No more rows in this run: appends still waiting fail, the epoch gets its exact end.
    ///
    /// # Errors
    /// Where it could not be written; the next run then closes the epoch.
    pub async fn seal(&self) -> Result<(), OutboxError> {
        let (reply, answer) = oneshot::channel();
        let _place = self.send(Command::Seal { reply }).await?;
        answer.await.unwrap_or(Err(OutboxError::Gone))
    }

    /// Ends the writer after what was asked before; the database is checkpointed and closed when it resolves.
    pub async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if let Ok(_place) = self.send(Command::Close { reply }).await {
            // An error means the writer ended without an answer, which is what was wanted.
            answer.await.ok();
        }
    }

    /// Gives up held rows of `selection`: gaps with `reason` take their place. Returns how many rows.
    ///
    /// # Errors
    /// Where it could not be written; what is given up so far stays given up.
    pub async fn give_up(&self, selection: Selection, reason: String) -> Result<u64, OutboxError> {
        self.in_steps(selection, move |store, step| store.give_up(step, &reason)).await
    }

    /// Marks rows of `selection` that have left but still linger for sending again. Returns how many rows.
    ///
    /// # Errors
    /// Where it could not be written; what is marked so far stays marked.
    pub async fn resend(&self, selection: Selection) -> Result<u64, OutboxError> {
        self.in_steps(selection, |store, step| store.resend(step)).await
    }

    /// The books, the size and whether there is room.
    pub fn view(&self) -> View {
        self.look(View::clone)
    }

    /// True once the writer has gone through a round.
    pub async fn answers(&self) -> bool {
        self.ask(|_| Ok(())).await.is_ok()
    }

    /// Resolves with the reason when the writer ends by itself.
    pub async fn failed(&self) -> Arc<StoreError> {
        let mut ended = self.inner.ended.clone();
        loop {
            if let Some(error) = ended.borrow_and_update().clone() {
                return error;
            }
            if ended.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Many small transactions instead of a long one, so that intake is not held up.
    async fn in_steps(
        &self,
        selection: Selection,
        step: impl Fn(&mut Store, &Selection) -> Result<u64, StoreError> + Clone + Send + 'static,
    ) -> Result<u64, OutboxError> {
        let selection = self.ask(move |store| store.pin(selection)).await?;
        let mut total = 0;
        loop {
            let (selection, step) = (selection.clone(), step.clone());
            match self.change(move |store| step(store, &selection)).await? {
                0 => return Ok(total),
                rows => total += rows,
            }
        }
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, OutboxError> {
        self.put(question, false).await
    }

    async fn change<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, OutboxError> {
        self.put(question, true).await
    }

    async fn put<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
        changes: bool,
    ) -> Result<T, OutboxError> {
        let (reply, answer) = oneshot::channel();
        let question = Box::new(move |store: &mut Store| {
            let result = question(store);
            let fatal = result.as_ref().err().is_some_and(StoreError::is_fatal);
            // Nobody waits any more: the asker was cancelled.
            reply.send(result).ok();
            fatal
        });
        let _place = self.send(Command::Ask { question, changes }).await?;
        Ok(answer.await.map_err(|_| OutboxError::Gone)??)
    }

    /// Hands the command to the writer; the place is kept until the answer is there.
    async fn send(&self, command: Command) -> Result<SemaphorePermit<'_>, OutboxError> {
        let place = self.inner.places.acquire().await.map_err(|_| OutboxError::Gone)?;
        self.inner.queue.send(command).map_err(|_| OutboxError::Gone)?;
        Ok(place)
    }

    fn look<T>(&self, at: impl FnOnce(&View) -> T) -> T {
        at(&self.inner.view.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
