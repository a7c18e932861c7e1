//! [p] Words -> a query. Recursive descent of bounded depth, one word of lookahead: no text makes it slow.

use std::iter::Peekable;
use std::vec::IntoIter;

use serde_json::Value;

use super::lex::{Kind, Sign, Token, lex};
use super::{Compare, Condition, Field, Operand, Query, QueryFault, Select, Source, Step};

/// Characters of a query's text, as Microsoft documents it. Above, it is refused.
pub(in crate::hub::api) const TEXT_CHARS_MAX: usize = 8192;
/// Brackets and NOTs within each other.
const DEPTH_MAX: usize = 32;
/// Values of one IN.
const LIST_MAX: usize = 1_000;
/// Fields of a SELECT.
const FIELDS_MAX: usize = 100;
/// Steps of a path; twins are not nested deeper.
const STEPS_MAX: usize = 32;

/// Reads `SELECT … FROM … [WHERE …]`.
pub(super) fn query(text: &str) -> Result<Query, QueryFault> {
    let mut words = Words::of(text)?;
    words.expect_keyword("SELECT")?;
    let top = match words.keyword("TOP") {
        true => Some(words.top()?),
        false => None,
    };
    let select = words.select()?;
    let (source, condition) = words.from()?;
    words.end()?;
    Ok(Query { select, top, source, condition })
}

/// Reads what a job is for: a condition alone, `*` or nothing for all devices, or `[SELECT *] FROM … [WHERE …]`.
pub(super) fn condition(text: &str) -> Result<(Source, Option<Condition>), QueryFault> {
    let mut words = Words::of(text)?;
    let alone = match words.peek() {
        None => return Ok((Source::Devices, None)),
        Some(Kind::Sign(Sign::Star)) => {
            words.next();
            words.end()?;
            return Ok((Source::Devices, None));
        }
        Some(Kind::Word(word)) => !["SELECT", "FROM"].iter().any(|keyword| word.eq_ignore_ascii_case(keyword)),
        Some(_) => true,
    };
    let found = match alone {
        true => (Source::Devices, Some(words.any(0)?)),
        false => {
            if words.keyword("SELECT") && !words.sign(Sign::Star) {
                return Err(words.fault("a job is for whole devices: SELECT *"));
            }
            words.from()?
        }
    };
    words.end()?;
    Ok(found)
}

struct Words {
    tokens: Peekable<IntoIter<Token>>,
    end: usize,
}

impl Words {
    fn of(text: &str) -> Result<Self, QueryFault> {
        if let Some((at, _)) = text.char_indices().nth(TEXT_CHARS_MAX) {
            return Err(QueryFault::at(at, format!("a query has at most {TEXT_CHARS_MAX} characters")));
        }
        Ok(Self { tokens: lex(text)?.into_iter().peekable(), end: text.len() })
    }

    fn peek(&mut self) -> Option<&Kind> {
        self.tokens.peek().map(|token| &token.kind)
    }

    fn next(&mut self) -> Option<Kind> {
        self.tokens.next().map(|token| token.kind)
    }

    fn fault(&mut self, what: impl Into<String>) -> QueryFault {
        let at = self.tokens.peek().map_or(self.end, |token| token.at);
        QueryFault::at(at, what)
    }

    /// Takes the keyword if it comes next.
    fn keyword(&mut self, keyword: &str) -> bool {
        let here = matches!(self.peek(), Some(Kind::Word(word)) if word.eq_ignore_ascii_case(keyword));
        if here {
            self.next();
        }
        here
    }

    fn expect_keyword(&mut self, keyword: &str) -> Result<(), QueryFault> {
        if self.keyword(keyword) { Ok(()) } else { Err(self.fault(format!("{keyword} is missing here"))) }
    }

    /// Takes the sign if it comes next.
    fn sign(&mut self, sign: Sign) -> bool {
        let here = matches!(self.peek(), Some(Kind::Sign(found)) if *found == sign);
        if here {
            self.next();
        }
        here
    }

    fn expect_sign(&mut self, sign: Sign, name: &str) -> Result<(), QueryFault> {
        if self.sign(sign) { Ok(()) } else { Err(self.fault(format!("`{name}` is missing here"))) }
    }

    fn end(&mut self) -> Result<(), QueryFault> {
        for unsupported in ["GROUP", "ORDER", "JOIN"] {
            if self.keyword(unsupported) {
                return Err(self.fault(format!("{unsupported} is not supported here")));
            }
        }
        if self.peek().is_none() { Ok(()) } else { Err(self.fault("the query should end here")) }
    }

    fn top(&mut self) -> Result<usize, QueryFault> {
        match self.peek() {
            Some(Kind::Number(number)) => {
                let top = number.as_u64().and_then(|top| usize::try_from(top).ok());
                let top = top.ok_or_else(|| self.fault("TOP needs a whole number"))?;
                self.next();
                Ok(top)
            }
            _ => Err(self.fault("TOP needs a whole number")),
        }
    }

    fn select(&mut self) -> Result<Select, QueryFault> {
        if self.sign(Sign::Star) {
            return Ok(Select::All);
        }
        let mut fields = vec![];
        loop {
            let (path, call) = (self.path()?, self.sign(Sign::Open));
            if call {
                let [Step::Name(function)] = path.as_slice() else { return Err(self.fault("this is no function")) };
                if !function.eq_ignore_ascii_case("COUNT") || !fields.is_empty() {
                    return Err(self.fault("of functions only COUNT() alone can be selected here"));
                }
                self.sign(Sign::Star);
                self.expect_sign(Sign::Close, ")")?;
                let name = self.alias()?.unwrap_or_else(|| "$1".to_owned());
                return match self.sign(Sign::Comma) {
                    false => Ok(Select::Count { name }),
                    true => Err(self.fault("of functions only COUNT() alone can be selected here")),
                };
            }
            if FIELDS_MAX <= fields.len() {
                return Err(self.fault(format!("at most {FIELDS_MAX} fields can be selected")));
            }
            let name = self.alias()?;
            fields.push(Field { path, name });
            if !self.sign(Sign::Comma) {
                return Ok(Select::Fields(fields));
            }
        }
    }

    fn alias(&mut self) -> Result<Option<String>, QueryFault> {
        if !self.keyword("AS") {
            return Ok(None);
        }
        match self.peek() {
            Some(Kind::Word(name) | Kind::Name(name)) => {
                let name = name.clone();
                self.next();
                Ok(Some(name))
            }
            _ => Err(self.fault("AS needs a name")),
        }
    }

    fn from(&mut self) -> Result<(Source, Option<Condition>), QueryFault> {
        self.expect_keyword("FROM")?;
        let names = self.path()?;
        let names: Vec<_> = names
            .iter()
            .map(|step| match step {
                Step::Name(name) => name.to_ascii_lowercase(),
                Step::Index(_) => String::new(),
            })
            .collect();
        let source = match names.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["devices"] => Source::Devices,
            ["devices", "modules"] => Source::Modules,
            ["devices", "jobs"] => Source::Jobs,
            _ => return Err(self.fault("FROM can be devices, devices.modules or devices.jobs")),
        };
        let condition = match self.keyword("WHERE") {
            true => Some(self.any(0)?),
            false => None,
        };
        Ok((source, condition))
    }

    fn deeper(&mut self, depth: usize) -> Result<usize, QueryFault> {
        if depth < DEPTH_MAX {
            Ok(depth + 1)
        } else {
            Err(self.fault(format!("conditions are nested deeper than {DEPTH_MAX}")))
        }
    }

    fn any(&mut self, depth: usize) -> Result<Condition, QueryFault> {
        let first = self.all(depth)?;
        let mut of = vec![first];
        while self.keyword("OR") {
            of.push(self.all(depth)?);
        }
        Ok(if of.len() == 1 { of.remove(0) } else { Condition::Any(of) })
    }

    fn all(&mut self, depth: usize) -> Result<Condition, QueryFault> {
        let first = self.one(depth)?;
        let mut of = vec![first];
        while self.keyword("AND") {
            of.push(self.one(depth)?);
        }
        Ok(if of.len() == 1 { of.remove(0) } else { Condition::All(of) })
    }

    fn one(&mut self, depth: usize) -> Result<Condition, QueryFault> {
        if self.keyword("NOT") {
            let depth = self.deeper(depth)?;
            return Ok(Condition::Not(Box::new(self.one(depth)?)));
        }
        if self.sign(Sign::Open) {
            let depth = self.deeper(depth)?;
            let within = self.any(depth)?;
            self.expect_sign(Sign::Close, ")")?;
            return Ok(within);
        }
        let left = self.operand()?;
        if let Operand::Defined(path) = left {
            return Ok(Condition::Defined(path));
        }
        if self.keyword("NIN") {
            return Ok(Condition::Not(Box::new(Condition::In(left, self.list()?))));
        }
        if self.keyword("NOT") {
            self.expect_keyword("IN")?;
            return Ok(Condition::Not(Box::new(Condition::In(left, self.list()?))));
        }
        if self.keyword("IN") {
            return Ok(Condition::In(left, self.list()?));
        }
        let compare = match self.peek() {
            Some(Kind::Sign(Sign::Equal)) => Compare::Equal,
            Some(Kind::Sign(Sign::NotEqual)) => Compare::NotEqual,
            Some(Kind::Sign(Sign::Less)) => Compare::Less,
            Some(Kind::Sign(Sign::LessOrEqual)) => Compare::LessOrEqual,
            Some(Kind::Sign(Sign::More)) => Compare::More,
            Some(Kind::Sign(Sign::MoreOrEqual)) => Compare::MoreOrEqual,
            _ => return Ok(Condition::True(left)),
        };
        self.next();
        match self.operand()? {
            Operand::Defined(_) => Err(self.fault("IS_DEFINED stands alone")),
            right => Ok(Condition::Compare(left, compare, right)),
        }
    }

    fn list(&mut self) -> Result<Vec<Value>, QueryFault> {
        let (end, name) = match (self.sign(Sign::OpenList), self.sign(Sign::Open)) {
            (true, _) => (Sign::CloseList, "]"),
            (_, true) => (Sign::Close, ")"),
            _ => return Err(self.fault("IN needs a list, as in ['a', 'b']")),
        };
        let mut values = vec![];
        if self.sign(end) {
            return Ok(values);
        }
        loop {
            if LIST_MAX <= values.len() {
                return Err(self.fault(format!("a list has at most {LIST_MAX} values")));
            }
            values.push(self.literal().ok_or_else(|| self.fault("a list holds texts, numbers, true, false and null"))?);
            if !self.sign(Sign::Comma) {
                self.expect_sign(end, name)?;
                return Ok(values);
            }
        }
    }

    /// Takes a literal if one comes next.
    fn literal(&mut self) -> Option<Value> {
        let value = match self.peek()? {
            Kind::Text(text) => Value::String(text.clone()),
            Kind::Number(number) => Value::Number(number.clone()),
            Kind::Word(word) if word.eq_ignore_ascii_case("true") => Value::Bool(true),
            Kind::Word(word) if word.eq_ignore_ascii_case("false") => Value::Bool(false),
            Kind::Word(word) if word.eq_ignore_ascii_case("null") => Value::Null,
            _ => return None,
        };
        self.next();
        Some(value)
    }

    fn operand(&mut self) -> Result<Operand, QueryFault> {
        if let Some(value) = self.literal() {
            return Ok(Operand::Value(value));
        }
        let path = self.path()?;
        if !self.sign(Sign::Open) {
            return Ok(Operand::Path(path));
        }
        match path.as_slice() {
            [Step::Name(function)] if function.eq_ignore_ascii_case("IS_DEFINED") => {
                let path = self.path()?;
                self.expect_sign(Sign::Close, ")")?;
                Ok(Operand::Defined(path))
            }
            _ => Err(self.fault("of functions only IS_DEFINED is supported in conditions")),
        }
    }

    fn path(&mut self) -> Result<Vec<Step>, QueryFault> {
        let mut path = vec![Step::Name(self.name()?)];
        loop {
            if STEPS_MAX < path.len() {
                return Err(self.fault(format!("a path has at most {STEPS_MAX} steps")));
            }
            if self.sign(Sign::Dot) {
                path.push(Step::Name(self.name()?));
            } else if let Some(Kind::Name(name)) = self.peek() {
                // Stands at once behind what it belongs to, with or without a dot.
                let step = Step::Name(name.clone());
                self.next();
                path.push(step);
            } else if self.sign(Sign::OpenList) {
                path.push(match self.next() {
                    Some(Kind::Text(name)) => Step::Name(name),
                    Some(Kind::Number(at)) if at.is_u64() => {
                        Step::Index(at.as_u64().and_then(|at| usize::try_from(at).ok()).unwrap_or(usize::MAX))
                    }
                    _ => return Err(self.fault("`[` needs a text or a number here")),
                });
                self.expect_sign(Sign::CloseList, "]")?;
            } else {
                return Ok(path);
            }
        }
    }

    fn name(&mut self) -> Result<String, QueryFault> {
        match self.peek() {
            Some(Kind::Word(name) | Kind::Name(name)) => {
                let name = name.clone();
                self.next();
                Ok(name)
            }
            _ => Err(self.fault("a name is missing here")),
        }
    }
}
