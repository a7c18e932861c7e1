//! A bus for tests that plays a recorded log: `76 w D0 r 60` is one transaction with the device 0x76.

use std::collections::VecDeque;

use embedded_hal::delay::DelayNs;
use embedded_hal::i2c::{ErrorKind, ErrorType, I2c, NoAcknowledgeSource, Operation};

/// The log, and the time that was waited.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    expected: VecDeque<String>,
}

/// Waits without waiting, and adds up.
#[derive(Debug, Default)]
pub(crate) struct Waited {
    pub(crate) ns: u64,
}

impl DelayNs for Waited {
    fn delay_ns(&mut self, ns: u32) {
        self.ns += u64::from(ns);
    }
}

impl Tape {
    /// One transaction a line; what stands behind `#` is for people. `76 w 00 !nak` fails, so does `!lost`.
    pub(crate) fn new(log: &str) -> Self {
        let lines = log.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        Self { expected: lines.filter(|line| !line.is_empty()).map(str::to_owned).collect() }
    }

    /// Everything on it was played.
    pub(crate) fn is_at_its_end(&self) -> bool {
        self.expected.is_empty()
    }
}

impl ErrorType for Tape {
    type Error = ErrorKind;
}

impl I2c for Tape {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), ErrorKind> {
        let line = self.expected.pop_front().unwrap_or_else(|| panic!("nothing more is expected, but {operations:?}"));
        let mut words = line.split_whitespace();
        let byte = |word: &str| u8::from_str_radix(word, 16).unwrap_or_else(|_| panic!("`{word}` in `{line}`"));
        assert_eq!(words.next().map(byte), Some(address), "the address of `{line}`");
        let mut parts: Vec<(&str, Vec<u8>)> = Vec::new();
        for word in words {
            match word {
                "!nak" => return Err(ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address)),
                "!lost" => return Err(ErrorKind::ArbitrationLoss),
                "w" | "r" => parts.push((word, Vec::new())),
                byte_word => parts.last_mut().expect("`w` or `r` first").1.push(byte(byte_word)),
            }
        }
        assert_eq!(operations.len(), parts.len(), "{operations:x?} for `{line}`");
        for (operation, (what, bytes)) in operations.iter_mut().zip(parts) {
            match operation {
                Operation::Write(sent) => assert_eq!(("w", bytes.as_slice()), (what, &**sent), "`{line}`"),
                Operation::Read(buffer) => {
                    assert_eq!(("r", bytes.len()), (what, buffer.len()), "`{line}`");
                    buffer.copy_from_slice(&bytes);
                }
            }
        }
        Ok(())
    }
}
