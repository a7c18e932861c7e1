//! The same hub by other ways: through a proxy, in WebSocket messages, and by calls that change the way it is sent to.

use serde_json::Value as Json;

use super::*;
use crate::line::Way;
use crate::line::tests::{proxy, websocket_before};

impl Stand {
    fn answer(&self, rid: &str) -> Option<(String, Json)> {
        let end = format!("/?$rid={rid}");
        self.hub.look(|seen| {
            let found = seen.said.iter().find(|(topic, _)| topic.ends_with(&end) && topic.contains("/methods/res/"));
            found.map(|(topic, payload)| (topic.clone(), serde_json::from_slice(payload).expect("JSON")))
        })
    }

    fn is_up(&self) -> bool {
        ["live", "catching-up"].contains(&self.metrics.status().borrow().link)
    }
}

#[tokio::test]
async fn through_a_proxy_all_goes_as_without_one_to_the_goodbye() {
    let hub = Hub::start(Mode::Acknowledge).await;
    let (proxy, asked) = proxy(None).await;
    let stand = stand_by(Network { choice: Choice::Mqtt, proxy: Some(proxy) }, hub, config()).await;
    stand.store(1..=500).await;
    stand.until("all acknowledged", |stand| stand.held() == 0).await;
    let hub = stand.end().await;
    assert_eq!((hub.seqs().len(), hub.look(|seen| seen.connections)), (500, 1));
    hub.said_goodbye(1).await;
    assert_eq!(asked.lock().expect("no panic").len(), 1);
}

#[tokio::test]
async fn a_proxy_that_says_no_is_told_in_words() {
    let hub = Hub::start(Mode::Acknowledge).await;
    let (proxy, _) = proxy(Some("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")).await;
    let stand = stand_by(Network { choice: Choice::Mqtt, proxy: Some(proxy) }, hub, config()).await;
    let told = |stand: &Stand| {
        let status = stand.metrics.status().borrow().clone();
        status.last_error.is_some_and(|text| text.contains("network.proxy-credentials"))
    };
    stand.until("it is told", told).await;
    stand.end().await;
}

#[tokio::test]
async fn where_8883_is_closed_the_way_is_websocket_and_stays_so() {
    let hub = Hub::start(Mode::Acknowledge).await;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("bound").port();
    let front = websocket_before(hub.port).await;
    let stand = stand_at((closed, front), Network::default(), hub, config()).await;
    stand.store(1..=500).await;
    stand.until("all acknowledged", |stand| stand.held() == 0).await;
    assert_eq!(stand.metrics.status().borrow().way, "websocket");
    // Lost and found.
    stand.hub.mode.send_replace(Mode::Away);
    stand.until("the loss is noticed", |stand| !stand.is_up()).await;
    stand.hub.mode.send_replace(Mode::Acknowledge);
    stand.store(501..=520).await;
    stand.until("all acknowledged", |stand| stand.held() == 0).await;
    let hub = stand.end().await;
    assert_eq!(hub.seqs().len(), 520);
    assert_eq!(hub.look(|seen| seen.faults.clone()), Vec::<String>::new());
    hub.said_goodbye(1).await;
}

#[tokio::test]
async fn a_flush_sends_what_lingers_and_is_answered_once_the_hub_has_it() {
    let slow = Config { linger: Span::new(Duration::from_secs(3_000)), ..config() };
    let stand = stand(Mode::Acknowledge, slow).await;
    stand.until("it hears", |stand| stand.remote.status().borrow().desired_version.is_some()).await;
    stand.until("it is live", |stand| stand.metrics.status().borrow().link == "live").await;
    stand.store(1..=7).await;
    stand.hub.tell("$iothub/methods/POST/flush/?$rid=f", "");
    stand.until("it is answered", |stand| stand.answer("f").is_some()).await;
    let (topic, answer) = stand.answer("f").expect("an answer");
    assert!(topic.contains("/res/200/"), "{topic}");
    assert_eq!((&answer["drained"], &answer["left"], &answer["held"]), (&json!(true), &json!(7), &json!(0)));
    assert_eq!(stand.held(), 0);
    // One that cannot be done in time says so.
    stand.hub.mode.send_replace(Mode::Silent);
    stand.store(8..=9).await;
    stand.hub.tell("$iothub/methods/POST/flush/?$rid=g", r#"{"for":"200ms"}"#);
    stand.until("it is answered", |stand| stand.answer("g").is_some()).await;
    let (topic, answer) = stand.answer("g").expect("an answer");
    assert!(topic.contains("/res/504/") && answer["drained"] == false && answer["held"] == 2, "{topic} {answer}");
    stand.hub.mode.send_replace(Mode::Acknowledge);
    stand.end().await;
}

#[tokio::test]
async fn a_restart_answers_drains_says_goodbye_and_ends_this_uplink_with_nothing_twice() {
    let stand = stand(Mode::Acknowledge, config()).await;
    stand.until("it hears", |stand| stand.remote.status().borrow().desired_version.is_some()).await;
    stand.store(1..=300).await;
    stand.hub.tell("$iothub/methods/POST/restart-uplink/?$rid=r", "");
    let Stand { hub, ran, .. } = stand;
    let ended = tokio::time::timeout(Duration::from_secs(20), ran).await.expect("in time").expect("no panic");
    assert!(matches!(ended, Ok(Ended::Restart)), "{ended:?}");
    hub.said_goodbye(1).await;
    let answered = hub.look(|seen| seen.said.iter().any(|(topic, _)| topic == "$iothub/methods/res/200/?$rid=r"));
    assert!(answered);
    let rows: usize = hub.envelopes().iter().map(|envelope| envelope.readings.len()).sum();
    assert_eq!(rows, hub.seqs().len(), "nothing went twice");
}

#[tokio::test]
async fn an_assigned_hub_that_refuses_or_is_away_is_doubted_and_another_is_not() {
    for (mode, ask_again, doubted) in
        [(Mode::Refuse, true, true), (Mode::Away, true, true), (Mode::Refuse, false, false)]
    {
        let hub = Hub::start(mode).await;
        let mut target = target((hub.port, hub.port), Network { choice: Choice::Mqtt, proxy: None });
        target.ask_again_at = ask_again.then(Instant::now);
        let stand = stand_of(target, hub, config()).await;
        stand.store(1..=3).await;
        if doubted {
            let Stand { outbox, ran, .. } = stand;
            let ended = tokio::time::timeout(Duration::from_secs(20), ran).await.expect("in time").expect("no panic");
            assert!(matches!(ended, Ok(Ended::Doubted { was_up: false })), "{mode:?} {ended:?}");
            assert_eq!(outbox.view().books.held, 3);
        } else {
            stand.until("it tries on", |stand| 3 <= stand.hub.look(|seen| seen.connections)).await;
            stand.end().await;
        }
    }
}

#[tokio::test]
async fn a_trial_enters_by_each_way_carries_nothing_and_tells_a_refused_key_from_a_way_that_leads_nowhere() {
    let hub = Hub::start(Mode::Acknowledge).await;
    let front = websocket_before(hub.port).await;
    let target = target((hub.port, front), Network::default());
    let config = config();
    let enter = |way| trial::enter(&target, way, &config, Duration::from_secs(10), Clock::Real.now());
    for way in [Way::Mqtt, Way::WebSocket] {
        enter(way).await.expect("it is let in");
    }
    hub.said_goodbye(2).await;
    assert_eq!(hub.look(|seen| (seen.publishes.len(), seen.subscribes, seen.said.len())), (0, 0, 0));
    hub.mode.send_replace(Mode::Refuse);
    let refusal = enter(Way::Mqtt).await.expect_err("refused");
    assert!(refusal.denied && refusal.text.contains("check the connection string"), "{refusal:?}");
    hub.mode.send_replace(Mode::Away);
    let refusal = enter(Way::Mqtt).await.expect_err("nobody there");
    assert!(!refusal.denied, "{refusal:?}");
}
