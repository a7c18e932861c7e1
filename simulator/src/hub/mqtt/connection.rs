//! One connection: a socket, a [`Session`], the publishes that are under way, and what the device is told.
//!
//! Publishes are handed to the log in the order they came and acknowledged in that order, each after the fsync that
//! stored it; what the tier's limits and the script of faults say about each comes first.

use std::future::pending;
use std::io;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use mqtt_protocol_core::mqtt::packet::Qos;
use mqtt_protocol_core::mqtt::result_code::{ConnectReturnCode, SubackReturnCode};
use shared::crash;
use shared::sas::Refusal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Door;
use super::auth::{self, Denied, Guest, Rules};
use super::certificates::Chain;
use super::end::End;
use super::ended::Mark;
use super::hearing::{self, Hearing};
use super::requests::Request;
use super::seats::Seat;
use super::session::{Act, Fault, Hello, Publish, Session};
use super::sessions::Filter;
use super::telemetry::{self, Said};
use super::twin::{self, Begun, TwinAnswer};
use super::underway::{Luck, Puback, Taken, Underway};
use crate::hub::changes::{Happened, Source};
use crate::hub::faults::Action;
use crate::hub::limits::Verdict;
use crate::hub::log::NewEvent;

/// A device that does not take our few bytes for this long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// At a stop, this long is waited for what was already taken.
const DRAIN: Duration = Duration::from_secs(5);
/// The service hangs up after this much silence, whatever the device asked for: 29.45 minutes, the idle timeout of its
/// load balancer. Source: Azure IoT Hub, "Communicate with an IoT hub using the MQTT protocol".
const QUIET_MAX: Duration = Duration::from_secs(1767);
/// A connection whose publishes on their way to disk are together so large is not read from: their number alone would let
/// it take 64 MB.
const UNACKNOWLEDGED_BYTES_MAX: usize = 2 * 1024 * 1024;
/// What a connection with little to say reads into; thousands of them wait.
const READ_BYTES_MIN: usize = 512;
/// What a busy one reads into.
const READ_BYTES_MAX: usize = 16 * 1024;

/// A device that was let in.
struct Admitted {
    guest: Guest,
    seat: Seat,
    will: Option<Will>,
    /// Of those who have one.
    token: Option<Mark>,
}

struct Will {
    event: Box<NewEvent>,
    /// As it is metered.
    bytes: usize,
}

pub(super) struct Connection<S> {
    session: Session,
    stream: S,
    inbox: BytesMut,
    read_bytes: usize,
    outgoing: Vec<u8>,
    underway: Underway,
    /// Once a limit is exceeded: when the connection ends, and why. Until then publishes are not heard.
    doom: Option<(Instant, &'static str)>,
    hearing: Hearing,
    quiet_max: Duration,
    quiet: Duration,
    quiet_at: Instant,
    partial_since: Option<Instant>,
    door: Arc<Door>,
}

/// What came out of a round of acts.
enum Came {
    Nothing,
    Hello(Box<Hello>),
    Publish(Publish),
    Subscribe(u16, Vec<(String, Qos)>),
    Unsubscribe(u16, Vec<String>),
    Heard(u16),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(stream: S, door: Arc<Door>) -> Self {
        let underway = Underway::new(door.log.clone(), Arc::clone(&door.metrics));
        Self {
            session: Session::new(telemetry::PACKET_BYTES_MAX),
            stream,
            inbox: BytesMut::new(),
            read_bytes: READ_BYTES_MIN,
            outgoing: vec![],
            underway,
            doom: None,
            hearing: Hearing::default(),
            quiet_max: QUIET_MAX,
            quiet: QUIET_MAX,
            quiet_at: Instant::now() + QUIET_MAX,
            partial_since: None,
            door,
        }
    }

    /// Hangs up after less silence than the service.
    #[cfg(test)]
    pub(super) fn quiet_after(mut self, quiet: Duration) -> Self {
        (self.quiet_max, self.quiet) = (quiet, quiet);
        self.quiet_at = Instant::now() + quiet;
        self
    }

    /// Serves the connection of whoever showed `chain` to its end; CONNECT must have come by `patience`. Gives the
    /// stream back, after a goodbye unless it has fallen into a black hole.
    pub(super) async fn serve(mut self, chain: Chain, patience: Instant) -> (End, S) {
        let end = self.serve_until(chain, patience).await;
        if !matches!(end, End::BlackHole(_)) {
            let _ = timeout(WRITE_TIMEOUT, self.stream.shutdown()).await;
        }
        (end, self.stream)
    }

    async fn serve_until(&mut self, chain: Chain, patience: Instant) -> End {
        let stop = self.door.stop.clone();
        let hello = tokio::select! {
            () = stop.cancelled() => return End::Stopping,
            greeted = tokio::time::timeout_at(patience, self.greet()) => match greeted {
                Ok(Ok(hello)) => hello,
                Ok(Err(end)) => return end,
                Err(_) => return End::ConnectTimeout,
            },
        };
        let admitted = tokio::select! {
            () = stop.cancelled() => return End::Stopping,
            admitted = self.welcome(&hello, &chain) => match admitted {
                Ok(admitted) => admitted,
                Err(end) => return end,
            },
        };
        drop((hello, chain));
        let (desk, who) = (self.door.desk.clone(), admitted.guest.who());
        let tells = desk.changes.tells(Source::ConnectionState);
        if tells {
            Box::pin(desk.changes.connection(&who, Happened::Connected)).await;
        }
        let end = self.run(&admitted).await.unwrap_or_else(|end| end);
        mem::take(&mut self.hearing).end(&admitted.seat, &desk);
        if tells && !matches!(end, End::TakenOver) {
            Box::pin(desk.changes.connection(&who, Happened::Disconnected)).await;
        }
        match &end {
            End::Left => {
                // The device waits for nothing more: what the throttle holds is stored now, or else counted as dropped.
                let _ = timeout(DRAIN, self.underway.submit_all()).await;
            }
            End::Stopping => {
                // A failure here leaves publishes unacknowledged: their devices send them again.
                let _ = timeout(DRAIN, self.drain()).await;
            }
            End::BlackHole(length) => {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = sleep(*length) => {}
                }
            }
            _ => {}
        }
        if let Some(will) = admitted.will.filter(|_| !matches!(end, End::Left | End::Stopping)) {
            self.publish_will(will).await;
        }
        end
    }

    /// The device is gone; nobody is left to be told of a failure, so it is counted. A will that a throttle would queue
    /// is stored at once.
    async fn publish_will(&self, will: Will) {
        let Door { log, metrics, .. } = &*self.door;
        let body_bytes = will.event.body.len() as u64;
        let refused = matches!(self.meter(will.bytes), Verdict::Never { .. });
        if refused || log.append(*will.event).await.is_err() {
            metrics.dropped("will");
        } else {
            metrics.took(body_bytes);
        }
    }

    /// Asks the tier about a message of so many bytes. One that is let in is metered here, before it is stored and even
    /// if it never is: the service meters at ingress.
    fn meter(&self, bytes: usize) -> Verdict {
        let door = &self.door;
        let mut tier = door.desk.limits.lock();
        let units = tier.metered_units(bytes);
        let verdict = tier.send(door.desk.clock.now(), units);
        if !matches!(verdict, Verdict::Never { .. }) {
            door.metrics.metered(units);
        }
        verdict
    }

    async fn greet(&mut self) -> Result<Box<Hello>, End> {
        loop {
            while !self.inbox.is_empty() {
                if let Came::Hello(hello) = self.feed().await? {
                    return Ok(hello);
                }
            }
            read_some(&mut self.stream, &mut self.inbox, &mut self.read_bytes).await?;
        }
    }

    async fn welcome(&mut self, hello: &Hello, chain: &Chain) -> Result<Admitted, End> {
        let mut acts = vec![];
        let (guest, will) = match self.judge(hello, chain) {
            Ok(admitted) => admitted,
            Err(denied) => {
                let client_id: String = hello.client_id.chars().take(128).collect();
                tracing::info!(client_id = %client_id.escape_debug(), %denied, "refused a device");
                return Err(self.refuse(denied.code(), denied.into()).await);
            }
        };
        if self.door.desk.faults.connect(&guest.device_id) {
            return Err(self.refuse(ConnectReturnCode::ServerUnavailable, End::Scripted("refused")).await);
        }
        let verdict = self.door.desk.limits.lock().connect(self.door.desk.clock.now());
        match verdict {
            Verdict::Now => {}
            Verdict::Later(wait) => sleep(wait).await,
            Verdict::Never { reason, after } => {
                sleep(after).await;
                return Err(End::Limited(reason));
            }
        }
        // It may have waited for long.
        if let Some(denied) = self.gone(&guest) {
            return Err(self.refuse(denied.code(), denied.into()).await);
        }
        let client_id = guest.client_id();
        let since = self.door.desk.clock.now();
        let seat = self.door.desk.seats.take(&guest.who(), &guest.generation_id, since);
        // Whoever takes it out of the registry now finds it seated; if that was before, it is seen here.
        if let Some(denied) = self.gone(&guest) {
            return Err(self.refuse(denied.code(), denied.into()).await);
        }
        let kept = self.door.sessions.begin(&client_id, hello.clean, seat.leave())?;
        self.door.desk.commands.attach(seat.who());
        self.session.accept(kept.is_some(), &mut acts);
        self.hearing.subscribe(kept.unwrap_or_default(), &seat);
        self.perform(acts).await?;
        tracing::debug!(client_id, "connected");
        let token = hello.password.as_ref().map(Mark::of);
        Ok(Admitted { guest, seat, will, token })
    }

    /// Why an identity that was let in may not connect any more.
    fn gone(&self, guest: &Guest) -> Option<Denied> {
        match guest.who().known(&self.door.desk.registry.now()) {
            Some(known) if known.generation_id == guest.generation_id => (!known.enabled).then_some(Denied::Disabled),
            _ => Some(Denied::Unknown),
        }
    }

    /// Tells the device no; gives what to end with.
    async fn refuse(&mut self, code: ConnectReturnCode, end: End) -> End {
        let mut acts = vec![];
        self.session.refuse(code, &mut acts);
        self.perform(acts).await.err().unwrap_or(end)
    }

    fn judge(&self, hello: &Hello, chain: &Chain) -> Result<(Guest, Option<Will>), Denied> {
        let door = &self.door;
        let rules = Rules {
            hosts: &door.desk.hosts,
            known: &door.desk.registry.now(),
            authorities: &door.authorities,
            clock_skew: door.limits.clock_skew.duration(),
            now: door.desk.clock.now(),
        };
        let guest = auth::admit(hello, chain, &rules)?;
        if hello.password.as_ref().is_some_and(|token| door.ended.has(Mark::of(token))) {
            let now_s = door.desk.clock.now().millis().div_euclid(1_000);
            return Err(Refusal::Expired { expiry_s: now_s, now_s }.into());
        }
        let Some(will) = &hello.will else { return Ok((guest, None)) };
        match telemetry::said(&guest, will) {
            Ok(Said::Event { mut event, bytes }) => {
                event.properties.push(("iothub-MessageType".to_owned(), "Will".to_owned()));
                Ok((guest, Some(Will { event, bytes })))
            }
            _ => Err(Denied::Will),
        }
    }

    async fn run(&mut self, admitted: &Admitted) -> Result<End, End> {
        let door = Arc::clone(&self.door);
        let mut blocked = false;
        loop {
            self.digest(admitted).await?;
            self.say(admitted).await?;
            // While we do not read, the device cannot be heard: its silence is ours.
            if mem::replace(&mut blocked, self.is_full()) && !blocked {
                self.quiet_at = Instant::now() + self.quiet;
                self.partial_since = self.partial_since.map(|_| Instant::now());
            }
            let partial =
                self.partial_since.filter(|_| !blocked).map(|since| since + door.limits.packet_timeout.duration());
            let quiet = Some(self.quiet_at).filter(|_| !blocked);
            let (due, late) = (self.underway.due(), self.hearing.wakes());
            tokio::select! {
                () = door.stop.cancelled() => return Ok(End::Stopping),
                () = admitted.seat.leave().cancelled() => {
                    return Ok(admitted.seat.reason().map_or(End::TakenOver, End::Dismissed));
                },
                () = door.desk.clock.sleep_until(admitted.guest.expires) => return Ok(End::Expired),
                read = read_some(&mut self.stream, &mut self.inbox, &mut self.read_bytes), if !blocked => read?,
                () = admitted.seat.mailbox().news() => {}
                () = sleep_until_some(late) => {}
                puback = self.underway.first() => self.acknowledge(puback?).await?,
                () = sleep_until_some(due) => self.underway.submit_due().await,
                () = sleep_until_some(self.doom.map(|(at, _)| at)) => {
                    return Err(End::Limited(self.doom.map_or("", |(_, why)| why)));
                }
                () = sleep_until_some(partial) => return Err(End::Slow),
                () = sleep_until_some(quiet) => return Err(End::Quiet),
            }
        }
    }

    fn is_full(&self) -> bool {
        self.door.limits.unacknowledged_max <= self.underway.len()
            || UNACKNOWLEDGED_BYTES_MAX <= self.underway.bytes()
            || hearing::OWED_MAX <= self.hearing.owed()
    }

    /// Takes packets out of the inbox until it is empty or too many publishes are on their way. Then the rest stays
    /// where it is, and TCP makes the device wait.
    async fn digest(&mut self, admitted: &Admitted) -> Result<(), End> {
        while !self.inbox.is_empty() && !self.is_full() {
            let came = self.feed().await?;
            if !self.session.mid_packet() {
                // The protocol's own timer stands still where a device asked for no keep-alive.
                self.quiet_at = Instant::now() + self.quiet;
            }
            self.partial_since = match (self.session.mid_packet(), self.partial_since) {
                (false, _) => None,
                (true, since) => since.or_else(|| Some(Instant::now())),
            };
            match came {
                Came::Nothing => {}
                Came::Hello(_) => return Err(Fault::Protocol.into()),
                Came::Publish(publish) => self.take(admitted, publish).await?,
                Came::Heard(packet_id) => {
                    admitted.seat.heard(self.door.desk.clock.now());
                    self.hearing.heard(packet_id, &admitted.seat, &self.door.desk).map_err(End::NotKept)?;
                }
                Came::Subscribe(packet_id, filters) => self.subscribe(admitted, packet_id, filters).await?,
                Came::Unsubscribe(packet_id, filters) => {
                    let mut held = self.hearing.filters().to_vec();
                    held.retain(|(held, _)| !filters.contains(held));
                    self.keep(admitted, held)?;
                    let mut acts = vec![];
                    self.session.unsubscribed(packet_id, &mut acts);
                    self.perform(acts).await?;
                }
            }
        }
        if self.inbox.is_empty() && READ_BYTES_MAX < self.inbox.capacity().max(self.outgoing.capacity()) {
            // A large packet came once; its memory need not stay.
            (self.inbox, self.outgoing) = (BytesMut::new(), vec![]);
        }
        Ok(())
    }

    async fn subscribe(&mut self, admitted: &Admitted, packet_id: u16, filters: Vec<(String, Qos)>) -> Result<(), End> {
        let filters: Vec<Filter> = filters.into_iter().map(|(filter, qos)| (filter, qos as u8)).collect();
        let held = telemetry::subscribe(&admitted.guest, self.hearing.filters().to_vec(), &filters)?;
        self.keep(admitted, held)?;
        let code = |(_, qos): &Filter| match qos {
            0 => SubackReturnCode::SuccessMaximumQos0,
            _ => SubackReturnCode::SuccessMaximumQos1,
        };
        let mut acts = vec![];
        self.session.subscribed(packet_id, filters.iter().map(code).collect(), &mut acts);
        self.perform(acts).await.map(|_| ())
    }

    /// A connection that has to leave keeps nothing: the session is another's by now.
    fn keep(&mut self, admitted: &Admitted, filters: Vec<Filter>) -> Result<(), End> {
        self.door.sessions.keep(&admitted.guest.client_id(), &filters, admitted.seat.leave())?;
        self.hearing.subscribe(filters, &admitted.seat);
        Ok(())
    }

    /// Says what the hub has to say, as far as the device keeps up.
    async fn say(&mut self, admitted: &Admitted) -> Result<(), End> {
        loop {
            let (mut acts, seat, desk) = (vec![], &admitted.seat, &self.door.desk);
            let more = self.hearing.say(seat, desk, &mut self.session, &mut acts).map_err(End::NotKept)?;
            if !acts.is_empty() {
                self.perform(acts).await?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// A device asks about its twin, or answers a method. Patches are taken in the order they come; that they are safe
    /// nobody waits for here.
    fn ask(&mut self, admitted: &Admitted, request: Request, payload: &Bytes) {
        let (desk, who) = (&self.door.desk, admitted.seat.who());
        let (ask, rid) = match request {
            Request::Answer { status, request } => {
                if !desk.faults.method_answer(&who.device) && desk.methods.answer(who, request, status, payload) {
                    desk.metrics.method_answered();
                }
                return;
            }
            Request::Twin { ask, rid } => (ask, rid),
        };
        self.hearing.owe();
        let (answers, metrics) = (admitted.seat.answers(), Arc::clone(&self.door.metrics));
        match twin::begin(ask, who, payload, desk) {
            Begun::Done(answer) => {
                metrics.twin_request(ask.as_str(), answer.status);
                answers.give(answer.letter(rid));
            }
            Begun::Reporting(reporting) => {
                tokio::spawn(async move {
                    let answer = TwinAnswer::of(reporting.done().await);
                    metrics.twin_request(ask.as_str(), answer.status);
                    answers.give(answer.letter(rid));
                });
            }
        }
    }

    async fn take(&mut self, admitted: &Admitted, publish: Publish) -> Result<(), End> {
        let (door, guest) = (Arc::clone(&self.door), &admitted.guest);
        let now = door.desk.clock.now();
        admitted.seat.heard(now);
        let said = telemetry::said(guest, &publish)?;
        if self.doom.is_some() {
            door.metrics.dropped("limits");
            return Ok(());
        }
        let packet_id = publish.packet_id;
        let (event, bytes) = match said {
            Said::Event { event, bytes } => (event, bytes),
            Said::Request(request) => {
                self.ask(admitted, request, &publish.payload);
                let taken = Taken { packet_id, event: None, bytes: 0, luck: Luck::default() };
                self.underway.take(taken, Duration::ZERO).await;
                return Ok(());
            }
        };
        let Some(luck) = luck(&door.desk.faults.message(&guest.device_id), |length| {
            door.desk.limits.lock().throttle(now, length);
        })
        .inspect_err(|end| {
            if let (End::Expired, Some(token)) = (end, admitted.token) {
                door.ended.end(token);
            }
        })?
        else {
            door.metrics.dropped("fault");
            return Ok(());
        };
        let wait = match self.meter(bytes) {
            Verdict::Now => Duration::ZERO,
            Verdict::Later(wait) => wait,
            Verdict::Never { reason, after } => {
                door.metrics.dropped("limits");
                self.doom = Some((Instant::now() + after, reason));
                return Ok(());
            }
        };
        let bytes = bytes + event.properties.len() * telemetry::PAIR_BYTES;
        self.underway.take(Taken { packet_id, event: Some(event), bytes, luck }, wait).await;
        Ok(())
    }

    /// Acknowledges what is stored by now, in one write.
    async fn acknowledge(&mut self, first: Puback) -> Result<(), End> {
        let mut acts = vec![];
        let mut next = Some(first);
        let mut lost = false;
        while let Some(puback) = next {
            if let Some(packet_id) = puback.packet_id {
                crash::here("hub-stored");
                if puback.lost {
                    lost = true;
                    break;
                }
                self.session.acknowledge(packet_id, &mut acts);
            }
            next = self.underway.already()?;
        }
        self.perform(acts).await?;
        if lost { Err(End::PubackLost) } else { Ok(()) }
    }

    /// Stores what the throttle holds, without its waits, and acknowledges all that was taken.
    async fn drain(&mut self) -> Result<(), End> {
        self.underway.submit_all().await;
        while self.underway.is_storing() {
            let puback = self.underway.first().await?;
            self.acknowledge(puback).await?;
        }
        Ok(())
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

/// What the script says of a publish: `None` if it is lost, or why the connection ends.
fn luck(actions: &[Action], mut throttle: impl FnMut(Duration)) -> Result<Option<Luck>, End> {
    let (mut luck, mut lost) = (Luck::default(), false);
    for action in actions {
        match action {
            Action::Drop => lost = true,
            Action::Delay(length) => luck.delay += *length,
            Action::Duplicate => luck.twice = true,
            Action::BlackHole(length) => return Err(End::BlackHole(*length)),
            Action::Disconnect => return Err(End::Scripted("disconnect")),
            Action::LosePuback => luck.loses_puback = true,
            Action::ExpireToken => return Err(End::Expired),
            Action::Throttle(length) => throttle(*length),
        }
    }
    Ok(Some(luck).filter(|_| !lost))
}

/// Reads what has come, into as much room as was needed lately; the end of the stream is [`End::Vanished`]. May be
/// dropped and called again.
async fn read_some<S: AsyncRead + Unpin>(stream: &mut S, inbox: &mut BytesMut, room: &mut usize) -> Result<(), End> {
    if inbox.is_empty() && *room < inbox.capacity() {
        *inbox = BytesMut::new();
    }
    inbox.reserve(*room);
    let read = stream.read_buf(inbox).await?;
    *room = match read {
        0 => return Err(End::Vanished),
        read if read < READ_BYTES_MIN => READ_BYTES_MIN,
        read => (2 * read).clamp(*room, READ_BYTES_MAX),
    };
    Ok(())
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}
