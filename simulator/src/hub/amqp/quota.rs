//! What a peer may have under way, as far as its frames show: the acceptor itself believes whatever it is told.
//!
//! It queues 65,535 frames for each session and each link, does not look whether a sender has credit, keeps what is said of
//! links that do not exist, and keeps what a session's window has no room for, all without end. A frame is up to 64 KiB,
//! and nobody has to show a token for most of it. So frames are counted here, on their way in and out:
//!
//! - deliveries of the peer: at most as many as it was given credit for, `CREDIT` at a time (Microsoft's Python SDK does
//!   not wait for the first);
//! - links: handles below the announced maximum, so many `attach`es before the first is answered, and few words about links
//!   that are not there: what a peer says of a link may cross with the link's end;
//! - deliveries to the peer ([`Ahead`]): the log is read only as fast as they leave.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::frame::{self, ATTACH, BEGIN, DETACH, END, FLOW, Performative, TRANSFER};

/// Deliveries a peer may send on one link before the hub has taken the first. Microsoft's SDKs wait for each answer.
pub(super) const CREDIT: u32 = 16;
/// Links of one session. Microsoft's Python SDK fails on a session without such a number.
pub(super) const HANDLE_MAX: u32 = 255;
/// `attach`es of one session that are not answered yet.
const UNANSWERED_MAX: usize = HANDLE_MAX as usize + 1;
/// What may be said of links in the meantime.
const EARLY_MAX: usize = 1024;
/// What may be said of links that are not there, in one session.
const STRAY_MAX: usize = 1024;
/// Frames that are neither links nor messages are no longer than this.
const SHORT_MAX: usize = 8 * 1024;
/// Deliveries of one session that were handed over and have not left.
const AHEAD_MAX: i64 = 4096;
/// And about so many bytes of them.
const AHEAD_BYTES_MAX: i64 = 8 * 1024 * 1024;

/// Why a peer is not listened to any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Exceeded {
    #[error("more deliveries than there was credit for")]
    Credit,
    #[error("too much about links that are not there, or one link too many")]
    Link,
    #[error("more of links than can be answered")]
    Unanswered,
    #[error("a frame far longer than what it says")]
    Length,
}

/// The sessions of one connection.
#[derive(Debug, Default)]
pub(super) struct Quota {
    /// By the channel the peer uses.
    sessions: HashMap<u16, Session>,
    /// From the channel the hub uses to the peer's.
    channels: HashMap<u16, u16>,
    shared: Sessions,
}

#[derive(Debug, Default)]
struct Session {
    /// By the peer's handle.
    links: HashMap<u32, Link>,
    /// From the hub's handle to the peer's, of links that the peer sends on.
    handles: HashMap<u32, u32>,
    /// Handles of the hub's that events leave on.
    events: HashSet<u32>,
    unanswered: usize,
    early: usize,
    stray: usize,
    ahead: Arc<Ahead>,
}

#[derive(Debug)]
struct Link {
    name: Vec<u8>,
    /// The peer is the sender.
    sends: bool,
    /// The delivery count the link began with, once the hub has given credit in so many words.
    began: Option<u32>,
    granted: u32,
    sent: u32,
    /// In the middle of a delivery.
    goes_on: bool,
}

/// The sessions of a connection, for those who send on them; clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Sessions {
    by_channel: Arc<Mutex<HashMap<u16, Arc<Ahead>>>>,
}

impl Sessions {
    /// The session that a peer began on a channel of its own.
    pub(super) fn of(&self, channel: u16) -> Arc<Ahead> {
        self.lock().get(&channel).cloned().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u16, Arc<Ahead>>> {
        self.by_channel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many deliveries of a session were handed over and have not left. Where the peer's window for the session is shut,
/// nothing leaves, however much credit its links have.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    handed: AtomicI64,
    left: AtomicI64,
    waited_for: AtomicBool,
    moved: Notify,
    /// Names of links whose deliveries count, until they are attached.
    names: Mutex<HashSet<Vec<u8>>>,
}

impl Ahead {
    /// Deliveries of the link with this name count; to be said before it is attached.
    pub(super) fn count(&self, link: &str) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(link.as_bytes().to_vec());
    }

    fn counts(&self, link: &[u8]) -> bool {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).remove(link)
    }

    /// Returns when there is room for a delivery of so many bytes. May be dropped.
    pub(super) async fn room(&self, bytes: usize) {
        loop {
            if self.has_room(bytes) {
                return;
            }
            let moved = self.moved.notified();
            self.waited_for.store(true, Ordering::SeqCst);
            if self.has_room(bytes) {
                return;
            }
            moved.await;
        }
    }

    /// Whether there is room for a delivery of so many bytes.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let ahead = self.handed.load(Ordering::SeqCst) - self.left.load(Ordering::SeqCst);
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        ahead <= 0 || (ahead < AHEAD_MAX && ahead.saturating_mul(bytes) < AHEAD_BYTES_MAX)
    }

    /// A delivery was handed over.
    pub(super) fn handed(&self) {
        self.handed.fetch_add(1, Ordering::SeqCst);
    }

    fn left(&self) {
        self.left.fetch_add(1, Ordering::SeqCst);
        if self.waited_for.swap(false, Ordering::SeqCst) {
            self.moved.notify_waiters();
        }
    }
}

impl Quota {
    /// What [`Quota::incoming`] knows of, for those who send.
    pub(super) fn sessions(&self) -> Sessions {
        self.shared.clone()
    }

    /// Looks at a frame of the peer's.
    pub(super) fn incoming(&mut self, frame: &[u8], performative: &Performative) -> Result<(), Exceeded> {
        let channel = performative.channel;
        if !matches!(performative.code, ATTACH | TRANSFER | frame::OPEN) && SHORT_MAX < frame.len() {
            return Err(Exceeded::Length);
        }
        match performative.code {
            BEGIN => {
                let session = Session::default();
                self.shared.lock().insert(channel, Arc::clone(&session.ahead));
                self.sessions.insert(channel, session);
            }
            END => {
                self.sessions.remove(&channel);
                self.shared.lock().remove(&channel);
            }
            ATTACH | FLOW | TRANSFER | DETACH => {
                // Without a session the acceptor closes the connection itself.
                let Some(session) = self.sessions.get_mut(&channel) else { return Ok(()) };
                session.incoming(frame, performative)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Looks at a frame of the hub's, and lowers the credit it gives.
    pub(super) fn outgoing(&mut self, frame: &mut [u8], performative: &Performative) {
        let channel = performative.channel;
        if performative.code == BEGIN {
            if let Some(Some(theirs)) = frame::uint(frame, performative, 0)
                && let Ok(theirs) = u16::try_from(theirs)
            {
                self.channels.insert(channel, theirs);
            }
            return;
        }
        let Some(session) = self.channels.get(&channel).and_then(|theirs| self.sessions.get_mut(theirs)) else {
            return;
        };
        session.outgoing(frame, performative);
        if performative.code == END {
            self.channels.remove(&channel);
        }
    }
}

impl Session {
    fn incoming(&mut self, frame: &[u8], performative: &Performative) -> Result<(), Exceeded> {
        let at = if performative.code == ATTACH { 1 } else { handle_of(performative.code) };
        let handle = match frame::uint(frame, performative, at) {
            Some(Some(handle)) => handle,
            // A flow may be about the session alone.
            Some(None) if performative.code == FLOW => return Ok(()),
            _ => return Err(Exceeded::Link),
        };
        if performative.code == ATTACH {
            let sends = frame::truth(frame, performative, 2) == Some(false);
            let name = frame::text(frame, performative, 0).ok_or(Exceeded::Link)?.to_vec();
            let link = Link { name, sends, began: None, granted: CREDIT, sent: 0, goes_on: false };
            if HANDLE_MAX < handle {
                return Err(Exceeded::Link);
            }
            self.links.insert(handle, link);
            self.unanswered += 1;
            return if UNANSWERED_MAX < self.unanswered { Err(Exceeded::Unanswered) } else { Ok(()) };
        }
        let Some(link) = self.links.get_mut(&handle) else {
            self.stray += 1;
            return if STRAY_MAX < self.stray { Err(Exceeded::Link) } else { Ok(()) };
        };
        match performative.code {
            FLOW if 0 < self.unanswered => {
                self.early += 1;
                if EARLY_MAX < self.early {
                    return Err(Exceeded::Unanswered);
                }
            }
            TRANSFER => {
                if !link.goes_on {
                    if link.granted <= link.sent {
                        return Err(Exceeded::Credit);
                    }
                    link.sent += 1;
                }
                link.goes_on = frame::goes_on(frame, performative);
            }
            DETACH => drop(self.links.remove(&handle)),
            _ => {}
        }
        Ok(())
    }

    fn outgoing(&mut self, frame: &mut [u8], performative: &Performative) {
        let uint = |frame: &[u8], number| frame::uint(frame, performative, number).flatten();
        match performative.code {
            ATTACH => {
                let (Some(handle), Some(name)) = (uint(frame, 1), frame::text(frame, performative, 0)) else { return };
                let hub_sends = frame::truth(frame, performative, 2) == Some(false);
                let theirs = self.links.iter().find(|(_, link)| link.sends != hub_sends && link.name == name);
                match theirs {
                    Some((theirs, _)) if !hub_sends => drop(self.handles.insert(handle, *theirs)),
                    _ => drop(self.handles.remove(&handle)),
                }
                if hub_sends && self.ahead.counts(name) {
                    self.events.insert(handle);
                } else {
                    self.events.remove(&handle);
                }
                self.unanswered = self.unanswered.saturating_sub(1);
                if self.unanswered == 0 {
                    self.early = 0;
                }
            }
            FLOW => {
                let Some(theirs) = uint(frame, handle_of(FLOW)).and_then(|ours| self.handles.get(&ours)) else {
                    return;
                };
                let Some(link) = self.links.get_mut(theirs) else { return };
                frame::lower(frame, performative, 6, CREDIT);
                let (Some(count), Some(credit)) = (uint(frame, 5), uint(frame, 6)) else { return };
                let began = *link.began.get_or_insert(count);
                link.granted = link.granted.max(count.wrapping_sub(began).saturating_add(credit));
            }
            TRANSFER => {
                let handle = uint(frame, handle_of(TRANSFER)).filter(|_| !frame::goes_on(frame, performative));
                if handle.is_some_and(|handle| self.events.contains(&handle)) {
                    self.ahead.left();
                }
            }
            _ => {}
        }
    }
}

/// Which field the handle is.
const fn handle_of(code: u8) -> usize {
    if code == FLOW { 4 } else { 0 }
}

#[cfg(test)]
mod tests;
