//! The link to the hub: what to do next, given what happened. No socket, no clock.
//!
//! ```text
//!            retry due                connected             caught up
//!  Offline ------------> Dialing --------------> CatchingUp <-------> Live
//!     ^                     |                        |       behind     |
//!     +------- lost --------+---------- lost --------+------- lost -----+
//!                           ^                        | token ends soon  |
//!                           +------ Renewing <-------+------------------+
//!                             window empty, or lost
//! ```
//!
//! Whatever the state, the window keeps what is in flight: rows are never read back from the outbox within one run, so
//! what goes again is byte-identical.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::backoff::Backoff;

use super::batch::Cut;
use super::window::Window;

/// The limits the link keeps.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A PUBACK that takes longer than this means that the connection is dead, however alive it looks.
    pub puback_timeout: Duration,
    /// A connection that lasted this long makes the next wait a short one again.
    pub stable: Duration,
    /// Before a token ends, this long is waited for the window to drain.
    pub renew_patience: Duration,
}

/// What a connection knows about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Up {
    /// Since when.
    pub since: Instant,
    /// When to make a new one with a new token.
    pub renew_at: Instant,
}

/// Where the link stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No connection; the next attempt has its time.
    Offline {
        /// That time.
        retry_at: Instant,
    },
    /// An attempt is under way.
    Dialing,
    /// Connected, with a backlog: no lingering, large Envelopes.
    CatchingUp(Up),
    /// Connected, everything held is in flight or lingers for company.
    Live(Up),
    /// Connected, but the token ends soon: nothing new is sent.
    Renewing(Up),
}

impl State {
    /// As it stands in the status.
    pub const fn as_str(&self) -> &'static str {
        match self {
            State::Offline { .. } => "offline",
            State::Dialing => "dialing",
            State::CatchingUp(_) => "catching-up",
            State::Live(_) => "live",
            State::Renewing(_) => "renewing",
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum Notice {
    /// Time went by.
    Tick,
    /// CONNACK.
    Connected {
        /// When to make a new connection with a new token.
        renew_at: Instant,
    },
    /// No connection came about, or it broke.
    Lost,
    /// The hub refused our key: trying again soon is pointless.
    Denied,
    /// An Envelope was cut.
    Cut(Arc<Cut>),
    /// The client wrote the next publish under this packet id.
    Published(u16),
    /// PUBACK.
    Acked(u16),
    /// The outbox holds more than lingers.
    Behind,
    /// The outbox holds no more.
    CaughtUp,
}

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Do {
    /// Make a new client and connect.
    Dial,
    /// Drop the client at once; the reason is for people.
    HangUp(&'static str),
    /// Say DISCONNECT, then drop the client.
    SayGoodbye,
    /// Hand this to the client.
    Publish(Arc<Cut>),
    /// The hub has it: mark its rows.
    Done(Arc<Cut>),
}

/// The link.
#[derive(Debug)]
pub struct Link {
    state: State,
    window: Window,
    backoff: Backoff,
    limits: Limits,
}

impl Link {
    /// A link that dials on the first [`Notice::Tick`].
    pub fn new(limits: Limits, window: Window, backoff: Backoff, now: Instant) -> Self {
        Self { state: State::Offline { retry_at: now }, window, backoff, limits }
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// What is in flight.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// Since when it is connected.
    pub fn up_since(&self) -> Option<Instant> {
        match self.state {
            State::CatchingUp(up) | State::Live(up) | State::Renewing(up) => Some(up.since),
            State::Offline { .. } | State::Dialing => None,
        }
    }

    /// True if an Envelope would be sent at once.
    pub fn takes_more(&self) -> bool {
        matches!(self.state, State::CatchingUp(_) | State::Live(_)) && self.window.has_room()
    }

    /// When [`Notice::Tick`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Offline { retry_at } => Some(retry_at),
            State::Dialing => None,
            State::CatchingUp(up) | State::Live(up) => {
                Some(self.overdue_at().map_or(up.renew_at, |at| at.min(up.renew_at)))
            }
            State::Renewing(up) => {
                let patience = up.renew_at + self.limits.renew_patience;
                Some(self.overdue_at().map_or(patience, |at| at.min(patience)))
            }
        }
    }

    /// One edge.
    pub fn step(&mut self, notice: Notice, now: Instant) -> Vec<Do> {
        match (self.state, notice) {
            (State::Offline { retry_at }, Notice::Tick) if retry_at <= now => self.dial(),
            (State::Offline { .. }, Notice::Tick) => vec![],
            (State::Dialing, Notice::Tick) => vec![],
            (State::CatchingUp(up) | State::Live(up), Notice::Tick) => {
                if self.overdue_at().is_some_and(|at| at <= now) {
                    self.lose(now, "no PUBACK in time")
                } else if up.renew_at <= now {
                    self.state = State::Renewing(up);
                    self.renew_if_drained()
                } else {
                    vec![]
                }
            }
            (State::Renewing(up), Notice::Tick) => {
                if self.overdue_at().is_some_and(|at| at <= now) {
                    self.lose(now, "no PUBACK in time")
                } else if up.renew_at + self.limits.renew_patience <= now {
                    let mut todo = vec![Do::HangUp("the token ends and the window did not drain")];
                    todo.extend(self.dial());
                    todo
                } else {
                    vec![]
                }
            }

            (State::Dialing, Notice::Connected { renew_at }) => {
                self.state = State::CatchingUp(Up { since: now, renew_at });
                self.window.again(now).into_iter().map(Do::Publish).collect()
            }
            // A client connects once and is then dropped, so this is nobody we know.
            (
                State::Offline { .. } | State::CatchingUp(_) | State::Live(_) | State::Renewing(_),
                Notice::Connected { .. },
            ) => self.lose(now, "connected twice"),

            (State::Offline { .. }, Notice::Lost | Notice::Denied) => vec![],
            (State::Dialing | State::CatchingUp(_) | State::Live(_), Notice::Lost) => self.lose(now, "lost"),
            (State::Renewing(_), Notice::Lost) => {
                let mut todo = vec![Do::HangUp("lost while the token was renewed")];
                todo.extend(self.dial());
                todo
            }
            (State::Dialing | State::CatchingUp(_) | State::Live(_) | State::Renewing(_), Notice::Denied) => {
                self.backoff.escalate();
                self.lose(now, "denied")
            }

            (State::CatchingUp(_) | State::Live(_), Notice::Cut(cut)) => {
                self.window.push(cut.clone(), now);
                vec![Do::Publish(cut)]
            }
            // It flies with the next connection.
            (State::Offline { .. } | State::Dialing | State::Renewing(_), Notice::Cut(cut)) => {
                self.window.push(cut, now);
                vec![]
            }

            (State::CatchingUp(_) | State::Live(_) | State::Renewing(_), Notice::Published(packet_id)) => {
                if self.window.published(packet_id) { vec![] } else { self.lose(now, "packet ids disagree") }
            }
            (State::Offline { .. } | State::Dialing, Notice::Published(_) | Notice::Acked(_)) => vec![],

            (State::CatchingUp(_) | State::Live(_), Notice::Acked(packet_id)) => self.land(packet_id),
            (State::Renewing(_), Notice::Acked(packet_id)) => {
                let mut todo = self.land(packet_id);
                todo.extend(self.renew_if_drained());
                todo
            }

            (State::Live(up), Notice::Behind) => {
                self.state = State::CatchingUp(up);
                vec![]
            }
            (State::CatchingUp(up), Notice::CaughtUp) => {
                self.state = State::Live(up);
                vec![]
            }
            (State::Offline { .. } | State::Dialing | State::CatchingUp(_) | State::Renewing(_), Notice::Behind)
            | (State::Offline { .. } | State::Dialing | State::Live(_) | State::Renewing(_), Notice::CaughtUp) => {
                vec![]
            }
        }
    }

    fn land(&mut self, packet_id: u16) -> Vec<Do> {
        self.window.acked(packet_id).map(Do::Done).into_iter().collect()
    }

    fn dial(&mut self) -> Vec<Do> {
        self.state = State::Dialing;
        vec![Do::Dial]
    }

    fn renew_if_drained(&mut self) -> Vec<Do> {
        if !self.window.is_empty() {
            return vec![];
        }
        let mut todo = vec![Do::SayGoodbye];
        todo.extend(self.dial());
        todo
    }

    /// The wait grows until a connection has proved stable: one that is accepted and then kicked must not be tried
    /// again at once, or two agents with one identity would fight several times a second.
    fn lose(&mut self, now: Instant, why: &'static str) -> Vec<Do> {
        if self.up_since().is_some_and(|since| self.limits.stable <= now.saturating_duration_since(since)) {
            self.backoff.reset();
        }
        self.state = State::Offline { retry_at: now + self.backoff.next_wait() };
        vec![Do::HangUp(why)]
    }

    fn overdue_at(&self) -> Option<Instant> {
        self.window.oldest().map(|since| since + self.limits.puback_timeout)
    }
}

#[cfg(test)]
mod tests;
