//! Chips, wires and lines, and their misfortunes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::chip::Chip;
use super::command::{Command, Name};
use super::frame::{LineAct, Operation, Transaction};

/// All there is.
#[derive(Default)]
pub(super) struct Board {
    chips: BTreeMap<u8, Slot>,
    wires: BTreeMap<String, Wire>,
    lines: BTreeMap<u32, u32>,
    driven: BTreeMap<u32, Driven>,
    lose: u32,
    stuck: bool,
}

struct Slot {
    kind: &'static str,
    chip: Box<dyn Chip>,
    plugged: bool,
    nak: u32,
    crc: u32,
}

/// A DS18B20.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wire {
    celsius: f64,
    pub(super) plugged: bool,
    crc: u32,
}

/// A line that somebody drives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Driven {
    high: bool,
    changes: u64,
}

/// How a transaction ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// With what was read.
    Well(Vec<u8>),
    /// Nobody acknowledged.
    NoAck,
    /// Another master was faster.
    Lost,
    /// Never.
    Stuck,
}

impl Board {
    /// Puts a chip on the bus.
    pub(super) fn add_chip(&mut self, address: u8, kind: &'static str, chip: Box<dyn Chip>) {
        self.chips.insert(address, Slot { kind, chip, plugged: true, nak: 0, crc: 0 });
    }

    /// Puts a DS18B20 on the wire.
    pub(super) fn add_wire(&mut self, serial: &str) {
        self.wires.insert(serial.to_owned(), Wire { celsius: 21.5, plugged: true, crc: 0 });
    }

    /// The sensors on the wire.
    pub(super) const fn wires(&self) -> &BTreeMap<String, Wire> {
        &self.wires
    }

    /// One transaction.
    pub(super) fn transact(&mut self, transaction: &Transaction, now: Duration) -> Ended {
        if self.stuck {
            return Ended::Stuck;
        }
        if take_one(&mut self.lose) {
            return Ended::Lost;
        }
        let Some(slot) = self.chips.get_mut(&transaction.address).filter(|slot| slot.plugged) else {
            return Ended::NoAck;
        };
        if take_one(&mut slot.nak) {
            return Ended::NoAck;
        }
        let mut read = Vec::new();
        for operation in &transaction.operations {
            let acknowledged = match operation {
                Operation::Write(bytes) => slot.chip.write(bytes, now),
                Operation::Read(length) => {
                    let at = read.len();
                    read.resize(at + length, 0);
                    slot.chip.read(&mut read[at..], now)
                }
            };
            if !acknowledged {
                return Ended::NoAck;
            }
        }
        if let Some(byte) = read.first_mut()
            && take_one(&mut slot.crc)
        {
            *byte ^= 0x10;
        }
        Ended::Well(read)
    }

    /// What a line is asked or told; gives the number of edges.
    pub(super) fn line(&mut self, line: u32, act: LineAct) -> u32 {
        let pulses = self.lines.get(&line).copied().unwrap_or_default();
        match act {
            LineAct::Rising | LineAct::Falling => pulses,
            LineAct::Both => pulses.wrapping_mul(2),
            LineAct::Drive(high) => {
                let driven = self.driven.entry(line).or_default();
                driven.changes += u64::from(driven.high != high);
                driven.high = high;
                0
            }
        }
    }

    /// Does what is told; the answer is for people.
    pub(super) fn tell(&mut self, command: &Command, now: Duration) -> Result<String, String> {
        match command {
            Command::Lose(count) => self.lose = *count,
            Command::Stick => self.stuck = true,
            Command::Free => self.stuck = false,
            Command::Pulse(line, count) => {
                let pulses = self.lines.entry(*line).or_default();
                *pulses = pulses.wrapping_add(*count);
            }
            Command::Show => return Ok(self.show()),
            Command::Pull(name) => self.plug(name, false, now)?,
            Command::Plug(name) => self.plug(name, true, now)?,
            Command::Swap(name) => {
                let slot = self.slot(name)?;
                slot.chip.swap();
                slot.chip.power_on(now);
            }
            Command::Nak(name, count) => self.slot(name)?.nak = *count,
            Command::Crc(Name::Wire(serial), count) => self.wire(serial)?.crc = *count,
            Command::Crc(name, count) => {
                let slot = self.slot(name)?;
                if !slot.chip.has_checksum() {
                    return Err(format!("a {} sends no checksum: nobody could see it", slot.kind));
                }
                slot.crc = *count;
            }
            Command::Set(Name::Wire(serial), quantity, value) => {
                let wire = self.wire(serial)?;
                if quantity != "temperature" {
                    return Err("a ds18b20 measures `temperature`".to_owned());
                }
                wire.celsius = *value;
            }
            Command::Set(name, quantity, value) => {
                let slot = self.slot(name)?;
                if !slot.chip.set(quantity, *value) {
                    return Err(format!("a {} measures no `{quantity}`", slot.kind));
                }
            }
        }
        Ok("done".to_owned())
    }

    fn plug(&mut self, name: &Name, plugged: bool, now: Duration) -> Result<(), String> {
        match name {
            Name::Wire(serial) => self.wire(serial)?.plugged = plugged,
            name => {
                let slot = self.slot(name)?;
                slot.plugged = plugged;
                slot.chip.power_on(now);
            }
        }
        Ok(())
    }

    fn slot(&mut self, name: &Name) -> Result<&mut Slot, String> {
        match name {
            Name::I2c(address) => self.chips.get_mut(address).ok_or_else(|| format!("nothing is at {name}")),
            Name::Wire(_) => Err("that can only be told of a device on the I2C bus".to_owned()),
        }
    }

    fn wire(&mut self, serial: &str) -> Result<&mut Wire, String> {
        self.wires.get_mut(serial).ok_or_else(|| format!("no {serial} is on the wire"))
    }

    fn show(&self) -> String {
        let mut text = String::new();
        let there = |plugged: bool| if plugged { "" } else { " (pulled out)" };
        for (address, slot) in &self.chips {
            let _ = writeln!(text, "{address:#04x} {}{}", slot.kind, there(slot.plugged));
        }
        for (serial, wire) in &self.wires {
            let _ = writeln!(text, "{serial} ds18b20 temperature {}{}", wire.celsius, there(wire.plugged));
        }
        for (line, pulses) in &self.lines {
            let _ = writeln!(text, "line {line} had {pulses} pulses");
        }
        for (line, driven) in &self.driven {
            let high = if driven.high { "high" } else { "low" };
            let _ = writeln!(text, "line {line} is driven {high}, changed {} times", driven.changes);
        }
        let _ = write!(text, "the bus is {}", if self.stuck { "stuck" } else { "free" });
        text
    }
}

fn take_one(count: &mut u32) -> bool {
    let some = 0 < *count;
    *count = count.saturating_sub(1);
    some
}

impl Wire {
    /// As the kernel shows it in `w1_slave`.
    pub(super) fn shown(&self) -> String {
        #[expect(clippy::cast_possible_truncation, reason = "it was clamped")]
        let sixteenths = (self.celsius * 16.0).round().clamp(-880.0, 2_000.0) as i16;
        let [low, high] = sixteenths.to_le_bytes();
        let mut bytes = vec![low, high, 0x4B, 0x46, 0x7F, 0xFF, 0x10 - (low & 0x0F), 0x10];
        let sum = dallas(&bytes);
        bytes.push(sum);
        if 0 < self.crc {
            bytes[0] ^= 0x10;
        }
        let verdict = if 0 < self.crc { "NO" } else { "YES" };
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let hex = hex.join(" ");
        format!("{hex} : crc={sum:02x} {verdict}\n{hex} t={}\n", i32::from(sixteenths) * 1000 / 16)
    }
}

/// Maxim's checksum: bit by bit through the register of their drawing.
fn dallas(bytes: &[u8]) -> u8 {
    let mut register = 0_u8;
    for bit in bytes.iter().flat_map(|byte| (0..8).map(move |at| byte >> at & 1)) {
        let feedback = (register ^ bit) & 1;
        register >>= 1;
        if feedback == 1 {
            register ^= 0b1000_1100;
        }
    }
    register
}

#[cfg(test)]
mod tests {
    use super::super::chip::{Bosch, Sht3x};
    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn board() -> Board {
        let mut board = Board::default();
        board.add_chip(0x76, "bme280", Box::new(Bosch::new(true)));
        board.add_chip(0x44, "sht3x", Box::new(Sht3x::new()));
        board.add_wire("28-0316a2795fff");
        board
    }

    fn ask(board: &mut Board, address: u8, write: &[u8], read: usize) -> Ended {
        let operations = vec![Operation::Write(write.to_vec()), Operation::Read(read)];
        board.transact(&Transaction { address, operations }, NOW)
    }

    fn tell(board: &mut Board, text: &str) -> Result<String, String> {
        board.tell(&text.parse().expect(text), NOW)
    }

    #[test]
    fn each_misfortune_is_as_told_and_ends() {
        let mut board = board();
        let id = Ended::Well(vec![0x60]);
        assert_eq!(ask(&mut board, 0x76, &[0xD0], 1), id);
        assert_eq!(ask(&mut board, 0x20, &[0xD0], 1), Ended::NoAck);
        for (told, ended) in [("nak 0x76 1", Ended::NoAck), ("lose 1", Ended::Lost)] {
            tell(&mut board, told).expect(told);
            assert_eq!(ask(&mut board, 0x76, &[0xD0], 1), ended, "{told}");
            assert_eq!(ask(&mut board, 0x76, &[0xD0], 1), id, "{told}");
        }
        for (told, ended, mended) in [("pull 0x76", Ended::NoAck, "plug 0x76"), ("stick", Ended::Stuck, "free")] {
            tell(&mut board, told).expect(told);
            assert_eq!(ask(&mut board, 0x76, &[0xD0], 1), ended, "{told}");
            tell(&mut board, mended).expect(mended);
            assert_eq!(ask(&mut board, 0x76, &[0xD0], 1), id, "{told}");
        }
        let whole = ask(&mut board, 0x44, &[0xF3, 0x2D], 3);
        tell(&mut board, "crc 0x44 1").expect("told");
        assert_ne!(ask(&mut board, 0x44, &[0xF3, 0x2D], 3), whole);
        assert_eq!(ask(&mut board, 0x44, &[0xF3, 0x2D], 3), whole);
        assert!(tell(&mut board, "crc 0x76 1").is_err(), "a BME280 has no checksum");
        assert!(tell(&mut board, "pull 0x20").is_err());
        assert!(tell(&mut board, "set 0x76 a0 1").is_err());
    }

    #[test]
    fn what_was_without_power_has_forgotten_its_settings_and_another_has_another_calibration() {
        let mut board = board();
        ask(&mut board, 0x76, &[0xF5, 0xA0], 0);
        assert_eq!(ask(&mut board, 0x76, &[0xF5], 1), Ended::Well(vec![0xA0]));
        let calibration = ask(&mut board, 0x76, &[0x88], 24);
        tell(&mut board, "pull 0x76").and_then(|_| tell(&mut board, "plug 0x76")).expect("told");
        assert_eq!(ask(&mut board, 0x76, &[0xF5], 1), Ended::Well(vec![0]));
        assert_eq!(ask(&mut board, 0x76, &[0x88], 24), calibration);
        tell(&mut board, "swap 0x76").expect("told");
        assert_ne!(ask(&mut board, 0x76, &[0x88], 24), calibration);
    }

    #[test]
    fn a_wire_is_shown_as_the_kernel_shows_it() {
        let wire = Wire { celsius: 23.125, plugged: true, crc: 0 };
        let shown = "72 01 4b 46 7f ff 0e 10 57 : crc=57 YES\n72 01 4b 46 7f ff 0e 10 57 t=23125\n";
        assert_eq!(wire.shown(), shown);
        assert!(Wire { crc: 1, ..wire }.shown().contains("NO"));
    }

    #[test]
    fn lines_count_pulses_and_know_how_they_are_driven() {
        let mut board = board();
        tell(&mut board, "pulse 17 100").expect("told");
        assert_eq!(board.line(17, LineAct::Rising), 100);
        assert_eq!(board.line(17, LineAct::Both), 200);
        for high in [true, true, false] {
            board.line(22, LineAct::Drive(high));
        }
        assert!(tell(&mut board, "show").expect("shown").contains("line 22 is driven low, changed 2 times"));
    }
}
