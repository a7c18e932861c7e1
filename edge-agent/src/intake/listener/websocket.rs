//! MQTT over WebSocket (MQTT 5, section 6): the upgrade, and then a stream of bytes in binary messages.

mod frames; // RFC 6455's frames

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::header::{HOST, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue, StatusCode};

use self::frames::Frames;
use super::end::End;

const SUBPROTOCOL: &str = "mqtt";
const READ_BYTES: usize = 8 * 1024;

/// Answers the upgrade; what follows is a stream of MQTT's bytes.
///
/// # Errors
/// The peer does not ask for MQTT over WebSocket; it has been told.
pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> Result<WsIo<S>, End> {
    let accepting = Box::pin(tokio_tungstenite::accept_hdr_async(stream, upgrade));
    // A peer that sends frames before it is answered is refused, so nothing that was read stays behind.
    let socket = accepting.await.map_err(|error| End::WebSocket(error.to_string()))?;
    Ok(WsIo { stream: socket.into_inner(), frames: Frames::default(), out: Vec::new(), written: 0, parting: false })
}

#[expect(clippy::result_large_err, reason = "the type is the library's")]
fn upgrade(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    match judge(request.headers()) {
        Ok(()) => {
            response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
            Ok(response)
        }
        Err((status, why)) => {
            let mut refusal = ErrorResponse::new(Some(why.to_owned()));
            *refusal.status_mut() = status;
            Err(refusal)
        }
    }
}

/// Whether a request is granted, on any path.
fn judge(headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
    let mut offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    if !offered.any(|list| list.split(',').any(|name| name.trim().eq_ignore_ascii_case(SUBPROTOCOL))) {
        return Err((StatusCode::BAD_REQUEST, "offer the subprotocol mqtt"));
    }
    // A browser always says which page it is that connects. A page of somebody else's, opened by somebody in this
    // network, is not to publish here.
    match (headers.get(ORIGIN), headers.get(HOST)) {
        (Some(origin), host) if !is_of(origin, host) => {
            Err((StatusCode::FORBIDDEN, "a page of another host may not connect"))
        }
        _ => Ok(()),
    }
}

fn is_of(origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let (Ok(origin), Some(Ok(host))) = (origin.to_str(), host.map(HeaderValue::to_str)) else { return false };
    let Some((_, origin)) = origin.split_once("://") else { return false };
    name(origin).eq_ignore_ascii_case(name(host))
}

/// Without the port: of that, a page and a listener on one machine have each their own.
fn name(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    }
}

/// MQTT's bytes in a WebSocket's binary messages. Holds nothing while nothing is on its way.
#[derive(Debug)]
pub(super) struct WsIo<S> {
    stream: S,
    frames: Frames,
    /// Frames to be written, and how much of them is.
    out: Vec<u8>,
    written: usize,
    /// We have said goodbye, or the device has and was answered.
    parting: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WsIo<S> {
    /// Writes what waits to be written.
    fn poll_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let rest = &self.out[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        self.written = 0;
        self.out = Vec::new();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WsIo<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        while buf.filled().len() == before && !this.frames.is_closed() {
            // Pings are answered before more is read: who does not read our answers is not heard further.
            if !this.out.is_empty() {
                ready!(this.poll_out(context))?;
                ready!(Pin::new(&mut this.stream).poll_flush(context))?;
            }
            let mut space = [MaybeUninit::uninit(); READ_BYTES];
            let room = buf.remaining().min(READ_BYTES);
            let mut space = ReadBuf::uninit(&mut space[..room]);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut space))?;
            if space.filled().is_empty() {
                break;
            }
            let taken = this.frames.take(space.filled_mut(), |bytes| buf.put_slice(bytes), &mut this.out);
            taken.map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault))?;
        }
        if this.frames.is_closed() && !this.out.is_empty() {
            ready!(this.poll_out(context))?;
            ready!(Pin::new(&mut this.stream).poll_flush(context))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WsIo<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_out(context))?;
        frames::write_message(bytes, &mut this.out);
        // What does not go now goes with the next flush.
        if let Poll::Ready(Err(error)) = this.poll_out(context) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_out(context))?;
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.parting, true) && !this.frames.is_closed() {
            frames::write_close(&mut this.out);
        }
        ready!(this.poll_out(context))?;
        ready!(Pin::new(&mut this.stream).poll_flush(context))?;
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

/// What frames, in pieces of this size, are read as: what is in them, what is answered, and what ended it.
#[cfg(test)]
pub(super) fn fuzzed(wire: &[u8], piece: usize) -> (Vec<u8>, Vec<u8>, Option<String>) {
    let (mut frames, mut read, mut answers) = (Frames::default(), vec![], vec![]);
    let mut wire = wire.to_vec();
    let mut pieces = wire.chunks_mut(piece.min(READ_BYTES));
    let fault =
        pieces.try_for_each(|piece| frames.take(piece, |bytes| read.extend_from_slice(bytes), &mut answers)).err();
    assert!(read.len() <= wire.len(), "no more is read than came");
    (read, answers, fault.map(|fault| fault.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_offers_mqtt_and_is_no_page_of_another_host_may_connect() {
        for (offered, origin, host, status) in [
            (Some("mqtt"), None, Some("gw:1885"), None),
            (Some("mqttv3.1, MQTT"), None, None, None),
            (Some("mqtt"), Some("http://gw"), Some("gw:1885"), None),
            (Some("mqtt"), Some("https://gw:8080"), Some("GW:1885"), None),
            (Some("mqtt"), Some("http://[::1]:80"), Some("[::1]:1885"), None),
            (None, None, Some("gw"), Some(400)),
            (Some("amqp"), None, Some("gw"), Some(400)),
            (Some("mqtt"), Some("http://elsewhere"), Some("gw"), Some(403)),
            (Some("mqtt"), Some("null"), Some("gw"), Some(403)),
            (Some("mqtt"), Some("http://gw"), None, Some(403)),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [(SEC_WEBSOCKET_PROTOCOL, offered), (ORIGIN, origin), (HOST, host)] {
                if let Some(value) = value {
                    headers.insert(name, HeaderValue::from_static(value));
                }
            }
            let judged = judge(&headers).err().map(|(status, _)| status.as_u16());
            assert_eq!(judged, status, "{headers:?}");
        }
    }
}
