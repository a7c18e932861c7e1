//! The oracle: what was sent and what should become of it, as lines of JSON.
//!
//! ```text
//! {"start":{"version":1,"kind":"devices",…}}                                one per run
//! {"send":{"id":7,"d":"device-0001","n":3,"topic":…,"p":"{…}","t":…,"x":[{"m":"temperature","v":21.5,"u":"Cel","f":"reading"}]}}
//! {"ack":[5,7]}                                                             PUBACK seen for these ids
//! ```
//!
//! A send is in the file before its first byte goes out, an ack is written after the PUBACK: what is sent and not
//! acknowledged may have arrived or not, and the next run with the same ledger publishes it again, byte for byte;
//! unless it is marked `best_effort`: nobody will ever acknowledge that, and it is published once. A line torn by a
//! kill was never sent, and is cut off. Written through to the operating system, not to the disk: the ledger survives
//! `kill -9` of the simulator, not a power cut of the machine it runs on.

mod writer; // a ledger being written

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use shared::time::Timestamp;

pub use self::writer::Ledger;
use super::fault::Fault;
use super::send::{Draft, Expect};

/// The version of the lines this code writes.
pub const VERSION: u32 = 1;

/// What one run was, so that the next can go on with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// [`VERSION`].
    pub version: u32,
    /// `devices`, or `replay`.
    pub kind: String,
    /// The seed of a fleet; the path of a recording.
    pub source: String,
    /// How far the times of a recording were moved, in microseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shift: i64,
}

const fn is_zero(shift: &i64) -> bool {
    *shift == 0
}

/// One send, as the ledger knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// Its number in this ledger, from 1.
    pub id: u64,
    /// Who sends.
    #[serde(rename = "d")]
    pub device: String,
    /// The device's own number.
    pub n: i64,
    /// Where to.
    pub topic: String,
    /// The payload, where it is text.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// The payload in base64, where it is not.
    #[serde(rename = "p64", default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    /// The time in the payload.
    #[serde(rename = "t")]
    pub time: Timestamp,
    /// How often it is published in one go.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub copies: u8,
    /// Published without asking for a PUBACK: it arrives or not, and is never published again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub best_effort: bool,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// What should become of it.
    #[serde(rename = "x")]
    pub expect: Vec<Expect>,
}

const fn one() -> u8 {
    1
}

const fn is_one(copies: &u8) -> bool {
    *copies == 1
}

impl Sent {
    /// `draft` under the number `id`.
    pub fn new(id: u64, draft: Draft) -> Self {
        let Draft { device, n, topic, payload, time, copies, best_effort, fault, expect } = draft;
        let (text, base64) = match String::from_utf8(payload) {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(STANDARD.encode(error.as_bytes()))),
        };
        Self { id, device, n, topic, text, base64, time, copies, best_effort, fault, expect }
    }

    /// The bytes to publish.
    pub fn payload(&self) -> Vec<u8> {
        match (&self.text, &self.base64) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(base64)) => STANDARD.decode(base64).unwrap_or_default(),
            (None, None) => Vec::new(),
        }
    }
}

/// A line of the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// A run begins.
    Start(Start),
    /// About to be sent.
    Send(Sent),
    /// Acknowledged, by id.
    Ack(Vec<u64>),
}

/// Why a ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Opening, reading or writing failed.
    #[error("{act} the ledger {path}: {source}")]
    Io {
        /// What failed.
        act: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is no line of a ledger.
    #[error("read line {line} of the ledger {path}: {message}; it is no ledger of this program, or was edited")]
    Line {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What the reader said.
        message: String,
    },
    /// Another process has it.
    #[error("open the ledger {path}: another simulator is writing it")]
    Busy {
        /// Which file.
        path: PathBuf,
    },
    /// It is the ledger of something else.
    #[error(
        "go on with the ledger {path}: it is of `{found}`, this run is `{wanted}`; name another file, or delete it"
    )]
    Other {
        /// Which file.
        path: PathBuf,
        /// What it is of.
        found: String,
        /// What this run is.
        wanted: String,
    },
}

/// What earlier runs left to do.
#[derive(Debug, Default, PartialEq)]
pub struct Recovered {
    /// What the first run was.
    pub start: Option<Start>,
    /// Highest id given.
    pub id_last: u64,
    /// Highest `n` of each device.
    pub n_last: HashMap<String, i64>,
    /// Sent and not acknowledged, in the order they were sent.
    pub unacked: BTreeMap<u64, Sent>,
    /// Sends in all.
    pub sends: u64,
}

impl Recovered {
    fn take(&mut self, line: Line) {
        match line {
            Line::Start(start) => drop(self.start.get_or_insert(start)),
            Line::Ack(ids) => ids.iter().for_each(|id| drop(self.unacked.remove(id))),
            Line::Send(send) => {
                self.sends += 1;
                self.id_last = self.id_last.max(send.id);
                match self.n_last.get_mut(&send.device) {
                    Some(last) => *last = send.n.max(*last),
                    None => drop(self.n_last.insert(send.device.clone(), send.n)),
                }
                if !send.best_effort {
                    self.unacked.insert(send.id, send);
                }
            }
        }
    }
}

/// Reads the lines of a ledger one by one; memory does not grow with it. A last line without its end is left out.
///
/// # Errors
/// It cannot be read, a line is no ledger line, or `each` failed with a message.
pub fn read(path: &Path, mut each: impl FnMut(Line)) -> Result<u64, LedgerError> {
    let io = |act| move |source| LedgerError::Io { act, path: path.to_owned(), source };
    let file = File::open(path).map_err(io("open"))?;
    read_from(path, file, &mut each)
}

fn read_from(path: &Path, file: impl Read, each: &mut dyn FnMut(Line)) -> Result<u64, LedgerError> {
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut text = Vec::new();
    let mut whole = 0;
    for number in 1.. {
        text.clear();
        let length = reader.read_until(b'\n', &mut text).map_err(|source| LedgerError::Io {
            act: "read",
            path: path.to_owned(),
            source,
        })?;
        if text.pop() != Some(b'\n') {
            break; // the end, or a line torn by a kill
        }
        let line = serde_json::from_slice(&text).map_err(|e| LedgerError::Line {
            path: path.to_owned(),
            line: number,
            message: e.to_string(),
        })?;
        each(line);
        whole += length as u64;
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_file_makes_it_panic_and_a_strange_line_is_named(
            lines in proptest::collection::vec(prop_oneof![
                Just(r#"{"ack":[1,7]}"#.to_owned()),
                Just(r#"{"start":{"version":1,"kind":"devices","source":"1"}}"#.to_owned()),
                (any::<u64>(), any::<i64>(), "[ -~]{0,9}").prop_map(|(id, n, p64)| {
                    serde_json::json!({"send": {"id": id, "d": "d", "n": n, "topic": "t", "p64": p64, "t": n, "x": []}})
                        .to_string()
                }),
                "[\\[\\]{}\":,a-z0-9]{0,40}",
            ], 0..6),
            tail in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let bytes = [lines.iter().map(|line| format!("{line}\n")).collect::<String>().as_bytes(), &tail].concat();
            let mut recovered = Recovered::default();
            let found = read_from(Path::new("a ledger"), &bytes[..], &mut |line| {
                if let Line::Send(sent) = &line {
                    let _ = sent.payload();
                }
                recovered.take(line);
            });
            match found {
                Ok(whole) => prop_assert!(whole <= bytes.len() as u64),
                Err(error) => prop_assert!(matches!(error, LedgerError::Line { line, .. } if 0 < line), "{}", error),
            }
        }
    }
}
