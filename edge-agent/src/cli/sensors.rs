//! `sensors`: what is on the buses, and one reading of each.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use shared::cli::Exit;

use super::Refusal;
use crate::config::Config;
use crate::outbox::lock::Lock;
use crate::sensors::config::Kind;
use crate::sensors::{Place, scan};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show what answers on the buses: those of the configuration and of this machine.
    Scan {
        /// Only this bus: an I2C device file, a folder of the 1-wire bus, or unix:SOCKET of a simulator. Can be repeated.
        #[arg(long, value_name = "BUS")]
        bus: Vec<String>,
        /// One JSON document instead of lines.
        #[arg(long)]
        json: bool,
    },
    /// Read each configured sensor once: values, and what stood on the wire for them.
    Read {
        /// One JSON document instead of lines.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(command: Command, config: &Config) -> Result<ExitCode, Refusal> {
    if Lock::holder(&config.outbox.path).is_some() {
        // Both may ask; a counter's line has one owner.
        writeln!(std::io::stderr(), "the agent runs and reads its sensors meanwhile").ok();
    }
    match command {
        Command::Scan { bus, json } => scan_all(&places(config, &bus), json),
        Command::Read { json } => read_all(config, json),
    }
}

fn places(config: &Config, wished: &[String]) -> BTreeSet<Place> {
    if !wished.is_empty() {
        return wished.iter().map(|bus| Place::parse(bus)).collect();
    }
    let configured = config.sensors.iter().filter(|sensor| sensor.kind != Kind::Counter);
    let mut places: BTreeSet<Place> = configured.map(crate::sensors::Sensor::place).collect();
    let i2c = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let i2c = i2c.filter(|entry| entry.file_name().to_string_lossy().starts_with("i2c-"));
    places.extend(i2c.map(|entry| Place::Kernel(entry.path())));
    let wire = Path::new("/sys/bus/w1/devices");
    places.extend(wire.is_dir().then(|| Place::Kernel(wire.to_owned())));
    places
}

fn scan_all(places: &BTreeSet<Place>, json: bool) -> Result<ExitCode, Refusal> {
    if places.is_empty() {
        let text = "no bus: neither the configuration nor /dev/i2c-* names one; on a Raspberry Pi switch I2C on with `raspi-config`";
        return Err(Refusal::new(text, Exit::No));
    }
    let scanned: Vec<_> = places.iter().map(|place| (place.to_string(), scan::scan(place))).collect();
    let mut out = std::io::stdout().lock();
    if json {
        let document: Vec<_> = scanned
            .iter()
            .map(|(bus, found)| match found {
                Ok(found) => serde_json::json!({"bus": bus, "found": found, "error": null}),
                Err(error) => serde_json::json!({"bus": bus, "found": [], "error": error}),
            })
            .collect();
        writeln!(out, "{:#}", serde_json::Value::from(document))?;
    } else {
        for (bus, found) in &scanned {
            writeln!(out, "{bus}")?;
            match found {
                Err(error) => writeln!(out, "  {error}")?,
                Ok(found) if found.is_empty() => writeln!(out, "  nothing answers")?,
                Ok(found) => {
                    for one in found {
                        writeln!(out, "  {:16} {:8} {}", one.at, one.kind.unwrap_or("?"), one.by)?;
                    }
                }
            }
        }
    }
    let any = scanned.iter().any(|(_, found)| found.as_ref().is_ok_and(|found| !found.is_empty()));
    Ok(if any { Exit::Ok } else { Exit::No }.into())
}

fn read_all(config: &Config, json: bool) -> Result<ExitCode, Refusal> {
    if config.sensors.is_empty() {
        return Err(Refusal::new("no [[sensors]] in the configuration; `sensors scan` shows what is there", Exit::No));
    }
    let taken = scan::read(&config.sensors);
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{:#}", serde_json::json!(taken))?;
    } else {
        for one in &taken {
            writeln!(out, "{}  {}", one.device, one.sensor)?;
            if let Some(error) = &one.error {
                writeln!(out, "  FAIL {error}")?;
            }
            for value in &one.values {
                let measured = format!("{} {}", value.value, value.unit.as_deref().unwrap_or_default());
                writeln!(out, "  {:16} {measured:14} {}", value.metric, value.raw)?;
            }
        }
    }
    Ok(if taken.iter().all(|one| one.error.is_none()) { Exit::Ok } else { Exit::No }.into())
}
