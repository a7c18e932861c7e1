use super::*;

fn txn(expected: Option<i64>, version: i64) -> Txn {
    Txn { app: "a".into(), expected, version }
}

#[test]
fn how_a_commit_fits_follows_from_the_progress_in_the_table() {
    for (txns, found, fits) in [
        (vec![txn(None, 9)], vec![None], Fit::Next),
        (vec![txn(Some(4), 9)], vec![Some(4)], Fit::Next),
        (vec![txn(None, 9)], vec![Some(9)], Fit::Before),
        (vec![txn(None, 9)], vec![Some(12)], Fit::Before),
        (vec![txn(None, 9)], vec![Some(4)], Fit::Fenced(0)),
        (vec![txn(Some(4), 9)], vec![None], Fit::Fenced(0)),
        // Half of it is there: whoever put it there cut otherwise.
        (vec![txn(None, 9), txn(None, 3)], vec![Some(9), None], Fit::Fenced(0)),
        (vec![txn(None, 9), txn(None, 3)], vec![Some(9), Some(3)], Fit::Before),
        (vec![txn(None, 9), txn(None, 3)], vec![None, Some(1)], Fit::Fenced(1)),
        // A refresh at the same source version: the counter alone tells.
        (vec![txn(Some(7), 7), txn(Some(1), 2)], vec![Some(7), Some(1)], Fit::Next),
        (vec![txn(Some(7), 7), txn(Some(1), 2)], vec![Some(7), Some(2)], Fit::Before),
        (vec![txn(Some(7), 7), txn(Some(1), 2)], vec![Some(8), Some(1)], Fit::Fenced(0)),
    ] {
        assert_eq!(fit(&txns, &found), fits, "{txns:?} {found:?}");
    }
}

/// Walks an attempt through what the shell tells it; what it did, in a line.
fn walk(under_lease: bool, heard: &[Heard]) -> String {
    let (mut attempt, first) = Attempt::begin(under_lease);
    let mut line = format!("{first:?}");
    for heard in heard {
        line += &match attempt.step(*heard) {
            // After a rest the shell loads.
            Do::Rest(_) => " Load".to_owned(),
            Do::End(end) => format!(" {end:?}"),
            next => format!(" {next:?}"),
        };
    }
    line
}

#[test]
fn every_failed_act_leads_back_to_the_table() {
    const NEXT: Heard = Heard::Loaded(Fit::Next);
    const NO: Heard = Heard::Failed(Trouble::Passing);
    const NEVER: Heard = Heard::Failed(Trouble::Lasting);
    for (under_lease, heard, did) in [
        (false, &[NEXT, Heard::Landed][..], "Load Build Landed"),
        (true, &[NEXT, Heard::Ours, Heard::Landed], "Load AskLease Build Landed"),
        (false, &[NEXT, NO, Heard::Loaded(Fit::Before)], "Load Build Load LandedBefore"),
        (true, &[NEXT, Heard::Ours, NO, NEXT, Heard::NotOurs], "Load AskLease Build Load AskLease LeaseLost"),
        (true, &[NEXT, NO, NEXT, Heard::Ours, Heard::Landed], "Load AskLease Load AskLease Build Landed"),
        (false, &[NEXT, NO, NO, Heard::Loaded(Fit::Fenced(1))], "Load Build Load Load Fenced(1)"),
        (false, &[NO, NO, NO, NO, NO, NO], "Load Load Load Load Load Load GiveUp"),
        (false, &[NEVER], "Load GiveUp"),
        (false, &[NEXT, NEVER, Heard::Loaded(Fit::Before)], "Load Build Load LandedBefore"),
        (false, &[NEXT, NEVER, NEXT, NO], "Load Build Load Build GiveUp"),
    ] {
        assert_eq!(walk(under_lease, heard), did);
    }
}

#[test]
fn rests_grow() {
    let (mut attempt, _) = Attempt::begin(false);
    let mut rests = vec![];
    while let Do::Rest(rest) = attempt.step(Heard::Failed(Trouble::Passing)) {
        rests.push(rest.as_millis());
    }
    assert_eq!(rests, [100, 200, 400, 800, 1_600]);
    assert_eq!(attempt.failed(), TRIES_MAX);
}
