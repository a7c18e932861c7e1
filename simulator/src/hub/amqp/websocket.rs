//! AMQP over WebSocket (OASIS AMQP WebSocket Binding): the same bytes, in binary messages. For networks where only port
//! 443 is open, Microsoft's SDKs dial `/$servicebus/websocket` and ask for the subprotocol `amqp`, or `AMQPWSB10`, its
//! older name.

use std::fmt::Debug;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use futures::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

const PATH: &str = "/$servicebus/websocket";
/// In the order preferred.
const SUBPROTOCOLS: [&str; 2] = ["amqp", "AMQPWSB10"];
/// A message may hold several AMQP frames of up to 64 KiB; peers send one or few.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// What is answered to a request: the subprotocol that will be spoken, or why none is.
fn judge(path: &str, offered: &[&str]) -> Result<&'static str, (StatusCode, &'static str)> {
    if !path.trim_end_matches('/').eq_ignore_ascii_case(PATH) {
        return Err((StatusCode::NOT_FOUND, "there is only /$servicebus/websocket"));
    }
    let mut offered = offered.iter().flat_map(|list| list.split(',')).map(str::trim);
    let spoken = SUBPROTOCOLS.into_iter();
    let chosen = offered.find_map(|name| spoken.clone().find(|spoken| spoken.eq_ignore_ascii_case(name)));
    chosen.ok_or((StatusCode::BAD_REQUEST, "offer the subprotocol amqp or AMQPWSB10"))
}

#[expect(clippy::result_large_err, reason = "the type is the library's")]
fn upgrade(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let offered: Vec<&str> = offered.filter_map(|value| value.to_str().ok()).collect();
    match judge(request.uri().path(), &offered) {
        Ok(subprotocol) => {
            response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
            Ok(response)
        }
        Err((status, why)) => {
            let mut refusal = ErrorResponse::new(Some(why.to_owned()));
            *refusal.status_mut() = status;
            Err(refusal)
        }
    }
}

/// Answers the upgrade; what follows is a stream of bytes.
///
/// # Errors
/// If the peer does not ask for AMQP over WebSocket; it has been told.
pub(super) async fn accept<S>(stream: S) -> Result<WsIo<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX)).max_frame_size(Some(MESSAGE_BYTES_MAX));
    let socket = tokio_tungstenite::accept_hdr_async_with_config(stream, upgrade, Some(config)).await?;
    Ok(WsIo::new(socket))
}

/// The bytes in a WebSocket's binary messages.
#[derive(Debug)]
pub(super) struct WsIo<S> {
    socket: WebSocketStream<S>,
    /// Of the last message, not yet read.
    read: Bytes,
}

impl<S> WsIo<S> {
    pub(super) fn new(socket: WebSocketStream<S>) -> Self {
        Self { socket, read: Bytes::new() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WsIo<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.read.is_empty() {
            match ready!(Pin::new(&mut this.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => this.read = bytes,
                // Pings are answered by the library.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "AMQP comes in binary messages",
                    )));
                }
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(ended(error)),
            }
        }
        let length = this.read.len().min(buf.remaining());
        buf.put_slice(&this.read[..length]);
        this.read.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WsIo<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let failed = |error| Poll::Ready(Err(io_error(error)));
        match ready!(Pin::new(&mut this.socket).poll_ready(cx)) {
            Ok(()) => match Pin::new(&mut this.socket).start_send(Message::Binary(Bytes::copy_from_slice(bytes))) {
                Ok(()) => Poll::Ready(Ok(bytes.len())),
                Err(error) => failed(error),
            },
            Err(error) => failed(error),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx).map_err(io_error)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match ready!(Pin::new(&mut self.get_mut().socket).poll_close(cx)) {
            Ok(()) => Ok(()),
            Err(error) => ended(error),
        })
    }
}

/// A peer that has gone is the end; anything else is an error.
fn ended(error: Error) -> io::Result<()> {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => Ok(()),
        error => Err(io_error(error)),
    }
}

fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        error => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(super::super::tests::fuzz())]

        #[test]
        fn whatever_is_asked_for_only_amqp_is_spoken(
            path in prop_oneof![Just(PATH.to_owned()), "[ -~é]{0,30}"],
            offered in proptest::collection::vec("(amqp|AMQPWSB10|[ -~é]{0,9})([, ]|)([ -~é]{0,5})", 0..4),
        ) {
            let offered: Vec<&str> = offered.iter().map(String::as_str).collect();
            if let Ok(spoken) = judge(&path, &offered) {
                prop_assert!(SUBPROTOCOLS.contains(&spoken));
                prop_assert!(offered.concat().to_lowercase().contains(&spoken.to_lowercase()));
            }
        }
    }

    #[test]
    fn a_request_is_for_amqp_on_the_one_path() {
        for (path, offered, is) in [
            ("/$servicebus/websocket", &["amqp"][..], Ok("amqp")),
            ("/$servicebus/websocket", &["AMQPWSB10"], Ok("AMQPWSB10")),
            ("/$ServiceBus/WebSocket/", &["mqtt, AMQP"], Ok("amqp")),
            ("/$servicebus/websocket", &["mqtt", "x , AMQPWSB10"], Ok("AMQPWSB10")),
            ("/$servicebus/websocket", &[], Err(400)),
            ("/$servicebus/websocket", &["mqtt"], Err(400)),
            ("/", &["amqp"], Err(404)),
            ("/$iothub/websocket", &["amqp"], Err(404)),
        ] {
            let judged = judge(path, offered).map_err(|(status, _)| status.as_u16());
            assert_eq!(judged, is, "{path} {offered:?}");
        }
    }
}
