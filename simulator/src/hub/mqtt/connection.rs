//! One connection: its [`Wire`], the publishes that are under way, and what the device is told.
//!
//! Publishes are handed to the log in the order they came and acknowledged in that order, each after the fsync that
//! stored it; what the tier's limits and the script of faults say about each comes first.

use std::future::pending;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shared::crash;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Door;
use super::admission::{self, Admitted};
use super::auth::{Denied, Guest};
use super::end::End;
use super::ended::Mark;
use super::hearing::{self, Hearing};
use super::requests::Request;
use super::sessions::Filter;
use super::telemetry::{self, Said};
use super::twin::{self, Begun, TwinAnswer};
use super::underway::{Luck, Puback, Taken, Underway};
use crate::gate::{self, Came, Chain, ConnectReturnCode, Fault, Hello, Publish, Qos, SubackReturnCode, Wire};
use crate::hub::changes::{Happened, Source};
use crate::hub::limits::Verdict;
use crate::hub::log::AppendError;

/// At a stop, this long is waited for what was already taken.
const DRAIN: Duration = Duration::from_secs(5);
/// A connection whose publishes on their way to disk are together so large is not read from: their number alone would let
/// it take 64 MB.
const UNACKNOWLEDGED_BYTES_MAX: usize = 2 * 1024 * 1024;

pub(super) struct Connection<S> {
    wire: Wire<S>,
    underway: Underway,
    /// Once a limit is exceeded: when the connection ends, and why. Until then publishes are not heard.
    doom: Option<(Instant, &'static str)>,
    hearing: Hearing,
    door: Arc<Door>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(stream: S, door: Arc<Door>) -> Self {
        Self {
            wire: Wire::new(stream, telemetry::PACKET_BYTES_MAX, door.limits.packet_timeout.duration()),
            underway: Underway::new(door.log.clone(), Arc::clone(&door.metrics)),
            doom: None,
            hearing: Hearing::default(),
            door,
        }
    }

    /// Hangs up after less silence than the service.
    #[cfg(test)]
    pub(super) fn quiet_after(mut self, quiet: Duration) -> Self {
        self.wire.quiet_after(quiet);
        self
    }

    /// Serves the connection of whoever showed `chain` to its end; CONNECT must have come by `patience`. Gives the
    /// stream back, after a goodbye unless it has fallen into a black hole.
    pub(super) async fn serve(mut self, chain: Chain, patience: Instant) -> (End, S) {
        let end = self.serve_until(chain, patience).await;
        if !matches!(end, End::BlackHole(_)) {
            self.wire.close().await;
        }
        (end, self.wire.into_stream())
    }

    async fn serve_until(&mut self, chain: Chain, patience: Instant) -> End {
        let stop = self.door.stop.clone();
        let hello = match self.wire.greet(patience, &stop).await {
            Ok(hello) => hello,
            Err(end) => return end.into(),
        };
        let admitted = tokio::select! {
            () = stop.cancelled() => return gate::End::Stopping.into(),
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
            End::Gate(gate::End::Left) => {
                // The device waits for nothing more: what the throttle holds is stored now, or else counted as dropped.
                let _ = timeout(DRAIN, self.underway.submit_all()).await;
            }
            End::Gate(gate::End::Stopping) => {
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
        let goodbye = matches!(end, End::Gate(gate::End::Left | gate::End::Stopping));
        if let Some(will) = admitted.will.filter(|_| !goodbye) {
            will.publish(&self.door).await;
        }
        end
    }

    async fn welcome(&mut self, hello: &Hello, chain: &Chain) -> Result<Admitted, End> {
        let (guest, will) = match admission::judge(&self.door, hello, chain) {
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
        let present = kept.is_some();
        self.hearing.subscribe(kept.unwrap_or_default(), &seat);
        self.wire.say(|session, acts| session.accept(present, acts)).await?;
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
        let told = self.wire.say(|session, acts| session.refuse(code, acts)).await;
        told.err().map_or(end, End::from)
    }

    async fn run(&mut self, admitted: &Admitted) -> Result<End, End> {
        let door = Arc::clone(&self.door);
        let mut blocked = false;
        loop {
            self.digest(admitted).await?;
            self.say(admitted).await?;
            // While we do not read, nobody waits for the device: its silence is ours.
            if mem::replace(&mut blocked, self.is_full()) && !blocked {
                self.wire.excuse();
            }
            let (due, late) = (self.underway.due(), self.hearing.wakes());
            tokio::select! {
                () = door.stop.cancelled() => return Ok(gate::End::Stopping.into()),
                () = admitted.seat.leave().cancelled() => {
                    return Ok(admitted.seat.reason().map_or(End::TakenOver, End::Dismissed));
                },
                () = door.desk.clock.sleep_until(admitted.guest.expires) => return Ok(End::Expired),
                read = self.wire.read(), if !blocked => read?,
                () = admitted.seat.mailbox().news() => {}
                () = sleep_until_some(late) => {}
                puback = self.underway.first() => self.acknowledge(puback?).await?,
                () = sleep_until_some(due) => self.underway.submit_due().await,
                () = sleep_until_some(self.doom.map(|(at, _)| at)) => {
                    return Err(End::Limited(self.doom.map_or("", |(_, why)| why)));
                }
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
        while !self.is_full()
            && let Some(came) = self.wire.next().await?
        {
            match came {
                Came::Nothing => {}
                Came::Hello(_) => return Err(gate::End::from(Fault::Protocol).into()),
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
                    self.wire.say(|session, acts| session.unsubscribed(packet_id, acts)).await?;
                }
            }
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
        let codes = filters.iter().map(code).collect();
        Ok(self.wire.say(|session, acts| session.subscribed(packet_id, codes, acts)).await?)
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
            let (hearing, seat, desk) = (&mut self.hearing, &admitted.seat, &self.door.desk);
            let said = self.wire.say(|session, acts| hearing.say(seat, desk, session, acts)).await?;
            if !said.map_err(End::NotKept)? {
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
        let Some(luck) = Luck::of(&door.desk.faults.message(&guest.device_id), |length| {
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
        let wait = match door.meter(bytes) {
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
        let underway = &mut self.underway;
        let lost = self.wire.say(|session, acts| {
            let mut next = Some(first);
            while let Some(puback) = next {
                if let Some(packet_id) = puback.packet_id {
                    crash::here("hub-stored");
                    if puback.lost {
                        return Ok(true);
                    }
                    session.acknowledge(packet_id, acts);
                }
                next = underway.already()?;
            }
            Ok::<_, AppendError>(false)
        });
        if lost.await?? { Err(End::PubackLost) } else { Ok(()) }
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
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}
