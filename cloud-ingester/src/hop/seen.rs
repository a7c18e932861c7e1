//! What silver has seen, kept beside the tables now and then: whoever takes over, or failed midway, reads that and the rows
//! since, not every row there ever was. It is a shortcut and no second truth: it names the versions it knows, and where
//! anything about it does not fit, the tables are read whole.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::error::HopError;
use super::runner::Hops;
use super::silver::TARGETS;
use crate::lake::{LakeError, View};
use crate::silver::{Kept, Seen, learn};

/// Where.
const PATH: &str = "silver/_seen/latest";

/// A version of one of [`TARGETS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct At {
    id: String,
    pub(super) version: i64,
}

impl At {
    /// Where a table stands.
    pub(super) fn of(view: &View) -> Self {
        Self { id: view.id(), version: view.version() }
    }
}

/// What is kept.
#[derive(Serialize, Deserialize)]
struct Note {
    /// Of each of [`TARGETS`], the version up to which its rows are in `seen`.
    upto: [At; 3],
    seen: Kept,
}

impl Note {
    /// A digest, a line feed, JSON.
    fn text(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("a note is plain data");
        [digest(&json).as_bytes(), b"\n", &json].concat()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let line = bytes.iter().position(|byte| *byte == b'\n')?;
        let json = &bytes[line + 1..];
        (digest(json).as_bytes() == &bytes[..line]).then(|| serde_json::from_slice(json).ok()).flatten()
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Hops {
    /// Keeps what was seen up to these versions, if that was long enough ago. What fails costs the next holder time.
    pub(super) async fn note_seen(&mut self, upto: [At; 3], seen: &Seen) {
        let now = tokio::time::Instant::now();
        if self.noted.is_some_and(|noted| now < noted + self.settings.note_every) {
            return;
        }
        self.noted = Some(now);
        let note = Note { upto, seen: seen.kept() };
        if let Err(error) = self.lake.put_beside(PATH, note.text()).await {
            tracing::warn!(%error, "what was seen is not kept beside the tables; the next start reads them whole");
        }
    }

    /// What was seen up to these views of [`TARGETS`], from what was kept and the rows since; `None` where that does not
    /// suffice.
    pub(super) async fn recall_seen(&self, views: [&View; 3]) -> Result<Option<Seen>, HopError> {
        let Some(bytes) = self.lake.get_beside(PATH).await? else { return Ok(None) };
        let Some(Note { upto, seen }) = Note::read(&bytes) else {
            tracing::warn!(path = PATH, "what was kept of what was seen is damaged; the tables are read whole");
            return Ok(None);
        };
        let mut seen = Seen::of(seen);
        for (at, view) in upto.iter().zip(views) {
            match since(&mut seen, at, view).await {
                Ok(true) => {}
                Ok(false) | Err(LakeError::Gone { .. } | LakeError::FileGone { .. }) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(seen))
    }
}

/// Learns the rows that came after; false where rows went, too.
async fn since(seen: &mut Seen, at: &At, view: &View) -> Result<bool, LakeError> {
    debug_assert!(TARGETS.contains(&view.table()), "only silver's tables are learnt from");
    if at.id != view.id() || view.version() < at.version {
        return Ok(false);
    }
    for change in view.changes(at.version).await? {
        if change.removes {
            return Ok(false);
        }
        learn(seen, view, &change.adds).await?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written_and_a_damaged_one_is_none() {
        let at = |version| At { id: "t".to_owned(), version };
        let mut seen = Seen::default();
        for seq in [1, 2, 3, 7, 9] {
            seen.admit(crate::silver::seen::Where::Readings, "g", "00000000000000aa", seq, 12, None);
        }
        let text = Note { upto: [at(1), at(2), at(3)], seen: seen.kept() }.text();
        let note = Note::read(&text).expect("whole");
        assert_eq!((note.upto[2].version, Seen::of(note.seen)), (3, seen));
        for place in [0, 10, text.len() / 2, text.len() - 1] {
            let mut damaged = text.clone();
            damaged[place] ^= 1;
            assert!(Note::read(&damaged).is_none(), "{place}");
        }
        for length in [0, 1, 64, 65, text.len() - 1] {
            assert!(Note::read(&text[..length]).is_none(), "{length}");
        }
    }
}
