//! A tour of the machine: disk, clock, hub, credentials, ways in.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
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
use crate::outbox::desk::{self, Answer, Request};
use crate::outbox::lock::{Lock, beside};
use crate::presilver::config::ClockTrust;
use crate::presilver::gateway::{Gateway, is_plausible};
use crate::provision::record;
use crate::trust;
use crate::uplink::{self, HubTarget, trial};

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
    let there = nearest(&parent);
    let shown = parent.display();
    let is_there = there == parent;
    let mut findings = vec![match writable(&there) {
        Ok(()) if is_there => Finding::ok("outbox", format!("{shown} can be written")),
        Ok(()) => Finding::ok("outbox", format!("{shown} is not there yet; `run` can make it in {}", there.display())),
        Err(error) if is_there => {
            Finding::fail("outbox", format!("{shown} cannot be written ({error}); correct `outbox.path` or its owner"))
        }
        Err(error) => {
            let text = format!("{shown} is not there, and cannot be made in {} ({error})", there.display());
            Finding::fail("outbox", text).so("make it, owned by the user the agent runs as, or correct `outbox.path`")
        }
    }];
    if path.is_dir() {
        findings
            .push(Finding::fail("outbox", format!("{} is a directory; `outbox.path` names a file", path.display())));
    }
    let wanted = config.outbox.bytes_max.bytes();
    findings.push(match machine::disk(&there).map(|disk| disk.free) {
        Some(free) if free < wanted => Finding::note(
            "disk",
            format!("{free} bytes are free, less than `outbox.bytes-max` ({wanted}): the disk would be full first"),
        ),
        Some(free) => Finding::ok("disk", format!("{free} bytes are free, `outbox.bytes-max` is {wanted}")),
        None => Finding::note("disk", "the free space could not be told"),
    });
    findings
}

/// The folder, or the one nearest above it that is there. None is made: whoever looks may be another user than the agent,
/// and what is root's the agent cannot write.
fn nearest(folder: &Path) -> PathBuf {
    let there = folder.ancestors().find(|above| !above.as_os_str().is_empty() && above.exists());
    there.unwrap_or(Path::new(".")).to_owned()
}

/// Writes and removes a file.
fn writable(folder: &Path) -> std::io::Result<()> {
    let probe = folder.join(format!(".edge-agent-check-{}", std::process::id()));
    let written = File::create_new(&probe).and_then(|mut file| file.write_all(b"check").and_then(|()| file.sync_all()));
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
        Ok(Source::Fixed(target)) => return [credentials].into_iter().chain(entered(config, &target)).collect(),
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
    let mut reached = service.reach();
    match record::read(&config.outbox.path) {
        Ok(Some(assignment)) if assignment.is_of(&applicant) => {
            let text =
                format!("device {} of {}, assigned {}", assignment.device, assignment.hub, assignment.assigned_at);
            // The hub is known: the service is not needed now.
            for finding in reached.iter_mut().filter(|finding| finding.grade == Grade::Fail) {
                finding.grade = Grade::Note;
            }
            findings.extend(reached);
            findings.push(Finding::ok("assigned", text));
            let dial = config.hub.dial(applicant.network.clone());
            findings.extend(entered(config, &applicant.target(&assignment, &dial)));
        }
        Ok(other) => {
            let whose = if other.is_some() { "the one on file is another registration's" } else { "none yet" };
            findings.extend(reached);
            findings.push(Finding::note(
                "assigned",
                format!("{whose}, and the credentials were not tried; `run` asks for a hub, or `edge-agent provision`"),
            ));
        }
        Err(error) => {
            findings.extend(reached);
            findings.push(Finding::note("assigned", error.to_string()));
        }
    }
    findings
}

/// Each way to the hub, and whether it lets us in. Where an agent runs, that one is asked: a second connection of its
/// device would end its own.
fn entered(config: &Config, target: &HubTarget) -> Vec<Finding> {
    let hub = Goal {
        what: "hub",
        host: &target.host,
        ports: (target.port, target.websocket_port),
        network: &target.network,
        ca_file: target.ca_file.as_deref(),
        identity: &target.identity,
    };
    let mut findings = vec![trusted("trust", target.ca_file.as_deref())];
    match running(config) {
        None => findings.extend(hub.enter(target, &config.uplink)),
        Some(said) => {
            findings.extend(hub.reach());
            findings.push(said);
        }
    }
    findings
}

/// What the running agent says of its link, or why nobody can be sure that none runs; `None` if none does.
fn running(config: &Config) -> Option<Finding> {
    let path = &config.outbox.path;
    let Some(holder) = Lock::holder(path) else {
        let hidden = File::open(beside(path, "lock")).err().filter(|error| error.kind() == ErrorKind::PermissionDenied);
        let cause = match hidden {
            Some(error) => format!("whether an agent runs cannot be told ({error})"),
            None => {
                TcpStream::connect_timeout(&config.http.listen, PATIENCE).ok()?;
                format!("{} answers, as if an agent ran", config.http.listen)
            }
        };
        let finding = Finding::note("credentials", format!("not tried: {cause}, and would lose its connection by it"));
        return Some(finding.so("run this as the agent's user, while the agent does not run"));
    };
    let Ok(Answer::Status(status)) = desk::ask(path, &Request::Status) else {
        let text = format!("not tried: {holder} would lose its connection by it, and does not say how it is");
        return Some(Finding::note("credentials", text));
    };
    let said = |pointer| status.pointer(pointer).and_then(serde_json::Value::as_str);
    let link = said("/uplink/link").unwrap_or("unknown");
    let text = format!("not tried, since an agent runs; the running agent's link says: {link}");
    Some(match (link, said("/uplink/last_error")) {
        ("live" | "catching-up" | "renewing", _) => Finding::ok("credentials", text),
        (_, Some(error)) => Finding::note("credentials", format!("{text}: {error}")),
        (_, None) => Finding::note("credentials", text),
    })
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
    /// Whether each way leads there.
    fn reach(&self) -> Vec<Finding> {
        told(self.what, self.network.choice.ways().iter().map(|way| self.by(*way)).collect())
    }

    /// Whether each way leads there, and whether we are let in.
    fn enter(&self, target: &HubTarget, config: &uplink::Config) -> Vec<Finding> {
        let (mut let_in, mut denied) = (false, None);
        let ways = self.network.choice.ways().iter().map(|way| {
            let answers = self.by(*way)?;
            let trial = trial::enter(target, *way, config, PATIENCE, Clock::Real.now());
            match waited(trial)? {
                Ok(()) => let_in = true,
                Err(refusal) if refusal.denied => denied = Some(refusal.text),
                Err(refusal) => return Err(format!("{answers}, but does not let us in: {}", refusal.text)),
            }
            Ok(answers)
        });
        let mut findings = told(self.what, ways.collect());
        match (denied, let_in) {
            (Some(text), _) => findings.push(Finding::fail("credentials", text)),
            (None, true) => findings.push(Finding::ok("credentials", "the hub lets this gateway in")),
            (None, false) => {}
        }
        findings
    }

    /// That it answers, or why not.
    fn by(&self, way: Way) -> Result<String, String> {
        let port = match way {
            Way::Mqtt => self.ports.0,
            Way::WebSocket => self.ports.1,
        };
        if way == Way::Mqtt && self.network.proxy.is_none() {
            return reach(self.host, port);
        }
        // Through a proxy, or up to WebSocket, TCP alone says little.
        let tls = trust::client_as(self.ca_file, self.identity.certificate());
        let tls = Some(tls.map_err(|error| format!("cannot {error}"))?);
        let (host, proxy) = (self.host.to_owned(), self.network.proxy.clone());
        let dial = Dial { host, port, way, proxy, tls, timeout: PATIENCE };
        match waited(dial.probe())? {
            Ok(()) => Ok(format!("{} answers ({})", dial.place(), way.as_str())),
            Err(fault) => {
                // Host and port are told already.
                let place = format!("{} port {port}: ", self.host);
                let text = fault.text.strip_prefix(&place).unwrap_or(&fault.text);
                Err(format!("{} does not answer: {text}", dial.place()))
            }
        }
    }
}

fn waited<T>(task: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(|error| format!("no runtime: {error}"))?.block_on(task))
}

/// One way is enough; but then the others are no fallback.
fn told(what: &'static str, ways: Vec<Result<String, String>>) -> Vec<Finding> {
    let Some(good) = ways.iter().find_map(|way| way.clone().ok()) else {
        return vec![Finding::fail(what, ways.into_iter().filter_map(Result::err).collect::<Vec<_>>().join("; "))];
    };
    let finding = |way| match way {
        Ok(text) => Finding::ok(what, text),
        Err(text) => Finding::note(what, format!("{text}; by the other way: {good}")),
    };
    ways.into_iter().map(finding).collect()
}

/// DNS, then TCP.
fn reach(host: &str, port: u16) -> Result<String, String> {
    let addresses = (host, port).to_socket_addrs().map_err(|error| {
        format!("the name {host} cannot be resolved ({error}); correct it, or the DNS of this machine")
    })?;
    let mut last = "it has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => return Ok(format!("{host} port {port} answers ({address})")),
            Err(error) => last = format!("{address}: {error}"),
        }
    }
    Err(format!("{host} port {port} does not answer ({last}); a firewall must let it out"))
}

/// Whether there is a broker, and whether devices can connect.
fn ways_in(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let broker = &config.intake.broker;
    if broker.enabled {
        findings.push(match reach(&broker.host, broker.port) {
            Ok(text) => Finding::ok("broker", text),
            Err(text) => Finding::fail("broker", text),
        });
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

    /// What the ways are, by grade and a part of the text.
    fn of_ways(ways: &[Result<&str, &str>]) -> Vec<(Grade, String)> {
        let owned = ways.iter().map(|way| way.map(str::to_owned).map_err(str::to_owned)).collect();
        told("hub", owned).into_iter().map(|finding| (finding.grade, finding.text)).collect()
    }

    #[test]
    fn the_outboxs_folder_is_looked_at_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().expect("a folder");
        let found = |path: &Path| {
            let findings = disk(&config(&format!("[outbox]\npath = {path:?}\n")));
            (findings[0].grade, findings[0].text.clone())
        };
        let left = || std::fs::read_dir(dir.path()).expect("there").count();
        let (grade, text) = found(&dir.path().join("outbox.db"));
        assert!(grade == Grade::Ok && text.ends_with("can be written"), "{text}");
        let (grade, text) = found(&dir.path().join("a/b/outbox.db"));
        let there = dir.path().display().to_string();
        assert!(grade == Grade::Ok && text.ends_with(&format!("`run` can make it in {there}")), "{text}");
        assert_eq!(left(), 0);
        // A file is no folder.
        std::fs::write(dir.path().join("a"), "").expect("written");
        let (grade, text) = found(&dir.path().join("a/b/outbox.db"));
        assert!(grade == Grade::Fail && text.contains("cannot be made in"), "{text}");
        assert_eq!(left(), 1);
        assert_eq!(nearest(Path::new("no/such/folder")), Path::new("."));
    }

    #[test]
    fn each_way_is_told_and_one_is_enough() {
        let (note, both) = (|text: &str| (Grade::Note, text.to_owned()), |text: &str| (Grade::Ok, text.to_owned()));
        assert_eq!(of_ways(&[Ok("a"), Ok("b")]), [both("a"), both("b")]);
        assert_eq!(of_ways(&[Err("x"), Ok("b")]), [note("x; by the other way: b"), both("b")]);
        assert_eq!(of_ways(&[Ok("a"), Err("y")]), [both("a"), note("y; by the other way: a")]);
        assert_eq!(of_ways(&[Err("x"), Err("y")]), [(Grade::Fail, "x; y".to_owned())]);
    }

    #[test]
    fn where_an_agent_runs_or_may_run_no_second_connection_is_made() {
        let dir = tempfile::tempdir().expect("a folder");
        let outbox = dir.path().join("outbox.db");
        let page = TcpListener::bind("127.0.0.1:0").expect("a port");
        let seen = |page: &str| config(&format!("[outbox]\npath = {outbox:?}\n[http]\nlisten = \"{page}\"\n"));
        let found = running(&seen(&page.local_addr().expect("an address").to_string()));
        assert!(found.as_ref().is_some_and(|finding| finding.text.contains("as if an agent ran")), "{found:?}");
        // Nobody listens on port 1.
        let seen = seen("127.0.0.1:1");
        assert_eq!(running(&seen), None);
        let lock = Lock::take(&outbox, "run", Timestamp::from_millis(0)).expect("free");
        let finding = running(&seen).expect("one runs");
        assert!(finding.grade == Grade::Note && finding.text.contains("edge-agent run"), "{finding:?}");
        drop(lock);
    }

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
