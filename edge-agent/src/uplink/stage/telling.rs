//! What the stage tells: to the ear what is not about Envelopes, to people and books what became of the link.

use std::time::Instant;

use tracing::{debug, error, info, warn};

use super::super::iothub::{Happening, Lost};
use super::super::link::{Notice, State};
use super::super::metrics::Why;
use super::Stage;
use crate::remote::ear;

impl Stage {
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
        let out = self.remote.step(notice, Instant::now());
        if let Some(client) = &self.client {
            out.into_iter().for_each(|out| client.say(out));
        }
    }

    pub(super) fn lost(&mut self, lost: &Lost) -> Notice {
        // A hub that closes with bytes of ours unread resets the connection.
        self.hear(ear::Notice::Lost { closed: matches!(lost.reason, "closed" | "broken") });
        let target = &self.dialer.target;
        let repeated = self.metrics.status().borrow().last_error.as_ref() == Some(&lost.text);
        let (host, port) = (&target.host, target.port);
        match (lost.denied, repeated) {
            (true, _) => error!(host, port, device = %target.gateway, "failed to connect to the hub: {}", lost.text),
            (false, false) => warn!(host, port, "no connection to the hub: {}", lost.text),
            (false, true) => debug!(host, port, "still no connection to the hub: {}", lost.text),
        }
        self.metrics.inner().lost.get_or_create(&Why { reason: lost.reason }).inc();
        self.metrics.show(|status| status.last_error = Some(lost.text.clone()));
        if lost.denied { Notice::Denied } else { Notice::Lost }
    }

    pub(super) fn hung_up(&mut self, why: &'static str) {
        self.hear(ear::Notice::Lost { closed: false });
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
                    host = target.host,
                    port = target.port,
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
            status.envelopes_in_flight = window.len();
            status.rows_in_flight = window.cuts().map(|cut| cut.rows.len()).sum();
        });
    }
}
