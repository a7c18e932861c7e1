//! Who may know whom, and what pure code does not do. Read from the sources, so that a slip fails with what to do
//! about it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

const PROGRAMS: [&str; 3] = ["edge-agent", "cloud-ingester", "simulator"];

/// What stands at the top of the repository; dotfiles aside.
const TOP_LEVEL: [&str; 9] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "cloud-ingester",
    "edge-agent",
    "shared",
    "simulator",
    "tests",
];

/// An outside thing and the only rooms that may name it: the crate's name in code, folders or files.
const OWNERS: [(&str, &[&str]); 15] = [
    ("rusqlite", &["edge-agent/src/outbox/store", "edge-agent/src/outbox/schema.rs"]),
    ("bincode", &["edge-agent/src/outbox/codec.rs"]),
    ("rustix", &["edge-agent/src/machine.rs"]),
    (
        "rumqttc",
        &[
            "edge-agent/src/intake",
            "edge-agent/src/line",
            "edge-agent/src/provision/service.rs",
            "edge-agent/src/uplink",
            "simulator/src/fleet",
            "simulator/src/hub/mqtt/tests",
        ],
    ),
    ("deltalake", &["cloud-ingester/src/lake", "simulator/src/verify"]),
    (
        "datafusion",
        &[
            "cloud-ingester/src/lake",
            "cloud-ingester/src/hop",
            "cloud-ingester/src/gold",
            "cloud-ingester/src/silver",
            "cloud-ingester/src/upkeep",
            "simulator/src/verify",
        ],
    ),
    (
        "azure_messaging_eventhubs",
        &[
            "cloud-ingester/src/source/eventhubs",
            "simulator/src/hub/amqp/tests",
            // A line to paste for its users.
            "simulator/src/hub/connect/snippets.rs",
            "tests/src/bench/read.rs",
            "tests/src/trials",
        ],
    ),
    // The door needs uuid's type for a signature of deltalake's, and leases need ids; azure_core re-exports it.
    (
        "azure_core",
        &[
            "cloud-ingester/src/source/eventhubs",
            "cloud-ingester/src/lake",
            "simulator/src/hub/amqp/tests",
            "tests/src/trials/processor.rs",
        ],
    ),
    ("azure_iot_sdk", &["simulator/src/fleet/direct"]),
    ("fe2o3_amqp", &["simulator/src/hub/amqp", "tests/src/bench/memory.rs"]),
    ("mqtt_protocol_core", &["edge-agent/src/intake/listener", "simulator/src/gate"]),
    // Drivers are written against embedded-hal's traits; only buses know what is under them.
    (
        "linux_embedded_hal",
        &["edge-agent/src/sensors/bus", "edge-agent/src/sensors/probe.rs", "edge-agent/src/sensors/scan.rs"],
    ),
    ("gpiocdev", &["edge-agent/src/sensors/bus"]),
    // Its name alone is also a kind of sensor.
    ("sht4x::", &["edge-agent/src/sensors/driver/sensirion.rs"]),
    ("ads1x1x", &["edge-agent/src/sensors/driver/ads1115.rs"]),
];

/// Code that decides: it is given the time and its input, and says what to do.
const PURE: [&str; 123] = [
    "shared/src/backoff.rs",
    "shared/src/blame.rs",
    "shared/src/envelope.rs",
    "shared/src/payload.rs",
    "shared/src/reading.rs",
    "shared/src/rules.rs",
    "shared/src/sas.rs",
    "shared/src/time.rs",
    "shared/src/topic.rs",
    "edge-agent/src/cli/status/view.rs",
    "edge-agent/src/cli/status/words.rs",
    "edge-agent/src/history.rs",
    "edge-agent/src/intake/listener/pace.rs",
    "edge-agent/src/intake/listener/rights.rs",
    "edge-agent/src/intake/listener/session.rs",
    "edge-agent/src/intake/listener/session/fault.rs",
    "edge-agent/src/intake/listener/session/head.rs",
    "edge-agent/src/intake/listener/session/packets.rs",
    "edge-agent/src/intake/listener/websocket/frames.rs",
    "edge-agent/src/provision/exchange.rs",
    "edge-agent/src/presilver/judge.rs",
    "edge-agent/src/presilver/format/cbor.rs",
    "edge-agent/src/presilver/format/homie.rs",
    "edge-agent/src/presilver/format/json.rs",
    "edge-agent/src/presilver/format/mod.rs",
    "edge-agent/src/presilver/format/plain.rs",
    "edge-agent/src/presilver/format/records.rs",
    "edge-agent/src/presilver/format/senml.rs",
    "edge-agent/src/presilver/format/sparkplug/message.rs",
    "edge-agent/src/presilver/format/sparkplug/mod.rs",
    "edge-agent/src/presilver/format/sparkplug/topic.rs",
    "edge-agent/src/presilver/format/sparkplug/value.rs",
    "edge-agent/src/presilver/format/sparkplug/wire.rs",
    "edge-agent/src/presilver/format/tasmota.rs",
    "edge-agent/src/presilver/format/tree.rs",
    "edge-agent/src/presilver/format/units.rs",
    "edge-agent/src/presilver/format/when.rs",
    "edge-agent/src/presilver/format/zigbee2mqtt.rs",
    "edge-agent/src/presilver/format/zigbee2mqtt/units.rs",
    "edge-agent/src/presilver/mapping/mod.rs",
    "edge-agent/src/presilver/mapping/pattern.rs",
    "edge-agent/src/presilver/mapping/plan.rs",
    "edge-agent/src/line/ways.rs",
    "edge-agent/src/outbox/codec.rs",
    "edge-agent/src/outbox/history.rs",
    "edge-agent/src/outbox/memory.rs",
    "edge-agent/src/remote/document.rs",
    "edge-agent/src/remote/ear.rs",
    "edge-agent/src/remote/ear/words.rs",
    "edge-agent/src/remote/level.rs",
    "edge-agent/src/remote/method.rs",
    "edge-agent/src/remote/settings.rs",
    "edge-agent/src/remote/topic.rs",
    "edge-agent/src/remote/twin.rs",
    "edge-agent/src/sensors/driver/ads1115.rs",
    "edge-agent/src/sensors/driver/bosch.rs",
    "edge-agent/src/sensors/driver/ds18b20.rs",
    "edge-agent/src/sensors/driver/sensirion.rs",
    "edge-agent/src/sensors/pace.rs",
    "edge-agent/src/uplink/batch.rs",
    "edge-agent/src/uplink/link.rs",
    "edge-agent/src/uplink/window.rs",
    "cloud-ingester/src/source/claims.rs",
    "cloud-ingester/src/source/resume.rs",
    "cloud-ingester/src/bronze/backfill.rs",
    "cloud-ingester/src/bronze/cutter.rs",
    "cloud-ingester/src/bronze/rows.rs",
    "cloud-ingester/src/hop/plan.rs",
    "cloud-ingester/src/silver/decode.rs",
    "cloud-ingester/src/silver/judge.rs",
    "cloud-ingester/src/silver/plain.rs",
    "cloud-ingester/src/silver/ranges.rs",
    "cloud-ingester/src/silver/messages.rs",
    "cloud-ingester/src/silver/seen.rs",
    "cloud-ingester/src/silver/work.rs",
    "cloud-ingester/src/gold/keys.rs",
    "cloud-ingester/src/gold/model.rs",
    "cloud-ingester/src/gold/window.rs",
    "cloud-ingester/src/lake/tables.rs",
    "simulator/src/dps/allocation.rs",
    "simulator/src/dps/answer.rs",
    "simulator/src/dps/attest.rs",
    "simulator/src/dps/keys.rs",
    "simulator/src/dps/throttle.rs",
    "simulator/src/dps/topic.rs",
    "simulator/src/fleet/direct/identities.rs",
    "simulator/src/fleet/fault.rs",
    "simulator/src/fleet/load.rs",
    "simulator/src/fleet/send.rs",
    "simulator/src/fleet/waveform.rs",
    "simulator/src/gate/session.rs",
    "simulator/src/gate/web/upgrade.rs",
    "simulator/src/hub/amqp/filter.rs",
    "simulator/src/hub/api/auth.rs",
    "simulator/src/hub/api/calls.rs",
    "simulator/src/hub/api/errors.rs",
    "simulator/src/hub/api/jobs/record.rs",
    "simulator/src/hub/api/pages.rs",
    "simulator/src/hub/api/query/eval.rs",
    "simulator/src/hub/api/query/lex.rs",
    "simulator/src/hub/api/query/parse.rs",
    "simulator/src/hub/api/wire.rs",
    "simulator/src/hub/commands/command.rs",
    "simulator/src/hub/commands/feedback.rs",
    "simulator/src/hub/commands/queue.rs",
    "simulator/src/hub/devices/text.rs",
    "simulator/src/hub/mqtt/auth.rs",
    "simulator/src/hub/mqtt/filters.rs",
    "simulator/src/hub/mqtt/requests.rs",
    "simulator/src/hub/mqtt/telemetry.rs",
    "simulator/src/hub/twins/document.rs",
    "simulator/src/hub/twins/patch.rs",
    "simulator/src/replay/table.rs",
    "simulator/src/replay/when.rs",
    "simulator/src/sensors/board.rs",
    "simulator/src/sensors/chip/ads1115.rs",
    "simulator/src/sensors/chip/bosch.rs",
    "simulator/src/sensors/chip/sensirion.rs",
    "simulator/src/sensors/command.rs",
    "simulator/src/sensors/frame.rs",
    "simulator/src/verify/expected.rs",
    "simulator/src/verify/intervals.rs",
    "simulator/src/verify/proof.rs",
];

#[test]
fn the_top_level_holds_what_the_readme_names() {
    let allowed = BTreeSet::from(TOP_LEVEL.map(String::from));
    let found: BTreeSet<String> = std::fs::read_dir(root())
        .expect("the workspace")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && name != "target")
        .collect();
    assert_eq!(found, allowed, "move what is new into a package, or make it a dotfile");
}

#[test]
fn dependencies_point_one_way() {
    for package in ["shared", "edge-agent", "cloud-ingester", "simulator", "tests"] {
        let allowed: &[&str] = match package {
            "shared" => &[],
            "tests" => &["shared", "edge-agent", "cloud-ingester", "simulator"],
            _ => &["shared"],
        };
        for (section, name, value) in dependencies(&manifest(package)) {
            let ours = name == "shared" || name == "tests" || PROGRAMS.contains(&name.as_str());
            assert!(
                !ours || allowed.contains(&name.as_str()),
                "{package}: [{section}] names {name}; what both need belongs into `shared`, what compares them into `tests`"
            );
            assert!(
                value.get("workspace").and_then(Value::as_bool) == Some(true),
                "{package}: [{section}] {name}: write `{name}.workspace = true` and the version into the root's Cargo.toml"
            );
        }
    }
}

#[test]
fn every_package_takes_the_workspaces_lints_and_every_declared_dependency_is_used() {
    let mut used = BTreeSet::new();
    for package in ["shared", "edge-agent", "cloud-ingester", "simulator", "tests"] {
        let manifest = manifest(package);
        let lints = manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(Value::as_bool);
        assert_eq!(lints, Some(true), "{package}: write `[lints]\nworkspace = true`");
        used.extend(dependencies(&manifest).into_iter().map(|(_, name, _)| name));
    }
    let text = read(&root().join("Cargo.toml"));
    let root: Table = text.parse().expect("Cargo.toml is TOML");
    let declared = root["workspace"]["dependencies"].as_table().expect("[workspace.dependencies]").keys();
    let idle: Vec<&String> = declared.filter(|name| !used.contains(*name) && *name != "tests").collect();
    assert!(idle.is_empty(), "[workspace.dependencies] declares what no package uses, take it out: {idle:?}");
}

#[test]
fn the_vocabulary_knows_no_runtime_no_broker_no_disk_and_no_lake() {
    let banned = ["tokio", "rumqttc", "rusqlite", "deltalake", "datafusion", "azure"];
    for (section, name, value) in dependencies(&manifest("shared")) {
        let optional = value.get("optional").and_then(Value::as_bool) == Some(true);
        assert!(
            section == "dev-dependencies" || optional || !banned.iter().any(|banned| name.starts_with(banned)),
            "shared: {name} must be optional, behind feature `service`"
        );
    }
    let service: BTreeSet<String> = {
        let library = read(&root().join("shared/src/lib.rs"));
        let lines: Vec<&str> = library.lines().collect();
        lines
            .windows(2)
            .filter(|pair| pair[0].contains(r#"feature = "service""#))
            .filter_map(|pair| module(pair[1]))
            .collect()
    };
    for file in sources("shared/src") {
        let relative = relative(&file);
        let top = relative.trim_start_matches("shared/src/").split(['/', '.']).next().unwrap_or_default().to_owned();
        if service.contains(&top) {
            continue;
        }
        for (number, line) in code(&file) {
            for banned in banned {
                assert!(
                    !names(&line, banned),
                    "{relative}:{number} names {banned}; the vocabulary is for everybody: move this behind feature `service`, or to its owner"
                );
            }
        }
    }
}

#[test]
fn each_outside_thing_has_one_owner() {
    for (thing, rooms) in OWNERS {
        for file in PROGRAMS.iter().flat_map(|program| sources(&format!("{program}/src"))) {
            let relative = relative(&file);
            if rooms.iter().any(|room| relative.starts_with(room)) {
                continue;
            }
            for (number, line) in code(&file) {
                assert!(
                    !names(&line, thing),
                    "{relative}:{number} names {thing}, which belongs to {}; ask its owner for what you need, in our own types",
                    rooms.join(", ")
                );
            }
        }
    }
}

#[test]
fn pure_code_has_no_clock_no_io_no_async_and_no_lock() {
    let banned = [
        ("async", "let the shell wait"),
        ("await", "let the shell wait"),
        ("now()", "take the time as an argument"),
        ("tracing", "return what happened; the shell logs it"),
        ("std::fs", "take the bytes as an argument"),
        ("std::env", "take the value as an argument"),
        ("tokio", "let the shell wait"),
        ("Mutex", "take `&mut self`"),
        ("RwLock", "take `&mut self`"),
    ];
    for relative in PURE {
        let file = root().join(relative);
        assert!(file.is_file(), "{relative} is gone: take its new name, or its heirs', into the list in this test");
        for (number, line) in code(&file) {
            for (word, instead) in banned {
                assert!(!names(&line, word), "{relative}:{number} is pure and names `{word}`: {instead}");
            }
        }
    }
}

#[test]
fn only_the_clock_asks_for_the_wall_time() {
    for file in ["shared", "edge-agent", "cloud-ingester", "simulator", "tests"]
        .iter()
        .flat_map(|package| sources(&format!("{package}/src")))
    {
        let relative = relative(&file);
        if relative == "shared/src/clock.rs" {
            continue;
        }
        for (number, line) in code(&file) {
            for banned in ["SystemTime::now()", "now_utc()"] {
                assert!(
                    !names(&line, banned),
                    "{relative}:{number}: take a `shared::clock::Clock`, or the time as an argument"
                );
            }
        }
    }
}

#[test]
fn the_checks_of_this_file_see_what_they_look_for() {
    for (line, word, seen) in [
        ("use rusqlite::Connection;", "rusqlite", true),
        ("    let error = sht4x::Error::Crc;", "sht4x::", true),
        ("            Kind::Sht4x => \"sht4x\",", "sht4x::", false),
        ("    let at = SystemTime::now();", "SystemTime::now()", true),
        ("let rusqlite_path = 1;", "rusqlite", false),
        ("let knowledge = known();", "now()", false),
        ("x.await?", "await", true),
    ] {
        assert_eq!(names(line, word), seen, "{line}");
    }
    let library = code(&root().join("shared/src/http.rs"));
    assert!(library.iter().any(|(_, line)| names(line, "axum")), "the sources are read");
    assert!(!library.iter().any(|(_, line)| line.contains("tokio::test")), "tests are left out");
}

/// True if `line` holds `word` as a word of its own.
fn names(line: &str, word: &str) -> bool {
    let ends_name = |letter: char| !letter.is_alphanumeric() && letter != '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        before.is_none_or(ends_name) && (word.ends_with([')', ':']) || after.is_none_or(ends_name))
    })
}

/// The numbered lines of a source file: without comments, without what a test adds.
fn code(file: &Path) -> Vec<(usize, String)> {
    let is_test = file.components().any(|part| part.as_os_str() == "tests")
        || file.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("tests"));
    if is_test && !relative(file).starts_with("tests/src") {
        return Vec::new();
    }
    let text = read(file);
    let lines: Vec<&str> = text.lines().collect();
    // `mod tests { … }` is the last thing in a file; `mod tests;` stands among the other modules.
    let opens_tests =
        |at: usize| lines[at] == "#[cfg(test)]" && lines.get(at + 1).is_some_and(|next| next.ends_with('{'));
    let end = (0..lines.len()).find(|at| opens_tests(*at)).unwrap_or(lines.len());
    let without_comment = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    lines[..end].iter().enumerate().map(|(index, line)| (index + 1, without_comment(line))).collect()
}

fn module(line: &str) -> Option<String> {
    line.trim().strip_prefix("pub mod ")?.split(';').next().map(str::to_owned)
}

/// (section, name, value) of every dependency, platform-specific ones too.
fn dependencies(manifest: &Table) -> Vec<(String, String, Value)> {
    let sections = ["dependencies", "dev-dependencies", "build-dependencies"];
    let targets = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(|targets| targets.values());
    let tables = std::iter::once(manifest).chain(targets.filter_map(Value::as_table));
    tables
        .flat_map(|table| sections.map(|section| (section, table.get(section).and_then(Value::as_table))))
        .flat_map(|(section, found)| {
            found.into_iter().flatten().map(move |(name, value)| (section.to_owned(), name.clone(), value.clone()))
        })
        .collect()
}

fn manifest(package: &str) -> Table {
    read(&root().join(package).join("Cargo.toml")).parse().expect("a manifest is TOML")
}

fn sources(folder: &str) -> Vec<PathBuf> {
    walkdir::WalkDir::new(root().join(folder))
        .sort_by_file_name()
        .into_iter()
        .map(|entry| entry.expect("a readable folder").into_path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("a path in the workspace").display().to_string()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}
