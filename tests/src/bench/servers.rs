//! What is measured, and its peers, as the benchmark starts them.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;

use super::BenchError;
use super::child::{Child, free};
use crate::probe;

/// Devices registered with every hub.
pub(super) const DEVICES: usize = 10_000;
/// As in the hub's default.
pub(super) const PARTITIONS: u32 = 4;
/// Where Debian has it; its folder is not on everybody's path.
const MOSQUITTO: &str = "/usr/sbin/mosquitto";

/// A hub that runs.
pub(super) struct Hub {
    /// Its process.
    pub(super) child: Child,
    /// Its device side.
    pub(super) mqtt: SocketAddr,
    /// Its service side.
    pub(super) amqp: SocketAddr,
    /// What `connection-strings --json` printed.
    pub(super) credentials: PathBuf,
    /// The connection string of its services, in a file.
    pub(super) service: PathBuf,
    identity: PathBuf,
    http: SocketAddr,
}

impl Hub {
    /// Starts a hub with its things in `directory`. With `fsync = false` nothing waits for the disk.
    ///
    /// # Errors
    /// It does not start.
    pub(super) fn start(binary: &Path, directory: &Path, name: &'static str, fsync: bool) -> Result<Self, BenchError> {
        let failed = |source| BenchError::Start { name, source };
        let home = directory.join(name);
        fs::create_dir_all(&home).map_err(failed)?;
        let (mqtt, amqp, http) = (free().map_err(failed)?, free().map_err(failed)?, free().map_err(failed)?);
        let identity = directory.join("identity");
        let config = home.join("sim.toml");
        fs::write(&config, Self::config(&home, &identity, [mqtt, amqp, http], fsync)).map_err(failed)?;
        let args = |command: &'static str| {
            let config = config.display().to_string();
            ["--as", "simulator", "--config", &config, "hub", command].map(str::to_owned).to_vec()
        };
        let mut asking = args("connection-strings");
        asking.push("--json".to_owned());
        let told = Command::new(binary).args(&asking).output().map_err(failed)?;
        let credentials = home.join("credentials.json");
        fs::write(&credentials, &told.stdout).map_err(failed)?;
        let json: Json = serde_json::from_slice(&told.stdout)
            .map_err(|_| BenchError::Ended { name, last: String::from_utf8_lossy(&told.stderr).into_owned() })?;
        let strings = json["services"].as_object().into_iter().flat_map(|services| services.values());
        let string = strings.filter_map(Json::as_str).next().unwrap_or_default();
        let service = home.join("service.txt");
        fs::write(&service, string).map_err(failed)?;
        let mut child = Child::start(name, directory, binary, &args("run"))?;
        child.listening(http)?;
        child.listening(mqtt)?;
        Ok(Self { child, mqtt, amqp, credentials, service, identity, http })
    }

    /// Everything else is as in the default.
    fn config(home: &Path, identity: &Path, [mqtt, amqp, http]: [SocketAddr; 3], fsync: bool) -> String {
        let devices: Vec<String> = (0..DEVICES).map(|number| format!("\"device-{number:05}\"")).collect();
        format!(
            "[hub]\ndata-dir = {:?}\nidentity-dir = {:?}\nmqtt-listen = \"{mqtt}\"\namqp-listen = \"{amqp}\"\n\
             retention-size = \"1GiB\"\nfsync = {fsync}\ndevices = [{}]\n[hub.http]\nlisten = \"{http}\"\n",
            home.join("data").display().to_string(),
            identity.display().to_string(),
            devices.join(", ")
        )
    }

    /// How many events it says it has stored, ever.
    pub(super) fn stored(&self) -> Option<u64> {
        probe::status(self.http)?["events"]["stored"].as_u64()
    }

    /// How many events it has handed to receivers since it started.
    pub(super) fn delivered(&self) -> Option<u64> {
        probe::status(self.http)?["services"]["events-delivered"].as_u64()
    }

    /// Its certificate and the certificate's key, for the peers.
    pub(super) fn certificate(&self) -> (PathBuf, PathBuf) {
        (self.identity.join("server.pem"), self.identity.join("server-key.pem"))
    }
}

/// Starts Mosquitto with TLS and `persistence true`. It keeps everything for a subscriber that is away, if one was
/// there.
///
/// # Errors
/// It does not start.
pub(super) fn mosquitto(
    directory: &Path,
    (certificate, key): (PathBuf, PathBuf),
) -> Result<(Child, SocketAddr), BenchError> {
    let name = "mosquitto";
    let failed = |source: io::Error| BenchError::Start { name, source };
    let home = directory.join(name);
    if home.exists() {
        fs::remove_dir_all(&home).map_err(failed)?;
    }
    fs::create_dir_all(&home).map_err(failed)?;
    let addr = free().map_err(failed)?;
    let config = home.join("mosquitto.conf");
    // Without `user`, started by root, it could not read the key.
    let text = format!(
        "user root\nlistener {} 127.0.0.1\ncertfile {}\nkeyfile {}\nallow_anonymous true\npersistence true\n\
         persistence_location {}/\nmax_queued_messages 0\nlog_type error\nlog_type warning\n",
        addr.port(),
        certificate.display(),
        key.display(),
        home.display()
    );
    fs::write(&config, text).map_err(failed)?;
    let mut child = Child::start(name, directory, mosquitto_binary(), &["-c".as_ref(), config.as_os_str()])?;
    child.listening(addr)?;
    Ok((child, addr))
}

/// Where Mosquitto is; its folder is not on everybody's path.
pub(super) fn mosquitto_binary() -> &'static Path {
    let known = [MOSQUITTO, "/usr/local/sbin/mosquitto"].map(Path::new).into_iter().find(|path| path.exists());
    known.unwrap_or(Path::new("mosquitto"))
}
