//! What a table needs: which small files become large ones, which files nobody needs any more, how much of the log can
//! go. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use crate::lake::{Add, Listed, Logged};

/// How much is done, and how long what was replaced stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The least time between two looks at all tables; zero: only when asked.
    pub every: Duration,
    /// A partition of a day that ended so long ago is closed: few rows come into it any more.
    pub closed_after: Duration,
    /// Files are made about this large; what is smaller than half of it is small.
    pub file_bytes: u64,
    /// Files of one commit hold at most so many bytes.
    pub commit_bytes: u64,
    /// Small files of a closed partition that are worth a commit.
    pub closed_files: usize,
    /// Small files of an open partition that are.
    pub open_files: usize,
    /// Versions of the last so long can be read as they were, and their changes followed.
    pub log_retention: Duration,
    /// A file that is not part of its table any more is kept so long. At least `log_retention`.
    pub file_retention: Duration,
    /// So long a user's model that stays behind is waited for, on top of what the retentions keep anyway.
    pub model_patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let day = Duration::from_secs(86_400);
        Self {
            every: Duration::ZERO,
            closed_after: day,
            file_bytes: 128 << 20,
            commit_bytes: 256 << 20,
            closed_files: 4,
            open_files: 64,
            log_retention: 7 * day,
            file_retention: 7 * day,
            model_patience: 14 * day,
        }
    }
}

/// A file is written at most so long (ms) before the commit that adds it.
const WRITING: i64 = 86_400_000;

/// How the rows of a new file lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they came, in time: a window that is computed again finds its rows in few files.
    Time,
    /// By what people ask for: device, metric, then time.
    Keys,
}

/// Files of one partition to become fewer.
#[derive(Clone, Debug)]
pub struct Merge {
    /// The partition, as the log writes it; empty for a table without.
    pub partition: String,
    /// The files.
    pub files: Vec<Add>,
    /// How the rows lie afterwards.
    pub order: Order,
}

impl Merge {
    /// Their bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(bytes).sum()
    }
}

/// The partition of a file, as the log writes it; empty for a table without, none where a day is not known.
pub(super) fn partition<'a>(add: &'a Add, column: Option<&str>) -> Option<&'a str> {
    match column {
        Some(column) => add.partition_values.get(column)?.as_deref(),
        None => Some(""),
    }
}

fn bytes(add: &Add) -> u64 {
    u64::try_from(add.size).unwrap_or(0)
}

/// The next merge of a table whose partition column holds days (`2026-11-23`), closed ones first; `None` when there is
/// nothing worth a commit. A table without such a column is one partition, which stays open. `open_from`: the first day that is not closed; of open days only files written before `quiet`
/// (ms) are merged: hops replace the newest, and a merge of them would come too late again and again.
#[must_use]
pub fn merge(settings: &Settings, files: Vec<Add>, column: Option<&str>, open_from: &str, quiet: i64) -> Option<Merge> {
    let is_closed = |partition: &str| column.is_some() && partition < open_from;
    let mut small: BTreeMap<String, Vec<Add>> = BTreeMap::new();
    for add in files {
        if let Some(day) = partition(&add, column)
            && bytes(&add) < settings.file_bytes / 2
            && (is_closed(day) || add.modification_time < quiet)
        {
            small.entry(day.to_owned()).or_default().push(add);
        }
    }
    for (partition, mut files) in small {
        let closed = is_closed(&partition);
        let worth = if closed { settings.closed_files } else { settings.open_files };
        if files.len() < worth.max(2) {
            continue;
        }
        // The oldest first: what hops read last stays as it is the longest.
        files.sort_by(|a, b| (a.modification_time, &a.path).cmp(&(b.modification_time, &b.path)));
        let mut held = 0;
        let fits = files.iter().take_while(|add| {
            held += bytes(add);
            held <= settings.commit_bytes
        });
        let fits = fits.count().max(2);
        files.truncate(fits);
        let order = if closed { Order::Keys } else { Order::Time };
        return Some(Merge { partition, files, order });
    }
    None
}

/// Files below a table's directory that nobody needs: not part of the table, not needed by a reader that is behind, and
/// older than the retention, whether they were part of it once or never.
///
/// `gone` tells when a file was removed from the table (ms); `floor`: what was removed later than this (ms) may still be
/// read by the slowest reader. A checkpoint forgets what was removed long ago: while a reader is behind, what is unknown
/// and was written since may have been part of what it has yet to read.
#[must_use]
pub fn unneeded(
    settings: &Settings,
    listed: Vec<Listed>,
    live: &HashSet<String>,
    gone: &HashMap<String, i64>,
    now: i64,
    floor: i64,
) -> Vec<Listed> {
    let kept = i64::try_from(settings.file_retention.as_millis()).unwrap_or(i64::MAX);
    let before = now.saturating_sub(kept);
    let mut listed = listed;
    listed.retain(|file| {
        let old = file.modified < before;
        let needed = match gone.get(&file.path) {
            Some(at) => before <= *at || floor < *at,
            None => floor != i64::MAX && floor.saturating_sub(WRITING) < file.modified,
        };
        old && !needed && !live.contains(&file.path)
    });
    listed
}

/// The checkpoint at which a table's log may begin, and what goes before it; `None` when nothing can go.
///
/// `read`: the slowest reader has read up to this version, so entries after it stay.
#[must_use]
pub fn log_cut(settings: &Settings, log: &[Logged], now: i64, read: i64) -> Option<(i64, Vec<String>)> {
    let kept = i64::try_from(settings.log_retention.as_millis()).unwrap_or(i64::MAX);
    let before = now.saturating_sub(kept);
    // Every version of the retention can be built: the log begins at a checkpoint not above the oldest of them.
    let oldest = log.iter().filter(|entry| before <= entry.modified).map(|entry| entry.version).min();
    let newest = log.iter().map(|entry| entry.version).max()?;
    let limit = oldest.unwrap_or(newest).min(read);
    let begin =
        log.iter().filter(|entry| entry.checkpoint && entry.version <= limit).map(|entry| entry.version).max()?;
    let goes: Vec<String> = log
        .iter()
        .filter(|entry| entry.version < begin && entry.modified < before)
        .map(|entry| entry.path.clone())
        .collect();
    (!goes.is_empty()).then_some((begin, goes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    fn add(day: &str, number: i64, size: i64) -> Add {
        let partition_values = [("d".to_owned(), Some(day.to_owned()))].into();
        Add { path: format!("{day}/{number}"), size, modification_time: number, partition_values, ..Add::default() }
    }

    fn merged(files: Vec<Add>) -> Option<String> {
        let settings =
            Settings { file_bytes: 100, commit_bytes: 60, closed_files: 3, open_files: 4, ..Settings::default() };
        let told = |column| {
            let merge = merge(&settings, files.clone(), column, "2026-11-23", 5)?;
            let numbers: Vec<i64> = merge.files.iter().map(|add| add.modification_time).collect();
            Some(format!("{} {:?} {numbers:?}", merge.partition, merge.order))
        };
        if files.iter().all(|add| add.partition_values.contains_key("d")) { told(Some("d")) } else { told(None) }
    }

    fn many(day: &str, count: i64, size: i64) -> Vec<Add> {
        (0..count).rev().map(|number| add(day, number, size)).collect()
    }

    #[test]
    fn small_files_of_a_day_become_one_closed_days_first_and_the_oldest_first() {
        for (files, expected) in [
            (many("2026-11-22", 2, 10), None),
            (many("2026-11-22", 3, 10), Some("2026-11-22 Keys [0, 1, 2]")),
            (many("2026-11-22", 9, 10), Some("2026-11-22 Keys [0, 1, 2, 3, 4, 5]")),
            (many("2026-11-22", 9, 50), None),
            (many("2026-11-23", 3, 10), None),
            (many("2026-11-23", 4, 10), Some("2026-11-23 Time [0, 1, 2, 3]")),
            (many("2026-11-23", 9, 10), Some("2026-11-23 Time [0, 1, 2, 3, 4]")),
            ([many("2026-11-23", 4, 10), many("2026-11-21", 3, 45)].concat(), Some("2026-11-21 Keys [0, 1]")),
        ] {
            assert_eq!(merged(files.clone()).as_deref(), expected, "{files:?}");
        }
    }

    #[test]
    fn a_table_without_days_is_one_partition_that_stays_open() {
        let whole = |count| {
            let mut files = many("", count, 10);
            files.iter_mut().for_each(|add| add.partition_values.clear());
            merged(files)
        };
        assert_eq!(whole(3), None);
        assert_eq!(whole(4).as_deref(), Some(" Time [0, 1, 2, 3]"));
        assert_eq!(whole(9).as_deref(), Some(" Time [0, 1, 2, 3, 4]"), "the newest have to rest");
    }

    #[test]
    fn a_file_goes_when_nobody_can_need_it() {
        let settings = Settings { file_retention: Duration::from_secs(7 * 86_400), ..Settings::default() };
        let now = 100 * DAY;
        let file = |path: &str, age| Listed { path: path.into(), bytes: 1, modified: now - age * DAY };
        let listed = vec![
            file("live", 50),
            file("removed long ago", 50),
            file("removed lately", 50),
            file("unread", 50),
            file("never part of it", 8),
            file("never part of it, before", 12),
            file("being written", 1),
        ];
        let gone = [("removed long ago", 20), ("removed lately", 3), ("unread", 9)];
        let gone = gone.into_iter().map(|(path, age)| (path.to_owned(), now - age * DAY)).collect();
        let live = HashSet::from(["live".to_owned()]);
        let names = |floor| -> Vec<String> {
            let goes = unneeded(&settings, listed.clone(), &live, &gone, now, floor);
            goes.into_iter().map(|file| file.path).collect()
        };
        let old = ["removed long ago", "unread", "never part of it", "never part of it, before"];
        assert_eq!(names(i64::MAX), old, "nobody is behind");
        assert_eq!(names(now), ["removed long ago", "unread", "never part of it", "never part of it, before"]);
        assert_eq!(names(now - 10 * DAY), ["removed long ago", "never part of it, before"], "a checkpoint forgets");
    }

    #[test]
    fn a_log_begins_at_a_checkpoint_from_which_every_version_that_is_kept_can_be_built() {
        let settings = Settings { log_retention: Duration::from_secs(2 * 86_400), ..Settings::default() };
        let now = 100 * DAY;
        // A version a day; checkpoints of 3, 6 and 9; the newest version is of now.
        let mut log = vec![];
        for version in 0..=10 {
            let modified = now - (10 - version) * DAY;
            log.push(Logged { path: format!("{version}.json"), version, checkpoint: false, modified });
            if version % 3 == 0 && version != 0 {
                log.push(Logged { path: format!("{version}.parquet"), version, checkpoint: true, modified });
            }
        }
        let cut = |read| log_cut(&settings, &log, now, read).map(|(begin, goes)| (begin, goes.len()));
        assert_eq!(cut(10), Some((6, 7)), "8 to 10 are kept: 0 to 5 and the checkpoint of 3 go");
        assert_eq!(cut(4), Some((3, 3)), "a hop has read up to 4");
        assert_eq!(cut(2), None);
        assert_eq!(log_cut(&settings, &[], now, 10), None);
    }
}
