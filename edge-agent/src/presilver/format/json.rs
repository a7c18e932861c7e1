//! JSON -> tree. Numbers as the double nearest to them, members in their order with repeats.

use serde_json::value::RawValue;
use shared::payload::{members_of, number_of};

use super::tree::{Budget, DEPTH_MAX, Node, clip};

/// Reads one JSON value.
///
/// # Errors
/// Why it cannot be read as a whole.
pub fn read(bytes: &[u8]) -> Result<Node, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| format!("payload: not UTF-8 from byte {}", e.valid_up_to()))?;
    let raw: &RawValue = serde_json::from_str(text).map_err(|e| format!("payload: not JSON ({e})"))?;
    node(raw.get(), 0, &mut Budget::default())
}

fn node(json: &str, depth: usize, budget: &mut Budget) -> Result<Node, String> {
    budget.take()?;
    let json = json.trim();
    let torn = |error: serde_json::Error| format!("payload: not JSON ({error})");
    Ok(match json.as_bytes().first() {
        Some(b'{' | b'[') if DEPTH_MAX <= depth => Node::Bad(format!("depth: nested deeper than {DEPTH_MAX} levels")),
        Some(b'{') => {
            let members = members_of(json.as_bytes()).map_err(|unreadable| unreadable.why)?;
            let each = members.into_iter().map(|(name, raw)| Ok((name, node(raw.get(), depth + 1, budget)?)));
            Node::Map(each.collect::<Result<_, String>>()?)
        }
        Some(b'[') => {
            let elements: Vec<&RawValue> = serde_json::from_str(json).map_err(torn)?;
            let each = elements.into_iter().map(|raw| node(raw.get(), depth + 1, budget));
            Node::List(each.collect::<Result<_, String>>()?)
        }
        Some(b'"') => Node::Text(serde_json::from_str(json).map_err(torn)?),
        Some(b't' | b'f') => Node::Bool(serde_json::from_str(json).map_err(torn)?),
        Some(b'n') => Node::Null,
        _ => match (json.parse::<i128>(), number_of(json)) {
            (Ok(whole), _) if json != "-0" => Node::whole(whole),
            (_, Some(number)) => Node::Float(number),
            (_, None) => Node::Bad(format!("type: no number that a double can hold: {}", clip(json))),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value_is_read_and_what_a_double_cannot_hold_costs_only_itself() {
        let tree = read(br#"{"a":[1,-2.5,true,null,"x"],"b":{"c":1e400},"big":9007199254740993,"b":0}"#).expect("JSON");
        let Node::Map(members) = &tree else { panic!("{tree:?}") };
        assert_eq!(members.len(), 4, "repeats are kept");
        assert_eq!(
            members[0].1,
            Node::List(vec![Node::Int(1), Node::Float(-2.5), Node::Bool(true), Node::Null, Node::Text("x".into())])
        );
        assert!(matches!(&members[1].1, Node::Map(inner) if matches!(inner[0].1, Node::Bad(_))));
        assert!(members[2].1.value().is_err(), "{:?}", members[2].1);
    }

    #[test]
    fn depth_and_number_are_bounded() {
        let deep = format!("{{\"ok\":1,\"deep\":{}1{}}}", "[".repeat(100), "]".repeat(100));
        let tree = read(deep.as_bytes()).expect("readable");
        assert_eq!(tree.member("ok"), Ok(Some(&Node::Int(1))));
        let deeper = format!("[{}{},2]", "[".repeat(100_000), "]".repeat(100_000));
        let tree = read(deeper.as_bytes()).expect("readable");
        assert_eq!(tree.member("1"), Ok(Some(&Node::Int(2))), "what follows is read");
        assert!(read(format!("[{}1]", "1,".repeat(20_000)).as_bytes()).is_err());
        for bad in ["", "{", "{\"a\":1}}", "NaN", "[1,]", "\u{feff}1"] {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
