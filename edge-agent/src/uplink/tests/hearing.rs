//! What the hub says beside PUBACKs: heard, answered, and never in the way of Envelopes.

use serde_json::Value as Json;

use super::*;

impl Stand {
    /// The reported property at this pointer, as the hub has it.
    fn reported(&self, pointer: &str) -> Option<Json> {
        self.hub.look(|seen| Json::Object(seen.reported.clone()).pointer(pointer).cloned())
    }

    fn levels(&self) -> Vec<String> {
        self.levels.lock().expect("no panic").clone()
    }

    fn hears(&self) -> bool {
        let status = self.remote.status();
        let status = status.borrow();
        status.state == "hearing" && status.desired_version.is_some()
    }

    /// The answers to calls: topics and payloads.
    fn answers(&self) -> Vec<(String, Json)> {
        let json = |(topic, payload): &(String, Vec<u8>)| {
            topic
                .starts_with("$iothub/methods/res/")
                .then(|| (topic.clone(), serde_json::from_slice(payload).expect("answers are JSON")))
        };
        self.hub.look(|seen| seen.said.iter().filter_map(json).collect())
    }
}

#[tokio::test]
async fn at_the_start_the_twin_is_read_and_the_agent_reported() {
    let hub = Hub::start(Mode::Acknowledge).await;
    hub.desire("log-level", json!("debug"), false);
    let stand = stand_before(hub, config()).await;
    stand.until("the level is applied", |stand| stand.levels() == ["debug"]).await;
    stand.until("it is acknowledged", |stand| stand.reported("/log-level/ac") == Some(json!(200))).await;
    assert_eq!(stand.reported("/log-level/av"), Some(json!(2)));
    assert_eq!(stand.reported("/agent/epoch"), Some(json!(stand.outbox.epoch())));
    assert_eq!(stand.reported("/agent/rules"), Some(json!("d1")));
    assert_eq!(stand.reported("/agent/time-quality"), Some(json!("gateway")));
    let writes = stand.hub.look(|seen| seen.said.iter().filter(|(topic, _)| topic.contains("PATCH")).count());
    assert_eq!(writes, 1, "one write for all");
    stand.end().await;
}

#[tokio::test]
async fn a_change_is_applied_at_once_and_one_that_was_missed_on_return() {
    let stand = stand(Mode::Acknowledge, config()).await;
    stand.until("it hears", Stand::hears).await;
    stand.hub.desire("log-level", json!("warn"), true);
    stand.until("the level is applied", |stand| stand.levels() == ["warn"]).await;
    // One patch lost, the next one shows it.
    stand.hub.desire("log-level", json!("trace"), false);
    stand.hub.desire("other", json!(1), true);
    stand.until("the lost one is applied", |stand| stand.levels() == ["warn", "trace"]).await;
    // Away.
    stand.hub.mode.send_replace(Mode::Away);
    stand.until("the loss is noticed", |stand| stand.metrics.status().borrow().last_error.is_some()).await;
    let version = stand.hub.desire("log-level", json!("error"), false);
    stand.hub.mode.send_replace(Mode::Acknowledge);
    stand.until("it is applied on return", |stand| stand.levels().last().is_some_and(|level| level == "error")).await;
    stand.until("and acknowledged", |stand| stand.reported("/log-level/av") == Some(json!(version))).await;
    assert_eq!(stand.reported("/other/ac"), Some(json!(404)), "what is unknown is told so");
    stand.end().await;
}

#[tokio::test]
async fn calls_are_answered_also_many_at_once_while_readings_flow() {
    let stand = stand(Mode::Acknowledge, config()).await;
    stand.until("it hears", Stand::hears).await;
    for n in 0..200 {
        stand.hub.tell(format!("$iothub/methods/POST/status/?$rid={n}"), "null");
    }
    stand.store(1..=500).await;
    stand.hub.tell("$iothub/methods/POST/log-level/?$rid=l", r#"{"level":"debug","for":"1h"}"#);
    stand.hub.tell("$iothub/methods/POST/reboot/?$rid=r", "{}");
    stand.hub.tell("$iothub/methods/POST/log-level/?$rid=m", "{");
    stand.until("all are answered", |stand| stand.answers().len() == 203).await;
    stand.until("all acknowledged", |stand| stand.held() == 0).await;
    let answers = stand.answers();
    let answer = |rid: &str| {
        let found = answers.iter().find(|(topic, _)| topic.ends_with(&format!("$rid={rid}")));
        found.unwrap_or_else(|| panic!("{rid}")).clone()
    };
    assert_eq!(answer("7"), ("$iothub/methods/res/200/?$rid=7".into(), json!({ "running": true })));
    assert_eq!(answer("l").1["level"], "debug");
    assert!(answer("r").0.contains("/res/404/") && answer("m").0.contains("/res/400/"));
    assert_eq!(stand.levels(), ["debug"]);
    let hub = stand.end().await;
    assert_eq!((hub.seqs().len(), hub.look(|seen| seen.connections)), (500, 1));
    let rows: usize = hub.envelopes().iter().map(|envelope| envelope.readings.len()).sum();
    assert_eq!(rows, 500, "nothing went twice");
}

#[tokio::test]
async fn telemetry_waits_neither_for_suback_nor_for_the_twin() {
    for mode in [Mode::NoSuback, Mode::NoTwin, Mode::Throttle] {
        let stand = stand(mode, config()).await;
        stand.store(1..=500).await;
        stand.until("all acknowledged", |stand| stand.held() == 0).await;
        stand.until("it asked", |stand| stand.hub.look(|seen| seen.subscribes == 1)).await;
        assert!(!stand.hears(), "{mode:?}");
        let hub = stand.end().await;
        assert_eq!((hub.seqs().len(), hub.look(|seen| seen.connections)), (500, 1), "{mode:?}");
    }
}

#[tokio::test]
async fn a_tier_that_closes_on_subscribe_is_not_asked_for_ever() {
    let stand = stand(Mode::NoTier, config()).await;
    stand.until("it gives that up", |stand| stand.remote.status().borrow().state == "deaf").await;
    stand.store(1..=100).await;
    stand.until("all acknowledged", |stand| stand.held() == 0).await;
    assert_eq!(stand.hub.look(|seen| (seen.subscribes, seen.connections)), (3, 4));
    stand.end().await;
}

#[tokio::test]
async fn what_makes_no_sense_changes_nothing() {
    let stand = stand(Mode::Acknowledge, config()).await;
    stand.until("it hears", Stand::hears).await;
    let deep = format!("{{\"a\":{}1{},\"$version\":2}}", "[".repeat(5_000), "]".repeat(5_000));
    let large = json!({ "log-level": "x".repeat(33 * 1024), "$version": 2 }).to_string();
    let comings = [
        ("$iothub/twin/PATCH/properties/desired/?$version=2", deep.as_str()),
        ("$iothub/twin/PATCH/properties/desired/?$version=2", &large),
        ("$iothub/twin/PATCH/properties/desired/?$version=-9", "[]"),
        ("$iothub/twin/PATCH/properties/desired/?$version=x", "\u{0}"),
        ("$iothub/twin/res/200/?$rid=999", "{"),
        ("$iothub/twin/res/x/?$rid=", ""),
        ("$iothub/methods/POST/", ""),
        ("devices/gw-01/messages/devicebound/x", "y"),
    ];
    for (topic, payload) in comings {
        stand.hub.tell(topic, payload);
    }
    stand.hub.tell("$iothub/methods/POST/status/?$rid=z", "");
    stand.until("it lives", |stand| stand.answers().len() == 1).await;
    stand.until("all was taken", |stand| stand.hub.look(|seen| comings.len() <= seen.acked)).await;
    stand.store(1..=10).await;
    stand.until("all acknowledged", |stand| stand.held() == 0).await;
    assert_eq!(stand.levels(), Vec::<String>::new());
    assert_eq!(stand.hub.look(|seen| seen.connections), 1);
    stand.end().await;
}
