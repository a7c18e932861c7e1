//! Drives the link: outbox -> iothub -> outbox.

mod leaving; // when it is over, and why

mod telling; // what is told: to the ear, the log, the books

use std::time::{Duration, Instant};

use shared::backoff::Backoff;
use shared::clock::Clock;
use shared::crash;
use shared::envelope::METERING_UNIT_BYTES;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;

pub use self::leaving::Ended;
use super::batch::{Cut, Cutter, Heading, Pace, Shape};
use super::iothub::{Client, Dialer, Happening, Lost};
use super::link::{Do, Limits, Link, Notice, State};
use super::taken::Taken;
use super::window::Window;
use super::{Config, HubTarget, Metrics, UplinkError};
use crate::identity::Identity;
use crate::line::Ways;
use crate::outbox::{Outbox, OutboxError, RowId};
use crate::remote::{Remote, ear};
use crate::trust;

/// Rows asked for at once: a few Envelopes.
const FETCH_ROWS: usize = 1_000;
const FETCH_BYTES: usize = 1024 * 1024;
/// While the link is live the outbox is asked at most this often, so that it can spend its time on commits.
const FETCH_PAUSE: Duration = Duration::from_millis(50);
/// Gaps and closings are rare; they are asked for this often at most.
const NOTES_PAUSE: Duration = Duration::from_secs(1);

/// Before the uplink is restarted, this long is waited for the window to drain.
const RESTART_PATIENCE: Duration = Duration::from_secs(20);
/// A certificate proves us for as long as the connection lasts.
const NO_RENEWAL: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Sends what the outbox holds until `stop`; then, while the link is up, what is left, for at most `drain`.
///
/// On `stop` the outbox is expected to be sealed already: only then the current epoch's closing can go too.
///
/// # Errors
/// No authority to trust, or the outbox is gone. A hub that cannot be reached is no error: it is tried for ever.
pub async fn run(
    config: Config,
    target: HubTarget,
    outbox: Outbox,
    clock: Clock,
    stop: CancellationToken,
    metrics: Metrics,
    remote: &mut Remote,
) -> Result<Ended, UplinkError> {
    let certificate = target.identity.certificate();
    let tls = target.tls.then(|| trust::client_as(target.ca_file.as_deref(), certificate)).transpose()?;
    let shape = Shape {
        gateway: target.gateway.clone(),
        compression: config.compression,
        linger: remote.linger().unwrap_or(config.linger.duration()),
        units: config.units,
        units_behind: config.units_behind,
    };
    let limits = Limits {
        puback_timeout: config.puback_timeout.duration(),
        stable: config.stable.duration(),
        renew_patience: config.token_margin.duration() / 2,
    };
    let seed = clock.now().micros().unsigned_abs() ^ u64::from(std::process::id());
    let backoff = Backoff::new(config.backoff_min.duration(), config.backoff_max.duration(), seed);
    let mut changed = outbox.changed();
    changed.mark_changed(); // what earlier runs left is news to us
    let now = Instant::now();
    let stage = Stage {
        dialer: Dialer {
            ways: Ways::new(target.network.choice),
            target,
            tls,
            keep_alive: config.keep_alive.duration(),
            connect_timeout: config.connect_timeout.duration(),
            token_life: config.token_life.duration(),
            envelopes_max: config.window,
        },
        link: Link::new(limits, Window::new(config.window), backoff, now),
        cutter: Cutter::new(shape),
        client: None,
        fetched_upto: RowId::default(),
        more: More::Maybe,
        fetch_at: now,
        notes_at: now,
        notes_stale: true,
        taken: Taken::default(),
        stopping: None,
        restarting: None,
        flushes: vec![],
        failures: 0,
        refused: false,
        was_up: false,
        told: vec![],
        config,
        outbox,
        changed,
        clock,
        metrics,
        remote,
    };
    stage.run(stop).await
}

/// Whether the outbox may hold rows beyond those fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    /// The last answer was as large as asked for.
    Surely,
    /// Something changed since the last answer.
    Maybe,
    /// Not until something changes.
    No,
}

/// A call that asked for all that was held to leave.
struct Flush {
    rid: String,
    until: Instant,
    /// Rows stored by then: so many have left once it is done …
    goal: u64,
    /// … and so many had.
    gone: u64,
}

struct Stage<'r> {
    config: Config,
    dialer: Dialer,
    link: Link,
    cutter: Cutter,
    client: Option<Client>,
    outbox: Outbox,
    changed: watch::Receiver<u64>,
    /// The last row taken from the outbox; later ones are not known here yet.
    fetched_upto: RowId,
    more: More,
    fetch_at: Instant,
    notes_at: Instant,
    notes_stale: bool,
    taken: Taken,
    /// Since the stop: when patience ends.
    stopping: Option<Instant>,
    /// Since a call for a restart: when patience ends.
    restarting: Option<Instant>,
    /// Calls that wait for what was held when they came.
    flushes: Vec<Flush>,
    /// Attempts that came to nothing since the last connection.
    failures: u32,
    /// The last one because the hub refused us.
    refused: bool,
    was_up: bool,
    /// What was said of attempts since the last connection: by two ways there are two stories.
    told: Vec<String>,
    clock: Clock,
    metrics: Metrics,
    /// What the hub says beside PUBACKs is for it.
    remote: &'r mut Remote,
}

impl Stage<'_> {
    async fn run(mut self, stop: CancellationToken) -> Result<Ended, UplinkError> {
        self.tell(Notice::Tick).await;
        let ended = loop {
            self.fetch().await?;
            self.send_what_is_due().await;
            self.taken.mark(&self.outbox);
            self.answer_flushes();
            self.show();
            if let Some(ended) = self.may_leave().await? {
                break ended;
            }
            let wake = self.wake_at();
            tokio::select! {
                () = stop.cancelled(), if self.stopping.is_none() => {
                    let now = Instant::now();
                    self.stopping = Some(now + self.config.drain.duration());
                    self.restarting = None;
                    (self.fetch_at, self.notes_at, self.notes_stale) = (now, now, true);
                }
                happening = next(&mut self.client) => self.happened(happening).await,
                marked = self.taken.marked() => self.after_marking(marked)?,
                news = self.changed.changed(), if self.more == More::No || !self.notes_stale => {
                    if news.is_err() {
                        return Err(OutboxError::Gone.into());
                    }
                    self.notes_stale = true;
                    if self.more == More::No {
                        self.more = More::Maybe;
                    }
                }
                () = sleep_until(wake) => {
                    self.tell(Notice::Tick).await;
                    self.hear(ear::Notice::Tick);
                }
            }
        };
        self.hear(ear::Notice::Lost { closed: false });
        if let Some(client) = self.client.take() {
            client.say_goodbye().await;
        }
        Ok(ended)
    }

    fn pace(&self) -> Pace {
        match (self.stopping, self.link.state()) {
            (Some(_), _) => Pace::Flush,
            (None, State::CatchingUp(_) | State::Live(_)) if !self.flushes.is_empty() => Pace::Flush,
            (None, State::CatchingUp(_)) => Pace::Behind,
            (None, State::Live(_) | State::Offline { .. } | State::Dialing | State::Renewing(_)) => Pace::Live,
        }
    }

    /// Takes rows from the outbox, if some are wanted and some may be there.
    async fn fetch(&mut self) -> Result<(), UplinkError> {
        if !self.link.takes_more() || self.restarting.is_some() {
            return Ok(());
        }
        let now = Instant::now();
        if self.notes_stale && self.notes_at <= now {
            self.fetch_notes().await?;
            self.notes_at = now + NOTES_PAUSE;
        }
        let due = self.more == More::Surely || self.more == More::Maybe && self.fetch_at <= now;
        if !due || !self.cutter.wants_rows(self.pace()) {
            return Ok(());
        }
        // Read before the answer, so that what comes in between counts as news.
        self.changed.mark_unchanged();
        let rows = self.outbox.pending(self.fetched_upto, FETCH_ROWS, FETCH_BYTES).await?;
        let now = Instant::now();
        let full = FETCH_ROWS / 2 <= rows.len();
        self.more = match (full, rows.is_empty()) {
            (true, _) => More::Surely,
            (false, false) => More::Maybe, // a few large rows make an answer as long as many small ones
            (false, true) => More::No,
        };
        self.fetch_at = now + FETCH_PAUSE;
        self.taken.add_rows(rows.len());
        if let Some(last) = rows.last() {
            self.fetched_upto = last.id;
        } else {
            self.look_back();
        }
        for row in rows {
            self.cutter.push(row, now);
        }
        self.tell(if full { Notice::Behind } else { Notice::CaughtUp }).await;
        Ok(())
    }

    /// Rows that were marked to be sent again lie before what was fetched. Once nothing is under way, begin anew.
    fn look_back(&mut self) {
        if self.fetched_upto != RowId::default() && self.taken.rows() == 0 && 0 < self.outbox.view().books.held {
            debug!("rows before the last one sent are to go again");
            self.fetched_upto = RowId::default();
            self.more = More::Maybe;
        }
    }

    async fn fetch_notes(&mut self) -> Result<(), UplinkError> {
        self.notes_stale = false;
        for gap in self.outbox.gaps_pending().await? {
            if self.taken.add_gap(gap.id) {
                self.cutter.push_gap(gap);
            }
        }
        for closing in self.outbox.closings_pending().await? {
            if self.taken.add_closing(closing.epoch) {
                self.cutter.push_closing(closing);
            }
        }
        Ok(())
    }

    async fn send_what_is_due(&mut self) {
        while self.link.takes_more() && self.restarting.is_none() && self.cutter.is_due(self.pace(), Instant::now()) {
            let epoch = self.cutter.epoch().unwrap_or_else(|| self.outbox.epoch());
            let (rules, upto) = match self.cutter.seq() {
                Some(seq) => self.outbox.rules_at(epoch, seq),
                None => (self.outbox.rules(), None),
            };
            let heading = Heading { epoch, high: self.outbox.high(epoch), rules, upto };
            let cut = self.cutter.cut(heading, self.pace());
            let books = self.metrics.inner();
            books.sent.inc();
            books.rows_sent.inc_by(cut.rows.len() as u64);
            self.tell(Notice::Cut(cut.into())).await;
        }
    }

    /// One edge of the link, and everything it asks for.
    async fn tell(&mut self, notice: Notice) {
        let before = self.link.state();
        let again = matches!(notice, Notice::Connected { .. });
        for todo in self.link.step(notice, Instant::now()) {
            match todo {
                Do::Dial => self.client = Some(self.dialer.dial(self.clock.now())),
                Do::HangUp(why) => {
                    debug!(why, "hung up");
                    self.hung_up(why);
                }
                Do::SayGoodbye => {
                    self.hear(ear::Notice::Lost { closed: false });
                    self.flushes.clear();
                    if let Some(client) = self.client.take() {
                        client.say_goodbye().await;
                    }
                }
                Do::Publish(cut) => {
                    let books = self.metrics.inner();
                    books.bytes.inc_by(cut.hub_bytes as u64);
                    books.units.inc_by(cut.hub_bytes.div_ceil(METERING_UNIT_BYTES) as u64);
                    if again {
                        books.resent.inc();
                    }
                    if let Some(client) = &self.client {
                        client.publish(&cut).await;
                    }
                }
                Do::Done(cut) => self.done(&cut),
            }
        }
        self.report(before);
    }

    async fn happened(&mut self, happening: Option<Happening>) {
        let mut next = Some(happening.unwrap_or_else(|| {
            Happening::Lost(Lost { text: "the client ended".to_owned(), reason: "other", denied: false })
        }));
        // All that has happened by now, so that one mark on disk serves many PUBACKs.
        while let Some(happening) = next {
            let notice = match &happening {
                Happening::Connected => {
                    (self.failures, self.refused, self.was_up) = (0, false, true);
                    self.told.clear();
                    let (life, margin) = (self.config.token_life.duration(), self.config.token_margin.duration());
                    self.metrics.inner().connected.inc();
                    (self.more, self.notes_stale) = (More::Maybe, true);
                    let valid = match self.dialer.target.identity {
                        Identity::Key(_) => life.saturating_sub(margin),
                        Identity::Certificate(_) => NO_RENEWAL,
                    };
                    Some(Notice::Connected { renew_at: Instant::now() + valid })
                }
                Happening::Published(packet_id) => Some(Notice::Published(*packet_id)),
                Happening::Acked(packet_id) => {
                    if let Some(handed_at) = self.link.window().handed_at(*packet_id) {
                        self.metrics.inner().puback_seconds.observe(handed_at.elapsed().as_secs_f64());
                    }
                    Some(Notice::Acked(*packet_id))
                }
                Happening::Lost(lost) => Some(self.lost(lost)),
                Happening::Subscribed(_) | Happening::Heard(_) | Happening::Said => None,
            };
            if let Some(notice) = notice {
                self.tell(notice).await;
            }
            self.hear_of(&happening);
            next = self.client.as_mut().and_then(Client::try_next);
        }
    }

    fn done(&mut self, cut: &Cut) {
        crash::here("uplink-acked");
        let books = self.metrics.inner();
        books.acked.inc();
        books.rows_acked.inc_by(cut.rows.len() as u64);
        self.metrics.show(|status| status.envelopes_acked += 1);
        self.taken.landed(cut);
    }

    fn wake_at(&self) -> Option<Instant> {
        let link = self.link.deadline();
        let takes_more = self.link.takes_more();
        let linger = self.cutter.deadline().filter(|_| takes_more);
        let wants_rows = takes_more && self.cutter.wants_rows(self.pace());
        let fetch = match self.more {
            More::Surely => Some(Instant::now()),
            More::Maybe => Some(self.fetch_at),
            More::No => None,
        };
        let fetch = fetch.filter(|_| wants_rows);
        let notes = Some(self.notes_at).filter(|_| takes_more && self.notes_stale);
        let flush = self.flushes.iter().map(|flush| flush.until).min();
        [flush, link, linger, fetch, notes, self.stopping, self.restarting, self.remote.deadline()]
            .into_iter()
            .flatten()
            .min()
    }
}

async fn next(client: &mut Option<Client>) -> Option<Happening> {
    match client {
        Some(client) => client.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
