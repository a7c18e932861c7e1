//! Twins, and what becomes of whom the registry does not know any more.

use serde_json::{Value, json};

use super::*;
use crate::hub::devices::{self, Means};
use crate::hub::twins::Change;
use crate::hub::who::Who;

const RESPONSES: &str = "$iothub/twin/res/#";
const DESIRED: &str = "$iothub/twin/PATCH/properties/desired/#";
const GET: &str = "$iothub/twin/GET/?$rid=7";
const REPORT: &str = "$iothub/twin/PATCH/properties/reported/?$rid=8";

fn wish(desired: Value) -> Change {
    Change { desired: Some(desired), ..Change::default() }
}

#[tokio::test]
async fn a_device_reads_its_twin_and_reports_what_it_is() {
    let stand = Stand::open(limits()).await;
    let (client, mut device) = stand.good("d-1");
    connected(&mut device).await.expect("admitted");
    listen(&client, &mut device, &[RESPONSES], QoS::AtLeastOnce).await;
    client.publish(GET, QoS::AtLeastOnce, false, " ").await.expect("queued");
    let answer = told(&mut device).await;
    let empty = json!({"desired": {"$version": 1}, "reported": {"$version": 1}});
    assert_eq!((answer.topic.as_str(), answer.qos), ("$iothub/twin/res/200/?$rid=7", QoS::AtLeastOnce));
    assert_eq!(serde_json::from_slice::<Value>(&answer.payload).expect("JSON"), empty);
    for (number, patch) in [json!({"a": 1}), json!({"a": null, "b": {"c": "x"}})].into_iter().enumerate() {
        client.publish(REPORT, QoS::AtMostOnce, false, patch.to_string()).await.expect("queued");
        let answer = told(&mut device).await;
        assert_eq!(answer.topic, format!("$iothub/twin/res/204/?$rid=8&$version={}", number + 2));
        assert!(answer.payload.is_empty());
    }
    client.publish(GET, QoS::AtMostOnce, false, "").await.expect("queued");
    let twin: Value = serde_json::from_slice(&told(&mut device).await.payload).expect("JSON");
    assert_eq!(twin["reported"], json!({"b": {"c": "x"}, "$version": 3}));
    stand.close().await;
}

#[tokio::test]
async fn what_is_no_patch_is_refused_and_changes_nothing() {
    let stand = Stand::open(limits()).await;
    let (client, mut device) = stand.good("d-1");
    connected(&mut device).await.expect("admitted");
    listen(&client, &mut device, &[RESPONSES], QoS::AtMostOnce).await;
    let large = json!({"a": vec!["x".repeat(1_000); 33]}).to_string();
    let deep = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
    for (patch, status) in [
        ("{".to_owned(), 400),
        (String::new(), 400),
        ("[1]".to_owned(), 400),
        ("{\"a\":\"\u{0}\"}".to_owned(), 400),
        ("{\"$a\":1}".to_owned(), 400),
        (deep(11), 400),
        (deep(40_000), 400),
        ("[".repeat(200_000), 400),
        (large, 413),
    ] {
        client.publish(REPORT, QoS::AtLeastOnce, false, patch.clone()).await.expect("queued");
        let answer = told(&mut device).await;
        let start: String = patch.chars().take(30).collect();
        assert_eq!(
            (answer.topic, answer.qos),
            (format!("$iothub/twin/res/{status}/?$rid=8"), QoS::AtMostOnce),
            "{start}"
        );
        let said: Value = serde_json::from_slice(&answer.payload).expect("JSON");
        assert!(said["message"].is_string() && said["errorCode"].is_u64(), "{said}");
    }
    assert!(stand.door.desk.twins.is_empty());
    stand.close().await;
}

#[tokio::test]
async fn wishes_are_pushed_in_order_and_those_of_a_time_away_are_found_by_their_version() {
    let stand = Stand::open(limits()).await;
    let (who, twins) = (Who::device("d-1"), stand.door.desk.twins.clone());
    let (client, mut device) = stand.good("d-1");
    connected(&mut device).await.expect("admitted");
    listen(&client, &mut device, &[RESPONSES, DESIRED], QoS::AtLeastOnce).await;
    let racing: Vec<_> = (0..50)
        .map(|number| {
            let (twins, who) = (twins.clone(), who.clone());
            tokio::spawn(async move { twins.change(&who, wish(json!({"n": number})), None).await.map(drop) })
        })
        .collect();
    for racer in racing {
        racer.await.expect("no panic").expect("taken");
    }
    let mut last = Value::Null;
    for version in 2..=51 {
        let push = told(&mut device).await;
        assert_eq!(push.topic, format!("$iothub/twin/PATCH/properties/desired/?$version={version}"));
        last = serde_json::from_slice(&push.payload).expect("JSON");
        assert_eq!(last["$version"], version);
    }
    assert_eq!(last["n"], twins.get(&who).desired.values["n"], "the last one told is what holds");
    client.disconnect().await.expect("queued");
    until(&mut device, |_| false).await.expect_err("left");
    twins.change(&who, wish(json!({"away": true})), None).await.expect("taken");
    let (client, mut device) = stand.good("d-1");
    connected(&mut device).await.expect("admitted");
    listen(&client, &mut device, &[RESPONSES, DESIRED], QoS::AtLeastOnce).await;
    client.publish(GET, QoS::AtLeastOnce, false, "").await.expect("queued");
    let twin: Value = serde_json::from_slice(&told(&mut device).await.payload).expect("JSON");
    assert_eq!((&twin["desired"]["$version"], &twin["desired"]["away"]), (&json!(52), &json!(true)));
    stand.close().await;
}

#[tokio::test]
async fn a_tier_refuses_what_is_beyond_its_throttle_of_twins() {
    let tier = limits::Config {
        profile: limits::Profile::S1,
        burst: Span::new(Duration::ZERO),
        ..Config::load(None).expect("the default").hub.limits
    };
    let stand = Stand::open_with(limits(), tier).await;
    let (client, mut device) = stand.good("d-1");
    connected(&mut device).await.expect("admitted");
    listen(&client, &mut device, &[RESPONSES], QoS::AtLeastOnce).await;
    for _ in 0..20 {
        client.publish(REPORT, QoS::AtMostOnce, false, "{\"a\":1}").await.expect("queued");
    }
    let mut topics = vec![];
    for _ in 0..20 {
        topics.push(told(&mut device).await.topic);
    }
    let refused = topics.iter().filter(|topic| topic.as_str() == "$iothub/twin/res/429/?$rid=8").count();
    let taken = topics.iter().filter(|topic| topic.starts_with("$iothub/twin/res/204/")).count();
    assert!(0 < refused && 0 < taken && refused + taken == 20, "{topics:?}");
    assert_eq!(stand.door.desk.twins.get(&Who::device("d-1")).reported.version, 1 + i64::try_from(taken).expect("few"));
    stand.close().await;
}

#[tokio::test]
async fn a_module_has_a_twin_of_its_own() {
    let stand = Stand::open(limits()).await;
    let file = stand.dir.path().join("devices.toml");
    devices::register(&file, "d-1", Some("m"), Means::Sas, None).expect("registered");
    let (client, mut module) = AsyncClient::new(stand.module("d-1", "m"), 8);
    connected(&mut module).await.expect("admitted");
    listen(&client, &mut module, &[RESPONSES, DESIRED], QoS::AtLeastOnce).await;
    let (who, twins) = (Who::module("d-1", "m"), &stand.door.desk.twins);
    twins.change(&who, wish(json!({"a": 1})), None).await.expect("taken");
    assert_eq!(told(&mut module).await.topic, "$iothub/twin/PATCH/properties/desired/?$version=2");
    client.publish(REPORT, QoS::AtLeastOnce, false, "{\"b\":2}").await.expect("queued");
    assert_eq!(told(&mut module).await.topic, "$iothub/twin/res/204/?$rid=8&$version=2");
    assert_eq!(twins.all().into_iter().map(|(who, _)| who).collect::<Vec<_>>(), [who]);
    stand.close().await;
}

#[tokio::test]
async fn a_device_that_is_disabled_or_deleted_loses_its_connection_and_the_latter_its_twin() {
    let stand = Stand::open(limits()).await;
    let (who, twins) = (Who::device("d-1"), &stand.door.desk.twins);
    twins.report(&who, &json!({"a": 1})).await.expect("taken");
    let file = stand.dir.path().join("devices.toml");
    for (change, reason) in [
        (("id = \"d-1\"\nenabled = true", "id = \"d-1\"\nenabled = false"), "disabled-device"),
        (("id = \"d-1\"\nenabled = true", "id = \"d-3\"\nenabled = true"), "deleted-device"),
    ] {
        let (_client, mut device) = stand.good("d-1");
        connected(&mut device).await.expect("admitted");
        let text = std::fs::read_to_string(&file).expect("read");
        std::fs::write(&file, text.replace(change.0, change.1)).expect("written");
        stand.door.desk.heed().await.expect("a disk");
        until(&mut device, |_| false).await.expect_err("closed");
        soon(reason, || stand.count("closed", reason) == 1).await;
        assert_eq!(twins.get(&who).reported.values.is_empty(), reason == "deleted-device");
        if reason == "disabled-device" {
            std::fs::write(&file, text).expect("written");
            stand.door.desk.heed().await.expect("a disk");
        }
    }
    stand.close().await;
}

#[tokio::test]
async fn what_the_hub_does_is_told_to_readers_of_events_who_asked_for_it() {
    let tier = Config::load(None).expect("the default").hub.limits;
    let all = [Source::TwinChanges, Source::DeviceLifecycle, Source::ConnectionState];
    for sources in [&all[..], &[]] {
        let stand = Stand::open_telling(limits(), tier.clone(), sources).await;
        stand.door.desk.heed().await.expect("a disk");
        let file = stand.dir.path().join("devices.toml");
        devices::register(&file, "d-9", None, Means::Sas, None).expect("registered");
        devices::register(&file, "d-9", Some("m"), Means::Sas, None).expect("registered");
        stand.door.desk.heed().await.expect("a disk");
        let (client, mut device) = stand.good("d-9");
        connected(&mut device).await.expect("admitted");
        listen(&client, &mut device, &[RESPONSES], QoS::AtLeastOnce).await;
        client.publish(REPORT, QoS::AtLeastOnce, false, "{\"b\":2}").await.expect("queued");
        told(&mut device).await;
        let change = Change { tags: Some(json!({"site": "x"})), desired: Some(json!({"a": 1})), replace: true };
        stand.door.desk.twins.change(&Who::device("d-9"), change, None).await.expect("taken");
        client.publish(events("d-9"), QoS::AtLeastOnce, false, "last").await.expect("queued");
        let wanted = if sources.is_empty() { 1 } else { 6 };
        let found = async {
            loop {
                let _ = timeout(Duration::from_millis(10), device.poll()).await;
                let stored = stand.stored("d-9").await;
                if wanted <= stored.len() {
                    return stored;
                }
            }
        };
        let stored = timeout(PATIENCE, found).await.expect("in time");
        let property = |event: &StoredEvent, name: &str| {
            event.properties.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let mut found: Vec<_> =
            stored.iter().map(|event| (event.message_source.clone(), property(event, "opType"))).collect();
        found.sort();
        let expected: &[_] = &[
            ("Telemetry", ""),
            ("deviceConnectionStateEvents", "deviceConnected"),
            ("deviceLifecycleEvents", "createDeviceIdentity"),
            // Of the module: Microsoft's page has the same for both, and `moduleId`.
            ("deviceLifecycleEvents", "createDeviceIdentity"),
            ("twinChangeEvents", "replaceTwin"),
            ("twinChangeEvents", "updateTwin"),
        ];
        let expected = if sources.is_empty() { &expected[..1] } else { expected };
        let expected: Vec<_> = expected.iter().map(|(source, op)| ((*source).to_owned(), (*op).to_owned())).collect();
        assert_eq!(found, expected);
        let of = |op: &str, module: Option<&str>| {
            let is = |event: &&StoredEvent| property(event, "opType") == op && event.module_id.as_deref() == module;
            stored.iter().find(is).map(|event| {
                assert_eq!(property(event, "moduleId"), module.unwrap_or_default());
                assert_eq!((property(event, "hubName"), property(event, "deviceId")), ("hub".into(), "d-9".into()));
                assert_eq!(event.system.user_id.as_deref(), Some("hub"));
                assert!(event.system.correlation_id.as_ref().is_some_and(|id| !id.is_empty()));
                serde_json::from_slice::<Value>(&event.body).expect("JSON")
            })
        };
        if !sources.is_empty() {
            let replaced = of("replaceTwin", None).expect("told");
            let twin = stand.door.desk.twins.get(&Who::device("d-9"));
            assert_eq!((&replaced["version"], &replaced["tags"]), (&json!(3), &json!({"site": "x"})));
            assert_eq!((&replaced["deviceId"], &replaced["etag"]), (&json!("d-9"), &json!(twin.etag)));
            assert_eq!(replaced["properties"]["desired"], twin.desired.to_json_with_metadata());
            assert_eq!(replaced["properties"]["reported"], twin.reported.to_json_with_metadata());
            let updated = of("updateTwin", None).expect("told");
            assert_eq!(updated["properties"]["reported"], twin.reported.to_json_with_metadata(), "all of it is new");
            let made = of("createDeviceIdentity", Some("m")).expect("told");
            assert_eq!((&made["moduleId"], &made["tags"]), (&json!("m"), &json!({})));
            let connected = of("deviceConnected", None).expect("told");
            assert_eq!(connected["sequenceNumber"].as_str().map(str::len), Some(64));
        }
        stand.close().await;
    }
}
