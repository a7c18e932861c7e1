//! The thread that owns the database. All appends and acknowledgements that wait go into one transaction, so the price
//! of an fsync is shared by whoever came while the last one ran.

mod ballast; // room for acknowledgements on a full disk

mod batch; // rows of several appends in one transaction

mod metrics;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shared::clock::Clock;
use shared::reading::{Epoch, Seq};
use tokio::sync::{oneshot, watch};

use ballast::Ballast;
use batch::{Batch, Waiting};
pub use metrics::Metrics;

use super::handle::{OutboxError, View};
use super::lock::beside;
use super::side::Side;
use super::store::{Linger, Now, Opened, Prepared, Store, StoreError};
use super::{Acked, Appended, Config, NewRow};

/// How often a full or failing disk is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// How often a worker without work looks for rows to delete.
const IDLE: Duration = Duration::from_secs(1);
/// How often relief from a full disk is tried; each try writes some megabytes.
const RELIEVE: Duration = Duration::from_secs(5);
/// How long there must have been room before the log says so.
const ROOM_AGAIN: Duration = Duration::from_secs(5);
/// How often old payloads are deleted and free pages given back.
const TIDY: Duration = Duration::from_secs(60);

type Question = Box<dyn FnOnce(&mut Store) -> bool + Send>;

/// What the worker is asked.
pub(super) enum Command {
    Append {
        rows: Vec<NewRow>,
        reply: oneshot::Sender<Result<Appended, OutboxError>>,
    },
    Done {
        acked: Acked,
        reply: oneshot::Sender<Result<(), OutboxError>>,
    },
    /// Answers by itself; returns true if the database turned out to be damaged.
    Ask {
        question: Question,
        changes: bool,
    },
    Seal {
        reply: oneshot::Sender<Result<(), OutboxError>>,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// What a worker starts with.
pub(super) struct Start {
    pub(super) config: Config,
    pub(super) rules: Arc<str>,
    pub(super) commands: Receiver<Command>,
    pub(super) view: Arc<Mutex<View>>,
    pub(super) changed: watch::Sender<u64>,
    pub(super) ended: watch::Sender<Option<Arc<StoreError>>>,
    pub(super) metrics: Metrics,
}

/// Opens the database and starts the thread. Returns the epoch and what was found.
pub(super) fn start(start: Start) -> Result<(Epoch, Opened), StoreError> {
    let clock = Clock::Real;
    let began = Instant::now();
    let now = Now { wall: clock.now(), steady_ms: 0 };
    if let Some(parent) = start.config.path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| StoreError::Place {
            act: "make the outbox's directory",
            path: parent.to_owned(),
            detail: error.to_string(),
        })?;
    }
    let (mut side, found) = Side::open(&start.config.path, now.wall).map_err(|error| StoreError::Place {
        act: "read the side file",
        path: beside(&start.config.path, "epochs"),
        detail: error.to_string(),
    })?;
    let mut ballast = Ballast::new(&start.config);
    let (store, opened) = match Store::open(&start.config, &start.rules, &mut side, &found, now) {
        Err(StoreError::Disk { .. }) if ballast.lies() => {
            ballast.drop_it();
            Store::open(&start.config, &start.rules, &mut side, &found, now)
        }
        other => other,
    }?;
    ballast.lay();
    let epoch = store.epoch();
    let mut worker = Worker {
        store,
        side,
        ballast,
        waiting: VecDeque::new(),
        done: Vec::new(),
        sealed: false,
        full: None,
        told_full: None,
        closings: 0,
        tidied: began,
        relieved: None,
        began,
        clock,
        view: start.view,
        changed: start.changed,
        metrics: start.metrics,
        bytes_max: start.config.bytes_max.bytes(),
    };
    worker.refresh()?;
    let (commands, ended) = (start.commands, start.ended);
    std::thread::Builder::new()
        .name("outbox".into())
        .spawn(move || {
            if let Err(error) = worker.run(&commands) {
                tracing::error!(%error, "the outbox's writer has ended");
                ended.send_replace(Some(Arc::new(error)));
            }
        })
        .map_err(|error| StoreError::Place {
            act: "start the writer of",
            path: start.config.path,
            detail: error.to_string(),
        })?;
    Ok((epoch, opened))
}

struct Worker {
    store: Store,
    side: Side,
    ballast: Ballast,
    waiting: VecDeque<Waiting>,
    done: Vec<(Acked, oneshot::Sender<Result<(), OutboxError>>)>,
    sealed: bool,
    /// Why nothing can be stored now.
    full: Option<String>,
    /// The last time that was so; `None` once the log says that there is room again. At its limit an outbox is full
    /// and not full many times a second.
    told_full: Option<Instant>,
    /// Closings that may be sent, as last counted.
    closings: usize,
    tidied: Instant,
    /// When relief from a full disk was last tried.
    relieved: Option<Instant>,
    began: Instant,
    clock: Clock,
    view: Arc<Mutex<View>>,
    changed: watch::Sender<u64>,
    metrics: Metrics,
    bytes_max: u64,
}

impl Worker {
    fn run(mut self, commands: &Receiver<Command>) -> Result<(), StoreError> {
        let result = self.rounds(commands);
        match &result {
            Err(error) if error.is_fatal() => {
                // The next start checks the database whole. If even that cannot be written it will find out by itself.
                self.side.suspect().ok();
            }
            _ => {}
        }
        result
    }

    fn rounds(&mut self, commands: &Receiver<Command>) -> Result<(), StoreError> {
        loop {
            let patience = if self.waiting.is_empty() && self.done.is_empty() { IDLE } else { RETRY };
            let mut questions = Vec::new();
            let mut last = Vec::new();
            match commands.recv_timeout(patience) {
                Ok(command) => self.take(command, &mut questions, &mut last),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            while let Ok(command) = commands.try_recv() {
                self.take(command, &mut questions, &mut last);
            }
            self.store.tick(Now { wall: self.clock.now(), steady_ms: self.steady_ms() });
            self.write()?;
            for (question, changes) in questions {
                if question(&mut self.store) {
                    return Err(self.damaged());
                }
                let damaged = self.store.take_damaged();
                self.metrics.damaged(damaged);
                // What was given up on the way has become a gap, which somebody waits for.
                if changes || 0 < damaged {
                    self.refresh()?;
                    self.bump();
                }
            }
            self.upkeep()?;
            for command in last {
                match command {
                    Command::Seal { reply } => {
                        let sealed = self.seal();
                        reply.send(sealed).ok();
                    }
                    Command::Close { reply } => {
                        self.close();
                        reply.send(()).ok();
                        return Ok(());
                    }
                    _ => {}
                }
            }
        }
    }

    fn take(&mut self, command: Command, questions: &mut Vec<(Question, bool)>, last: &mut Vec<Command>) {
        match command {
            Command::Append { reply, .. } if self.sealed => {
                reply.send(Err(OutboxError::Sealed)).ok();
            }
            Command::Append { rows, reply } => {
                let rows = rows.into_iter().map(Prepared::new).collect();
                self.waiting.push_back(Waiting { rows, so_far: Appended::default(), reply });
            }
            Command::Done { acked, reply } => self.done.push((acked, reply)),
            Command::Ask { question, changes } => questions.push((question, changes)),
            Command::Seal { .. } | Command::Close { .. } => last.push(command),
        }
    }

    /// Writes what waits until nothing waits or there is no room.
    fn write(&mut self) -> Result<(), StoreError> {
        self.store.in_place()?;
        while !self.waiting.is_empty() || !self.done.is_empty() {
            match self.write_once() {
                Ok(()) => {}
                Err(error) if error.is_fatal() => return Err(error),
                Err(StoreError::Disk { .. }) if self.relieve()? => {}
                Err(error) => {
                    self.no_room(&error);
                    if !self.acknowledge_alone()? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// On a full disk: gives the ballast up, so that the log can be moved into the database, rows that have left be
    /// deleted, but for their keys, and free pages be given back. True if it is worth trying again now; not more often than `RELIEVE`.
    fn relieve(&mut self) -> Result<bool, StoreError> {
        if self.relieved.is_some_and(|at| at.elapsed() < RELIEVE) {
            return Ok(false);
        }
        self.relieved = Some(Instant::now());
        self.ballast.drop_it();
        let relieved = (|| {
            self.store.checkpoint()?;
            while 0 < self.store.prune(Linger::KeyAlone)? {}
            self.store.shrink()?;
            self.store.checkpoint()
        })();
        self.ballast.lay();
        match relieved {
            Err(error) if StoreError::is_fatal(&error) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "no relief");
                Ok(true)
            }
            Ok(()) => Ok(true),
        }
    }

    /// One transaction: as many rows as fit, and all acknowledgements.
    fn write_once(&mut self) -> Result<(), StoreError> {
        let began = Instant::now();
        let batch = Batch::of(&self.waiting, self.store.batch_bytes_max());
        let admitted = self.store.admit(&batch.rows(&self.waiting));
        let new: Vec<&Prepared> =
            batch.rows(&self.waiting).into_iter().zip(&admitted).filter_map(|(row, new)| new.then_some(row)).collect();
        let repeats = admitted.len() - new.len();

        if !new.is_empty() {
            // Rows are stored only while the ballast lies: what is free beyond it is for acknowledgements.
            if !self.ballast.lies() {
                let detail = "no room for the ballast".to_owned();
                return Err(StoreError::Disk { act: "store rows", path: self.ballast.path.clone(), detail });
            }
            let bytes = new.iter().map(|row| row.bytes()).sum();
            make_room(&mut self.store, bytes)?;
            let high = self.store.high().0 + i64::try_from(new.len()).unwrap_or(i64::MAX);
            let (epoch, stored, high) = (self.store.epoch(), self.store.high(), Seq(high));
            self.side.allow(epoch, stored, high, self.steady_ms()).map_err(|error| StoreError::Disk {
                act: "raise the mark",
                path: PathBuf::from("the side file"),
                detail: error.to_string(),
            })?;
        }
        let acked: Vec<&Acked> = self.done.iter().map(|(acked, _)| acked).collect();
        let mut closed = Vec::new();
        if !admitted.is_empty() || !acked.is_empty() {
            let committed = self.store.commit(&new, repeats, &acked)?;
            self.metrics.committed(new.len(), committed.acked, began.elapsed());
            closed = committed.closed;
        }
        shared::crash::here("outbox-stored");
        let stored = !new.is_empty();
        self.confirm();
        if !admitted.is_empty() && admitted.len() == self.waiting.iter().map(|append| append.rows.len()).sum::<usize>()
        {
            self.recovered();
        }
        self.metrics.duplicates(repeats);
        // Whoever is answered finds the books as they are after this commit.
        self.refresh()?;
        batch.settle(&mut self.waiting, &admitted);
        for (_, reply) in self.done.drain(..) {
            reply.send(Ok(())).ok();
        }
        if !closed.is_empty()
            && let Err(error) = self.side.closed(&closed)
        {
            tracing::warn!(%error, "cannot take closed epochs out of the side file; the next start does");
        }
        if stored {
            self.bump();
        }
        Ok(())
    }

    /// While rows find no room: acknowledgements need next to none, and are what makes room.
    fn acknowledge_alone(&mut self) -> Result<bool, StoreError> {
        if self.done.is_empty() {
            return Ok(false);
        }
        let waiting = std::mem::take(&mut self.waiting);
        let written = self.write_once();
        self.waiting = waiting;
        match written {
            Ok(()) => Ok(true),
            Err(error) if error.is_fatal() => Err(error),
            Err(_) => Ok(false),
        }
    }

    fn seal(&mut self) -> Result<(), OutboxError> {
        if self.sealed {
            return Ok(());
        }
        self.sealed = true;
        for waiting in self.waiting.drain(..) {
            waiting.reply.send(Err(OutboxError::Sealed)).ok();
        }
        let last = self.store.seal()?;
        if let Err(error) = self.side.end(self.store.epoch(), last) {
            tracing::warn!(%error, "cannot write the epoch's end into the side file");
        }
        self.refresh()?;
        self.bump();
        Ok(())
    }

    fn close(&mut self) {
        for (_, reply) in self.done.drain(..) {
            reply.send(Err(OutboxError::Gone)).ok();
        }
        if let Err(error) = self.store.checkpoint() {
            tracing::warn!(%error, "the write-ahead log stays beside the database; the next start takes it in");
        }
    }

    /// Milliseconds since the worker began.
    fn steady_ms(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// After a commit, and not part of it: what is stored is stored, whether the side file knows of it or not.
    fn confirm(&mut self) {
        if let Err(error) = self.side.confirm(self.store.epoch(), self.store.high(), self.steady_ms()) {
            tracing::debug!(%error, "the side file cannot follow what is stored");
        }
    }

    fn upkeep(&mut self) -> Result<(), StoreError> {
        self.confirm();
        if self.full.is_none() && self.told_full.is_some_and(|at| ROOM_AGAIN <= at.elapsed()) {
            self.told_full = None;
            tracing::info!("there is room again");
        }
        let tidy = TIDY <= self.tidied.elapsed();
        let idle = self.waiting.is_empty() && self.done.is_empty();
        if !tidy && !idle {
            return Ok(());
        }
        let kept = (|| {
            // Nobody waits, so no append will find out that there is room again.
            if idle && self.full.is_some() {
                if !self.ballast.lies() {
                    self.relieve()?;
                }
                let enough = self.store.batch_bytes_max();
                if self.ballast.lies() && make_room(&mut self.store, enough).is_ok() {
                    self.recovered();
                }
            }
            if self.store.has_prunable()? {
                self.store.prune(Linger::WhileRemembered)?;
            }
            if tidy {
                self.tidied = Instant::now();
                self.store.tidy()?;
                self.refresh()?;
            }
            Ok(())
        })();
        match kept {
            Err(error) if StoreError::is_fatal(&error) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "upkeep waits");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn no_room(&mut self, error: &StoreError) {
        let text = error.to_string();
        if self.told_full.is_none() {
            tracing::error!(error = text, "no room: devices are not acknowledged until there is");
        }
        self.told_full = Some(Instant::now());
        self.full = Some(text.clone());
        self.metrics.full(true);
        let bytes = self.store.bytes();
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.full = Some(text);
        view.bytes = bytes;
    }

    fn recovered(&mut self) {
        if self.full.take().is_some() {
            self.metrics.full(false);
            self.view.lock().unwrap_or_else(PoisonError::into_inner).full = None;
        }
    }

    /// Brings what others see up to date with what is stored.
    fn refresh(&mut self) -> Result<(), StoreError> {
        let (books, epochs) = (self.store.books()?, self.store.live_epochs()?);
        let bytes = self.store.bytes();
        self.metrics.books(&books, bytes, self.bytes_max);
        let keys = self.store.take_keys_dropped();
        if 0 < keys {
            tracing::warn!(
                keys,
                "no room for the keys of rows that have left: after a kill their repeats would count twice"
            );
            self.metrics.keys_dropped(keys);
        }
        let closings = if 0 < books.closings_held { self.store.closings_pending()?.len() } else { 0 };
        {
            let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
            (view.books, view.epochs, view.bytes) = (books, epochs, bytes);
        }
        if self.closings < closings {
            self.bump();
        }
        self.closings = closings;
        Ok(())
    }

    fn bump(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn damaged(&self) -> StoreError {
        StoreError::Damaged {
            act: "answer a question",
            path: self.ballast.path.clone(),
            detail: "see the answer to it".into(),
        }
    }
}

/// Deletes what has left but for its keys, then whole payloads, until `bytes` more fit.
fn make_room(store: &mut Store, bytes: u64) -> Result<(), StoreError> {
    loop {
        let Err(full) = store.room_for(bytes) else { return Ok(()) };
        if store.prune(Linger::KeyAlone)? == 0 && !store.drop_oldest_payload()? {
            return Err(full);
        }
    }
}
