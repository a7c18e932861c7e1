//! What can be told: `pull 0x76`, `crc 0x44 3`, `set 28-0316a2795fff temperature 4.5` …

use std::fmt;
use std::str::FromStr;

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Command {
    /// Take it out.
    Pull(Name),
    /// Put it back: it has been without power.
    Plug(Name),
    /// Put another one of its kind in its place.
    Swap(Name),
    /// So many transactions are not acknowledged.
    Nak(Name, u32),
    /// So many answers have a flipped bit.
    Crc(Name, u32),
    /// So many transactions lose the bus to another master.
    Lose(u32),
    /// A device holds the bus.
    Stick,
    /// It lets go.
    Free,
    /// What is to be measured.
    Set(Name, String, f64),
    /// So many pulses on a line.
    Pulse(u32, u32),
    /// What there is.
    Show,
}

/// A device: its address on the I2C bus, or its serial number on the 1-wire bus.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    I2c(u8),
    Wire(String),
}

/// What all of them are.
pub(super) const WORDS: &str = "pull NAME, plug NAME, swap NAME, nak NAME COUNT, crc NAME COUNT, lose COUNT, stick, free, \
                                set NAME QUANTITY VALUE, pulse LINE COUNT, show";

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::I2c(address) => write!(f, "{address:#04x}"),
            Name::Wire(serial) => f.write_str(serial),
        }
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(digits) = text.strip_prefix("0x") {
            return match u8::from_str_radix(digits, 16) {
                Ok(address @ 0x08..=0x77) => Ok(Name::I2c(address)),
                _ => Err(format!("`{text}` is no address; write 0x08 to 0x77")),
            };
        }
        let serial = text
            .strip_prefix("28-")
            .is_some_and(|rest| rest.len() == 12 && rest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
        match serial {
            true => Ok(Name::Wire(text.to_owned())),
            false => Err(format!("`{text}` is no device; write an address, 0x76, or a serial number, 28-0316a2795fff")),
        }
    }
}

impl FromStr for Command {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let count = |word: &str| word.parse::<u32>().map_err(|_| format!("`{word}` is no count"));
        Ok(match words.as_slice() {
            ["pull", name] => Command::Pull(name.parse()?),
            ["plug", name] => Command::Plug(name.parse()?),
            ["swap", name] => Command::Swap(name.parse()?),
            ["nak", name, n] => Command::Nak(name.parse()?, count(n)?),
            ["crc", name, n] => Command::Crc(name.parse()?, count(n)?),
            ["lose", n] => Command::Lose(count(n)?),
            ["stick"] => Command::Stick,
            ["free"] => Command::Free,
            ["set", name, quantity, value] => match value.parse::<f64>() {
                Ok(value) if value.is_finite() => Command::Set(name.parse()?, (*quantity).to_owned(), value),
                _ => return Err(format!("`{value}` is no number")),
            },
            ["pulse", line, n] => Command::Pulse(count(line)?, count(n)?),
            ["show"] => Command::Show,
            _ => return Err(format!("`{text}` cannot be told; one of: {WORDS}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_told_is_understood_and_all_else_is_answered() {
        assert_eq!("pull 0x76".parse(), Ok(Command::Pull(Name::I2c(0x76))));
        assert_eq!("crc 28-0316a2795fff 2".parse(), Ok(Command::Crc(Name::Wire("28-0316a2795fff".into()), 2)));
        assert_eq!("set 0x48 a0 1.5".parse(), Ok(Command::Set(Name::I2c(0x48), "a0".into(), 1.5)));
        assert_eq!("pulse 17 100".parse(), Ok(Command::Pulse(17, 100)));
        for bad in ["", "pull", "pull 0x99", "pull ../x", "nak 0x76 -1", "set 0x76 temperature NaN", "stick 1"] {
            assert!(bad.parse::<Command>().is_err(), "{bad}");
        }
    }
}
