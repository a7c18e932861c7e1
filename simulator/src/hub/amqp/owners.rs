//! Who receives from a partition. A receiver with an owner level (epoch) wants to be the only one of its consumer group.
//!
//! | there are          | comes without level | comes with level n                        |
//! |--------------------|---------------------|-------------------------------------------|
//! | none               | welcome             | welcome                                   |
//! | some without level | welcome, up to five | welcome, the others are disconnected      |
//! | one with level m   | refused             | m <= n: takes over; n < m: refused        |

use std::collections::HashMap;

/// Receivers without owner level per partition and consumer group, as the service allows.
const SHARED_MAX: usize = 5;

/// A partition as one consumer group sees it.
pub(super) type Key = (String, u32);

/// All receivers; `T` is what reaches one that is disconnected.
#[derive(Debug)]
pub(super) struct Owners<T> {
    slots: HashMap<Key, Vec<Slot<T>>>,
    next: u64,
}

#[derive(Debug)]
struct Slot<T> {
    id: u64,
    level: Option<i64>,
    reach: T,
}

/// A place as receiver, and whoever had to make room for it.
#[derive(Debug)]
pub(super) struct Claim<T> {
    pub(super) id: u64,
    pub(super) displaced: Vec<T>,
}

/// Why there is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    #[error(
        "At least one receiver for the endpoint is created with epoch of '{owner}', and so {} is not allowed. \
         Either reconnect with a higher epoch, or make sure all epoch receivers are closed or disconnected.",
        level.map_or("non-epoch receiver".to_owned(), |level| format!("receiver with epoch of '{level}'"))
    )]
    Owned { owner: i64, level: Option<i64> },
    #[error("Exceeded the maximum number of allowed receivers per partition in a consumer group which is {SHARED_MAX}")]
    Full,
}

impl<T> Default for Owners<T> {
    fn default() -> Self {
        Self { slots: HashMap::new(), next: 0 }
    }
}

impl<T> Owners<T> {
    /// Takes a place, at the expense of others if the level allows.
    pub(super) fn claim(&mut self, key: Key, level: Option<i64>, reach: T) -> Result<Claim<T>, Denied> {
        let slots = self.slots.entry(key).or_default();
        let owner = slots.iter().filter_map(|slot| slot.level).max();
        let displaced = match (owner, level) {
            (Some(owner), _) if level.is_none_or(|level| level < owner) => return Err(Denied::Owned { owner, level }),
            (_, Some(_)) => std::mem::take(slots).into_iter().map(|slot| slot.reach).collect(),
            (_, None) if SHARED_MAX <= slots.len() => return Err(Denied::Full),
            (_, None) => vec![],
        };
        self.next += 1;
        slots.push(Slot { id: self.next, level, reach });
        Ok(Claim { id: self.next, displaced })
    }

    /// Gives a place back; a place that was taken away is gone already.
    pub(super) fn leave(&mut self, key: &Key, id: u64) {
        if let Some(slots) = self.slots.get_mut(key) {
            slots.retain(|slot| slot.id != id);
            if slots.is_empty() {
                self.slots.remove(key);
            }
        }
    }

    /// Takes their places from all receivers of some partitions.
    pub(super) fn evict(&mut self, of: impl Fn(&Key) -> bool) -> Vec<T> {
        let evicted = self.slots.extract_if(|key, _| of(key));
        evicted.flat_map(|(_, slots)| slots).map(|slot| slot.reach).collect()
    }

    /// How many receivers there are.
    pub(super) fn len(&self) -> usize {
        self.slots.values().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(partition: u32) -> Key {
        ("$default".to_owned(), partition)
    }

    #[test]
    fn each_row_of_the_table_holds() {
        let mut owners = Owners::default();
        let mut claim = |level, name| owners.claim(key(0), level, name).map(|claim| claim.displaced);
        assert_eq!(claim(None, "a"), Ok(vec![]));
        assert_eq!(claim(None, "b"), Ok(vec![]));
        assert_eq!(claim(Some(0), "c"), Ok(vec!["a", "b"]), "a level displaces those without");
        assert_eq!(claim(None, "d"), Err(Denied::Owned { owner: 0, level: None }));
        assert_eq!(claim(Some(0), "e"), Ok(vec!["c"]), "the same level takes over");
        assert_eq!(claim(Some(7), "f"), Ok(vec!["e"]));
        assert_eq!(claim(Some(6), "g"), Err(Denied::Owned { owner: 7, level: Some(6) }));
        assert_eq!(owners.len(), 1);
    }

    #[test]
    fn five_may_share_and_a_place_given_back_is_free() {
        let mut owners = Owners::default();
        let ids: Vec<u64> = (0..5).map(|_| owners.claim(key(0), None, ()).expect("room").id).collect();
        assert_eq!(owners.claim(key(0), None, ()).expect_err("full"), Denied::Full);
        assert!(owners.claim(key(1), None, ()).is_ok(), "another partition is another matter");
        owners.leave(&key(0), ids[2]);
        assert!(owners.claim(key(0), None, ()).is_ok());
    }

    #[test]
    fn who_is_evicted_leaves_its_place_to_anybody() {
        let mut owners = Owners::default();
        owners.claim(key(0), Some(5), "a").expect("room");
        owners.claim(key(1), None, "b").expect("room");
        owners.claim(("other".to_owned(), 0), None, "c").expect("room");
        let mut evicted = owners.evict(|(_, partition)| *partition == 0);
        evicted.sort_unstable();
        assert_eq!((evicted, owners.len()), (vec!["a", "c"], 1));
        assert!(owners.claim(key(0), None, "d").is_ok());
    }

    #[test]
    fn who_was_displaced_cannot_give_back_the_place_of_another() {
        let mut owners = Owners::default();
        let first = owners.claim(key(0), Some(1), "first").expect("room").id;
        owners.claim(key(0), Some(1), "second").expect("takes over");
        owners.leave(&key(0), first);
        assert_eq!(owners.claim(key(0), None, "third").expect_err("owned"), Denied::Owned { owner: 1, level: None });
    }
}
