//! `[[sensors]]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use shared::config::{Mistakes, Span};
use shared::reading::{DeviceId, MetricName};

pub use super::driver::ads1115::{Channel, Input, Range};
use super::driver::ds18b20;
use super::pace::Waits;

/// Before this a path names a socket of the simulator's.
const SOCKET: &str = "unix:";
/// More often no bus of ours can be asked.
const EVERY_MIN: Duration = Duration::from_millis(100);
/// Unless it is said how often.
const EVERY: Duration = Duration::from_secs(10);
/// Waits of a sensor that fails, unless it is said otherwise: from … to.
const RETRY: Waits = Waits { min: Duration::from_secs(1), max: Duration::from_secs(30) };
/// A name of an event of the kernel's has at most so many lines.
const LINE_MAX: u32 = 1_023;

/// One sensor on a bus or a pin of this machine.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Sensor {
    /// What it is.
    pub kind: Kind,
    /// The device as which its readings count.
    pub device: String,
    /// Where: the bus, the folder of the 1-wire bus, the GPIO chip.
    #[serde(default)]
    bus: Option<String>,
    /// Its address on an I2C bus.
    #[serde(default)]
    pub address: Option<u8>,
    /// A DS18B20's serial number.
    #[serde(default)]
    pub id: Option<String>,
    /// A counter's line of the GPIO chip.
    #[serde(default)]
    pub line: Option<u32>,
    /// Which edges a counter counts.
    #[serde(default)]
    pub edge: Option<Edge>,
    /// What holds a counter's line while nothing drives it.
    #[serde(default)]
    pub pull: Option<Pull>,
    /// Edges closer together than this are one.
    #[serde(default)]
    pub debounce: Option<Span>,
    /// The name of a counter's metric.
    #[serde(default)]
    pub metric: Option<String>,
    /// Its unit.
    #[serde(default)]
    pub unit: Option<String>,
    /// What one edge stands for.
    #[serde(default)]
    pub scale: Option<f64>,
    /// How often it is read.
    #[serde(default)]
    every: Option<Span>,
    /// Where it fails: how soon it is tried again at first …
    #[serde(default)]
    retry_min: Option<Span>,
    /// … and at last.
    #[serde(default)]
    retry_max: Option<Span>,
    /// The inputs of an ADS1115.
    #[serde(default)]
    pub channel: Vec<Channel>,
}

/// What a sensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Bosch: temperature, pressure, humidity.
    Bme280,
    /// Bosch: temperature, pressure.
    Bmp280,
    /// Sensirion's third generation: temperature, humidity.
    Sht3x,
    /// Sensirion's fourth.
    Sht4x,
    /// Texas Instruments: four analogue inputs.
    Ads1115,
    /// Maxim: temperature, on a 1-wire bus.
    Ds18b20,
    /// Edges on a GPIO line.
    Counter,
}

/// Which changes of a line count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Edge {
    /// From low to high.
    #[default]
    Rising,
    /// From high to low.
    Falling,
    /// Each.
    Both,
}

/// The resistor in the chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pull {
    /// To the supply.
    Up,
    /// To ground.
    Down,
    /// None.
    Off,
}

/// Where a bus or a chip is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The kernel's.
    Kernel(PathBuf),
    /// The simulator's, behind a socket.
    Socket(PathBuf),
}

impl Place {
    /// Reads what stands in a file or on the command line.
    pub fn parse(text: &str) -> Self {
        match text.strip_prefix(SOCKET) {
            Some(path) => Place::Socket(path.into()),
            None => Place::Kernel(text.into()),
        }
    }

    /// The path of it.
    pub fn path(&self) -> &Path {
        match self {
            Place::Kernel(path) | Place::Socket(path) => path,
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Kernel(path) => write!(f, "{}", path.display()),
            Place::Socket(path) => write!(f, "{SOCKET}{}", path.display()),
        }
    }
}

impl Kind {
    /// As a file names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Bme280 => "bme280",
            Kind::Bmp280 => "bmp280",
            Kind::Sht3x => "sht3x",
            Kind::Sht4x => "sht4x",
            Kind::Ads1115 => "ads1115",
            Kind::Ds18b20 => "ds18b20",
            Kind::Counter => "counter",
        }
    }

    /// Where it usually is.
    const fn bus(self) -> &'static str {
        match self {
            Kind::Ds18b20 => "/sys/bus/w1/devices",
            Kind::Counter => "/dev/gpiochip0",
            _ => "/dev/i2c-1",
        }
    }

    /// Whether it shares an I2C bus with others.
    pub(crate) const fn is_on_i2c(self) -> bool {
        !matches!(self, Kind::Ds18b20 | Kind::Counter)
    }

    /// The addresses its pins can give it; the first is the usual one.
    const fn addresses(self) -> &'static [u8] {
        match self {
            Kind::Bme280 | Kind::Bmp280 => &[0x76, 0x77],
            Kind::Sht3x => &[0x44, 0x45],
            Kind::Sht4x => &[0x44, 0x45, 0x46],
            Kind::Ads1115 => &[0x48, 0x49, 0x4A, 0x4B],
            Kind::Ds18b20 | Kind::Counter => &[],
        }
    }
}

impl Sensor {
    /// Where it is.
    pub fn place(&self) -> Place {
        Place::parse(self.bus.as_deref().unwrap_or(self.kind.bus()))
    }

    /// Its address on an I2C bus; 0 where it has none.
    pub fn at(&self) -> u8 {
        self.address.or(self.kind.addresses().first().copied()).unwrap_or_default()
    }

    /// How often it is read.
    pub fn every(&self) -> Duration {
        self.every.map_or(EVERY, Span::duration)
    }

    /// Why it cannot be read this often, wherever that was written; `None` if it can.
    pub fn every_fault(every: Duration) -> Option<&'static str> {
        (every < EVERY_MIN).then_some("must be at least 100ms; write e.g. \"10s\"")
    }

    /// How soon it is tried again where it fails.
    pub(super) fn waits(&self) -> Waits {
        Waits {
            min: self.retry_min.map_or(RETRY.min, Span::duration),
            max: self.retry_max.map_or(RETRY.max, Span::duration),
        }
    }

    /// What it is called in logs, metrics and the status.
    pub fn name(&self) -> String {
        let (kind, place) = (self.kind.as_str(), self.place());
        match self.kind {
            Kind::Ds18b20 => format!("{kind} {}", self.id.as_deref().unwrap_or_default()),
            Kind::Counter => format!("{kind} {place} line {}", self.line.unwrap_or_default()),
            _ => format!("{kind} {place} {:#04x}", self.at()),
        }
    }

    fn check(&self, at: &str, mistakes: &mut Mistakes) {
        let mut wrong = |key: &str, fault: String| mistakes.add(format!("{at}.{key}"), fault);
        if let Some(fault) = DeviceId::fault(&self.device) {
            wrong("device", fault);
        } else if self.device.contains('/') {
            // It travels to presilver as a level of a topic.
            wrong("device", "holds a `/`; write a name without, e.g. \"hall-1\"".to_owned());
        }
        if self.bus.as_deref().is_some_and(|bus| bus.is_empty() || bus == SOCKET) {
            wrong("bus", format!("is empty; leave it out for {}", self.kind.bus()));
        }
        if let Some(fault) = Self::every_fault(self.every()) {
            wrong("every", fault.to_owned());
        }
        let Waits { min, max } = self.waits();
        if min < EVERY_MIN {
            wrong("retry-min", "must be at least 100ms; write e.g. \"1s\"".to_owned());
        }
        if max < min {
            wrong("retry-max", format!("must be at least `retry-min`, {}s; write e.g. \"30s\"", min.as_secs_f64()));
        }
        let addresses = self.kind.addresses();
        if let Some(address) = self.address
            && !addresses.contains(&address)
        {
            let fault = match addresses {
                [] => format!("has no use for a {}; leave it out", self.kind.as_str()),
                some => {
                    let some: Vec<String> = some.iter().map(|address| format!("{address:#04x}")).collect();
                    format!("cannot be a {}'s; it has {}", self.kind.as_str(), some.join(" or "))
                }
            };
            wrong("address", fault);
        }
        self.check_uses(&mut wrong);
        for name in self.metric.iter().chain(self.channel.iter().map(|channel| &channel.metric)) {
            if let Some(fault) = MetricName::fault(name) {
                wrong("metric", fault);
            }
        }
    }

    /// What a kind needs, and what it has no use for.
    fn check_uses(&self, wrong: &mut impl FnMut(&str, String)) {
        let idle = |used: bool, given: bool| !used && given;
        let (wire, counts, analogue) =
            (self.kind == Kind::Ds18b20, self.kind == Kind::Counter, self.kind == Kind::Ads1115);
        for (key, idle) in [
            ("id", idle(wire, self.id.is_some())),
            ("line", idle(counts, self.line.is_some())),
            ("edge", idle(counts, self.edge.is_some())),
            ("pull", idle(counts, self.pull.is_some())),
            ("debounce", idle(counts, self.debounce.is_some())),
            ("metric", idle(counts, self.metric.is_some())),
            ("unit", idle(counts, self.unit.is_some())),
            ("scale", idle(counts, self.scale.is_some())),
            ("channel", idle(analogue, !self.channel.is_empty())),
        ] {
            if idle {
                wrong(key, format!("has no use for a {}; leave it out", self.kind.as_str()));
            }
        }
        if wire {
            let serial = |id: &str| {
                id.strip_prefix(ds18b20::FAMILY)
                    .is_some_and(|rest| rest.len() == 12 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
            };
            match &self.id {
                None => wrong("id", "is missing; `edge-agent sensors scan` shows those that are there".to_owned()),
                Some(id) if !serial(id) => {
                    wrong("id", "must be as the kernel names it, e.g. \"28-0316a2795fff\"".to_owned())
                }
                Some(_) => {}
            }
        }
        if counts {
            match self.line {
                None => wrong("line", "is missing; write the number of the GPIO line, e.g. 17".to_owned()),
                Some(line) if LINE_MAX < line => wrong("line", format!("must be at most {LINE_MAX}")),
                Some(_) => {}
            }
            if self.scale.is_some_and(|scale| !scale.is_finite() || scale == 0.0) {
                wrong("scale", "must be a number other than 0; write what one edge stands for, e.g. 0.001".to_owned());
            }
        }
        if analogue && self.channel.is_empty() {
            wrong("channel", "is missing; write at least one, e.g. { input = \"a0\", metric = \"supply\" }".to_owned());
        }
        for (index, channel) in self.channel.iter().enumerate() {
            for (key, fault) in channel.faults() {
                wrong(&format!("channel[{index}].{key}"), fault.to_owned());
            }
            if self.channel[..index].iter().any(|other| other.metric == channel.metric) {
                wrong(
                    &format!("channel[{index}].metric"),
                    "names two channels; give each a name of its own".to_owned(),
                );
            }
        }
    }
}

/// Adds what cannot be used as it stands.
pub fn check(sensors: &[Sensor], mistakes: &mut Mistakes) {
    for (index, sensor) in sensors.iter().enumerate() {
        let at = format!("sensors[{index}]");
        sensor.check(&at, mistakes);
        if sensors[..index].iter().any(|other| other.name() == sensor.name()) {
            mistakes.add(at, format!("is the same as one before it: {}", sensor.name()));
        }
    }
}

#[cfg(test)]
mod tests {
    fn mistakes(text: &str) -> Vec<String> {
        let layers = shared::config::Layers { default: crate::config::DEFAULT, env_prefix: "EDGE" };
        match shared::config::load_from::<crate::Config>(&layers, Some(("edge.toml", text)), &[]) {
            Ok(_) => Vec::new(),
            Err(errors) => {
                let mut paths: Vec<_> = errors.mistakes().iter().map(|mistake| mistake.path.clone()).collect();
                paths.sort();
                paths
            }
        }
    }

    #[test]
    fn every_kind_can_be_written_with_what_it_needs_alone() {
        let text = r#"
            [[sensors]]
            kind = "bme280"
            device = "cabinet"
            [[sensors]]
            kind = "bmp280"
            device = "cabinet"
            bus = "/dev/i2c-4"
            address = 0x77
            every = "1m"
            [[sensors]]
            kind = "sht3x"
            device = "hall"
            [[sensors]]
            kind = "sht4x"
            device = "hall"
            address = 0x45
            [[sensors]]
            kind = "ads1115"
            device = "tank"
            channel = [{ input = "a0", metric = "level", unit = "m", volts = [0.4, 2.0], values = [0.0, 16.0] }]
            [[sensors]]
            kind = "ds18b20"
            device = "pipe"
            id = "28-0316a2795fff"
            [[sensors]]
            kind = "counter"
            device = "meter"
            line = 17
        "#;
        assert_eq!(mistakes(text), [] as [&str; 0]);
    }

    #[test]
    fn what_a_kind_lacks_and_what_it_has_no_use_for_is_named_at_once() {
        let text = r#"
            [[sensors]]
            kind = "bme280"
            device = ""
            address = 0x44
            every = "1ms"
            retry-min = "0s"
            line = 3
            [[sensors]]
            kind = "ads1115"
            device = "tank"
            channel = [{ input = "a0", metric = "level", volts = [1.0, 1.0], values = [0.0, 16.0] },
                       { input = "a1", metric = "level", values = [0.0, 1.0] }]
            [[sensors]]
            kind = "ds18b20"
            device = "pipe"
            id = "../../etc/passwd"
            [[sensors]]
            kind = "counter"
            device = "meter"
            scale = 0.0
            [[sensors]]
            kind = "sht3x"
            device = "hall"
            [[sensors]]
            kind = "sht3x"
            device = "yard"
            retry-min = "1m"
        "#;
        assert_eq!(
            mistakes(text),
            [
                "sensors[0].address",
                "sensors[0].device",
                "sensors[0].every",
                "sensors[0].line",
                "sensors[0].retry-min",
                "sensors[1].channel[0].volts",
                "sensors[1].channel[1].metric",
                "sensors[1].channel[1].volts",
                "sensors[2].id",
                "sensors[3].line",
                "sensors[3].scale",
                "sensors[5]",
                "sensors[5].retry-max",
            ]
        );
    }

    #[test]
    fn a_broker_may_not_be_asked_for_what_comes_from_our_own_pins() {
        for (topic, wrong) in [("$sensors/#", true), ("$sensors", true), ("$SYS/#", false), ("sensors/#", false)] {
            let broker = format!("[intake.broker]\nenabled = true\ntopics = [\"a\", \"{topic}\"]\n");
            let found = mistakes(&broker);
            assert_eq!(found.contains(&"intake.broker.topics[1]".to_owned()), wrong, "{topic}: {found:?}");
        }
    }

    #[test]
    fn an_unknown_kind_is_named_at_its_line() {
        let text = "[[sensors]]\nkind = \"bme680\"\ndevice = \"a\"\n";
        assert_eq!(mistakes(text), ["sensors[0].kind"]);
    }
}
