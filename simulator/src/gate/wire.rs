//! One socket and its [`Session`]: packets come out of it one at a time, what is to be said goes in.
//!
//! A packet that does not end, silence, and a device that does not take what it is sent end it.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::end::End;
use super::session::{Act, Hello, Publish, Session};
use super::{Fault, Qos};

/// A device that does not take our few bytes for this long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// The service hangs up after this much silence, whatever the device asked for: 29.45 minutes, the idle timeout of its
/// load balancer. Source: Azure IoT Hub, "Communicate with an IoT hub using the MQTT protocol".
const QUIET_MAX: Duration = Duration::from_secs(1767);
/// What a connection with little to say reads into; thousands of them wait.
const READ_BYTES_MIN: usize = 512;
/// What a busy one reads into.
const READ_BYTES_MAX: usize = 16 * 1024;

/// See the module.
pub(crate) struct Wire<S> {
    session: Session,
    stream: S,
    inbox: BytesMut,
    read_bytes: usize,
    outgoing: Vec<u8>,
    quiet_max: Duration,
    quiet: Duration,
    quiet_at: Instant,
    packet_timeout: Duration,
    partial_since: Option<Instant>,
}

/// What came out of a round of acts.
#[derive(Debug)]
pub(crate) enum Came {
    /// Nothing that anybody has to do something about.
    Nothing,
    Hello(Box<Hello>),
    Publish(Publish),
    /// To be answered with [`Session::subscribed`].
    Subscribe(u16, Vec<(String, Qos)>),
    /// To be answered with [`Session::unsubscribed`].
    Unsubscribe(u16, Vec<String>),
    /// The device has what was said under this id.
    Heard(u16),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Takes packets of at most `packet_bytes_max` bytes, each within `packet_timeout` of its first byte.
    pub(crate) fn new(stream: S, packet_bytes_max: u32, packet_timeout: Duration) -> Self {
        Self {
            session: Session::new(packet_bytes_max),
            stream,
            inbox: BytesMut::new(),
            read_bytes: READ_BYTES_MIN,
            outgoing: vec![],
            quiet_max: QUIET_MAX,
            quiet: QUIET_MAX,
            quiet_at: Instant::now() + QUIET_MAX,
            packet_timeout,
            partial_since: None,
        }
    }

    /// Hangs up after less silence than the service.
    #[cfg(test)]
    pub(crate) fn quiet_after(&mut self, quiet: Duration) {
        (self.quiet_max, self.quiet) = (quiet, quiet);
        self.quiet_at = Instant::now() + quiet;
    }

    /// Waits until the device has introduced itself, which it has to by `patience`. To be answered with
    /// [`Session::accept`] or [`Wire::refuse`].
    pub(crate) async fn greet(&mut self, patience: Instant, stop: &CancellationToken) -> Result<Box<Hello>, End> {
        let hello = async {
            loop {
                while !self.inbox.is_empty() {
                    if let Came::Hello(hello) = self.feed().await? {
                        return Ok(hello);
                    }
                }
                self.read().await?;
            }
        };
        tokio::select! {
            () = stop.cancelled() => Err(End::Stopping),
            greeted = timeout_at(patience, hello) => greeted.map_err(|_| End::ConnectTimeout)?,
        }
    }

    /// The next packet of what has been read; `None` once all is taken.
    pub(crate) async fn next(&mut self) -> Result<Option<Came>, End> {
        if self.inbox.is_empty() {
            return Ok(None);
        }
        let came = self.feed().await?;
        self.partial_since = match (self.session.mid_packet(), self.partial_since) {
            (false, _) => {
                // The protocol's own timer stands still where a device asked for no keep-alive.
                self.quiet_at = Instant::now() + self.quiet;
                None
            }
            (true, since) => since.or_else(|| Some(Instant::now())),
        };
        match came {
            Came::Hello(_) => Err(Fault::Protocol.into()),
            came => Ok(Some(came)),
        }
    }

    /// Reads what has come, into as much room as was needed lately; or ends the connection, once a packet or the device
    /// took too long. May be dropped and called again.
    pub(crate) async fn read(&mut self) -> Result<(), End> {
        if self.inbox.is_empty() {
            if self.read_bytes < self.inbox.capacity() {
                self.inbox = BytesMut::new();
            }
            if READ_BYTES_MAX < self.outgoing.capacity() {
                // Much was said once; its memory need not stay.
                self.outgoing = vec![];
            }
        }
        self.inbox.reserve(self.read_bytes);
        let (at, late) = match self.partial_since.map(|since| since + self.packet_timeout) {
            Some(at) if at < self.quiet_at => (at, End::Slow),
            _ => (self.quiet_at, End::Quiet),
        };
        let read = tokio::select! {
            read = self.stream.read_buf(&mut self.inbox) => read?,
            () = sleep_until(at) => return Err(late),
        };
        self.read_bytes = match read {
            0 => return Err(End::Vanished),
            read if read < READ_BYTES_MIN => READ_BYTES_MIN,
            read => (2 * read).clamp(self.read_bytes, READ_BYTES_MAX),
        };
        Ok(())
    }

    /// While nobody read, the device could not be heard: its silence was ours.
    pub(crate) fn excuse(&mut self) {
        self.quiet_at = Instant::now() + self.quiet;
        self.partial_since = self.partial_since.map(|_| Instant::now());
    }

    /// Writes what `what` says, in one piece.
    pub(crate) async fn say<T>(&mut self, what: impl FnOnce(&mut Session, &mut Vec<Act>) -> T) -> Result<T, End> {
        let mut acts = vec![];
        let said = what(&mut self.session, &mut acts);
        if !acts.is_empty() {
            self.perform(acts).await?;
        }
        Ok(said)
    }

    /// Ends with a goodbye, as far as the device takes one.
    pub(crate) async fn close(&mut self) {
        // It is over either way: a device that is gone needs no goodbye.
        let _ = timeout(WRITE_TIMEOUT, self.stream.shutdown()).await;
    }

    pub(crate) fn into_stream(self) -> S {
        self.stream
    }

    async fn feed(&mut self) -> Result<Came, End> {
        let mut acts = vec![];
        let taken = self.session.feed(&self.inbox, &mut acts);
        self.inbox.advance(taken);
        self.perform(acts).await
    }

    /// Does what the session asks; at most one packet came.
    async fn perform(&mut self, acts: Vec<Act>) -> Result<Came, End> {
        let mut came = Came::Nothing;
        let mut end = None;
        for act in acts {
            match act {
                Act::Connect(hello) => came = Came::Hello(Box::new(hello)),
                Act::Send(bytes) => self.outgoing.extend_from_slice(&bytes),
                Act::Heard(packet_id) => came = Came::Heard(packet_id),
                Act::Publish(publish) => came = Came::Publish(publish),
                Act::Subscribe { packet_id, filters } => came = Came::Subscribe(packet_id, filters),
                Act::Unsubscribe { packet_id, filters } => came = Came::Unsubscribe(packet_id, filters),
                Act::Quiet(length) => {
                    self.quiet = length.map_or(self.quiet_max, |length| length.min(self.quiet_max));
                    self.quiet_at = Instant::now() + self.quiet;
                }
                Act::Goodbye => end = Some(End::Left),
                Act::Close(fault) => end = Some(fault.into()),
            }
        }
        if !self.outgoing.is_empty() {
            let write = async {
                self.stream.write_all(&self.outgoing).await?;
                self.stream.flush().await
            };
            timeout(WRITE_TIMEOUT, write).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            self.outgoing.clear();
        }
        match end {
            Some(end) => Err(end),
            None => Ok(came),
        }
    }
}
