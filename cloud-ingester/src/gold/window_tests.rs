use proptest::prelude::*;
use shared::time::Timestamp;

use super::*;

const SECOND: u64 = 1;
const MINUTE: u64 = 60;
const HOUR: u64 = 3_600;
const DAYS: u64 = 86_400;

fn grid(size: u64, slide: u64, zone: &str) -> Result<Grid, GridError> {
    let zone = (!zone.is_empty()).then(|| zone.parse().expect("a zone"));
    Grid::new(Duration::from_secs(size), Duration::from_secs(slide), zone)
}

fn minute() -> Grid {
    grid(MINUTE, MINUTE, "").expect("a minute")
}

fn micros(text: &str) -> i64 {
    Timestamp::parse_rfc3339(text).expect("a time").micros()
}

fn shown(grid: Grid, time: &str) -> Vec<String> {
    let mut found = vec![];
    grid.holding(micros(time), &mut found);
    let text = |micros| Timestamp::from_micros(micros).to_string();
    found.into_iter().map(|(start, end)| format!("{} {}", text(start), text(end))).collect()
}

#[test]
fn a_window_holds_its_start_and_not_its_end() {
    for (time, start) in
        [(0, 0), (59_999_999, 0), (60_000_000, 60_000_000), (-1, -60_000_000), (-60_000_000, -60_000_000)]
    {
        assert_eq!(minute().start(time), start, "{time}");
        let mut found = vec![];
        minute().holding(time, &mut found);
        assert_eq!(found, [(start, start + 60_000_000)], "{time}");
    }
    assert_eq!(minute().start(i64::MIN), i64::MIN);
    assert!(0 < minute().start(i64::MAX));
}

#[test]
fn what_windows_there_are() {
    for (size, slide, zone, expected) in [
        (MINUTE, MINUTE, "", None),
        (DAYS, DAYS, "Europe/Berlin", None),
        (7 * DAYS, DAYS, "Europe/Berlin", None),
        (7 * DAYS, 7 * DAYS, "", None),
        (6 * HOUR, 6 * HOUR, "Asia/Kolkata", None),
        (HOUR, 5 * MINUTE, "", None),
        (0, 0, "", Some(GridError::Short)),
        (7 * MINUTE, 7 * MINUTE, "", Some(GridError::Uneven)),
        (DAYS + SECOND, DAYS + SECOND, "", Some(GridError::Uneven)),
        (7 * MINUTE, 5 * MINUTE, "", Some(GridError::Slide)),
        (DAYS, SECOND, "", Some(GridError::Slide)),
        (HOUR, 5 * MINUTE, "Europe/Berlin", Some(GridError::ZoneSlide)),
    ] {
        assert_eq!(grid(size, slide, zone).err(), expected, "{size} {slide} {zone}");
    }
}

#[test]
fn a_local_day_lasts_from_midnight_to_midnight_however_long_that_is() {
    let berlin = grid(DAYS, DAYS, "Europe/Berlin").expect("days");
    for (time, expected) in [
        // 24 hours, 23 and 25.
        ("2026-11-23T10:00:00Z", "2026-11-22T23:00:00Z 2026-11-23T23:00:00Z"),
        ("2026-11-22T23:00:00Z", "2026-11-22T23:00:00Z 2026-11-23T23:00:00Z"),
        ("2026-03-29T21:59:59Z", "2026-03-28T23:00:00Z 2026-03-29T22:00:00Z"),
        ("2026-03-29T22:00:00Z", "2026-03-29T22:00:00Z 2026-03-30T22:00:00Z"),
        ("2026-10-25T22:59:59Z", "2026-10-24T22:00:00Z 2026-10-25T23:00:00Z"),
        ("1969-12-31T23:30:00Z", "1969-12-31T23:00:00Z 1970-01-01T23:00:00Z"),
    ] {
        assert_eq!(shown(berlin, time), [expected], "{time}");
    }
    assert_eq!(date_text(berlin.date(micros("2026-11-22T23:00:00Z"))), "2026-11-23");
    // Clocks skip midnight; a day that never was; clocks that are set back to midnight.
    for (zone, time, expected) in [
        ("America/Sao_Paulo", "2018-11-04T12:00:00Z", "2018-11-04T03:00:00Z 2018-11-05T02:00:00Z"),
        ("Pacific/Apia", "2011-12-30T11:00:00Z", "2011-12-30T10:00:00Z 2011-12-31T10:00:00Z"),
        ("America/Havana", "2026-11-01T05:30:00Z", "2026-11-01T04:00:00Z 2026-11-02T05:00:00Z"),
    ] {
        assert_eq!(shown(grid(DAYS, DAYS, zone).expect("days"), time), [expected], "{zone}");
    }
}

#[test]
fn parts_of_a_local_day_are_counted_from_its_midnight() {
    let quarter = grid(6 * HOUR, 6 * HOUR, "Europe/Berlin").expect("quarters");
    assert_eq!(shown(quarter, "2026-11-23T10:00:00Z"), ["2026-11-23T05:00:00Z 2026-11-23T11:00:00Z"]);
    // The last one of a short day is short, and a long day has one more.
    assert_eq!(shown(quarter, "2026-03-29T21:00:00Z"), ["2026-03-29T17:00:00Z 2026-03-29T22:00:00Z"]);
    assert_eq!(shown(quarter, "2026-10-25T22:30:00Z"), ["2026-10-25T22:00:00Z 2026-10-25T23:00:00Z"]);
    let hour = grid(HOUR, HOUR, "Asia/Kolkata").expect("hours");
    assert_eq!(shown(hour, "2026-11-23T10:00:00Z"), ["2026-11-23T09:30:00Z 2026-11-23T10:30:00Z"]);
}

#[test]
fn windows_that_slide_overlap() {
    let sliding = grid(15 * MINUTE, 5 * MINUTE, "").expect("windows");
    assert_eq!(
        shown(sliding, "2026-11-23T10:04:00Z"),
        [
            "2026-11-23T10:00:00Z 2026-11-23T10:15:00Z",
            "2026-11-23T09:55:00Z 2026-11-23T10:10:00Z",
            "2026-11-23T09:50:00Z 2026-11-23T10:05:00Z"
        ]
    );
    let week = grid(2 * DAYS, DAYS, "Europe/Berlin").expect("windows");
    assert_eq!(
        shown(week, "2026-03-29T10:00:00Z"),
        ["2026-03-28T23:00:00Z 2026-03-30T22:00:00Z", "2026-03-27T23:00:00Z 2026-03-29T22:00:00Z"]
    );
}

#[test]
fn a_session_goes_on_while_readings_come_within_the_gap() {
    for (pieces, expected) in [
        (vec![((0, 10), true), ((9, 19), true), ((19, 29), true)], vec![(0, 19), (19, 29)]),
        // A reading joins two sessions known before; another one is left alone.
        (vec![((0, 10), false), ((8, 18), true), ((16, 40), false), ((50, 60), false)], vec![(0, 40)]),
        (vec![], vec![]),
    ] {
        assert_eq!(sessions(pieces), expected);
    }
}

proptest! {
    #[test]
    fn every_instant_lies_in_its_windows(
        time in -3_000_000_000_000_000_i64..4_000_000_000_000_000,
        zone in prop::sample::select(vec!["Europe/Berlin", "America/Havana", "Africa/Cairo", "Asia/Kolkata", "Pacific/Apia"]),
        shape in prop::sample::select(vec![(HOUR, HOUR), (6 * HOUR, 6 * HOUR), (DAYS, DAYS), (3 * DAYS, DAYS)]),
    ) {
        let grid = grid(shape.0, shape.1, zone).expect("windows");
        let mut found = vec![];
        grid.holding(time, &mut found);
        prop_assert_eq!(found.len() as u64, grid.overlap());
        for (start, end) in found {
            prop_assert!(start <= time && time < end, "{} {} {}", start, time, end);
            // Both ends are where their neighbours end and begin.
            let mut others = vec![];
            grid.holding(start, &mut others);
            prop_assert!(others.contains(&(start, end)));
        }
    }

    #[test]
    fn sessions_do_not_depend_on_how_readings_came(times in prop::collection::vec(0_i64..100, 1..30), at in 0_usize..30) {
        let at = at.min(times.len());
        let new = |times: &[i64]| times.iter().map(|&time| ((time, time + 5), true)).collect::<Vec<_>>();
        let before = sessions(new(&times[..at]));
        let mut pieces = new(&times[at..]);
        pieces.extend(before.iter().map(|&span| (span, false)));
        let mut after = sessions(pieces.clone());
        after.extend(before.into_iter().filter(|&(start, end)| after.iter().all(|&(s, e)| end <= s || e <= start)).collect::<Vec<_>>());
        after.sort_unstable();
        prop_assert_eq!(after, sessions(new(&times)));
    }

    #[test]
    fn every_window_finds_all_files_that_may_hold_its_rows(
        windows in prop::collection::btree_set((0_i64..40, 1_i64..4), 0..20),
        files in prop::collection::vec((0_i64..2_400, 0_i64..300, 0_u64..50), 0..20),
        rows_max in 0_u64..200,
    ) {
        let windows: Vec<Span> = windows.into_iter().map(|(at, long)| (at * 60_000_000, (at + long) * 60_000_000)).collect();
        let files: Vec<Extent> = files.into_iter().map(|(from, length, rows)| Extent {
            from: Timestamp::from_micros(from * 1_000_000),
            to: Timestamp::from_micros((from + length) * 1_000_000),
            rows,
        }).collect();
        let slices = cut(&windows, &files, rows_max);
        let mut next = 0;
        for slice in &slices {
            prop_assert_eq!(slice.windows.start, next);
            prop_assert!(!slice.windows.is_empty());
            next = slice.windows.end;
            for &(start, end) in &windows[slice.windows.clone()] {
                for (at, file) in files.iter().enumerate() {
                    if file.from.micros() < end && start <= file.to.micros() {
                        prop_assert!(slice.files.contains(&at));
                    }
                }
            }
            let mut files = slice.files.clone();
            files.sort_unstable();
            files.dedup();
            prop_assert_eq!(files.len(), slice.files.len());
        }
        prop_assert_eq!(next, windows.len());
    }
}
