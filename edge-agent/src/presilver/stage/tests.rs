//! What waits for the disk, and who is told.

use std::time::Duration;

use shared::config::{Layers, Size};
use shared::telemetry::Registry;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::config::ClockTrust;
use super::*;
use crate::outbox::{self, Acked, RowId};

const SOON: Duration = Duration::from_secs(60);
/// More than an outbox of a mebibyte holds, and a commit's worth besides.
const MESSAGES: usize = 12_000;

struct Stand {
    outbox: Outbox,
    metrics: Metrics,
    stage: JoinHandle<Result<(), OutboxError>>,
    /// Sends all messages; its acknowledgements are for them in their order.
    sender: JoinHandle<Vec<oneshot::Receiver<()>>>,
    _dir: tempfile::TempDir,
}

fn judge() -> Judge {
    let layers = Layers { default: crate::config::DEFAULT, env_prefix: "EDGE" };
    let text = "hub.connection-string = \"HostName=h;DeviceId=d;SharedAccessKey=YQ==\"";
    let config: crate::Config = shared::config::load_from(&layers, Some(("edge.toml", text)), &[]).expect("no mistake");
    Judge::new(&config.presilver)
}

fn message(number: usize) -> (RawMessage, oneshot::Receiver<()>) {
    let (ack, done) = Ack::channel();
    let payload = format!("{{\"n\":{number},\"text\":\"{}\"}}", "x".repeat(400));
    let received = Clock::Real.now();
    let (topic, payload) = ("telemetry/d".into(), payload.into());
    (RawMessage { topic, payload, cut: None, received, again: false, ack }, done)
}

fn stand() -> Stand {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("outbox.db");
    let config = outbox::Config { path, bytes_max: Size::new(1 << 20), quarantine_days: 7 };
    let metrics = outbox::Metrics::register(&mut Registry::default());
    let (outbox, _) = Outbox::open(&config, "rules", metrics).expect("opens");
    let (tx, messages) = mpsc::channel(crate::intake::CAPACITY);
    let (metrics, gateway) = (Metrics::default(), Gateway::new(ClockTrust::Trusted));
    let way = (outbox.clone(), crate::intake::Senders::default());
    let stage =
        tokio::spawn(run((judge(), watch::channel(None).1), gateway, Clock::Real, messages, way, metrics.clone()));
    let sender = tokio::spawn(async move {
        let mut acks = Vec::new();
        for number in 0..MESSAGES {
            let (message, done) = message(number);
            acks.push(done);
            if tx.send(message).await.is_err() {
                break;
            }
        }
        acks
    });
    Stand { outbox, metrics, stage, sender, _dir: dir }
}

impl Stand {
    /// Judged and not stored.
    fn waiting(&self) -> u64 {
        let stored = self.outbox.view().books.stored;
        self.metrics.counts().received.saturating_sub(stored)
    }

    /// Returns once the outbox is full and appends wait: as many as may, of a row or more each, but for the oldest, of
    /// which some may be stored.
    async fn until_full(&self) {
        let full = async {
            while self.outbox.view().full.is_none() || self.waiting() < (APPENDS_MAX - 1) as u64 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, full).await.expect("messages are judged while the disk is waited for");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_disk_is_waited_for_a_commits_worth_is_judged_and_no_more() {
    let stand = stand();
    stand.until_full().await;
    let waiting = stand.waiting();
    assert!(waiting <= (ROWS_MAX + MESSAGES_MAX) as u64, "{waiting} wait");
    let Stand { outbox, stage, sender, .. } = &stand;
    let relief = async {
        while !sender.is_finished() || !stage.is_finished() {
            let rows = outbox.pending(RowId(0), 1_000, usize::MAX).await.expect("readable");
            let rows = rows.into_iter().map(|row| row.id).collect();
            outbox.done(Acked { rows, ..Acked::default() }).await.expect("marked");
        }
    };
    timeout(SOON, relief).await.expect("all are stored as rows leave");
    stand.stage.await.expect("no panic").expect("the outbox lives");
    for (number, mut done) in stand.sender.await.expect("no panic").into_iter().enumerate() {
        assert_eq!(done.try_recv(), Ok(()), "message {number}");
    }
    assert_eq!(stand.outbox.view().books.stored, MESSAGES as u64, "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_waits_when_the_outbox_is_sealed_nothing_is_acknowledged() {
    let stand = stand();
    stand.until_full().await;
    stand.outbox.seal().await.expect("sealed");
    timeout(SOON, stand.stage).await.expect("it ends").expect("no panic").expect("that is no error");
    let acks = stand.sender.await.expect("no panic");
    let told = acks.into_iter().map(|mut done| done.try_recv().is_ok()).collect::<Vec<_>>();
    let acknowledged = told.iter().filter(|told| **told).count() as u64;
    assert!(acknowledged <= stand.outbox.view().books.stored, "{acknowledged} acknowledged");
    assert!(told.iter().is_sorted_by(|earlier, later| later <= earlier), "only the first ones");
    assert!(0 < acknowledged && !told[told.len() - 1]);
}
