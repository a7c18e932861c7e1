//! The uplink with a real outbox, against a small hub that acknowledges, stays silent, hangs up or refuses as told.

mod hearing;
mod hub;
mod ways;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use shared::clock::Clock;
use shared::config::Size;
use shared::reading::{DeviceId, MetricName, Reading, Seq, TimeQuality, Value};
use shared::sas;
use shared::telemetry::LevelSwitch;
use shared::time::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::hub::{Hub, Mode};
use super::*;
use crate::line::Choice;
use crate::outbox::store::Selection;
use crate::outbox::{BootTime, HeldItem, NewRow, Outbox};
use crate::presilver::config::ClockTrust;
use crate::presilver::gateway::Gateway;
use crate::remote::kept::{Good, Keeper};
use crate::remote::{self, Agent, Remote};

const KEY: &str = "c2VjcmV0IGtleSBvZiBhIGdhdGV3YXk=";
const HUB: &str = "plant.azure-devices.net";

fn config() -> Config {
    let span = |ms| Span::new(Duration::from_millis(ms));
    Config {
        window: 8,
        linger: span(20),
        units: 1,
        units_behind: 2,
        compression: Compression::Zstd,
        keep_alive: span(30_000),
        connect_timeout: span(5_000),
        puback_timeout: span(20_000),
        token_life: span(3_600_000),
        token_margin: span(300_000),
        backoff_min: span(10),
        backoff_max: span(100),
        stable: span(1_000),
        drain: span(5_000),
    }
}

fn open(dir: &std::path::Path) -> Outbox {
    let config =
        crate::outbox::Config { path: dir.join("outbox.db"), bytes_max: Size::new(1 << 28), quarantine_days: 1 };
    let metrics = crate::outbox::Metrics::register(&mut prometheus_client::registry::Registry::default());
    Outbox::open(&config, "d1", metrics).expect("opens").0
}

struct Stand {
    hub: Hub,
    outbox: Outbox,
    metrics: Metrics,
    remote: remote::Metrics,
    /// What was logged at, as it changed.
    levels: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
    ran: JoinHandle<Result<Ended, UplinkError>>,
    _dir: tempfile::TempDir,
}

async fn stand(mode: Mode, config: Config) -> Stand {
    stand_before(Hub::start(mode).await, config).await
}

async fn stand_before(hub: Hub, config: Config) -> Stand {
    // 443 is not what these are about.
    stand_by(Network { choice: Choice::Mqtt, proxy: None }, hub, config).await
}

async fn stand_by(network: Network, hub: Hub, config: Config) -> Stand {
    stand_at((hub.port, hub.port), network, hub, config).await
}

async fn stand_at(ports: (u16, u16), network: Network, hub: Hub, config: Config) -> Stand {
    stand_of(target(ports, network), hub, config).await
}

/// The hub at these ports, for MQTT and for WebSocket.
fn target((port, websocket_port): (u16, u16), network: Network) -> HubTarget {
    HubTarget {
        hub: HUB.into(),
        gateway: GatewayId::new("gw-01"),
        identity: Identity::Key(sas::Key::device(KEY).expect("base64")),
        host: "127.0.0.1".into(),
        port,
        websocket_port,
        network,
        ca_file: None,
        tls: false,
        ask_again_at: None,
    }
}

async fn stand_of(target: HubTarget, hub: Hub, config: Config) -> Stand {
    let dir = tempfile::tempdir().expect("temp dir");
    let outbox = open(dir.path());
    let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
    let stop = CancellationToken::new();
    let levels: Arc<Mutex<Vec<String>>> = Arc::default();
    let switch = {
        let levels = levels.clone();
        LevelSwitch::new(move |level| {
            levels.lock().expect("no panic").push(level.to_owned());
            Ok(())
        })
    };
    let heard = remote::Metrics::register(&mut prometheus_client::registry::Registry::default());
    let mut remote = Remote::new(
        &remote::Config { enabled: true },
        Agent {
            epoch: outbox.epoch(),
            good: Good::default(),
            rules: watch::Sender::new(None),
            devices: ["hall".to_owned()].into(),
            intervals: watch::Sender::default(),
            digest: Arc::new(|_| "d1".to_owned()),
            keeper: Keeper::new(&dir.path().join("outbox.db")),
        },
        Gateway::new(ClockTrust::Trusted),
        Clock::Real,
        ("info", switch),
        Arc::new(|| json!({ "running": true })),
        heard.clone(),
    );
    let ran = {
        let (outbox, stop, metrics) = (outbox.clone(), stop.clone(), metrics.clone());
        tokio::spawn(async move { run(config, target, outbox, Clock::Real, stop, metrics, &mut remote).await })
    };
    Stand { hub, outbox, metrics, remote: heard, levels, stop, ran, _dir: dir }
}

impl Stand {
    async fn store(&self, numbers: std::ops::RangeInclusive<i64>) {
        let rows = numbers.map(|n| NewRow {
            item: HeldItem::Reading(Reading {
                device: DeviceId::new("press-3"),
                metric: MetricName::new("temperature"),
                value: Value::Number(n as f64),
                unit: None,
                event_time: Timestamp::from_micros(1_790_000_000_000_000 + n),
                received_time: Timestamp::from_micros(1_790_000_000_000_000 + n),
                time_quality: TimeQuality::Device,
                source_seq: Some(n),
            }),
            key: None,
            boot_time: BootTime::default(),
        });
        self.outbox.append(rows.collect()).await.expect("stored");
    }

    /// Waits until `is` holds; fails with what can be seen after 20 s.
    async fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        for _ in 0..2_000 {
            if is(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let status = self.metrics.status().borrow().clone();
        panic!(
            "{what}: {status:?} {:?} faults {:?}",
            self.outbox.view().books,
            self.hub.look(|seen| seen.faults.clone())
        );
    }

    fn held(&self) -> u64 {
        self.outbox.view().books.held
    }

    async fn end(self) -> Hub {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(20), self.ran)
            .await
            .expect("it ends")
            .expect("no panic")
            .expect("no error");
        assert_eq!(self.hub.look(|seen| seen.faults.clone()), Vec::<String>::new());
        self.hub
    }
}

#[tokio::test]
async fn rows_are_done_when_the_hub_has_acknowledged_them() {
    let stand = stand(Mode::Acknowledge, config()).await;
    stand.store(1..=500).await;
    stand.until("all acknowledged", |stand| stand.held() == 0).await;
    stand.store(501..=510).await;
    stand.until("all acknowledged", |stand| stand.held() == 0).await;
    assert_eq!(stand.metrics.status().borrow().link, "live");
    let epoch = stand.outbox.epoch();
    let hub = stand.end().await;
    assert_eq!(hub.seqs(), (1..=510).collect::<Vec<_>>());
    for envelope in hub.envelopes() {
        assert_eq!((envelope.gw.as_str(), envelope.epoch), ("gw-01", epoch));
        let (_, last) = envelope.seqs().expect("rows");
        assert!(last <= envelope.high);
    }
    assert_eq!(hub.look(|seen| seen.connections), 1);
    hub.said_goodbye(1).await;
}

#[tokio::test]
async fn without_an_acknowledgement_rows_stay_held_and_go_again_byte_for_byte() {
    let stand = stand(Mode::Silent, config()).await;
    stand.store(1..=300).await;
    stand.until("something was sent", |stand| !stand.hub.look(|seen| seen.publishes.is_empty())).await;
    stand.hub.mode.send_replace(Mode::Away);
    stand.until("the loss is noticed", |stand| stand.metrics.status().borrow().last_error.is_some()).await;
    assert_eq!(stand.held(), 300);
    stand.hub.mode.send_replace(Mode::Acknowledge);
    stand.until("all acknowledged", |stand| stand.held() == 0).await;
    let hub = stand.end().await;
    assert_eq!(hub.seqs(), (1..=300).collect::<Vec<_>>());
    hub.look(|seen| {
        let of = |wanted: usize| seen.publishes.iter().filter(move |(connection, _)| *connection == wanted);
        let (_, first) = of(1).next().expect("sent once");
        let (_, again) = seen.publishes.iter().find(|(connection, _)| *connection != 1).expect("sent again");
        assert_eq!((&first.topic, &first.payload), (&again.topic, &again.payload));
    });
}

#[tokio::test]
async fn a_hub_that_swallows_everything_is_noticed_and_left() {
    let mut config = config();
    config.puback_timeout = Span::new(Duration::from_secs(1));
    let stand = stand(Mode::Silent, config).await;
    stand.store(1..=3).await;
    stand.until("a second connection", |stand| stand.hub.look(|seen| 2 <= seen.connections)).await;
    stand.hub.mode.send_replace(Mode::Acknowledge);
    stand.until("all acknowledged", |stand| stand.held() == 0).await;
    stand.end().await;
}

#[tokio::test]
async fn a_refused_key_is_named_and_tried_again() {
    let stand = stand(Mode::Refuse, config()).await;
    stand.store(1..=3).await;
    let named = |stand: &Stand| {
        stand
            .metrics
            .status()
            .borrow()
            .last_error
            .as_ref()
            .is_some_and(|text| text.contains("refuses this device's key"))
    };
    stand.until("the refusal is named", named).await;
    stand.until("it is tried again", |stand| stand.hub.look(|seen| 3 <= seen.connections)).await;
    stand.hub.mode.send_replace(Mode::Acknowledge);
    stand.until("all acknowledged", |stand| stand.held() == 0).await;
    assert_eq!(stand.metrics.status().borrow().last_error, None);
    stand.end().await;
}

#[tokio::test]
async fn a_hub_that_is_away_at_the_start_changes_nothing_but_the_time() {
    let stand = stand(Mode::Away, config()).await;
    stand.store(1..=2_000).await;
    stand.until("it was tried", |stand| stand.hub.look(|seen| 3 <= seen.connections)).await;
    stand.hub.mode.send_replace(Mode::Acknowledge);
    stand.until("all acknowledged", |stand| stand.held() == 0).await;
    let hub = stand.end().await;
    assert!(
        hub.seqs() == (1..=2_000).collect::<Vec<_>>(),
        "{:?} {}",
        hub.look(|s| (s.connections, s.publishes.len())),
        hub.seqs().len()
    );
}

#[tokio::test]
async fn on_stop_what_is_held_is_sent_and_the_epoch_closed() {
    let stand = stand(Mode::Acknowledge, Config { linger: Span::new(Duration::from_secs(60)), ..config() }).await;
    stand.until("connected", |stand| stand.metrics.status().borrow().link == "live").await;
    stand.store(1..=7).await;
    stand.outbox.seal().await.expect("sealed");
    let outbox = stand.outbox.clone();
    let hub = stand.end().await;
    assert_eq!(hub.seqs(), (1..=7).collect::<Vec<_>>());
    let closed: Vec<_> = hub.envelopes().into_iter().flat_map(|envelope| envelope.closed).collect();
    assert_eq!(closed.len(), 1);
    assert_eq!((closed[0].epoch, closed[0].last), (outbox.epoch(), Some(Seq(7))));
    let books = outbox.view().books;
    assert_eq!((books.held, books.closings_held), (0, 0));
    hub.said_goodbye(1).await;
}

#[tokio::test]
async fn on_stop_without_a_hub_nothing_waits_and_everything_stays_held() {
    let stand = stand(Mode::Away, config()).await;
    stand.store(1..=7).await;
    stand.outbox.seal().await.expect("sealed");
    let outbox = stand.outbox.clone();
    stand.end().await;
    assert_eq!(outbox.view().books.held, 7);
}

#[tokio::test]
async fn a_token_is_renewed_by_a_new_connection_without_sending_anything_twice() {
    let mut config = config();
    config.token_life = Span::new(Duration::from_millis(5_000));
    config.token_margin = Span::new(Duration::from_millis(4_300));
    let stand = stand(Mode::Acknowledge, config).await;
    let mut n = 0;
    while stand.hub.look(|seen| seen.connections) < 3 {
        n += 1;
        stand.store(n..=n).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stand.until("all acknowledged", |stand| stand.held() == 0).await;
    let hub = stand.end().await;
    assert_eq!(hub.seqs(), (1..=n).collect::<Vec<_>>());
    let rows: usize = hub.envelopes().iter().map(|envelope| envelope.readings.len()).sum();
    assert_eq!(rows as i64, n, "nothing went twice");
    hub.said_goodbye(2).await;
}

#[tokio::test]
async fn rows_marked_for_sending_again_are_found_though_they_lie_before_the_last_one_sent() {
    let stand = stand(Mode::Acknowledge, config()).await;
    stand.store(1..=20).await;
    stand.until("all acknowledged", |stand| stand.held() == 0).await;
    let resent = stand.outbox.resend(Selection::default()).await.expect("marked");
    assert_eq!(resent, 20);
    stand.until("all acknowledged again", |stand| stand.held() == 0).await;
    let hub = stand.end().await;
    let rows: usize = hub.envelopes().iter().map(|envelope| envelope.readings.len()).sum();
    assert_eq!(rows, 40);
}
