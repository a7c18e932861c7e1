//! The log against a `Vec` that does the same, and against everything that may happen to its files.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use shared::clock::{Clock, VirtualClock};
use shared::config::Span;
use shared::time::Timestamp;
use tokio::runtime::Runtime;

use super::*;
use crate::hub::faults::{Fault, Rule};

const START: Timestamp = Timestamp::from_millis(1_795_000_000_000);

struct Bench {
    dir: tempfile::TempDir,
    clock: VirtualClock,
    options: Options,
    runtime: Runtime,
}

impl Bench {
    fn new(partitions: u32) -> Self {
        let clock = VirtualClock::at(START);
        let options = Options::new(partitions, Clock::Virtual(clock.clone()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { dir: tempfile::tempdir().expect("a directory"), clock, options, runtime }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn open(&self) -> Log {
        Log::open(&self.path(), &self.options).expect("opens")
    }

    fn append(&self, log: &Log, device: &str, body: &[u8]) -> Result<Appended, AppendError> {
        self.runtime.block_on(log.append(event(device, body)))
    }

    fn read(&self, log: &Log, partition: u32, from: i64, events: usize, bytes: usize) -> Vec<StoredEvent> {
        self.runtime.block_on(log.read(partition, from, events, bytes)).expect("reads")
    }

    fn seek(&self, log: &Log, position: Position) -> i64 {
        self.runtime.block_on(log.seek(0, position)).expect("seeks")
    }

    /// The only partition's segments, oldest first.
    fn segments(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.path().join("partition-0")).expect("listed");
        let mut files: Vec<_> = files.map(|entry| entry.expect("an entry").path()).collect();
        files.sort();
        files
    }
}

fn event(device: &str, body: &[u8]) -> NewEvent {
    NewEvent {
        device_id: device.to_owned(),
        auth_method: "{}".to_owned(),
        message_source: "Telemetry".to_owned(),
        body: Bytes::copy_from_slice(body),
        ..NewEvent::default()
    }
}

fn cut(path: &Path, bytes: u64) {
    let file = OpenOptions::new().write(true).open(path).expect("opened");
    let length = file.metadata().expect("its length").len();
    file.set_len(length - bytes).expect("cut");
}

#[derive(Debug, Clone)]
enum Step {
    Append { device: u8, bytes: usize },
    Reopen,
    Tear(Vec<u8>),
    Read { from: i64, events: usize, bytes: usize },
    Seek { at: usize, inclusive: bool },
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u8..5, prop_oneof![0usize..200, 60_000usize..140_000])
            .prop_map(|(device, bytes)| Step::Append { device, bytes }),
        1 => Just(Step::Reopen),
        1 => proptest::collection::vec(any::<u8>(), 1..60).prop_map(Step::Tear),
        4 => (-2i64..40, 0usize..10, 0usize..300_000).prop_map(|(from, events, bytes)| Step::Read { from, events, bytes }),
        2 => (0usize..40, any::<bool>()).prop_map(|(at, inclusive)| Step::Seek { at, inclusive }),
        1 => (0u64..5).prop_map(Step::Wait),
    ]
}

proptest! {
    // 48 of the usual 256: each of them writes to disk.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 3 / 16, ..ProptestConfig::default() })]

    #[test]
    fn the_log_does_what_a_vec_does(steps in proptest::collection::vec(step(), 1..60), size in prop_oneof![Just(None), Just(Some(1u64 << 40))]) {
        let mut bench = Bench::new(2);
        bench.options.retention_bytes = size;
        let mut log = bench.open();
        let mut model: [Vec<(Appended, Vec<u8>)>; 2] = [vec![], vec![]];
        for step in steps {
            match step {
                Step::Append { device, bytes } => {
                    let body = vec![device; bytes];
                    let device = format!("device-{device}");
                    let appended = bench.append(&log, &device, &body).expect("stored");
                    prop_assert_eq!(appended.partition, log.partition_of(&device));
                    let events = &mut model[appended.partition as usize];
                    prop_assert_eq!(appended.sequence_number, events.len() as i64);
                    if let Some((before, _)) = events.last() {
                        prop_assert!(before.offset < appended.offset);
                        prop_assert!(before.enqueued_time <= appended.enqueued_time);
                    }
                    prop_assert_ne!(appended.offset, appended.sequence_number);
                    events.push((appended, body));
                }
                Step::Reopen => {
                    drop(log);
                    log = bench.open();
                }
                Step::Tear(garbage) => {
                    drop(log);
                    let segment = bench.segments().pop().expect("a segment");
                    OpenOptions::new().append(true).open(segment).expect("opened").write_all(&garbage).expect("torn");
                    log = bench.open();
                }
                Step::Read { from, events, bytes } => {
                    for (partition, model) in model.iter().enumerate() {
                        let read = bench.read(&log, partition as u32, from, events, bytes);
                        let at = usize::try_from(from).unwrap_or(0).min(model.len());
                        prop_assert!(read.len() <= events);
                        prop_assert!(!read.is_empty() || at == model.len() || events == 0, "progress");
                        for (read, (appended, body)) in read.iter().zip(&model[at..]) {
                            prop_assert_eq!(read.sequence_number, appended.sequence_number);
                            prop_assert_eq!(&read.offset, &appended.offset.to_string());
                            prop_assert_eq!(read.enqueued_time, appended.enqueued_time);
                            prop_assert_eq!(&read.body[..], &body[..]);
                        }
                        let total: usize = read.iter().skip(1).map(|event| event.body.len()).sum();
                        prop_assert!(total <= bytes);
                    }
                }
                Step::Seek { at, inclusive } => {
                    let events = &model[0];
                    let next = events.len() as i64;
                    let Some((appended, _)) = events.get(at) else { continue };
                    let (offset, time) = (appended.offset, appended.enqueued_time);
                    let after = at as i64 + i64::from(!inclusive);
                    prop_assert_eq!(bench.seek(&log, Position::Offset { offset, inclusive }), after);
                    prop_assert_eq!(bench.seek(&log, Position::Offset { offset: offset + 1, inclusive }), at as i64 + 1);
                    prop_assert_eq!(bench.seek(&log, Position::Sequence { sequence_number: at as i64, inclusive }), after);
                    let first = events.iter().position(|(other, _)| match inclusive {
                        true => time <= other.enqueued_time,
                        false => time < other.enqueued_time,
                    });
                    let first = first.map_or(next, |first| first as i64);
                    prop_assert_eq!(bench.seek(&log, Position::EnqueuedTime { time, inclusive }), first);
                    prop_assert_eq!(bench.seek(&log, Position::Earliest), 0);
                    prop_assert_eq!(bench.seek(&log, Position::Latest), next);
                }
                Step::Wait(ms) => bench.clock.advance(Duration::from_millis(ms)),
            }
            for (partition, model) in model.iter().enumerate() {
                let info = log.info(partition as u32).expect("a partition");
                prop_assert_eq!(info.last_enqueued_sequence_number, model.len() as i64 - 1);
                prop_assert_eq!(info.is_empty, model.is_empty());
                let offset = model.last().map_or("-1".to_owned(), |(appended, _)| appended.offset.to_string());
                prop_assert_eq!(info.last_enqueued_offset, offset);
                let seen = *log.watch(partition as u32).expect("a partition").borrow();
                prop_assert_eq!(seen, model.len() as i64 - 1);
            }
        }
    }
}

#[test]
fn a_write_torn_at_any_byte_costs_only_itself() {
    let bench = Bench::new(1);
    let log = bench.open();
    bench.append(&log, "d", b"first").expect("stored");
    let kept = fs::metadata(&bench.segments()[0]).expect("there").len();
    bench.append(&log, "d", b"second").expect("stored");
    drop(log);
    let whole = fs::read(&bench.segments()[0]).expect("read");
    for length in kept..whole.len() as u64 {
        fs::write(&bench.segments()[0], &whole[..usize::try_from(length).expect("short")]).expect("torn");
        let log = bench.open();
        let bodies: Vec<_> = bench.read(&log, 0, 0, 9, 999).into_iter().map(|event| event.body).collect();
        assert_eq!(bodies, [&b"first"[..]], "{length}");
        let again = bench.append(&log, "d", b"again").expect("stored");
        assert_eq!(again.sequence_number, 1);
    }
}

#[test]
fn one_flipped_bit_in_the_middle_is_an_error_for_readers_not_another_event() {
    let mut bench = Bench::new(1);
    bench.options.retention_bytes = Some(1 << 15);
    let log = bench.open();
    for _ in 0..40 {
        bench.append(&log, "d", &[7; 200]).expect("stored");
    }
    drop(log);
    let first = bench.segments()[0].clone();
    OpenOptions::new().write(true).open(&first).expect("opened").write_all_at(&[0], 300).expect("flipped");
    let log = bench.open();
    let read = bench.runtime.block_on(log.read(0, 0, 100, 1 << 20));
    assert!(read.expect_err("damaged").to_string().contains("damaged"));
}

#[test]
fn enqueued_times_do_not_follow_a_clock_that_goes_back() {
    let bench = Bench::new(1);
    let log = bench.open();
    let first = bench.append(&log, "d", b"1").expect("stored").enqueued_time;
    bench.clock.set(START.minus(Duration::from_secs(3600)));
    assert_eq!(bench.append(&log, "d", b"2").expect("stored").enqueued_time, first);
    drop(log);
    let log = bench.open();
    assert_eq!(bench.append(&log, "d", b"3").expect("stored").enqueued_time, first);
}

#[test]
fn retention_by_size_gives_up_the_oldest_and_numbers_go_on() {
    let mut bench = Bench::new(1);
    bench.options.retention_bytes = Some(64 * 1024);
    let log = bench.open();
    for _ in 0..300 {
        bench.append(&log, "d", &[1; 1000]).expect("stored");
    }
    bench.runtime.block_on(log.tick());
    let info = log.info(0).expect("there");
    assert!(200 < info.begin_sequence_number && info.bytes <= 64 * 1024, "{info:?}");
    assert_eq!(info.last_enqueued_sequence_number, 299);
    let read = bench.read(&log, 0, 0, 1, 1);
    assert_eq!(read[0].sequence_number, info.begin_sequence_number, "a reader that is late gets the oldest kept");
    drop(log);
    let log = bench.open();
    assert_eq!(log.info(0).expect("there"), info);
    assert_eq!(bench.append(&log, "d", b"on").expect("stored").sequence_number, 300);
}

#[test]
fn a_tick_among_appends_gives_up_what_is_past_retention() {
    let mut bench = Bench::new(1);
    bench.options.retention_bytes = Some(64 * 1024);
    bench.options.fsync = false;
    let slow =
        Rule { times: Some(1), lasts: Some(Span::new(Duration::from_millis(200))), ..Rule::new(Fault::SlowFsync) };
    bench.options.faults = Faults::default();
    let log = bench.open();
    for _ in 0..200 {
        bench.append(&log, "d", &[0; 1000]).expect("stored");
    }
    bench.options.faults.add(slow);
    bench.runtime.block_on(async {
        // The first is on its way to disk, slowly; the tick comes to stand between the others.
        let mut waiting = vec![log.submit(event("d", b"first")).await];
        for _ in 0..20 {
            waiting.push(log.submit(event("d", b"before")).await);
        }
        let tick = log.tick();
        let others = async {
            for _ in 0..20 {
                waiting.push(log.submit(event("d", b"after")).await);
            }
            for waiting in &mut waiting {
                waiting.wait().await.expect("stored");
            }
        };
        tokio::join!(biased; tick, others);
    });
    let info = log.info(0).expect("there");
    assert!(100 < info.begin_sequence_number && info.bytes <= 80 * 1024, "{info:?}");
}

#[test]
fn retention_holds_while_appends_never_stop() {
    let mut bench = Bench::new(1);
    bench.options.retention_bytes = Some(256 * 1024);
    bench.options.fsync = false;
    let log = bench.open();
    let flood = async {
        // As many as have room are always waiting, so that nobody else finds any.
        let mut waiting = std::collections::VecDeque::new();
        while log.info(0).expect("there").begin_sequence_number == 0 {
            waiting.push_back(log.submit(event("d", &[0; 1000])).await);
            if 2 * APPENDS_WAITING < waiting.len()
                && let Some(mut first) = waiting.pop_front()
            {
                first.wait().await.expect("stored");
            }
        }
    };
    let flood = async { tokio::time::timeout(Duration::from_secs(20), flood).await };
    bench.runtime.block_on(flood).expect("something is given up within seconds, not when the load is over");
}

#[test]
fn retention_by_time_gives_up_everything_in_the_end() {
    let mut bench = Bench::new(1);
    bench.options.retention_time = Some(Duration::from_secs(80));
    let log = bench.open();
    for _ in 0..10 {
        bench.append(&log, "d", b"x").expect("stored");
        bench.clock.advance(Duration::from_secs(10));
    }
    bench.runtime.block_on(log.tick());
    let begin = log.info(0).expect("there").begin_sequence_number;
    assert!((1..=3).contains(&begin), "older than 80 s, by segments of about 10 s: {begin}");

    bench.clock.advance(Duration::from_secs(100));
    bench.runtime.block_on(log.tick());
    let info = log.info(0).expect("there");
    assert_eq!((info.begin_sequence_number, info.last_enqueued_sequence_number, info.is_empty), (10, 9, true));
    assert!(bench.read(&log, 0, 0, 9, 999).is_empty());
    assert_eq!(bench.seek(&log, Position::Earliest), 10);
    drop(log);
    let log = bench.open();
    assert_eq!(log.info(0).expect("there"), info);
    assert_eq!(bench.append(&log, "d", b"on").expect("stored").sequence_number, 10);
}

#[test]
fn a_trimmed_partition_is_empty_and_its_numbers_go_on() {
    let bench = Bench::new(1);
    let log = bench.open();
    for number in 0..5_u8 {
        bench.append(&log, "d", &[number]).expect("stored");
    }
    bench.runtime.block_on(log.trim(0));
    bench.runtime.block_on(log.trim(0));
    bench.runtime.block_on(log.trim(7));
    // As a reader asks that looked where the log begins just before.
    assert!(log.partition(0).expect("there").find(0).expect("no error").is_none(), "there is nothing to read");
    let info = log.info(0).expect("there");
    assert_eq!((info.begin_sequence_number, info.last_enqueued_sequence_number, info.is_empty), (5, 4, true));
    assert_eq!(bench.append(&log, "d", b"5").expect("stored").sequence_number, 5);
    assert_eq!(bench.read(&log, 0, 0, 10, 1024).len(), 1);
    drop(log);
    assert_eq!(bench.open().info(0).expect("there").begin_sequence_number, 5, "after a restart too");
}

#[test]
fn a_slow_fsync_holds_back_what_waits_for_it_and_nothing_else_is_lost() {
    let mut bench = Bench::new(2);
    let slow =
        Rule { partition: Some(0), lasts: Some(Span::new(Duration::from_millis(1))), ..Rule::new(Fault::SlowFsync) };
    bench.options.faults = Faults::new([slow]);
    bench.options.fsync = false;
    let log = bench.open();
    for device in ["a", "b", "c", "d", "e"] {
        bench.append(&log, device, b"x").expect("stored");
    }
    let in_slow = ["a", "b", "c", "d", "e"].iter().filter(|device| log.partition_of(device) == 0).count() as u64;
    let [rule] = &bench.options.faults.rules()[..] else { panic!("one rule") };
    assert!(0 < in_slow && in_slow < 5, "both partitions are in use");
    assert_eq!((rule.seen, rule.struck), (in_slow, in_slow));
}

#[test]
fn a_deleted_log_is_another_incarnation() {
    let bench = Bench::new(2);
    let log = bench.open();
    let first = log.created_at();
    bench.append(&log, "d", b"x").expect("stored");
    drop(log);
    assert_eq!(bench.open().created_at(), first);

    bench.clock.advance(Duration::from_millis(1));
    fs::remove_dir_all(bench.path()).expect("deleted");
    let log = bench.open();
    assert!(first < log.created_at());
    assert_eq!(bench.append(&log, "d", b"x").expect("stored").sequence_number, 0);
}

#[test]
fn a_log_deleted_or_moved_under_a_running_hub_takes_nothing_more() {
    for moved in [false, true] {
        let bench = Bench::new(1);
        let log = bench.open();
        bench.append(&log, "d", b"x").expect("stored");
        match moved {
            true => fs::rename(bench.path(), bench.dir.path().join("away")).expect("moved"),
            false => fs::remove_dir_all(bench.path()).expect("deleted"),
        }
        let error = bench.append(&log, "d", b"x").expect_err("nobody would find it");
        assert!(error.to_string().contains("deleted or moved"), "{error}");
        assert!(log.stopped().is_cancelled());
        assert_eq!(bench.append(&log, "d", b"x"), Err(error));
    }
    let bench = Bench::new(1);
    let log = bench.open();
    fs::remove_dir_all(bench.path()).expect("deleted");
    bench.runtime.block_on(log.tick());
    assert!(log.stopped().is_cancelled(), "an idle log notices too");
}

#[test]
fn half_a_log_is_refused_not_repaired_with_nothing() {
    type Spoil = fn(&Bench);
    let spoil: [(&str, Spoil); 5] = [
        ("partition-1 is missing", |bench| fs::remove_dir_all(bench.path().join("partition-1")).expect("deleted")),
        ("log.json", |bench| fs::remove_file(bench.path().join("log.json")).expect("deleted")),
        ("log.json", |bench| fs::write(bench.path().join("log.json"), "{}").expect("spoilt")),
        ("cannot open", |bench| fs::remove_file(&bench.segments()[0]).expect("deleted")),
        ("cannot open", |bench| cut(&bench.segments()[0], 10)),
    ];
    for (needle, spoil) in spoil {
        let bench = Bench::new(2);
        drop(bench.open());
        spoil(&bench);
        let error = Log::open(&bench.path(), &bench.options).err().expect(needle).to_string();
        assert!(error.contains(needle), "{error}");
    }
    let mut bench = Bench::new(2);
    drop(bench.open());
    bench.options.partitions = 3;
    let error = Log::open(&bench.path(), &bench.options).err().expect("refused").to_string();
    assert!(error.contains("hub.partitions = 2"), "{error}");
}

#[test]
fn a_making_that_was_interrupted_is_made_anew() {
    let bench = Bench::new(2);
    fs::create_dir_all(bench.dir.path().join("log.new/partition-0")).expect("half made");
    let log = bench.open();
    assert_eq!(log.partition_count(), 2);
}

#[test]
fn many_appends_share_an_fsync_and_keep_their_order() {
    let bench = Bench::new(1);
    let log = bench.open();
    bench.runtime.block_on(async {
        let mut waiting = vec![];
        for number in 0..500u32 {
            waiting.push(log.submit(event("d", &number.to_le_bytes())).await);
        }
        for (number, waiting) in waiting.iter_mut().enumerate() {
            assert_eq!(waiting.wait().await.expect("stored").sequence_number, number as i64);
        }
    });
    let events = bench.read(&log, 0, 0, 1000, 1 << 20);
    let numbers: Vec<_> = events.iter().map(|event| event.body.to_vec()).collect();
    assert_eq!(numbers, (0..500u32).map(|number| number.to_le_bytes().to_vec()).collect::<Vec<_>>());
}

#[test]
fn devices_spread_over_partitions_the_same_on_every_machine() {
    let partitions: Vec<_> = (1..=8).map(|device| partition_of(&format!("gw-{device:02}"), 4)).collect();
    assert_eq!(partitions, [2, 3, 0, 1, 2, 3, 0, 1]);
    for count in [1, 2, 4, 7, 32] {
        let mut loads = vec![0; count as usize];
        (0..1000).for_each(|device| loads[partition_of(&format!("dev-{device:04}"), count) as usize] += 1);
        let fair = 1000 / count;
        assert!(loads.iter().all(|load| (fair / 2..=fair * 2).contains(load)), "{loads:?}");
    }
}
