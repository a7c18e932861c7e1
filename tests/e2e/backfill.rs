//! Where a hub is begun, what files add to what was read, and the lake as it was.

use std::path::Path;

use apache_avro::types::Value as Avro;
use serde_json::Value as Json;
use shared::clock::Clock;
use tests::program::Name;
use tests::stack::Part;

use crate::flows::mosquitto_pub;
use crate::scenario::Scenario;

/// Commits come fast.
const FAST: &str = "[ingest.bronze]\nage-max = \"100ms\"\n[ingest.hops]\npause = \"100ms\"\n";

/// What the ingester's command said, and its exit code.
fn ingester(scenario: &Scenario, args: &[&str]) -> (Option<i32>, String) {
    let output = scenario.stack.run(Name::CloudIngester, args).expect("the command starts");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// A file as Event Hubs' Capture writes it, with a message of a device for each of these numbers.
fn capture(path: &Path, numbers: std::ops::Range<i64>) {
    const SCHEMA: &str = r#"{"type":"record","name":"EventData","namespace":"Microsoft.ServiceBus.Messaging","fields":[
        {"name":"SequenceNumber","type":"long"},{"name":"Offset","type":"string"},{"name":"EnqueuedTimeUtc","type":"string"},
        {"name":"SystemProperties","type":{"type":"map","values":["long","double","string","bytes"]}},
        {"name":"Properties","type":{"type":"map","values":["long","double","string","bytes","null"]}},
        {"name":"Body","type":["null","bytes"]}]}"#;
    let schema = apache_avro::Schema::parse_str(SCHEMA).expect("a schema");
    let mut writer = apache_avro::Writer::new(&schema, vec![]).expect("a writer");
    let now = Clock::Real.now();
    for number in numbers {
        let text = |text: &str| Avro::Union(2, Box::new(Avro::String(text.to_owned())));
        let system = [("iothub-connection-device-id", "pi"), ("iothub-message-source", "Telemetry")];
        let body = format!(r#"{{"ts":"{now}","n":{number},"temperature":{{"v":{number}.5,"u":"Cel"}}}}"#);
        let record = Avro::Record(vec![
            ("SequenceNumber".to_owned(), Avro::Long(number)),
            ("Offset".to_owned(), Avro::String((number * 100).to_string())),
            ("EnqueuedTimeUtc".to_owned(), Avro::String(now.to_string())),
            (
                "SystemProperties".to_owned(),
                Avro::Map(system.map(|(name, value)| (name.to_owned(), text(value))).into()),
            ),
            ("Properties".to_owned(), Avro::Map([].into())),
            ("Body".to_owned(), Avro::Union(1, Box::new(Avro::Bytes(body.into_bytes())))),
        ]);
        writer.append_value(record).expect("it fits the schema");
    }
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
    std::fs::write(path, writer.into_inner().expect("bytes")).expect("a file");
}

#[test]
fn a_hub_is_begun_at_its_end_captured_files_fill_in_what_was_passed_over_and_the_lake_is_shown_as_it_was() {
    let mut scenario = Scenario::with("backfill", FAST);
    scenario.start(Part::Hub);
    scenario.start(Part::Agent);
    let listener = scenario.stack.layout.ports.agent_mqtt;
    let send = |scenario: &mut Scenario, n: u32| {
        mosquitto_pub(listener, "telemetry/press", &format!("{{\"n\":{n},\"temperature\":{n}}}"));
        scenario.wait_for("empty outbox", |scenario| scenario.stack.has_drained().then_some(()));
    };
    (1..=3).for_each(|n| send(&mut scenario, n));

    let begin = ["backfill", "start", "--at", "latest"];
    let (code, said) = ingester(&scenario, &begin);
    assert_eq!(code, Some(0), "{said}");
    scenario.start(Part::Ingester);
    send(&mut scenario, 4);
    scenario.wait_for_silver(1);
    let place = scenario.rows("SELECT hub, incarnation, partition_id, sequence_number FROM bronze.messages").remove(0);
    let number = |name: &str| place[name].as_i64().expect("a number");
    let (hub, first) = (place["hub"].as_str().expect("text").to_owned(), number("sequence_number"));
    assert!(said.contains(&format!("partition {}: begins at {first}", number("partition_id"))), "{said}");
    assert_eq!(
        scenario.count("SELECT min(value) AS n FROM silver.readings WHERE value <> 4"),
        None,
        "only what came after"
    );
    let (code, said) = ingester(&scenario, &begin);
    assert!(code == Some(1) && said.contains("was begun already"), "{code:?}: {said}");

    let then = Clock::Real.now().to_string();
    let path = scenario.stack.layout.lake().with_file_name("captured");
    let path = path.join(format!("{hub}/{}/2026/11/23/21/15/00.avro", number("partition_id")));
    capture(&path, 0..first);
    let fill = ["backfill", "files", &path.display().to_string(), "--incarnation", &number("incarnation").to_string()];
    let (code, said) = ingester(&scenario, &fill);
    assert!(code == Some(0) && said.contains(&format!("{first} Events read = {first} added")), "{code:?}: {said}");
    scenario.wait_for_silver(1 + first);
    let filled = "SELECT count(*) AS n FROM silver.readings WHERE device_id = 'pi' AND value = sequence_number + 0.5";
    assert_eq!(scenario.count(filled), Some(first));
    let (code, said) = ingester(&scenario, &fill);
    assert!(code == Some(0) && said.contains(&format!("0 added + {first} bronze had")), "{code:?}: {said}");

    let ask = ["query", "SELECT count(*) AS n FROM silver.readings", "--format", "json", "--as-of"];
    for (at, expected) in [(then, 1), (Clock::Real.now().to_string(), 1 + first)] {
        let (code, said) = ingester(&scenario, &[&ask[..], &[&at]].concat());
        let rows: Json = serde_json::from_str(said.trim()).unwrap_or_else(|error| panic!("{error}: {said}"));
        assert_eq!((code, rows["n"].as_i64()), (Some(0), Some(expected)), "as of {at}: {said}");
    }
}
