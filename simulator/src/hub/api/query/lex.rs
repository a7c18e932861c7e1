//! [p] A query as words. One pass, no way back: a text of n bytes takes n steps.

use super::QueryFault;

/// A word of a query, and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// In bytes.
    pub(super) at: usize,
}

/// See [`Token`].
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// A keyword or a name.
    Word(String),
    /// `[[name]]`: a name, whatever it looks like.
    Name(String),
    /// `'text'` or `"text"`.
    Text(String),
    /// A number.
    Number(serde_json::Number),
    /// Everything else.
    Sign(Sign),
}

/// See [`Kind::Sign`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    Open,
    Close,
    OpenList,
    CloseList,
    Comma,
    Dot,
    Star,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
}

/// Reads the words of a query.
pub(super) fn lex(text: &str) -> Result<Vec<Token>, QueryFault> {
    let mut tokens = vec![];
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let at = text.len() - rest.len();
        let Some(first) = rest.chars().next() else { return Ok(tokens) };
        let (kind, length) = match first {
            '\'' | '"' => quoted(rest, first).ok_or_else(|| QueryFault::at(at, "a text does not end"))?,
            '[' if rest.starts_with("[[") => name(rest).ok_or_else(|| QueryFault::at(at, "`[[` has no `]]`"))?,
            '0'..='9' => number(rest).ok_or_else(|| QueryFault::at(at, "this is no number"))?,
            '-' | '+' => number(rest).ok_or_else(|| QueryFault::at(at, "arithmetic is not supported here"))?,
            first if is_first(first) => {
                let length = rest.find(|letter| !is_next(letter)).unwrap_or(rest.len());
                (Kind::Word(rest[..length].to_owned()), length)
            }
            _ => sign(rest)
                .ok_or_else(|| QueryFault::at(at, format!("`{}` means nothing here", first.escape_debug())))?,
        };
        tokens.push(Token { kind, at });
        rest = &rest[length..];
    }
}

fn is_first(letter: char) -> bool {
    letter.is_alphabetic() || letter == '_' || letter == '$'
}

fn is_next(letter: char) -> bool {
    is_first(letter) || letter.is_numeric() || letter == '-'
}

/// A quote within is doubled, or has a backslash before it.
fn quoted(text: &str, quote: char) -> Option<(Kind, usize)> {
    let mut letters = text.char_indices().skip(1).peekable();
    let mut value = String::new();
    while let Some((at, letter)) = letters.next() {
        let next = letters.peek().map(|(_, next)| *next);
        match letter {
            '\\' if next.is_some_and(|next| next == quote || next == '\\') => {
                value.extend(letters.next().map(|(_, next)| next))
            }
            letter if letter == quote && next == Some(quote) => value.extend(letters.next().map(|(_, next)| next)),
            letter if letter == quote => return Some((Kind::Text(value), at + letter.len_utf8())),
            letter => value.push(letter),
        }
    }
    None
}

fn name(text: &str) -> Option<(Kind, usize)> {
    let end = text.find("]]")?;
    Some((Kind::Name(text[2..end].to_owned()), end + 2))
}

fn number(text: &str) -> Option<(Kind, usize)> {
    let mut length = usize::from(text.starts_with(['-', '+']));
    let bytes = text.as_bytes();
    while let Some(byte) = bytes.get(length) {
        let exponent = matches!(byte, b'-' | b'+') && matches!(bytes[length - 1], b'e' | b'E');
        if !(byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E') || exponent) {
            break;
        }
        length += 1;
    }
    // Of JSON: so what a query calls equal is what a twin holds.
    let number = serde_json::from_str(text[..length].trim_start_matches('+')).ok()?;
    Some((Kind::Number(number), length))
}

fn sign(text: &str) -> Option<(Kind, usize)> {
    let (sign, length) = match text.as_bytes() {
        [b'!', b'=', ..] | [b'<', b'>', ..] => (Sign::NotEqual, 2),
        [b'<', b'=', ..] => (Sign::LessOrEqual, 2),
        [b'>', b'=', ..] => (Sign::MoreOrEqual, 2),
        [b'=', ..] => (Sign::Equal, 1),
        [b'<', ..] => (Sign::Less, 1),
        [b'>', ..] => (Sign::More, 1),
        [b'(', ..] => (Sign::Open, 1),
        [b')', ..] => (Sign::Close, 1),
        [b'[', ..] => (Sign::OpenList, 1),
        [b']', ..] => (Sign::CloseList, 1),
        [b',', ..] => (Sign::Comma, 1),
        [b'.', ..] => (Sign::Dot, 1),
        [b'*', ..] => (Sign::Star, 1),
        _ => return None,
    };
    Some((Kind::Sign(sign), length))
}
