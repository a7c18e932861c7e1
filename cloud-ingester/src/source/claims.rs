//! Which partitions of the hub this ingester reads, where several share one hub and one lake. Pure.
//!
//! Every partition has a record in the lake: who reads it, and at which level. A record is only ever replaced by whoever
//! saw its newest tag, so of two who want it one gets it. Each claim by another raises the level, which the hub holds
//! receivers to: an older one is detached and not let in again.
//!
//! - An owner believes in its claim for [`Timing::believed`] after it last asked to renew it, by its own clocks, steady
//!   and wall; then it stops reading.
//! - Others take a record over when it has not changed for [`Timing::expires`], by their own steady clock, counted from
//!   when they first saw it so. No clock is ever compared with another's, so none has to be right.
//! - What all this decides is who reads. What is in bronze is decided by bronze's `txn` alone.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use shared::time::Timestamp;

/// How long things last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two looks at the records.
    pub round: Duration,
    /// How old a claim gets before it is renewed.
    pub renewed: Duration,
    /// How long an owner believes in a claim that it could not renew.
    pub believed: Duration,
    /// How long a record may stay unchanged before others take it.
    pub expires: Duration,
}

impl Timing {
    /// All of it from the one number people set.
    #[must_use]
    pub fn expiring_after(expires: Duration) -> Self {
        Self { round: expires / 6, renewed: expires / 3, believed: expires * 2 / 3, expires }
    }
}

/// A moment by both clocks of a machine: one that never jumps but may stand still while the machine sleeps, one that goes
/// on but may jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Since some fixed moment.
    pub steady: Duration,
    /// The wall clock.
    pub wall: Timestamp,
}

impl Moment {
    /// The time since `earlier`, by whichever clock counts more.
    fn since(self, earlier: Self) -> Duration {
        self.steady.saturating_sub(earlier.steady).max(self.wall.since(earlier.wall))
    }
}

/// An ingester.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// One start of it; never used again.
    pub run: String,
    /// Where only one can run at a time (machine and listening address): a later run there means that this one is gone.
    pub place: String,
}

/// Who reads a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Who.
    pub member: Member,
    /// The level at which it reads; each new owner has a higher one.
    pub level: i64,
}

/// What is known of a partition's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which partition.
    pub partition: i32,
    /// Who reads it, if anybody does.
    pub owner: Option<Owner>,
    /// The highest level anybody had.
    pub level: i64,
    /// What identifies this state of it.
    pub tag: String,
}

/// A record to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Which partition.
    pub partition: i32,
    /// Whether it shall be ours; otherwise nobody's.
    pub ours: bool,
    /// The level to write.
    pub level: i64,
    /// The state to replace; `None` if there shall be none yet.
    pub over: Option<String>,
}

#[derive(Clone, Debug)]
struct Mine {
    level: i64,
    tag: String,
    /// When the last renewal that landed was asked for.
    renewed: Moment,
}

#[derive(Clone, Debug)]
struct Watched {
    tag: String,
    since: Duration,
}

/// The claims of one ingester.
#[derive(Debug)]
pub struct Claims {
    me: Member,
    timing: Timing,
    mine: BTreeMap<i32, Mine>,
    watched: HashMap<i32, Watched>,
    /// Others that held partitions at the last look.
    others: usize,
}

impl Claims {
    /// None yet.
    #[must_use]
    pub fn new(me: Member, timing: Timing) -> Self {
        Self { me, timing, mine: BTreeMap::new(), watched: HashMap::new(), others: 0 }
    }

    /// The partitions it may read now, and at which level.
    #[must_use]
    pub fn held(&self, now: Moment) -> BTreeMap<i32, i64> {
        let believed = self.mine.iter().filter(|(_, mine)| now.since(mine.renewed) < self.timing.believed);
        believed.map(|(&partition, mine)| (partition, mine.level)).collect()
    }

    /// How many others held partitions at the last look.
    #[must_use]
    pub fn others(&self) -> usize {
        self.others
    }

    /// What to write, after a look at the records. `stopping`: nothing new is claimed.
    ///
    /// | a record                              | so                                                  |
    /// |---------------------------------------|-----------------------------------------------------|
    /// | ours, as we left it                   | renewed when due                                    |
    /// | ours, otherwise: an answer was lost   | written again, and believed from then on            |
    /// | another's                             | its own, while it changes now and then              |
    /// | another's, of a run that is gone      | free: unchanged too long, or a later run in its place |
    /// | nobody's, or none                     | free                                                |
    ///
    /// Free ones are taken up to the fair share; then what others have more of is taken from them, as long as they keep as
    /// much as we get.
    pub fn plan(&mut self, now: Moment, partitions: &[i32], found: &[Record], stopping: bool) -> Vec<Wish> {
        let found: BTreeMap<i32, &Record> = found.iter().map(|record| (record.partition, record)).collect();
        let mut wishes = vec![];
        let mut free = vec![];
        let mut theirs: BTreeMap<&Member, Vec<i32>> = BTreeMap::new();
        let mut ours = 0;
        for &partition in partitions {
            let Some(record) = found.get(&partition) else {
                self.mine.remove(&partition);
                free.push(partition);
                continue;
            };
            let watched =
                self.watched.entry(partition).or_insert_with(|| Watched { tag: String::new(), since: now.steady });
            if watched.tag != record.tag {
                *watched = Watched { tag: record.tag.clone(), since: now.steady };
            }
            let unchanged = now.steady.saturating_sub(watched.since);
            match &record.owner {
                Some(owner) if owner.member == self.me => {
                    ours += 1;
                    let as_left = self.mine.get(&partition).filter(|mine| mine.tag == record.tag);
                    if as_left.is_none_or(|mine| self.timing.renewed <= now.since(mine.renewed)) {
                        wishes.push(self.wish(partition, owner.level, Some(record)));
                    }
                }
                Some(owner) if !self.is_gone(&owner.member, unchanged) => {
                    self.mine.remove(&partition);
                    theirs.entry(&owner.member).or_default().push(partition);
                }
                _ => {
                    self.mine.remove(&partition);
                    free.push(partition);
                }
            }
        }
        self.mine.retain(|partition, _| partitions.contains(partition));
        self.others = theirs.len();
        if !stopping {
            let taken = self.take(partitions.len(), ours, free, theirs);
            wishes.extend(taken.into_iter().map(|partition| {
                let record = found.get(&partition).copied();
                self.wish(partition, record.map_or(1, |record| record.level + 1), record)
            }));
        }
        wishes
    }

    fn wish(&self, partition: i32, level: i64, over: Option<&Record>) -> Wish {
        Wish { partition, ours: true, level, over: over.map(|record| record.tag.clone()) }
    }

    fn is_gone(&self, owner: &Member, unchanged: Duration) -> bool {
        self.timing.expires <= unchanged || (owner.place == self.me.place && owner.run != self.me.run)
    }

    /// Which partitions to take: free ones up to the share, one more while some are left over, then what others have too
    /// much of.
    fn take(&self, all: usize, ours: usize, free: Vec<i32>, theirs: BTreeMap<&Member, Vec<i32>>) -> Vec<i32> {
        let members = theirs.len() + 1;
        let share = all / members;
        let mut missing = share.saturating_sub(ours);
        if missing == 0 && !free.is_empty() && ours < all.div_ceil(members) {
            missing = 1;
        }
        let mut taken: Vec<i32> = self.in_my_order(free).into_iter().take(missing).collect();
        let mut theirs: Vec<Vec<i32>> = theirs.into_values().map(|partitions| self.in_my_order(partitions)).collect();
        while taken.len() < share.saturating_sub(ours) {
            let Some(richest) = theirs.iter_mut().max_by_key(|partitions| partitions.len()) else { break };
            if richest.len() < ours + taken.len() + 2 {
                break;
            }
            taken.extend(richest.pop());
        }
        // With the share and no more, where another has two more than that: one of them.
        if taken.is_empty()
            && let Some(richest) = theirs.iter_mut().max_by_key(|partitions| partitions.len())
            && ours + 2 <= richest.len()
        {
            taken.extend(richest.pop());
        }
        taken
    }

    /// Each member has another order, so that two who want the same number of partitions seldom want the same ones.
    fn in_my_order(&self, mut partitions: Vec<i32>) -> Vec<i32> {
        let seed = self.me.run.bytes().fold(7_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let mixed = |partition: i32| (seed ^ u64::from(partition.cast_unsigned())).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        partitions.sort_by_key(|&partition| mixed(partition) >> 32);
        partitions
    }

    /// What became of a wish that was asked for at `asked`: its new tag, or `None` where another was faster or nothing is
    /// known.
    pub fn wrote(&mut self, asked: Moment, wish: &Wish, tag: Option<String>) {
        match tag {
            Some(tag) if wish.ours => {
                self.mine.insert(wish.partition, Mine { level: wish.level, tag, renewed: asked });
            }
            // A renewal that failed leaves the claim as it was: the next look tells, or it runs out.
            None if self.mine.get(&wish.partition).is_some_and(|mine| mine.level == wish.level) => {}
            _ => {
                self.mine.remove(&wish.partition);
            }
        }
    }

    /// What to write to give everything back.
    #[must_use]
    pub fn give_back(&self) -> Vec<Wish> {
        let mine = self.mine.iter();
        mine.map(|(&partition, mine)| Wish { partition, ours: false, level: mine.level, over: Some(mine.tag.clone()) })
            .collect()
    }
}

#[cfg(test)]
mod tests;
