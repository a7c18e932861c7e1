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
        (deep(12), 400),
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
async fn a_device_that_is_disabled_or_taken_out_of_the_file_loses_its_connection_and_keeps_its_twin() {
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
        std::fs::write(&file, text).expect("written");
        stand.door.desk.heed().await.expect("a disk");
        assert_eq!(twins.get(&who).reported.values["a"], 1, "{reason}, and back again");
    }
    stand.close().await;
}

#[tokio::test]
async fn twins_and_commands_outlive_a_start_with_another_registry_but_not_another_identity_of_the_same_id() {
    use crate::hub::commands::Command;
    use crate::hub::devices::{Change as Edited, Draft, Edit, IfMatch};

    let stand = Stand::open(limits()).await;
    let (desk, who) = (&stand.door.desk, Who::device("d-1"));
    let left = |desk: &Desk| (desk.twins.get(&who).version, desk.commands.depth(&who));
    desk.heed().await.expect("a disk");
    desk.twins.report(&who, &json!({"a": 1})).await.expect("taken");
    desk.commands.send(&who, Command::default()).await.expect("taken");
    let file = stand.dir.path().join("devices.toml");
    let whole = std::fs::read_to_string(&file).expect("read");

    // A start with a registry in which it is not, then with the right one.
    let empty = stand.dir.path().join("empty.toml");
    for path in [&empty, &file] {
        let registry = Registry::prepare(path.clone(), &[]).expect("a registry");
        desk.restarted(registry).heed().await.expect("a disk");
        assert_eq!(left(desk), (2, 1), "{}", path.display());
    }
    // The file is half written for a while.
    let others = whole.replace("id = \"d-1\"", "id = \"somebody\"");
    for text in [&others, &whole] {
        std::fs::write(&file, text).expect("written");
        desk.heed().await.expect("a disk");
        assert_eq!(left(desk), (2, 1));
    }
    // By hand another one takes its id.
    let generation = desk.registry.now().device("d-1").expect("known").generation_id.clone();
    for text in [others, whole.replace(&generation, "000000000000000007")] {
        std::fs::write(&file, text).expect("written");
        desk.heed().await.expect("a disk");
    }
    assert_eq!(left(desk), (1, 0));
    // A service deletes it.
    desk.twins.report(&who, &json!({"a": 1})).await.expect("taken");
    let edit = |change| vec![Edit { device: "d-1".to_owned(), module: None, change }];
    let done = desk.registry.edit(edit(Edited::Delete(IfMatch::Any)), desk.clock.now()).expect("written");
    assert!(done[0].is_ok());
    desk.heed().await.expect("a disk");
    let done = desk.registry.edit(edit(Edited::Create(Draft::default())), desk.clock.now()).expect("written");
    assert!(done[0].is_ok());
    desk.heed().await.expect("a disk");
    assert_eq!(left(desk), (1, 0));
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

#[tokio::test]
async fn a_device_that_takes_no_wishes_is_closed_rather_than_left_with_those_of_yesterday() {
    let stand = Stand::open(limits()).await;
    let (who, desk) = (Who::device("d-1"), &stand.door.desk);
    let mut options = stand.options("d-1", stand.token("d-1", FAR));
    options.set_manual_acks(true);
    let (client, mut device) = AsyncClient::new(options, 8);
    connected(&mut device).await.expect("admitted");
    listen(&client, &mut device, &[DESIRED], QoS::AtLeastOnce).await;
    // It acknowledges nothing: 1,024 letters are on their way to it, then its mailbox fills.
    let fill = || while desk.seats.post(&who, Hears::Desired, Letter::Desired { version: 2, patch: "{}".into() }) {};
    fill();
    soon("under way", || stand.total("said_total{what=\"desired\"}") == 1_024).await;
    fill();
    assert_eq!(stand.count("closed", "mailbox-full"), 0);
    desk.twins.change(&who, wish(json!({"a": 1})), None).await.expect("taken");
    soon("mailbox-full", || stand.count("closed", "mailbox-full") == 1).await;
    until(&mut device, |_| false).await.expect_err("closed");
    // It comes back and asks.
    let (client, mut device) = stand.good("d-1");
    connected(&mut device).await.expect("admitted");
    listen(&client, &mut device, &[RESPONSES], QoS::AtLeastOnce).await;
    client.publish(GET, QoS::AtLeastOnce, false, " ").await.expect("queued");
    let twin: Value = serde_json::from_slice(&told(&mut device).await.payload).expect("JSON");
    assert_eq!(twin["desired"], json!({"a": 1, "$version": 2}));
    stand.close().await;
}

#[tokio::test]
async fn readers_of_events_hear_of_connections_that_end_and_of_identities_that_are_deleted() {
    use crate::hub::devices::{Change as Edited, Edit, IfMatch};

    let tier = Config::load(None).expect("the default").hub.limits;
    let stand = Stand::open_telling(limits(), tier, &[Source::DeviceLifecycle, Source::ConnectionState]).await;
    let desk = &stand.door.desk;
    desk.heed().await.expect("a disk");
    devices::register(&stand.dir.path().join("devices.toml"), "d-9", Some("m"), Means::Sas, None).expect("registered");
    desk.heed().await.expect("a disk");
    let told = async |op: &str| {
        let events = stand.stored("d-9").await;
        let is = |event: &&StoredEvent| event.properties.iter().any(|(name, value)| name == "opType" && value == op);
        events.iter().filter(is).map(|event| serde_json::from_slice(&event.body).expect("JSON")).collect::<Vec<Value>>()
    };
    let heard = async |op: &'static str, times: usize| {
        let often = async {
            while told(op).await.len() < times {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, often).await.unwrap_or_else(|_| panic!("{op} was not told {times} times"));
    };
    // One that says goodbye, one that another takes the place of, one whose identity is deleted.
    let (client, mut device) = stand.good("d-9");
    connected(&mut device).await.expect("admitted");
    client.disconnect().await.expect("queued");
    until(&mut device, |_| false).await.expect_err("left");
    heard("deviceDisconnected", 1).await;
    let (_first, mut driven_away) = stand.good("d-9");
    connected(&mut driven_away).await.expect("admitted");
    let (_second, mut device) = stand.good("d-9");
    connected(&mut device).await.expect("admitted");
    until(&mut driven_away, |_| false).await.expect_err("taken over");
    let delete = Edit { device: "d-9".to_owned(), module: None, change: Edited::Delete(IfMatch::Any) };
    assert!(desk.registry.edit(vec![delete], desk.clock.now()).expect("written")[0].is_ok());
    desk.heed().await.expect("a disk");
    until(&mut device, |_| false).await.expect_err("deleted");
    heard("deviceDisconnected", 2).await;
    // Of the device and of its module.
    heard("deleteDeviceIdentity", 2).await;
    let deleted = told("deleteDeviceIdentity").await;
    assert!(deleted.iter().all(|body| body["deviceId"] == "d-9"), "{deleted:?}");
    assert_eq!(deleted.iter().filter(|body| body["moduleId"] == "m").count(), 1, "{deleted:?}");
    // Of the two at once the second one's end is told, and the later event has the higher number.
    let number = |body: &Value| body["sequenceNumber"].as_str().expect("a text").to_owned();
    let (came, went) = (told("deviceConnected").await, told("deviceDisconnected").await);
    assert_eq!((came.len(), went.len()), (3, 2));
    let order = [&came[0], &went[0], &came[1], &came[2], &went[1]].map(number);
    assert!(order.is_sorted_by(|one, other| one < other), "{order:?}");
    stand.close().await;
}
