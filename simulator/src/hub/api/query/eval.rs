//! [p] What a condition says of a row. Three answers: true, false, and none where a value is not there or two values
//! cannot be compared; what has no answer is not found.

use std::cmp::Ordering;

use serde_json::{Map, Number, Value};
use shared::time::Timestamp;

use super::{Compare, Condition, Field, Operand, Row, Select, Step};

/// True if the row is meant.
pub(super) fn holds(condition: &Condition, row: &impl Row) -> bool {
    answer(condition, row) == Some(true)
}

/// What is shown of a row.
pub(super) fn project(select: &Select, row: &impl Row) -> Value {
    match select {
        Select::All => row.whole(),
        Select::Fields(fields) => {
            let name = |field: &Field| field.name.clone().unwrap_or_else(|| row.name(&field.path));
            Value::Object(fields.iter().filter_map(|field| Some((name(field), row.walk(&field.path)?))).collect())
        }
        Select::Count { .. } => Value::Null,
    }
}

/// What stands in an object at a path.
pub(in crate::hub::api) fn walk(within: &Map<String, Value>, path: &[Step]) -> Option<Value> {
    let [Step::Name(first), rest @ ..] = path else { return None };
    let found = rest.iter().try_fold(within.get(first)?, |value, step| match step {
        Step::Name(name) => value.get(name),
        Step::Index(at) => value.get(at),
    });
    found.cloned()
}

fn answer(condition: &Condition, row: &impl Row) -> Option<bool> {
    match condition {
        Condition::All(of) => all(of.iter().map(|one| answer(one, row))),
        Condition::Any(of) => all(of.iter().map(|one| answer(one, row).map(|is| !is))).map(|none| !none),
        Condition::Not(one) => answer(one, row).map(|is| !is),
        Condition::Defined(path) => Some(row.walk(path).is_some()),
        Condition::True(operand) => value(operand, row)?.as_bool(),
        Condition::In(operand, list) => {
            let value = value(operand, row)?;
            Some(list.iter().any(|listed| compare(&value, Compare::Equal, listed) == Some(true)))
        }
        Condition::Compare(left, how, right) => compare(&value(left, row)?, *how, &value(right, row)?),
    }
}

/// False if one is, true if all are.
fn all(answers: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut whole = Some(true);
    for answer in answers {
        match answer {
            Some(false) => return Some(false),
            Some(true) => {}
            None => whole = None,
        }
    }
    whole
}

fn value(operand: &Operand, row: &impl Row) -> Option<Value> {
    match operand {
        Operand::Value(value) => Some(value.clone()),
        Operand::Path(path) => row.walk(path),
        Operand::Defined(path) => Some(Value::Bool(row.walk(path).is_some())),
    }
}

/// Values of different kinds, lists and objects cannot be compared; truths and nulls have no order.
fn compare(left: &Value, how: Compare, right: &Value) -> Option<bool> {
    let order = match (left, right) {
        (Value::Number(left), Value::Number(right)) => numbers(left, right)?,
        (Value::String(left), Value::String(right)) => texts(left, right, how),
        (Value::Bool(left), Value::Bool(right)) => {
            let same = left == right;
            return equality(same, how);
        }
        (Value::Null, Value::Null) => return equality(true, how),
        _ => return None,
    };
    Some(match how {
        Compare::Equal => order == Ordering::Equal,
        Compare::NotEqual => order != Ordering::Equal,
        Compare::Less => order == Ordering::Less,
        Compare::LessOrEqual => order != Ordering::Greater,
        Compare::More => order == Ordering::Greater,
        Compare::MoreOrEqual => order != Ordering::Less,
    })
}

fn equality(same: bool, how: Compare) -> Option<bool> {
    match how {
        Compare::Equal => Some(same),
        Compare::NotEqual => Some(!same),
        _ => None,
    }
}

fn numbers(left: &Number, right: &Number) -> Option<Ordering> {
    match (left.as_i64(), right.as_i64()) {
        (Some(left), Some(right)) => Some(left.cmp(&right)),
        _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
    }
}

/// By their letters; two times by what comes first, however many digits they have.
fn texts(left: &str, right: &str, how: Compare) -> Ordering {
    let ordered = !matches!(how, Compare::Equal | Compare::NotEqual);
    match (ordered, time(left), time(right)) {
        (true, Some(left), Some(right)) => left.cmp(&right),
        _ => left.cmp(right),
    }
}

fn time(text: &str) -> Option<Timestamp> {
    let like = (19..=40).contains(&text.len()) && text.as_bytes()[..4].iter().all(u8::is_ascii_digit);
    like.then(|| Timestamp::parse_rfc3339(text).or_else(|| Timestamp::parse_rfc3339(&format!("{text}Z")))).flatten()
}
