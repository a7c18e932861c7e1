//! Eclipse Tahu's own Sparkplug client, unmodified, through Mosquitto to silver: births, data by alias, a gap, deaths.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value as Json;
use shared::time::Timestamp;
use tests::stack::Part;

use crate::flows::Broker;
use crate::scenario::Scenario;

/// The variable by which `cargo verify` says where the client is.
const CLIENT: &str = "SPARKPLUG_NODE";
const MAPPINGS: &str = r##"
    [[edge.presilver.mapping]]
    topic = "spBv1.0/#"
    format = "sparkplug"
    [[edge.presilver.mapping]]
    topic = "meter/{device}/{metric}"
    format = "plain"
    metric = "{metric}"
"##;

/// The edge node, killed when dropped.
struct EdgeNode {
    child: Child,
    said: Arc<Mutex<Vec<Json>>>,
}

impl Drop for EdgeNode {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl EdgeNode {
    fn start(broker: &Broker) -> Self {
        let client = std::env::var_os(CLIENT)
            .unwrap_or_else(|| panic!("{CLIENT} is not set; `cargo verify` installs the pinned client and sets it"));
        let mut child = Command::new("node")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/sdk/sparkplug/edge_node.mjs"))
            .arg(format!("mqtt://{}", broker.addr()))
            .env(CLIENT, client)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node starts");
        let said = Arc::new(Mutex::new(Vec::new()));
        let (output, lines) = (child.stdout.take().expect("asked for"), Arc::clone(&said));
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                lines.lock().expect("no panic").push(serde_json::from_str(&line).expect("JSON"));
            }
        });
        Self { child, said }
    }

    fn tell(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("asked for");
        writeln!(input, "{line}").expect("it listens");
    }

    fn asked(&self) -> usize {
        self.said.lock().expect("no panic").iter().filter(|said| said["asked"] == true).count()
    }

    /// Device, metric, value and time of all it sent.
    fn sent(&self) -> BTreeSet<(String, String, String, i64)> {
        let said = self.said.lock().expect("no panic");
        let all = said.iter().filter_map(|said| said["sent"].as_array()).flatten();
        let one = |sent: &Json| {
            let value = sent["value"].as_bool().map_or_else(|| value_of(&sent["value"]), |on| u8::from(on).to_string());
            (text(&sent["device"]), text(&sent["metric"]), value, sent["at"].as_i64().expect("a time"))
        };
        all.map(one).collect()
    }
}

fn text(json: &Json) -> String {
    json.as_str().unwrap_or_default().to_owned()
}

fn value_of(json: &Json) -> String {
    json.as_f64().map_or_else(|| text(json), |number| number.to_string())
}

/// Device, metric, value and time of the readings, but for whether somebody is there.
fn readings(scenario: &Scenario) -> BTreeSet<(String, String, String, i64)> {
    let sql = "SELECT device_id, metric, value, value_text, event_time FROM silver.readings \
               WHERE device_id LIKE 'plant/%' AND metric <> 'online'";
    let one = |row: &Json| {
        let value = if row["value"].is_null() { &row["value_text"] } else { &row["value"] };
        let time = text(&row["event_time"]);
        let time = Timestamp::parse_rfc3339(&time).unwrap_or_else(|| panic!("{row}"));
        (text(&row["device_id"]), text(&row["metric"]), value_of(value), time.millis())
    };
    scenario.rows(sql).iter().map(one).collect()
}

/// Waits until the agent hears what the broker is told: Sparkplug's messages go at QoS 0, and nobody keeps them.
fn wait_until_heard(scenario: &mut Scenario, broker: &Broker, life: &str) {
    let (host, port) = (broker.addr().ip().to_string(), broker.addr().port().to_string());
    scenario.wait_for("reading through the broker", |s| {
        let topic = format!("meter/probe/{life}");
        let args = ["-h", &host, "-p", &port, "-q", "0", "-t", &topic, "-m", "1"];
        assert!(Command::new("mosquitto_pub").args(args).status().expect("it is installed").success());
        let sql = format!("SELECT count(*) AS n FROM silver.readings WHERE metric = '{life}'");
        s.count(&sql).filter(|n| 0 < *n)
    });
}

fn wait_for_all(scenario: &mut Scenario, node: &EdgeNode, refused: usize) {
    let sent = node.sent().len();
    scenario.wait_for("all that the edge node sent", |s| (sent <= readings(s).len() + refused).then_some(()));
}

#[test]
fn what_eclipse_tahus_client_publishes_is_read_asked_for_again_and_ended_by_its_death() {
    let broker = Broker::start();
    let port = broker.addr().port();
    let config = format!(
        "[edge.intake.broker]\nenabled = true\nhost = \"127.0.0.1\"\nport = {port}\n\
         topics = [\"spBv1.0/#\", \"meter/#\"]\n{MAPPINGS}"
    );
    let mut scenario = Scenario::with("sparkplug", &config);
    scenario.start_all();
    wait_until_heard(&mut scenario, &broker, "first");

    let mut node = EdgeNode::start(&broker);
    scenario.wait_for("birth", |_| (5 <= node.sent().len()).then_some(()));
    for value in ["21.5", "21.37", "-0.1"] {
        node.tell(&format!("data {value}"));
    }
    scenario.wait_for("data sent", |_| (5 + 3 * 4 <= node.sent().len()).then_some(()));
    wait_for_all(&mut scenario, &node, 0);
    assert_eq!(readings(&scenario), node.sent(), "each value once, with its time");
    assert_eq!(node.asked(), 0, "everything was in turn");

    // A message gets lost: the agent notices it by the next, keeps that, and asks for a rebirth.
    node.tell("skip");
    node.tell("data 22.5");
    scenario.wait_for("request for a rebirth after a gap", |_| (node.asked() == 1).then_some(()));
    scenario.wait_for("rebirth", |_| (5 + 4 * 4 + 5 <= node.sent().len()).then_some(()));
    wait_for_all(&mut scenario, &node, 0);
    assert_eq!(readings(&scenario), node.sent());

    // After a restart nobody knows what the aliases mean: what names them is refused, and asked for again.
    scenario.stack.kill(Part::Agent);
    scenario.start(Part::Agent);
    wait_until_heard(&mut scenario, &broker, "second");
    node.tell("data 23.5");
    scenario.wait_for("request for a rebirth after a restart", |_| (node.asked() == 2).then_some(()));
    node.tell("data 24.5");
    scenario.wait_for("data after the rebirth", |_| (5 + 4 * 4 + 5 + 4 + 5 + 4 <= node.sent().len()).then_some(()));
    wait_for_all(&mut scenario, &node, 4);
    let refused = scenario.rows("SELECT reasons FROM silver.quarantine WHERE device_id = 'plant/edge-1/press-3'");
    assert_eq!(refused.len(), 4, "{refused:?}");
    let lost: Vec<_> = node.sent().difference(&readings(&scenario)).cloned().collect();
    let values: Vec<&str> = lost.iter().map(|(_, _, value, _)| value.as_str()).collect();
    assert!(lost.len() == 4 && values.contains(&"run 23.5"), "{lost:?}");

    // The edge node dies without a word: the broker publishes its last will, and its device is gone with it.
    drop(node);
    let gone = "SELECT count(*) AS n FROM silver.readings WHERE metric = 'online' AND value = 0 \
                AND device_id IN ('plant/edge-1', 'plant/edge-1/press-3')";
    scenario.wait_for("death of the edge node and of its device", |s| s.count(gone).filter(|n| *n == 2));
    scenario.finish_and_prove();
}
