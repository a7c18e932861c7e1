//! The few MQTT 3.1.1 packets a load needs, as bytes. Encoded once, so that the load costs next to nothing.

/// PINGREQ, whole.
pub(super) const PINGREQ: [u8; 2] = [0xc0, 0];
/// DISCONNECT, whole.
pub(super) const DISCONNECT: [u8; 2] = [0xe0, 0];
/// CONNACK of a new session, whole.
pub(super) const CONNACK: [u8; 4] = [0x20, 2, 0, 0];
/// The high half of a packet's first byte.
pub(super) const CONNECT_KIND: u8 = 1;
/// See [`CONNECT_KIND`].
pub(super) const PUBLISH_KIND: u8 = 3;
/// See [`CONNECT_KIND`].
pub(super) const PUBACK_KIND: u8 = 4;
/// See [`CONNECT_KIND`].
pub(super) const SUBACK_KIND: u8 = 9;
/// See [`CONNECT_KIND`].
pub(super) const PINGRESP_KIND: u8 = 13;

/// Who connects.
#[derive(Debug, Clone)]
pub(super) struct Who {
    /// The client id.
    pub(super) client_id: String,
    /// The user name.
    pub(super) user: String,
    /// The password.
    pub(super) password: String,
}

/// CONNECT; a session that is not `clean` stays when the client goes.
pub(super) fn connect(who: &Who, keep_alive_s: u16, clean: bool) -> Vec<u8> {
    let flags = 0b1100_0000 | if clean { 0b10 } else { 0 };
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, flags];
    body.extend_from_slice(&keep_alive_s.to_be_bytes());
    text(&mut body, &who.client_id);
    text(&mut body, &who.user);
    text(&mut body, &who.password);
    packet(0x10, &body)
}

/// SUBSCRIBE to one filter at QoS 1.
pub(super) fn subscribe(filter: &str) -> Vec<u8> {
    let mut body = vec![0, 1];
    text(&mut body, filter);
    body.push(1);
    packet(0x82, &body)
}

/// PUBACK.
pub(super) fn puback(id: [u8; 2]) -> [u8; 4] {
    [0x40, 2, id[0], id[1]]
}

/// A PUBLISH at QoS 1 that is sent again and again under other packet ids.
#[derive(Debug, Clone)]
pub(super) struct Publish {
    packet: Vec<u8>,
    id_at: usize,
}

impl Publish {
    /// Encodes it.
    pub(super) fn new(topic: &str, body: &[u8]) -> Self {
        let mut content = vec![];
        text(&mut content, topic);
        let id_in_content = content.len();
        content.extend_from_slice(&[0, 0]);
        content.extend_from_slice(body);
        let whole = packet(0x32, &content);
        let id_at = whole.len() - content.len() + id_in_content;
        Self { packet: whole, id_at }
    }

    /// Appends it with a packet id, which must not be 0.
    pub(super) fn push(&self, out: &mut Vec<u8>, id: u16) {
        let start = out.len();
        out.extend_from_slice(&self.packet);
        out[start + self.id_at..start + self.id_at + 2].copy_from_slice(&id.to_be_bytes());
    }
}

/// A packet seen in a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen<'a> {
    /// The high half of its first byte.
    pub(super) kind: u8,
    /// What follows its length.
    pub(super) content: &'a [u8],
    /// Its length, all in all.
    pub(super) length: usize,
}

/// The packet at the start of `bytes`; `None` until it is whole.
pub(super) fn first(bytes: &[u8]) -> Option<Seen<'_>> {
    let kind = bytes.first()? >> 4;
    let mut length = 0;
    for (at, byte) in bytes.iter().enumerate().skip(1).take(4) {
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        if byte & 0x80 == 0 {
            let content = bytes.get(at + 1..at + 1 + length)?;
            return Some(Seen { kind, content, length: at + 1 + length });
        }
    }
    None
}

/// The packet id of a PUBLISH at QoS 1, by its content.
pub(super) fn publish_id(content: &[u8]) -> Option<[u8; 2]> {
    let topic = usize::from(u16::from_be_bytes(*content.first_chunk()?));
    content.get(2 + topic..)?.first_chunk().copied()
}

fn text(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("a load's texts are short");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn packet(first: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut rest = content.len();
    loop {
        let low = u8::try_from(rest & 0x7f).expect("seven bits");
        rest >>= 7;
        out.push(if rest == 0 { low } else { low | 0x80 });
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_is_read_as_it_was_written() {
        for body in [0, 1, 100, 256, 20_000] {
            let mut out = vec![];
            Publish::new("devices/d/messages/events/", &vec![7; body]).push(&mut out, 0x0102);
            let seen = first(&out).expect("whole");
            assert_eq!((seen.kind, seen.length), (PUBLISH_KIND, out.len()), "{body}");
            assert_eq!(publish_id(seen.content), Some([1, 2]), "{body}");
            assert!(first(&out[..out.len() - 1]).is_none(), "{body}");
        }
    }

    #[test]
    fn what_is_not_whole_is_no_packet() {
        for bytes in [&[][..], &[0x40], &[0x40, 2, 0], &[0x30, 0x80], &[0x30, 0xff, 0xff, 0xff, 0xff]] {
            assert_eq!(first(bytes), None, "{bytes:?}");
        }
        assert_eq!(first(&puback([0, 9])), Some(Seen { kind: PUBACK_KIND, content: &[0, 9], length: 4 }));
    }
}
