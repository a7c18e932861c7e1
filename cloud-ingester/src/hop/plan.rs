//! What a hop does next: nothing, a range of its source's versions, or everything anew. Pure.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a hop has done, kept in the metadata of the commit that carries the rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The source table, e.g. `bronze.messages`.
    pub source: String,
    /// First source version read.
    pub from: i64,
    /// Last source version read.
    pub to: i64,
    /// Digest of the rules or of the model.
    pub rules: String,
    /// Version of the device catalogue, where one is joined in.
    pub catalogue: Option<i64>,
    /// All rows of the target were replaced.
    pub full: bool,
}

impl Plan {
    /// The plan of a commit that read one source, if it holds one.
    #[must_use]
    pub fn of(info: &std::collections::HashMap<String, Value>) -> Option<Self> {
        info.get("plan").and_then(|plan| serde_json::from_value(plan.clone()).ok())
    }
}

/// One version of the source, as far as planning goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The version.
    pub version: i64,
    /// Bytes of its new files.
    pub bytes: u64,
    /// It replaced rows rather than only adding some.
    pub replaces: bool,
}

/// Why a target is filled anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It has rows, but none of them are known to come from this source.
    UnknownSource,
    /// Rows of the source were replaced.
    SourceReplaced,
    /// The source's log does not reach back far enough.
    LogGone,
    /// A file that had to be read was vacuumed.
    FileGone,
    /// What is known of devices changed.
    Catalogue,
    /// Somebody asked for it.
    Asked,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::UnknownSource => "its rows come from another source",
            Self::SourceReplaced => "rows of its source were replaced",
            Self::LogGone => "the log of its source does not reach back far enough",
            Self::FileGone => "a file that had to be read was vacuumed",
            Self::Catalogue => "what is known of devices changed",
            Self::Asked => "asked for",
        })
    }
}

/// How a hop stands to its source, before any log entry is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// Nothing new.
    Level,
    /// The source went back to before what was read: it was restored from a copy.
    Ahead {
        /// What was read.
        done: i64,
    },
    /// New versions begin here.
    From(i64),
    /// Everything anew.
    Refresh(Why),
}

/// | progress of this source | rows in the target | source        | stand   |
/// |-------------------------|--------------------|---------------|---------|
/// | none, or only a fence   | some               | any           | Refresh |
/// | none, or only a fence   | none               | any           | From 0  |
/// | done                    | any                | newest = done | Level   |
/// | done                    | any                | newest < done | Ahead   |
/// | done                    | any                | newest > done | From    |
#[must_use]
pub fn stand(done: Option<i64>, target_has_rows: bool, newest: i64) -> Stand {
    match done.filter(|done| 0 <= *done) {
        None if target_has_rows => Stand::Refresh(Why::UnknownSource),
        None => Stand::From(0),
        Some(done) if newest == done => Stand::Level,
        Some(done) if newest < done => Stand::Ahead { done },
        Some(done) => Stand::From(done + 1),
    }
}

/// Takes the versions of a range one by one, until it is enough for one commit.
#[derive(Debug)]
pub struct Range {
    from: i64,
    to: i64,
    bytes: u64,
    bytes_max: u64,
}

/// What to do with the version just looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// It is part of the range.
    Yes,
    /// The range ends before it.
    Full,
    /// The target has to be filled anew.
    Refresh,
}

impl Range {
    /// A range that begins at `from` and takes files of about `bytes_max` bytes; one version it takes always.
    #[must_use]
    pub const fn new(from: i64, bytes_max: u64) -> Self {
        Self { from, to: from - 1, bytes: 0, bytes_max }
    }

    /// Looks at the next version.
    pub fn take(&mut self, step: &Step) -> Take {
        if step.replaces {
            return Take::Refresh;
        }
        let bytes = self.bytes.saturating_add(step.bytes);
        if 0 < self.bytes && 0 < step.bytes && self.bytes_max < bytes {
            return Take::Full;
        }
        self.bytes = bytes;
        self.to = step.version;
        Take::Yes
    }

    /// First version.
    #[must_use]
    pub const fn from(&self) -> i64 {
        self.from
    }

    /// Last version taken; below `from` if none was.
    #[must_use]
    pub const fn to(&self) -> i64 {
        self.to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_hop_stands_follows_from_its_progress() {
        for (done, rows, newest, expected) in [
            (None, false, 0, Stand::From(0)),
            (Some(-1), false, 7, Stand::From(0)),
            (None, true, 7, Stand::Refresh(Why::UnknownSource)),
            (Some(-1), true, 7, Stand::Refresh(Why::UnknownSource)),
            (Some(7), true, 7, Stand::Level),
            (Some(7), true, 9, Stand::From(8)),
            (Some(9), true, 7, Stand::Ahead { done: 9 }),
        ] {
            assert_eq!(stand(done, rows, newest), expected, "{done:?} {rows} {newest}");
        }
    }

    #[test]
    fn a_range_ends_before_it_gets_too_large_but_holds_one_version_always() {
        let mut range = Range::new(5, 100);
        let step = |version, bytes| Step { version, bytes, replaces: false };
        assert_eq!(range.take(&step(5, 1_000)), Take::Yes);
        assert_eq!(range.take(&step(6, 0)), Take::Yes);
        assert_eq!(range.take(&step(7, 1)), Take::Full);
        assert_eq!((range.from(), range.to()), (5, 6));
        let replaced = Step { version: 7, bytes: 0, replaces: true };
        assert_eq!(range.take(&replaced), Take::Refresh);
        let mut empty = Range::new(3, 100);
        assert_eq!(empty.to(), 2);
        assert_eq!(empty.take(&step(3, 0)), Take::Yes);
    }
}
