//! Numbers as people say them.

/// `1,204`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if 0 < at && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `203.4`, `1,204`.
pub(super) fn rate(number: f64) -> String {
    if number < 100.0 { format!("{number:.1}") } else { count(number.round() as u64) }
}

/// `348 MiB`, `1.5 GiB`.
pub(super) fn bytes(number: u64) -> String {
    let mut rest = number as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if rest < 1024.0 {
            return if unit != "B" && rest < 10.0 { format!("{rest:.1} {unit}") } else { format!("{rest:.0} {unit}") };
        }
        rest /= 1024.0;
    }
    format!("{rest:.1} TiB")
}

/// `3 d 4 h`, `1 h 10 min`, `2 min`, `7 s`.
pub(super) fn span(seconds: u64) -> String {
    const PARTS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let Some(first) = PARTS.iter().position(|(size, _)| *size <= seconds) else { return "0 s".to_owned() };
    let (size, name) = PARTS[first];
    let rest = PARTS.get(first + 1).map(|(small, name)| (seconds % size / small, name));
    match rest {
        Some((rest, small)) if 0 < rest && first < 2 => format!("{} {name} {rest} {small}", seconds / size),
        _ => format!("{} {name}", seconds / size),
    }
}

/// A line of a terminal and no more: what others said may hold anything.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `text`, or so much of it as there is room for, and `mark`.
pub(super) fn cut(text: &str, columns: usize, mark: char) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns.saturating_sub(1)).chain(std::iter::once(mark).take(columns)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_say_them() {
        let counts = [0, 7, 999, 1_000, 1_234_567, u64::MAX].map(count);
        assert_eq!(counts, ["0", "7", "999", "1,000", "1,234,567", "18,446,744,073,709,551,615"]);
        assert_eq!([0.0, 3.12, 99.94, 203.4, 12_345.6].map(rate), ["0.0", "3.1", "99.9", "203", "12,346"]);
        let sizes = [0, 1_023, 1_536, 364_904_448, 5_476_083_302, 1 << 50].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.5 KiB", "348 MiB", "5.1 GiB", "1024.0 TiB"]);
        let spans = [0, 59, 60, 125, 3_600, 4_200, 273_600, u64::MAX].map(span);
        assert_eq!(spans, ["0 s", "59 s", "1 min", "2 min", "1 h", "1 h 10 min", "3 d 4 h", "213503982334601 d 7 h"]);
    }

    #[test]
    fn what_others_said_is_one_line_that_fits() {
        assert_eq!(clean("a\u{1b}[2J\nb"), "a [2J b");
        assert_eq!([cut("abc", 3, '…'), cut("abcd", 3, '~'), cut("abc", 0, '…')], ["abc", "ab~", ""]);
    }
}
