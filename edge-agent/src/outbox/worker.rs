//! The thread that owns the database. All appends and acknowledgements that wait go into one transaction, so the price
//! of an fsync is shared by whoever came while the last one ran.

mod ballast; // room for acknowledgements on a full disk

mod batch; // rows of several appends in one transaction

mod metrics;

mod room; // full, relieved, tidied

mod writing; // the group commit

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shared::clock::Clock;
use shared::reading::Epoch;
use tokio::sync::{oneshot, watch};

use ballast::Ballast;
use batch::Waiting;
pub use metrics::Metrics;

use super::handle::{OutboxError, View};
use super::lock::beside;
use super::side::Side;
use super::store::{Now, Opened, Prepared, Store, StoreError};
use super::{Acked, Appended, Config, NewRow};

/// How often a full or failing disk is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// How often a worker without work looks for rows to delete.
const IDLE: Duration = Duration::from_secs(1);

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
                let damaged = match changes {
                    true => self.in_ballast(|worker| question(&mut worker.store)),
                    false => question(&mut self.store),
                };
                if damaged {
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
                        let sealed = self.in_ballast(Self::seal);
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
