//! MQTT in WebSocket messages, as IoT Hub and the provisioning service take it at port 443.
//!
//! Source: Azure IoT Hub, "Communicate with an IoT hub using the MQTT protocol": `wss://{host}:443/$iothub/websocket`, with
//! the subprotocol `mqtt`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use futures::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::Fault;

const PATH: &str = "$iothub/websocket";
/// A message holds few packets, and a packet from the hub is small.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// So much may wait to be written; above it writing waits.
const WRITE_BYTES_MAX: usize = 1024 * 1024;

/// The bytes in a WebSocket's binary messages.
pub(super) struct Bytestream<S> {
    socket: WebSocketStream<S>,
    /// Of the last message, not yet read.
    read: Bytes,
}

impl<S> Bytestream<S> {
    pub(super) fn new(socket: WebSocketStream<S>) -> Self {
        Self { socket, read: Bytes::new() }
    }
}

/// Shakes hands.
pub(super) async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    host: &str,
    port: u16,
) -> Result<Bytestream<S>, Fault> {
    let fault = |error: Error| Fault { reason: "websocket", text: explain(&error) };
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let mut request = format!("wss://{host}:{port}/{PATH}").into_client_request().map_err(fault)?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BYTES_MAX);
    let shaken = Box::pin(tokio_tungstenite::client_async_with_config(request, stream, Some(config))).await;
    Ok(Bytestream::new(shaken.map_err(fault)?.0))
}

fn explain(error: &Error) -> String {
    match error {
        Error::Http(response) => {
            format!(
                "WebSocket is refused (HTTP {}); is this the host that was meant, or a page of the network?",
                response.status()
            )
        }
        other => format!("no WebSocket: {other}"),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Bytestream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.read.is_empty() {
            match ready!(Pin::new(&mut this.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => this.read = bytes,
                // The library answers pings.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Text(_))) => {
                    let text = "MQTT comes in binary messages, and this one is text";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
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

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Bytestream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut socket = Pin::new(&mut self.get_mut().socket);
        ready!(socket.as_mut().poll_ready(cx)).map_err(io_error)?;
        let part = &bytes[..bytes.len().min(WRITE_BYTES_MAX / 2)];
        socket.start_send(Message::Binary(Bytes::copy_from_slice(part))).map_err(io_error)?;
        Poll::Ready(Ok(part.len()))
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

/// A hub that has gone is the end; anything else is an error.
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
