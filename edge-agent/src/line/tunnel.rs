//! Our end of a line, for a client that dials by itself.
//!
//! rumqttc takes no stream from outside; but it dials Unix sockets. So it is given the name of one in the abstract
//! namespace: there is no file, and it is let in only if it is this very process.

use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::sieve::Sieve;
use super::{Dial, Fault, Stream};

/// After the client's goodbye, so long the other side may take to end.
const GOODBYE: Duration = Duration::from_secs(2);

/// Why the line broke, once it has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Broken(Arc<OnceLock<Fault>>);

impl Broken {
    /// `None` while it has not, and where the other side just ended.
    pub(crate) fn fault(&self) -> Option<&Fault> {
        self.0.get()
    }
}

/// A line under way to its end; dropped, it is cut.
#[derive(Debug)]
pub(crate) struct Tunnel {
    name: String,
    broken: Broken,
    carrying: JoinHandle<()>,
}

impl Tunnel {
    /// Opens our end; the line itself is laid once the client has come. What comes over it goes through the sieve.
    pub(super) fn open(dial: Dial, sieve: Option<Sieve>) -> std::io::Result<Self> {
        // Nobody can know it before; whoever reads it afterwards is not let in.
        let random = RandomState::new().hash_one(std::process::id());
        let name = format!("\0edge-agent/line/{random:016x}");
        let listener = UnixListener::bind(Path::new(&name))?;
        let broken = Broken::default();
        let carrying = tokio::spawn(Box::pin(carry(listener, (dial, sieve), broken.clone())));
        Ok(Self { name, broken, carrying })
    }

    /// What the client dials.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Tells why it broke.
    pub(crate) fn broken(&self) -> Broken {
        self.broken.clone()
    }

    /// After the client has ended: waits until its last bytes are out, or for two seconds.
    pub(crate) async fn drain(&mut self) {
        // Too late, or it has panicked: it is cut either way.
        let _ = timeout(GOODBYE, &mut self.carrying).await;
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.carrying.abort();
    }
}

async fn carry(listener: UnixListener, (dial, sieve): (Dial, Option<Sieve>), broken: Broken) {
    let Ok(mut client) = ourselves(&listener).await else { return };
    drop(listener);
    let mut line = match dial.lay().await {
        Ok(line) => match sieve {
            Some(sieve) => Box::new(sieve.over(line)) as Box<dyn Stream>,
            None => line,
        },
        Err(fault) => {
            // Before the client sees the end.
            let _ = broken.0.set(fault);
            return;
        }
    };
    if let Err(error) = copy_bidirectional(&mut client, &mut line).await {
        let hung_up = matches!(error.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset);
        let reason = if hung_up { "closed" } else { "broken" };
        let _ = broken.0.set(Fault { reason, text: error.to_string() });
    }
    // What the other side sent before it ended is with the client already.
    let _ = client.shutdown().await;
}

async fn ourselves(listener: &UnixListener) -> std::io::Result<UnixStream> {
    let us = i32::try_from(std::process::id()).ok();
    loop {
        let (stream, _) = listener.accept().await?;
        if us.is_some() && stream.peer_cred()?.pid() == us {
            return Ok(stream);
        }
    }
}
