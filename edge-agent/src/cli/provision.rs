//! `provision`: asks once which hub is ours, and keeps the answer for `run`.

use std::io::Write as _;
use std::process::ExitCode;

use shared::cli::Exit;
use shared::clock::Clock;

use super::Refusal;
use crate::config::Config;
use crate::hub::SourceError;
use crate::outbox::lock::{Lock, LockError};
use crate::provision::{self, Fault, record};

pub(super) fn run(config: &Config, json: bool) -> Result<ExitCode, Refusal> {
    let network = config.network.network().map_err(|error| Refusal::new(SourceError::from(error), Exit::Usage))?;
    let applicant = config.provisioning.applicant(network);
    let applicant = applicant.map_err(|error| Refusal::new(SourceError::from(error), Exit::Usage))?;
    let clock = Clock::Real;
    let path = &config.outbox.path;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| {
            Refusal::new(format!("make the outbox's folder {}: {error}", parent.display()), Exit::Usage)
        })?;
    }
    // A running agent has its hub, or asks for one by itself.
    let _lock = Lock::take(path, "provision", clock.now()).map_err(|error| {
        let exit = if matches!(error, LockError::Held { .. }) { Exit::Retry } else { Exit::Usage };
        Refusal::new(error, exit)
    })?;
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Refusal::new(error, Exit::Retry))?;
    let asked = runtime.block_on(Box::pin(provision::attempt(&applicant, &config.provisioning, &clock)));
    let assignment = asked.map_err(|fault| {
        let exit = match fault {
            Fault::Refused(_) => Exit::No,
            Fault::Away { .. } => Exit::Retry,
            Fault::Trust(_) => Exit::Usage,
        };
        Refusal::new(fault, exit)
    })?;
    record::write(path, &assignment).map_err(|error| {
        Refusal::new(format!("write the hub down in {}: {error}", record::path(path).display()), Exit::Retry)
    })?;
    let mut out = std::io::stdout().lock();
    if json {
        let text = serde_json::to_string_pretty(&assignment).map_err(std::io::Error::from)?;
        writeln!(out, "{text}")?;
    } else {
        writeln!(out, "assigned to {}, device {}", assignment.hub, assignment.device)?;
        writeln!(out, "kept in {}", record::path(path).display())?;
        if config.hub.connection_string.is_some() {
            writeln!(out, "but `run` goes by `hub.connection-string`; leave that out to go by this")?;
        }
    }
    Ok(Exit::Ok.into())
}
