//! Every format that devices speak, through Mosquitto and the listener to silver; what the agent learns and asks for.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use tests::stack::Part;

use crate::flows::Broker;
use crate::scenario::Scenario;

/// As the npm package `sparkplug-payload` writes them.
const NBIRTH: &str =
    "0880d8c1a28c3412120a0562645365711880d8c1a28c342008580412150a06557074696d6510011880d8c1a28c34200758111800";
const DBIRTH: &str = "0881d8c1a28c3412310a0b54656d706572617475726510021881d8c1a28c3420094a120a07656e67556e69741207080c4203c2b04365c3f5aa411801";
const DDATA: &str = "08e8dfc1a28c341210100218e7dfc1a28c342009650000ac411802";
const MAPPINGS: &str = r##"
    [[edge.presilver.mapping]]
    topic = "line/{device}"
    format = "json"
    separator = "."
    [[edge.presilver.mapping]]
    topic = "cbor/{device}"
    format = "cbor"
    [[edge.presilver.mapping]]
    topic = "senml/{device}"
    format = "senml"
    [[edge.presilver.mapping]]
    topic = "senml-cbor/{device}"
    format = "senml-cbor"
    [[edge.presilver.mapping]]
    topic = "spBv1.0/#"
    format = "sparkplug"
    [[edge.presilver.mapping]]
    topic = "homie/#"
    format = "homie"
    [[edge.presilver.mapping]]
    topic = "zigbee2mqtt/#"
    format = "zigbee2mqtt"
    [[edge.presilver.mapping]]
    topic = "tele/{device}/{kind}"
    format = "tasmota"
    [[edge.presilver.mapping]]
    topic = "meter/{device}/{metric}"
    format = "plain"
    metric = "{metric}"
"##;

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
}

/// Publishes bytes at QoS 1 with Mosquitto's own client.
fn publish(addr: SocketAddr, topic: &str, payload: &[u8], more: &[&str]) {
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", &addr.ip().to_string(), "-p", &addr.port().to_string(), "-q", "1", "-t", topic, "-s"]);
    let mut child = command.args(more).stdin(Stdio::piped()).spawn().expect("mosquitto_pub is installed");
    child.stdin.take().expect("asked for").write_all(payload).expect("it reads");
    assert!(child.wait().expect("it ends").success(), "{topic}");
}

/// Zigbee2MQTT's list of its devices as a large network has it: two that matter, and three hundred more.
fn zigbee_devices() -> String {
    let exposes = r#"{"type":"numeric","name":"temperature","label":"Temperature","property":"temperature","access":1,"unit":"°C"},
        {"type":"numeric","name":"linkquality","property":"linkquality","access":1,"unit":"lqi","category":"diagnostic"},
        {"type":"light","features":[{"type":"composite","name":"color_xy","property":"color","features":[
        {"type":"numeric","name":"x","property":"x","access":7},{"type":"numeric","name":"y","property":"y","access":7}]}]}"#;
    let device = |name: &str| {
        let about = "An account of it that is as long as those of real devices are. ".repeat(24);
        format!(
            r#"{{"friendly_name":"{name}","type":"EndDevice","definition":{{"description":"{about}","exposes":[{exposes}]}}}}"#
        )
    };
    let mut all = vec![r#"{"friendly_name":"Coordinator","type":"Coordinator","definition":null}"#.to_owned()];
    all.extend((0..300).map(|at| device(&format!("0x00158d00{at:08x}"))));
    all.extend(["kitchen/climate", "hall/climate"].map(device));
    format!("[{}]", all.join(","))
}

/// `device metric = value unit` of the readings of a device.
fn readings(scenario: &Scenario, device: &str) -> Vec<String> {
    let sql = format!(
        "SELECT metric, value, value_text, unit FROM silver.readings WHERE device_id = '{device}' ORDER BY metric, value"
    );
    let row = |row: &serde_json::Value| {
        let text = |name: &str| row[name].as_str().map(str::to_owned);
        let number = row["value"].as_f64().map(|number| number.to_string());
        let value = number.or_else(|| text("value_text")).unwrap_or_default();
        format!("{}={value}{}", row["metric"].as_str().unwrap_or_default(), text("unit").unwrap_or_default())
    };
    scenario.rows(&sql).iter().map(row).collect()
}

#[test]
fn a_message_too_large_is_refused_and_what_is_behind_it_comes() {
    let broker = Broker::start();
    let config = format!(
        "[edge.intake.broker]\nenabled = true\nhost = \"127.0.0.1\"\nport = {}\nmax-packet = \"64KiB\"\n",
        broker.addr().port()
    );
    let mut scenario = Scenario::with("too-large", &config);
    scenario.start_all();
    let addr = broker.addr();
    scenario.wait_for("reading through the broker", |s| {
        publish(addr, "telemetry/first", b"{\"up\":1}", &[]);
        s.count("SELECT count(*) AS n FROM silver.readings").filter(|n| 0 < *n)
    });
    publish(addr, "telemetry/small", b"{\"n\":1,\"temperature\":21.5}", &[]);
    let large = format!("{{\"n\":2,\"text\":\"{}\"}}", "x".repeat(100_000));
    publish(addr, "telemetry/large", large.as_bytes(), &[]);
    publish(addr, "telemetry/small", b"{\"n\":3,\"temperature\":22.5}", &[]);
    scenario.wait_for("what is behind it", |s| (readings(s, "small").len() == 2).then_some(()));
    let status = scenario.stack.status(Part::Agent).expect("a status");
    assert_eq!(
        (&status["broker"]["connected"], &status["presilver"]["rejected"]),
        (&true.into(), &1.into()),
        "{status}"
    );
    scenario.finish_and_prove();
    let refused =
        scenario.rows("SELECT device_id, metric, topic, reasons[1] AS reason, raw_len FROM silver.quarantine");
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!((&refused[0]["device_id"], &refused[0]["metric"]), (&"large".into(), &serde_json::Value::Null));
    assert_eq!((&refused[0]["topic"], &refused[0]["raw_len"]), (&"telemetry/large".into(), &large.len().into()));
    let reason = refused[0]["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with(&format!("too-large: {} bytes", large.len())), "{reason}");
}

#[test]
fn of_homie_devices_that_were_here_before_the_first_value_has_its_unit_where_attributes_are_subscribed_to_first() {
    let broker = Broker::start();
    let addr = broker.addr();
    for device in ["car", "bus", "tram"] {
        publish(addr, &format!("homie/{device}/engine/temperature"), b"21.5", &["-r"]);
        publish(addr, &format!("homie/{device}/engine/temperature/$datatype"), b"float", &["-r"]);
        publish(addr, &format!("homie/{device}/engine/temperature/$unit"), "°C".as_bytes(), &["-r"]);
    }
    publish(addr, "homie/5/ship/engine/temperature", b"21.5", &["-r"]);
    let description = r#"{"homie":"5.0","version":1,"nodes":{"engine":{"properties":{"temperature":{"datatype":"float","unit":"°C"}}}}}"#;
    publish(addr, "homie/5/ship/$description", description.as_bytes(), &["-r"]);
    // As the page about inputs has it.
    let topics = r##"["homie/+/+/+/$unit", "homie/+/+/+/$datatype", "homie/5/+/$description", "homie/#"]"##;
    let config = format!(
        "[edge.intake.broker]\nenabled = true\nhost = \"127.0.0.1\"\nport = {}\ntopics = {topics}\n\
         [[edge.presilver.mapping]]\ntopic = \"homie/#\"\nformat = \"homie\"\n",
        addr.port()
    );
    let mut scenario = Scenario::with("homie", &config);
    scenario.start_all();
    scenario.wait_for("the value of every device", |s| {
        s.count("SELECT count(*) AS n FROM silver.readings").filter(|n| 4 <= *n)
    });
    scenario.finish_and_prove();
    for device in ["car", "bus", "tram", "ship"] {
        assert_eq!(readings(&scenario, device), ["engine/temperature=21.5Cel"], "{device}");
    }
}

#[test]
fn every_format_reaches_silver_and_what_is_to_be_learned_or_asked_for_is() {
    let broker = Broker::start();
    let topics = r##"["line/#", "cbor/#", "senml/#", "senml-cbor/#", "spBv1.0/#", "homie/#", "zigbee2mqtt/#", "tele/#", "meter/#"]"##;
    let port = broker.addr().port();
    let config = format!(
        "[edge.intake.broker]\nenabled = true\nhost = \"127.0.0.1\"\nport = {port}\ntopics = {topics}\n{MAPPINGS}"
    );
    let mut scenario = Scenario::with("inputs", &config);
    scenario.start_all();
    let (addr, listener) = (broker.addr(), scenario.stack.layout.ports.agent_mqtt);
    scenario.wait_for("reading through the broker", |s| {
        publish(addr, "meter/boiler/up", b"1", &[]);
        s.count("SELECT count(*) AS n FROM silver.readings").filter(|n| 0 < *n)
    });

    // Data without a birth: refused by their alias, and a rebirth is asked for.
    let host = addr.ip().to_string();
    // What is retained comes first: then the edge node listens.
    publish(addr, "spBv1.0/plant/NCMD/probe", b"1", &["-r"]);
    let mut hearing = Command::new("mosquitto_sub")
        .args(["-h", &host, "-p", &port.to_string(), "-t", "spBv1.0/+/NCMD/#", "-C", "2", "-W", "120", "-F", "%t %x"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("mosquitto_sub is installed");
    let mut heard = BufReader::new(hearing.stdout.take().expect("asked for")).lines().map_while(Result::ok);
    assert_eq!(heard.next().as_deref(), Some("spBv1.0/plant/NCMD/probe 31"));
    scenario.wait_for("edge node heard", |s| {
        publish(addr, "spBv1.0/plant/DDATA/edge-1/press-3", &bytes(DDATA), &[]);
        s.count("SELECT count(*) AS n FROM silver.quarantine WHERE reasons[1] LIKE '%alias%'").filter(|n| 0 < *n)
    });
    let heard = heard.next().unwrap_or_default().to_lowercase();
    hearing.wait().expect("mosquitto_sub ends");
    let rebirth: String = b"Node Control/Rebirth".iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(heard.starts_with("spbv1.0/plant/ncmd/edge-1 ") && heard.contains(&rebirth), "{heard}");

    publish(addr, "spBv1.0/plant/NBIRTH/edge-1", &bytes(NBIRTH), &[]);
    publish(addr, "spBv1.0/plant/DBIRTH/edge-1/press-3", &bytes(DBIRTH), &[]);
    publish(addr, "spBv1.0/plant/DDATA/edge-1/press-3", &bytes(DDATA), &[]);
    publish(addr, "line/l1", br#"{"n":1,"motor":{"temp":{"v":61.5,"u":"Cel"},"phases":[1.5,2.5]}}"#, &[]);
    let cbor = bytes("a3616e116b74656d7065726174757265a26176fa41ac000061756343656c64646f6f72f5");
    publish(listener, "cbor/mcu-1", &cbor, &[]);
    publish(
        addr,
        "senml/gw-a",
        br#"[{"bn":"urn:dev:1:","n":"voltage","u":"V","v":120.5},{"n":"current","t":-5,"v":1.2}]"#,
        &[],
    );
    publish(listener, "senml-cbor/gw-b", &bytes("81a4006474656d7001634365c3026a"), &[]); // torn
    publish(listener, "senml-cbor/gw-b", &bytes("81a3006474656d70016343656c02f94d60"), &[]);
    publish(addr, "homie/car/engine/temperature/$unit", "°C".as_bytes(), &["-r"]);
    publish(addr, "homie/car/engine/temperature/$datatype", b"float", &["-r"]);
    let devices = zigbee_devices();
    assert!((600_000..1_000_000).contains(&devices.len()), "{}", devices.len());
    publish(addr, "zigbee2mqtt/bridge/state", br#"{"state":"online"}"#, &["-r"]);
    publish(addr, "zigbee2mqtt/bridge/devices", devices.as_bytes(), &["-r"]);
    publish(addr, "zigbee2mqtt/kitchen/climate/availability", br#"{"state":"online"}"#, &["-r"]);
    for (topic, payload) in [
        (
            "kitchen/climate",
            r#"{"color":{"x":0.3,"y":0.4},"humidity":null,"linkquality":120,"temperature":21.37,"update":{"state":"idle"}}"#,
        ),
        ("kitchen/climate/set", r#"{"color":{"x":1}}"#),
        ("kitchen/climate/get", r#"{"temperature":""}"#),
        ("bridge/logging", r#"{"level":"info","message":"z2m:mqtt: MQTT publish"}"#),
    ] {
        publish(addr, &format!("zigbee2mqtt/{topic}"), payload.as_bytes(), &[]);
    }
    publish(addr, "tele/plug_1/SENSOR", br#"{"Time":"2026-11-23T10:00:00","ENERGY":{"Power":27},"TempUnit":"C"}"#, &[]);
    publish(addr, "meter/boiler/level", b"+007 l", &[]);
    scenario.wait_for("readings of every format", |s| {
        (readings(s, "boiler").contains(&"level=7l".to_owned()) && !readings(s, "plug_1").is_empty()).then_some(())
    });

    // What Homie's attributes and Zigbee2MQTT's list said is learned again from the broker, which knows us.
    scenario.stack.kill(Part::Agent);
    scenario.start(Part::Agent);
    scenario.wait_for("value with its unit after the restart", |s| {
        publish(addr, "homie/car/engine/temperature", b"21.5", &[]);
        readings(s, "car").contains(&"engine/temperature=21.5Cel".to_owned()).then_some(())
    });
    scenario.wait_for("value of a Zigbee device with its unit after the restart", |s| {
        publish(addr, "zigbee2mqtt/hall/climate", br#"{"temperature":22.5}"#, &[]);
        readings(s, "hall/climate").contains(&"temperature=22.5Cel".to_owned()).then_some(())
    });
    scenario.finish_and_prove();

    for (device, expected) in [
        ("plant/edge-1", &["Uptime=17", "online=1"][..]),
        ("plant/edge-1/press-3", &["Temperature=21.37Cel", "Temperature=21.5Cel", "online=1"]),
        ("l1", &["motor.phases.0=1.5", "motor.phases.1=2.5", "motor.temp=61.5Cel"]),
        ("mcu-1", &["door=1", "temperature=21.5Cel"]),
        ("urn:dev:1", &["current=1.2", "voltage=120.5V"]),
        ("gw-b", &["temp=21.5Cel"]),
        ("kitchen/climate", &["color.x=0.3", "color.y=0.4", "linkquality=120lqi", "online=1", "temperature=21.37Cel"]),
        ("plug_1", &["ENERGY.Power=27W"]),
    ] {
        assert_eq!(readings(&scenario, device), expected, "{device}");
    }
    let refused = scenario.rows("SELECT topic, reasons FROM silver.quarantine WHERE topic = 'senml-cbor/gw-b'");
    assert_eq!(refused.len(), 1, "{refused:?}");
}
