//! Many ingesters, in virtual time, with everything that can happen to them.

use std::collections::BTreeSet;

use super::*;

const PARTITIONS: i32 = 7;
/// A step of virtual time.
const STEP: Duration = Duration::from_millis(100);

fn timing() -> Timing {
    Timing::expiring_after(Duration::from_secs(30))
}

fn member(number: usize) -> Member {
    Member { run: format!("run-{number}"), place: format!("place-{number}") }
}

fn moment(seconds: u64) -> Moment {
    Moment {
        steady: Duration::from_secs(seconds),
        wall: Timestamp::from_millis(i64::try_from(seconds).expect("it fits") * 1_000),
    }
}

/// The same numbers from the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.roll(chances) == 0
    }
}

/// The records, as a store with conditional writes keeps them.
#[derive(Default)]
struct Store {
    records: BTreeMap<i32, Record>,
    writes: u64,
}

impl Store {
    fn write(&mut self, me: &Member, wish: &Wish) -> Option<String> {
        let now = self.records.get(&wish.partition);
        if now.map(|record| &record.tag) != wish.over.as_ref() {
            return None;
        }
        self.writes += 1;
        let tag = self.writes.to_string();
        let owner = wish.ours.then(|| Owner { member: me.clone(), level: wish.level });
        let record = Record { partition: wish.partition, owner, level: wish.level, tag: tag.clone() };
        self.records.insert(wish.partition, record);
        Some(tag)
    }

    fn all(&self) -> Vec<Record> {
        self.records.values().cloned().collect()
    }
}

/// One ingester of the simulation.
struct One {
    claims: Claims,
    me: Member,
    /// Its steady clock began here; its wall clock is off by this.
    born: u64,
    skew: i64,
    /// The next look, and wishes on their way: when they arrive.
    looks_at: u64,
    under_way: Vec<(u64, Moment, Wish)>,
    paused_until: u64,
    leaving: bool,
}

impl One {
    fn moment(&self, step: u64) -> Moment {
        let steady = STEP * u32::try_from(step - self.born).expect("it fits");
        let wall = i64::try_from(step).expect("it fits") * 100 + self.skew;
        Moment { steady, wall: Timestamp::from_millis(wall) }
    }
}

struct World {
    dice: Dice,
    store: Store,
    step: u64,
    ingesters: Vec<One>,
    made: usize,
    /// While the store does not answer.
    dark_until: u64,
    partitions: Vec<i32>,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            store: Store::default(),
            step: 0,
            ingesters: vec![],
            made: 0,
            dark_until: 0,
            partitions: (0..PARTITIONS).collect(),
        }
    }

    fn join(&mut self, place: Option<String>) {
        let mut me = member(self.made);
        me.place = place.unwrap_or(me.place);
        self.made += 1;
        let skew = i64::try_from(self.dice.roll(7_200_000)).expect("it fits") - 3_600_000;
        let claims = Claims::new(me.clone(), timing());
        let one = One {
            claims,
            me,
            born: self.step,
            skew,
            looks_at: self.step,
            under_way: vec![],
            paused_until: 0,
            leaving: false,
        };
        self.ingesters.push(one);
    }

    fn misfortune(&mut self) {
        let running = self.ingesters.len() as u64;
        match self.dice.roll(9) {
            0 | 1 if running < 5 => self.join(None),
            2 if 1 < running => {
                let at = usize::try_from(self.dice.roll(running)).expect("it fits");
                self.ingesters.remove(at);
            }
            3 if 0 < running => {
                // Dies and is started again in the same place.
                let at = usize::try_from(self.dice.roll(running)).expect("it fits");
                let gone = self.ingesters.remove(at);
                self.join(Some(gone.me.place));
            }
            4 if 1 < running => {
                let at = usize::try_from(self.dice.roll(running)).expect("it fits");
                self.ingesters[at].leaving = true;
            }
            5 if 0 < running => {
                let at = usize::try_from(self.dice.roll(running)).expect("it fits");
                self.ingesters[at].paused_until = self.step + 10 * (1 + self.dice.roll(90));
            }
            6 if 0 < running => {
                let at = usize::try_from(self.dice.roll(running)).expect("it fits");
                self.ingesters[at].skew += i64::try_from(self.dice.roll(600_000)).expect("it fits") - 300_000;
            }
            7 => self.dark_until = self.step + 10 * self.dice.roll(40),
            _ => {}
        }
        if self.ingesters.is_empty() {
            self.join(None);
        }
    }

    /// One step of time. `calm`: nothing fails.
    fn turn(&mut self, calm: bool) {
        self.step += 1;
        let dark = !calm && self.step < self.dark_until;
        let mut left = vec![];
        for at in 0..self.ingesters.len() {
            let one = &mut self.ingesters[at];
            if !calm && self.step < one.paused_until {
                continue;
            }
            let now = one.moment(self.step);
            let (arrived, still): (Vec<_>, Vec<_>) =
                std::mem::take(&mut one.under_way).into_iter().partition(|(at, ..)| *at <= self.step);
            one.under_way = still;
            for (_, asked, wish) in arrived {
                let lost = dark || (!calm && self.dice.one_in(10));
                // Of the writes that fail, half have landed.
                let landed = if lost && self.dice.one_in(2) { None } else { self.store.write(&one.me, &wish) };
                one.claims.wrote(asked, &wish, if lost { None } else { landed });
            }
            if one.looks_at <= self.step && one.under_way.is_empty() {
                one.looks_at = self.step + 50;
                if dark || (!calm && self.dice.one_in(10)) {
                    continue;
                }
                if one.leaving {
                    for wish in one.claims.give_back() {
                        self.store.write(&one.me, &wish);
                    }
                    left.push(at);
                    continue;
                }
                let wishes = one.claims.plan(now, &self.partitions, &self.store.all(), false);
                let delay = if calm { 1 } else { 1 + self.dice.roll(15) };
                one.under_way = wishes.into_iter().map(|wish| (self.step + delay, now, wish)).collect();
            }
        }
        for at in left.into_iter().rev() {
            self.ingesters.remove(at);
        }
    }

    /// Who believes to own each partition; who is paused does nothing.
    fn believers(&self) -> BTreeMap<i32, Vec<usize>> {
        let mut believers: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        for (at, one) in self.ingesters.iter().enumerate() {
            if one.paused_until <= self.step {
                for partition in one.claims.held(one.moment(self.step)).into_keys() {
                    believers.entry(partition).or_default().push(at);
                }
            }
        }
        believers
    }

    fn levels(&self) -> Vec<i64> {
        self.store.records.values().map(|record| record.level).collect()
    }

    fn is_balanced(&self) -> bool {
        let believers = self.believers();
        let mut counts = vec![0; self.ingesters.len()];
        for owners in believers.values() {
            if owners.len() != 1 {
                return false;
            }
            counts[owners[0]] += 1;
        }
        let (most, least) = (counts.iter().max().copied(), counts.iter().min().copied());
        believers.len() == self.partitions.len() && most.unwrap_or(0) - least.unwrap_or(0) <= 1
    }
}

#[test]
fn whatever_happens_two_believe_for_no_longer_than_the_grace_and_calm_brings_balance_within_a_minute() {
    for seed in 1..=200 {
        let mut world = World::new(seed);
        world.join(None);
        let mut twice_since: BTreeMap<i32, u64> = BTreeMap::new();
        let mut levels: BTreeMap<i32, i64> = BTreeMap::new();
        for turn in 0..6_000 {
            if turn % 100 == 0 && world.dice.one_in(3) {
                world.misfortune();
            }
            world.turn(false);
            let believers = world.believers();
            let double: BTreeSet<i32> =
                believers.iter().filter(|(_, owners)| 1 < owners.len()).map(|(&partition, _)| partition).collect();
            twice_since.retain(|partition, _| double.contains(partition));
            for &partition in &double {
                let since = *twice_since.entry(partition).or_insert(world.step);
                let grace = timing().believed;
                let lasted = STEP * u32::try_from(world.step - since).expect("it fits");
                assert!(lasted <= grace, "seed {seed}: partition {partition} has two owners since {lasted:?}");
                // The hub lets one of them in: no two have the same level.
                let held: BTreeSet<i64> = believers[&partition]
                    .iter()
                    .map(|&at| world.ingesters[at].claims.held(world.ingesters[at].moment(world.step))[&partition])
                    .collect();
                assert_eq!(held.len(), believers[&partition].len(), "seed {seed}: partition {partition}");
            }
            for record in world.store.records.values() {
                let before = levels.insert(record.partition, record.level);
                assert!(before.is_none_or(|before| before <= record.level), "seed {seed}: a level went back");
            }
        }
        for one in &mut world.ingesters {
            one.paused_until = 0;
        }
        let mut unbalanced = 0;
        let mut levels = vec![];
        for calm in 0..1_200 {
            world.turn(true);
            if !world.is_balanced() {
                unbalanced = calm;
            }
            if calm == 600 {
                levels = world.levels();
            }
        }
        assert!(unbalanced < 600, "seed {seed}: no balance after {:?} of calm", STEP * unbalanced);
        // Nobody takes from another once all have their share.
        assert_eq!(levels, world.levels(), "seed {seed}: partitions went on changing hands");
    }
}

#[test]
fn one_alone_has_every_partition_after_one_look() {
    let mut claims = Claims::new(member(0), timing());
    let mut store = Store::default();
    let partitions = [0, 1, 2, 3];
    let wishes = claims.plan(moment(0), &partitions, &[], false);
    for wish in &wishes {
        let tag = store.write(&member(0), wish);
        claims.wrote(moment(0), wish, tag);
    }
    assert_eq!(claims.held(moment(1)), [(0, 1), (1, 1), (2, 1), (3, 1)].into());
    assert_eq!(claims.others(), 0);
    // It renews in time, and gives back what it has.
    assert!(claims.plan(moment(9), &partitions, &store.all(), false).is_empty());
    assert_eq!(claims.plan(moment(10), &partitions, &store.all(), false).len(), 4);
    assert!(claims.held(moment(20)).is_empty(), "what was not renewed is not believed in");
    assert!(claims.give_back().iter().all(|wish| !wish.ours && wish.level == 1));
}

#[test]
fn started_again_in_the_same_place_it_goes_on_at_once_at_a_higher_level() {
    let mut store = Store::default();
    let before = Member { run: "a".to_owned(), place: "here".to_owned() };
    for partition in 0..2 {
        store.write(&before, &Wish { partition, ours: true, level: 4, over: None });
    }
    for (place, expected) in [("here", vec![(0, 5), (1, 5)]), ("there", vec![(1, 5)])] {
        let me = Member { run: "b".to_owned(), place: place.to_owned() };
        let mut claims = Claims::new(me, timing());
        let wishes = claims.plan(moment(0), &[0, 1], &store.all(), false);
        let mut wished: Vec<_> = wishes.iter().map(|wish| (wish.partition, wish.level)).collect();
        wished.sort_unstable();
        assert_eq!(wished.len(), expected.len(), "{place}: {wished:?}");
        if place == "here" {
            assert_eq!(wished, expected);
        }
    }
}

#[test]
fn who_stops_takes_nothing_and_keeps_renewing_what_it_has() {
    let mut store = Store::default();
    let mut claims = Claims::new(member(0), timing());
    for wish in claims.plan(moment(0), &[0], &[], false) {
        let tag = store.write(&member(0), &wish);
        claims.wrote(moment(0), &wish, tag);
    }
    let wishes = claims.plan(moment(12), &[0, 1, 2], &store.all(), true);
    assert_eq!(wishes.iter().map(|wish| wish.partition).collect::<Vec<_>>(), [0]);
}
