//! What is said on the sockets of `simulator sensors`. Its README describes it.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// So long Linux waits for a device that holds the clock, unless it was built otherwise.
const PATIENCE: Duration = Duration::from_secs(1);

/// One connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: UnixStream,
}

impl Wire {
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream })
    }

    /// Says `request`, hears a status and, where that is 0, `answer`.
    pub(super) fn ask(&mut self, request: &[u8], answer: &mut [u8]) -> io::Result<u8> {
        self.stream.write_all(request)?;
        let mut status = [0];
        self.stream.read_exact(&mut status)?;
        if status == [0] {
            self.stream.read_exact(answer)?;
        }
        Ok(status[0])
    }
}

/// True if it was only too slow.
pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
