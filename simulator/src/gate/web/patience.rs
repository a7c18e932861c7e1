//! A stream whose peer must take what it is sent: where a write does not get on for so long, it fails.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A stream with patience, but not without end.
#[derive(Debug)]
pub(crate) struct Patient<S> {
    stream: S,
    /// How long a write may wait.
    length: Duration,
    /// Runs while one does.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, length: Duration) -> Self {
        Self { stream, length, waiting: None }
    }

    /// Takes the answer of a write, or fails where it has waited too long.
    fn bounded<T>(&mut self, cx: &mut Context<'_>, answer: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if answer.is_ready() {
            self.waiting = None;
            return answer;
        }
        let length = self.length;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(length)));
        match waiting.as_mut().poll(cx) {
            Poll::Ready(()) => {
                waiting.as_mut().reset(Instant::now() + length);
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let answer = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.bounded(cx, answer)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let answer = Pin::new(&mut this.stream).poll_flush(cx);
        this.bounded(cx, answer)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let answer = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.bounded(cx, answer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_given_up_and_one_that_reads_is_not() {
        let (near, mut far) = tokio::io::duplex(4);
        let mut near = Patient::new(near, Duration::from_secs(60));
        let reading = tokio::spawn(async move {
            for _ in 0..8 {
                far.read_u32().await.expect("read");
            }
            far
        });
        near.write_all(&[0; 32]).await.expect("taken");
        let _far = reading.await.expect("no panic");
        near.write_all(&[0; 4]).await.expect("there is room");
        near.length = Duration::from_millis(20);
        let refused = near.write_all(&[0; 4]).await.expect_err("nobody reads");
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
    }
}
