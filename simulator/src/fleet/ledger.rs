//! The oracle: what was sent and what should become of it, as lines of JSON.
//!
//! ```text
//! {"start":{"version":1,"kind":"devices",…}}                                one per run
//! {"send":{"id":7,"d":"device-0001","n":3,"topic":…,"p":"{…}","t":…,"x":[{"m":"temperature","v":21.5,"u":"Cel","f":"reading"}]}}
//! {"ack":[5,7]}                                                             PUBACK seen for these ids
//! ```
//!
//! A send is in the file before its first byte goes out, an ack is written after the PUBACK: what is sent and not
//! acknowledged may have arrived or not, and the next run with the same ledger publishes it again, byte for byte. A
//! line torn by a kill was never sent, and is cut off. Written through to the operating system, not to the disk: the
//! ledger survives `kill -9` of the simulator, not a power cut of the machine it runs on.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use shared::time::Timestamp;

use super::fault::Fault;
use super::send::{Draft, Expect};

/// The version of the lines this code writes.
pub const VERSION: u32 = 1;

/// Acks are written at the latest when so many have come.
const ACKS_HELD_MAX: usize = 256;

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
        let Draft { device, n, topic, payload, time, copies, fault, expect } = draft;
        let (text, base64) = match String::from_utf8(payload) {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(STANDARD.encode(error.as_bytes()))),
        };
        Self { id, device, n, topic, text, base64, time, copies, fault, expect }
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
                self.unacked.insert(send.id, send);
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

/// A ledger being written. Shared by all devices.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: Option<File>,
    id_last: u64,
    acks: Vec<u64>,
}

impl Ledger {
    /// Opens or makes the ledger at `path`, cuts off a torn last line, and says what is left to do. Held exclusively
    /// until dropped. Without a path nothing is written, and nothing can be verified or gone on with.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn open(path: Option<&Path>, mut start: Start) -> Result<(Self, Recovered), LedgerError> {
        let mut recovered = Recovered::default();
        let Some(path) = path else {
            recovered.start = Some(start);
            let state = State { file: None, id_last: 0, acks: Vec::new() };
            return Ok((Self { path: PathBuf::from("none"), state: Mutex::new(state) }, recovered));
        };
        let io = |act| move |source| LedgerError::Io { act, path: path.to_owned(), source };
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path).map_err(io("open"))?;
        file.try_lock().map_err(|_| LedgerError::Busy { path: path.to_owned() })?;
        let whole = read_from(path, &file, &mut |line| recovered.take(line))?;
        file.set_len(whole).map_err(io("cut a torn line off"))?;
        file.seek(SeekFrom::End(0)).map_err(io("write"))?;
        if let Some(found) = &recovered.start {
            if (&found.kind, &found.source) != (&start.kind, &start.source) {
                return Err(LedgerError::Other {
                    path: path.to_owned(),
                    found: format!("{} {}", found.kind, found.source),
                    wanted: format!("{} {}", start.kind, start.source),
                });
            }
            start.shift = found.shift; // a recording that was moved in time stays where it was moved to
        }
        write_line(&mut file, &Line::Start(start.clone())).map_err(io("write"))?;
        recovered.start = Some(start);
        let state = State { file: Some(file), id_last: recovered.id_last, acks: Vec::new() };
        Ok((Self { path: path.to_owned(), state: Mutex::new(state) }, recovered))
    }

    /// Numbers a draft and writes it down. Publish only what this has returned.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn send(&self, draft: Draft) -> Result<Sent, LedgerError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.id_last += 1;
        let line = Line::Send(Sent::new(state.id_last, draft));
        if let Some(file) = &mut state.file {
            write_line(file, &line).map_err(|e| self.failed(e))?;
        }
        match line {
            Line::Send(send) => Ok(send),
            Line::Start(_) | Line::Ack(_) => unreachable!("the line made above is a send"),
        }
    }

    /// Notes a PUBACK; written with others by [`Ledger::flush`].
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn ack(&self, id: u64) -> Result<(), LedgerError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.acks.push(id);
        if ACKS_HELD_MAX <= state.acks.len() { self.write_acks(&mut state) } else { Ok(()) }
    }

    /// Writes the acks noted so far.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn flush(&self) -> Result<(), LedgerError> {
        self.write_acks(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn write_acks(&self, state: &mut State) -> Result<(), LedgerError> {
        let acks = std::mem::take(&mut state.acks);
        match &mut state.file {
            Some(file) if !acks.is_empty() => write_line(file, &Line::Ack(acks)).map_err(|e| self.failed(e)),
            _ => Ok(()),
        }
    }

    fn failed(&self, source: io::Error) -> LedgerError {
        LedgerError::Io { act: "write", path: self.path.clone(), source }
    }
}

/// One line, one `write`: a kill leaves it whole or torn, never mixed with another.
fn write_line(file: &mut File, line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    file.write_all(&text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::send::Fate;
    use super::*;

    fn draft(device: &str, n: i64, payload: &[u8]) -> Draft {
        let expect = Expect { metric: Some("t".into()), value: Some(json!(21.5)), unit: None, fate: Fate::Reading };
        Draft {
            device: device.into(),
            n,
            topic: format!("telemetry/{device}"),
            payload: payload.to_vec(),
            time: Timestamp::from_micros(5),
            copies: 1,
            fault: None,
            expect: vec![expect],
        }
    }

    fn fleet() -> Start {
        Start { version: VERSION, kind: "devices".into(), source: "seed 1".into(), shift: 0 }
    }

    #[test]
    fn a_killed_run_is_gone_on_with_where_it_stopped() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ledger.jsonl");
        let (ledger, recovered) = Ledger::open(Some(&path), fleet()).expect("a new ledger");
        assert_eq!((recovered.id_last, recovered.unacked.len()), (0, 0));
        for (device, n, payload) in [("a", 1, b"{1}".as_slice()), ("b", 1, b"\xff"), ("a", 2, b"{2}")] {
            ledger.send(draft(device, n, payload)).expect("written");
        }
        ledger.ack(1).expect("noted");
        ledger.flush().expect("written");
        drop(ledger);
        // The kill came in the middle of a line: that send never went out.
        let mut file = OpenOptions::new().append(true).open(&path).expect("there");
        file.write_all(br#"{"send":{"id":4,"d":"a","n":3,"to"#).expect("written");
        drop(file);

        let (ledger, recovered) = Ledger::open(Some(&path), fleet()).expect("the same ledger");
        assert_eq!(recovered.id_last, 3);
        assert_eq!((recovered.n_last["a"], recovered.n_last["b"]), (2, 1));
        let again: Vec<_> = recovered.unacked.values().map(|send| (send.id, send.payload())).collect();
        assert_eq!(again, [(2, b"\xff".to_vec()), (3, b"{2}".to_vec())]);
        assert_eq!(ledger.send(draft("a", 3, b"{3}")).expect("written").id, 4);
        drop(ledger);

        let mut ids = Vec::new();
        read(&path, |line| {
            if let Line::Send(send) = line {
                ids.push(send.id);
            }
        })
        .expect("every line whole");
        assert_eq!(ids, [1, 2, 3, 4]);
    }

    #[test]
    fn a_ledger_has_one_writer_and_one_source() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ledger.jsonl");
        let (held, _) = Ledger::open(Some(&path), fleet()).expect("a new ledger");
        assert!(matches!(Ledger::open(Some(&path), fleet()), Err(LedgerError::Busy { .. })));
        drop(held);
        let other = Start { source: "seed 2".into(), ..fleet() };
        assert!(matches!(Ledger::open(Some(&path), other), Err(LedgerError::Other { .. })));
    }

    #[test]
    fn a_recording_stays_where_it_was_moved_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ledger.jsonl");
        let start = |shift| Start { version: VERSION, kind: "replay".into(), source: "a.csv".into(), shift };
        drop(Ledger::open(Some(&path), start(500)).expect("a new ledger"));
        let (_ledger, recovered) = Ledger::open(Some(&path), start(700)).expect("the same ledger");
        assert_eq!(recovered.start.map(|start| start.shift), Some(500));
    }

    #[test]
    fn a_file_that_is_no_ledger_is_refused_with_its_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notes.txt");
        std::fs::write(&path, "hello\n").expect("written");
        assert!(matches!(Ledger::open(Some(&path), fleet()), Err(LedgerError::Line { line: 1, .. })));
        assert_eq!(std::fs::read_to_string(&path).expect("still there"), "hello\n");
    }
}
