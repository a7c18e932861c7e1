//! The gateway is looked after from afar: twins and direct methods, through the hub's own HTTPS API.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value as Json, json};
use shared::clock::Clock;
use shared::sas;
use tests::layout::{GATEWAY, HUB_HOST_NAME};
use tests::program::Name;
use tests::stack::Part;

use crate::flows::mosquitto_pub;
use crate::provisioned::free;
use crate::scenario::Scenario;

/// How long one request to the hub's API may take: a method may be waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The hub's HTTPS API, as a back end uses it.
pub(crate) struct Api {
    addr: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    token: String,
}

impl Api {
    pub(crate) fn of(scenario: &Scenario, addr: SocketAddr) -> Self {
        shared::tls::install_provider();
        let output = scenario.stack.run(Name::Simulator, &["hub", "connection-strings", "--json"]).expect("it starts");
        let said: Json = serde_json::from_slice(&output.stdout).expect("json");
        let owner = said["policies"]["iothubowner"].as_str().unwrap_or_else(|| panic!("{said}"));
        let key = owner.split("SharedAccessKey=").nth(1).expect("a key");
        let expiry = Clock::Real.now().micros() / 1_000_000 + 3_600;
        let key = sas::Key::device(key).expect("base64");
        let token = sas::sign(HUB_HOST_NAME, &key, expiry, Some("iothubowner"));
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(scenario.stack.layout.hub_ca()).expect("a certificate");
        roots.add(ca).expect("an authority");
        let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self { addr, tls: Arc::new(tls), token }
    }

    /// Status and body; `None` where nobody answers.
    fn ask(&self, method: &str, path: &str, body: &Json) -> Option<(u16, Json)> {
        self.ask_with("", method, path, body)
    }

    fn ask_with(&self, headers: &str, method: &str, path: &str, body: &Json) -> Option<(u16, Json)> {
        let mut stream = TcpStream::connect_timeout(&self.addr, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let name = ServerName::try_from(HUB_HOST_NAME).expect("a name");
        let mut tls = rustls::ClientConnection::new(self.tls.clone(), name).expect("a client");
        let mut stream = rustls::Stream::new(&mut tls, &mut stream);
        let (token, body) = (&self.token, if body.is_null() { String::new() } else { body.to_string() });
        let length = body.len();
        let head = format!(
            "Host: {HUB_HOST_NAME}\r\nAuthorization: {token}\r\nContent-Type: application/json\r\nContent-Length: {length}"
        );
        // HTTP/1.0: the answer ends with the connection.
        write!(stream, "{method} {path}?api-version=2021-04-12 HTTP/1.0\r\n{headers}{head}\r\n\r\n{body}").ok()?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => return None,
            _ => {}
        }
        let answer = String::from_utf8(answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.lines().next()?.split(' ').nth(1)?.parse().ok()?;
        Some((status, serde_json::from_str(body).unwrap_or(Json::Null)))
    }

    /// Takes a device from the registry, whatever its version.
    pub(crate) fn delete_device(&self, device: &str) -> u16 {
        self.ask_with("If-Match: *\r\n", "DELETE", &format!("/devices/{device}"), &Json::Null).expect("an answer").0
    }

    fn twin(&self) -> Option<Json> {
        self.ask("GET", &format!("/twins/{GATEWAY}"), &Json::Null)
            .filter(|(status, _)| *status == 200)
            .map(|(_, twin)| twin)
    }

    /// Changes desired properties; gives their version since then.
    pub(crate) fn desire(&self, desired: Json) -> i64 {
        let patch = json!({ "properties": { "desired": desired } });
        let (status, twin) = self.ask("PATCH", &format!("/twins/{GATEWAY}"), &patch).expect("an answer");
        assert_eq!(status, 200, "{twin}");
        twin.pointer("/properties/desired/$version").and_then(Json::as_i64).unwrap_or_else(|| panic!("{twin}"))
    }

    /// Status and payload of a method's answer.
    fn call(&self, method: &str, payload: Json) -> (i64, Json) {
        let call = json!({ "methodName": method, "payload": payload, "responseTimeoutInSeconds": 30, "connectTimeoutInSeconds": 30 });
        let (status, answer) = self.ask("POST", &format!("/twins/{GATEWAY}/methods"), &call).expect("an answer");
        assert_eq!(status, 200, "{answer}");
        (answer["status"].as_i64().unwrap_or_else(|| panic!("{answer}")), answer["payload"].clone())
    }
}

pub(crate) fn reported(scenario: &mut Scenario, api: &Api, what: &str, is: impl Fn(&Json) -> bool) -> Json {
    scenario.wait_for(what, |_| api.twin().map(|twin| twin["properties"]["reported"].clone()).filter(&is))
}

fn log_level(scenario: &Scenario) -> Option<String> {
    let status = scenario.stack.status(Part::Agent)?;
    status.pointer("/remote/log_level")?.as_str().map(str::to_owned)
}

#[test]
fn what_the_twin_desires_is_applied_and_reported_also_after_the_agent_was_away() {
    let [https] = free();
    let mut scenario = Scenario::with("twin", &format!("[sim.hub]\nhttps-listen = \"{https}\"\n"));
    scenario.start_all();
    let api = Api::of(&scenario, https);
    let epoch = scenario.stack.status(Part::Agent).expect("a status")["epoch"].clone();
    let agent = reported(&mut scenario, &api, "report of the agent", |reported| reported["agent"]["epoch"] == epoch);
    assert!(agent["agent"]["version"].is_string() && agent["agent"]["rules"].is_string(), "{agent}");

    let version = api.desire(json!({ "log-level": "info,edge_agent::uplink=debug", "fan": { "speed": 3 } }));
    let said = reported(&mut scenario, &api, "acknowledgements", |reported| {
        reported["log-level"]["av"] == version && reported["fan"]["av"] == version
    });
    assert_eq!((&said["log-level"]["ac"], &said["log-level"]["ad"]), (&json!(200), &json!("applied")), "{said}");
    assert_eq!((&said["fan"]["ac"], &said["fan"]["value"]), (&json!(404), &json!({ "speed": 3 })), "{said}");
    assert_eq!(log_level(&scenario).as_deref(), Some("info,edge_agent::uplink=debug"));
    let version = api.desire(json!({ "log-level": "loud" }));
    let said = reported(&mut scenario, &api, "refusal", |reported| reported["log-level"]["av"] == version);
    assert_eq!(said["log-level"]["ac"], 400, "{said}");
    assert_eq!(log_level(&scenario).as_deref(), Some("info,edge_agent::uplink=debug"), "the last good one stays");

    // Away, the hub restarted meanwhile.
    let ended = scenario.stack.stop(Part::Agent);
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    let version = api.desire(json!({ "log-level": "debug", "fan": null }));
    scenario.stack.kill(Part::Hub);
    scenario.start(Part::Hub);
    scenario.start(Part::Agent);
    let said = reported(&mut scenario, &api, "acknowledgement on return", |reported| {
        reported["log-level"]["av"] == version && reported.get("fan").is_none() && reported["agent"]["epoch"] != epoch
    });
    assert_eq!((&said["log-level"]["value"], &said["log-level"]["ac"]), (&json!("debug"), &json!(200)), "{said}");
    assert_eq!(log_level(&scenario).as_deref(), Some("debug"));
    assert!(scenario.log(Part::Agent).contains("DEBUG"), "it is logged so");
    scenario.start_devices_for(3);
    scenario.finish_and_prove();
}

#[test]
fn direct_methods_are_answered_while_readings_flow() {
    let [https] = free();
    let mut scenario = Scenario::with("methods", &format!("[sim.hub]\nhttps-listen = \"{https}\"\n"));
    scenario.start_all();
    let api = Api::of(&scenario, https);
    reported(&mut scenario, &api, "report of the agent", |reported| reported["agent"].is_object());
    scenario.start_devices_for(5);
    let (status, answer) = api.call("status", Json::Null);
    let local = scenario.stack.run(Name::EdgeAgent, &["status", "--json"]).expect("it starts");
    let local: Json = serde_json::from_slice(&local.stdout).expect("json");
    assert_eq!(status, 200);
    for field in ["running", "gateway", "epoch", "rules", "started", "version", "hub"] {
        assert_eq!(answer[field], local[field], "{field}: {answer}");
    }
    let names = |value: &Json| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    // The last hour stays on the gateway: it is too long for an answer to a method.
    let mut here = names(&local);
    here.retain(|name| name != "hour");
    assert_eq!(names(&answer), here, "the same document");

    let (status, answer) = api.call("log-level", json!({ "level": "debug", "for": "2s" }));
    assert_eq!((status, &answer["level"], &answer["before"]), (200, &json!("debug"), &json!("info")));
    scenario.wait_for("end of the other level", |s| (log_level(s)? == "info").then_some(()));
    let log = scenario.log(Part::Agent);
    assert!(log.contains("DEBUG rumqttc"), "libraries are heard, too");
    let (status, answer) = api.call("log-level", json!({ "level": 7 }));
    assert!(status == 400 && answer["error"].is_string(), "{status} {answer}");
    let (status, answer) = api.call("reboot", json!({}));
    assert!(status == 404 && answer["error"].as_str().is_some_and(|text| text.contains("reboot")), "{status} {answer}");
    scenario.finish_and_prove();
}

/// How many readings of press-3 with a value above 100 silver has, and how many of it are in quarantine.
fn hot(scenario: &Scenario) -> Option<(i64, i64)> {
    let readings = "SELECT count(*) AS n FROM silver.readings WHERE device_id = 'press-3' AND value > 100";
    let refused = "SELECT count(*) AS n FROM silver.quarantine WHERE device_id = 'press-3'";
    Some((scenario.count(readings)?, scenario.count(refused).unwrap_or(0)))
}

#[test]
fn rules_are_changed_live_roll_back_to_the_last_good_set_and_outlast_a_restart_without_the_hub() {
    let [https] = free();
    let mut scenario = Scenario::with("rules", &format!("[sim.hub]\nhttps-listen = \"{https}\"\n"));
    scenario.start_all();
    let api = Api::of(&scenario, https);
    let port = scenario.stack.layout.ports.agent_mqtt;
    let mut n = 0;
    let mut send = |value: f64| {
        n += 1;
        mosquitto_pub(port, "telemetry/press-3", &format!("{{\"n\":{n},\"temperature\":{value}}}"));
    };
    let first = reported(&mut scenario, &api, "report of the agent", |reported| reported["agent"].is_object());
    send(120.0);
    scenario.wait_for("a hot reading by the configured rules", |s| hot(s).filter(|hot| *hot == (1, 0)));

    let rules = json!([{ "device": "press-*", "metric": "temperature", "max": 100 }]);
    let version = api.desire(json!({ "rules": rules, "intervals": { "linger": "100ms" } }));
    let said = reported(&mut scenario, &api, "acknowledgements", |reported| {
        reported["rules"]["av"] == version && reported["intervals"]["av"] == version
    });
    assert_eq!((&said["rules"]["ac"], &said["intervals"]["ac"]), (&json!(200), &json!(200)), "{said}");
    send(121.0);
    scenario.wait_for("a refusal by the new rules", |s| hot(s).filter(|hot| *hot == (1, 1)));
    let digest = |scenario: &Scenario| scenario.stack.status(Part::Agent).expect("a status")["rules"].clone();
    let new = digest(&scenario);
    assert_ne!(new, first["agent"]["rules"]);
    reported(&mut scenario, &api, "the digest of the new rules", |reported| reported["agent"]["rules"] == new);
    let named = scenario.rows("SELECT rules FROM silver.quarantine WHERE device_id = 'press-3'");
    assert_eq!(named[0]["rules"], new, "what was refused names the rules that refused it");
    let named = scenario.rows("SELECT rules FROM silver.readings WHERE device_id = 'press-3'");
    assert_eq!(named[0]["rules"], first["agent"]["rules"]);

    // A set with one mistake changes nothing of it.
    let bad = api.desire(json!({ "rules": [{ "min": 3, "max": 2 }], "log-level": "debug" }));
    let said = reported(&mut scenario, &api, "refusal", |reported| {
        reported["rules"]["av"] == bad && reported["log-level"]["av"] == bad
    });
    assert_eq!((&said["rules"]["ac"], &said["log-level"]["ac"]), (&json!(400), &json!(409)), "{said}");
    let words = said["rules"]["ad"].as_str().expect("words");
    assert!(
        words.contains("rule 0: `min`") && words.contains(&format!("the set of version {version} stays")),
        "{said}"
    );
    assert_eq!((digest(&scenario), log_level(&scenario).as_deref()), (new.clone(), Some("info")));

    // The last good set is in force from the start, without the hub.
    let ended = scenario.stack.stop(Part::Agent);
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    scenario.stack.kill(Part::Hub);
    scenario.start(Part::Agent);
    assert_eq!(digest(&scenario), new);
    send(122.0);
    scenario.start(Part::Hub);
    scenario.wait_for("another refusal", |s| hot(s).filter(|hot| *hot == (1, 2)));

    // Put right, the whole set counts.
    let good = api.desire(json!({ "rules": null }));
    let said = reported(&mut scenario, &api, "what waited is applied", |reported| {
        reported["log-level"]["av"] == good && reported.get("rules").is_none()
    });
    assert_eq!(said["log-level"]["ac"], 200, "{said}");
    send(123.0);
    scenario.wait_for("a hot reading again", |s| hot(s).filter(|hot| *hot == (2, 2)));
    assert_eq!(digest(&scenario), first["agent"]["rules"]);
    scenario.finish_and_prove();
}

#[test]
fn a_flush_and_a_restart_of_the_uplink_are_called_from_afar() {
    let [https] = free();
    let config = format!("[sim.hub]\nhttps-listen = \"{https}\"\n[edge.uplink]\nlinger = \"10m\"\n");
    let mut scenario = Scenario::with("calls", &config);
    scenario.start_all();
    let api = Api::of(&scenario, https);
    reported(&mut scenario, &api, "report of the agent", |reported| reported["agent"].is_object());
    let live = |s: &mut Scenario| (s.stack.status(Part::Agent)?["uplink"]["link"] == "live").then_some(());
    scenario.wait_for("a live link", live);
    mosquitto_pub(scenario.stack.layout.ports.agent_mqtt, "telemetry/press-3", r#"{"n":1,"temperature":21.5}"#);
    let (status, answer) = api.call("flush", json!({ "for": "20s" }));
    assert_eq!((status, &answer["drained"], &answer["held"]), (200, &json!(true), &json!(0)), "{answer}");
    scenario.wait_for("the reading in silver", |s| {
        s.count("SELECT count(*) AS n FROM silver.readings").filter(|n| *n == 1)
    });

    let (status, answer) = api.call("restart-uplink", Json::Null);
    assert_eq!((status, &answer["restarting"]), (200, &json!(true)), "{answer}");
    scenario
        .wait_for("credentials read anew", |s| s.log(Part::Agent).contains("credentials were read anew").then_some(()));
    scenario.wait_for("a live link", live);
    let (status, _) = api.call("status", Json::Null);
    assert_eq!(status, 200, "it hears again");
    scenario.finish_and_prove();
}
