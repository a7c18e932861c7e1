//! One configured sensor: brought up when it is first read and after each fault, and read.

use std::path::Path;
use std::time::Duration;

use linux_embedded_hal::Delay;

use super::bus::gpio::{Counting, Edges, Line};
use super::bus::i2c;
use super::config::{Kind, Place, Sensor};
use super::driver::bosch::{Bosch, Chip};
use super::driver::{Fault, Measured, ads1115, ds18b20, sensirion};

/// What sensors of one place share.
#[derive(Debug)]
pub(crate) enum Bus {
    I2c(i2c::Bus),
    /// Each sensor there opens what it needs.
    Other,
}

impl Bus {
    /// The bus of such sensors.
    pub(crate) fn of(sensor: &Sensor) -> Self {
        if sensor.kind.is_on_i2c() { Bus::I2c(i2c::Bus::new(sensor.place())) } else { Bus::Other }
    }
}

/// A sensor and what is known of it.
#[derive(Debug)]
pub(crate) struct Probe {
    sensor: Sensor,
    ready: Option<Ready>,
    /// Of a counter: survives that its line is opened anew.
    counter: Counter,
}

#[derive(Debug)]
enum Ready {
    Bosch(Bosch),
    Plain,
    Edges(Edges),
}

/// What a counter owes.
#[derive(Debug, Default)]
struct Counter {
    total: u64,
    /// Edges that no reading has told yet.
    untold: u64,
}

impl Probe {
    pub(crate) fn new(sensor: Sensor) -> Self {
        Self { sensor, ready: None, counter: Counter::default() }
    }

    /// Its settings.
    pub(crate) fn sensor(&self) -> &Sensor {
        &self.sensor
    }

    /// One reading. After a fault the sensor is set up anew; `Reset` is mended at once, and told in `reset`.
    pub(crate) fn read(&mut self, bus: &mut Bus, reset: &mut bool) -> Result<Vec<Measured>, Fault> {
        let read = match self.read_once(bus) {
            Err(Fault::Reset) => {
                *reset = true;
                self.ready = None;
                self.read_once(bus)
            }
            other => other,
        };
        if read.is_err() {
            self.ready = None;
        }
        read
    }

    /// A reading was taken on: a counter begins its next interval.
    pub(crate) fn told(&mut self) {
        self.counter.untold = 0;
    }

    fn read_once(&mut self, bus: &mut Bus) -> Result<Vec<Measured>, Fault> {
        let ready = match &mut self.ready {
            Some(ready) => ready,
            none => none.insert(start(&self.sensor, bus)?),
        };
        let (sensor, at) = (&self.sensor, self.sensor.at());
        match (ready, bus) {
            (Ready::Bosch(bosch), Bus::I2c(bus)) => bosch.read(bus, &mut Delay),
            (Ready::Plain, Bus::I2c(bus)) => match sensor.kind {
                Kind::Sht3x => sensirion::read_sht3x(bus, &mut Delay, at),
                Kind::Sht4x => sensirion::read_sht4x(bus, &mut Delay, at),
                _ => ads1115::read(bus, &mut Delay, at, &sensor.channel),
            },
            (Ready::Edges(edges), _) => {
                let count = u64::from(edges.count()?);
                Ok(self.counter.measured(sensor, count))
            }
            (_, _) => ds18b20(&sensor.place(), sensor.id.as_deref().unwrap_or_default()).map(|one| vec![one]),
        }
    }
}

fn start(sensor: &Sensor, bus: &mut Bus) -> Result<Ready, Fault> {
    let at = sensor.at();
    match (sensor.kind, bus) {
        (Kind::Counter, _) => {
            let counting = Counting {
                line: Line { place: sensor.place(), number: sensor.line.unwrap_or_default() },
                edge: sensor.edge.unwrap_or_default(),
                pull: sensor.pull,
                debounce: sensor.debounce.map_or(Duration::ZERO, Into::into),
            };
            Edges::open(&counting).map(Ready::Edges)
        }
        (Kind::Bme280, Bus::I2c(bus)) => Bosch::start(bus, &mut Delay, at, Chip::Bme280).map(Ready::Bosch),
        (Kind::Bmp280, Bus::I2c(bus)) => Bosch::start(bus, &mut Delay, at, Chip::Bmp280).map(Ready::Bosch),
        (Kind::Sht3x, Bus::I2c(bus)) => sensirion::start_sht3x(bus, &mut Delay, at).map(|()| Ready::Plain),
        (Kind::Sht4x, Bus::I2c(bus)) => sensirion::start_sht4x(bus, &mut Delay, at).map(|_| Ready::Plain),
        (Kind::Ads1115, Bus::I2c(bus)) => ads1115::start(bus, at).map(|()| Ready::Plain),
        _ => Ok(Ready::Plain),
    }
}

/// Reads one sensor of the folder that the kernel's 1-wire shows.
fn ds18b20(place: &Place, id: &str) -> Result<Measured, Fault> {
    let folder: &Path = place.path();
    if !folder.is_dir() {
        let path = folder.display();
        return Err(Fault::NoBus(format!(
            "{path} is not there; switch 1-wire on (`raspi-config`, or dtoverlay=w1-gpio)"
        )));
    }
    match std::fs::read(folder.join(id).join("w1_slave")) {
        Ok(bytes) => ds18b20::parse(&String::from_utf8_lossy(&bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Fault::NoAnswer),
        Err(error) => Err(Fault::Bus(error.to_string())),
    }
}

impl Counter {
    fn measured(&mut self, sensor: &Sensor, count: u64) -> Vec<Measured> {
        self.total += count;
        self.untold += count;
        let (metric, scale) = (sensor.metric.as_deref().unwrap_or("count"), sensor.scale.unwrap_or(1.0));
        [(metric.to_owned(), self.untold), (format!("{metric}-total"), self.total)]
            .into_iter()
            .map(|(metric, edges)| {
                #[expect(clippy::cast_precision_loss, reason = "2^53 edges take 28 years at 10 MHz")]
                let value = super::driver::rounded(edges as f64 * scale, 9);
                Measured { metric, value, unit: sensor.unit.clone(), raw: format!("{edges} edges") }
            })
            .collect()
    }
}
