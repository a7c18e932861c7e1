//! The table `[sensors]`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Deserialize;
use shared::config::{Mistakes, Span};

use super::board::Board;
use super::chip::{Ads1115, Bosch, Chip, Sht3x, Sht4x};
use super::command::{Command, Name};

/// What is there, and what happens to it; `default.toml` explains each key.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Where sockets and the folder of the wire come to lie.
    pub dir: PathBuf,
    /// What is there.
    pub devices: Vec<Device>,
    /// What happens.
    pub script: Vec<Event>,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Device {
    kind: Kind,
    /// Address or serial number.
    at: String,
    /// What it measures.
    #[serde(default)]
    measures: BTreeMap<String, f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Bme280,
    Bmp280,
    Sht3x,
    Sht4x,
    Ads1115,
    Ds18b20,
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Event {
    /// How long after the start.
    #[serde(default)]
    pub(super) after: Option<Span>,
    /// And again each so long.
    #[serde(default)]
    pub(super) every: Option<Span>,
    /// What, as `simulator sensors tell` would be told.
    pub(super) tell: String,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Kind::Bme280 => "bme280",
            Kind::Bmp280 => "bmp280",
            Kind::Sht3x => "sht3x",
            Kind::Sht4x => "sht4x",
            Kind::Ads1115 => "ads1115",
            Kind::Ds18b20 => "ds18b20",
        }
    }

    fn chip(self) -> Option<Box<dyn Chip>> {
        Some(match self {
            Kind::Bme280 => Box::new(Bosch::new(true)),
            Kind::Bmp280 => Box::new(Bosch::new(false)),
            Kind::Sht3x => Box::new(Sht3x::new()),
            Kind::Sht4x => Box::new(Sht4x::new()),
            Kind::Ads1115 => Box::new(Ads1115::new()),
            Kind::Ds18b20 => return None,
        })
    }
}

impl Config {
    /// Adds what cannot be used as it stands.
    pub fn check(&self, mistakes: &mut Mistakes) {
        mistakes.ensure(!self.dir.as_os_str().is_empty(), "dir", "must not be empty, write e.g. \"sensors\"");
        let mut board = Board::default();
        let mut seen: Vec<Name> = Vec::new();
        for (index, device) in self.devices.iter().enumerate() {
            if let Err((key, fault)) = device.place(&mut board, &mut seen) {
                mistakes.add(format!("devices[{index}].{key}"), fault);
            }
        }
        for (index, event) in self.script.iter().enumerate() {
            let told = event.tell.parse::<Command>();
            if let Err(fault) = told.and_then(|command| board.tell(&command, std::time::Duration::ZERO)) {
                mistakes.add(format!("script[{index}].tell"), fault);
            }
            if event.every.is_some_and(|every| every.duration().as_millis() < 1) {
                mistakes.add(format!("script[{index}].every"), "must be at least 1ms, write e.g. \"1s\"");
            }
        }
    }

    /// All that is there, as a configuration that passed its check has it.
    pub(super) fn board(&self) -> Board {
        let (mut board, mut seen) = (Board::default(), Vec::new());
        for device in &self.devices {
            let _ = device.place(&mut board, &mut seen); // it passed
        }
        board
    }

    /// What a gateway has to be told to read all of it.
    pub(super) fn for_gateway(&self) -> String {
        let dir = std::path::absolute(&self.dir).unwrap_or_else(|_| self.dir.clone());
        let dir = dir.display();
        let mut text = String::new();
        for (index, device) in self.devices.iter().enumerate() {
            let kind = device.kind.as_str();
            let _ = writeln!(text, "[[sensors]]\nkind = \"{kind}\"\ndevice = \"{kind}-{}\"\nevery = \"1s\"", index + 1);
            let _ = match device.kind {
                Kind::Ds18b20 => writeln!(text, "bus = \"{dir}/w1\"\nid = \"{}\"", device.at),
                Kind::Ads1115 => writeln!(
                    text,
                    "bus = \"unix:{dir}/i2c.sock\"\naddress = {}\nchannel = [{{ input = \"a0\", metric = \"level\", unit = \"m\", volts = [0.4, 2.0], values = [0.0, 16.0] }}]",
                    device.at
                ),
                _ => writeln!(text, "bus = \"unix:{dir}/i2c.sock\"\naddress = {}", device.at),
            };
            text.push('\n');
        }
        let _ = writeln!(
            text,
            "[[sensors]]\nkind = \"counter\"\ndevice = \"counter\"\nevery = \"1s\"\nbus = \"unix:{dir}/gpio.sock\"\nline = 17\n\n\
             [led]\nchip = \"unix:{dir}/gpio.sock\"\nline = 22"
        );
        text
    }
}

impl Device {
    fn place(&self, board: &mut Board, seen: &mut Vec<Name>) -> Result<(), (&'static str, String)> {
        let name: Name = self.at.parse().map_err(|fault| ("at", fault))?;
        if seen.contains(&name) {
            return Err(("at", format!("is taken: {name}")));
        }
        seen.push(name.clone());
        match (&name, self.kind.chip()) {
            (Name::I2c(address), Some(chip)) => board.add_chip(*address, self.kind.as_str(), chip),
            (Name::Wire(serial), None) => board.add_wire(serial),
            (_, Some(_)) => return Err(("at", format!("a {} has an address, e.g. \"0x76\"", self.kind.as_str()))),
            (_, None) => return Err(("at", "a ds18b20 has a serial number, e.g. \"28-0316a2795fff\"".to_owned())),
        }
        for (quantity, value) in &self.measures {
            let set = Command::Set(name.clone(), quantity.clone(), *value);
            board.tell(&set, std::time::Duration::ZERO).map_err(|fault| ("measures", fault))?;
        }
        Ok(())
    }
}
