//! AMQP and MQTT over WebSocket: the same bytes, in binary messages, for networks where only port 443 is open.
//! Microsoft's SDKs dial `/$servicebus/websocket` for Event Hubs, `/$iothub/websocket` for an IoT Hub and for the
//! provisioning service, and ask for the subprotocol `mqtt`, or `amqp`, or `AMQPWSB10`, its older name.

use std::fmt::Debug;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use futures::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

/// A message may hold several AMQP frames of up to 64 KiB, or an MQTT packet of a quarter of a MiB; peers send one or few.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// What is spoken inside of WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    Amqp,
    Mqtt,
}

/// Subprotocols, in the order preferred.
const SUBPROTOCOLS: [(&str, Spoken); 3] = [("amqp", Spoken::Amqp), ("AMQPWSB10", Spoken::Amqp), ("mqtt", Spoken::Mqtt)];

/// The first of the subprotocols offered, header by header, that is spoken here, by its name as we answer it.
pub(crate) fn choose(offered: &[&str], spoken: &[Spoken]) -> Option<(&'static str, Spoken)> {
    let mut offered = offered.iter().flat_map(|list| list.split(',')).map(str::trim);
    offered.find_map(|name| {
        let known = SUBPROTOCOLS.into_iter().filter(|(_, kind)| spoken.contains(kind));
        known.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name))
    })
}

/// What somebody is to offer who offered nothing of it.
pub(crate) fn offer(spoken: &[Spoken]) -> &'static str {
    match (spoken.contains(&Spoken::Mqtt), spoken.contains(&Spoken::Amqp)) {
        (true, false) => "offer the subprotocol mqtt",
        (false, true) => "offer the subprotocol amqp or AMQPWSB10",
        _ => "offer the subprotocol mqtt or amqp",
    }
}

/// Where devices find MQTT.
pub(crate) const DEVICES_PATH: &str = "/$iothub/websocket";

/// True if a request's path is this one; the services are not strict about it.
pub(crate) fn is_at(path: &str, at: &str) -> bool {
    path.trim_end_matches('/').eq_ignore_ascii_case(at)
}

/// How large messages may be.
pub(crate) fn config(bytes_max: usize) -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(Some(bytes_max)).max_frame_size(Some(bytes_max))
}

/// The bytes in a WebSocket's binary messages.
#[derive(Debug)]
pub(crate) struct WsIo<S> {
    socket: WebSocketStream<S>,
    /// Of the last message, not yet read.
    read: Bytes,
}

impl<S> WsIo<S> {
    pub(crate) fn new(socket: WebSocketStream<S>) -> Self {
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
                        "everything comes in binary messages",
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
    use super::*;

    #[test]
    fn of_what_is_offered_the_first_that_is_spoken_is_taken() {
        let all = &[Spoken::Amqp, Spoken::Mqtt][..];
        for (offered, spoken, is) in [
            (&["amqp"][..], all, Some(("amqp", Spoken::Amqp))),
            (&["AMQPWSB10"], all, Some(("AMQPWSB10", Spoken::Amqp))),
            (&["MQTT"], all, Some(("mqtt", Spoken::Mqtt))),
            (&["mqtt, AMQP"], &[Spoken::Amqp], Some(("amqp", Spoken::Amqp))),
            (&["mqtt", "x , AMQPWSB10"], &[Spoken::Amqp], Some(("AMQPWSB10", Spoken::Amqp))),
            (&["mqttv3.1", "mqtt"], all, Some(("mqtt", Spoken::Mqtt))),
            (&[], all, None),
            (&["mqtt"], &[Spoken::Amqp], None),
            (&["amqp"], &[Spoken::Mqtt], None),
        ] {
            assert_eq!(choose(offered, spoken), is, "{offered:?}");
        }
        assert!(is_at("/$ServiceBus/WebSocket/", "/$servicebus/websocket") && !is_at("/", "/$servicebus/websocket"));
    }
}
