//! A ledger being written: one writer, one line for each send, one `write` for those that are due together.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::{LedgerError, Line, Recovered, Sent, Start, read_from};
use crate::fleet::send::Draft;

/// Acks are written at the latest when so many have come.
const ACKS_HELD_MAX: usize = 256;

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
        let mut sent = self.send_all(std::iter::once(draft))?;
        Ok(sent.pop().expect("one draft, one send"))
    }

    /// The same for several, written in one go.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn send_all(&self, drafts: impl Iterator<Item = Draft>) -> Result<Vec<Sent>, LedgerError> {
        // Made before the lock is taken, so that devices do not wait for each other's waveforms.
        let mut all: Vec<Sent> = drafts.map(|draft| Sent::new(0, draft)).collect();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = Vec::new();
        for sent in &mut all {
            state.id_last += 1;
            sent.id = state.id_last;
            if state.file.is_some() {
                serde_json::to_writer(&mut text, &SendLine { send: sent }).map_err(|e| self.failed(e.into()))?;
                text.push(b'\n');
            }
        }
        if let Some(file) = &mut state.file {
            file.write_all(&text).map_err(|e| self.failed(e))?;
        }
        Ok(all)
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

/// [`Line::Send`], borrowed.
#[derive(Serialize)]
struct SendLine<'a> {
    send: &'a Sent,
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
    use shared::time::Timestamp;

    use super::super::{VERSION, read};
    use super::*;
    use crate::fleet::send::{Expect, Fate};

    fn draft(device: &str, n: i64, payload: &[u8]) -> Draft {
        let expect = Expect { metric: Some("t".into()), value: Some(json!(21.5)), unit: None, fate: Fate::Reading };
        Draft {
            device: device.into(),
            n,
            topic: format!("telemetry/{device}"),
            payload: payload.to_vec(),
            time: Timestamp::from_micros(5),
            copies: 1,
            best_effort: false,
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
    fn what_is_due_together_is_written_together_and_best_effort_is_never_sent_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ledger.jsonl");
        let (ledger, _) = Ledger::open(Some(&path), fleet()).expect("a new ledger");
        let best_effort = Draft { best_effort: true, ..draft("a", 2, b"{2}") };
        let sent = ledger.send_all([draft("a", 1, b"{1}"), best_effort, draft("b", 1, b"{3}")].into_iter());
        let ids: Vec<_> = sent.expect("written").iter().map(|sent| sent.id).collect();
        assert_eq!(ids, [1, 2, 3]);
        drop(ledger);
        let (_, recovered) = Ledger::open(Some(&path), fleet()).expect("the same ledger");
        assert_eq!(recovered.unacked.into_keys().collect::<Vec<_>>(), [1, 3]);
        assert_eq!((recovered.n_last["a"], recovered.sends), (2, 3));
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
