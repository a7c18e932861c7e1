//! Hub, ingester, agent and devices together, as real processes, in one folder.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output};
use std::time::Duration;

use serde_json::Value as Json;

use crate::layout::{self, GATEWAY, Layout, Wishes};
use crate::program::{Launcher, Name, Program, last_lines};
use crate::settings;
use crate::{probe, wait};

/// How long a program may take to be ready on a busy machine.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long a program may take to stop: the agent drains, the ingester finishes its hop.
const STOP_PATIENCE: Duration = Duration::from_secs(120);

/// The hub's name for the newest sequence number of a partition.
const LAST_ENQUEUED: &str = "last-enqueued-sequence-number";

/// The parts of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The local IoT Hub.
    Hub,
    /// The ingester.
    Ingester,
    /// The gateway's agent.
    Agent,
    /// The devices, or a replay.
    Devices,
}

impl Part {
    /// As in log files and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Part::Hub => "hub",
            Part::Ingester => "ingester",
            Part::Agent => "agent",
            Part::Devices => "devices",
        }
    }

    const fn program(self) -> Name {
        match self {
            Part::Hub | Part::Devices => Name::Simulator,
            Part::Ingester => Name::CloudIngester,
            Part::Agent => Name::EdgeAgent,
        }
    }
}

/// Something of a stack went wrong.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// A file or folder of it.
    #[error("write {path}: {source}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program cannot be started.
    #[error("start the {part}: {source}")]
    Start {
        /// Which.
        part: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A program is not ready in time, or ended before it was.
    #[error("the {part} is not ready{ended}; its last lines:\n{last_lines}")]
    NotReady {
        /// Which.
        part: &'static str,
        /// Its exit status, if it ended.
        ended: String,
        /// What it printed.
        last_lines: String,
    },
    /// The hub does not say how to connect.
    #[error("`hub connection-strings` gave no {what}: {answer}")]
    ConnectionStrings {
        /// What is missing.
        what: &'static str,
        /// What it said.
        answer: String,
    },
}

/// Hub, ingester, agent and devices of one folder.
#[derive(Debug)]
pub struct Stack {
    /// Folders, ports, config files.
    pub layout: Layout,
    launcher: Launcher,
    running: HashMap<Part, Program>,
}

impl Stack {
    /// Writes the config files of a stack in `layout`, with `wishes` over the demo's own settings, and the connection
    /// strings. Starts nothing.
    ///
    /// # Errors
    /// A file cannot be written, or the hub does not give its connection strings.
    pub fn prepare(layout: Layout, launcher: Launcher, wishes: &Wishes) -> Result<Self, StackError> {
        let stack = Self { layout, launcher, running: HashMap::new() };
        for (name, mut table, wish) in [
            ("edge", settings::edge(&stack.layout), &wishes.edge),
            ("ingest", settings::ingest(&stack.layout), &wishes.ingest),
            ("sim", settings::sim(&stack.layout), &wishes.sim),
        ] {
            layout::merge(&mut table, wish);
            write(&stack.layout.config(name), &table.to_string())?;
        }
        stack.write_credentials()?;
        Ok(stack)
    }

    /// Asks the hub for the connection strings and puts them where agent and ingester look for them.
    fn write_credentials(&self) -> Result<(), StackError> {
        let output = self
            .run(Name::Simulator, &["hub", "connection-strings", "--json"])
            .map_err(|source| StackError::Start { part: "hub", source })?;
        let said: Json = serde_json::from_slice(&output.stdout).unwrap_or(Json::Null);
        for (what, pointer, path) in [
            ("device", format!("/devices/{GATEWAY}"), self.layout.agent_credential()),
            ("service", "/services/service".to_owned(), self.layout.ingester_credential()),
        ] {
            let text = said.pointer(&pointer).and_then(Json::as_str).ok_or_else(|| StackError::ConnectionStrings {
                what,
                answer: String::from_utf8_lossy(&output.stderr).into_owned(),
            })?;
            write_secret(&path, text)?;
        }
        Ok(())
    }

    /// Starts a part and waits until it is ready.
    ///
    /// # Errors
    /// It cannot be started, or is not ready in time.
    pub fn start(&mut self, part: Part, args: &[&str]) -> Result<(), StackError> {
        self.start_with(part, args, &[])
    }

    /// Starts a part with variables in its environment and waits until it is ready.
    ///
    /// # Errors
    /// It cannot be started, or is not ready in time.
    pub fn start_with(&mut self, part: Part, args: &[&str], env: &[(&str, &str)]) -> Result<(), StackError> {
        self.spawn(part, args, env)?;
        let Some(addr) = self.http(part) else { return Ok(()) };
        let program = self.running.get_mut(&part).expect("it was just started");
        let mut ended = None;
        let ready = wait::until(START_PATIENCE, || {
            ended = program.ended();
            (ended.is_some() || probe::is_ready(addr)).then_some(())
        });
        if ready.is_some() && ended.is_none() {
            return Ok(());
        }
        Err(StackError::NotReady {
            part: part.as_str(),
            ended: ended.map_or(String::new(), |status| format!(" ({status})")),
            last_lines: program.last_lines(20),
        })
    }

    /// Starts a replay in the devices' place.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn_replay(&mut self, file: &str, args: &[&str]) -> Result<(), StackError> {
        let mut whole = vec!["replay", file];
        whole.extend(args);
        self.spawn_line(Part::Devices, &whole, &[])
    }

    /// Starts a part without waiting for anything.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&mut self, part: Part, args: &[&str], env: &[(&str, &str)]) -> Result<(), StackError> {
        let mut whole = match part {
            Part::Hub => vec!["hub"],
            Part::Ingester | Part::Agent => vec!["run"],
            Part::Devices => vec!["devices"],
        };
        whole.extend(args);
        self.spawn_line(part, &whole, env)
    }

    fn spawn_line(&mut self, part: Part, args: &[&str], env: &[(&str, &str)]) -> Result<(), StackError> {
        let name = part.program();
        let config = self.config_text(name);
        let mut whole = vec!["--config", config.as_str()];
        whole.extend(args);
        let program = self
            .launcher
            .start(name, &whole, env, &self.log(part))
            .map_err(|source| StackError::Start { part: part.as_str(), source })?;
        self.running.insert(part, program);
        Ok(())
    }

    /// Asks a part to stop and waits for it; `None` if it is not running or does not stop.
    pub fn stop(&mut self, part: Part) -> Option<ExitStatus> {
        let mut program = self.running.remove(&part)?;
        program.stop(STOP_PATIENCE)
    }

    /// Stops all parts, in the order in which data walks; what does not stop in time is killed.
    pub fn stop_all(&mut self) {
        for part in [Part::Devices, Part::Agent, Part::Ingester, Part::Hub] {
            self.stop(part);
        }
    }

    /// Ends a part on the spot.
    pub fn kill(&mut self, part: Part) {
        if let Some(mut program) = self.running.remove(&part) {
            program.kill();
        }
    }

    /// Waits until a part ends by itself.
    pub fn wait_end(&mut self, part: Part, patience: Duration) -> Option<ExitStatus> {
        let status = self.running.get_mut(&part)?.wait_end(patience)?;
        self.running.remove(&part);
        Some(status)
    }

    /// How a part ended, if it has.
    pub fn ended(&mut self, part: Part) -> Option<ExitStatus> {
        self.running.get_mut(&part)?.ended()
    }

    /// The process id of a part that was started and not yet taken off.
    pub fn id(&self, part: Part) -> Option<u32> {
        self.running.get(&part).map(Program::id)
    }

    /// Asks a part to stop without waiting.
    pub fn terminate(&self, part: Part) {
        if let Some(program) = self.running.get(&part) {
            program.terminate();
        }
    }

    /// Whether a part was started and not yet taken off.
    pub fn is_running(&self, part: Part) -> bool {
        self.running.contains_key(&part)
    }

    /// Whether the agent holds nothing that the hub has not acknowledged. False while it does not answer.
    pub fn has_drained(&self) -> bool {
        let Some(status) = self.status(Part::Agent) else { return false };
        ["held", "gaps_held", "closings_held"].iter().all(|what| status["outbox"][what].as_u64() == Some(0))
    }

    /// Whether the lake holds all that the hub has, in every table. False while either does not answer.
    pub fn has_caught_up(&self) -> bool {
        let answer = || caught_up(&self.status(Part::Hub)?, &self.status(Part::Ingester)?);
        answer().unwrap_or(false)
    }

    /// The last lines of a part's log.
    pub fn last_lines(&self, part: Part, count: usize) -> String {
        last_lines(&self.log(part), count)
    }

    /// What a part's `/status` says.
    pub fn status(&self, part: Part) -> Option<Json> {
        probe::status(self.http(part)?)
    }

    /// Runs a program beside the stack, with this stack's config file, to its end.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(&self, name: Name, args: &[&str]) -> io::Result<Output> {
        let config = self.config_text(name);
        let mut whole = args.to_vec();
        whole.extend(["--config", &config]);
        self.launcher.run(name, &whole)
    }

    /// The rows a query gives, from `cloud-ingester query`.
    ///
    /// # Errors
    /// The query failed; the text is what it printed.
    pub fn query(&self, sql: &str) -> Result<Vec<Json>, String> {
        let output = self.run(Name::CloudIngester, &["query", sql, "--format", "json"]).map_err(|e| e.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let rows = String::from_utf8_lossy(&output.stdout);
        rows.lines().map(|row| serde_json::from_str(row).map_err(|e| format!("{e}: {row}"))).collect()
    }

    /// Where a part's output goes.
    pub fn log(&self, part: Part) -> PathBuf {
        self.layout.logs().join(format!("{}.log", part.as_str()))
    }

    fn config_text(&self, name: Name) -> String {
        let config = match name {
            Name::EdgeAgent => "edge",
            Name::CloudIngester => "ingest",
            Name::Simulator => "sim",
        };
        self.layout.config(config).display().to_string()
    }

    fn http(&self, part: Part) -> Option<std::net::SocketAddr> {
        match part {
            Part::Hub => Some(self.layout.ports.hub_http),
            Part::Ingester => Some(self.layout.ports.ingester_http),
            Part::Agent => Some(self.layout.ports.agent_http),
            Part::Devices => None,
        }
    }
}

/// The last sequence number of each partition that holds anything, as the hub's status tells.
fn enqueued(hub: &Json) -> Option<Vec<(u64, i64)>> {
    let partitions = hub.get("partitions")?.as_array()?;
    partitions
        .iter()
        .map(|partition| Some((partition.get("partition")?.as_u64()?, partition.get(LAST_ENQUEUED)?.as_i64()?)))
        .filter(|read| read.is_none_or(|(_, last)| 0 <= last))
        .collect()
}

/// Whether `ingester`, by what it says of itself, has committed all that `hub` holds, and its hops are level. `None`: that is
/// not said.
pub fn caught_up(hub: &Json, ingester: &Json) -> Option<bool> {
    let incarnation = hub.get("created-at")?.as_i64()?;
    let streams = ingester.get("streams")?.as_array()?;
    let committed = |partition: u64| {
        let stream = streams.iter().find(|stream| {
            stream["incarnation"].as_i64() == Some(incarnation) && stream["partition"].as_u64() == Some(partition)
        });
        stream.and_then(|stream| stream["committed"].as_i64()).unwrap_or(-1)
    };
    let read = enqueued(hub)?.into_iter().all(|(partition, last)| last <= committed(partition));
    // What runs by a schedule is behind between two of its turns.
    let due = |hop: &&Json| hop["scheduled"].as_bool() != Some(true);
    let level = ingester.get("hops")?.as_array()?.iter().filter(due).all(|hop| hop["behind"].as_i64() == Some(0));
    Some(read && level)
}

/// Only its owner may read it.
fn write_secret(path: &Path, text: &str) -> Result<(), StackError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = fs::OpenOptions::new();
    let file = options.create(true).write(true).truncate(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| StackError::Write { path: path.to_owned(), source })
}

fn write(path: &Path, text: &str) -> Result<(), StackError> {
    fs::write(path, text).map_err(|source| StackError::Write { path: path.to_owned(), source })
}
