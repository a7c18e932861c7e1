//! The side file: every epoch whose closing the hub has not acknowledged, with a mark above which no seq was given.
//!
//! It lies beside the database and is no part of it: when the database is lost or put back from an old copy, it still
//! knows what was given, so the loss has a name. Raised and fsynced before a seq above the mark is given; replaced
//! whole by rename, so it is never half written. Beside each mark stands a `floor`, a seq that surely was stored: a
//! database that ends below it is an old copy.
//!
//! A second file, `floor`, follows what this run has stored commit by commit. It is written in place and never fsynced:
//! some sixty bytes into the page cache, which a `kill -9` leaves alone and the kernel writes out once in a while. A power
//! cut may take it back to an earlier one, never ahead of the database, whose commits are fsynced before.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shared::reading::{Epoch, Seq};
use shared::time::Timestamp;

use super::lock::beside;

/// Least seqs by which a mark is raised: what a lost database over-claims at most while little is stored.
const STEP_MIN: i64 = 256;
/// Most seqs by which a mark is raised: at full load one small write every few seconds.
const STEP_MAX: i64 = 65_536;
/// Marks raised sooner than this after one another are raised by more.
const STEP_MS: i64 = 5_000;
/// How often a floor follows what is stored so that a power cut does not undo it: one small write a minute.
const FLOOR_MS: i64 = 60_000;

/// What is known about an epoch outside the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// It has not ended, or its end was lost.
    Mark {
        /// No seq above this was given.
        mark: Seq,
        /// Seqs up to this were stored; 0 if that is not known.
        floor: Seq,
    },
    /// Exactly this was the last one.
    Last(Seq),
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Entry {
    Mark(Seq),
    Last(Seq),
}

#[derive(Debug, Serialize, Deserialize)]
struct Text {
    v: u32,
    /// The database is to be checked whole at the next start.
    #[serde(default)]
    suspect: bool,
    epochs: BTreeMap<Epoch, Entry>,
    /// Apart from the marks, so that versions that do not know of floors can read the file.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    floors: BTreeMap<Epoch, Seq>,
}

impl Text {
    fn of(epochs: &BTreeMap<Epoch, Known>, suspect: bool) -> Self {
        let mut text = Self { v: 1, suspect, epochs: BTreeMap::new(), floors: BTreeMap::new() };
        for (epoch, known) in epochs {
            let entry = match known {
                Known::Mark { mark, floor } => {
                    if Seq(0) < *floor {
                        text.floors.insert(*epoch, *floor);
                    }
                    Entry::Mark(*mark)
                }
                Known::Last(last) => Entry::Last(*last),
            };
            text.epochs.insert(*epoch, entry);
        }
        text
    }

    fn known(&self) -> BTreeMap<Epoch, Known> {
        let known = |(epoch, entry): (&Epoch, &Entry)| {
            let floor = self.floors.get(epoch).copied().unwrap_or(Seq(0));
            let known = match entry {
                Entry::Mark(mark) => Known::Mark { mark: *mark, floor },
                Entry::Last(last) => Known::Last(*last),
            };
            (*epoch, known)
        };
        self.epochs.iter().map(known).collect()
    }
}

/// What the file `floor` holds: a line whose length never changes.
#[derive(Debug, Deserialize)]
struct Followed {
    epoch: Epoch,
    floor: Seq,
}

impl Followed {
    /// Reads it; one that cannot be read says nothing.
    fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    fn line(&self) -> String {
        format!("{{\"epoch\":\"{}\",\"floor\":{:>20}}}\n", self.epoch, self.floor.0)
    }
}

/// The side file and what stands in it.
#[derive(Debug)]
pub(super) struct Side {
    path: PathBuf,
    epochs: BTreeMap<Epoch, Known>,
    suspect: bool,
    step: i64,
    raised_ms: i64,
    floored_ms: i64,
    floor_path: PathBuf,
    /// Open once this run has stored something.
    floor_file: Option<File>,
    /// The floor that was written into it last.
    followed: Seq,
}

/// How the side file was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// None there.
    Absent,
    /// Read.
    Read,
    /// It could not be understood and was moved to this place.
    Damaged(PathBuf),
}

impl Side {
    /// Reads the side file of the outbox at `database`. A damaged one is moved aside.
    pub(super) fn open(database: &Path, now: Timestamp) -> std::io::Result<(Self, Found)> {
        let path = beside(database, "epochs");
        let mut side = Self {
            path,
            epochs: BTreeMap::new(),
            suspect: false,
            step: STEP_MIN,
            raised_ms: i64::MIN,
            floored_ms: i64::MIN,
            floor_path: beside(database, "floor"),
            floor_file: None,
            followed: Seq(0),
        };
        let bytes = match std::fs::read(&side.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok((side, Found::Absent)),
            Err(error) => return Err(error),
        };
        match serde_json::from_slice::<Text>(&bytes) {
            Ok(text) if text.v == 1 => {
                side.epochs = text.known();
                if let Some(Followed { epoch, floor: seen }) = Followed::read(&side.floor_path)
                    && let Some(Known::Mark { mark, floor }) = side.epochs.get_mut(&epoch)
                    && (*floor..=*mark).contains(&seen)
                {
                    *floor = seen;
                }
                side.suspect = text.suspect;
                Ok((side, Found::Read))
            }
            _ => {
                let aside = beside(&side.path, &format!("unreadable-{}", now.micros()));
                std::fs::rename(&side.path, &aside)?;
                Ok((side, Found::Damaged(aside)))
            }
        }
    }

    /// What stands in it.
    pub(super) fn epochs(&self) -> &BTreeMap<Epoch, Known> {
        &self.epochs
    }

    /// True if the last run met damage in the database.
    pub(super) fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// Writes what is known at start, in place of what stood there.
    pub(super) fn replace(&mut self, epochs: BTreeMap<Epoch, Known>) -> std::io::Result<()> {
        self.write(&epochs, false)?;
        (self.epochs, self.suspect) = (epochs, false);
        Ok(())
    }

    /// Makes sure that `high` may be given in `epoch`, of which `stored` is the highest seq stored; on disk when it
    /// returns.
    pub(super) fn allow(&mut self, epoch: Epoch, stored: Seq, high: Seq, now_ms: i64) -> std::io::Result<()> {
        if let Some(Known::Mark { mark, .. }) = self.epochs.get(&epoch)
            && high <= *mark
        {
            return Ok(());
        }
        let quick = now_ms.saturating_sub(self.raised_ms) < STEP_MS;
        let step = if quick { self.step * 2 } else { self.step / 2 }.clamp(STEP_MIN, STEP_MAX);
        let mut epochs = self.epochs.clone();
        epochs.insert(epoch, Known::Mark { mark: Seq(high.0.saturating_add(step)), floor: stored });
        self.write(&epochs, self.suspect)?;
        (self.epochs, self.step, self.raised_ms, self.floored_ms) = (epochs, step, now_ms, now_ms);
        Ok(())
    }

    /// Notes that seqs of `epoch` up to `stored` are in the database. Proof against a kill at once; against a power cut for
    /// the first ones, then once a minute.
    pub(super) fn confirm(&mut self, epoch: Epoch, stored: Seq, now_ms: i64) -> std::io::Result<()> {
        let Some(Known::Mark { mark, floor }) = self.epochs.get(&epoch).copied() else { return Ok(()) };
        self.follow(epoch, stored)?;
        let due = floor == Seq(0) || FLOOR_MS <= now_ms.saturating_sub(self.floored_ms);
        if stored <= floor || !due {
            return Ok(());
        }
        let mut epochs = self.epochs.clone();
        epochs.insert(epoch, Known::Mark { mark, floor: stored });
        // Not tried again at once on a failing disk.
        self.floored_ms = now_ms;
        self.write(&epochs, self.suspect)?;
        self.epochs = epochs;
        Ok(())
    }

    /// Brings the file `floor` up to what this run has stored.
    fn follow(&mut self, epoch: Epoch, stored: Seq) -> std::io::Result<()> {
        if stored <= self.followed {
            return Ok(());
        }
        let file = match self.floor_file.take() {
            Some(file) => file,
            None => File::options().write(true).create(true).truncate(true).open(&self.floor_path)?,
        };
        file.write_all_at(Followed { epoch, floor: stored }.line().as_bytes(), 0)?;
        (self.floor_file, self.followed) = (Some(file), stored);
        Ok(())
    }

    /// The exact end of an epoch.
    pub(super) fn end(&mut self, epoch: Epoch, last: Seq) -> std::io::Result<()> {
        let mut epochs = self.epochs.clone();
        if last == Seq(0) {
            epochs.remove(&epoch);
        } else {
            epochs.insert(epoch, Known::Last(last));
        }
        if epochs != self.epochs {
            self.write(&epochs, self.suspect)?;
            self.epochs = epochs;
        }
        Ok(())
    }

    /// Takes out epochs whose closing the hub has acknowledged.
    pub(super) fn closed(&mut self, closed: &[Epoch]) -> std::io::Result<()> {
        let mut epochs = self.epochs.clone();
        epochs.retain(|epoch, _| !closed.contains(epoch));
        if epochs != self.epochs {
            self.write(&epochs, self.suspect)?;
            self.epochs = epochs;
        }
        Ok(())
    }

    /// Asks the next start to check the database whole.
    pub(super) fn suspect(&mut self) -> std::io::Result<()> {
        self.suspect = true;
        self.write(&self.epochs, true)
    }

    fn write(&self, epochs: &BTreeMap<Epoch, Known>, suspect: bool) -> std::io::Result<()> {
        let mut bytes = serde_json::to_vec(&Text::of(epochs, suspect)).expect("marks are plain data with text keys");
        bytes.push(b'\n');
        let draft = beside(&self.path, "new");
        let mut file = File::create(&draft)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&draft, &self.path)?;
        sync_directory_of(&self.path)
    }
}

/// Makes names in the directory of `path` survive a power cut.
pub(super) fn sync_directory_of(path: &Path) -> std::io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Epoch = Epoch::from_bits(0xa);
    const B: Epoch = Epoch::from_bits(0xb);

    fn open(database: &Path) -> (Side, Found) {
        Side::open(database, Timestamp::from_micros(7)).expect("readable")
    }

    #[test]
    fn a_mark_is_on_disk_before_a_seq_above_it_is_given() {
        let dir = tempfile::tempdir().expect("a directory");
        let database = dir.path().join("outbox.db");
        let (mut side, found) = open(&database);
        assert_eq!(found, Found::Absent);
        for high in [1, 200, 300, 5_000] {
            side.allow(A, Seq(high - 1), Seq(high), 0).expect("written");
            let (read, found) = open(&database);
            assert_eq!(found, Found::Read);
            let Some(Known::Mark { mark, .. }) = read.epochs().get(&A) else { panic!("a mark") };
            assert!(Seq(high) <= *mark && mark.0 <= high + STEP_MAX);
        }
        side.allow(B, Seq(0), Seq(1), 0).expect("written");
        side.end(A, Seq(5_000)).expect("written");
        assert_eq!(open(&database).0.epochs().get(&A), Some(&Known::Last(Seq(5_000))));
        side.closed(&[A]).expect("written");
        assert_eq!(open(&database).0.epochs().keys().collect::<Vec<_>>(), [&B]);
    }

    #[test]
    fn little_traffic_is_over_claimed_by_little() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut side, _) = open(&dir.path().join("outbox.db"));
        for minute in 0..20 {
            let high = Seq(1 + minute * 300);
            side.allow(A, Seq(high.0 - 1), high, minute * 60_000).expect("written");
            let Some(Known::Mark { mark, .. }) = side.epochs().get(&A) else { panic!("a mark") };
            assert!(mark.0 <= high.0 + STEP_MIN);
        }
    }

    #[test]
    fn a_floor_follows_every_commit_and_once_a_minute_it_outlives_a_power_cut() {
        let dir = tempfile::tempdir().expect("a directory");
        let database = dir.path().join("outbox.db");
        let (mut side, _) = open(&database);
        let floor = || match open(&database).0.epochs().get(&A) {
            Some(Known::Mark { floor, .. }) => floor.0,
            other => panic!("{other:?}"),
        };
        let floors = |now_ms: i64, stored: i64, side: &mut Side| {
            side.confirm(A, Seq(stored), now_ms).expect("written");
            let followed = std::fs::read(beside(&database, "floor")).expect("there");
            let after_kill = floor();
            std::fs::write(beside(&database, "floor"), b"").expect("as a power cut may leave it");
            let after_power_cut = floor();
            std::fs::write(beside(&database, "floor"), followed).expect("put back");
            (after_kill, after_power_cut)
        };
        side.allow(A, Seq(0), Seq(10), 0).expect("written");
        assert_eq!(floors(1, 10, &mut side), (10, 10));
        assert_eq!(floors(59_999, 20, &mut side), (20, 10));
        assert_eq!(floors(60_001, 200, &mut side), (200, 200));
        side.allow(A, Seq(200), Seq(1_000), 60_002).expect("written");
        assert_eq!(floors(60_003, 230, &mut side), (230, 200));
        // One that claims what was never given, or is of another epoch, says nothing.
        for text in
            ["{\"epoch\":\"000000000000000a\",\"floor\":5000000}", "{\"epoch\":\"000000000000000b\",\"floor\":300}"]
        {
            std::fs::write(beside(&database, "floor"), text).expect("written");
            assert_eq!(floor(), 200, "{text}");
        }
        // A file of before there were floors.
        std::fs::write(beside(&database, "epochs"), r#"{"v":1,"epochs":{"000000000000000a":{"mark":9}}}"#)
            .expect("written");
        assert_eq!(open(&database).0.epochs().get(&A), Some(&Known::Mark { mark: Seq(9), floor: Seq(0) }));
    }

    #[test]
    fn a_damaged_side_file_is_moved_aside() {
        let dir = tempfile::tempdir().expect("a directory");
        let database = dir.path().join("outbox.db");
        for damage in ["", "{", "[]", "{\"v\":2,\"epochs\":{}}", "{\"v\":1,\"epochs\":{\"x\":{\"mark\":1}}}", "\u{0}"] {
            std::fs::write(beside(&database, "epochs"), damage).expect("written");
            let (side, found) = open(&database);
            let Found::Damaged(aside) = found else { panic!("{damage:?} was read") };
            assert_eq!(std::fs::read_to_string(&aside).expect("kept"), damage);
            assert!(side.epochs().is_empty());
        }
    }
}
