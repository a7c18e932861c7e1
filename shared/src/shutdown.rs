//! Stopping: one token, one set of tasks, one grace period.
//!
//! The first error or panic cancels the token; so does SIGTERM or SIGINT ([`on_signals`]). Only tasks that pull (from
//! the world or from disk) watch the token; the others end when their input closes. What has not ended when the grace
//! period is over is dropped and named. A second signal ends the process at once.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::cli::Exit;

/// The tasks of a running program. `E` is the program's own error.
#[derive(Debug)]
pub struct Shutdown<E> {
    stop: CancellationToken,
    grace: Duration,
    tasks: JoinSet<Result<(), E>>,
    names: HashMap<Id, &'static str>,
}

/// Why a program stopped that was not asked to, or did not stop in time.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure<E> {
    /// A task ended with an error.
    Task {
        /// The task's name.
        name: &'static str,
        /// Its error.
        error: E,
    },
    /// A task panicked: a bug.
    Panicked {
        /// The task's name.
        name: &'static str,
        /// What the panic said.
        message: String,
    },
    /// Tasks were still at work when the grace period was over.
    GraceOver {
        /// The tasks that were dropped.
        names: Vec<&'static str>,
        /// How long they had.
        grace: Duration,
    },
}

impl<E: Send + 'static> Shutdown<E> {
    /// No tasks yet. `stop` may be cancelled by anyone; `grace` is how long tasks may go on after that.
    pub fn new(stop: CancellationToken, grace: Duration) -> Self {
        Self { stop, grace, tasks: JoinSet::new(), names: HashMap::new() }
    }

    /// The token that is cancelled when the program is to stop.
    pub fn token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task. Its end with `Ok` is no event; its error or panic stops all.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = Result<(), E>> + Send + 'static) {
        let handle = self.tasks.spawn(task);
        self.names.insert(handle.id(), name);
    }

    /// Waits until every task has ended, or until the grace period after a cancellation is over.
    ///
    /// # Errors
    /// The first thing that went wrong; what goes wrong after it is logged.
    pub async fn wait(mut self) -> Result<(), Failure<E>>
    where
        E: fmt::Display,
    {
        let mut first = None;
        let stop = self.stop.clone();
        let grace = self.grace;
        let over = async {
            stop.cancelled().await;
            tokio::time::sleep(grace).await;
        };
        tokio::pin!(over);
        loop {
            let ended = tokio::select! {
                ended = self.tasks.join_next_with_id() => ended,
                () = &mut over => {
                    let names = self.names.values().copied().collect();
                    self.tasks.abort_all();
                    return Err(first.unwrap_or(Failure::GraceOver { names, grace }));
                }
            };
            let failure = match ended {
                None => return first.map_or(Ok(()), Err),
                Some(Ok((id, Ok(())))) => {
                    self.names.remove(&id);
                    continue;
                }
                Some(Ok((id, Err(error)))) => Failure::Task { name: self.name_of(id), error },
                Some(Err(error)) => Failure::Panicked { name: self.name_of(error.id()), message: panic_text(error) },
            };
            self.stop.cancel();
            match first {
                None => first = Some(failure),
                Some(_) => tracing::warn!(%failure, "another task failed while stopping"),
            }
        }
    }

    fn name_of(&mut self, id: Id) -> &'static str {
        self.names.remove(&id).unwrap_or("task")
    }
}

impl<E> Failure<E> {
    /// The task's own error, if that is what stopped the program.
    pub fn error(&self) -> Option<&E> {
        match self {
            Failure::Task { error, .. } => Some(error),
            Failure::Panicked { .. } | Failure::GraceOver { .. } => None,
        }
    }

    /// The exit code; `of_error` gives it for a task's own error.
    pub fn exit(&self, of_error: impl FnOnce(&E) -> Exit) -> Exit {
        match self {
            Failure::Task { error, .. } => of_error(error),
            Failure::Panicked { .. } => Exit::Bug,
            Failure::GraceOver { .. } => Exit::Retry,
        }
    }
}

impl<E: fmt::Display> fmt::Display for Failure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Task { name, error } => write!(f, "{name}: {error}"),
            Failure::Panicked { name, message } => write!(f, "{name} panicked: {message}"),
            Failure::GraceOver { names, grace } => {
                write!(f, "{} did not end within {grace:?}", names.join(", "))
            }
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Failure<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error().and_then(std::error::Error::source)
    }
}

fn panic_text(error: JoinError) -> String {
    if !error.is_panic() {
        return "the task was aborted".to_owned();
    }
    let payload = error.into_panic();
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// Cancels `stop` at the first SIGTERM or SIGINT; at the second the process ends at once with code 75.
///
/// # Errors
/// The handlers cannot be installed.
pub fn on_signals(stop: CancellationToken) -> std::io::Result<()> {
    let mut signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    tokio::spawn(async move {
        either(&mut signals).await;
        tracing::info!("stopping; a second signal ends the process at once");
        stop.cancel();
        either(&mut signals).await;
        tracing::warn!("second signal: leaving at once");
        std::process::exit(Exit::Retry as i32);
    });
    Ok(())
}

async fn either(signals: &mut [Signal; 2]) {
    let [first, second] = signals;
    tokio::select! {
        _ = first.recv() => {}
        _ = second.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shutdown() -> Shutdown<String> {
        Shutdown::new(CancellationToken::new(), Duration::from_millis(50))
    }

    #[tokio::test]
    async fn the_first_error_stops_every_task_and_is_the_answer() {
        let mut all = shutdown();
        let stop = all.token();
        all.spawn("puller", async move {
            stop.cancelled().await;
            Ok(())
        });
        all.spawn("uplink", async { Err("no route".to_owned()) });
        assert_eq!(all.wait().await, Err(Failure::Task { name: "uplink", error: "no route".to_owned() }));
    }

    #[tokio::test]
    async fn a_panic_is_a_bug_with_the_name_of_its_task() {
        let mut all = shutdown();
        all.spawn("judge", async { panic!("no such rule") });
        let failure = all.wait().await.expect_err("a panic");
        assert_eq!(failure.to_string(), "judge panicked: no such rule");
        assert_eq!(failure.exit(|_| Exit::No), Exit::Bug);
    }

    #[tokio::test]
    async fn what_does_not_end_within_the_grace_period_is_named() {
        let mut all = shutdown();
        all.spawn("stuck", std::future::pending());
        all.token().cancel();
        let failure = all.wait().await.expect_err("grace over");
        assert_eq!(failure.to_string(), "stuck did not end within 50ms");
    }

    #[tokio::test]
    async fn all_tasks_done_is_a_clean_end() {
        let mut all = shutdown();
        all.spawn("short", async { Ok(()) });
        assert_eq!(all.wait().await, Ok(()));
    }
}
