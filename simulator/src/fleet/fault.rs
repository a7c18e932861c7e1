//! What goes wrong at a device, drawn by seed, and the fate that each fault has at the other end.
//!
//! | fault | the payload | fate |
//! |---|---|---|
//! | out-of-range | one metric has a value that the rules refuse | that metric quarantine, the others readings |
//! | missing-field | one metric has a unit and no value | that metric quarantine, the others readings |
//! | garbled | torn, or with a byte that is no UTF-8 | one quarantine row without a metric |
//! | late | its time lies back, by up to `late-by` | readings |
//! | twice | sent two times, byte for byte | readings, once |
//! | wrong-clock | days ahead, or in 1970 | every metric quarantine |

use serde::{Deserialize, Serialize};
use shared::config::Span;

use super::waveform::{mix, unit};

/// What is wrong with one send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A value that no sensor of this kind can have.
    OutOfRange,
    /// A metric without its value.
    MissingField,
    /// Bytes that are no payload.
    Garbled,
    /// An event of a while ago.
    Late,
    /// The same send, two times.
    Twice,
    /// A time that cannot be.
    WrongClock,
}

/// How often each fault happens, as a fraction of all sends.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rates {
    /// See [`Fault::OutOfRange`].
    pub out_of_range: f64,
    /// See [`Fault::MissingField`].
    pub missing_field: f64,
    /// See [`Fault::Garbled`].
    pub garbled: f64,
    /// See [`Fault::Late`].
    pub late: f64,
    /// How far back a late event lies at most.
    pub late_by: Span,
    /// See [`Fault::Twice`].
    pub twice: f64,
    /// See [`Fault::WrongClock`].
    pub wrong_clock: f64,
}

impl Rates {
    /// Each fault with its rate and the name of its setting.
    pub fn all(&self) -> [(&'static str, Fault, f64); 6] {
        [
            ("out-of-range", Fault::OutOfRange, self.out_of_range),
            ("missing-field", Fault::MissingField, self.missing_field),
            ("garbled", Fault::Garbled, self.garbled),
            ("late", Fault::Late, self.late),
            ("twice", Fault::Twice, self.twice),
            ("wrong-clock", Fault::WrongClock, self.wrong_clock),
        ]
    }

    /// The fault of send `n` of `device`, if it has one.
    pub fn draw(&self, seed: u64, device: u64, n: u64) -> Option<Fault> {
        let mut left = unit(mix(&[seed, device, n, 0xfa17]));
        for (_, fault, rate) in self.all() {
            if left < rate {
                return Some(fault);
            }
            left -= rate;
        }
        None
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn no_faults() -> Rates {
        Rates {
            out_of_range: 0.0,
            missing_field: 0.0,
            garbled: 0.0,
            late: 0.0,
            late_by: "20m".parse().expect("a span"),
            twice: 0.0,
            wrong_clock: 0.0,
        }
    }

    #[test]
    fn each_fault_comes_as_often_as_its_rate_says() {
        let rates = Rates {
            out_of_range: 0.1,
            garbled: 0.05,
            late: 0.2,
            twice: 0.1,
            wrong_clock: 0.02,
            missing_field: 0.03,
            ..no_faults()
        };
        for (name, fault, rate) in rates.all() {
            let count = (0..20_000).filter(|n| rates.draw(5, n % 7, *n) == Some(fault)).count();
            assert!((count as f64 / 20_000.0 - rate).abs() < 0.01, "{name}: {count} of 20000, wanted {rate}");
        }
        assert!((0..1_000).all(|n| no_faults().draw(5, 0, n).is_none()));
    }
}
