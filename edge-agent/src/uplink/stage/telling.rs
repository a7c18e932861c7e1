//! What the stage tells: to the ear what is not about Envelopes, to people and books what became of the link.

use std::time::Instant;

use serde_json::json;
use tracing::{debug, error, info, warn};

use super::super::iothub::{Happening, Lost};
use super::super::link::{Notice, State};
use super::super::metrics::Why;
use super::{Flush, RESTART_PATIENCE, Stage};
use crate::remote::{Out, ear};

/// Different losses without a connection in between that are remembered, so as to be told once.
const TOLD_MAX: usize = 8;

impl Stage<'_> {
    /// What of it is for the ear: after the link, so that Envelopes go first.
    pub(super) fn hear_of(&mut self, happening: &Happening) {
        match happening {
            Happening::Connected if self.link.up_since().is_some() => self.hear(ear::Notice::Connected),
            Happening::Subscribed(granted) => self.hear(ear::Notice::Subscribed { granted: *granted }),
            Happening::Heard(publish) => {
                self.hear(ear::Notice::Heard { topic: &publish.topic, payload: &publish.payload });
            }
            Happening::Said => self.hear(ear::Notice::Said),
            Happening::Connected | Happening::Published(_) | Happening::Acked(_) | Happening::Lost(_) => {}
        }
    }

    pub(super) fn hear(&mut self, notice: ear::Notice<'_>) {
        let now = Instant::now();
        for out in self.remote.step(notice, now) {
            match (out, &self.client) {
                (Out::Flush { rid, within }, Some(_)) => self.flushes.push(self.flush(rid, now + within)),
                (Out::Restart, Some(_)) => {
                    self.restarting.get_or_insert(now + RESTART_PATIENCE);
                }
                (out, Some(client)) => client.say(out),
                (_, None) => {}
            }
        }
        self.cutter.set_linger(self.remote.linger().unwrap_or(self.config.linger.duration()));
    }

    /// All that is held now is to leave.
    fn flush(&self, rid: String, until: Instant) -> Flush {
        let books = self.outbox.view().books;
        Flush { rid, until, goal: books.stored, gone: books.acked + books.given_up }
    }

    /// Answers calls for a flush whose rows have left, or whose time is over.
    pub(super) fn answer_flushes(&mut self) {
        if self.flushes.is_empty() {
            return;
        }
        let (now, books) = (Instant::now(), self.outbox.view().books);
        let gone = books.acked + books.given_up;
        let is_over = |flush: &mut Flush| flush.goal <= gone || flush.until <= now;
        let over: Vec<_> = self.flushes.extract_if(.., is_over).collect();
        for flush in over {
            let drained = flush.goal <= gone;
            let body = json!({ "drained": drained, "left": gone - flush.gone.min(gone), "held": books.held });
            let status = if drained { 200 } else { 504 };
            self.hear(ear::Notice::Flushed { rid: flush.rid, status, body });
        }
    }

    pub(super) fn lost(&mut self, lost: &Lost) -> Notice {
        // A hub that closes with bytes of ours unread resets the connection.
        self.hear(ear::Notice::Lost { closed: matches!(lost.reason, "closed" | "broken") });
        let line = self.dialer.line();
        let came_about = self.link.up_since().is_some();
        if !came_about {
            (self.failures, self.refused) = (self.failures + 1, lost.denied);
        }
        let repeated = self.told.contains(&lost.text);
        if !repeated && self.told.len() < TOLD_MAX {
            self.told.push(lost.text.clone());
        }
        let (target, place) = (&self.dialer.target, line.place());
        match (lost.denied, repeated) {
            (true, _) => error!(place, device = %target.gateway, "failed to connect to the hub: {}", lost.text),
            (false, false) => warn!(place, "no connection to the hub: {}", lost.text),
            (false, true) => debug!(place, "still no connection to the hub: {}", lost.text),
        }
        // Refused is refused on whichever way.
        if !came_about
            && !lost.denied
            && lost.reason != "refused"
            && let Some(way) = self.dialer.ways.failed()
        {
            debug!(way = way.as_str(), "the other way is tried next");
        }
        self.metrics.inner().lost.get_or_create(&Why { reason: lost.reason }).inc();
        self.metrics.show(|status| status.last_error = Some(lost.text.clone()));
        if lost.denied { Notice::Denied } else { Notice::Lost }
    }

    pub(super) fn hung_up(&mut self, why: &'static str) {
        self.hear(ear::Notice::Lost { closed: false });
        // Whoever called is gone.
        self.flushes.clear();
        // A client that was dropped by our own decision has not told why.
        if self.client.take().is_some() && !matches!(why, "lost" | "denied") {
            warn!("gave the connection to the hub up: {why}");
            self.metrics.inner().lost.get_or_create(&Why { reason: "given-up" }).inc();
            self.metrics.show(|status| status.last_error = Some(why.to_owned()));
        }
    }

    pub(super) fn report(&self, before: State) {
        let after = self.link.state();
        if before.as_str() == after.as_str() {
            return;
        }
        let target = &self.dialer.target;
        match (before, after) {
            (State::Dialing, State::CatchingUp(_)) => {
                info!(
                    place = self.dialer.line().place(),
                    way = self.dialer.ways.way().as_str(),
                    hub = target.hub,
                    in_flight = self.link.window().len(),
                    "connected to the hub"
                );
                self.metrics.show(|status| status.last_error = None);
            }
            (_, State::Renewing(_)) => info!("the token ends soon: making a new connection"),
            _ => debug!(from = before.as_str(), to = after.as_str(), "link"),
        }
    }

    pub(super) fn show(&self) {
        let window = self.link.window();
        let books = self.metrics.inner();
        books.in_flight.set(i64::try_from(window.len()).unwrap_or(i64::MAX));
        books.up.set(i64::from(self.link.up_since().is_some()));
        self.metrics.show(|status| {
            status.link = self.link.state().as_str();
            status.way = self.dialer.ways.way().as_str();
            status.envelopes_in_flight = window.len();
            status.rows_in_flight = window.cuts().map(|cut| cut.rows.len()).sum();
        });
    }
}
