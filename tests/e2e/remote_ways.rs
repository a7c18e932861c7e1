//! How the gateway gets to its hub and proves itself: a certificate, WebSocket through a proxy, tokens renewed on the way, a
//! hub that does not know it any more; and that no log shows by what.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value as Json, json};
use tests::layout::{GATEWAY, HUB_HOST_NAME};
use tests::program::Name;
use tests::stack::Part;

use crate::flows::mosquitto_pub;
use crate::provisioned::{edit, free, simulator};
use crate::remote::Api;
use crate::scenario::Scenario;

/// Of the proxy.
const CREDENTIALS: &str = "gw-01:proxy-geheim";
/// The same as it goes over the wire.
const ENCODED: &str = "Z3ctMDE6cHJveHktZ2VoZWlt";

/// A proxy that wants these credentials; gives its address, and each target it was asked for.
fn proxy() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let addr = listener.local_addr().expect("an address");
    let targets = Arc::new(Mutex::new(Vec::new()));
    let all = targets.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, all) = (client.expect("a client"), all.clone());
            std::thread::spawn(move || pass(client, &all));
        }
    });
    (addr, targets)
}

fn pass(mut client: TcpStream, targets: &Mutex<Vec<String>>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    if !head.contains(&format!("Proxy-Authorization: Basic {ENCODED}\r\n")) {
        return client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").ok();
    }
    let target = head.strip_prefix("CONNECT ")?.split(' ').next()?.to_owned();
    let server = TcpStream::connect(&target);
    targets.lock().expect("no panic").push(target);
    let Ok(server) = server else { return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").ok() };
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
    let copy = |mut from: TcpStream, mut to: TcpStream| {
        std::io::copy(&mut from, &mut to).ok();
        to.shutdown(Shutdown::Write).ok();
    };
    let (there, back) = ((client.try_clone().ok()?, server.try_clone().ok()?), (server, client));
    std::thread::spawn(move || copy(there.0, there.1));
    copy(back.0, back.1);
    Some(())
}

fn uplink(scenario: &Scenario) -> Option<Json> {
    Some(scenario.stack.status(Part::Agent)?["uplink"].clone())
}

fn is_up(scenario: &Scenario) -> Option<()> {
    let link = uplink(scenario)?["link"].clone();
    (link == "live" || link == "catching-up").then_some(())
}

#[test]
fn a_gateway_with_a_certificate_behind_a_proxy_that_only_lets_443_through_brings_readings_to_silver() {
    let [https, closed] = free();
    let mut scenario = Scenario::with("ways", &format!("[sim.hub]\nhttps-listen = \"{https}\"\n"));
    // The hub knows it by a certificate from now on.
    let output = scenario
        .stack
        .run(tests::program::Name::Simulator, &["hub", "register", GATEWAY, "--auth", "x509-thumbprint"])
        .expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = simulator(&scenario, &["hub", "connection-strings", "--json"]);
    let certificate = &said["certificates"][GATEWAY];
    fs::write(scenario.stack.layout.agent_credential(), said["devices"][GATEWAY].as_str().expect("one"))
        .expect("written");
    let (proxy, targets) = proxy();
    let credentials = scenario.stack.layout.config("proxy-credentials");
    fs::write(&credentials, CREDENTIALS).expect("written");
    edit(&scenario, "edge", |edge| {
        let hub = edge["hub"].as_table_mut().expect("a table");
        hub.insert("port".into(), i64::from(closed.port()).into());
        hub.insert("websocket-port".into(), i64::from(https.port()).into());
        hub.insert("certificate-file".into(), certificate["certificate-file"].as_str().expect("a file").into());
        let key =
            toml::Table::from_iter([("file".to_owned(), certificate["key-file"].as_str().expect("a file").into())]);
        hub.insert("private-key".into(), key.into());
        let network = format!(
            "transport = \"auto\"\nproxy = \"http://{proxy}\"\nproxy-credentials = {{ file = {:?} }}\n",
            credentials.display().to_string()
        );
        edge.insert("network".into(), toml::Value::Table(network.parse().expect("toml")));
    });
    scenario.start_all();
    scenario.wait_for("connection", |s| is_up(s));
    assert_eq!(uplink(&scenario).expect("a status")["way"], "websocket");
    let check = scenario.stack.run(tests::program::Name::EdgeAgent, &["check"]).expect("it starts");
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(said.contains("by its certificate") && said.contains("by the other way"), "{said}");
    scenario.start_devices_for(5);
    scenario.finish_and_prove();
    let targets = targets.lock().expect("no panic").clone();
    assert!(targets.contains(&closed.to_string()) && targets.contains(&https.to_string()), "{targets:?}");
}

#[test]
fn a_gateway_that_only_443_is_open_to_is_told_its_hub_there_straight_and_through_a_proxy() {
    let [https, dps, websocket, http, closed] = free();
    let config = format!(
        "[sim.hub]\nhttps-listen = \"{https}\"\n[sim.dps]\nlisten = \"{dps}\"\nwebsocket-listen = \"{websocket}\"\n\
         retry-after = \"1s\"\n[sim.dps.http]\nlisten = \"{http}\"\n"
    );
    let mut scenario = Scenario::with("provisioned-443", &config);
    let enrolled = simulator(&scenario, &["hub", "enroll", "line-1", "--group", "--json"]);
    assert_eq!(enrolled["websocket"]["port"], websocket.port(), "{enrolled}");
    let group_key = enrolled["primary-key"].as_str().unwrap_or_else(|| panic!("{enrolled}")).to_owned();
    let network = |scenario: &Scenario, text: &str| {
        let table: toml::Table = text.parse().expect("toml");
        edit(scenario, "edge", |edge| drop(edge.insert("network".into(), table.into())));
    };
    let applies = |scenario: &Scenario, id: &str, proof: &str| {
        edit(scenario, "edge", |edge| {
            let provisioning = format!(
                "id-scope = {}\nregistration-id = \"{id}\"\n{proof}\nhost = \"127.0.0.1\"\nport = {}\n\
                 websocket-port = {}\nca-file = {:?}\n",
                enrolled["id-scope"],
                closed.port(),
                websocket.port(),
                scenario.stack.layout.hub_ca()
            );
            edge.insert("provisioning".into(), toml::Value::Table(provisioning.parse().expect("toml")));
        });
    };
    edit(&scenario, "edge", |edge| {
        let hub = edge["hub"].as_table_mut().expect("a table");
        hub.remove("connection-string");
        hub.insert("port".into(), i64::from(closed.port()).into());
        hub.insert("websocket-port".into(), i64::from(https.port()).into());
    });
    scenario.start(Part::Hub);
    scenario.start(Part::Ingester);
    let provision = |scenario: &Scenario| {
        let output = scenario.stack.run(Name::EdgeAgent, &["provision"]).expect("it starts");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), said)
    };

    network(&scenario, "transport = \"websocket\"\n");
    let issued = simulator(&scenario, &["hub", "enroll", "gw-78", "--auth", "x509", "--json"]);
    let (certificate, key) = (&issued["certificate-file"], &issued["key-file"]);
    applies(&scenario, "gw-78", &format!("certificate-file = {certificate}\nprivate-key = {{ file = {key} }}"));
    let (code, said) = provision(&scenario);
    assert!(code == Some(0) && said.contains(&format!("assigned to {HUB_HOST_NAME}, device gw-78")), "{code:?} {said}");
    applies(&scenario, "gw-77", "group-key = \"bm8ga2V5\"");
    let (code, said) = provision(&scenario);
    assert!(code == Some(1) && said.contains("refuses this gateway's key"), "{code:?} {said}");
    applies(&scenario, "gw-77", &format!("group-key = \"{group_key}\""));
    let (code, said) = provision(&scenario);
    assert!(code == Some(0) && said.contains(&format!("assigned to {HUB_HOST_NAME}, device gw-77")), "{code:?} {said}");

    // What the hub was is forgotten, 8883 is asked first, and all of it goes through a proxy.
    let mut record = scenario.stack.layout.outbox().into_os_string();
    record.push(".hub");
    fs::remove_file(&record).expect("the hub was kept");
    let (proxy, targets) = proxy();
    network(
        &scenario,
        &format!("transport = \"auto\"\nproxy = \"http://{proxy}\"\nproxy-credentials = \"{CREDENTIALS}\"\n"),
    );
    let check = scenario.stack.run(Name::EdgeAgent, &["check"]).expect("it starts");
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(said.contains("by the other way"), "{said}");
    scenario.start(Part::Agent);
    scenario.wait_for("connection", |s| is_up(s));
    mosquitto_pub(scenario.stack.layout.ports.agent_mqtt, "telemetry/press-3", r#"{"n":1,"temperature":21.5}"#);
    scenario.wait_for("reading in silver", |s| {
        let sql = "SELECT count(*) AS n FROM silver.readings WHERE device_id = 'press-3' AND gateway_id = 'gw-77'";
        s.count(sql).filter(|n| *n == 1)
    });
    assert_eq!(uplink(&scenario).expect("a status")["way"], "websocket");
    scenario.finish_and_prove();
    let targets = targets.lock().expect("no panic").clone();
    for port in [closed, websocket, https] {
        assert!(targets.contains(&port.to_string()), "{port} in {targets:?}");
    }
}

#[test]
fn tokens_are_renewed_while_readings_flow_and_nothing_arrives_twice() {
    // A new connection each second and a half.
    let config = "[edge.uplink]\ntoken-life = \"30s\"\ntoken-margin = \"28500ms\"\n";
    let mut scenario = Scenario::with("renewal", config);
    scenario.start_all();
    scenario.start_devices_for(10);
    scenario.finish();
    // The first is none.
    let renewals = scenario.log(Part::Agent).matches("connected to the hub").count().saturating_sub(1);
    assert!(3 <= renewals, "{renewals} renewals\n{}", scenario.tail(Part::Agent));
    let (holds, said) = scenario.verify(&["--held", "0"]);
    assert!(holds && said.contains("duplicates 0;"), "{said}");
    let log = scenario.log(Part::Agent);
    assert!(!log.contains("did not drain"), "{log}");
}

#[test]
fn a_gateway_that_its_hub_does_not_know_any_more_is_provisioned_again_by_itself_and_no_log_shows_a_secret() {
    let [https, dps, http] = free();
    let config = format!(
        "[sim.hub]\nhttps-listen = \"{https}\"\n[sim.dps]\nlisten = \"{dps}\"\nretry-after = \"1s\"\n\
         [sim.dps.http]\nlisten = \"{http}\"\n[edge.log]\nlevel = \"trace\"\n"
    );
    let mut scenario = Scenario::with("again", &config);
    let enrolled = simulator(&scenario, &["hub", "enroll", "line-1", "--group", "--member", "gw-77", "--json"]);
    let group_key = enrolled["primary-key"].as_str().unwrap_or_else(|| panic!("{enrolled}")).to_owned();
    let own_key = enrolled["member"]["primary-key"].as_str().unwrap_or_else(|| panic!("{enrolled}")).to_owned();
    let (proxy, _) = proxy();
    edit(&scenario, "edge", |edge| {
        edge["hub"].as_table_mut().expect("a table").remove("connection-string");
        let provisioning = format!(
            "id-scope = {}\nregistration-id = \"gw-77\"\ngroup-key = \"{group_key}\"\nhost = \"127.0.0.1\"\nport = {}\nca-file = {:?}\n",
            enrolled["id-scope"],
            dps.port(),
            scenario.stack.layout.hub_ca()
        );
        edge.insert("provisioning".into(), toml::Value::Table(provisioning.parse().expect("toml")));
        let network =
            format!("transport = \"mqtt\"\nproxy = \"http://{proxy}\"\nproxy-credentials = \"{CREDENTIALS}\"\n");
        edge.insert("network".into(), toml::Value::Table(network.parse().expect("toml")));
    });
    scenario.start(Part::Hub);
    scenario.start(Part::Ingester);
    scenario.start(Part::Agent);
    scenario.wait_for("connection", |s| is_up(s));
    let api = Api::of(&scenario, https);
    let port = scenario.stack.layout.ports.agent_mqtt;
    mosquitto_pub(port, "telemetry/press-3", r#"{"n":1,"temperature":21.5}"#);
    scenario.wait_for("first reading in silver", |s| {
        s.count("SELECT count(*) AS n FROM silver.readings WHERE device_id = 'press-3'").filter(|n| *n == 1)
    });

    // Somebody cleans the hub's registry up. The enrolment stays.
    let status = api.delete_device("gw-77");
    assert_eq!(status, 204);
    mosquitto_pub(port, "telemetry/press-3", r#"{"n":2,"temperature":21.6}"#);
    scenario.wait_for("second reading in silver", |s| {
        s.count("SELECT count(*) AS n FROM silver.readings WHERE device_id = 'press-3'").filter(|n| *n == 2)
    });
    assert!(scenario.log(Part::Agent).contains("provisioned again"), "{}", scenario.tail(Part::Agent));
    let status = scenario.stack.status(Part::Agent).expect("a status");
    assert_eq!((&status["gateway"], &status["hub"]["name"]), (&json!("gw-77"), &json!(HUB_HOST_NAME)), "{status}");
    scenario.finish_and_prove();

    // All that was said, at the level that says most.
    let log = scenario.log(Part::Agent);
    assert!(log.contains("TRACE"), "it was said at that level");
    let secrets = [&group_key, &own_key, "proxy-geheim", ENCODED, "SharedAccessSignature", "sig="];
    for secret in secrets {
        let line = log.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{line:?}");
    }
    let statuses = status.to_string();
    assert!(secrets.into_iter().all(|secret| !statuses.contains(secret)), "{statuses}");
}
