//! One device's MQTT session, without the socket: bytes in, things to do out.
//!
//! Publish-only MQTT 3.1.1 and 5: CONNECT with or without a will, PUBLISH at QoS 0 and 1, PINGREQ, DISCONNECT. A
//! SUBSCRIBE is answered with failure. Everything else closes the connection. Never acknowledges a publish by itself.
//!
//! Of MQTT 5: a topic has at most [`TOPIC_ALIASES`] aliases, a session ends with its connection whatever expiry is
//! asked for, there is no authentication beyond CONNECT. Properties that describe a message (content type, user
//! properties, payload format, response topic, expiry) are read over: what is acknowledged is stored, so nothing
//! expires, and what a payload is says the mapping of its topic.

mod fault; // why a session ends

pub(super) mod head; // the first packet

mod packets; // what we send

use std::time::Duration;

use bytes::Bytes;
use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::event::{Event, TimerKind};
use mqtt_protocol_core::mqtt::connection::{ConnectionOptions, role};
use mqtt_protocol_core::mqtt::packet::{GenericPacketTrait, Packet, Property, Qos, v3_1_1, v5_0};
use mqtt_protocol_core::mqtt::result_code::{DisconnectReasonCode, MqttError};
use mqtt_protocol_core::mqtt::{Connection, Version};
use shared::config::Secret;

pub(super) use self::fault::{Bye, Fault, Refusal};

/// Names a device may give to topics it publishes to again and again. Each is remembered with its topic.
pub(super) const TOPIC_ALIASES: u16 = 16;
/// Longer topics are refused: nobody has them, and aliases would make us keep them.
const TOPIC_BYTES_MAX: usize = 1024;

/// What a session promises.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// Bytes of a packet.
    pub(super) packet_bytes_max: u32,
    /// QoS 1 publishes that may be unacknowledged, from 1.
    pub(super) receive_max: u16,
}

/// What the connection is to do next.
#[derive(Debug)]
pub(super) enum Act {
    /// A device introduced itself: answer with [`Session::accept`] or [`Session::refuse`] before feeding more.
    Connect(Hello),
    /// Write these bytes.
    Send(Vec<u8>),
    /// A publish.
    Publish(Publish),
    /// From now on, silence of this length ends the connection; `None`: the device asked for no limit.
    Quiet(Option<Duration>),
    /// The device said goodbye; with `true`, its will is to be published nevertheless.
    Goodbye(bool),
    /// Close at once.
    Close(Fault),
}

/// Which MQTT a device speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    /// 3.1.1
    V3,
    /// 5.0
    V5,
}

/// Who a device says it is.
#[derive(Debug)]
pub(super) struct Hello {
    pub(super) spoken: Spoken,
    /// Empty: the device wants a name of our choosing.
    pub(super) client_id: String,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    /// To be published if the device goes without goodbye.
    pub(super) will: Option<Publish>,
}

/// One publish.
#[derive(Debug)]
pub(super) struct Publish {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    /// `None`: QoS 0, nobody waits for an acknowledgement.
    pub(super) packet_id: Option<u16>,
}

/// A PUBACK that is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owed {
    pub(super) packet_id: u16,
    /// The device has no right to this topic: MQTT 5 says so, and nothing is stored.
    pub(super) barred: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Fresh,
    Asking,
    Open,
    Closed,
}

/// The state of one session.
pub(super) struct Session {
    mqtt: Connection<role::Server>,
    terms: Terms,
    stage: Stage,
    spoken: Spoken,
    partial: bool,
    head: head::Head,
}

impl Session {
    /// A session that accepts packets as `terms` say.
    pub(super) fn new(terms: Terms) -> Self {
        let options = ConnectionOptions::new().maximum_packet_size_recv(terms.packet_bytes_max);
        let mut mqtt = Connection::with_options(Version::Undetermined, options);
        mqtt.set_auto_pub_response(false);
        mqtt.set_auto_ping_response(true);
        Self { mqtt, terms, stage: Stage::Fresh, spoken: Spoken::V3, partial: false, head: head::Head::default() }
    }

    /// True while a packet has begun and not ended.
    pub(super) fn mid_packet(&self) -> bool {
        self.partial
    }

    /// Takes at most one packet off the front of `bytes`; returns how many bytes were taken. Nothing is taken while an
    /// answer to [`Act::Connect`] is owed, nor after a close.
    pub(super) fn feed(&mut self, bytes: &[u8], acts: &mut Vec<Act>) -> usize {
        if bytes.is_empty() || matches!(self.stage, Stage::Asking | Stage::Closed) {
            return 0;
        }
        if self.stage == Stage::Fresh {
            return self.feed_connect(bytes, acts);
        }
        let mut cursor = Cursor::new(bytes);
        let events = self.mqtt.recv(&mut cursor);
        let taken = usize::try_from(cursor.position()).unwrap_or(bytes.len()).min(bytes.len());
        self.partial = events.is_empty();
        self.take(events, acts);
        taken
    }

    /// CONNECT is kept until it is whole, and read then.
    fn feed_connect(&mut self, bytes: &[u8], acts: &mut Vec<Act>) -> usize {
        match self.head.take(bytes) {
            Ok((taken, packet)) => {
                self.partial = packet.is_none();
                if let Some(packet) = packet {
                    let events = self.mqtt.recv(&mut Cursor::new(packet.as_slice()));
                    self.take(events, acts);
                }
                taken
            }
            Err(head::Refusal { fault, answer }) => {
                if !answer.is_empty() {
                    acts.push(Act::Send(answer.to_vec()));
                }
                self.shut(fault, acts);
                bytes.len()
            }
        }
    }

    /// The device may publish; `assigned` is the name it gets if it has none of its own.
    pub(super) fn accept(&mut self, assigned: Option<&str>, acts: &mut Vec<Act>) {
        self.stage = Stage::Open;
        self.send(packets::welcome(self.spoken, self.terms, assigned), acts);
    }

    /// The device may not; the connection is to be closed once the answer is written.
    pub(super) fn refuse(&mut self, why: Refusal, acts: &mut Vec<Act>) {
        self.stage = Stage::Closed;
        self.send(packets::refusal(self.spoken, why), acts);
    }

    /// The bytes of a PUBACK.
    pub(super) fn acknowledge(&mut self, owed: Owed, acts: &mut Vec<Act>) {
        self.send(packets::puback(self.spoken, owed), acts);
    }

    /// The device must go, and is told why if there is a word for it. The connection is to be closed afterwards.
    pub(super) fn dismiss(&mut self, why: Bye, acts: &mut Vec<Act>) {
        if self.stage == Stage::Open {
            self.stage = Stage::Closed;
            self.say_goodbye(why.reason(), acts);
        }
    }

    fn send(&mut self, packet: Result<Packet, MqttError>, acts: &mut Vec<Act>) {
        match packet {
            Ok(packet) => {
                let events = self.mqtt.send(packet);
                self.take(events, acts);
            }
            Err(error) => self.close(error.into(), acts),
        }
    }

    fn take(&mut self, events: Vec<Event>, acts: &mut Vec<Act>) {
        let mut close = false;
        for event in events {
            match event {
                Event::NotifyPacketReceived(packet) => self.packet(packet, acts),
                Event::RequestSendPacket { packet, .. } => acts.push(Act::Send(packet.to_continuous_buffer())),
                Event::RequestTimerReset { kind: TimerKind::PingreqRecv, duration_ms } => {
                    acts.push(Act::Quiet(Some(Duration::from_millis(duration_ms))));
                }
                Event::RequestTimerCancel(TimerKind::PingreqRecv) => acts.push(Act::Quiet(None)),
                Event::RequestTimerReset { .. } | Event::RequestTimerCancel(_) | Event::NotifyPacketIdReleased(_) => {}
                Event::NotifyError(error) => self.close(error.into(), acts),
                Event::RequestClose => close = true,
            }
        }
        if close {
            // The error that explains it mostly stands beside it, and has closed the session already.
            self.shut(Fault::Protocol, acts);
        }
    }

    fn packet(&mut self, packet: Packet, acts: &mut Vec<Act>) {
        match (self.stage, packet) {
            (Stage::Closed, _) => {}
            (Stage::Fresh, Packet::V3_1_1Connect(connect)) => self.connect_v3(&connect, acts),
            (Stage::Fresh, Packet::V5_0Connect(connect)) => self.connect_v5(&connect, acts),
            (Stage::Fresh | Stage::Asking, _) => self.close(Fault::NotConnect, acts),
            (Stage::Open, Packet::V3_1_1Publish(publish)) => {
                let (qos, id) = (publish.qos(), publish.packet_id());
                self.publish(qos, id, publish.topic_name(), publish.payload().as_slice(), acts);
            }
            (Stage::Open, Packet::V5_0Publish(publish)) => {
                let (qos, id) = (publish.qos(), publish.packet_id());
                self.publish(qos, id, publish.topic_name(), publish.payload().as_slice(), acts);
            }
            (Stage::Open, Packet::V3_1_1Subscribe(subscribe)) => {
                self.send(packets::suback(self.spoken, subscribe.packet_id(), subscribe.entries().len()), acts);
            }
            (Stage::Open, Packet::V5_0Subscribe(subscribe)) => {
                self.send(packets::suback(self.spoken, subscribe.packet_id(), subscribe.entries().len()), acts);
            }
            (Stage::Open, Packet::V3_1_1Unsubscribe(unsubscribe)) => {
                self.send(packets::unsuback(self.spoken, unsubscribe.packet_id(), unsubscribe.entries().len()), acts);
            }
            (Stage::Open, Packet::V5_0Unsubscribe(unsubscribe)) => {
                self.send(packets::unsuback(self.spoken, unsubscribe.packet_id(), unsubscribe.entries().len()), acts);
            }
            (Stage::Open, Packet::V3_1_1Pingreq(_) | Packet::V5_0Pingreq(_)) => {} // answered by the library
            (Stage::Open, Packet::V3_1_1Disconnect(_)) => self.leave(false, acts),
            (Stage::Open, Packet::V5_0Disconnect(said)) => {
                self.leave(said.reason_code() == Some(DisconnectReasonCode::DisconnectWithWillMessage), acts);
            }
            (Stage::Open, _) => self.close(Fault::Protocol, acts),
        }
    }

    fn connect_v3(&mut self, connect: &v3_1_1::Connect, acts: &mut Vec<Act>) {
        self.spoken = Spoken::V3;
        if connect.client_id().is_empty() && !connect.clean_session() {
            return self.turn_away(Refusal::ClientId, Fault::ClientId, acts);
        }
        let will = connect.will_topic().zip(connect.will_payload());
        let hello = Hello {
            spoken: Spoken::V3,
            client_id: connect.client_id().to_owned(),
            user: connect.user_name().map(str::to_owned),
            password: connect.password().map(|bytes| Secret::new(String::from_utf8_lossy(bytes))),
            will: None,
        };
        self.connect(hello, will, connect.will_qos(), acts);
    }

    fn connect_v5(&mut self, connect: &v5_0::Connect, acts: &mut Vec<Act>) {
        self.spoken = Spoken::V5;
        if connect.props().iter().any(|property| matches!(property, Property::AuthenticationMethod(_))) {
            return self.turn_away(Refusal::AuthMethod, Fault::AuthMethod, acts);
        }
        let will = connect.will_topic().zip(connect.will_payload());
        let hello = Hello {
            spoken: Spoken::V5,
            client_id: connect.client_id().to_owned(),
            user: connect.user_name().map(str::to_owned),
            password: connect.password().map(|bytes| Secret::new(String::from_utf8_lossy(bytes))),
            will: None,
        };
        self.connect(hello, will, connect.will_qos(), acts);
    }

    fn connect(&mut self, hello: Hello, will: Option<(&str, &[u8])>, will_qos: Qos, acts: &mut Vec<Act>) {
        if will.is_some() && will_qos == Qos::ExactlyOnce {
            return self.turn_away(Refusal::Qos2, Fault::Qos2, acts);
        }
        if will.is_some_and(|(topic, _)| !is_topic(topic)) {
            return self.turn_away(Refusal::Topic, Fault::Topic, acts);
        }
        let will = will.map(|(topic, payload)| Publish {
            topic: topic.to_owned(),
            payload: Bytes::copy_from_slice(payload),
            packet_id: None,
        });
        self.stage = Stage::Asking;
        acts.push(Act::Connect(Hello { will, ..hello }));
    }

    fn publish(&mut self, qos: Qos, packet_id: Option<u16>, topic: &str, payload: &[u8], acts: &mut Vec<Act>) {
        let packet_id = match (qos, packet_id) {
            (Qos::AtMostOnce, _) => None,
            (Qos::AtLeastOnce, Some(packet_id)) if packet_id != 0 => Some(packet_id),
            (Qos::AtLeastOnce, _) => return self.close(Fault::Garbage, acts),
            (Qos::ExactlyOnce, _) => return self.close(Fault::Qos2, acts),
        };
        if !is_topic(topic) {
            return self.close(Fault::Topic, acts);
        }
        acts.push(Act::Publish(Publish {
            topic: topic.to_owned(),
            payload: Bytes::copy_from_slice(payload),
            packet_id,
        }));
    }

    fn leave(&mut self, with_will: bool, acts: &mut Vec<Act>) {
        self.stage = Stage::Closed;
        acts.push(Act::Goodbye(with_will));
    }

    /// Refuses a CONNECT for what stands in it.
    fn turn_away(&mut self, why: Refusal, fault: Fault, acts: &mut Vec<Act>) {
        self.refuse(why, acts);
        acts.push(Act::Close(fault));
    }

    /// Closes, and says why to a device that is in and has a word for it.
    fn close(&mut self, fault: Fault, acts: &mut Vec<Act>) {
        let was = self.stage;
        self.stage = Stage::Closed;
        if was == Stage::Open {
            self.say_goodbye(fault.goodbye(), acts);
        }
        if was != Stage::Closed {
            acts.push(Act::Close(fault));
        }
    }

    /// Closes without a word.
    fn shut(&mut self, fault: Fault, acts: &mut Vec<Act>) {
        if self.stage != Stage::Closed {
            self.stage = Stage::Closed;
            acts.push(Act::Close(fault));
        }
    }

    /// Only what is to be sent comes of it: the library may have said goodbye by itself already.
    fn say_goodbye(&mut self, reason: DisconnectReasonCode, acts: &mut Vec<Act>) {
        if self.spoken == Spoken::V3 {
            return;
        }
        let Ok(packet) = packets::disconnect(reason) else { return };
        for event in self.mqtt.send(packet) {
            if let Event::RequestSendPacket { packet, .. } = event {
                acts.push(Act::Send(packet.to_continuous_buffer()));
            }
        }
    }
}

fn is_topic(topic: &str) -> bool {
    // What begins with `$` is no device's to publish on; our own sensors come under such a topic.
    let own = topic.starts_with('$');
    !topic.is_empty() && topic.len() <= TOPIC_BYTES_MAX && !own && !topic.contains(['+', '#', '\0'])
}
