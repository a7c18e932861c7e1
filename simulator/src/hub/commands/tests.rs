//! The store over a real file, with a clock that stands still.

use shared::clock::VirtualClock;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn open(dir: &tempfile::TempDir, hands: &VirtualClock) -> Commands {
    let registry = Registry::prepare(dir.path().join("devices.toml"), &["d".to_owned()]).expect("a registry");
    let limits = CommandLimits {
        time_to_live: HOUR,
        max_delivery_count: 2,
        lock_duration: Duration::from_secs(60),
        feedback_time_to_live: HOUR,
        feedback_lock_duration: Duration::from_secs(60),
        feedback_max_delivery_count: 2,
    };
    let path = dir.path().join("commands.jsonl");
    Commands::open(path, Clock::Virtual(hands.clone()), limits, registry, Seats::default()).expect("a store")
}

fn command(id: &str) -> Command {
    let properties = vec![("a".to_owned(), "b".to_owned())];
    Command { message_id: Some(id.to_owned()), ack: Ack::Full, properties, body: "x".into(), ..Command::default() }
}

fn setup() -> (tempfile::TempDir, VirtualClock, Who) {
    (tempfile::tempdir().expect("a directory"), VirtualClock::at(Timestamp::from_millis(0)), Who::device("d"))
}

#[tokio::test]
async fn commands_deliveries_and_feedback_outlive_a_restart() {
    let (dir, hands, who) = setup();
    let commands = open(&dir, &hands);
    for id in ["1", "2", "3"] {
        commands.send(&who, command(id)).await.expect("taken");
    }
    let (first, _) = commands.next_for(&who).expect("a disk").expect("one");
    commands.complete(&who, first).expect("a disk");
    commands.next_for(&who).expect("a disk").expect("another");
    drop(commands);

    let commands = open(&dir, &hands);
    assert_eq!(commands.depth(&who), 2);
    let records = commands.feedback(9).await;
    assert_eq!(records.iter().map(|record| record.original_message_id.as_str()).collect::<Vec<_>>(), ["1"]);
    let (lock, again) = commands.next_for(&who).expect("a disk").expect("one");
    assert_eq!((again, lock.delivery), (command("2"), 2));
    commands.settle_feedback(&records, true).expect("a disk");
    commands.attach(&who);
    let (_, last) = commands.next_for(&who).expect("a disk").expect("one");
    assert_eq!(last, command("3"), "the second was given twice");
    let ends: Vec<_> = commands.feedback(9).await.into_iter().map(|record| record.outcome).collect();
    assert_eq!(ends, [Outcome::DeliveryCountExceeded]);
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused() {
    let (dir, hands, who) = setup();
    let commands = open(&dir, &hands);
    let stranger = commands.send(&Who::device("e"), command("1")).await.expect_err("unknown");
    let large = Command { body: vec![0; 64 * 1024].into(), ..command("1") };
    let large = commands.send(&who, large).await.expect_err("64 KB and more");
    for _ in 0..50 {
        commands.send(&who, Command { expiry: Some(Timestamp::from_millis(5)), ..command("1") }).await.expect("taken");
    }
    let full = commands.send(&who, command("1")).await.expect_err("fifty wait");
    assert_eq!([stranger, large, full].map(|fault| fault.status()), [404, 413, 403]);
    hands.advance(HOUR);
    commands.send(&who, command("1")).await.expect("those that are too old make room");
    assert_eq!((commands.depth(&who), commands.purge(&who).await.expect("a disk"), commands.depth(&who)), (1, 1, 0));
    assert_eq!(commands.status().feedback, 51);
}

#[tokio::test]
async fn what_a_device_or_a_service_had_for_too_long_is_given_again() {
    let (dir, hands, who) = setup();
    let commands = open(&dir, &hands);
    commands.send(&who, command("1")).await.expect("taken");
    let (lock, _) = commands.next_for(&who).expect("a disk").expect("one");
    assert!(commands.next_for(&who).expect("a disk").is_none());
    hands.advance(Duration::from_secs(61));
    commands.sweep().expect("a disk");
    let (again, _) = commands.next_for(&who).expect("a disk").expect("again");
    commands.complete(&who, lock).expect("too late to count");
    assert_eq!(commands.depth(&who), 1);
    commands.complete(&who, again).expect("a disk");
    assert_eq!(commands.depth(&who), 0);
    for _ in 0..2 {
        assert_eq!(commands.feedback(9).await.len(), 1);
        hands.advance(Duration::from_secs(61));
        commands.sweep().expect("a disk");
    }
    assert_eq!(commands.status().feedback, 0, "given as often as is allowed");
    let kept = std::fs::read_to_string(dir.path().join("commands.jsonl")).expect("read");
    drop(commands);
    assert_eq!(
        open(&dir, &hands).status(),
        CommandStatus { waiting: 0, by_device: Default::default(), feedback: 0 },
        "{kept}"
    );
}

#[tokio::test]
async fn a_device_that_is_deleted_takes_its_commands_with_it() {
    let (dir, hands, who) = setup();
    let commands = open(&dir, &hands);
    commands.send(&who, command("1")).await.expect("taken");
    commands.forget_one(&who).await.expect("a disk");
    assert_eq!((commands.whose(), commands.status().feedback), (vec![], 0));
}
