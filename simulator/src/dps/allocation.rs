//! [p] Which hub a device belongs to, and what that means for one that has a hub already.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// How a hub is chosen among those an enrolment allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Allocation {
    /// Each has the same chance, by the registration id; a hub that is added or taken away moves only its share.
    #[default]
    Hashed,
    /// The first of those the enrolment names.
    Static,
}

/// What a further registration does to a device that has a hub.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reprovision {
    /// The hub is chosen again; where it is another, the device's data move there.
    #[default]
    Migrate,
    /// The hub is chosen again; the device begins with the enrolment's initial twin, even where it stays.
    Reset,
    /// It stays where it is.
    Never,
}

/// No hub can be chosen; the text is for the device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Nowhere {
    #[error("no IoT hub is linked")]
    NoHub,
    #[error("the allocation is static and the enrollment names no IoT hub")]
    NoneNamed,
    #[error("the enrollment names only IoT hubs that are not linked: {0}")]
    NotLinked(String),
}

/// Chooses among `linked` hubs, by their host names; `wanted` are those the enrolment names, none for all.
pub(super) fn choose<'h>(
    allocation: Allocation,
    wanted: &[String],
    linked: &'h [String],
    registration_id: &str,
) -> Result<&'h str, Nowhere> {
    let same = |one: &str, other: &str| one.eq_ignore_ascii_case(other);
    let not_linked = || Nowhere::NotLinked(wanted.join(", "));
    match (allocation, wanted, linked) {
        (_, _, []) => Err(Nowhere::NoHub),
        (Allocation::Static, [], [only]) => Ok(only),
        (Allocation::Static, [], _) => Err(Nowhere::NoneNamed),
        (Allocation::Static, wanted, linked) => {
            let mut found = wanted.iter().filter_map(|name| linked.iter().find(|hub| same(hub, name)));
            found.next().map(String::as_str).ok_or_else(not_linked)
        }
        (Allocation::Hashed, wanted, linked) => {
            let allowed = |hub: &&String| wanted.is_empty() || wanted.iter().any(|name| same(hub, name));
            let best = linked.iter().filter(allowed).max_by_key(|hub| weight(hub, registration_id));
            best.map(String::as_str).ok_or_else(not_linked)
        }
    }
}

/// The hub of the greatest weight is chosen (rendezvous hashing).
fn weight(hub: &str, registration_id: &str) -> [u8; 32] {
    let (hub, id) = (hub.to_ascii_lowercase(), registration_id.to_ascii_lowercase());
    Sha256::new().chain_update(hub).chain_update([0]).chain_update(id).finalize().into()
}

/// What becomes of a device.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// It is made there, with the initial twin.
    First { hub: &'a str },
    /// It is there, and keeps its data.
    Stay { hub: &'a str },
    /// It is there, and begins anew.
    Reset { hub: &'a str },
    /// It goes elsewhere, with its data.
    Migrate { from: &'a str, to: &'a str },
    /// It goes elsewhere, and begins anew.
    ResetElsewhere { to: &'a str },
}

/// What a registration does; `before` is the hub the device has, `chosen` the one it would be given now.
pub(super) fn plan<'a>(
    before: Option<&'a str>,
    policy: Reprovision,
    chosen: Result<&'a str, Nowhere>,
) -> Result<Step<'a>, Nowhere> {
    Ok(match (before, policy) {
        (None, _) => Step::First { hub: chosen? },
        (Some(hub), Reprovision::Never) => Step::Stay { hub },
        (Some(from), Reprovision::Migrate) => match chosen? {
            hub if hub.eq_ignore_ascii_case(from) => Step::Stay { hub },
            to => Step::Migrate { from, to },
        },
        (Some(from), Reprovision::Reset) => match chosen? {
            hub if hub.eq_ignore_ascii_case(from) => Step::Reset { hub },
            to => Step::ResetElsewhere { to },
        },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn static_takes_the_first_named_hub_that_is_linked() {
        let linked = names(&["east", "west", "north"]);
        let chosen = |wanted: &[&str]| choose(Allocation::Static, &names(wanted), &linked, "d");
        assert_eq!(chosen(&["west", "east"]), Ok("west"));
        assert_eq!(chosen(&["moon", "North"]), Ok("north"));
        assert_eq!(chosen(&["moon"]), Err(Nowhere::NotLinked("moon".to_owned())));
        assert_eq!(chosen(&[]), Err(Nowhere::NoneNamed));
        assert_eq!(choose(Allocation::Static, &[], &linked[..1], "d"), Ok("east"), "there is no other");
    }

    #[test]
    fn hashed_gives_each_hub_its_share_and_moves_only_the_share_of_a_new_one() {
        let (two, three) = (names(&["east", "west"]), names(&["east", "west", "north"]));
        let of = |hubs: &[String], at: u32| {
            choose(Allocation::Hashed, &[], hubs, &format!("press-{at}")).expect("a hub").to_owned()
        };
        let (mut counts, mut moved) = ([0, 0, 0], 0);
        for at in 0..3_000 {
            let (before, after) = (of(&two, at), of(&three, at));
            counts[three.iter().position(|hub| *hub == after).expect("one of them")] += 1;
            if before != after {
                assert_eq!(after, "north");
                moved += 1;
            }
        }
        // The standard deviation of each count is 26.
        assert!(counts.iter().all(|count| (870..=1_130).contains(count)), "{counts:?}");
        assert_eq!(moved, counts[2]);
        let only = choose(Allocation::Hashed, &names(&["WEST"]), &three, "d");
        assert_eq!(only, Ok("west"), "among those the enrolment names");
    }

    #[test]
    fn a_device_that_has_a_hub_keeps_or_leaves_it_as_the_policy_says() {
        use Reprovision::{Migrate, Never, Reset};
        let nowhere = || Err(Nowhere::NoHub);
        for (before, policy, chosen, wanted) in [
            (None, Migrate, Ok("a"), Ok(Step::First { hub: "a" })),
            (None, Never, nowhere(), Err(Nowhere::NoHub)),
            (Some("a"), Migrate, Ok("A"), Ok(Step::Stay { hub: "A" })),
            (Some("a"), Migrate, Ok("b"), Ok(Step::Migrate { from: "a", to: "b" })),
            (Some("a"), Migrate, nowhere(), Err(Nowhere::NoHub)),
            (Some("a"), Reset, Ok("a"), Ok(Step::Reset { hub: "a" })),
            (Some("a"), Reset, Ok("b"), Ok(Step::ResetElsewhere { to: "b" })),
            (Some("a"), Never, Ok("b"), Ok(Step::Stay { hub: "a" })),
            (Some("a"), Never, nowhere(), Ok(Step::Stay { hub: "a" })),
        ] {
            assert_eq!(plan(before, policy, chosen.clone()), wanted, "{before:?} {policy:?} {chosen:?}");
        }
    }

    proptest! {
        #[test]
        fn a_choice_is_one_of_the_linked_and_always_the_same(
            allocation in prop_oneof![Just(Allocation::Hashed), Just(Allocation::Static)],
            wanted in proptest::collection::vec("[a-d]", 0..3),
            linked in proptest::collection::vec("[a-d]", 0..4),
            id in ".{0,20}",
        ) {
            let chosen = choose(allocation, &wanted, &linked, &id);
            prop_assert_eq!(&chosen, &choose(allocation, &wanted, &linked, &id));
            if let Ok(hub) = chosen {
                prop_assert!(linked.iter().any(|name| name == hub));
                prop_assert!(wanted.is_empty() || wanted.iter().any(|name| name == hub));
            }
        }
    }
}
