//! A socket that can be made to fail as networks do: to be cut, or to swallow everything without a word.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

const OPEN: u8 = 0;
const DARK: u8 = 1;
const CUT: u8 = 2;

/// What reaches into a [`LineIo`].
#[derive(Debug, Default)]
pub(in crate::hub) struct Line {
    state: AtomicU8,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Line {
    /// The peer gets a reset.
    pub(in crate::hub) fn cut(&self) {
        self.set(CUT);
    }

    /// Nothing is read or written any more, and the peer is not told.
    pub(super) fn darken(&self) {
        let _ = self.state.compare_exchange(OPEN, DARK, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Undoes [`Line::darken`].
    pub(super) fn lighten(&self) {
        if self.state.compare_exchange(DARK, OPEN, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.wake();
        }
    }

    fn set(&self, state: u8) {
        self.state.store(state, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        self.reader.wake();
        self.writer.wake();
    }

    /// Ready if bytes may pass.
    fn poll(&self, waker: &AtomicWaker, cx: &Context<'_>) -> Poll<io::Result<()>> {
        waker.register(cx.waker());
        match self.state.load(Ordering::SeqCst) {
            OPEN => Poll::Ready(Ok(())),
            DARK => Poll::Pending,
            _ => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

/// Makes lines pass bytes again.
pub(super) fn lighten(lines: &[Weak<Line>]) {
    lines.iter().filter_map(Weak::upgrade).for_each(|line| line.lighten());
}

/// A socket with a [`Line`] to it.
#[derive(Debug)]
pub(in crate::hub) struct LineIo {
    io: TcpStream,
    line: Arc<Line>,
}

impl LineIo {
    pub(in crate::hub) fn new(io: TcpStream) -> (Self, Arc<Line>) {
        let line = Arc::new(Line::default());
        (Self { io, line: Arc::clone(&line) }, line)
    }
}

impl Drop for LineIo {
    fn drop(&mut self) {
        if self.line.state.load(Ordering::SeqCst) == CUT {
            // So that the peer is reset, and reads nothing that was under way.
            let _ = SockRef::from(&self.io).set_linger(Some(std::time::Duration::ZERO));
        }
    }
}

impl AsyncRead for LineIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.line.poll(&this.line.reader, cx)? {
            Poll::Ready(()) => Pin::new(&mut this.io).poll_read(cx, buf),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for LineIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.line.poll(&this.line.writer, cx)? {
            Poll::Ready(()) => Pin::new(&mut this.io).poll_write(cx, bytes),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.line.poll(&this.line.writer, cx)? {
            Poll::Ready(()) => Pin::new(&mut this.io).poll_shutdown(cx),
            Poll::Pending => Poll::Pending,
        }
    }
}
