//! What a sensor truly measures: (seed, device, tick) -> value. Pure, so that any tick can be drawn again.

use std::f64::consts::TAU;

use serde::Deserialize;
use shared::reading::Value;

/// What kind of value a metric has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A sine with noise.
    Number,
    /// On for half of the period.
    Bool,
    /// One of a few words, each for a part of the period.
    Text,
}

/// One metric of every device of the fleet.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Metric {
    /// Its name in the payload.
    pub name: String,
    /// Number, bool or text.
    #[serde(default = "number")]
    pub kind: Kind,
    /// UCUM unit; none is sent if absent.
    #[serde(default)]
    pub unit: Option<String>,
    /// Middle of the sine.
    #[serde(default)]
    pub base: f64,
    /// Height of the sine above its middle.
    #[serde(default)]
    pub amplitude: f64,
    /// Ticks per period.
    #[serde(default = "period")]
    pub period: f64,
    /// Largest deviation from the sine.
    #[serde(default)]
    pub noise: f64,
    /// A value that the gateway's rules refuse; without one the fault `out-of-range` leaves this metric alone.
    #[serde(default)]
    pub out_of_range: Option<f64>,
}

const fn number() -> Kind {
    Kind::Number
}

const fn period() -> f64 {
    120.0
}

const STATES: [&str; 3] = ["idle", "running", "cooling"];

impl Metric {
    /// The true value of this metric (the `lane`-th of the device) at `tick`. Numbers have at most three decimals, so
    /// every JSON reader reads exactly what was written.
    pub fn at(&self, seed: u64, device: u64, lane: u64, tick: u64) -> Value {
        let phase = unit(mix(&[seed, device, lane]));
        let turn = (tick as f64 / self.period.max(1.0) + phase).fract();
        match self.kind {
            Kind::Number => {
                let noise = (unit(mix(&[seed, device, lane, tick, 1])) - 0.5) * 2.0 * self.noise;
                Value::Number(rounded(self.base + self.amplitude * (turn * TAU).sin() + noise))
            }
            Kind::Bool => Value::Bool(turn < 0.5),
            Kind::Text => {
                let part = (turn * STATES.len() as f64) as usize;
                Value::Text(STATES[part.min(STATES.len() - 1)].to_owned())
            }
        }
    }
}

/// To three decimals.
fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// One well-mixed number from several (splitmix64): the fleet's only source of chance.
pub fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(0x9e37_79b9_7f4a_7c15, |state, part| {
        let mut z = state.wrapping_add(part.wrapping_mul(0xbf58_476d_1ce4_e5b9)).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// A mixed number as a fraction in `0.0 .. 1.0`.
pub fn unit(mixed: u64) -> f64 {
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temperature() -> Metric {
        Metric {
            name: "temperature".into(),
            kind: Kind::Number,
            unit: Some("Cel".into()),
            base: 20.0,
            amplitude: 5.0,
            period: 60.0,
            noise: 0.5,
            out_of_range: Some(900.0),
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_values_and_another_seed_others() {
        let metric = temperature();
        let draw = |seed| (0..50).map(|tick| metric.at(seed, 3, 0, tick)).collect::<Vec<_>>();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn numbers_stay_within_amplitude_and_noise_and_survive_json() {
        let metric = temperature();
        for tick in 0..1_000 {
            let Value::Number(value) = metric.at(7, 0, 0, tick) else { panic!("a number was asked for") };
            assert!((14.5..=25.5).contains(&value), "{value}");
            let read: f64 = serde_json::from_str(&serde_json::to_string(&value).expect("finite")).expect("a number");
            assert_eq!(read.to_bits(), value.to_bits());
        }
    }

    #[test]
    fn chance_is_spread_over_its_whole_range() {
        let low = (0..10_000).filter(|n| unit(mix(&[1, *n])) < 0.1).count();
        assert!((850..1_150).contains(&low), "{low}");
    }
}
