//! One device's MQTT session, without the socket: bytes in, things to do out.
//!
//! Publish-only MQTT 3.1.1: CONNECT, PUBLISH at QoS 0 and 1, PINGREQ, DISCONNECT. A SUBSCRIBE is answered with failure.
//! Everything else closes the connection. Never acknowledges a publish by itself.

use std::time::Duration;

use bytes::Bytes;
use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::event::{Event, TimerKind};
use mqtt_protocol_core::mqtt::connection::{ConnectionOptions, role};
use mqtt_protocol_core::mqtt::packet::{GenericPacketTrait, Packet, Qos, v3_1_1};
use mqtt_protocol_core::mqtt::result_code::{ConnectReturnCode, MqttError, SubackReturnCode};
use mqtt_protocol_core::mqtt::{Connection, Version};
use shared::config::Secret;

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
    /// The device said goodbye.
    Goodbye,
    /// Close at once.
    Close(Fault),
}

/// Who a device says it is.
#[derive(Debug)]
pub(super) struct Hello {
    /// Empty: the device wants a name of our choosing.
    pub(super) client_id: String,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
}

/// One publish.
#[derive(Debug)]
pub(super) struct Publish {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    /// `None`: QoS 0, nobody waits for an acknowledgement.
    pub(super) packet_id: Option<u16>,
}

/// Why a connection is closed by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("the first packet is not CONNECT")]
    NotConnect,
    #[error("not MQTT 3.1.1")]
    Version,
    #[error("the client id is not allowed")]
    ClientId,
    #[error("a packet is larger than `intake.listener.max-packet`")]
    TooLarge,
    #[error("a QoS 2 publish; publish at QoS 1")]
    Qos2,
    #[error("a topic name is empty, holds a wildcard or begins with `$`")]
    Topic,
    #[error("bytes that are not MQTT")]
    Garbage,
    #[error("a packet that does not belong here")]
    Protocol,
}

impl Fault {
    /// As it stands in metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Fault::NotConnect => "not-connect",
            Fault::Version => "version",
            Fault::ClientId => "client-id",
            Fault::TooLarge => "too-large",
            Fault::Qos2 => "qos2",
            Fault::Topic => "topic",
            Fault::Garbage => "garbage",
            Fault::Protocol => "protocol",
        }
    }
}

impl From<MqttError> for Fault {
    fn from(error: MqttError) -> Self {
        match error {
            MqttError::PacketTooLarge => Fault::TooLarge,
            MqttError::UnsupportedProtocolVersion => Fault::Version,
            MqttError::ClientIdentifierNotValid => Fault::ClientId,
            MqttError::ProtocolError | MqttError::InvalidPacketForRole => Fault::Protocol,
            _ => Fault::Garbage,
        }
    }
}

/// Up to the protocol level of a CONNECT: type, four bytes of length, two of the name's length, the name, the level.
const HEAD_BYTES: usize = 1 + 4 + 2 + 6 + 1;
/// CONNACK, no session, return code 0x01: unacceptable protocol version.
const WRONG_VERSION: [u8; 4] = [0x20, 2, 0, 1];

/// True for a CONNECT of MQTT, or of MQTT 3.1 by its name, at another level than that of 3.1.1.
fn is_other_version(head: &[u8]) -> bool {
    let [0x10, rest @ ..] = head else { return false };
    let length = rest.iter().take(4).take_while(|byte| 0x80 <= **byte).count() + 1;
    let name = rest.get(length..).unwrap_or_default();
    match name {
        [0, 6, b'M', b'Q', b'I', b's', b'd', b'p', _, ..] => true,
        [0, 4, b'M', b'Q', b'T', b'T', level, ..] => *level != 4,
        _ => false,
    }
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
    stage: Stage,
    partial: bool,
    /// The first bytes of the device, until its CONNECT is there.
    head: Vec<u8>,
}

impl Session {
    /// A session that accepts packets of at most `packet_bytes_max` bytes.
    pub(super) fn new(packet_bytes_max: u32) -> Self {
        let options = ConnectionOptions::new().maximum_packet_size_recv(packet_bytes_max);
        let mut mqtt = Connection::with_options(Version::V3_1_1, options);
        mqtt.set_auto_pub_response(false);
        mqtt.set_auto_ping_response(true);
        Self { mqtt, stage: Stage::Fresh, partial: false, head: Vec::new() }
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
        let mut cursor = Cursor::new(bytes);
        let events = self.mqtt.recv(&mut cursor);
        let taken = usize::try_from(cursor.position()).unwrap_or(bytes.len()).min(bytes.len());
        self.partial = events.is_empty();
        if self.stage == Stage::Fresh {
            let missing = HEAD_BYTES.saturating_sub(self.head.len());
            self.head.extend(bytes[..taken].iter().take(missing));
            // The library answers 3.1, whose protocol has another name, as it answers garbage.
            if !self.partial && is_other_version(&self.head) {
                acts.push(Act::Send(WRONG_VERSION.to_vec()));
                self.close(Fault::Version, acts);
                return taken;
            }
        }
        self.take(events, acts);
        taken
    }

    /// The device may publish.
    pub(super) fn accept(&mut self, acts: &mut Vec<Act>) {
        self.stage = Stage::Open;
        self.answer(ConnectReturnCode::Accepted, acts);
    }

    /// The device may not; the connection is to be closed once the answer is written.
    pub(super) fn refuse(&mut self, code: ConnectReturnCode, acts: &mut Vec<Act>) {
        self.stage = Stage::Closed;
        self.answer(code, acts);
    }

    /// The bytes of the PUBACK of `packet_id`.
    pub(super) fn acknowledge(&mut self, packet_id: u16, acts: &mut Vec<Act>) {
        match v3_1_1::Puback::builder().packet_id(packet_id).build() {
            Ok(puback) => {
                let events = self.mqtt.send(puback.into());
                self.take(events, acts);
            }
            Err(error) => acts.push(Act::Close(error.into())),
        }
    }

    fn answer(&mut self, code: ConnectReturnCode, acts: &mut Vec<Act>) {
        // No session outlives its connection here, so none is ever present.
        let connack = v3_1_1::Connack::builder().return_code(code).session_present(false).build();
        let events = self.mqtt.send(connack.expect("a CONNACK has all its fields").into());
        self.take(events, acts);
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
            self.close(Fault::Protocol, acts);
        }
    }

    fn packet(&mut self, packet: Packet, acts: &mut Vec<Act>) {
        match (self.stage, packet) {
            (Stage::Closed, _) => {}
            (Stage::Fresh, Packet::V3_1_1Connect(connect)) => {
                self.stage = Stage::Asking;
                if connect.client_id().is_empty() && !connect.clean_session() {
                    self.refuse(ConnectReturnCode::IdentifierRejected, acts);
                    acts.push(Act::Close(Fault::ClientId));
                    return;
                }
                acts.push(Act::Connect(Hello {
                    client_id: connect.client_id().to_owned(),
                    user: connect.user_name().map(str::to_owned),
                    password: connect.password().map(|bytes| Secret::new(String::from_utf8_lossy(bytes))),
                }));
            }
            (Stage::Fresh | Stage::Asking, _) => self.close(Fault::NotConnect, acts),
            (Stage::Open, Packet::V3_1_1Publish(publish)) => self.publish(&publish, acts),
            (Stage::Open, Packet::V3_1_1Subscribe(subscribe)) => {
                let codes = vec![SubackReturnCode::Failure; subscribe.entries().len()];
                match v3_1_1::Suback::builder().packet_id(subscribe.packet_id()).return_codes(codes).build() {
                    Ok(suback) => {
                        let events = self.mqtt.send(suback.into());
                        self.take(events, acts);
                    }
                    Err(error) => self.close(error.into(), acts),
                }
            }
            (Stage::Open, Packet::V3_1_1Unsubscribe(unsubscribe)) => {
                match v3_1_1::Unsuback::builder().packet_id(unsubscribe.packet_id()).build() {
                    Ok(unsuback) => {
                        let events = self.mqtt.send(unsuback.into());
                        self.take(events, acts);
                    }
                    Err(error) => self.close(error.into(), acts),
                }
            }
            (Stage::Open, Packet::V3_1_1Pingreq(_)) => {} // answered by the library
            (Stage::Open, Packet::V3_1_1Disconnect(_)) => {
                self.stage = Stage::Closed;
                acts.push(Act::Goodbye);
            }
            (Stage::Open, _) => self.close(Fault::Protocol, acts),
        }
    }

    fn publish(&mut self, publish: &v3_1_1::Publish, acts: &mut Vec<Act>) {
        let packet_id = match (publish.qos(), publish.packet_id()) {
            (Qos::AtMostOnce, _) => None,
            (Qos::AtLeastOnce, Some(packet_id)) if packet_id != 0 => Some(packet_id),
            (Qos::AtLeastOnce, _) => return self.close(Fault::Garbage, acts),
            (Qos::ExactlyOnce, _) => return self.close(Fault::Qos2, acts),
        };
        let topic = publish.topic_name();
        // What begins with `$` is no device's to publish on; our own sensors come under such a topic.
        if topic.is_empty() || topic.starts_with('$') || topic.contains(['+', '#', '\0']) {
            return self.close(Fault::Topic, acts);
        }
        acts.push(Act::Publish(Publish {
            topic: topic.to_owned(),
            payload: Bytes::copy_from_slice(publish.payload().as_slice()),
            packet_id,
        }));
    }

    fn close(&mut self, fault: Fault, acts: &mut Vec<Act>) {
        if self.stage != Stage::Closed {
            self.stage = Stage::Closed;
            acts.push(Act::Close(fault));
        }
    }
}
