//! What other processes may ask of a running agent: a socket beside the database, one JSON line each way.
//!
//! Only who may write beside the database reaches it: the file system is the access list.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::Outbox;
use super::lock::beside;
use super::store::Selection;

/// Longest request.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;
/// A client that says nothing this long is cut off.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client waits for an answer: a drop of a full outbox takes its time.
const ANSWER_PATIENCE: Duration = Duration::from_secs(600);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The agent's status.
    Status,
    /// Give up held rows.
    Drop {
        /// Which.
        selection: Selection,
        /// Why; stands in the gap.
        reason: String,
    },
    /// Mark rows that have left for sending again.
    Resend {
        /// Which.
        selection: Selection,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The status.
    Status(Json),
    /// How many rows.
    Rows(u64),
    /// It did not work.
    Error(String),
}

/// The agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// Nobody listens.
    #[error("ask the running agent at {path}: {source}")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It answered something else.
    #[error("understand the answer of the running agent: {0}")]
    Garbled(String),
}

/// Answers until `stop`. Where the socket cannot be made (a path longer than sockets may have) the agent runs on
/// without: commands then name the holder and end.
pub async fn serve<F, S>(database: PathBuf, outbox: Outbox, status: F, stop: CancellationToken)
where
    F: Fn() -> S + Clone + Send + Sync + 'static,
    S: Future<Output = Json> + Send,
{
    let path = beside(&database, "sock");
    // The lock is ours, so a socket that lies here is a dead agent's.
    std::fs::remove_file(&path).ok();
    let listener = match UnixListener::bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "no socket: commands cannot reach this agent");
            stop.cancelled().await;
            return;
        }
    };
    if let Err(error) = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)) {
        tracing::warn!(path = %path.display(), %error, "cannot restrict the socket");
    }
    let mut clients = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (outbox, status) = (outbox.clone(), status.clone());
                    clients.spawn(async move {
                        let client = attend(stream, outbox, status);
                        if let Err(error) = client.await {
                            tracing::debug!(%error, "a client of the socket left");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = clients.join_next() => {}
        }
    }
    std::fs::remove_file(&path).ok();
}

async fn attend<F, S>(stream: tokio::net::UnixStream, outbox: Outbox, status: F) -> std::io::Result<()>
where
    F: Fn() -> S,
    S: Future<Output = Json>,
{
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(read.take(REQUEST_BYTES_MAX));
    tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await??;
    let answer = match serde_json::from_str::<Request>(&line) {
        Err(error) => Answer::Error(format!("not a request: {error}")),
        Ok(Request::Status) => Answer::Status(status().await),
        Ok(Request::Drop { selection, reason }) => rows(outbox.give_up(selection, reason).await),
        Ok(Request::Resend { selection }) => rows(outbox.resend(selection).await),
    };
    let mut bytes = serde_json::to_vec(&answer).expect("answers are plain data with text keys");
    bytes.push(b'\n');
    write.write_all(&bytes).await
}

fn rows(result: Result<u64, super::OutboxError>) -> Answer {
    match result {
        Ok(rows) => Answer::Rows(rows),
        Err(error) => Answer::Error(error.to_string()),
    }
}

/// Asks the agent that runs on the outbox at `database`. Blocks.
///
/// # Errors
/// Nobody listens there, or the answer makes no sense.
pub fn ask(database: &Path, request: &Request) -> Result<Answer, DeskError> {
    let path = beside(database, "sock");
    let unreachable = |source| DeskError::Unreachable { path: path.clone(), source };
    let mut stream = UnixStream::connect(&path).map_err(unreachable)?;
    stream.set_read_timeout(Some(ANSWER_PATIENCE)).map_err(unreachable)?;
    let mut bytes = serde_json::to_vec(request).expect("requests are plain data with text keys");
    bytes.push(b'\n');
    stream.write_all(&bytes).map_err(unreachable)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(unreachable)?;
    serde_json::from_str(&line).map_err(|error| DeskError::Garbled(error.to_string()))
}
