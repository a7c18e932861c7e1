//! Telling systemd: ready, stopping, and a watchdog tied to progress. Does nothing where `NOTIFY_SOCKET` is not set.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Tells the service manager that the program serves.
pub fn ready() {
    tell("READY=1");
}

/// Tells the service manager that the program drains and will end.
pub fn stopping() {
    tell("STOPPING=1");
}

/// One line for `systemctl status`.
pub fn status(line: &str) {
    tell(&format!("STATUS={}", line.replace('\n', " ")));
}

fn tell(state: &str) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET").and_then(|name| name.into_string().ok()) {
        // A service manager that does not listen must not stop the service.
        if let Err(error) = send(&socket, state) {
            tracing::debug!(%error, state, "sd_notify failed");
        }
    }
}

fn send(socket: &str, state: &str) -> io::Result<()> {
    let address = match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(|_| ())
}

/// Stages that must all make progress for the program to count as alive.
#[derive(Debug, Clone, Default)]
pub struct Pulses {
    all: Arc<Mutex<Vec<(&'static str, Pulse)>>>,
}

/// One stage's sign of life. A stage beats after each round of its loop, idle rounds too.
#[derive(Debug, Clone)]
pub struct Pulse {
    beaten: Arc<AtomicBool>,
}

impl Pulse {
    /// A round was made.
    pub fn beat(&self) {
        self.beaten.store(true, Ordering::Relaxed);
    }
}

impl Pulses {
    /// A pulse for the stage `name`; it counts as beaten at first.
    pub fn add(&self, name: &'static str) -> Pulse {
        let pulse = Pulse { beaten: Arc::new(AtomicBool::new(true)) };
        self.all.lock().expect("no thread panics while it holds the pulses").push((name, pulse.clone()));
        pulse
    }

    /// The stages that have not beaten since they were last found to have; empty if all have, which then starts a new
    /// round for all.
    pub fn silent(&self) -> Vec<&'static str> {
        let all = self.all.lock().expect("no thread panics while it holds the pulses");
        let silent: Vec<_> =
            all.iter().filter(|(_, pulse)| !pulse.beaten.load(Ordering::Relaxed)).map(|(name, _)| *name).collect();
        if silent.is_empty() {
            all.iter().for_each(|(_, pulse)| pulse.beaten.store(false, Ordering::Relaxed));
        }
        silent
    }
}

/// Pings the service manager's watchdog while every stage makes progress; ends with `stop`. Without `WATCHDOG_USEC` it
/// ends at once.
pub async fn watchdog(pulses: Pulses, stop: CancellationToken) {
    let Some(limit) = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok()) else { return };
    let mut ticks = tokio::time::interval((Duration::from_micros(limit) / 4).max(Duration::from_millis(1)));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let silent = pulses.silent();
        if silent.is_empty() {
            tell("WATCHDOG=1");
        } else {
            tracing::debug!(?silent, "no watchdog ping: no progress");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_silent_stage_holds_the_ping_back() {
        let pulses = Pulses::default();
        let (intake, uplink) = (pulses.add("intake"), pulses.add("uplink"));
        assert!(pulses.silent().is_empty());
        intake.beat();
        assert_eq!(pulses.silent(), ["uplink"]);
        uplink.beat();
        assert!(pulses.silent().is_empty());
        assert_eq!(pulses.silent(), ["intake", "uplink"]);
    }

    #[test]
    fn a_state_reaches_the_socket_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let by_path = UnixDatagram::bind(&path).expect("a socket");
        let name = format!("notify-test-{}", std::process::id());
        let by_name =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).expect("a name")).expect("a socket");
        for (socket, address) in [(by_path, path.display().to_string()), (by_name, format!("@{name}"))] {
            send(&address, "READY=1").expect("sent");
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).expect("received");
            assert_eq!(&buffer[..length], b"READY=1");
        }
    }
}
