use std::sync::Mutex;
use std::time::Duration;

use azure_messaging_eventhubs::CheckpointStore;
use azure_messaging_eventhubs::models::{Checkpoint, Ownership};
use shared::backoff::Backoff;
use shared::clock::Clock;
use shared::http::Health;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::keeper;
use super::*;
use crate::bronze::cutter::tests::{event, stream as stream_of};
use crate::lake::LakeError;
use crate::source::claims::{Member, Timing};
use crate::source::eventhubs::Target;
use crate::source::flow;

/// A hub of one partition that says it holds `begin..=last`.
struct Hub {
    begin: Mutex<i64>,
    last: i64,
}

impl Asked for Hub {
    async fn describe(&self) -> Result<(String, i64, Vec<String>), String> {
        Ok(("h".to_owned(), 7, vec!["0".to_owned(), "1".to_owned()]))
    }

    async fn partition(&self, _: &str) -> Result<Partition, String> {
        let begin = *self.begin.lock().expect("no test panics here");
        Ok(Partition { begin, last_enqueued: self.last, is_empty: false })
    }
}

/// Holds no records.
struct Nobody;

#[async_trait::async_trait]
impl CheckpointStore for Nobody {
    async fn claim_ownership(&self, _: &[Ownership]) -> azure_core::Result<Vec<Ownership>> {
        Ok(vec![])
    }

    async fn list_checkpoints(&self, _: &str, _: &str, _: &str) -> azure_core::Result<Vec<Checkpoint>> {
        Ok(vec![])
    }

    async fn list_ownerships(&self, _: &str, _: &str, _: &str) -> azure_core::Result<Vec<Ownership>> {
        Ok(vec![])
    }

    async fn update_checkpoint(&self, _: Checkpoint) -> azure_core::Result<()> {
        Ok(())
    }
}

fn me() -> Member {
    Member { run: "run".to_owned(), place: "here".to_owned() }
}

fn life() -> Life {
    Life::new("h".into(), 7, vec!["0".to_owned(), "1".to_owned()]).expect("partitions are numbers")
}

/// A lake that answers after some failures, or refuses for good.
struct Bronze(Mutex<Vec<LakeError>>);

impl Progress for Bronze {
    async fn committed(&self, _: &Stream) -> Result<Option<i64>, LakeError> {
        self.0.lock().expect("no test panics here").pop().map_or(Ok(Some(9)), Err)
    }

    async fn last_incarnation(&self, _: &str) -> Result<Option<i64>, LakeError> {
        Ok(None)
    }
}

struct Kit {
    hub: Hub,
    reader: Reader,
    wiring: Wiring<Bronze>,
    taken: flow::Receiver<Arrival>,
}

impl Kit {
    /// Read up to 9; the hub holds `begin..=last`.
    fn new(begin: i64, last: i64) -> Self {
        let (downstream, taken) = flow::channel(1 << 20);
        let target = Target {
            connection_string: shared::config::Secret::new(String::new()),
            endpoint: None,
            consumer_group: String::new(),
            check_every: Duration::from_secs(1),
            bytes_ahead: 1 << 20,
        };
        let mut reader = Reader {
            target,
            positions: Positions::default(),
            read: BTreeMap::from([(stream_of(0), 1)]),
            stolen: 0,
            current: None,
            backoff: Backoff::new(Duration::from_millis(1), Duration::from_millis(1), 1),
            said: String::new(),
        };
        reader.positions.reach(&stream_of(0), 9);
        let wiring = Wiring {
            progress: Bronze(Mutex::default()),
            downstream,
            claimed: keeper::keeper(
                Arc::new(Nobody),
                me(),
                Timing::expiring_after(Duration::from_secs(30)),
                "g".to_owned(),
            )
            .1,
            told: mpsc::unbounded_channel().0,
            books: crate::source::Books::default(),
            ready: Health::new().condition("hub"),
            clock: Clock::Real,
            stop: CancellationToken::new(),
        };
        Self { hub: Hub { begin: Mutex::new(begin), last }, reader, wiring, taken }
    }

    /// An Event comes; what went downstream, or `again` where the connection ends to begin anew.
    async fn comes(&mut self, number: i64) -> String {
        let ended = hand_down(&self.wiring, &mut self.reader.positions, &self.hub, event(0, number)).await;
        self.told(ended)
    }

    async fn looks(&mut self, waiting: usize) -> String {
        let Reader { positions, read, .. } = &mut self.reader;
        let ended = check(&self.wiring, positions, &self.hub, &life(), read, waiting).await;
        self.told(ended)
    }

    async fn connects(&mut self) -> String {
        let begun = begin(&self.wiring, &mut self.reader.positions, &self.hub, &stream_of(0)).await;
        match begun {
            Ok(from) => format!("{}after {}", self.told(Ok(())), from.unwrap_or(-1)),
            Err(end) => self.told(Err(end)),
        }
    }

    fn told(&mut self, ended: Result<(), End>) -> String {
        let mut told = String::new();
        while let Some(arrival) = self.taken.try_recv() {
            let event = match arrival {
                Arrival::Event(event) => event,
                Arrival::Lost(stream) => {
                    told += &format!("lost {} ", stream.partition);
                    continue;
                }
            };
            let gap = event.properties.iter().any(|(name, _)| name == crate::source::HUB_RETENTION);
            let body = String::from_utf8_lossy(&event.body).into_owned();
            told += &if gap { format!("gap {body} ") } else { format!("{} ", event.sequence_number) };
        }
        told + match ended {
            Ok(()) => "",
            Err(End::Stop) => "stop",
            Err(End::WentBack | End::Skipped { .. } | End::Moved | End::Stolen(_)) => "again",
            Err(End::Failed(_)) => "failed",
            Err(End::Fatal(_)) => "fatal",
        }
    }
}

#[tokio::test]
async fn numbers_the_hub_still_holds_are_read_again_from_our_own_position() {
    let mut kit = Kit::new(0, 20);
    assert_eq!(kit.comes(20).await, "again");
    assert_eq!(kit.connects().await, "after 9");
    for number in 10..=20 {
        assert_eq!(kit.comes(number).await, format!("{number} "));
    }
}

#[tokio::test]
async fn numbers_the_hub_does_not_give_a_second_time_are_passed_with_a_row_that_names_them() {
    let mut kit = Kit::new(0, 20);
    assert_eq!(kit.comes(20).await, "again");
    assert_eq!(kit.connects().await, "after 9");
    assert_eq!(kit.comes(20).await, r#"gap {"from":10,"to":19} 20 "#);
    assert_eq!(kit.comes(21).await, "21 ");
    // Another hole is another question.
    assert_eq!(kit.comes(30).await, "again");
}

#[tokio::test]
async fn of_a_hole_that_begins_below_the_hub_only_that_part_is_named_at_once() {
    let mut kit = Kit::new(15, 20);
    assert_eq!(kit.comes(20).await, r#"gap {"from":10,"to":14} again"#);
    assert_eq!(kit.connects().await, "after 14");
    assert_eq!(kit.comes(15).await, "15 ");
    assert_eq!(kit.comes(20).await, "again");
    // Meanwhile the hub gave up more of it.
    *kit.hub.begin.lock().expect("no test panics here") = 18;
    assert_eq!(kit.connects().await, r#"gap {"from":16,"to":17} after 17"#);
    assert_eq!(kit.comes(20).await, r#"gap {"from":18,"to":19} 20 "#);
}

#[tokio::test]
async fn a_log_trimmed_on_a_quiet_partition_is_named_by_the_second_look() {
    let mut kit = Kit::new(15, 14);
    assert_eq!(kit.looks(0).await, "");
    // Something is on its way: it may be of these.
    assert_eq!(kit.looks(3).await, "");
    assert_eq!(kit.looks(0).await, r#"gap {"from":10,"to":14} "#);
    assert_eq!(kit.looks(0).await, "");
    assert_eq!(kit.comes(15).await, "15 ");
}

#[tokio::test]
async fn events_between_two_looks_show_that_nothing_is_lost_yet() {
    let mut kit = Kit::new(15, 20);
    assert_eq!(kit.looks(0).await, "");
    for number in 10..=12 {
        assert_eq!(kit.comes(number).await, format!("{number} "));
    }
    assert_eq!(kit.looks(0).await, "");
    assert_eq!(kit.looks(0).await, r#"gap {"from":13,"to":14} "#);
}

#[tokio::test]
async fn a_lake_that_does_not_answer_is_asked_again_and_one_that_refuses_ends_the_source() {
    let mut kit = Kit::new(0, 20);
    let gone = LakeError::Beside { act: "read", path: "x".to_owned(), detail: "no route".to_owned() };
    let foreign = LakeError::Foreign { table: "bronze.messages", detail: "it has no column `body`".to_owned() };
    *kit.wiring.progress.0.lock().expect("no test panics here") = vec![foreign, gone];
    let failed = meet(&mut kit.reader, &kit.wiring, &life()).await;
    assert!(matches!(&failed, Err(End::Failed(why)) if why.contains("no route") && why.contains("`lake.url`")));
    let refused = meet(&mut kit.reader, &kit.wiring, &life()).await;
    assert!(matches!(refused, Err(End::Fatal(SourceError::Lake(LakeError::Foreign { .. })))));
    assert!(meet(&mut kit.reader, &kit.wiring, &life()).await.is_ok());
}

#[tokio::test]
async fn a_partition_taken_up_again_goes_on_where_bronze_is_and_one_that_is_lost_is_told_downstream() {
    let mut kit = Kit::new(0, 20);
    for number in 10..=12 {
        assert_eq!(kit.comes(number).await, format!("{number} "));
    }
    // Ours all the time: nothing changes. The other is new: bronze says 9.
    let held = |claims: &[(i32, i64)]| claims.iter().copied().collect::<BTreeMap<_, _>>();
    let ended = take_up(&mut kit.reader, &kit.wiring, &life(), &held(&[(0, 1), (1, 4)]), Learned::new()).await;
    assert_eq!(kit.told(ended), "");
    assert_eq!(kit.reader.positions.at(&stream_of(0)), Some(12));
    assert_eq!(kit.reader.positions.at(&stream_of(1)), Some(9));
    // Ours again, at another level: somebody may have read it meanwhile.
    let ended = take_up(&mut kit.reader, &kit.wiring, &life(), &held(&[(0, 3)]), Learned::new()).await;
    assert_eq!(kit.told(ended), "lost 0 lost 1 ");
    assert_eq!(kit.reader.positions.at(&stream_of(0)), Some(9));
    assert_eq!(kit.reader.positions.at(&stream_of(1)), None);
    assert_eq!(kit.connects().await, "after 9");
}

#[tokio::test]
async fn a_hub_that_is_another_one_under_a_live_connection_is_met_anew_and_read_from_where_bronze_knows_it() {
    let mut kit = Kit::new(0, 20);
    let before = Life::new("h".into(), 6, vec!["0".to_owned(), "1".to_owned()]).expect("partitions are numbers");
    let Reader { positions, read, .. } = &mut kit.reader;
    let ended = check(&kit.wiring, positions, &kit.hub, &before, read, 0).await;
    assert!(matches!(&ended, Err(End::Failed(why)) if why.contains("changed under the connection")));
    kit.reader.current = Some(6);
    let learned = meet(&mut kit.reader, &kit.wiring, &life()).await.map_err(|_| "met").expect("bronze answers");
    assert_eq!((kit.reader.current, learned.get(&stream_of(0))), (Some(7), Some(&Some(9))));
    let again = meet(&mut kit.reader, &kit.wiring, &life()).await.map_err(|_| "met").expect("nothing to ask");
    assert!(again.is_empty(), "met once");
}
