//! Small lakes made by hand, each with one promise kept or broken. Every kind of breach must be seen.

mod kit; // the lake and the ledger, and one checker

use serde_json::json;
use shared::time::Timestamp;

use self::kit::{Lake, TIME, check, send, sound, verified};
use super::report::Gold;
use super::*;
use crate::fleet::send::{Draft, Expect, Fate};

#[tokio::test]
async fn a_sound_lake_is_proved_and_every_send_is_one_row() {
    let report = check(|lake, _| lake.gold = Some(0), &[]).await;
    assert_eq!(report.gold, Gold::Same);
    let books = report.ledger.as_ref().expect("a ledger was given");
    assert_eq!((books.sends, books.values, books.readings, books.quarantined), (3, 3, 2, 1));
    assert_eq!(report.books.as_ref().map(|books| (books.decoded, books.duplicates)), Some((4, 1)));
    assert!(report.to_string().ends_with("The proof holds.\n"), "{report}");
    assert!(serde_json::to_string(&report).expect("plain data").contains(r#""holds":true"#));
}

#[tokio::test]
async fn a_missing_seq_is_seen() {
    let report = check(|lake, _| lake.gaps[0].2 = 5, &["missing"]).await;
    assert_eq!((report.missing, report.epochs[0].missing_seqs.as_str()), (2, "4-5"));
}

#[tokio::test]
async fn a_repeated_id_is_seen() {
    check(|lake, _| lake.readings.push((2, "b", "t", 9, 1.0)), &["duplicate-id"]).await;
    check(|lake, _| lake.readings.push((3, "b", "t", 9, 1.0)), &["not-disjoint"]).await;
}

#[tokio::test]
async fn a_refusal_that_was_taken_up_again_is_a_reading_whatever_it_was_repaired_to() {
    let report = check(
        |lake, _| {
            lake.readings.push((3, "a", "t", 3, 90.0));
            lake.replayed.push(3);
        },
        &[],
    )
    .await;
    let epoch = &report.epochs[0];
    assert_eq!((epoch.arrived, epoch.quarantined, epoch.missing), (3, 0, 0));
    let books = report.ledger.as_ref().expect("a ledger was given");
    assert_eq!((books.readings, books.quarantined, books.not_in_lake), (2, 1, 0));
    check(
        |lake, _| lake.readings.push((3, "a", "t", 3, 90.0)),
        &["fate-differs", "not-disjoint", "twice-in-lake", "value-differs"],
    )
    .await;
}

#[tokio::test]
async fn a_value_that_differs_is_seen() {
    check(|lake, _| lake.readings[1].4 = 22.500_001, &["value-differs"]).await;
    check(|_, sends| sends[0].time = Timestamp::from_micros(TIME + 1), &["time-differs"]).await;
    check(|_, sends| sends[0].expect[0].unit = Some("Cel".into()), &["unit-differs"]).await;
    check(|_, sends| sends[0].expect[0].value = Some(json!("21.5")), &["value-differs"]).await;
}

#[tokio::test]
async fn a_lost_database_is_named() {
    let report = check(|lake, _| lake.gaps = vec![("unknown-loss", 1, 40, 0)], &["unknown-loss"]).await;
    assert_eq!((report.missing, report.epochs[0].state.as_str()), (37, "lost"));
}

#[tokio::test]
async fn what_was_given_up_and_came_all_the_same_is_counted_and_breaks_nothing() {
    let late = |lake: &mut Lake| lake.gaps.push(("given-up", 2, 2, 1));
    check(|lake, _| late(lake), &["books"]).await;
    let report = check(
        |lake, _| {
            late(lake);
            lake.gap_arrived = 1;
        },
        &[],
    )
    .await;
    assert_eq!((report.epochs[0].given_up, report.epochs[0].gap_arrived), (1, 1));
}

#[tokio::test]
async fn what_the_gateway_gave_up_is_not_held_against_the_lake() {
    let drop_second = |lake: &mut Lake| {
        lake.readings.pop();
        lake.gaps.push(("given-up", 2, 2, 1));
    };
    let report = check(|lake, _| drop_second(lake), &[]).await;
    assert_eq!(report.ledger.map(|books| (books.given_up, books.not_in_lake)), Some((1, 0)));
    // One was given up, two are gone: one of them without a word.
    check(
        |lake, sends| {
            drop_second(lake);
            sends.push(send("a", 4, 1.0, Fate::Reading));
        },
        &["not-in-lake"],
    )
    .await;
}

#[tokio::test]
async fn the_ledger_and_the_lake_are_one_to_one() {
    check(|_, sends| drop(sends.remove(0)), &["not-in-ledger"]).await;
    check(|_, sends| drop(sends.remove(2)), &["not-in-ledger"]).await;
    check(|_, sends| sends.push(send("a", 4, 1.0, Fate::Reading)), &["not-in-lake"]).await;
    check(
        |lake, _| {
            lake.readings.push((4, "a", "t", 2, 22.5));
            lake.gaps[0].2 = 4;
        },
        &["twice-in-lake"],
    )
    .await;
    check(|_, sends| sends[0].expect[0].fate = Fate::Quarantine, &["fate-differs"]).await;
    check(|_, sends| sends[2].expect[0].fate = Fate::Reading, &["fate-differs"]).await;
    check(|_, sends| sends.iter_mut().for_each(|send| send.expect[0].fate = Fate::Either), &[]).await;
}

#[tokio::test]
async fn rows_of_other_devices_are_nobody_s_business() {
    let report = check(
        |lake, _| {
            lake.readings.push((4, "stranger", "t", 2, 22.5));
            lake.gaps[0].2 = 4;
        },
        &[],
    )
    .await;
    assert_eq!(report.ledger.map(|books| books.other_rows), Some(1));
}

#[tokio::test]
async fn a_send_without_puback_may_have_arrived_or_not() {
    let (lake, sends) = sound();
    let report = verified(&lake, &sends[..2], &[sends[2].clone(), send("a", 4, 1.0, Fate::Reading)], None).await;
    assert!(report.holds, "{report}");
    assert_eq!(report.ledger.map(|books| books.never_promised), Some(1));
}

#[tokio::test]
async fn a_payload_that_cannot_be_read_is_known_by_its_bytes() {
    let torn = br#"{"ts":1790000000000000,"n":3,"t""#;
    let garbled = |sends: &mut Vec<Draft>| {
        sends[2].payload = torn.to_vec();
        sends[2].expect = vec![Expect { metric: None, value: None, unit: None, fate: Fate::Quarantine }];
    };
    let whole = (3, Some("a"), None, torn.to_vec());
    check(
        |lake, sends| {
            garbled(sends);
            lake.refusals = vec![whole.clone()];
        },
        &[],
    )
    .await;
    // Sent again after a lost PUBACK it is recognised by its number, which stands before the tear.
    check(
        |lake, sends| {
            garbled(sends);
            lake.refusals = vec![whole.clone(), (4, Some("a"), None, torn.to_vec())];
            lake.gaps[0].2 = 4;
        },
        &["twice-in-lake"],
    )
    .await;
    check(
        |lake, sends| {
            garbled(sends);
            lake.refusals = vec![(3, Some("a"), None, b"other".to_vec())];
        },
        &["not-in-lake", "not-in-ledger"],
    )
    .await;
}

#[tokio::test]
async fn only_a_payload_whose_number_and_time_cannot_be_read_may_come_twice() {
    for (payload, broken) in [
        (r#"{"ts":1790000000000000,"t":{"v"#, &["twice-in-lake"][..]),
        (r#"{"ts":"2026-11-24T03:58:00Z","t"#, &["twice-in-lake"]),
        (r#"{"ts":179000000"#, &[]),
        (r#"{"ts":"soon","t"#, &[]),
        (r#"{"ts":99999999999999999999,"t"#, &[]),
        (r#"{"ts":1790000000000000,"n":3}"#, &["twice-in-lake"]),
        (r#"{"n":3,"t":1} and more"#, &["twice-in-lake"]),
        (r#"{"n": 3 , "t"#, &["twice-in-lake"]),
        (r#"{"n":3"#, &[]),
        (r#"{"n":"three","t":1"#, &[]),
        ("half a", &[]),
    ] {
        let bytes = payload.as_bytes().to_vec();
        let report = check(
            |lake, sends| {
                sends[2].payload = bytes.clone();
                sends[2].expect = vec![Expect { metric: None, value: None, unit: None, fate: Fate::Quarantine }];
                lake.refusals = vec![(3, Some("a"), None, bytes.clone()), (4, Some("a"), None, bytes.clone())];
                lake.gaps[0].2 = 4;
            },
            broken,
        )
        .await;
        let repeats = u64::from(broken.is_empty());
        assert_eq!(report.ledger.map(|books| books.keyless_repeats), Some(repeats), "{payload}");
    }
}

#[tokio::test]
async fn a_refusal_that_carries_only_the_beginning_of_its_payload_is_known_by_the_number_in_it() {
    // As the gateway keeps of the later refusals of a large message; without a byte of it nobody knows what it was.
    for (kept, broken) in [(128, &[][..]), (0, &["not-in-lake", "not-in-ledger"])] {
        check(
            |lake, sends| {
                let filler = format!(",\"more\":\"{}\"}}", "x".repeat(300_000));
                sends[2].payload.pop();
                sends[2].payload.extend(filler.bytes());
                lake.refusals[0].3 = sends[2].payload[..kept].to_vec();
            },
            broken,
        )
        .await;
    }
}

#[tokio::test]
async fn a_refusal_that_names_no_device_was_sent_by_none() {
    let stray = |lake: &mut Lake| {
        lake.refusals.push((4, None, None, b"{}".to_vec()));
        lake.gaps[0].2 = 4;
    };
    let report = check(|lake, _| stray(lake), &["not-in-ledger"]).await;
    assert!(report.to_string().contains("no device"), "{report}");
}

#[tokio::test]
async fn a_number_that_bronze_lacks_or_has_twice_is_seen() {
    let report = check(
        |lake, _| {
            lake.bronze[1].1 = 9;
            lake.bronze_done = Some(9);
        },
        &["bronze-hole"],
    )
    .await;
    let said = report.to_string();
    assert!(said.contains("lacks number 8 of hub (created 1789000000000), partition 0"), "{said}");
    assert!(said.contains("Bronze: 3 events in 2 partitions, NOT each number once"), "{said}");
    check(|lake, _| lake.bronze.push((0, 8, Some("gw"))), &["bronze-repeat"]).await;
    check(|lake, _| lake.bronze_done = Some(12), &["bronze-progress"]).await;
}

#[tokio::test]
async fn what_the_hub_let_expire_is_no_hole_once_it_is_named() {
    let expired = |lake: &mut Lake| {
        lake.bronze = vec![(0, 7, Some("gw")), (0, 11, None), (0, 12, Some("gw"))];
        lake.bronze_done = Some(12);
    };
    let report = check(
        |lake, _| {
            expired(lake);
            lake.gaps.push(("hub-retention", 8, 11, 0));
        },
        &[],
    )
    .await;
    assert_eq!(report.bronze.as_ref().map(|books| (books.events, books.expired)), Some((3, 4)));
    check(|lake, _| expired(lake), &["bronze-hole"]).await;
    // Silver has only read the row before it.
    let unread = |lake: &mut Lake| {
        expired(lake);
        lake.done = (0, 0);
    };
    check(|lake, _| unread(lake), &[]).await;
    check(
        |lake, _| {
            unread(lake);
            lake.bronze[1].2 = Some("a device that says so");
        },
        &["bronze-hole"],
    )
    .await;
}

/// A lake that was given its time, with gold.
async fn check_settled(change: impl FnOnce(&mut Lake), broken: &[&str], words: &[&str]) {
    let (mut lake, sends) = sound();
    lake.gold = Some(0);
    change(&mut lake);
    let report = verified(&lake, &sends, &[], None).await;
    assert!(report.holds, "while it may still come, it is a note: {report}");
    assert!(words.iter().all(|word| report.to_string().contains(&format!("note: {word}"))), "{report}");
    lake.settled = true;
    let report = verified(&lake, &sends, &[], None).await;
    assert_eq!(report.problems.kinds(), broken, "{report}");
    assert!(words.iter().all(|word| report.to_string().contains(&format!("  {word}"))), "{report}");
}

#[tokio::test]
async fn once_settled_a_table_that_lags_or_lacks_breaks_the_proof() {
    check_settled(|_| (), &[], &[]).await;
    check_settled(
        |lake| lake.done = (0, 0),
        &["silver-behind"],
        &["silver.readings has read bronze.messages up to version 0 of 1"],
    )
    .await;
    check_settled(
        |lake| lake.gold = None,
        &["table-absent"],
        &["gold.metric_1m does not exist", "gold.device_latest does not", "gold.gateway_health does not"],
    )
    .await;
    for name in ["gold.metric_1m", "gold.device_latest", "gold.gateway_health"] {
        let words = format!("{name} has read nothing of silver.readings, which is at version 0");
        check_settled(|lake| lake.late = name, &["gold-behind"], &[&words]).await;
    }
}

#[tokio::test]
async fn books_that_do_not_balance_are_seen() {
    check(|lake, _| lake.decoded_too_many = 1, &["books"]).await;
}

#[tokio::test]
async fn gold_must_say_the_same() {
    let report = check(|lake, _| lake.gold = Some(1), &["gold-differs"]).await;
    assert_eq!(report.gold, Gold::Differs);
}

#[tokio::test]
async fn an_interrupted_hop_is_seen() {
    check(|lake, _| lake.done = (5, 4), &["hop-interrupted"]).await;
}

#[tokio::test]
async fn what_is_outstanding_must_be_held() {
    let (mut lake, sends) = sound();
    lake.gaps.clear();
    lake.high = 7;
    let report = verified(&lake, &sends, &[], Some(4)).await;
    assert!(report.holds, "{report}");
    assert_eq!((report.outstanding, report.missing), (4, 0));
    let report = verified(&lake, &sends, &[], Some(3)).await;
    assert_eq!(report.problems.kinds(), ["held-differs"]);
    // Named by an Envelope of which nothing was new.
    lake.named = 9;
    assert_eq!(verified(&lake, &sends, &[], Some(6)).await.outstanding, 6);
}

#[tokio::test]
async fn a_lake_that_cannot_be_read_is_no_proof() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |lake: String| Options { lake, ..Options::default() };
    let empty = verify(&at(dir.path().display().to_string())).await;
    assert!(matches!(empty, Err(VerifyError::Empty { .. })), "{empty:?}");
    let odd = verify(&at("/tmp/100%25/lake".into())).await.expect_err("a percent sign");
    assert!(odd.to_string().contains('%'), "{odd}");
    assert!(matches!(verify(&at("/no/such/lake".into())).await, Err(VerifyError::Place { .. })));
}

#[tokio::test]
async fn two_ledgers_may_name_the_same_numbers() {
    // A device began anew with its numbers, in a ledger of its own: the times tell them apart.
    let (mut lake, mut sends) = sound();
    let later = Draft { time: Timestamp::from_micros(TIME + 5), ..send("a", 1, 30.0, Fate::Reading) };
    sends.insert(0, later.clone());
    let report = verified(&lake, &sends, &[], None).await;
    assert_eq!(report.problems.kinds(), ["not-in-lake"], "{report}");
    sends[0].time = Timestamp::from_micros(TIME);
    lake.readings.push((4, "a", "t", 1, 21.5));
    lake.gaps[0].2 = 4;
    let report = verified(&lake, &sends, &[], None).await;
    assert_eq!(report.problems.kinds(), ["value-differs"], "{report}");
    let report = verified(&sound().0, &sends[1..], &[later], None).await;
    assert!(report.holds, "{report}");
}
