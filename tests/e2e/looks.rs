//! The gateway looked after: what its page, its plots and its metrics tell, what the journal gets, what shells and `man` read.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};

use serde_json::{Value as Json, json};
use tests::program::Name;
use tests::stack::Part;
use tests::{browser, probe};

use crate::flows::mosquitto_pub;
use crate::scenario::{Scenario, launcher};

/// Head and body of an answer.
fn whole_answer(addr: SocketAddr, host: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(addr).expect("the agent listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.to_lowercase(), body.to_owned())
}

#[test]
fn page_plots_and_metrics_tell_of_a_backlog_and_why_and_hold_no_secret() {
    let mut scenario = Scenario::new("looks");
    scenario.start(Part::Agent); // there is no hub
    let ports = scenario.stack.layout.ports;
    for n in 1..=3 {
        mosquitto_pub(ports.agent_mqtt, "telemetry/press-3", &format!(r#"{{"n":{n},"temperature":21.5}}"#));
    }
    let status = scenario.wait_for("backlog and its reason", |s| {
        let status = s.stack.status(Part::Agent)?;
        let error = status["errors"][0]["text"].as_str()?.to_owned();
        (status["outbox"]["held"] == 3 && error.contains("no connection to the hub")).then_some(status)
    });
    assert!(["growing", "waiting"].map(Json::from).contains(&status["outlook"]["is"]), "{status}");
    assert!(status["disk"]["free"].as_u64() <= status["disk"]["total"].as_u64() && status["disk"]["total"] != 0);
    assert!(status["memory"].as_u64().is_some_and(|bytes| 0 < bytes), "{status}");
    let hour: Json = scenario.wait_for("ten seconds of plots", |_| {
        let hour: Json = serde_json::from_str(&probe::get(ports.agent_http, "/hour")?).ok()?;
        (hour["held"].as_array()?.last()? == 3).then_some(hour)
    });
    let (held, up) = (hour["held"].as_array().expect("a curve"), hour["up"].as_array().expect("a curve"));
    assert_eq!((held.len(), up.last()), (up.len(), Some(&json!(0.0))), "{hour}");

    let (head, page) = whole_answer(ports.agent_http, "localhost", "/");
    assert!(head.starts_with("http/1.1 200"), "{head}");
    for kept in ["default-src 'none'", "frame-ancestors 'none'", "x-content-type-options: nosniff", "text/html"] {
        assert!(head.contains(kept), "{kept}: {head}");
    }
    let (head, _) = whole_answer(ports.agent_http, "rebound.example", "/");
    assert!(head.starts_with("http/1.1 421"), "{head}");
    let seen = browser::document(ports.agent_http, "/").unwrap_or_else(|why| panic!("{why}"));
    for part in [
        "<title>gw-01 · ",
        r#"<h1 id="gateway">gw-01</h1>"#,
        r#"id="held">3</div>"#,
        "no connection to the hub",
        r#"class="curve stroke-held""#,
        r#"class="curve stroke-in""#,
        r#"class="down""#,
    ] {
        assert!(seen.contains(part), "{part}: {seen}");
    }
    let metrics = probe::get(ports.agent_http, "/metrics").expect("metrics");
    for name in
        ["edge_info{version=", "edge_machine_disk_free_bytes ", "edge_machine_resident_bytes ", "edge_outbox_held 3"]
    {
        assert!(metrics.contains(name), "{name}: {metrics}");
    }
    let credential = fs::read_to_string(scenario.stack.layout.agent_credential()).expect("a credential");
    let (_, key) = credential.trim().split_once("SharedAccessKey=").expect("a key");
    let shown = [page, seen, status.to_string(), hour.to_string(), metrics, scenario.log(Part::Agent)];
    assert!(shown.iter().all(|text| !text.contains(key)));

    // The terminal's view and its lines are made of the same.
    let plain = scenario.stack.run(Name::EdgeAgent, &["status"]).expect("it starts");
    let plain = String::from_utf8_lossy(&plain.stdout).into_owned();
    for part in ["rates     ", "backlog   3 rows, ", "disk      ", " ago, "] {
        assert!(plain.contains(part), "{part}: {plain}");
    }
    assert!(!plain.contains('\u{1b}'), "nobody asked for colours: {plain}");
}

#[test]
fn a_status_that_is_watched_is_one_line_each_time() {
    let mut scenario = Scenario::new("watched");
    scenario.start(Part::Agent);
    let config = scenario.stack.layout.config("edge").display().to_string();
    for (args, whole) in [(&["--json"][..], true), (&[][..], false)] {
        let args = [&["status", "--config", &config, "--watch", "1"], args].concat();
        let mut watch = launcher().command(Name::EdgeAgent, &args).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
        let two = [lines.next(), lines.next()].map(|line| line.expect("a line").expect("text"));
        watch.kill().and_then(|()| watch.wait()).expect("it ends");
        for line in two {
            match whole {
                true => {
                    let status: Json = serde_json::from_str(&line).expect("JSON");
                    assert_eq!((&status["running"], &status["gateway"]), (&json!(true), &json!("gw-01")), "{line}");
                    assert!(status["hour"].is_object(), "{line}");
                }
                false => assert!(line.contains(" gw-01: ") && line.contains(" held, "), "{line}"),
            }
        }
    }
}

#[test]
fn the_journal_gets_priorities_and_neither_time_nor_colour() {
    let mut scenario = Scenario::new("journal");
    let log = scenario.stack.log(Part::Agent);
    fs::create_dir_all(log.parent().expect("a folder")).expect("made");
    let known = fs::File::create(&log).and_then(|file| file.metadata()).expect("a log");
    let journal = format!("{}:{}", known.dev(), known.ino());
    scenario.stack.start_with(Part::Agent, &[], &[("JOURNAL_STREAM", &journal)]).expect("it starts");
    let said = scenario.wait_for("warning", |s| Some(s.log(Part::Agent)).filter(|said| said.contains("<4>")));
    let of = |text: &str| {
        said.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}: {said}")).to_owned()
    };
    assert!(of("agent started").starts_with("<6> INFO edge_agent"), "{said}");
    assert!(of("no connection to the hub").starts_with("<4> WARN edge_agent"), "{said}");
    assert!(said.lines().all(|line| line.starts_with('<') && !line.contains('\u{1b}')), "{said}");
    // The variable alone says nothing: this one's output goes to a pipe.
    let output = launcher().with("JOURNAL_STREAM", &journal).run(Name::EdgeAgent, &["run"]).expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(64) && said.starts_with("edge-agent: "), "{said}");
}

#[test]
fn shells_and_man_can_read_their_papers() {
    let dir = tempfile::tempdir().expect("a folder");
    let output = launcher().run(Name::EdgeAgent, &["completion", "bash"]).expect("it starts");
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("complete -F _edge__agent"));
    let script = dir.path().join("edge-agent.bash");
    fs::write(&script, &output.stdout).expect("written");
    let read = Command::new("bash").arg("-n").arg(&script).status().expect("bash");
    assert!(read.success(), "bash cannot read it");
    let pages = dir.path().join("man/man1");
    let output = launcher().run(Name::EdgeAgent, &["man", &pages.display().to_string()]).expect("it starts");
    assert!(output.status.success(), "{output:?}");
    for page in ["edge-agent.1", "edge-agent-status.1", "edge-agent-outbox-drop.1"] {
        let text = fs::read_to_string(pages.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
}
