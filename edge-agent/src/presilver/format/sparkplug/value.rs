//! A Sparkplug value by its data type.

use shared::time::Timestamp;

use super::wire::Raw;
use crate::presilver::format::tree::Node;

/// Names of the data types, by their numbers.
const NAMES: [&str; 35] = [
    "Unknown",
    "Int8",
    "Int16",
    "Int32",
    "Int64",
    "UInt8",
    "UInt16",
    "UInt32",
    "UInt64",
    "Float",
    "Double",
    "Boolean",
    "String",
    "DateTime",
    "Text",
    "UUID",
    "DataSet",
    "Bytes",
    "File",
    "Template",
    "PropertySet",
    "PropertySetList",
    "Int8Array",
    "Int16Array",
    "Int32Array",
    "Int64Array",
    "UInt8Array",
    "UInt16Array",
    "UInt32Array",
    "UInt64Array",
    "FloatArray",
    "DoubleArray",
    "BooleanArray",
    "StringArray",
    "DateTimeArray",
];

/// The value, or its reason to be none.
pub(super) fn node(datatype: u64, raw: Raw<'_>) -> Node {
    let named = usize::try_from(datatype).ok().and_then(|index| NAMES.get(index).copied());
    let name = named.map_or_else(|| format!("{datatype}"), str::to_owned);
    let misfit = || Node::Bad(format!("type: a value that is no {name}"));
    match (datatype, raw) {
        (1..=3, Raw::Int(bits) | Raw::Long(bits)) => signed(bits, 8 << (datatype - 1)).map_or_else(misfit, Node::Int),
        (4, Raw::Long(bits) | Raw::Int(bits)) => Node::Int(bits as i64),
        (5..=7, Raw::Int(number) | Raw::Long(number)) if number < 1 << (8 << (datatype - 5)) => {
            Node::whole(i128::from(number))
        }
        (8, Raw::Long(number) | Raw::Int(number)) => Node::whole(i128::from(number)),
        (9, Raw::Float(number)) => Node::single(number),
        (9 | 10, Raw::Double(number)) => Node::double(number),
        (10, Raw::Float(number)) => Node::single(number),
        (11, Raw::Bool(on)) => Node::Bool(on),
        (12 | 14 | 15, Raw::Text(text)) => match std::str::from_utf8(text) {
            Ok(text) => Node::Text(text.to_owned()),
            Err(_) => Node::Bad("type: a text that is not UTF-8".to_owned()),
        },
        (13, Raw::Long(ms) | Raw::Int(ms)) => match time(ms) {
            Some(time) => Node::Time(time),
            None => Node::Bad(format!("time: outside the years 1 to 9999: {ms} ms")),
        },
        (16..=34, _) => Node::Bad(format!("type: {name} is neither number, boolean nor text")),
        (1..=15, _) => misfit(),
        _ => Node::Bad(format!("type: data type {name} is not known")),
    }
}

/// Milliseconds since the Unix epoch as an instant that can be printed.
pub(super) fn time(ms: u64) -> Option<Timestamp> {
    let ms = i64::try_from(ms).ok()?;
    Some(Timestamp::from_millis(ms)).filter(|time| time.is_printable())
}

/// A negative number is written in two's complement: of its own width, of 32 or of 64 bits.
fn signed(bits: u64, width: u32) -> Option<i64> {
    let (low, high) = (1u64 << (width - 1), 1u64 << width);
    match bits {
        _ if bits < low => i64::try_from(bits).ok(),
        _ if bits < high => Some((bits as i64) - (1i64 << width)),
        _ if (1u64 << 32) - low <= bits && bits < 1u64 << 32 => Some((bits as i64) - (1i64 << 32)),
        _ if bits.wrapping_neg() <= low => Some(bits as i64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_what_its_data_type_says_or_refused() {
        for (datatype, raw, shown) in [
            (1, Raw::Int(0xff), "-1"),
            (1, Raw::Int(0xffff_ffff), "-1"),
            (1, Raw::Int(u64::MAX), "-1"),
            (1, Raw::Int(300), "type: a value that is no Int8"),
            (2, Raw::Int(0xffff_8000), "-32768"),
            (3, Raw::Int(0x8000_0000), "-2147483648"),
            (4, Raw::Long(u64::MAX), "-1"),
            (5, Raw::Int(255), "255"),
            (5, Raw::Int(256), "type: a value that is no UInt8"),
            (7, Raw::Int(u64::from(u32::MAX)), "4294967295"),
            (8, Raw::Long((1 << 53) + 1), "type: no double is exactly the whole number 9007199254740993"),
            (9, Raw::Float(21.37), "21.37"),
            (9, Raw::Float(f32::NAN), "type: NaN is no finite number"),
            (10, Raw::Double(f64::INFINITY), "type: inf is no finite number"),
            (11, Raw::Bool(true), "true"),
            (11, Raw::Int(1), "type: a value that is no Boolean"),
            (12, Raw::Text(b"\xff"), "type: a text that is not UTF-8"),
            (13, Raw::Long(1_790_000_000_000), "\"2026-09-21T14:13:20Z\""),
            (13, Raw::Long(u64::MAX), "time: outside the years 1 to 9999: 18446744073709551615 ms"),
            (16, Raw::Other, "type: DataSet is neither number, boolean nor text"),
            (34, Raw::Other, "type: DateTimeArray is neither number, boolean nor text"),
            (99, Raw::Int(1), "type: data type 99 is not known"),
        ] {
            let value = node(datatype, raw).value().map_or_else(|reason| reason, |value| value.to_string());
            assert_eq!(value, shown, "{datatype} {raw:?}");
        }
    }
}
