//! Whatever happens, the outbox is a queue.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Deed {
    Append(Vec<Option<u64>>),
    Ack(usize),
    GiveUp(usize),
    Resend,
    Restart,
    Kill,
    Wait(i64),
    Prune,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => proptest::collection::vec(proptest::option::of(0..30u64), 1..20).prop_map(Deed::Append),
        3 => (0..30usize).prop_map(Deed::Ack),
        1 => (0..10usize).prop_map(Deed::GiveUp),
        1 => Just(Deed::Resend),
        1 => Just(Deed::Restart),
        1 => Just(Deed::Kill),
        1 => (1..400i64).prop_map(Deed::Wait),
        1 => Just(Deed::Prune),
    ]
}

/// What the outbox is to be, without a disk.
#[derive(Default)]
struct Model {
    /// Held rows in the order of sending.
    held: std::collections::VecDeque<(Epoch, i64)>,
    /// Keys with the second they were stored.
    keys: Vec<(u64, i64)>,
    stored: u64,
    given_up: u64,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 3 / 16, ..ProptestConfig::default() })]

    #[test]
    fn the_outbox_is_a_queue_that_survives_whatever_happens(deeds in proptest::collection::vec(deed(), 1..40)) {
        let place = place();
        let (mut rig, _) = Rig::open(&place.path, 0);
        let mut model = Model::default();
        for deed in deeds {
            let second = rig.second;
            match deed {
                Deed::Append(keys) => {
                    let epoch = rig.store.epoch();
                    let mut seq = rig.store.high().0;
                    for number in &keys {
                        let known = number.is_some_and(|number| {
                            model.keys.iter().any(|(known, at)| *known == number && second - at <= 600)
                        });
                        if !known {
                            seq += 1;
                            model.stored += 1;
                            model.held.push_back((epoch, seq));
                            model.keys.extend(number.map(|number| (number, second)));
                        }
                    }
                    // The worker looks for what to forget in every commit.
                    rig.store.has_prunable().expect("readable");
                    rig.append(keys);
                }
                Deed::Ack(count) => {
                    rig.ack_rows(count);
                    model.held.drain(..count.min(model.held.len()));
                }
                Deed::GiveUp(count) => {
                    let ids: Vec<_> = rig.held().into_iter().take(count).collect();
                    for (id, ..) in ids {
                        rig.store.give_up_rows(&[id], "dropped").expect("given up");
                        model.held.pop_front();
                        model.given_up += 1;
                    }
                }
                Deed::Resend => {
                    // Which rows linger is the store's to decide; the model takes its word for the number and the ids.
                    let before = rig.held().len();
                    let given_up = rig.books().given_up;
                    let selection = rig.store.pin(Selection::default()).expect("pinned");
                    while 0 < rig.store.resend(&selection).expect("marked") {}
                    let again: Vec<_> = rig.held().split_off(before);
                    model.held.extend(again.iter().map(|(_, epoch, seq)| (*epoch, seq.0)));
                    model.given_up -= given_up - rig.books().given_up;
                }
                Deed::Restart => {
                    let second = rig.second;
                    rig.stop();
                    rig = Rig::open(&place.path, second).0;
                }
                Deed::Kill => {
                    let second = rig.second;
                    drop(rig);
                    rig = Rig::open(&place.path, second).0;
                }
                Deed::Wait(seconds) => rig.tick(seconds),
                Deed::Prune => {
                    rig.store.prune(Linger::WhileRemembered).expect("pruned");
                }
            }
            let held: Vec<_> = rig.held().into_iter().map(|(_, epoch, seq)| (epoch, seq.0)).collect();
            prop_assert_eq!(&held, &Vec::from(model.held.clone()));
            let books = rig.books();
            prop_assert_eq!((books.stored, books.held, books.given_up), (model.stored, held.len() as u64, model.given_up));
        }
    }
}
