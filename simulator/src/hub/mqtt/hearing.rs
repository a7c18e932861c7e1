//! What one device is told: commands, methods, wishes and answers, each at the quality of service it is subscribed
//! with; and what of it the device has not acknowledged yet.
//!
//! Invariant: a command is completed by the PUBACK of the device (at QoS 0: by being sent), and by nothing else.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::time::Instant;

use bytes::Bytes;

use super::filters;
use super::mailbox::Letter;
use super::seats::Seat;
use super::sessions::Filter;
use crate::gate::{Act, Qos, Session};
use crate::hub::commands::{Command, Lock};
use crate::hub::desk::Desk;

/// So much may be under way to a device without its PUBACK; what comes then waits.
const UNHEARD_MAX: usize = 1_024;
/// So many bytes are put together before they are written.
const ROUND_BYTES: usize = 64 * 1024;
/// Of answers about the twin that are owed; above, the hub stops reading.
pub(super) const OWED_MAX: usize = 64;

/// See the module.
#[derive(Default)]
pub(super) struct Hearing {
    filters: Vec<Filter>,
    /// By packet id; of commands, with their locks.
    unheard: HashMap<u16, Option<Lock>>,
    /// Commands may wait.
    due: bool,
    /// Answers about the twin that were not given yet.
    owed: usize,
    /// Commands that a fault delays.
    late: VecDeque<(Instant, Lock, Command)>,
    /// Commands that a fault lost.
    lost: Vec<Lock>,
}

impl Hearing {
    pub(super) fn filters(&self) -> &[Filter] {
        &self.filters
    }

    /// What the device is subscribed to from now on.
    pub(super) fn subscribe(&mut self, filters: Vec<Filter>, seat: &Seat) {
        self.filters = filters;
        // Whoever has just subscribed wants what waits.
        self.due = true;
        seat.listens(filters::hears(&self.filters));
    }

    /// An answer about the twin is owed.
    pub(super) fn owe(&mut self) {
        self.owed += 1;
    }

    pub(super) fn owed(&self) -> usize {
        self.owed
    }

    /// When [`Hearing::say`] has something to do though nobody wrote a letter.
    pub(super) fn wakes(&self) -> Option<tokio::time::Instant> {
        self.late.iter().map(|(at, ..)| tokio::time::Instant::from_std(*at)).min()
    }

    /// Says what there is to say, as far as the device keeps up, in `acts`; true if there may be more once they are
    /// done.
    ///
    /// # Errors
    /// If the disk says no.
    pub(super) fn say(
        &mut self,
        seat: &Seat,
        desk: &Desk,
        session: &mut Session,
        acts: &mut Vec<Act>,
    ) -> io::Result<bool> {
        let mut bytes = 0;
        while bytes < ROUND_BYTES && self.has_room() {
            let Some(letter) = seat.mailbox().take() else { break };
            bytes += self.letter(letter, desk, session, acts);
        }
        self.due |= seat.mailbox().take_knock();
        let now = Instant::now();
        while bytes < ROUND_BYTES
            && self.has_room()
            && let Some(ripe) = self.late.iter().position(|(at, ..)| *at <= now)
            && let Some((_, lock, command)) = self.late.remove(ripe)
        {
            bytes += self.command(lock, command, seat, desk, session, acts)?;
        }
        while bytes < ROUND_BYTES && self.has_room() && self.due {
            let who = seat.who();
            let hears = filters::hears(&self.filters) & super::Hears::Commands as u8 != 0;
            let next = if hears { desk.commands.next_for(who)? } else { None };
            let Some((lock, command)) = next else {
                self.due = false;
                break;
            };
            let luck = desk.faults.command(&who.device);
            if luck.lost {
                self.lost.push(lock);
            } else if luck.delay.is_zero() {
                bytes += self.command(lock, command, seat, desk, session, acts)?;
            } else {
                self.late.push_back((now + luck.delay, lock, command));
            }
        }
        Ok(ROUND_BYTES <= bytes)
    }

    /// The device has what was said under this id.
    ///
    /// # Errors
    /// If the disk says no.
    pub(super) fn heard(&mut self, packet_id: u16, seat: &Seat, desk: &Desk) -> io::Result<()> {
        if let Some(Some(lock)) = self.unheard.remove(&packet_id) {
            desk.commands.complete(seat.who(), lock)?;
            desk.metrics.command_completed();
        }
        if self.unheard.is_empty() && UNHEARD_MAX / 16 < self.unheard.capacity() {
            self.unheard = HashMap::new();
        }
        Ok(())
    }

    /// The connection ends: what the device did not complete waits for its next one, which may have begun already.
    pub(super) fn end(self, seat: &Seat, desk: &Desk) {
        let late = self.late.into_iter().map(|(_, lock, _)| lock);
        let locks: Vec<_> = self.unheard.into_values().flatten().chain(late).chain(self.lost).collect();
        if !locks.is_empty() {
            desk.commands.abandon(seat.who(), locks);
            desk.seats.knock(seat.who());
        }
    }

    fn has_room(&self) -> bool {
        self.unheard.len() < UNHEARD_MAX
    }

    /// Gives how many bytes it took.
    fn letter(&mut self, letter: Letter, desk: &Desk, session: &mut Session, acts: &mut Vec<Act>) -> usize {
        let (what, topic, body) = match letter {
            Letter::Desired { version, patch } => {
                ("desired", format!("$iothub/twin/PATCH/properties/desired/?$version={version}"), patch)
            }
            Letter::Method { until, .. } if until < Instant::now() => return 0,
            Letter::Method { request, name, payload, .. } => {
                ("method", format!("$iothub/methods/POST/{name}/?$rid={request:x}"), payload)
            }
            Letter::Twin { status, rid, version, body } => {
                self.owed = self.owed.saturating_sub(1);
                let version = version.map(|version| format!("&$version={version}")).unwrap_or_default();
                ("twin", format!("$iothub/twin/res/{status}/?$rid={rid}{version}"), body)
            }
        };
        // What it is not subscribed to (any more) it does not hear.
        let Some(qos) = filters::granted(&self.filters, &topic) else { return 0 };
        let bytes = topic.len() + body.len();
        desk.metrics.said(what);
        if let Some(packet_id) = session.say(topic, body, quality(qos), acts) {
            self.unheard.insert(packet_id, None);
        }
        bytes
    }

    fn command(
        &mut self,
        lock: Lock,
        command: Command,
        seat: &Seat,
        desk: &Desk,
        session: &mut Session,
        acts: &mut Vec<Act>,
    ) -> io::Result<usize> {
        let who = seat.who();
        let topic = command.topic(who);
        let Some(qos) = filters::granted(&self.filters, &topic) else {
            // A filter narrower than the documented one: not for this connection.
            self.lost.push(lock);
            return Ok(0);
        };
        let body: Bytes = command.body;
        let bytes = topic.len() + body.len();
        desk.metrics.said("command");
        match session.say(topic, body, quality(qos), acts) {
            Some(packet_id) => {
                self.unheard.insert(packet_id, Some(lock));
            }
            None => desk.commands.complete(who, lock)?,
        }
        Ok(bytes)
    }
}

fn quality(qos: u8) -> Qos {
    if qos == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce }
}
