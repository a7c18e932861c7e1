//! One number, `true` or `false` as plain text, with or without a unit behind it: `21.5`, `+007`, `21.5 Cel`.

use std::collections::BTreeMap;

use shared::payload::{Measured, Unreadable};
use shared::reading::{MetricName, Value};

use super::tree::{Node, clip, unit_of};
use super::{Part, Taken, unreadable};
use crate::presilver::mapping::plan::Plan;

/// Takes the one value of a payload.
///
/// # Errors
/// It is no text, or empty.
pub fn take(plan: &Plan, names: &BTreeMap<&str, &str>, payload: &[u8]) -> Result<Taken, Unreadable> {
    let text = text(payload).map_err(unreadable)?;
    let metric = plan.metric.as_ref().map(|metric| metric.fill_names(names)).unwrap_or_default();
    let value = match MetricName::fault(&metric) {
        Some(fault) => Err(fault),
        None => value(text),
    };
    let device = plan.device.fill_names(names);
    Ok(Taken::one(Part { device, measured: vec![Measured { metric, value }], ..Part::default() }))
}

/// The text of a payload, without blanks around it.
///
/// # Errors
/// It is no text, or empty.
pub fn text(payload: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(payload).map_err(|e| format!("payload: not UTF-8 from byte {}", e.valid_up_to()))?;
    match text.trim() {
        "" => Err("payload: is empty".to_owned()),
        text => Ok(text),
    }
}

fn value(text: &str) -> Result<(Value, Option<String>), String> {
    let (figures, unit) = match text.split_once(char::is_whitespace) {
        Some((figures, unit)) => (figures, unit_of(&Node::Text(unit.trim().to_owned()))?),
        None => (text, None),
    };
    let node = match figures {
        "true" => Node::Bool(true),
        "false" => Node::Bool(false),
        figures => {
            number(figures).ok_or_else(|| format!("type: neither a number nor true nor false: {}", clip(text)))?
        }
    };
    Ok((node.value()?, unit))
}

/// A number in figures: a sign, digits with or without a point, an exponent. `None` if it is none.
pub fn number(text: &str) -> Option<Node> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_number = digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|exponent| !exponent.is_empty() && digits(exponent));
    if !is_number {
        return None;
    }
    match text.parse::<i128>() {
        Ok(number) => Some(Node::whole(number)),
        Err(_) => Some(text.parse().map_or_else(
            |_| Node::Bad("type: no number".to_owned()),
            |number: f64| match number.is_finite() {
                true => Node::Float(number),
                false => Node::Bad(format!("type: no number that a double can hold: {}", clip(text))),
            },
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_figures_and_nothing_else() {
        for (text, shown) in [
            ("21.5", "21.5"),
            ("+007", "7"),
            ("-.5", "-0.5"),
            ("5.", "5"),
            ("1e3", "1000"),
            ("21.5 Cel", "21.5 Cel"),
            ("3\t%", "3 %"),
            ("true", "true"),
            ("1e999", "type: no number that a double can hold: 1e999"),
            ("9007199254740993", "type: no double is exactly the whole number 9007199254740993"),
        ] {
            let shown_value = match value(text) {
                Ok((value, unit)) => format!("{value}{}", unit.map(|unit| format!(" {unit}")).unwrap_or_default()),
                Err(reason) => reason,
            };
            assert_eq!(shown_value, shown, "{text}");
        }
        for bad in ["", ".", "NaN", "inf", "-", "1e", "0x10", "21,5", "1_000", "٣", "12Cel"] {
            assert!(number(bad).is_none(), "{bad}");
        }
    }
}
