//! A payload of any format as one tree of values, and the places in it.
//!
//! A tree is bounded before it grows: in depth, and in the number of its values. What a format can hold and we cannot is
//! a value of its own, [`Node::Bad`], with its reason: it costs only itself.

use shared::payload::TEXT_BYTES_MAX;
use shared::reading::Value;
use shared::time::Timestamp;

/// Deepest nesting that is read.
pub const DEPTH_MAX: usize = 16;
/// Most values of one payload, maps and lists among them.
pub const NODES_MAX: usize = 20_000;

/// One value of a payload.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// No value.
    Null,
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other finite number.
    Float(f64),
    /// A text.
    Text(String),
    /// An instant, where the format has such values.
    Time(Timestamp),
    /// Values in their order.
    List(Vec<Node>),
    /// Members in their order, repeats included.
    Map(Vec<(String, Node)>),
    /// What cannot be taken, and why.
    Bad(String),
}

/// A member stands there more than once: which one is meant, nobody can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Twice;

impl Node {
    /// A whole number of any size; what neither 64 bits nor a double hold exactly is refused.
    pub fn whole(number: i128) -> Self {
        match i64::try_from(number) {
            Ok(number) => Node::Int(number),
            Err(_) => exact(number).map_or_else(|| Node::Bad(inexact(number)), Node::Float),
        }
    }

    /// A double; NaN and the infinities are refused.
    pub fn double(number: f64) -> Self {
        if number.is_finite() { Node::Float(number) } else { Node::Bad(format!("type: {number} is no finite number")) }
    }

    /// A 32-bit float, as the shortest decimal that names it: 0.1, not 0.10000000149011612.
    pub fn single(number: f32) -> Self {
        match number.is_finite() {
            true => Node::double(number.to_string().parse().unwrap_or_else(|_| f64::from(number))),
            false => Node::double(f64::from(number)),
        }
    }

    /// The member called `name`, or the element with that index.
    ///
    /// # Errors
    /// It stands there twice.
    pub fn member(&self, name: &str) -> Result<Option<&Node>, Twice> {
        match self {
            Node::Map(members) => {
                let mut found = members.iter().filter(|(member, _)| member == name).map(|(_, node)| node);
                match (found.next(), found.next()) {
                    (_, Some(_)) => Err(Twice),
                    (first, None) => Ok(first),
                }
            }
            Node::List(elements) => Ok(name.parse().ok().and_then(|index: usize| elements.get(index))),
            _ => Ok(None),
        }
    }

    /// What stands at `path`.
    ///
    /// # Errors
    /// A member on the way stands there twice.
    pub fn at(&self, path: &Path) -> Result<Option<&Node>, Twice> {
        let mut node = self;
        for step in &path.steps {
            match node.member(step)? {
                Some(member) => node = member,
                None => return Ok(None),
            }
        }
        Ok(Some(node))
    }

    /// The value, or why it is none.
    ///
    /// # Errors
    /// The reason.
    pub fn value(&self) -> Result<Value, String> {
        match self {
            Node::Null => Err("type: null".to_owned()),
            Node::Bool(on) => Ok(Value::Bool(*on)),
            Node::Int(number) => {
                exact(i128::from(*number)).map(Value::Number).ok_or_else(|| inexact(i128::from(*number)))
            }
            Node::Float(number) => Ok(Value::Number(*number)),
            Node::Text(text) if TEXT_BYTES_MAX < text.len() => {
                Err(format!("type: a text of {} bytes, {TEXT_BYTES_MAX} are allowed", text.len()))
            }
            Node::Text(text) => Ok(Value::Text(text.clone())),
            Node::Time(time) => Ok(Value::Text(time.to_string())),
            Node::List(_) | Node::Map(_) => Err("type: neither number, boolean nor text".to_owned()),
            Node::Bad(reason) => Err(reason.clone()),
        }
    }

    /// The value with its unit, where it is an object of `v` and `u`.
    ///
    /// # Errors
    /// The reason why there is none.
    pub fn measure(&self) -> Result<(Value, Option<String>), String> {
        let Node::Map(_) = self else { return Ok((self.value()?, None)) };
        let value = self.member("v").map_err(|Twice| "type: `v` stands twice in the object".to_owned())?;
        let unit = self.member("u").map_err(|Twice| "unit: `u` stands twice in the object".to_owned())?;
        let value = value.ok_or_else(|| "type: an object without `v`".to_owned())?.value()?;
        Ok((value, unit.map(unit_of).transpose()?.flatten()))
    }

    /// As a name: a text, or a number or boolean in figures. `None` if it is nothing of the kind.
    pub fn name(&self) -> Option<String> {
        match self {
            Node::Text(text) => Some(text.clone()),
            Node::Int(number) => Some(number.to_string()),
            Node::Float(number) => Some(number.to_string()),
            Node::Bool(on) => Some(on.to_string()),
            _ => None,
        }
    }

    /// What it is, for a reason.
    pub fn shown(&self) -> String {
        match self {
            Node::Null => "null".to_owned(),
            Node::Text(text) => format!("{:?}", clip(text)),
            Node::Time(time) => time.to_string(),
            Node::List(_) => "a list".to_owned(),
            Node::Map(_) => "an object".to_owned(),
            Node::Bad(reason) => reason.clone(),
            // Without three hundred zeros.
            Node::Float(number) if 1e21 <= number.abs() => format!("{number:e}"),
            node => node.name().unwrap_or_default(),
        }
    }
}

/// A unit, or none where it is null or empty.
///
/// # Errors
/// It is no unit.
pub fn unit_of(node: &Node) -> Result<Option<String>, String> {
    match node {
        Node::Null => Ok(None),
        Node::Text(unit) if unit.is_empty() => Ok(None),
        Node::Text(unit) if 64 < unit.len() || unit.chars().any(char::is_control) => {
            Err("unit: longer than 64 bytes, or holds a control character".to_owned())
        }
        Node::Text(unit) => Ok(Some(unit.clone())),
        _ => Err("unit: is no text".to_owned()),
    }
}

/// The double that is exactly this number.
fn exact(number: i128) -> Option<f64> {
    let double = number as f64;
    // Below the ends of 128 bits, where going back would stop at them.
    (number.unsigned_abs() < 1 << 120 && double as i128 == number).then_some(double)
}

fn inexact(number: i128) -> String {
    format!("type: no double is exactly the whole number {number}")
}

/// The beginning of a text, for a reason.
pub fn clip(text: &str) -> String {
    let mut clipped: String = text.chars().take(60).collect();
    if clipped.len() < text.len() {
        clipped.push('…');
    }
    clipped
}

/// A place in a payload: `header.time`, `data.0.v`; with `/` in front the steps are parted by it, for names that hold
/// a dot: `/header/a.b`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub(super) steps: Vec<String>,
}

impl Path {
    /// Reads a path.
    ///
    /// # Errors
    /// What is wrong with it and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let steps: Vec<String> = match text.strip_prefix('/') {
            Some(rest) => rest.split('/').map(str::to_owned).collect(),
            None => text.split('.').map(str::to_owned).collect(),
        };
        match steps.iter().any(String::is_empty) {
            true => Err(format!("`{text}` is no place in a payload; write e.g. \"header.time\"")),
            false => Ok(Self { steps }),
        }
    }
}

/// How many more values a payload may have.
#[derive(Debug)]
pub struct Budget {
    left: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: NODES_MAX }
    }
}

impl Budget {
    /// Room for one more value.
    ///
    /// # Errors
    /// There is none: the reason for the whole payload.
    pub fn take(&mut self) -> Result<(), String> {
        self.left = self.left.checked_sub(1).ok_or_else(|| format!("payload: more than {NODES_MAX} values"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_taken_exactly_or_not_at_all() {
        for (node, shown) in [
            (Node::whole(1 << 53), "9007199254740992"),
            (Node::whole((1 << 53) + 1), "type: no double is exactly the whole number 9007199254740993"),
            (Node::whole(1 << 63), "9223372036854776000"),
            (Node::whole(i128::from(u64::MAX)), "type: no double is exactly the whole number 18446744073709551615"),
            (Node::whole(i128::MAX), &format!("type: no double is exactly the whole number {}", i128::MAX)),
            (Node::double(f64::NAN), "type: NaN is no finite number"),
            (Node::single(f32::NEG_INFINITY), "type: -inf is no finite number"),
            (Node::single(0.1), "0.1"),
            (Node::single(f32::MAX), "340282350000000000000000000000000000000"),
        ] {
            let value = node.value().map_or_else(|reason| reason, |value| value.to_string());
            assert_eq!(value, shown);
        }
    }

    #[test]
    fn a_place_is_found_once_or_said_to_be_there_twice() {
        let list = Node::List(vec![Node::Int(5), Node::Map(vec![("a.b".into(), Node::Int(6))])]);
        let tree = Node::Map(vec![("l".into(), list), ("x".into(), Node::Null), ("x".into(), Node::Null)]);
        let at = |path: &str| tree.at(&Path::parse(path).expect(path)).map(|node| node.map(Node::shown));
        assert_eq!(at("l.0"), Ok(Some("5".into())));
        assert_eq!(at("/l/1/a.b"), Ok(Some("6".into())));
        assert_eq!(at("l.7"), Ok(None));
        assert_eq!(at("l.0.z"), Ok(None));
        assert_eq!(at("x"), Err(Twice));
        assert!(Path::parse("a..b").is_err() && Path::parse("").is_err());
    }
}
