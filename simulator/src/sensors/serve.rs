//! Sockets and the folder of the wire.

use std::io;
use std::os::unix::net::UnixStream as Probe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shared::shutdown::{Failure, Shutdown};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::board::{Board, Ended};
use super::command::Command;
use super::config::{Config, Event};
use super::frame::{Gibberish, LineAct, Transaction, take_line};

/// After `stop`, so long tasks may take to end.
const GRACE: Duration = Duration::from_secs(2);
/// Connections of all sockets at once; more are closed.
const CONNECTIONS_MAX: usize = 64;
/// Longest line that can be told.
const LINE_BYTES_MAX: u64 = 1_024;

/// Why sensors cannot be simulated.
#[derive(Debug, thiserror::Error)]
pub enum SensorsError {
    /// Another one serves there.
    #[error("{path} is served already; choose another `sensors.dir`")]
    Taken {
        /// Which socket.
        path: PathBuf,
    },
    /// A file, folder or socket.
    #[error("{act} {path}: {source}")]
    Disk {
        /// What was tried.
        act: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What all connections share.
struct Bench {
    board: Mutex<Board>,
    began: Instant,
    wires: PathBuf,
}

impl Bench {
    fn with<T>(&self, act: impl FnOnce(&mut Board, Duration) -> T) -> T {
        act(&mut self.board.lock().unwrap_or_else(PoisonError::into_inner), self.began.elapsed())
    }

    fn tell(&self, text: &str) -> Result<String, String> {
        let command: Command = text.parse()?;
        let answer = self.with(|board, now| board.tell(&command, now))?;
        self.show_wires().map_err(|error| error.to_string())?;
        Ok(answer)
    }

    /// Makes the folder as the kernel would show it.
    fn show_wires(&self) -> io::Result<()> {
        let wires = self.with(|board, _| board.wires().clone());
        for (serial, wire) in wires {
            let folder = self.wires.join(serial);
            if wire.plugged {
                std::fs::create_dir_all(&folder)?;
                // Renamed into place: nobody reads half of it.
                let fresh = folder.join(".w1_slave");
                std::fs::write(&fresh, wire.shown())?;
                std::fs::rename(&fresh, folder.join("w1_slave"))?;
            } else if let Err(error) = std::fs::remove_dir_all(&folder)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Serves until `stop` is cancelled.
///
/// # Errors
/// If it cannot start.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), Failure<SensorsError>> {
    let mut all = Shutdown::new(stop, GRACE);
    start(&config, &mut all).map_err(|error| Failure::Task { name: "start", error })?;
    all.wait().await
}

fn start(config: &Config, all: &mut Shutdown<SensorsError>) -> Result<(), SensorsError> {
    let dir = &config.dir;
    let disk = |act, path: &Path| {
        let path = path.to_owned();
        move |source| SensorsError::Disk { act, path, source }
    };
    let wires = dir.join("w1");
    std::fs::create_dir_all(&wires).map_err(disk("create", &wires))?;
    let bench = Arc::new(Bench { board: Mutex::new(config.board()), began: Instant::now(), wires: wires.clone() });
    bench.show_wires().map_err(disk("write in", &wires))?;
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    for (name, socket) in [("i2c", Socket::I2c), ("gpio", Socket::Gpio), ("control", Socket::Control)] {
        let listener = listen(&dir.join(format!("{name}.sock")))?;
        let (bench, room, stop) = (Arc::clone(&bench), Arc::clone(&room), all.token());
        all.spawn(name, async move {
            serve(listener, socket, &bench, &room, &stop).await;
            Ok(())
        });
    }
    for event in config.script.clone() {
        let (bench, stop) = (Arc::clone(&bench), all.token());
        all.spawn("script", async move {
            stop.run_until_cancelled(play(event, &bench)).await;
            Ok(())
        });
    }
    tracing::info!(dir = %dir.display(), "sensors are there");
    Ok(())
}

fn listen(path: &Path) -> Result<UnixListener, SensorsError> {
    let disk = |act| {
        let path = path.to_owned();
        move |source| SensorsError::Disk { act, path, source }
    };
    if Probe::connect(path).is_ok() {
        return Err(SensorsError::Taken { path: path.to_owned() });
    }
    // What one that was killed left.
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(disk("remove")(error));
    }
    UnixListener::bind(path).map_err(disk("listen on"))
}

async fn play(event: Event, bench: &Bench) {
    tokio::time::sleep(event.after.map_or(Duration::ZERO, Into::into)).await;
    loop {
        match bench.tell(&event.tell) {
            Ok(_) if event.every.is_none() => tracing::info!(told = event.tell, "the script"),
            Ok(_) => {}
            Err(error) => tracing::warn!(told = event.tell, error, "the script"),
        }
        let Some(every) = event.every else { return };
        tokio::time::sleep(every.duration()).await;
    }
}

#[derive(Debug, Clone, Copy)]
enum Socket {
    I2c,
    Gpio,
    Control,
}

async fn serve(
    listener: UnixListener,
    socket: Socket,
    bench: &Arc<Bench>,
    room: &Arc<Semaphore>,
    stop: &CancellationToken,
) {
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await; // out of descriptors, it may pass
            continue;
        };
        let Ok(place) = Arc::clone(room).try_acquire_owned() else { continue };
        let (bench, stop) = (Arc::clone(bench), stop.clone());
        tokio::spawn(async move {
            let _place = place;
            // Who goes or talks gibberish is let go; the next transaction comes on another connection.
            let talk = async {
                match socket {
                    Socket::I2c => transactions(stream, &bench).await,
                    Socket::Gpio => lines(stream, &bench).await,
                    Socket::Control => told(stream, &bench).await,
                }
            };
            if let Some(Err(error)) = stop.run_until_cancelled(talk).await {
                tracing::debug!(%error, ?socket, "a connection ended");
            }
        });
    }
}

async fn transactions(mut stream: UnixStream, bench: &Bench) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        while let Some(transaction) = Transaction::take(&mut bytes).map_err(gibberish)? {
            let answer = match bench.with(|board, now| board.transact(&transaction, now)) {
                Ended::Well(read) => [vec![0], read].concat(),
                Ended::NoAck => vec![1],
                Ended::Lost => vec![2],
                Ended::Stuck => continue,
            };
            stream.write_all(&answer).await?;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}

async fn lines(mut stream: UnixStream, bench: &Bench) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        while let Some((line, act)) = take_line(&mut bytes).map_err(gibberish)? {
            let edges = bench.with(|board, _| board.line(line, act));
            let mut answer = vec![0];
            if !matches!(act, LineAct::Drive(_)) {
                answer.extend(edges.to_be_bytes());
            }
            stream.write_all(&answer).await?;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}

fn gibberish(_: Gibberish) -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// One line in, `ok …` or `no …` out, until nothing comes any more.
async fn told(mut stream: UnixStream, bench: &Bench) -> io::Result<()> {
    let (from, mut to) = stream.split();
    let mut from = BufReader::new(from);
    loop {
        let mut line = String::new();
        if (&mut from).take(LINE_BYTES_MAX).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let answer = match bench.tell(line.trim()) {
            Ok(answer) => format!("ok {}\n", answer.replace('\n', "; ")),
            Err(error) => format!("no {error}\n"),
        };
        to.write_all(answer.as_bytes()).await?;
    }
}
