//! By which rules the rows of an epoch were judged, where these changed on the way: `d1 17:d2 40:d3` says d1 up to row 16,
//! d2 up to row 39, and d3 since. One that never changed is just its digest.

use shared::reading::Seq;

/// Changes of one epoch that are remembered. Of more, the oldest are taken as one.
const CHANGES_MAX: usize = 64;

/// From the row `from` on, by `digest`.
pub(super) fn then(history: &str, from: Seq, digest: &str) -> String {
    let mut parts: Vec<(Seq, &str)> = parts(history).filter(|(since, _)| *since < from).collect();
    if parts.last().is_none_or(|(_, last)| *last != digest) {
        parts.push((from, digest));
    }
    let left_out = parts.len().saturating_sub(CHANGES_MAX);
    let mut text = String::new();
    for (since, digest) in &parts[left_out..] {
        match text.is_empty() {
            true => text += digest,
            false => text += &format!(" {}:{digest}", since.0),
        }
    }
    text
}

/// The digest at `seq`, and the last row of which that is said; `None` for it where it is said of all that follow.
pub(super) fn at(history: &str, seq: Seq) -> (&str, Option<Seq>) {
    let mut found = ("", None);
    for (since, digest) in parts(history) {
        if since <= seq || found.0.is_empty() {
            found.0 = digest;
        } else if found.1.is_none() {
            found.1 = Some(Seq(since.0 - 1));
        }
    }
    found
}

/// The digest now.
pub(super) fn last(history: &str) -> &str {
    parts(history).last().map_or("", |(_, digest)| digest)
}

fn parts(history: &str) -> impl Iterator<Item = (Seq, &str)> {
    history.split(' ').map(|part| match part.split_once(':') {
        Some((since, digest)) => (Seq(since.parse().unwrap_or(0)), digest),
        None => (Seq(1), part),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_said_to_be_judged_by_what_judged_them() {
        let history = then(&then("d1", Seq(17), "d2"), Seq(40), "d3");
        assert_eq!(history, "d1 17:d2 40:d3");
        for (seq, digest, upto) in
            [(1, "d1", Some(16)), (16, "d1", Some(16)), (17, "d2", Some(39)), (39, "d2", Some(39)), (40, "d3", None)]
        {
            assert_eq!(at(&history, Seq(seq)), (digest, upto.map(Seq)), "{seq}");
        }
        assert_eq!(last(&history), "d3");
        assert_eq!((at("d1", Seq(5)), last("d1")), (("d1", None), "d1"));
    }

    #[test]
    fn a_change_that_judged_nothing_leaves_no_trace() {
        assert_eq!(then("d1", Seq(1), "d2"), "d2", "no row yet");
        assert_eq!(then("d1 17:d2", Seq(17), "d3"), "d1 17:d3");
        assert_eq!(then("d1 17:d2", Seq(17), "d1"), "d1", "there and back");
        assert_eq!(then("d1", Seq(9), "d1"), "d1");
    }

    #[test]
    fn whoever_changes_for_ever_fills_no_disk() {
        let mut history = "d0".to_owned();
        for n in 1..1_000 {
            history = then(&history, Seq(n * 10), &format!("d{n}"));
        }
        assert!(history.len() < 64 * 20, "{history}");
        assert_eq!(at(&history, Seq(9_985)).0, "d998");
    }
}
