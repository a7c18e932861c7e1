//! What is said on the sockets.
//!
//! ```text
//! i2c.sock   > address, number of operations, each: 'w' length bytes | 'r' length       (lengths: two bytes, big end first)
//!            < 0 and what was read | 1 not acknowledged | 2 arbitration lost             (nothing: the bus is stuck)
//! gpio.sock  > 'e' line 'r' | 'f' | 'b'      < 0 and how many edges there were           (four bytes each)
//!            > 'o' line 0 | 1                < 0
//! ```

/// Most operations of one transaction, and bytes of one operation: more than any chip's.
const OPERATIONS_MAX: u8 = 16;
const BYTES_MAX: u16 = 1_024;

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    Write(Vec<u8>),
    Read(usize),
}

/// One transaction with one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Transaction {
    pub(super) address: u8,
    pub(super) operations: Vec<Operation>,
}

/// What a line is asked or told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineAct {
    Rising,
    Falling,
    Both,
    Drive(bool),
}

/// What is not said on such a socket: who says it is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gibberish;

impl Transaction {
    /// Takes one off the front of `bytes`; `None` while it is not whole.
    pub(super) fn take(bytes: &mut Vec<u8>) -> Result<Option<Self>, Gibberish> {
        let [address, count, rest @ ..] = bytes.as_slice() else { return Ok(None) };
        if OPERATIONS_MAX < *count || *count == 0 || 0x7F < *address {
            return Err(Gibberish);
        }
        let (mut rest, mut operations) = (rest, Vec::new());
        for _ in 0..*count {
            let [what, upper, lower, behind @ ..] = rest else { return Ok(None) };
            let length = u16::from_be_bytes([*upper, *lower]);
            if BYTES_MAX < length {
                return Err(Gibberish);
            }
            match what {
                b'r' => {
                    operations.push(Operation::Read(length.into()));
                    rest = behind;
                }
                b'w' => {
                    let Some((written, behind)) = behind.split_at_checked(length.into()) else { return Ok(None) };
                    operations.push(Operation::Write(written.to_vec()));
                    rest = behind;
                }
                _ => return Err(Gibberish),
            }
        }
        let (address, left) = (*address, rest.len());
        bytes.drain(..bytes.len() - left);
        Ok(Some(Self { address, operations }))
    }
}

/// Takes one message about a line off the front.
pub(super) fn take_line(bytes: &mut Vec<u8>) -> Result<Option<(u32, LineAct)>, Gibberish> {
    let [what, a, b, c, d, argument, ..] = bytes.as_slice() else { return Ok(None) };
    let act = match (what, argument) {
        (b'e', b'r') => LineAct::Rising,
        (b'e', b'f') => LineAct::Falling,
        (b'e', b'b') => LineAct::Both,
        (b'o', 0) => LineAct::Drive(false),
        (b'o', 1) => LineAct::Drive(true),
        _ => return Err(Gibberish),
    };
    let line = u32::from_be_bytes([*a, *b, *c, *d]);
    bytes.drain(..6);
    Ok(Some((line, act)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_taken_when_it_is_whole_and_what_is_behind_it_stays() {
        let whole = [0x76, 2, b'w', 0, 1, 0xD0, b'r', 0, 1, 0x44];
        for length in 0..9 {
            assert_eq!(Transaction::take(&mut whole[..length].to_vec()), Ok(None), "{length}");
        }
        let mut bytes = whole.to_vec();
        let operations = vec![Operation::Write(vec![0xD0]), Operation::Read(1)];
        assert_eq!(Transaction::take(&mut bytes), Ok(Some(Transaction { address: 0x76, operations })));
        assert_eq!(bytes, [0x44]);
    }

    #[test]
    fn gibberish_is_seen() {
        for bytes in [&[0x76, 0][..], &[0x76, 17], &[0x80, 1], &[0x76, 1, b'x', 0, 0], &[0x76, 1, b'r', 0xFF, 0xFF]] {
            assert_eq!(Transaction::take(&mut bytes.to_vec()), Err(Gibberish), "{bytes:?}");
        }
        assert_eq!(take_line(&mut vec![b'e', 0, 0, 0, 17, b'x']), Err(Gibberish));
        assert_eq!(take_line(&mut vec![b'e', 0, 0, 0, 17, b'r', 1]), Ok(Some((17, LineAct::Rising))));
        assert_eq!(take_line(&mut vec![b'e', 0, 0]), Ok(None));
    }
}
