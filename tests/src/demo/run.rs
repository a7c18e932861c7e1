//! The demo from start to proof.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::{Duration, Instant};

use shared::cli::Exit;

use super::args::Args;
use super::directory::{Directory, DirectoryError};
use super::interrupt::Interrupt;
use super::progress::Progress;
use super::report;
use crate::layout::{Layout, Wishes, WishesError};
use crate::program::Launcher;
use crate::stack::{Part, Stack, StackError};

/// How long agent and lake may need for what they still hold once the devices are done.
const SETTLE_PATIENCE: Duration = Duration::from_secs(600);
/// How often the demo looks at its programs.
const PERIOD: Duration = Duration::from_millis(250);

/// The demo cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum DemoError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Wishes(#[from] WishesError),
    #[error(transparent)]
    Stack(#[from] StackError),
    #[error("find the demo's own program, or prepare its folder: {0}")]
    Io(#[from] io::Error),
    #[error("no such recording: {0}")]
    NoRecording(String),
    #[error("the {part} ended too early ({status}); its last lines:\n{last_lines}")]
    Ended { part: &'static str, status: std::process::ExitStatus, last_lines: String },
    #[error("{0} within {1:?}; see its log")]
    NotSettled(&'static str, Duration),
    #[error("the {0} did not stop; see its log")]
    NotStopped(&'static str),
    #[error("verify the lake: {0}")]
    Verify(String),
    #[error(
        "{0} is gone: it was deleted while the demo ran, which cannot prove anything without it; start the demo again"
    )]
    Gone(std::path::PathBuf),
    #[error("interrupted: everything was stopped, nothing was proved")]
    Interrupted,
}

impl DemoError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            DemoError::Directory(DirectoryError::Busy { .. }) => Exit::Retry,
            DemoError::Interrupted | DemoError::Gone(_) => Exit::No,
            DemoError::Directory(_) | DemoError::Wishes(_) | DemoError::NoRecording(_) => Exit::Usage,
            DemoError::Ended { status, .. } if status.code() == Some(64) => Exit::Usage,
            DemoError::Stack(StackError::NotReady { ended, .. }) if ended.contains("64") => Exit::Usage,
            _ => Exit::Bug,
        }
    }
}

/// Runs the demo; true if the proof holds.
pub(super) fn run(args: &Args) -> Result<bool, DemoError> {
    let wishes = match &args.config {
        Some(path) => Wishes::read(path)?,
        None => Wishes::default(),
    };
    if let Some(file) = args.replay.as_deref().filter(|file| !file.is_file()) {
        return Err(DemoError::NoRecording(file.display().to_string()));
    }
    let directory = Directory::take(args.dir.as_deref(), args.keep)?;
    let mut progress = Progress::new(io::stderr().is_terminal());
    progress.say(&format!("everything is kept in {}", directory.path().display()));

    let interrupt = Interrupt::watch()?;
    let layout = Layout::create(directory.path())?;
    let mut stack = Stack::prepare(layout, Launcher::current()?, &wishes)?;
    let proof = play(&mut stack, args, &wishes, &mut progress, &interrupt);
    match &proof {
        // Programs that lost their files cannot drain: they are killed when the stack is dropped.
        Ok(_) | Err(DemoError::Gone(_)) => {}
        Err(_) => stack.stop_all(),
    }
    proof
}

/// Starts everything, watches, stops in order, and proves.
fn play(
    stack: &mut Stack,
    args: &Args,
    wishes: &Wishes,
    progress: &mut Progress,
    interrupt: &Interrupt,
) -> Result<bool, DemoError> {
    for part in [Part::Hub, Part::Ingester, Part::Agent] {
        progress.say(&format!("starting the {}", part.as_str()));
        stack.start(part, &[])?;
        interrupt.check()?;
    }
    start_devices(stack, args, wishes, progress)?;

    let limit = args.seconds_limit().map(Duration::from_secs);
    watch_devices(stack, limit, progress, interrupt)?;
    if args.replay.is_some() {
        for line in left_out(stack) {
            progress.say(&line);
        }
    }
    progress.say("the devices are done; the agent drains and stops");
    settle(stack, "the agent did not send all it holds", progress, interrupt, Stack::has_drained)?;
    stop(stack, Part::Agent)?;
    let outbox = report::outbox_books(stack);
    settle(stack, "the lake did not catch up", progress, interrupt, Stack::has_caught_up)?;
    stop(stack, Part::Ingester)?;
    stop(stack, Part::Hub)?;
    progress.finish();
    report::print(stack, outbox.as_ref()).map_err(DemoError::Verify)
}

/// What a replay says about rows and cells it did not send.
fn left_out(stack: &Stack) -> Vec<String> {
    let said = stack.last_lines(Part::Devices, 20);
    said.lines().filter(|line| line.contains("left out") || line.contains("not sent")).map(str::to_owned).collect()
}

fn start_devices(stack: &mut Stack, args: &Args, wishes: &Wishes, progress: &mut Progress) -> Result<(), DemoError> {
    let result = match &args.replay {
        Some(file) => {
            let file = std::path::absolute(file)?;
            progress.say(&format!("replaying {}", file.display()));
            let own_times = wishes.sim.contains_key("replay");
            let shift: &[&str] = if own_times { &[] } else { &["--shift-to-now"] };
            stack.spawn_replay(&path_text(&file), shift)
        }
        None => {
            progress.say(&format!("{} devices send {} readings a second", args.devices, args.rate));
            let (devices, rate) = (args.devices.to_string(), args.rate.to_string());
            stack.spawn(Part::Devices, &["--devices", &devices, "--rate", &rate], &[])
        }
    };
    Ok(result?)
}

/// Watches until the devices end by themselves, or stops them once `limit` is over.
fn watch_devices(
    stack: &mut Stack,
    limit: Option<Duration>,
    progress: &mut Progress,
    interrupt: &Interrupt,
) -> Result<(), DemoError> {
    let began = Instant::now();
    loop {
        interrupt.check()?;
        whole(stack)?;
        progress.show(stack, began.elapsed(), limit);
        for part in [Part::Hub, Part::Ingester, Part::Agent] {
            if let Some(status) = stack.ended(part) {
                return Err(ended(stack, part, status));
            }
        }
        if let Some(status) = stack.ended(Part::Devices) {
            return if status.success() { Ok(()) } else { Err(ended(stack, Part::Devices, status)) };
        }
        if limit.is_some_and(|limit| limit <= began.elapsed()) {
            return stop(stack, Part::Devices);
        }
        std::thread::sleep(PERIOD);
    }
}

/// Waits for `condition`, showing how far everybody is.
fn settle(
    stack: &mut Stack,
    otherwise: &'static str,
    progress: &mut Progress,
    interrupt: &Interrupt,
    condition: impl Fn(&Stack) -> bool,
) -> Result<(), DemoError> {
    let began = Instant::now();
    while !condition(stack) {
        interrupt.check()?;
        whole(stack)?;
        progress.show(stack, began.elapsed(), None);
        for part in [Part::Hub, Part::Ingester, Part::Agent] {
            if let Some(status) = stack.ended(part) {
                return Err(ended(stack, part, status));
            }
        }
        if SETTLE_PATIENCE < began.elapsed() {
            return Err(DemoError::NotSettled(otherwise, SETTLE_PATIENCE));
        }
        std::thread::sleep(PERIOD);
    }
    Ok(())
}

/// What is missing in the demo's folder explains more than what its programs then say.
fn whole(stack: &Stack) -> Result<(), DemoError> {
    stack.layout.gone().map_or(Ok(()), |path| Err(DemoError::Gone(path)))
}

fn stop(stack: &mut Stack, part: Part) -> Result<(), DemoError> {
    match stack.stop(part) {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(ended(stack, part, status)),
        None => whole(stack).and(Err(DemoError::NotStopped(part.as_str()))),
    }
}

fn ended(stack: &Stack, part: Part, status: std::process::ExitStatus) -> DemoError {
    if let Err(gone) = whole(stack) {
        return gone;
    }
    DemoError::Ended { part: part.as_str(), status, last_lines: stack.last_lines(part, 20) }
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}
