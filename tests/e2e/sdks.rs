//! Microsoft's own SDKs, unmodified, against the local hub; and the table of them in the simulator's README.
//!
//! Each script under `tests/sdk` speaks for one SDK: `--list` names its features, `SCRIPT FEATURE` tries one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use tests::program::{Launcher, Name};
use tests::{probe, wait};

/// The variables by which `cargo verify` says where the SDKs are.
const PYTHON: &str = "SDK_PYTHON";
const NODE: &str = "SDK_NODE";

/// For one feature; the slowest waits for a token to run out.
const PATIENCE: Duration = Duration::from_secs(120);

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../simulator/README.md");
const TABLE: [&str; 2] = ["<!-- sdk table: begin -->\n", "<!-- sdk table: end -->"];

/// How an SDK's script is run.
#[derive(Debug, Clone, Copy)]
enum Run {
    Python(&'static str),
    Node(&'static str),
    /// A trial of the multi-call binary.
    Rust(&'static str),
}

#[derive(Debug, Clone, Copy)]
struct Sdk {
    /// As in the table.
    name: &'static str,
    run: Run,
    side: Side,
    /// Where its version is pinned, and under which name.
    pin: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Device,
    /// A device that asks the provisioning service for its hub.
    Provisioning,
    /// Reads events.
    Service,
    /// Asks, commands and changes devices.
    Backend,
}

const SDKS: [Sdk; 10] = [
    Sdk { name: "Python azure-iot-device", run: Run::Python("device.py"), side: Side::Device, pin: "azure-iot-device" },
    Sdk {
        name: "Node azure-iot-device-mqtt",
        run: Run::Node("device.mjs"),
        side: Side::Device,
        pin: "azure-iot-device-mqtt",
    },
    Sdk {
        name: "no SDK: Node-RED's recipe, mosquitto_pub, paho",
        run: Run::Python("paho_device.py"),
        side: Side::Device,
        pin: "paho-mqtt",
    },
    Sdk {
        name: "Python azure-iot-device",
        run: Run::Python("provision.py"),
        side: Side::Provisioning,
        pin: "azure-iot-device",
    },
    Sdk {
        name: "Node azure-iot-provisioning-device-mqtt",
        run: Run::Node("provision.mjs"),
        side: Side::Provisioning,
        pin: "azure-iot-provisioning-device-mqtt",
    },
    Sdk { name: "Python azure-eventhub", run: Run::Python("service.py"), side: Side::Service, pin: "azure-eventhub" },
    Sdk {
        name: "Node @azure/event-hubs",
        run: Run::Node("service.mjs"),
        side: Side::Service,
        pin: "@azure/event-hubs",
    },
    Sdk {
        name: "Rust azure_messaging_eventhubs",
        run: Run::Rust("eventhubs"),
        side: Side::Service,
        pin: "azure_messaging_eventhubs",
    },
    Sdk { name: "Python azure-iot-hub", run: Run::Python("backend.py"), side: Side::Backend, pin: "azure-iot-hub" },
    Sdk { name: "Node azure-iothub", run: Run::Node("backend.mjs"), side: Side::Backend, pin: "azure-iothub" },
];

/// A hub of its own, killed when dropped.
struct Hub {
    child: Child,
    dir: tempfile::TempDir,
    http: String,
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Hub {
    /// A hub for one SDK, so that the misfortunes of one are not those of another; on an address whose ports 8883, 5671
    /// and 443 are free, since the SDKs dial no others.
    fn start(sdk: &Sdk) -> Self {
        let dir = tempfile::Builder::new().prefix("iot-sdks-").tempdir().expect("a folder");
        let launcher = Launcher::new(env!("CARGO_BIN_EXE_tests"));
        let ip = free_loopback(None);
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|held| held.local_addr()).expect("a port");
        let (amqp, http) = (free(), free());
        let (amqps, https) = (SocketAddr::from((ip, 5671)), SocketAddr::from((ip, 443)));
        let websocket = free();
        let host_name = match sdk.side {
            Side::Provisioning => ip.to_string(),
            Side::Device | Side::Service | Side::Backend => "local-hub.azure-devices.net".to_owned(),
        };
        let text = format!(
            "[hub]\nhost-name = \"{host_name}\"\ndata-dir = {:?}\nmqtt-listen = \"{ip}:8883\"\namqp-listen = \"{amqp}\"\namqps-listen = \"{amqps}\"\n\
             amqp-websocket-listen = \"{websocket}\"\nhttps-listen = \"{https}\"\n\
             consumer-groups = [\"python\", \"python-2\", \"node\", \"node-2\", \"rust\", \"rust-2\"]\n\
             devices = [{:?}]\nserver-names = [\"localhost\", \"{ip}\"]\n[hub.http]\nlisten = \"{http}\"\n",
            dir.path().join("hub"),
            sdk.device(),
        );
        let config = dir.path().join("sim.toml");
        let provisioning = sdk.provisioning(dir.path(), ip, free());
        fs::write(&config, text + &provisioning).expect("written");
        let config = config.display().to_string();
        let hub = |command: &str, name: &str, more: &[&str]| {
            let args = [&["--config", &config, "hub", command, name], more].concat();
            let said = launcher.run(Name::Simulator, &args).expect("the hub is prepared");
            assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        };
        if sdk.side == Side::Device {
            for more in [
                ["", "--module", "m", "--days", "1"],
                ["-ca", "--auth", "x509-ca", "--days", "1"],
                ["-thumbprint", "--auth", "x509-thumbprint", "--days", "1"],
                ["-expired", "--auth", "x509-ca", "--days", "0"],
            ] {
                hub("register", &(sdk.device() + more[0]), &more[1..]);
            }
        }
        if sdk.side == Side::Provisioning {
            let member = sdk.device() + "-x509-member";
            for (name, more) in [
                ("", &[][..]),
                ("-again", &[]),
                ("-disabled", &["--disabled"]),
                ("-x509", &["--auth", "x509"]),
                ("-group", &["--group"]),
                ("-x509-group", &["--group", "--auth", "x509", "--member", &member]),
            ] {
                hub("enroll", &(sdk.device() + name), more);
            }
        }
        let said = launcher.run(Name::Simulator, &["--config", &config, "hub", "connection-strings", "--json"]);
        let said = said.expect("the hub says how to connect");
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        fs::write(dir.path().join("hub.json"), said.stdout).expect("written");
        let log = fs::File::create(dir.path().join("hub.log")).expect("a log");
        let mut command = launcher.command(Name::Simulator, &["--config", &config, "hub"]);
        let child = command.stderr(log).spawn().expect("the hub starts");
        let hub = Self { child, dir, http: format!("http://{http}") };
        let ready = wait::until(PATIENCE, || probe::is_ready(http).then_some(()));
        assert!(ready.is_some(), "the hub is not ready:\n{}", hub.log());
        hub
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("hub.log")).unwrap_or_default()
    }
}

fn free_loopback(but: Option<Ipv4Addr>) -> Ipv4Addr {
    let mut addresses = (2..250).map(|last| Ipv4Addr::new(127, 0, 3, last)).filter(|ip| Some(*ip) != but);
    let free = |ip: &Ipv4Addr| [8883, 5671, 443].iter().all(|port| TcpListener::bind((*ip, *port)).is_ok());
    addresses.find(free).expect("a loopback address whose ports 8883, 5671 and 443 are free, and may be listened on")
}

impl Sdk {
    /// The table of the provisioning service beside a hub at `hub`, if this SDK is to find it there: what it is told to
    /// dial then is the hub's address.
    fn provisioning(&self, dir: &Path, hub: Ipv4Addr, http: SocketAddr) -> String {
        if self.side != Side::Provisioning {
            return String::new();
        }
        let (ip, data) = (free_loopback(Some(hub)), dir.join("dps"));
        fs::create_dir(&data).expect("a folder");
        let payload = format!("[[individual]]\nid = \"{}-payload\"\npayload = {{ line = 3 }}\n", self.device());
        fs::write(data.join("enrolments.toml"), payload).expect("written");
        format!(
            "[dps]\nlisten = \"{ip}:8883\"\nwebsocket-listen = \"{ip}:443\"\ndata-dir = {data:?}\nretry-after = \"1s\"\n[dps.http]\nlisten = \"{http}\"\n"
        )
    }

    /// A device of its own, so that scripts do not see each other's messages.
    fn device(&self) -> String {
        let language = match self.run {
            Run::Python(script) => format!("python-{script}"),
            Run::Node(script) => format!("node-{script}"),
            Run::Rust(trial) => format!("rust-{trial}"),
        };
        language.replace(['.', '/'], "-")
    }

    fn command(&self, hub: &Hub) -> Command {
        let mut command = match self.run {
            Run::Python(script) => {
                let mut command = Command::new(needed(PYTHON));
                command.arg(sources("python").join(script));
                command
            }
            Run::Node(script) => {
                let mut command = Command::new("node");
                command.arg(sources("node").join(script)).env(NODE, needed(NODE));
                if self.side == Side::Provisioning {
                    command.env("NODE_EXTRA_CA_CERTS", hub.dir.path().join("hub/identity/ca.pem"));
                }
                command
            }
            Run::Rust(trial) => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_tests"));
                command.args(["--trial", trial]).env("SSL_CERT_FILE", hub.dir.path().join("hub/identity/ca.pem"));
                command
            }
        };
        command
            .env("SDK_HUB", hub.dir.path().join("hub.json"))
            .env("SDK_HUB_HTTP", &hub.http)
            .env("SDK_DEVICE", self.device())
            .stdin(Stdio::null());
        command
    }

    fn features(&self, hub: &Hub) -> Vec<String> {
        let output = self.command(hub).arg("--list").output().expect("the script starts");
        assert!(output.status.success(), "{}: {}", self.name, String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// Why the feature failed; `None` if it passed.
    fn attempt(&self, feature: &str, hub: &Hub) -> Option<String> {
        let errors = hub.dir.path().join(format!("{}-{feature}.err", self.device()));
        let mut command = self.command(hub);
        command.arg(feature).stdout(Stdio::null()).stderr(fs::File::create(&errors).expect("a file"));
        let mut child = command.spawn().expect("the script starts");
        let ended = wait::until(PATIENCE, || child.try_wait().expect("its status"));
        let why = match ended {
            Some(status) if status.success() => return None,
            Some(status) => status.to_string(),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                format!("not done within {PATIENCE:?}")
            }
        };
        let said = fs::read_to_string(errors).unwrap_or_default();
        let last: Vec<&str> = said.trim().lines().rev().take(12).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        Some(format!("{why}: {}", last.join("\n    ")))
    }

    fn version(&self) -> String {
        let (file, language) = match self.run {
            Run::Python(_) => (sources("python").join("requirements.txt"), "=="),
            Run::Node(_) => (sources("node").join("package.json"), ": "),
            Run::Rust(_) => (sources("../../Cargo.toml"), " = { version = ="),
        };
        let pins = fs::read_to_string(&file).expect("the pins");
        let line = pins.lines().find_map(|line| {
            let line = line.trim().trim_end_matches(',').replace('"', "");
            line.strip_prefix(self.pin)?.strip_prefix(language)?.split(',').next().map(str::to_owned)
        });
        line.unwrap_or_else(|| panic!("{} pins no {}", file.display(), self.pin))
    }
}

fn sources(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk").join(language)
}

fn needed(variable: &str) -> std::ffi::OsString {
    std::env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable} is not set; `cargo verify` installs the pinned SDKs and sets it"))
}

/// Features by SDK and what became of them.
type Outcomes = BTreeMap<(usize, usize), (String, Option<String>)>;

fn table(side: Side, outcomes: &Outcomes) -> String {
    let columns: Vec<usize> = (0..SDKS.len()).filter(|at| SDKS[*at].side == side).collect();
    let mut rows: Vec<&str> = vec![];
    for ((sdk, _), (feature, _)) in outcomes {
        if columns.contains(sdk) && !rows.contains(&feature.as_str()) {
            rows.push(feature);
        }
    }
    let mut text = String::new();
    let heads = columns.iter().map(|at| format!("{} {}", SDKS[*at].name, SDKS[*at].version()));
    let _ = writeln!(text, "| | {} |", heads.collect::<Vec<_>>().join(" | "));
    let _ = writeln!(text, "|---{}|", "|---".repeat(columns.len()));
    for row in rows {
        let cell = |column: &usize| {
            let found = outcomes.iter().find(|((sdk, _), (feature, _))| sdk == column && feature == row);
            match found {
                None => "",
                Some((_, (_, None))) => "pass",
                Some((_, (_, Some(_)))) => "FAIL",
            }
        };
        let cells: Vec<&str> = columns.iter().map(cell).collect();
        let _ = writeln!(text, "| {row} | {} |", cells.join(" | "));
    }
    text
}

#[test]
fn microsofts_sdks_accept_the_hub_and_the_readme_says_which() {
    // One after the other, so that none takes the address that another is about to take.
    let hubs: Vec<Hub> = SDKS.iter().map(Hub::start).collect();
    // One thread per SDK; each SDK's features one after the other.
    let outcomes: Outcomes = thread::scope(|scope| {
        let attempts = |at: usize| {
            let (sdk, hub) = (&SDKS[at], &hubs[at]);
            let features = sdk.features(hub).into_iter().enumerate();
            let tried = features.map(|(row, feature)| {
                let why = sdk.attempt(&feature, hub);
                ((at, row), (feature, why))
            });
            tried.collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..SDKS.len()).map(|at| scope.spawn(move || attempts(at))).collect();
        threads.into_iter().flat_map(|attempt| attempt.join().expect("no panic")).collect()
    });

    let made = [
        ("Devices", Side::Device),
        ("Devices that are provisioned", Side::Provisioning),
        ("Services that read events", Side::Service),
        ("Services that ask, command and change devices", Side::Backend),
    ];
    let made = made.map(|(title, side)| format!("{title}:\n\n{}", table(side, &outcomes))).join("\n");
    let failed: Vec<String> = outcomes
        .iter()
        .filter_map(|((sdk, _), (feature, why))| {
            let log = last_lines(&hubs[*sdk].log());
            Some(format!("{} {feature}: {}\nits hub's last lines:\n{log}\n", SDKS[*sdk].name, why.as_ref()?))
        })
        .collect();
    assert!(failed.is_empty(), "{made}\n{}", failed.join("\n"));

    let readme = fs::read_to_string(README).expect("the simulator's README");
    let (begin, end) = (readme.find(TABLE[0]).expect("a table"), readme.find(TABLE[1]).expect("its end"));
    let begin = begin + TABLE[0].len();
    if std::env::var_os("SDK_TABLE").is_some_and(|wish| wish == "write") {
        fs::write(README, format!("{}{made}{}", &readme[..begin], &readme[end..])).expect("written");
        return;
    }
    assert_eq!(&readme[begin..end], made, "the table of simulator/README.md is another; SDK_TABLE=write writes it");
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
