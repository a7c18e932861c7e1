//! What the gateway's commands print: a person at the machine reads this and nothing else.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use serde_json::{Value as Json, json};
use tests::program::Name;
use tests::stack::Part;

use crate::flows::mosquitto_pub;
use crate::scenario::{Scenario, launcher};

const RULE: &str =
    "[[edge.presilver.rule]]\ndevice = \"press-*\"\nmetric = \"temperature\"\nmax = 150.0\nunit = \"Cel\"\n";

/// What a command of the gateway printed; it must end so.
fn said(scenario: &Scenario, args: &[&str], code: i32) -> String {
    let output = scenario.stack.run(Name::EdgeAgent, args).expect("it starts");
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}: {out}{error}");
    out.into_owned()
}

fn json_of(scenario: &Scenario, args: &[&str]) -> Json {
    serde_json::from_str(&said(scenario, args, 0)).expect("one JSON document")
}

/// The words stand in the text, in this order.
fn holds(text: &str, words: &[&str]) {
    let mut rest = text;
    for word in words {
        let Some(at) = rest.find(word) else { panic!("`{word}` of {words:?} stands not in:\n{text}") };
        rest = &rest[at + word.len()..];
    }
}

#[test]
fn check_says_of_sample_messages_what_would_become_of_them() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("writes");
        path.display().to_string()
    };
    let config = write("edge.toml", &RULE.replace("edge.", ""));
    let good = "telemetry/press-3 {\"ts\":\"2026-11-24T03:58:00Z\",\"n\":7,\"temperature\":21.5,\"state\":\"idle\"}\n";
    let all = good.to_owned()
        + "telemetry/press-3 {\"n\":8,\"temperature\":900}\n\ntelemetry/press-3/door true\ntelemetry/press-3 {\"n\":9,";
    let (good, all) = (write("good", good), write("all", &all));
    let check = |sample: &str, more: &[&str]| {
        let args = [&["check", "--config", &config, "--sample", sample], more].concat();
        let output = launcher().run(Name::EdgeAgent, &args).expect("it starts");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, text) = check(&good, &[]);
    assert_eq!(code, Some(0), "{text}");
    holds(&text, &["   1  reading   press-3 temperature = 21.5 Cel at 2026-11-24T03:58:00", "(device)"]);
    holds(&text, &["   1  reading   press-3 state = \"idle\" at", "2 readings, 0 refused; rules "]);
    let (code, text) = check(&all, &[]);
    assert_eq!(code, Some(1), "{text}");
    holds(&text, &["   2  rejected  press-3 temperature: range: 900", "   4  reading   press-3 door = true"]);
    holds(
        &text,
        &["   5  rejected  press-3 (whole payload): ", "3 readings, 2 refused", "1 with neither number nor time"],
    );
    let (_, text) = check(&all, &["--json"]);
    let lines: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let verdicts: Vec<_> = lines.iter().map(|line| (line["line"].clone(), line["verdict"].clone())).collect();
    let wanted = [(1, "reading"), (1, "reading"), (2, "rejected"), (4, "reading"), (5, "rejected")];
    assert_eq!(verdicts, wanted.map(|(line, verdict)| (json!(line), json!(verdict))));
    assert_eq!(
        (&lines[0]["value"], &lines[0]["unit"], &lines[0]["source_seq"]),
        (&json!(21.5), &json!("Cel"), &json!(7))
    );
}

#[test]
fn check_of_the_settings_alone_asks_nobody_and_writes_nothing() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // Whoever is dialled notices: it has the connection, whether it takes it or not.
    let hub = TcpListener::bind("127.0.0.1:0").expect("a port");
    hub.set_nonblocking(true).expect("set");
    let port = hub.local_addr().expect("an address").port();
    let outbox = dir.path().join("made-by-nobody/outbox.db");
    let settings = format!(
        "[hub]\nconnection-string = \"HostName=h.azure-devices.net;DeviceId=gw-01;SharedAccessKey=a2V5\"\n\
         host = \"127.0.0.1\"\nport = {port}\n[network]\ntransport = \"mqtt\"\n[outbox]\npath = {outbox:?}\n"
    );
    let check = |more: &str, args: &[&str]| {
        let path = dir.path().join("edge.toml");
        fs::write(&path, format!("{settings}{more}")).expect("writes");
        let config = path.display().to_string();
        let output =
            launcher().run(Name::EdgeAgent, &[&["--config", &config, "check"], args].concat()).expect("it starts");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), said)
    };
    let (code, said) = check("", &["--settings-only"]);
    assert_eq!(code, Some(0), "{said}");
    holds(&said, &["ok    credentials  device gw-01 of h.azure-devices.net, by its key"]);
    assert!(hub.accept().is_err() && !outbox.parent().is_some_and(Path::exists), "{said}");
    // A file that is there and is none.
    let users = dir.path().join("users");
    let listener = format!("[intake.listener]\nanonymous = false\npassword-file = {users:?}\n");
    for (text, words) in [(None, "users cannot be read"), (Some("press-3:secret\n"), "cannot use the password file")] {
        if let Some(text) = text {
            fs::write(&users, text).expect("writes");
        }
        let (code, said) = check(&listener, &["--settings-only"]);
        assert_eq!(code, Some(1), "{said}");
        holds(&said, &["FAIL  listener", words, "must be mended"]);
    }
    assert_eq!(check("[uplink]\nwindwo = 1\n", &["--settings-only"]).0, Some(64));
    assert_eq!(check("", &["--settings-only", "--sample", "x"]).0, Some(64), "one or the other");
    // The tour does ask.
    check("", &[]);
    assert!(hub.accept().is_ok() && outbox.parent().is_some_and(Path::exists));
}

#[test]
fn check_status_and_outbox_tell_what_is_held_and_why() {
    let mut scenario = Scenario::with("commands", RULE);
    let tour = said(&scenario, &["check"], 1);
    holds(&tour, &["ok    outbox", "ok    clock", "ok    credentials  device gw-01 of ", "FAIL  "]);
    holds(&said(&scenario, &["status"], 0), &["agent     not running", "there is none yet"]);
    scenario.start(Part::Hub);
    let findings = json_of(&scenario, &["check", "--json"]);
    let failed = findings.as_array().expect("findings").iter().filter(|finding| finding["grade"] == "fail");
    assert_eq!(failed.count(), 0, "{findings}");

    // The hub goes: what is taken in is held.
    scenario.start(Part::Agent);
    scenario.wait_for("link", |s| (s.stack.status(Part::Agent)?["uplink"]["link"] == "live").then_some(()));
    scenario.stack.kill(Part::Hub);
    let listener = scenario.stack.layout.ports.agent_mqtt;
    for payload in [r#"{"n":1,"temperature":21.5,"state":"idle"}"#, r#"{"n":2,"temperature":900}"#] {
        mosquitto_pub(listener, "telemetry/press-3", payload);
        mosquitto_pub(listener, "telemetry/press-3", payload); // known: acknowledged and counted
    }
    let books = "books     3 stored = 0 acknowledged by the hub + 0 given up + 3 held; 3 duplicates, 0 gaps and 0 closings wait";
    let live = said(&scenario, &["status"], 0);
    holds(
        &live,
        &[
            "agent     running: process ",
            "gateway   gw-01, epoch ",
            "high 3",
            books,
            "presilver 4 messages",
            "uplink    ",
        ],
    );
    let status = json_of(&scenario, &["status", "--json"]);
    assert_eq!((&status["running"], &status["outbox"]["held"]), (&json!(true), &json!(3)), "{status}");
    let epoch = status["epoch"].as_str().expect("an epoch").to_owned();
    let listed = said(&scenario, &["outbox", "ls"], 0);
    let line = listed.lines().find(|line| line.starts_with(&epoch)).expect("its epoch is listed");
    assert_eq!(line.split_whitespace().take(6).collect::<Vec<_>>()[1..], ["open", "3", "0", "0", "3"], "{listed}");
    holds(&listed, &[books]);

    let ended = scenario.stack.stop(Part::Agent);
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    holds(
        &said(&scenario, &["status"], 0),
        &["agent     not running", "3 held; 3 duplicates", "1 closings wait", "oldest    20"],
    );
    let exported = said(&scenario, &["outbox", "export"], 0);
    let rows: Vec<Json> = exported.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(rows.iter().map(|row| row["seq"].clone()).collect::<Vec<_>>(), [json!(1), json!(2), json!(3)]);
    assert!(rows.iter().all(|row| row["epoch"] == epoch.as_str() && row["device"] == "press-3"), "{exported}");
    assert!(rows[2]["reasons"][0].as_str().is_some_and(|reason| reason.starts_with("range: 900")), "{exported}");
    assert_eq!(
        said(&scenario, &["outbox", "export", "--epoch", &epoch, "--from", "2", "--to", "2"], 0).lines().count(),
        1
    );

    // What has left is sent again on demand, under its old ids: silver has it once.
    scenario.start(Part::Hub);
    scenario.start(Part::Ingester);
    scenario.start(Part::Agent);
    scenario.wait_for("empty outbox", |s| s.stack.has_drained().then_some(()));
    assert_eq!(said(&scenario, &["outbox", "export"], 0), "");
    assert_eq!(said(&scenario, &["outbox", "resend", "--all"], 0), "3 rows marked for sending again\n");
    let listed = json_of(&scenario, &["outbox", "ls", "--json"]);
    assert_eq!(listed["books"]["stored"], json!(3), "{listed}");
    scenario.finish_and_prove();
    assert_eq!(scenario.count("SELECT count(*) AS n FROM silver.readings"), Some(2));
    assert!(Path::new(&scenario.stack.layout.outbox()).exists());
}
