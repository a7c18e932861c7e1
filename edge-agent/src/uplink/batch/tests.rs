use std::collections::BTreeMap;

use proptest::prelude::*;
use shared::envelope::{Gap, RAW_BYTES_MAX, decompress};
use shared::reading::{DeviceId, MetricName, Reading, Rejected, TimeQuality, Value};
use shared::time::Timestamp;

use super::*;
use crate::outbox::HeldItem;

const MS: Duration = Duration::from_millis(1);

fn shape(compression: Compression) -> Shape {
    Shape { gateway: GatewayId::new("gw-01"), compression, linger: 500 * MS, units: 1, units_behind: 8 }
}

fn reading(id: i64, value: Value) -> Row {
    let reading = Reading {
        device: DeviceId::new(format!("press-{}", id % 7)),
        metric: MetricName::new("temperature"),
        value,
        unit: Some("Cel".into()),
        event_time: Timestamp::from_micros(1_790_000_000_000_000 + id * 1_234_567),
        received_time: Timestamp::from_micros(1_790_000_000_120_000 + id * 1_234_789),
        time_quality: TimeQuality::Device,
        source_seq: Some(id),
    };
    Row { id: RowId(id), epoch: Epoch::from_bits(1), seq: Seq(id), item: HeldItem::Reading(reading) }
}

fn number(id: i64) -> Row {
    reading(id, Value::Number(20.0 + (id * 7919 % 1000) as f64 / 100.0))
}

fn refusal(id: i64, raw: usize, reasons: usize) -> Row {
    let rejected = Rejected {
        device: DeviceId::new("press-3"),
        metric: None,
        topic: "telemetry/press-3".into(),
        reasons: (0..reasons).map(|n| format!("range: {n} is too much")).collect(),
        raw: (0..raw).map(|n| (n * 31 % 251) as u8).collect(),
        received_time: Timestamp::from_micros(1),
        event_time: None,
        source_seq: None,
    };
    let item = HeldItem::Rejected { rejected, raw_len: 1_000_000, raw_sha256: "ab".repeat(32) };
    Row { id: RowId(id), epoch: Epoch::from_bits(1), seq: Seq(id), item }
}

fn gap(id: i64, devices: usize) -> HeldGap {
    let readings = (0..devices).map(|n| (format!("device-{n:06}"), 1)).collect();
    let gap = Gap { epoch: Epoch::from_bits(1), from: Seq(1), to: Seq(9), reason: "dropped".into(), readings };
    HeldGap { id: GapId(id), gap }
}

fn cutter(compression: Compression, rows: impl IntoIterator<Item = Row>, now: Instant) -> Cutter {
    let mut cutter = Cutter::new(shape(compression));
    for row in rows {
        cutter.push(row, now);
    }
    cutter
}

fn heading(cutter: &Cutter) -> Heading {
    Heading {
        epoch: cutter.epoch().unwrap_or(Epoch::from_bits(1)),
        high: Seq(1_000_000),
        rules: "d1".into(),
        upto: None,
    }
}

fn unpacked(cut: &Cut) -> Envelope {
    let parsed = topic::parse_events(&cut.topic).expect("a telemetry topic");
    let zstd = parsed.bag.iter().any(|(name, value)| name == "enc" && value == "zstd");
    let json = if zstd { decompress(&cut.body).expect("zstd") } else { cut.body.to_vec() };
    Envelope::from_json(&json).expect("an Envelope")
}

fn cut_all(cutter: &mut Cutter, pace: Pace, now: Instant) -> Vec<Cut> {
    let mut cuts = Vec::new();
    while cutter.is_due(pace, now) {
        let heading = heading(cutter);
        cuts.push(cutter.cut(heading, pace));
        assert!(cuts.len() < 10_000, "each cut must take something");
    }
    cuts
}

#[test]
fn while_live_rows_wait_for_company_until_the_oldest_has_lingered() {
    let now = Instant::now();
    let mut cutter = cutter(Compression::Zstd, [number(1), number(2)], now);
    assert!(!cutter.is_due(Pace::Live, now + 499 * MS));
    assert_eq!(cutter.deadline(), Some(now + 500 * MS));
    assert!(cutter.is_due(Pace::Live, now + 500 * MS));
    let heading = heading(&cutter);
    let cut = cutter.cut(heading, Pace::Live);
    assert_eq!(cut.rows, [RowId(1), RowId(2)]);
    let envelope = unpacked(&cut);
    assert_eq!(
        (envelope.high, envelope.rules.as_str(), envelope.seqs()),
        (Seq(1_000_000), "d1", Some((Seq(1), Seq(2))))
    );
    assert!(cut.topic.contains("%24.mid=0000000000000001%3A1-2"), "{}", cut.topic);
    assert!(!cutter.is_due(Pace::Live, now + 9_000 * MS), "nothing is left");
}

#[test]
fn on_stop_nothing_lingers() {
    let now = Instant::now();
    assert!(cutter(Compression::Zstd, [number(1)], now).is_due(Pace::Flush, now));
    assert!(!cutter(Compression::Zstd, [], now).is_due(Pace::Flush, now));
}

#[test]
fn envelopes_fill_whole_metering_units() {
    for compression in [Compression::None, Compression::Zstd] {
        for (pace, units) in [(Pace::Live, 1), (Pace::Behind, 8)] {
            let now = Instant::now();
            let mut cutter = cutter(compression, (1..=20_000).map(number), now);
            let cuts = cut_all(&mut cutter, pace, now);
            let target = units * METERING_UNIT_BYTES;
            assert!(cuts.iter().all(|cut| cut.hub_bytes <= target), "{compression:?} {pace:?}");
            // The first ones still learn how well rows pack; the last one takes what is left.
            let settled = &cuts[2..cuts.len() - 1];
            let filled =
                settled.iter().map(|cut| cut.hub_bytes).sum::<usize>() as f64 / (settled.len() * target) as f64;
            assert!(0.85 < filled, "{compression:?} {pace:?}: filled to {filled:.2}");
        }
    }
}

#[test]
fn rows_of_two_epochs_never_share_an_envelope() {
    let now = Instant::now();
    let later = Row { epoch: Epoch::from_bits(2), ..number(2) };
    let mut cutter = cutter(Compression::Zstd, [number(1), later], now);
    assert!(cutter.is_due(Pace::Live, now), "the first run cannot grow any more");
    let heading1 = heading(&cutter);
    assert_eq!(cutter.cut(heading1, Pace::Live).rows, [RowId(1)]);
    assert_eq!(cutter.epoch(), Some(Epoch::from_bits(2)));
    assert!(!cutter.is_due(Pace::Live, now));
}

#[test]
fn a_single_large_row_goes_alone_and_keeps_below_the_hubs_limit() {
    let noise: String =
        (0..200_000_u32).map(|n| char::from(b'!' + (n.wrapping_mul(2_654_435_761) >> 13) as u8 % 90)).collect();
    for row in [
        refusal(1, RAW_BYTES_MAX, 3),
        refusal(1, RAW_BYTES_MAX, 100_000),
        reading(1, Value::Text(noise[..60_000].into())),
        reading(1, Value::Text(noise.clone())),
    ] {
        for compression in [Compression::None, Compression::Zstd] {
            let now = Instant::now();
            let mut cutter = cutter(compression, [row.clone(), number(2)], now);
            let cuts = cut_all(&mut cutter, Pace::Flush, now);
            assert!(cuts.iter().all(|cut| cut.hub_bytes <= MESSAGE_BYTES_MAX), "{compression:?}");
            let rows: Vec<RowId> = cuts.iter().flat_map(|cut| cut.rows.clone()).collect();
            assert_eq!(rows, [RowId(1), RowId(2)]);
        }
    }
}

/// A text that packs to next to nothing and takes six times its length in JSON.
fn hollow(id: i64) -> Row {
    reading(id, Value::Text("\0".repeat(4096)))
}

#[test]
fn however_well_rows_and_notes_pack_an_envelope_unpacks_to_what_the_cloud_takes() {
    let now = Instant::now();
    let mut cutter = cutter(Compression::Zstd, (1..=900).map(hollow), now);
    for id in 0..60 {
        cutter.push_gap(gap(id, 7_000));
    }
    let cuts = cut_all(&mut cutter, Pace::Behind, now);
    assert_eq!(cuts.iter().map(|cut| cut.rows.len()).sum::<usize>(), 900);
    assert_eq!(cuts.iter().map(|cut| cut.gaps.len()).sum::<usize>(), 60);
    for cut in &cuts {
        let json = unpacked(cut).to_json().len(); // `decompress` refuses more than 8 MiB
        assert!(json <= JSON_BYTES_MAX, "{json}");
    }
}

#[test]
fn a_text_too_long_for_any_message_travels_as_a_refusal_under_its_own_seq() {
    let now = Instant::now();
    let mut cutter = cutter(Compression::None, [reading(7, Value::Text("x".repeat(300_000)))], now);
    let heading = heading(&cutter);
    let envelope = unpacked(&cutter.cut(heading, Pace::Flush));
    assert!(envelope.readings.is_empty());
    let refused = &envelope.rejected[0];
    assert_eq!((refused.s, refused.raw_len), (Seq(7), 300_000));
    assert!(refused.reasons[0].starts_with("size:"), "{:?}", refused.reasons);
}

#[test]
fn a_refusal_tells_length_and_digest_of_the_whole_payload() {
    let now = Instant::now();
    let mut cutter = cutter(Compression::Zstd, [refusal(1, 10, 1)], now);
    let heading = heading(&cutter);
    let envelope = unpacked(&cutter.cut(heading, Pace::Flush));
    assert_eq!(
        (envelope.rejected[0].raw_len, envelope.rejected[0].raw_sha256.as_str()),
        (1_000_000, "ab".repeat(32).as_str())
    );
}

#[test]
fn gaps_and_closings_go_at_once_with_rows_or_without() {
    let now = Instant::now();
    let mut cutter = cutter(Compression::Zstd, [], now);
    cutter.push_gap(gap(1, 2));
    cutter.push_closing(Closing { epoch: Epoch::from_bits(9), last: Some(Seq(20)), mark: None });
    assert!(cutter.is_due(Pace::Live, now));
    let empty = Heading { epoch: Epoch::from_bits(3), high: Seq(0), rules: "d1".into(), upto: None };
    let cut = cutter.cut(empty, Pace::Live);
    assert_eq!((cut.rows.len(), &cut.gaps[..], &cut.closings[..]), (0, &[GapId(1)][..], &[Epoch::from_bits(9)][..]));
    assert!(cut.topic.contains("%24.mid=0000000000000003%3A0-0"), "{}", cut.topic);
    let envelope = unpacked(&cut);
    assert_eq!(
        (envelope.epoch, envelope.high, envelope.gaps.len(), envelope.closed.len()),
        (Epoch::from_bits(3), Seq(0), 1, 1)
    );
    assert!(cutter.is_empty());

    cutter.push(number(1), now);
    cutter.push_gap(gap(2, 1));
    let heading = heading(&cutter);
    let cut = cutter.cut(heading, Pace::Live);
    assert_eq!((&cut.rows[..], &cut.gaps[..]), (&[RowId(1)][..], &[GapId(2)][..]));
}

#[test]
fn gaps_of_very_many_devices_still_fit() {
    let now = Instant::now();
    let mut cutter = cutter(Compression::None, [number(1)], now);
    for id in 0..70 {
        cutter.push_gap(gap(id, if id == 40 { 40_000 } else { 500 }));
    }
    let cuts = cut_all(&mut cutter, Pace::Live, now);
    assert!(cuts.iter().all(|cut| cut.hub_bytes <= MESSAGE_BYTES_MAX));
    let gaps: Vec<i64> = cuts.iter().flat_map(|cut| cut.gaps.iter().map(|gap| gap.0)).collect();
    assert_eq!(gaps, (0..70).collect::<Vec<_>>());
    let counts: BTreeMap<usize, usize> =
        cuts.iter().flat_map(|cut| unpacked(cut).gaps).fold(BTreeMap::new(), |mut counts, gap| {
            *counts.entry(gap.readings.len()).or_default() += 1;
            counts
        });
    assert_eq!(counts, BTreeMap::from([(0, 1), (500, 69)]), "only the impossible tally is left out");
}

#[test]
fn a_huge_gap_beside_a_closing_goes_first_and_the_closing_follows() {
    let now = Instant::now();
    let mut cutter = cutter(Compression::None, [], now);
    cutter.push_gap(gap(1, 40_000));
    cutter.push_closing(Closing { epoch: Epoch::from_bits(9), last: Some(Seq(20)), mark: None });
    let cuts = cut_all(&mut cutter, Pace::Live, now);
    let notes: Vec<_> = cuts.iter().map(|cut| (cut.gaps.len(), cut.closings.len())).collect();
    assert_eq!(notes, [(1, 0), (0, 1)]);
    assert!(cuts.iter().all(|cut| cut.hub_bytes <= MESSAGE_BYTES_MAX));
}

#[test]
fn halving_notes_ends_at_one_and_never_jumps_to_none() {
    for gaps in 0..=NOTES_MAX {
        for closings in 0..=NOTES_MAX {
            let (mut notes, mut steps) = ((gaps, closings), 0);
            while 1 < notes.0 + notes.1 {
                let less = fewer(notes);
                assert!(less.0 + less.1 < notes.0 + notes.1 && 0 < less.0 + less.1, "{notes:?} to {less:?}");
                (notes, steps) = (less, steps + 1);
            }
            assert!(steps <= 8, "{gaps} {closings}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_note_leaves_once_in_order_whatever_is_beside_it(
        gaps in proptest::collection::vec(prop_oneof![6 => 0..50usize, 2 => 4_000..9_000usize, 1 => Just(14_000)], 0..9),
        closings in 0..5u64,
        rows in 0..3i64,
    ) {
        let now = Instant::now();
        let mut cutter = cutter(Compression::None, (1..=rows).map(number), now);
        for (id, devices) in gaps.iter().enumerate() {
            cutter.push_gap(gap(id as i64, *devices));
        }
        for epoch in 0..closings {
            cutter.push_closing(Closing { epoch: Epoch::from_bits(epoch), last: Some(Seq(20)), mark: None });
        }
        let cuts = cut_all(&mut cutter, Pace::Flush, now);
        prop_assert!(cuts.iter().all(|cut| cut.hub_bytes <= MESSAGE_BYTES_MAX));
        prop_assert!(cuts.iter().all(|cut| 0 < cut.rows.len() + cut.gaps.len() + cut.closings.len()));
        let sent: Vec<i64> = cuts.iter().flat_map(|cut| cut.gaps.iter().map(|gap| gap.0)).collect();
        prop_assert_eq!(sent, (0..gaps.len() as i64).collect::<Vec<_>>());
        let closed: Vec<Epoch> = cuts.iter().flat_map(|cut| cut.closings.clone()).collect();
        prop_assert_eq!(closed, (0..closings).map(Epoch::from_bits).collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the rows, every one leaves exactly once, in order, in an Envelope the hub takes.
    #[test]
    fn every_row_leaves_once_in_order_within_the_limit(
        kinds in proptest::collection::vec((0..6u8, 0..3u64), 1..300),
        hollow_rows in prop_oneof![3 => Just(0), 1 => 1..500_usize],
        zstd in any::<bool>(),
        pace in prop_oneof![Just(Pace::Live), Just(Pace::Behind), Just(Pace::Flush)],
    ) {
        let now = Instant::now();
        let compression = if zstd { Compression::Zstd } else { Compression::None };
        let mut epoch = 1;
        let kinds: Vec<_> = std::iter::repeat_n((9, 0), hollow_rows).chain(kinds).collect();
        let rows = kinds.iter().enumerate().map(|(at, (kind, step))| {
            let id = at as i64 + 1;
            if *step == 2 && kind % 2 == 0 {
                epoch += 1;
            }
            let row = match kind {
                0 => refusal(id, 5_000, 2),
                1 => refusal(id, RAW_BYTES_MAX, 2),
                2 => reading(id, Value::Text("état ".repeat((at - hollow_rows) * 3))),
                9 => hollow(id),
                3 => reading(id, Value::Bool(true)),
                _ => number(id),
            };
            Row { epoch: Epoch::from_bits(epoch), ..row }
        });
        let mut cutter = cutter(compression, rows, now);
        let cuts = cut_all(&mut cutter, pace, now + 500 * MS);
        let ids: Vec<i64> = cuts.iter().flat_map(|cut| cut.rows.iter().map(|row| row.0)).collect();
        prop_assert_eq!(ids, (1..=kinds.len() as i64).collect::<Vec<_>>());
        for cut in &cuts {
            prop_assert!(cut.hub_bytes <= MESSAGE_BYTES_MAX);
            let envelope = unpacked(cut);
            prop_assert_eq!(envelope.readings.len() + envelope.rejected.len(), cut.rows.len());
        }
        prop_assert_eq!(cutter.estimate, 0);
    }
}
