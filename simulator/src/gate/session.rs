//! One device's MQTT session without the socket: bytes in, things to do out.
//!
//! CONNECT, PUBLISH at QoS 0 and 1, PUBACK, SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT; everything else closes the
//! connection. Never acknowledges a publish by itself, and never prints a CONNECT: it holds the token.

use std::time::Duration;

use bytes::Bytes;
use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::event::{Event, TimerKind};
use mqtt_protocol_core::mqtt::connection::{ConnectionOptions, role};
use mqtt_protocol_core::mqtt::packet::{GenericPacketTrait, Packet, Qos, v3_1_1};
use mqtt_protocol_core::mqtt::result_code::{ConnectReturnCode, MqttError, SubackReturnCode};
use mqtt_protocol_core::mqtt::{Connection, Version};
use shared::config::Secret;

/// Every CONNECT begins with it.
const CONNECT_BYTE: u8 = 0x10;
/// A will of 64 KB, and room for names and a token. Whoever has not said who it is gets no more memory.
const CONNECT_BYTES_MAX: usize = 80 * 1024;
/// A length of four bytes, the longest protocol name and its level stand within so many.
const HEAD_BYTES: usize = 16;
/// "Unacceptable protocol version", in the only form that clients of every version read.
const OTHER_VERSION: [u8; 4] = [0x20, 2, 0, 1];

/// What the connection is to do next.
#[derive(Debug)]
pub(crate) enum Act {
    /// A device introduced itself: answer with [`Session::accept`] or [`Session::refuse`] before feeding more.
    Connect(Hello),
    /// Write these bytes.
    Send(Vec<u8>),
    /// A publish.
    Publish(Publish),
    /// The device has what was said under this id.
    Heard(u16),
    /// Filters a device asks for: answer with [`Session::subscribed`], or close.
    Subscribe { packet_id: u16, filters: Vec<(String, Qos)> },
    /// Filters it does not want any more: answer with [`Session::unsubscribed`], or close.
    Unsubscribe { packet_id: u16, filters: Vec<String> },
    /// From now on, silence of this length ends the connection; `None`: the device asked for no limit.
    Quiet(Option<Duration>),
    /// The device said goodbye.
    Goodbye,
    /// Close at once.
    Close(Fault),
}

/// Who a device says it is.
#[derive(Debug)]
pub(crate) struct Hello {
    pub(crate) client_id: String,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    /// True: nothing of an earlier session counts, and nothing of this one will.
    pub(crate) clean: bool,
    /// What to publish for it when it goes without a goodbye.
    pub(crate) will: Option<Publish>,
}

/// One publish.
#[derive(Debug, Clone)]
pub(crate) struct Publish {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) retain: bool,
    /// `None`: QoS 0, nobody waits for an acknowledgement.
    pub(crate) packet_id: Option<u16>,
}

/// Bytes or packets that close the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("the first packet is not CONNECT")]
    NotConnect,
    #[error("not MQTT 3.1.1")]
    Version,
    #[error("the client id is not allowed")]
    ClientId,
    #[error("a packet is larger than any message may be")]
    TooLarge,
    #[error("a QoS 2 publish")]
    Qos2,
    #[error("bytes that are not MQTT")]
    Garbage,
    #[error("a packet that does not belong here")]
    Protocol,
}

impl Fault {
    /// As it stands in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Fault::NotConnect => "not-connect",
            Fault::Version => "version",
            Fault::ClientId => "client-id",
            Fault::TooLarge => "too-large",
            Fault::Qos2 => "qos2",
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Fresh,
    Asking,
    Open,
    Closed,
}

/// The state of one session.
pub(crate) struct Session {
    mqtt: Connection<role::Server>,
    stage: Stage,
    mid_packet: bool,
    /// The first bytes, until CONNECT is whole.
    head: Vec<u8>,
}

impl Session {
    /// A session that takes packets of at most `packet_bytes_max` bytes.
    pub(crate) fn new(packet_bytes_max: u32) -> Self {
        let options = ConnectionOptions::new().maximum_packet_size_recv(packet_bytes_max);
        let mut mqtt = Connection::with_options(Version::V3_1_1, options);
        mqtt.set_auto_pub_response(false);
        mqtt.set_auto_ping_response(true);
        Self { mqtt, stage: Stage::Fresh, mid_packet: false, head: vec![] }
    }

    /// True while a packet has begun and not ended.
    pub(crate) fn mid_packet(&self) -> bool {
        self.mid_packet
    }

    /// Takes at most one packet off the front of `bytes`; returns how many bytes were taken. Nothing is taken while an
    /// answer to [`Act::Connect`] is owed, nor after a close.
    pub(crate) fn feed(&mut self, bytes: &[u8], acts: &mut Vec<Act>) -> usize {
        if bytes.is_empty() || matches!(self.stage, Stage::Asking | Stage::Closed) {
            return 0;
        }
        if self.stage == Stage::Fresh && !self.begins_well(bytes, acts) {
            return 0;
        }
        let mut cursor = Cursor::new(bytes);
        let events = self.mqtt.recv(&mut cursor);
        self.mid_packet = events.is_empty();
        self.perform(events, acts);
        usize::try_from(cursor.position()).unwrap_or(bytes.len())
    }

    /// Judges the first bytes of a connection as soon as they say something, not when their packet is whole.
    fn begins_well(&mut self, bytes: &[u8], acts: &mut Vec<Act>) -> bool {
        self.head.extend(bytes.iter().take(HEAD_BYTES - self.head.len()));
        let fault = match self.head.as_slice() {
            [first, ..] if *first != CONNECT_BYTE => Fault::NotConnect,
            head if speaks_other_version(head) => {
                acts.push(Act::Send(OTHER_VERSION.to_vec()));
                Fault::Version
            }
            head if remaining_length(head).is_some_and(|length| CONNECT_BYTES_MAX < length) => Fault::TooLarge,
            _ => return true,
        };
        self.close(fault, acts);
        false
    }

    /// The device may go on; `present` if there is something of an earlier session.
    pub(crate) fn accept(&mut self, present: bool, acts: &mut Vec<Act>) {
        self.stage = Stage::Open;
        self.connack(ConnectReturnCode::Accepted, present, acts);
    }

    /// The device may not; the connection is to be closed once the answer is written.
    pub(crate) fn refuse(&mut self, code: ConnectReturnCode, acts: &mut Vec<Act>) {
        self.stage = Stage::Closed;
        self.connack(code, false, acts);
    }

    /// The publish with this id is stored.
    pub(crate) fn acknowledge(&mut self, packet_id: u16, acts: &mut Vec<Act>) {
        match v3_1_1::Puback::builder().packet_id(packet_id).build() {
            Ok(puback) => self.send(puback.into(), acts),
            Err(error) => self.close(error.into(), acts),
        }
    }

    /// Says something to the device; at QoS 1, gives the id of [`Act::Heard`]. What no packet can hold is left out, as is
    /// what comes when all ids are under way.
    pub(crate) fn say(&mut self, topic: String, payload: Bytes, qos: Qos, acts: &mut Vec<Act>) -> Option<u16> {
        let packet_id = match qos {
            Qos::AtMostOnce => None,
            _ => Some(self.mqtt.acquire_packet_id().ok()?),
        };
        let publish = v3_1_1::Publish::builder().topic_name(topic).map(|publish| {
            let publish = publish.qos(if packet_id.is_some() { Qos::AtLeastOnce } else { Qos::AtMostOnce });
            publish.packet_id(packet_id).payload(&payload[..]).build()
        });
        match publish {
            Ok(Ok(publish)) => {
                self.send(publish.into(), acts);
                packet_id
            }
            Ok(Err(_)) | Err(_) => {
                if let Some(packet_id) = packet_id {
                    self.mqtt.release_packet_id(packet_id);
                }
                None
            }
        }
    }

    /// The answer to [`Act::Subscribe`], one code for each filter.
    pub(crate) fn subscribed(&mut self, packet_id: u16, codes: Vec<SubackReturnCode>, acts: &mut Vec<Act>) {
        match v3_1_1::Suback::builder().packet_id(packet_id).return_codes(codes).build() {
            Ok(suback) => self.send(suback.into(), acts),
            Err(error) => self.close(error.into(), acts),
        }
    }

    /// The answer to [`Act::Unsubscribe`].
    pub(crate) fn unsubscribed(&mut self, packet_id: u16, acts: &mut Vec<Act>) {
        match v3_1_1::Unsuback::builder().packet_id(packet_id).build() {
            Ok(unsuback) => self.send(unsuback.into(), acts),
            Err(error) => self.close(error.into(), acts),
        }
    }

    fn connack(&mut self, code: ConnectReturnCode, present: bool, acts: &mut Vec<Act>) {
        let connack = v3_1_1::Connack::builder().return_code(code).session_present(present).build();
        self.send(connack.expect("a CONNACK has all its fields").into(), acts);
    }

    fn send(&mut self, packet: Packet, acts: &mut Vec<Act>) {
        let events = self.mqtt.send(packet);
        self.perform(events, acts);
    }

    fn perform(&mut self, events: Vec<Event>, acts: &mut Vec<Act>) {
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
                self.head = vec![];
                acts.push(Act::Connect(hello(&connect)));
            }
            (Stage::Fresh | Stage::Asking, _) => self.close(Fault::NotConnect, acts),
            (Stage::Open, Packet::V3_1_1Publish(publish)) => self.publish(&publish, acts),
            (Stage::Open, Packet::V3_1_1Puback(puback)) => acts.push(Act::Heard(puback.packet_id())),
            (Stage::Open, Packet::V3_1_1Subscribe(subscribe)) => {
                let filters = subscribe.entries().iter();
                let filters = filters.map(|entry| (entry.topic_filter().to_owned(), entry.sub_opts().qos())).collect();
                acts.push(Act::Subscribe { packet_id: subscribe.packet_id(), filters });
            }
            (Stage::Open, Packet::V3_1_1Unsubscribe(unsubscribe)) => {
                let filters = unsubscribe.entries().iter().map(|filter| filter.as_str().to_owned()).collect();
                acts.push(Act::Unsubscribe { packet_id: unsubscribe.packet_id(), filters });
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
        acts.push(Act::Publish(Publish {
            topic: publish.topic_name().to_owned(),
            payload: Bytes::copy_from_slice(publish.payload().as_slice()),
            retain: publish.retain(),
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

/// The length in a packet's head, if it has come whole.
fn remaining_length(bytes: &[u8]) -> Option<usize> {
    let mut length = 0;
    for (at, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some(length);
        }
    }
    None
}

/// True for a CONNECT of MQTT 3.1 or 5, as far as it has come.
fn speaks_other_version(bytes: &[u8]) -> bool {
    // The type, then a length whose bytes but the last have their high bit set.
    let Some(length) = bytes.iter().skip(1).take(4).position(|byte| byte & 0x80 == 0) else { return false };
    match bytes.get(length + 2..) {
        Some([0, 4, b'M', b'Q', b'T', b'T', level, ..]) => *level != 4,
        Some([0, 6, b'M', b'Q', b'I', b's', b'd', b'p', ..]) => true,
        _ => false,
    }
}

fn hello(connect: &v3_1_1::Connect) -> Hello {
    let will = connect.will_flag().then(|| Publish {
        topic: connect.will_topic().unwrap_or_default().to_owned(),
        payload: Bytes::copy_from_slice(connect.will_payload().unwrap_or_default()),
        retain: connect.will_retain(),
        packet_id: None,
    });
    Hello {
        client_id: connect.client_id().to_owned(),
        user: connect.user_name().map(str::to_owned),
        password: connect.password().map(|bytes| Secret::new(String::from_utf8_lossy(bytes))),
        clean: connect.clean_session(),
        will,
    }
}

#[cfg(test)]
mod tests;
