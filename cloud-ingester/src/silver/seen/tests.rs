use std::collections::BTreeMap;
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::silver::rows::Origin;

const EPOCH: &str = "00000000000000ee";

fn gap(kind: GapKind, from: i64, to: i64) -> GapRow {
    GapRow {
        gateway_id: Some("g".into()),
        epoch: Some(EPOCH.into()),
        from,
        to,
        kind,
        reason: None,
        readings: BTreeMap::new(),
        rescued: None,
        origin: Origin {
            hub: "hub".into(),
            incarnation: 1,
            partition_id: 0,
            sequence_number: 1,
            enqueued: None,
            ingested: Timestamp::default(),
        },
    }
}

fn health(seen: &Seen) -> Health {
    let key = EpochKey { gateway: "g".into(), epoch: EPOCH.into() };
    seen.epoch(&key).expect("something was seen").health()
}

fn admit(seen: &mut Seen, seq: i64, high: i64) -> Fit {
    seen.admit(Where::Readings, "g", EPOCH, seq, high, Some(Timestamp::from_micros(seq)))
}

#[test]
fn an_open_epoch_has_outstanding_seqs_and_nothing_missing() {
    let mut seen = Seen::default();
    assert_eq!(admit(&mut seen, 1, 5), Fit::New { gap_arrived: false });
    assert_eq!(admit(&mut seen, 3, 5), Fit::New { gap_arrived: false });
    assert_eq!(admit(&mut seen, 3, 9), Fit::Duplicate);
    let health = health(&seen);
    assert_eq!((health.state, health.high, health.last, health.arrived), ("open", 9, 9, 2));
    assert_eq!((health.outstanding, health.missing), (7, 0));
    assert_eq!(health.last_enqueued, Some(Timestamp::from_micros(3)));
}

#[test]
fn a_high_without_new_rows_counts_and_is_kept_until_a_row_or_a_closing_says_as_much() {
    let kept = |seen: &Seen| seen.highs().get("g").and_then(|epochs| epochs.get(EPOCH).copied());
    let mut seen = Seen::default();
    seen.name_high("g", EPOCH, 0);
    assert!(seen.keys().is_empty());
    seen.name_high("g", EPOCH, 4);
    assert_eq!((health(&seen).high, health(&seen).outstanding, kept(&seen)), (4, 4, Some(4)));
    admit(&mut seen, 1, 4);
    assert_eq!((health(&seen).high, kept(&seen)), (4, None));
    admit(&mut seen, 1, 7);
    assert_eq!((health(&seen).high, health(&seen).outstanding, kept(&seen)), (7, 6, Some(7)));
    seen.admit_gap(&gap(GapKind::GivenUp, 2, 7));
    assert_eq!((health(&seen).outstanding, kept(&seen)), (0, Some(7)));
    seen.admit_gap(&gap(GapKind::Closed, 1, 7));
    assert_eq!((health(&seen).last, health(&seen).missing, kept(&seen)), (7, 0, None));
}

#[test]
fn a_closed_epoch_is_covered_or_something_is_missing() {
    let mut seen = Seen::default();
    admit(&mut seen, 1, 3);
    seen.admit(Where::Quarantine, "g", EPOCH, 2, 3, None);
    seen.admit_gap(&gap(GapKind::GivenUp, 3, 4));
    seen.admit_gap(&gap(GapKind::Closed, 1, 5));
    let before = health(&seen);
    assert_eq!((before.state, before.last, before.missing, before.outstanding), ("closed", 5, 1, 0));
    admit(&mut seen, 5, 5);
    assert_eq!(health(&seen).missing, 0);
    // A closing below what arrived does not hide what arrived.
    admit(&mut seen, 8, 8);
    let after = health(&seen);
    assert_eq!((after.last, after.missing), (8, 2));
}

#[test]
fn of_a_lost_epoch_what_did_not_arrive_up_to_the_mark_is_missing() {
    let mut seen = Seen::default();
    admit(&mut seen, 1, 2);
    assert_eq!(seen.admit_gap(&gap(GapKind::UnknownLoss, 1, 10)), Some(0));
    let lost = health(&seen);
    assert_eq!((lost.state, lost.last, lost.missing), ("lost", 2, 9));
    // The exact closing, should it come, says more.
    seen.admit_gap(&gap(GapKind::Closed, 1, 2));
    assert_eq!((health(&seen).state, health(&seen).missing), ("closed", 1));
}

#[test]
fn what_arrived_wins_over_a_gap_whichever_came_first() {
    let mut seen = Seen::default();
    admit(&mut seen, 2, 4);
    assert_eq!(seen.admit_gap(&gap(GapKind::GivenUp, 1, 3)), Some(1));
    assert_eq!(seen.admit_gap(&gap(GapKind::GivenUp, 1, 3)), None);
    assert_eq!(seen.admit_gap(&gap(GapKind::GivenUp, 2, 4)), Some(0));
    assert_eq!(admit(&mut seen, 4, 4), Fit::New { gap_arrived: true });
    let health = health(&seen);
    assert_eq!((health.arrived, health.given_up, health.gap_arrived), (2, 4, 2));
}

#[test]
fn claims_at_the_end_of_the_number_line_do_no_harm() {
    let mut seen = Seen::default();
    admit(&mut seen, i64::MAX, i64::MAX);
    seen.admit_gap(&gap(GapKind::GivenUp, 1, i64::MAX));
    seen.admit_gap(&gap(GapKind::Closed, 1, i64::MAX));
    seen.admit_gap(&gap(GapKind::UnknownLoss, 1, 0));
    let health = health(&seen);
    assert_eq!((health.given_up, health.missing, health.gap_arrived), (i64::MAX, 0, 1));
}

#[test]
fn a_replayed_refusal_counts_among_the_readings() {
    let mut seen = Seen::default();
    admit(&mut seen, 1, 2);
    seen.admit(Where::Quarantine, "g", EPOCH, 2, 2, None);
    seen.replayed("g", EPOCH);
    assert_eq!((health(&seen).arrived, health(&seen).quarantined, health(&seen).outstanding), (2, 0, 0));
    assert_eq!(seen.admit(Where::Quarantine, "g", EPOCH, 2, 2, None), Fit::Duplicate);
}

#[test]
fn an_epoch_costs_the_same_memory_whatever_came_in_it() {
    let filled = |seqs: i64| {
        let mut seen = Seen::default();
        for gateway in 0..1_000 {
            let gateway = format!("gw-{gateway:04}");
            for bits in 1..=50_u64 {
                let epoch = Epoch::from_bits(bits << 32).to_string();
                for seq in 1..=seqs {
                    // One in ten was refused.
                    let place = if seq % 10 == 0 { Where::Quarantine } else { Where::Readings };
                    seen.admit(place, &gateway, &epoch, seq, seqs, None);
                }
                let mut closing = gap(GapKind::Closed, 1, seqs);
                (closing.gateway_id, closing.epoch) = (Some(gateway.clone()), Some(epoch));
                seen.admit_gap(&closing);
            }
        }
        seen
    };
    let few = filled(1);
    assert_eq!(few.keys().len(), 50_000);
    assert!(few.bytes() < 50_000 * 300, "{} bytes", few.bytes());
    assert_eq!(filled(40).bytes(), few.bytes());
}

proptest! {
    #[test]
    fn the_books_of_an_epoch_balance(
        rows in prop::collection::vec((1_i64..30, any::<bool>()), 0..40),
        gaps in prop::collection::vec((1_i64..30, 0_i64..6), 0..6),
        last in prop::option::of(1_i64..30),
    ) {
        let mut seen = Seen::default();
        let (mut arrived, mut quarantined, mut given_up) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut counted = 0;
        for (at, (seq, refused)) in rows.into_iter().enumerate() {
            if let Some((from, length)) = gaps.get(at) {
                counted += seen.admit_gap(&gap(GapKind::GivenUp, *from, from + length)).unwrap_or(0);
                given_up.extend(*from..=from + length);
            }
            let place = if refused { Where::Quarantine } else { Where::Readings };
            let new = !arrived.contains(&seq) && !quarantined.contains(&seq);
            match seen.admit(place, "g", EPOCH, seq, seq, None) {
                Fit::New { gap_arrived } => {
                    prop_assert!(new);
                    counted += u64::from(gap_arrived);
                    if refused { quarantined.insert(seq) } else { arrived.insert(seq) };
                }
                Fit::Duplicate => prop_assert!(!new),
            }
        }
        prop_assume!(!arrived.is_empty() || !quarantined.is_empty());
        if let Some(last) = last {
            seen.admit_gap(&gap(GapKind::Closed, 1, last));
        }
        let health = health(&seen);
        let came: BTreeSet<i64> = arrived.union(&quarantined).copied().collect();
        let high = came.last().copied().unwrap_or(0);
        let end = high.max(last.unwrap_or(0));
        let open = (1..=end).filter(|seq| !came.contains(seq) && !given_up.contains(seq)).count() as i64;
        prop_assert_eq!(health.arrived, arrived.len() as i64);
        prop_assert_eq!(health.quarantined, quarantined.len() as i64);
        prop_assert_eq!(health.given_up, given_up.len() as i64);
        prop_assert_eq!(health.gap_arrived, given_up.intersection(&came).count() as i64);
        prop_assert_eq!(health.gap_arrived as u64, counted);
        prop_assert_eq!(if last.is_some() { health.missing } else { health.outstanding }, open);
        prop_assert_eq!(if last.is_some() { health.outstanding } else { health.missing }, 0);
    }
}
