//! The simulator's configuration: a table for each command. The embedded `default.toml` is its documentation.

use std::path::Path;

use serde::Deserialize;
use shared::config::{Check, ConfigErrors, Layers, Mistakes};
use shared::telemetry;

use crate::{dps, fleet, hub, replay, sensors, verify};

const LAYERS: Layers = Layers { default: include_str!("default.toml"), env_prefix: "SIM" };

/// Everything the simulator can be told in a file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// What is logged, for every command.
    pub log: telemetry::Config,
    /// Where devices and recordings connect.
    pub broker: fleet::broker::Config,
    /// The command `devices`.
    pub devices: fleet::Config,
    /// The command `replay`.
    pub replay: replay::Config,
    /// The command `hub`.
    pub hub: hub::Config,
    /// The provisioning service of the command `hub`.
    pub dps: dps::Config,
    /// The command `sensors`.
    pub sensors: sensors::Config,
    /// The command `verify`.
    pub verify: verify::cli::Config,
}

impl Config {
    /// Reads the embedded default, then `file`, then the environment (`SIM__HUB__DATA_DIR`).
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigErrors> {
        shared::config::load(&LAYERS, file)
    }
}

impl Check for Config {
    fn check(&self, mistakes: &mut Mistakes) {
        mistakes.within("broker", |mistakes| self.broker.check(mistakes));
        mistakes.within("devices", |mistakes| self.devices.check(mistakes));
        mistakes.within("replay", |mistakes| self.replay.check(mistakes));
        mistakes.within("hub", |mistakes| self.hub.check(mistakes));
        mistakes.within("dps", |mistakes| self.dps.check(mistakes));
        mistakes.within("sensors", |mistakes| self.sensors.check(mistakes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_default_is_without_mistakes() {
        Config::load(None).expect("no mistakes");
    }
}
