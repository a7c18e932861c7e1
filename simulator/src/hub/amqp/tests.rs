//! The endpoint as Microsoft's Rust SDK sees it, unmodified, and as the uninvited see it.

mod backend;
mod kit;
mod misfortune;
mod processor;
mod raw;
mod uninvited;
mod wrapped;

use std::time::{Duration, Instant, UNIX_EPOCH};

use azure_messaging_eventhubs::error::ErrorKind;
use azure_messaging_eventhubs::{OpenReceiverOptions, StartLocation};
use futures::StreamExt as _;
use proptest::test_runner::{Config as ProptestConfig, RngSeed};
use tempfile::tempdir;

use self::kit::{KEY, POLICY, TestHub, chain, end, event, from, next, receiver, within};
use super::Limits;

/// Parsers are tried with some thousand inputs, the same ones every time; sixteen times as many as `PROPTEST_CASES` says.
pub(super) fn fuzz() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: 16 * usual.cases, rng_seed: RngSeed::Fixed(3), failure_persistence: None, ..usual }
}

fn earliest() -> OpenReceiverOptions {
    from(StartLocation::Earliest, false)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hub_and_its_partitions_are_described() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    hub.fill(&hub.device_of(1), 3).await;
    let consumer = hub.consumer().await;

    let properties = within(consumer.get_eventhub_properties()).await.expect("answered");
    assert_eq!((properties.name.as_str(), properties.partition_ids), ("myhub", vec!["0".to_owned(), "1".to_owned()]));
    let created_on = properties.created_on.expect("told").duration_since(UNIX_EPOCH).expect("after 1970");
    assert_eq!(i64::try_from(created_on.as_millis()), Ok(hub.log.created_at()), "to the millisecond");

    let empty = within(consumer.get_partition_properties("0")).await.expect("answered");
    assert_eq!((empty.is_empty, empty.beginning_sequence_number, empty.last_enqueued_sequence_number), (true, 0, -1));
    let full = within(consumer.get_partition_properties("1")).await.expect("answered");
    assert_eq!((full.is_empty, full.beginning_sequence_number, full.last_enqueued_sequence_number), (false, 0, 2));
    assert!(0 < full.last_enqueued_offset.parse::<i64>().expect("a number"));
    assert!(within(consumer.get_partition_properties("2")).await.is_err(), "there are two");
    for _ in 0..50 {
        // A receipt that overtakes the SDK's own notes would make it wait for ever.
        within(consumer.get_partition_properties("1")).await.expect("answered");
    }
    consumer.close().await.expect("closed");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_events_arrive_in_order_with_all_annotations() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    let device = hub.device_of(0);
    hub.fill(&device, 1000).await;
    let consumer = hub.consumer().await;
    let receiver = receiver(&consumer, 0, earliest()).await;
    let mut events = receiver.stream_events();
    let mut offset = -1;
    for number in 0..1000_i64 {
        let event = within(events.next()).await.expect("the stream goes on").expect("an event");
        let body = format!("event {number}");
        assert_eq!(event.sequence_number(), Some(number));
        assert_eq!(event.event_data().body(), Some(body.as_bytes()));
        let at: i64 = event.offset().clone().expect("told").parse().expect("a number");
        assert!(offset < at, "offsets grow");
        offset = at;
        assert!(event.enqueued_time().is_some());
        let system = event.system_properties();
        let text = |key: &str| system.get(key).map(|value| format!("{value:?}")).unwrap_or_default();
        for (key, value) in [
            ("iothub-connection-device-id", device.as_str()),
            ("iothub-connection-auth-method", "issuer"),
            ("iothub-connection-auth-generation-id", "638"),
            ("iothub-message-source", "Telemetry"),
            ("iothub-enqueuedtime", "TimeStamp"),
        ] {
            assert!(text(key).contains(value), "{key}: {}", text(key));
        }
        let data = event.event_data();
        assert_eq!(format!("{:?}", data.message_id()), format!("Some(String(\"mid {body}\"))"));
        assert_eq!(data.content_type(), Some("application/json"));
        let properties = data.properties().expect("two");
        assert_eq!(properties.len(), 2);
        assert_eq!(format!("{:?}", properties["é"]), "String(\"x=y&z\")");
    }
    drop(events);
    receiver.close().await.expect("closed");
    consumer.close().await.expect("closed");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_begins_where_it_asks_to() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    hub.fill(&hub.device_of(0), 20).await;
    let stored = hub.log.read(0, 10, 1, 1).await.expect("readable").remove(0);
    let time = UNIX_EPOCH + Duration::from_micros(u64::try_from(stored.enqueued_time.micros()).expect("after 1970"));
    let same_time = hub.log.read(0, 0, 20, usize::MAX).await.expect("readable");
    let first_at = same_time.iter().position(|event| event.enqueued_time == stored.enqueued_time).expect("itself");
    let consumer = hub.consumer().await;
    for (location, inclusive, first) in [
        (StartLocation::Earliest, false, 0),
        (StartLocation::SequenceNumber(10), false, 11),
        (StartLocation::SequenceNumber(10), true, 10),
        (StartLocation::Offset(stored.offset.clone()), false, 11),
        (StartLocation::Offset(stored.offset.clone()), true, 10),
        (StartLocation::EnqueuedTime(time), true, i64::try_from(first_at).expect("short")),
    ] {
        let receiver = receiver(&consumer, 0, from(location.clone(), inclusive)).await;
        assert_eq!(next(&receiver, 1).await, [first], "{location:?} {inclusive}");
        receiver.close().await.expect("closed");
    }
    consumer.close().await.expect("closed");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_stored_later_follow_and_latest_begins_with_them() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    let device = hub.device_of(0);
    hub.fill(&device, 5).await;
    let consumer = hub.consumer().await;
    let latest = receiver(&consumer, 0, from(StartLocation::Latest, false)).await;
    let reading = tokio::spawn(async move { next(&latest, 3).await });
    within(async {
        while hub.hub.status().receivers == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    hub.fill(&device, 3).await;
    assert_eq!(within(reading).await.expect("no panic"), [5, 6, 7]);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_and_a_wrong_policy_are_refused() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    hub.fill(&hub.device_of(0), 1).await;
    for (policy, key) in [(POLICY, "d3Jvbmc="), ("nobody", KEY)] {
        let refused = within(async {
            let consumer = hub.consumer_with(policy, key).await?;
            consumer.get_eventhub_properties().await.map(|_| ())
        })
        .await;
        let error = chain(&refused.expect_err("refused"));
        assert!(error.contains("401") || error.contains("Unauthorized"), "{error}");
    }
    let status = hub.hub.status();
    assert!(2 <= status.tokens_refused, "{status:?}");
    assert_eq!((status.receivers, status.events_delivered), (0, 0));
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_partition_is_not_found_and_a_position_behind_the_end_is_named() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    hub.fill(&hub.device_of(0), 3).await;
    let consumer = hub.consumer().await;
    let unknown = within(async {
        match consumer.open_receiver_on_partition("7".to_owned(), Some(earliest())).await {
            Ok(receiver) => end(&receiver).await,
            Err(error) => error,
        }
    })
    .await;
    assert!(format!("{unknown:?}").contains("NotFound"), "{unknown:?}");
    let behind = receiver(&consumer, 0, from(StartLocation::SequenceNumber(500), false)).await;
    let error = format!("{:?}", end(&behind).await);
    assert!(error.contains("'500' is invalid") && error.contains("'2'"), "{error}");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_owner_level_takes_over_and_the_first_owner_is_told() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    hub.fill(&hub.device_of(0), 10).await;
    let owned = |level| OpenReceiverOptions { owner_level: Some(level), ..earliest() };
    let (one, other) = (hub.consumer().await, hub.consumer().await);
    let first = receiver(&one, 0, owned(0)).await;
    assert_eq!(next(&first, 10).await.len(), 10);
    let losing = tokio::spawn(async move { end(&first).await });
    let second = receiver(&other, 0, owned(0)).await;
    assert_eq!(next(&second, 10).await.len(), 10, "the new owner receives");
    let error = within(losing).await.expect("no panic");
    assert!(matches!(error.kind, ErrorKind::ConsumerDisconnected(_)), "{error:?}");

    let third = receiver(&hub.consumer().await, 0, earliest()).await;
    let refused = end(&third).await;
    assert!(matches!(refused.kind, ErrorKind::ConsumerDisconnected(_)), "without a level: {refused:?}");
    assert_eq!(hub.hub.status().receivers, 1);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_the_log_goes_on_under_the_same_incarnation() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    let device = hub.device_of(0);
    hub.fill(&device, 10).await;
    let (port, created_at) = (hub.port, hub.log.created_at());
    let consumer = hub.consumer().await;
    let before = receiver(&consumer, 0, earliest()).await;
    assert_eq!(next(&before, 10).await.len(), 10);
    let ending = tokio::spawn(async move { end(&before).await });
    hub.stop().await;

    let hub = TestHub::start_with(directory.path(), port, Limits::default(), shared::clock::Clock::Real).await;
    assert_eq!(hub.log.created_at(), created_at);
    hub.fill(&device, 2).await;
    // The SDK may come back by itself or give up: either way a new consumer goes on where the old one was.
    ending.abort();
    let consumer = hub.consumer().await;
    let after = receiver(&consumer, 0, from(StartLocation::SequenceNumber(9), false)).await;
    assert_eq!(next(&after, 2).await, [10, 11]);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_longer_than_a_frame_arrive_whole() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    let device = hub.device_of(0);
    let bodies: Vec<String> =
        [65_400, 65_536, 100_000, 262_143].iter().map(|length| "0123456789".repeat(length / 10 + 1)).collect();
    for body in &bodies {
        hub.log.append(event(&device, body.clone())).await.expect("stored");
    }
    let consumer = hub.consumer().await;
    let receiver = receiver(&consumer, 0, earliest()).await;
    let mut events = receiver.stream_events();
    for body in &bodies {
        let event = within(events.next()).await.expect("the stream goes on").expect("an event");
        assert!(event.event_data().body() == Some(body.as_bytes()), "{} bytes", body.len());
    }
    drop(events);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_come_and_go_without_losing_their_connection() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    hub.fill(&hub.device_of(0), 1000).await;
    hub.fill(&hub.device_of(1), 1000).await;
    for _ in 0..10 {
        let consumer = hub.consumer().await;
        for partition in [0, 1] {
            let receiver = receiver(&consumer, partition, earliest()).await;
            // Stops in the middle: transfers are still under way when the link is detached.
            assert_eq!(next(&receiver, 10).await.len(), 10);
            receiver.close().await.expect("closed");
        }
        within(consumer.get_eventhub_properties()).await.expect("the connection lives");
        consumer.close().await.expect("closed");
    }
    within(async {
        while 0 < hub.hub.status().receivers {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_streams_at_thousands_of_events_a_second() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    hub.fill(&hub.device_of(0), 20_000).await;
    let consumer = hub.consumer().await;
    let receiver = receiver(&consumer, 0, earliest()).await;
    let started = Instant::now();
    let numbers = next(&receiver, 20_000).await;
    assert!(numbers.into_iter().eq(0..20_000));
    let rate = 20_000.0 / started.elapsed().as_secs_f64();
    assert!(1000.0 < rate, "{rate:.0} events/s");
    hub.stop().await;
}
