//! When the n-th send of the fleet is due: rate shapes, as pure functions of time.

use std::time::Duration;

use serde::Deserialize;
use shared::config::Span;

/// How the rate moves over time. The mean is the configured rate except while a ramp climbs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "shape", rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Shape {
    /// The same rate all the time.
    Steady,
    /// All of a period's sends in its first part, silence in the rest.
    Burst {
        /// Length of a period.
        period: Span,
        /// Part of the period in which sends happen, 0 to 1.
        part: f64,
    },
    /// From nothing to the full rate, then steady.
    Ramp {
        /// How long it climbs.
        over: Span,
    },
}

/// A shape with its rate.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    shape: Shape,
    per_second: f64,
}

impl Load {
    /// `per_second` is positive.
    pub fn new(shape: Shape, per_second: f64) -> Self {
        Self { shape, per_second: per_second.max(f64::MIN_POSITIVE) }
    }

    /// When, counted from the start, send number `index` (from 0) is due.
    pub fn due(&self, index: u64) -> Duration {
        let steady = index as f64 / self.per_second;
        let seconds = match &self.shape {
            Shape::Steady => steady,
            Shape::Burst { period, part } => {
                let period = period.duration().as_secs_f64().max(0.001);
                let periods = (steady / period).floor();
                periods * period + (steady - periods * period) * part.clamp(0.001, 1.0)
            }
            Shape::Ramp { over } => {
                let over = over.duration().as_secs_f64();
                let climbing = self.per_second * over / 2.0;
                if (index as f64) < climbing {
                    (2.0 * over * index as f64 / self.per_second).sqrt()
                } else {
                    over + (index as f64 - climbing) / self.per_second
                }
            }
        };
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(text: &str) -> Span {
        text.parse().expect("a span")
    }

    /// `expected`: sends due within the first 1, 2, 3 … seconds.
    fn check(shape: Shape, per_second: f64, expected: &[usize]) {
        let load = Load::new(shape, per_second);
        let due: Vec<f64> = (0..1_000).map(|index| load.due(index).as_secs_f64()).collect();
        assert!(due.is_sorted(), "never back in time");
        for (second, expected) in (1..).zip(expected) {
            let count = due.iter().filter(|at| **at < f64::from(second) - 1e-9).count();
            assert_eq!(count, *expected, "within {second} s of {load:?}");
        }
    }

    #[test]
    fn a_steady_rate_is_steady() {
        check(Shape::Steady, 10.0, &[10, 20, 30]);
    }

    #[test]
    fn a_burst_sends_a_whole_period_in_its_part() {
        check(Shape::Burst { period: span("4s"), part: 0.25 }, 10.0, &[40, 40, 40, 40, 80]);
    }

    #[test]
    fn a_ramp_climbs_to_the_rate() {
        check(Shape::Ramp { over: span("2s") }, 10.0, &[3, 10, 20, 30]);
    }
}
