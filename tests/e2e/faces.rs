//! Configs with mistakes, exit codes, help: what a person meets first.

use std::fs;

use serde_json::{Value as Json, json};
use tests::program::Name;

use crate::scenario::launcher;

fn run(name: Name, args: &[&str]) -> (Option<i32>, String) {
    let output = launcher().run(name, args).expect("it starts");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code(), said)
}

#[test]
fn a_config_with_three_mistakes_is_answered_with_all_three_and_exit_64() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (name, verb, text) in [
        (Name::EdgeAgent, "run", "[uplink]\nwindow = 0\nlinger = \"soon\"\nwindwo = 1\n"),
        (Name::EdgeAgent, "check", "[uplink]\nwindow = 0\nlinger = \"soon\"\nwindwo = 1\n"),
        (Name::CloudIngester, "run", "[silver]\nmax-age = \"old\"\nmax-ahead = 3\nmax-agee = \"1d\"\n"),
        (Name::Simulator, "hub", "[hub]\npartitions = 0\nretention = \"ever\"\nparititons = 2\n"),
    ] {
        let file = dir.path().join("mistakes.toml");
        fs::write(&file, text).expect("writes");
        let (code, said) = run(name, &[verb, "--config", &file.display().to_string()]);
        assert_eq!(code, Some(64), "{name:?} {verb}: {said}");
        for line in [2, 3, 4] {
            assert!(said.contains(&format!("mistakes.toml:{line}")), "{name:?} {verb} names line {line}:\n{said}");
        }
    }
}

#[test]
fn mistakes_are_one_json_document_for_programs() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("mistakes.toml");
    let config = file.display().to_string();
    fs::write(&file, "[uplink]\nwindow = 0\nlinger = \"soon\"\n").expect("writes");
    for more in [&[][..], &["--settings-only"]] {
        let args = [&["check", "--json", "--config", &config], more].concat();
        let output = launcher().run(Name::EdgeAgent, &args).expect("it starts");
        assert_eq!(output.status.code(), Some(64));
        let found: Json = serde_json::from_slice(&output.stdout).expect("one JSON document");
        let found: Vec<_> = found.as_array().expect("findings").iter().collect();
        for (key, line, part) in [("uplink.window", 2, "write e.g. 100"), ("uplink.linger", 3, "in quotes")] {
            let one = found.iter().find(|one| one["key"] == key).unwrap_or_else(|| panic!("{key}: {found:?}"));
            assert_eq!((&one["grade"], &one["file"], &one["line"]), (&json!("fail"), &json!(config), &json!(line)));
            assert!(one["text"].as_str().is_some_and(|text| text.contains(part)), "{one}");
        }
    }
}

#[test]
fn usage_mistakes_exit_64_and_help_exits_0() {
    for name in [Name::EdgeAgent, Name::CloudIngester, Name::Simulator] {
        assert_eq!(run(name, &["--no-such-flag"]).0, Some(64), "{name:?}");
        assert_eq!(run(name, &["--help"]).0, Some(0), "{name:?}");
    }
}

#[test]
fn help_names_each_command() {
    for (name, there) in [
        (Name::EdgeAgent, &["run", "check", "status", "provision", "outbox", "sensors", "completion"][..]),
        (
            Name::CloudIngester,
            &["run", "check", "status", "hop", "backfill", "maintain", "quarantine", "trace", "query", "export"],
        ),
        (Name::Simulator, &["devices", "replay", "hub", "sensors", "verify"]),
    ] {
        let (_, said) = run(name, &["--help"]);
        let lines = said.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        // What goes on in a second line is set in further.
        let named = lines.filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
        let commands: Vec<&str> = named.filter_map(|line| line.split_whitespace().next()).collect();
        assert!(there.iter().all(|command| commands.contains(command)), "{name:?}: {commands:?}");
    }
}
