//! When a connection is not read: its device, or all devices together, made us hold as much as we may. Silence is ours then,
//! and not the device's.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::super::door::{Door, LARGE_BYTES, places};
use super::super::end::End;
use super::super::session::head::packet_length;
use super::Connection;

/// Why a connection is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Halt {
    /// As many publishes as may be are unacknowledged.
    Unacked,
    /// It was too fast.
    Rate(Instant),
    /// All connections together hold as much as they may.
    Room,
    /// A large packet, of so many bytes, has no place yet.
    Large(usize),
}

impl Halt {
    /// As it stands in metrics.
    const fn as_str(self) -> &'static str {
        match self {
            Halt::Unacked => "unacked-max",
            Halt::Rate(_) => "rate",
            Halt::Room => "bytes-max",
            Halt::Large(_) => "large-packets",
        }
    }
}

impl<S> Connection<S> {
    /// Whether the next packet may not be taken yet.
    pub(super) fn must_wait(&self) -> Option<Halt> {
        if self.door.unacked_max <= self.acks.len() {
            return Some(Halt::Unacked);
        }
        if self.pace.is_limited()
            && let Some(until) = self.pace.rests_until(Instant::now().into_std())
        {
            return Some(Halt::Rate(until.into()));
        }
        if !self.door.room.is_free() {
            return Some(Halt::Room);
        }
        if self.session.mid_packet() || self.large.is_some() {
            return None;
        }
        let bytes = packet_length(&self.inbox).filter(|bytes| LARGE_BYTES < *bytes)?;
        // One that is too large is refused by whoever reads it.
        (bytes <= self.door.terms.packet_bytes_max as usize).then_some(Halt::Large(bytes))
    }

    /// Counts a halt when it begins. While we do not read, silence is ours and not the device's: its time begins anew
    /// when we read again.
    pub(super) fn note(&mut self, halt: Option<Halt>) {
        match (self.halted, halt) {
            (None, Some(halt)) => self.door.metrics.halt(halt.as_str()),
            (Some(_), None) => {
                let now = Instant::now();
                self.quiet_at = self.quiet.map(|length| now + length);
                self.partial_since = self.partial_since.map(|_| now);
            }
            _ => {}
        }
        self.halted = halt;
    }

    /// When it is over with the device's time, or with ours.
    pub(super) fn deadline(&self, halt: Option<Halt>) -> Option<Instant> {
        match halt {
            Some(Halt::Rate(until)) => Some(until),
            Some(_) => None,
            None => {
                let slow = self.partial_since.map(|since| since + self.door.packet_timeout);
                [self.quiet_at, slow].into_iter().flatten().min()
            }
        }
    }

    /// Why, once its deadline has passed.
    pub(super) fn overdue(&self) -> End {
        let slow = self.partial_since.map(|since| since + self.door.packet_timeout);
        match slow {
            Some(slow) if slow <= Instant::now() => End::Slow,
            _ => End::Quiet,
        }
    }
}

/// The place of a large packet.
pub(super) async fn place(door: &Door, halt: Option<Halt>) -> Option<OwnedSemaphorePermit> {
    let Some(Halt::Large(bytes)) = halt else { return std::future::pending().await };
    Arc::clone(&door.large).acquire_many_owned(places(bytes)).await.ok()
}
