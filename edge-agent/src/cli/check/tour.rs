//! A tour of the machine: disk, clock, hub, credentials, ways in.

use std::fs::File;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use shared::clock::Clock;

use super::settings::{self, trusted};
use super::{Finding, Grade};
use crate::config::Config;
use crate::hub::Source;
use crate::identity::Identity;
use crate::line::{Dial, Network, Way};
use crate::machine;
use crate::outbox::lock::Lock;
use crate::presilver::config::ClockTrust;
use crate::presilver::gateway::{Gateway, is_plausible};
use crate::provision::record;
use crate::trust;
use crate::uplink::HubTarget;

/// How long a host may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn tour(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(disk(config));
    findings.push(clock(config));
    findings.extend(super::machine::look(config));
    findings.extend(hub(config));
    findings.extend(super::network::secured(config));
    findings.extend(ways_in(config));
    findings.extend(buses(config));
    findings.extend(settings::look(config));
    findings
}

fn disk(config: &Config) -> Vec<Finding> {
    let path = &config.outbox.path;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    if let Some(holder) = Lock::holder(path) {
        return vec![Finding::note("outbox", format!("{} is in use by {holder}", path.display()))];
    }
    let mut findings = vec![match writable(&parent) {
        Ok(()) => Finding::ok("outbox", format!("{} can be written", parent.display())),
        Err(error) => Finding::fail(
            "outbox",
            format!("{} cannot be written ({error}); correct `outbox.path` or its owner", parent.display()),
        ),
    }];
    if path.is_dir() {
        findings
            .push(Finding::fail("outbox", format!("{} is a directory; `outbox.path` names a file", path.display())));
    }
    let wanted = config.outbox.bytes_max.bytes();
    findings.push(match machine::disk(&parent).map(|disk| disk.free) {
        Some(free) if free < wanted => Finding::note(
            "disk",
            format!("{free} bytes are free, less than `outbox.bytes-max` ({wanted}): the disk would be full first"),
        ),
        Some(free) => Finding::ok("disk", format!("{free} bytes are free, `outbox.bytes-max` is {wanted}")),
        None => Finding::note("disk", "the free space could not be told"),
    });
    findings
}

/// Writes and removes a file; makes the directory if it is not there, as `run` would.
fn writable(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let probe = directory.join(format!(".edge-agent-check-{}", std::process::id()));
    let written = File::create(&probe).and_then(|mut file| file.write_all(b"check").and_then(|()| file.sync_all()));
    std::fs::remove_file(&probe).ok();
    written
}

fn clock(config: &Config) -> Finding {
    let now = Clock::Real.now();
    if !is_plausible(now) {
        let words = "no token would be valid and no reading well dated";
        let fault = Finding::fail("clock", format!("it says {now}, which cannot be: {words}"));
        return fault.so("set it: `timedatectl set-ntp true`, or `date -s` where there is no network time");
    }
    match (config.presilver.clock, Gateway::new(config.presilver.clock).is_known_good(now)) {
        (ClockTrust::Trusted, _) => Finding::ok("clock", format!("{now}, trusted by configuration")),
        (ClockTrust::Auto, true) => Finding::ok("clock", format!("{now}")),
        (ClockTrust::Auto, false) => Finding::note(
            "clock",
            format!("{now}, but systemd-timesyncd has not set it yet: skew is not judged until it has"),
        )
        .so("see `timedatectl timesync-status`; a firewall must let UDP 123 out, or name a time server of the plant in /etc/systemd/timesyncd.conf"),
    }
}

fn hub(config: &Config) -> Vec<Finding> {
    let source = config.source();
    let credentials = settings::who(&source);
    let applicant = match source {
        Ok(Source::Fixed(target)) => return [credentials].into_iter().chain(dialled(&target)).collect(),
        Ok(Source::Provisioned(applicant)) => applicant,
        Err(_) => return vec![credentials],
    };
    let mut findings = vec![credentials, trusted("provisioning", applicant.ca_file.as_deref())];
    let service = Goal {
        what: "provisioning",
        host: &applicant.host,
        ports: (applicant.port, applicant.websocket_port),
        network: &applicant.network,
        ca_file: applicant.ca_file.as_deref(),
        identity: &applicant.identity,
    };
    let reached = service.reach();
    match record::read(&config.outbox.path) {
        Ok(Some(assignment)) if assignment.is_of(&applicant) => {
            let text =
                format!("device {} of {}, assigned {}", assignment.device, assignment.hub, assignment.assigned_at);
            // The hub is known: the service is not needed now.
            findings.push(if reached.grade == Grade::Fail {
                Finding::note("provisioning", reached.text)
            } else {
                reached
            });
            findings.push(Finding::ok("assigned", text));
            findings.extend(dialled(&applicant.target(&assignment, &config.hub.dial(applicant.network.clone()))));
        }
        Ok(other) => {
            let whose = if other.is_some() { "the one on file is another registration's" } else { "none yet" };
            findings.push(reached);
            findings
                .push(Finding::note("assigned", format!("{whose}; `run` asks for a hub, or `edge-agent provision`")));
        }
        Err(error) => findings.extend([reached, Finding::note("assigned", error.to_string())]),
    }
    findings
}

fn dialled(target: &HubTarget) -> [Finding; 2] {
    let hub = Goal {
        what: "hub",
        host: &target.host,
        ports: (target.port, target.websocket_port),
        network: &target.network,
        ca_file: target.ca_file.as_deref(),
        identity: &target.identity,
    };
    [trusted("trust", target.ca_file.as_deref()), hub.reach()]
}

/// The hub, or the provisioning service, and how it may be reached.
struct Goal<'c> {
    what: &'static str,
    host: &'c str,
    /// For MQTT, and for MQTT in WebSocket messages.
    ports: (u16, u16),
    network: &'c Network,
    ca_file: Option<&'c Path>,
    identity: &'c Identity,
}

impl Goal<'_> {
    /// By the first way that leads there.
    fn reach(&self) -> Finding {
        let mut faults = Vec::new();
        for way in self.network.choice.ways() {
            let found = self.by(*way);
            match (found.grade, faults.is_empty()) {
                (Grade::Ok, true) => return found,
                (Grade::Ok, false) => {
                    let text = format!("{}; by the other way: {}", faults.join("; "), found.text);
                    return Finding::note(self.what, text);
                }
                _ => faults.push(found.text),
            }
        }
        Finding::fail(self.what, faults.join("; "))
    }

    fn by(&self, way: Way) -> Finding {
        let port = match way {
            Way::Mqtt => self.ports.0,
            Way::WebSocket => self.ports.1,
        };
        if way == Way::Mqtt && self.network.proxy.is_none() {
            return reach(self.what, self.host, port);
        }
        // Through a proxy, or up to WebSocket, TCP alone says little.
        let tls = match trust::client_as(self.ca_file, self.identity.certificate()) {
            Ok(tls) => Some(tls),
            Err(error) => return Finding::fail(self.what, format!("cannot {error}")),
        };
        let (host, proxy) = (self.host.to_owned(), self.network.proxy.clone());
        let dial = Dial { host, port, way, proxy, tls, timeout: PATIENCE };
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return Finding::fail(self.what, format!("no runtime: {error}")),
        };
        match runtime.block_on(dial.probe()) {
            Ok(()) => Finding::ok(self.what, format!("{} answers ({})", dial.place(), way.as_str())),
            Err(fault) => Finding::fail(self.what, format!("{} does not answer: {}", dial.place(), fault.text)),
        }
    }
}

/// DNS, then TCP.
fn reach(what: &'static str, host: &str, port: u16) -> Finding {
    let addresses = match (host, port).to_socket_addrs() {
        Ok(addresses) => addresses.collect::<Vec<_>>(),
        Err(error) => {
            return Finding::fail(
                what,
                format!("the name {host} cannot be resolved ({error}); correct it, or the DNS of this machine"),
            );
        }
    };
    let mut last = "it has no address".to_owned();
    for address in &addresses {
        match TcpStream::connect_timeout(address, PATIENCE) {
            Ok(_) => return Finding::ok(what, format!("{host} port {port} answers ({address})")),
            Err(error) => last = format!("{address}: {error}"),
        }
    }
    Finding::fail(what, format!("{host} port {port} does not answer ({last}); a firewall must let it out"))
}

/// Whether there is a broker, and whether devices can connect.
fn ways_in(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let broker = &config.intake.broker;
    if broker.enabled {
        findings.push(reach("broker", &broker.host, broker.port));
    }
    let listener = &config.intake.listener;
    if listener.enabled {
        let running = Lock::holder(&config.outbox.path).is_some();
        let listen = [("listen", Some(listener.listen)), ("websocket-listen", listener.websocket_listen)];
        for (setting, address) in listen {
            let Some(address) = address else { continue };
            findings.push(match TcpListener::bind(address) {
                Ok(_) => Finding::ok("listener", format!("{address} is free")),
                Err(error) if running => {
                    Finding::note("listener", format!("{address} is in use ({error}), and an agent runs"))
                }
                Err(error) => Finding::fail(
                    "listener",
                    format!("{address} cannot be listened on ({error}); choose another `intake.listener.{setting}`"),
                ),
            });
        }
    }
    findings
}

/// Whether the buses of sensors are there; what answers on them, `sensors read` tells.
fn buses(config: &Config) -> Vec<Finding> {
    let places: std::collections::BTreeSet<_> = config.sensors.iter().map(crate::sensors::Sensor::place).collect();
    let finding = |place: &crate::sensors::Place| match place.path().exists() {
        true => Finding::ok("sensors", format!("{place} is there")),
        false => Finding::fail("sensors", format!("{place} is not there; switch it on, or correct `bus`")),
    };
    places.iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use shared::time::Timestamp;

    use super::*;
    use crate::cli::check::tests::config;

    #[test]
    fn an_address_that_cannot_be_listened_on_is_named_with_its_setting() {
        let dir = tempfile::tempdir().expect("a folder");
        let outbox = dir.path().join("outbox.db");
        let held = TcpListener::bind("127.0.0.1:0").expect("a port");
        let taken = held.local_addr().expect("an address");
        let of = |settings: &str| {
            let text = format!("[outbox]\npath = {outbox:?}\n[intake.listener]\n{settings}");
            ways_in(&config(&text)).into_iter().map(|finding| (finding.grade, finding.text)).collect::<Vec<_>>()
        };
        // 192.0.2.1 is nobody's (RFC 5737), so not this machine's either.
        for (settings, setting) in [
            (format!("listen = \"127.0.0.1:0\"\nwebsocket-listen = \"{taken}\"\n"), "websocket-listen"),
            ("listen = \"127.0.0.1:0\"\nwebsocket-listen = \"192.0.2.1:80\"\n".to_owned(), "websocket-listen"),
            (format!("listen = \"{taken}\"\nwebsocket-listen = \"127.0.0.1:0\"\n"), "listen"),
        ] {
            let found = of(&settings);
            let failed: Vec<_> = found.iter().filter(|(grade, _)| *grade == Grade::Fail).collect();
            let [(_, text)] = failed[..] else { panic!("{settings}: {found:?}") };
            assert!(text.ends_with(&format!("choose another `intake.listener.{setting}`")), "{text}");
        }
        // Where an agent runs it is the one who listens there.
        let lock = Lock::take(&outbox, "run", Timestamp::from_millis(0)).expect("free");
        let found = of(&format!("listen = \"127.0.0.1:0\"\nwebsocket-listen = \"{taken}\"\n"));
        assert!(found.iter().any(|(grade, text)| *grade == Grade::Note && text.contains("an agent runs")), "{found:?}");
        drop((lock, held));
        assert!(
            of(&format!("websocket-listen = \"{taken}\"\nlisten = \"127.0.0.1:0\"\n"))
                .iter()
                .all(|(grade, _)| *grade == Grade::Ok)
        );
    }
}
