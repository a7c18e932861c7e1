//! What a tier's limits do to a connection.

use tokio::time::Instant;

use super::*;
use crate::hub::limits::{Config as Tier, Profile};

pub(super) fn none() -> Tier {
    Config::load(None).expect("the default").hub.limits
}

fn s1(burst_ms: u64, backlog_ms: u64) -> Tier {
    let span = |millis| Span::new(Duration::from_millis(millis));
    Tier { profile: Profile::S1, burst: span(burst_ms), backlog: span(backlog_ms), patience: span(600), ..none() }
}

/// Publishes so many at once and gives how many were acknowledged before the connection ended or all were.
async fn publish_at_once(stand: &Stand, count: usize) -> (usize, bool, Duration) {
    let (client, mut device) = stand.good("d-1");
    connected(&mut device).await.expect("admitted");
    let sender = tokio::spawn(async move {
        for _ in 0..count {
            client.publish(events("d-1"), QoS::AtLeastOnce, false, "x").await.expect("queued");
        }
        client
    });
    let before = Instant::now();
    let mut acknowledged = 0;
    let mut ended = false;
    while acknowledged < count && !ended {
        match timeout(PATIENCE, device.poll()).await.expect("in time") {
            Ok(Event::Incoming(Packet::PubAck(_))) => acknowledged += 1,
            Ok(_) => {}
            Err(_) => ended = true,
        }
    }
    drop(device);
    sender.abort();
    (acknowledged, ended, before.elapsed())
}

#[tokio::test]
async fn above_the_rate_pubacks_come_late() {
    // 100 a second, 20 of them at once.
    let stand = Stand::open_with(limits(), s1(200, 10_000)).await;
    let (acknowledged, ended, took) = publish_at_once(&stand, 60).await;
    assert_eq!((acknowledged, ended), (60, false));
    assert!(Duration::from_millis(300) < took, "{took:?}");
    assert_eq!(stand.stored("d-1").await.len(), 60);
    stand.close().await;
}

#[tokio::test]
async fn whoever_may_not_connect_any_more_when_its_turn_comes_is_refused() {
    for change in [Gone::Disabled, Gone::Deleted, Gone::Another] {
        // 100 a second, none at once: a second's worth are before it.
        let stand = Stand::open_with(limits(), s1(0, 60_000)).await;
        let desk = &stand.door.desk;
        desk.heed().await.expect("a disk");
        for _ in 0..100 {
            desk.limits.lock().connect(desk.clock.now());
        }
        let mut waiting = stand.raw().await;
        waiting.write_all(&stand.connect("d-1", 60)).await.expect("written");
        // A stranger is refused without a wait; by then the other has been let in, and waits.
        let (_, mut stranger) = stand.device("d-1", "no token".to_owned());
        connected(&mut stranger).await.expect_err("refused");
        change.edit(&stand).await;
        let mut answer = [0; 4];
        timeout(PATIENCE, waiting.read_exact(&mut answer)).await.expect("in time").expect("an answer");
        assert_eq!(answer, [0x20, 2, 0, 5], "{change:?}");
        assert_eq!(desk.seats.devices(), Vec::<String>::new(), "{change:?}");
        stand.close().await;
    }
}

#[derive(Debug, Clone, Copy)]
enum Gone {
    Disabled,
    Deleted,
    Another,
}

impl Gone {
    async fn edit(self, stand: &Stand) {
        use crate::hub::devices::{Change, Draft, Edit, IfMatch};
        let edit = |change| Edit { device: "d-1".to_owned(), module: None, change };
        let disabled = Draft { enabled: Some(false), ..Draft::default() };
        let edits = match self {
            Gone::Disabled => vec![edit(Change::Update(disabled, IfMatch::Any))],
            Gone::Deleted => vec![edit(Change::Delete(IfMatch::Any))],
            Gone::Another => vec![edit(Change::Delete(IfMatch::Any)), edit(Change::Create(Draft::default()))],
        };
        let done = stand.door.desk.registry.edit(edits, Clock::Real.now()).expect("a disk");
        assert!(done.iter().all(Result::is_ok), "{done:?}");
        stand.door.desk.heed().await.expect("a disk");
    }
}

#[tokio::test]
async fn beyond_the_backlog_pubacks_stop_and_the_connection_ends() {
    let stand = Stand::open_with(MqttLimits { unacknowledged_max: 1_000, ..limits() }, s1(200, 200)).await;
    let (acknowledged, ended, _) = publish_at_once(&stand, 100).await;
    assert!(ended && (30..90).contains(&acknowledged), "{acknowledged}");
    let stored: Vec<_> = stand.stored("d-1").await.iter().map(|event| event.sequence_number).collect();
    assert_eq!(stored.len(), acknowledged, "what is refused is not stored: {stored:?}");
    assert_eq!(stand.count("closed", "throttled"), 1);
    assert!(1 <= stand.count("dropped", "limits"));
    stand.close().await;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    Disconnect,
    Stop,
    Takeover,
    Vanishing,
}

#[tokio::test]
async fn what_a_throttle_has_queued_is_stored_in_order_at_an_orderly_end_and_counted_at_any_other() {
    const COUNT: u8 = 200;
    let count = u64::from(COUNT);
    for ends in [Ends::Disconnect, Ends::Stop, Ends::Takeover, Ends::Vanishing] {
        // 100 a second, none at once: two seconds' worth.
        let stand = Stand::open_with(MqttLimits { unacknowledged_max: 1_000, ..limits() }, s1(0, 60_000)).await;
        let (mut socket, mut other) = (stand.raw().await, stand.raw().await);
        let mut sent = stand.connect("d-1", 60);
        for id in 1..=COUNT {
            sent.extend(packet(0x32, [&text(&events("d-1"))[..], &[0, id], &[id]].concat()));
        }
        socket.write_all(&sent).await.expect("written");
        eventually(|| stand.door.metrics.metered_units() == count).await;
        match ends {
            Ends::Disconnect => socket.write_all(&[0xe0, 0]).await.expect("written"),
            Ends::Stop => stand.door.stop.cancel(),
            Ends::Takeover => other.write_all(&stand.connect("d-1", 60)).await.expect("written"),
            Ends::Vanishing => socket.shutdown().await.expect("closed"),
        }
        let mut answers = vec![];
        let _ = timeout(PATIENCE, socket.read_to_end(&mut answers)).await.expect("the end");
        let dropped = || stand.count("dropped", "throttle-queue");
        eventually(|| stand.total("events_total") + dropped() == count).await;
        let taken = stand.total("events_total");
        let orderly = matches!(ends, Ends::Disconnect | Ends::Stop);
        assert_eq!(dropped() == 0, orderly, "{ends:?}: {} of {count} dropped", dropped());
        let mut bodies = vec![];
        while (bodies.len() as u64) < taken {
            bodies = stand.stored("d-1").await.iter().map(|event| event.body[0]).collect();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(bodies, (1..=COUNT).take(bodies.len()).collect::<Vec<_>>(), "{ends:?}");
        if ends == Ends::Stop {
            let acknowledged: Vec<u8> = answers[4..].chunks(4).map(|puback| puback[3]).collect();
            assert_eq!(acknowledged, bodies);
        }
        stand.close().await;
    }
}

async fn eventually(is: impl Fn() -> bool) {
    let waited = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waited).await.expect("in time");
}

#[tokio::test]
async fn above_the_daily_quota_nothing_is_acknowledged() {
    let stand = Stand::open_with(limits(), Tier { profile: Profile::Free, ..s1(60_000, 60_000) }).await;
    let now = stand.door.desk.clock.now();
    let _ = stand.door.desk.limits.lock().send(now, 7_999);
    let (acknowledged, ended, _) = publish_at_once(&stand, 3).await;
    assert_eq!((acknowledged, ended), (1, true));
    assert_eq!(stand.count("closed", "quota"), 1);
    stand.close().await;
}
