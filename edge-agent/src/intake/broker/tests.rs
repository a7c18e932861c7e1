//! The broker client against Eclipse Mosquitto itself (Debian package `mosquitto`).

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rumqttc::Outgoing;
use shared::config::{Size, Span};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::intake::Senders;

const SOON: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, PartialEq)]
enum Retain {
    Yes,
    No,
}

struct Broker {
    process: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Broker {
    fn start(more: &str) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {}/\n{more}\n",
            dir.path().display()
        );
        std::fs::write(dir.path().join("mosquitto.conf"), text).expect("write");
        let broker = Self { process: spawn(dir.path()), port, dir };
        let began = std::time::Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < SOON, "Mosquitto listens on {port}");
            std::thread::sleep(Duration::from_millis(5));
        }
        broker
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    fn restart(&mut self) {
        self.kill();
        self.process = spawn(self.dir.path());
    }

    /// Publishes at QoS 1 (or 0) and waits until the broker has everything.
    async fn publish(&self, qos: QoS, payloads: impl IntoIterator<Item = String>) {
        self.publish_as(qos, "telemetry/press-3", Retain::No, payloads).await;
    }

    async fn publish_as(&self, qos: QoS, topic: &str, retain: Retain, payloads: impl IntoIterator<Item = String>) {
        let payloads: Vec<String> = payloads.into_iter().collect();
        let mut options = MqttOptions::new(format!("device-{}", payloads[0]), "127.0.0.1", self.port);
        options.set_inflight(1_000).set_max_packet_size(1 << 23, 1 << 23);
        let (client, mut events) = AsyncClient::new(options, payloads.len() + 8);
        for payload in &payloads {
            client.try_publish(topic, qos, retain == Retain::Yes, payload.as_str()).expect("room");
        }
        client.try_disconnect().expect("room");
        let mut left = if qos == QoS::AtLeastOnce { payloads.len() } else { 0 };
        let mut gone = false;
        timeout(SOON, async {
            while 0 < left || !gone {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::PubAck(_))) => left -= 1,
                    Ok(Event::Outgoing(Outgoing::Disconnect)) => gone = true,
                    Ok(_) => {}
                    // The broker answers what came before the DISCONNECT, or closes at once.
                    Err(_) => break,
                }
            }
        })
        .await
        .expect("published");
    }
}

fn spawn(dir: &Path) -> Child {
    Command::new("mosquitto")
        .arg("-c")
        .arg(dir.join("mosquitto.conf"))
        .env("PATH", "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("these tests need Mosquitto: apt-get install mosquitto")
}

struct Agent {
    senders: Senders,
    messages: mpsc::Receiver<RawMessage>,
    metrics: Metrics,
    stop: CancellationToken,
    ran: JoinHandle<Result<(), BrokerError>>,
}

fn agent(broker: &Broker, capacity: usize, unacked_max: u16) -> Agent {
    let config = Config {
        enabled: true,
        host: "127.0.0.1".into(),
        port: broker.port,
        client_id: None,
        user: None,
        password: None,
        password_file: None,
        topics: vec!["telemetry/#".into()],
        tls: false,
        ca_file: None,
        keep_alive: Span::new(Duration::from_secs(30)),
        max_packet: Size::new(1 << 20),
        unacked_max,
        backoff_min: Span::new(Duration::from_millis(20)),
        backoff_max: Span::new(Duration::from_millis(200)),
        stable: Span::new(Duration::from_secs(1)),
    };
    let (tx, messages) = mpsc::channel(capacity);
    let (senders, asks) = Senders::channel();
    let (stop, metrics) = (CancellationToken::new(), Metrics::default());
    let (token, books) = (stop.clone(), metrics.clone());
    let ran = tokio::spawn(async move {
        let beside = (asks, Arc::new(|topic: &str| topic.starts_with("telemetry/learn")) as Learns);
        run_broker(config, &GatewayId::new("gw-01"), Clock::Real, tx, beside, token, books).await
    });
    Agent { messages, senders, metrics, stop, ran }
}

impl Agent {
    async fn message(&mut self) -> (String, Ack) {
        let message = timeout(SOON, self.messages.recv()).await.expect("a message comes").expect("the client lives");
        assert_eq!(message.topic, "telemetry/press-3");
        (String::from_utf8(message.payload.to_vec()).expect("text"), message.ack)
    }

    async fn connected(&self, times: u64) {
        self.until("it connects", |metrics| times <= metrics.of("broker").connected()).await;
    }

    /// Looks again and again until the metrics fit.
    async fn until(&self, what: &str, fits: impl Fn(&Metrics) -> bool) {
        timeout(SOON, async {
            while !fits(&self.metrics) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect(what);
    }

    /// Waits until what is published arrives: the subscription has no other witness. What was published before it
    /// stands never comes, so it is tried again until something does, and then until the last try has come.
    async fn subscribed(&mut self, broker: &Broker) {
        timeout(SOON, async {
            for n in 0.. {
                let probe = format!("probe {n}");
                broker.publish(QoS::AtLeastOnce, [probe.clone()]).await;
                while let Ok(message) = timeout(Duration::from_millis(200), self.messages.recv()).await {
                    let message = message.expect("the client lives");
                    message.ack.done();
                    if message.payload == probe.as_bytes() {
                        return;
                    }
                }
            }
        })
        .await
        .expect("what is published arrives");
    }

    async fn end(self) {
        self.stop.cancel();
        timeout(SOON, self.ran).await.expect("it ends").expect("no panic").expect("no error");
    }

    /// As `kill -9` would: nothing is said, nothing is acknowledged.
    async fn die(self) {
        self.ran.abort();
        let _ = self.ran.await;
    }
}

#[tokio::test]
async fn what_was_not_committed_comes_again_and_what_was_does_not() {
    // The third message is sent when the broker has the acknowledgement of the first.
    let broker = Broker::start("max_inflight_messages 2");
    let mut agent1 = agent(&broker, 16, 100);
    agent1.subscribed(&broker).await;
    broker.publish(QoS::AtLeastOnce, ["1".into(), "2".into(), "3".into()]).await;
    let (first, ack) = agent1.message().await;
    assert_eq!(first, "1");
    ack.done();
    let (_second, _unacknowledged) = agent1.message().await;
    let (third, _unacknowledged_too) = agent1.message().await;
    assert_eq!(third, "3");
    agent1.die().await;

    broker.publish(QoS::AtLeastOnce, ["4".into()]).await; // while the agent is away
    let mut agent2 = agent(&broker, 16, 100);
    for wanted in ["2", "3", "4"] {
        let (got, ack) = agent2.message().await;
        assert_eq!(got, wanted);
        ack.done();
    }
    agent2.end().await;

    let mut agent3 = agent(&broker, 16, 100);
    agent3.connected(1).await;
    broker.publish(QoS::AtLeastOnce, ["5".into()]).await;
    let (got, ack) = agent3.message().await;
    assert_eq!(got, "5", "everything before it was acknowledged, by the stop at the latest");
    ack.done();
    agent3.end().await;
}

#[tokio::test]
async fn a_broker_that_went_away_is_found_again_and_subscribed_to_again() {
    let mut broker = Broker::start("");
    let mut agent = agent(&broker, 16, 100);
    agent.subscribed(&broker).await;
    broker.publish(QoS::AtLeastOnce, ["1".into()]).await;
    let (_, ack) = agent.message().await;
    // Killed without a snapshot: the broker has forgotten session and subscription.
    broker.restart();
    ack.done();
    agent.connected(2).await;
    agent.subscribed(&broker).await;
    agent.end().await;
}

#[tokio::test]
async fn more_than_may_wait_stays_with_the_broker_and_comes_later() {
    let broker = Broker::start("max_inflight_messages 0\nmax_queued_messages 0");
    let mut agent = agent(&broker, 2, 10);
    agent.subscribed(&broker).await;
    broker.publish(QoS::AtLeastOnce, (1..=100).map(|n| n.to_string())).await;
    // Nothing is committed for a while, and the bound of ten is met.
    agent.connected(2).await;
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 100 {
        let (text, ack) = agent.message().await;
        seen.insert(text);
        ack.done();
    }
    agent.end().await;
}

#[tokio::test]
async fn a_message_that_is_too_large_is_told_and_acknowledged_and_what_is_behind_it_comes() {
    let broker = Broker::start("");
    let mut agent = agent(&broker, 16, 100);
    agent.subscribed(&broker).await;
    for (qos, size) in [(QoS::AtLeastOnce, 3_000_000), (QoS::AtMostOnce, 1 << 20)] {
        broker.publish(qos, ["before".into(), "x".repeat(size), "behind".into()]).await;
        let (before, ack) = agent.message().await;
        assert_eq!(before, "before");
        ack.done();
        let message = timeout(SOON, agent.messages.recv()).await.expect("a message comes").expect("the client lives");
        let length = message.payload.len();
        let cut = message.cut.unwrap_or_else(|| panic!("{qos:?}: {length} bytes were not cut"));
        assert_eq!((cut.bytes, length), (size as u64, 32 * 1024));
        assert_eq!(cut.sha256, shared::envelope::sha256_hex("x".repeat(size).as_bytes()));
        message.ack.done();
        let (behind, ack) = agent.message().await;
        assert_eq!(behind, "behind");
        ack.done();
    }
    assert_eq!(agent.metrics.of("broker").connected(), 1, "it is one and the same connection");
    agent.end().await;
}

#[tokio::test]
async fn the_link_is_told_with_what_keeps_it_from_coming_about() {
    let mut broker = Broker::start("");
    let agent = agent(&broker, 16, 100);
    let mut link = agent.metrics.broker();
    let up = |link: &Option<Link>| link.as_ref().is_some_and(|link| link.connected && link.last_error.is_none());
    timeout(SOON, link.wait_for(up)).await.expect("it connects").expect("the client lives");
    broker.kill();
    let refused = |link: &Option<Link>| {
        let error = link.as_ref().and_then(|link| link.last_error.clone());
        error.is_some_and(|error| error.contains("refused"))
    };
    timeout(SOON, link.wait_for(refused)).await.expect("it says why not").expect("the client lives");
    agent.end().await;
}

#[tokio::test]
async fn qos_0_above_the_capacity_is_dropped_and_counted() {
    let broker = Broker::start("");
    let mut agent = agent(&broker, 3, 10);
    agent.subscribed(&broker).await;
    broker.publish(QoS::AtMostOnce, (1..=10).map(|n| n.to_string())).await;
    agent.until("seven are dropped", |metrics| 7 <= metrics.of("broker").dropped.get()).await;
    for wanted in ["1", "2", "3"] {
        assert_eq!(agent.message().await.0, wanted);
    }
    agent.end().await;
}

#[tokio::test]
async fn a_retained_value_is_stored_once_and_not_again_at_every_connection() {
    let broker = Broker::start("");
    let retained = |n: i32| broker.publish_as(QoS::AtLeastOnce, "telemetry/press-3", Retain::Yes, [n.to_string()]);
    retained(1).await;
    let mut agent1 = agent(&broker, 16, 100);
    let (first, ack) = agent1.message().await;
    assert_eq!(first, "1", "a new session stores what is retained");
    ack.done();
    retained(2).await;
    let (second, ack) = agent1.message().await;
    assert_eq!(second, "2", "published while we listen: a reading like any other");
    ack.done();
    agent1.end().await;

    // While the agent is away: kept by the session, and retained.
    retained(3).await;
    for _ in 0..2 {
        let mut agent2 = agent(&broker, 16, 100);
        agent2.until("the repeat is counted", |metrics| metrics.of("broker").retained.get() == 1).await;
        agent2.subscribed(&broker).await;
        agent2.end().await;
    }
}

#[tokio::test]
async fn of_what_is_retained_and_came_by_the_session_only_the_session_s_is_stored() {
    let broker = Broker::start("");
    let mut agent1 = agent(&broker, 16, 100);
    agent1.subscribed(&broker).await;
    agent1.end().await;
    broker.publish_as(QoS::AtLeastOnce, "telemetry/press-3", Retain::Yes, ["3".into()]).await;
    let mut agent2 = agent(&broker, 16, 100);
    let (got, ack) = agent2.message().await;
    assert_eq!(got, "3");
    ack.done();
    agent2.until("the repeat is counted", |metrics| metrics.of("broker").retained.get() == 1).await;
    assert!(agent2.messages.try_recv().is_err(), "and stored once");
    agent2.end().await;
}

#[tokio::test]
async fn a_retained_value_whose_first_delivery_was_cut_short_is_not_lost() {
    let broker = Broker::start("");
    broker.publish_as(QoS::AtLeastOnce, "telemetry/press-3", Retain::Yes, ["1".into()]).await;
    let mut agent1 = agent(&broker, 16, 100);
    let (_, _unacknowledged) = agent1.message().await;
    agent1.die().await;
    let mut agent2 = agent(&broker, 16, 100);
    let (again, ack) = agent2.message().await;
    assert_eq!(again, "1", "delivered again");
    ack.done();
    agent2.end().await;
}

#[tokio::test]
async fn what_a_convention_learns_from_is_passed_on_at_every_connection_and_marked() {
    let broker = Broker::start("");
    let retain = |unit: &str| broker.publish_as(QoS::AtLeastOnce, "telemetry/learn", Retain::Yes, [unit.to_owned()]);
    retain("Cel").await;
    for again in [false, true, true] {
        let mut agent = agent(&broker, 16, 100);
        let message = timeout(SOON, agent.messages.recv()).await.expect("it comes").expect("the client lives");
        assert_eq!((message.topic.as_str(), message.again), ("telemetry/learn", again));
        message.ack.done();
        agent.end().await;
    }
    // Published while we listen: nothing of what was here before.
    let mut agent1 = agent(&broker, 16, 100);
    agent1.subscribed(&broker).await;
    retain("[degF]").await;
    let message = loop {
        let message = timeout(SOON, agent1.messages.recv()).await.expect("it comes").expect("the client lives");
        if message.payload == "[degF]" {
            break message;
        }
        message.ack.done();
    };
    assert!(!message.again, "{message:?}");
    message.ack.done();
    agent1.end().await;
}

#[tokio::test]
async fn what_a_sender_is_asked_for_is_published_and_more_than_there_is_room_for_is_not_taken() {
    let broker = Broker::start("");
    let agent = agent(&broker, 16, 100);
    let options = MqttOptions::new("sender", "127.0.0.1", broker.port);
    let (client, mut events) = AsyncClient::new(options, 8);
    client.try_subscribe("ask/#", QoS::AtLeastOnce).expect("room");
    let ask = |n: usize| Ask { topic: format!("ask/{n}"), payload: vec![7] };
    let mut heard = Vec::new();
    timeout(SOON, async {
        while heard.len() < 40 {
            match events.poll().await.expect("the broker lives") {
                Event::Incoming(Packet::SubAck(_)) => {
                    for n in 0..40 {
                        while !agent.senders.ask(ask(n)) {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                    }
                }
                Event::Incoming(Packet::Publish(publish)) => heard.push(publish.topic),
                _ => {}
            }
        }
    })
    .await
    .expect("every ask is heard");
    assert_eq!(heard, (0..40).map(|n| format!("ask/{n}")).collect::<Vec<_>>(), "in their order");
    agent.end().await;

    let (senders, _asks) = Senders::channel();
    let taken = (0..100).filter(|n| senders.ask(ask(*n))).count();
    assert_eq!(taken, crate::intake::ASKS_CAPACITY);
    assert!(!Senders::default().ask(ask(0)), "without a broker there is no way back");
}
