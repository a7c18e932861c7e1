//! [p] The part of IoT Hub's query language that is spoken here: `SELECT * | fields | COUNT() FROM devices |
//! devices.modules | devices.jobs [WHERE …]`.
//!
//! Invariants: a text is read in one pass, bounded in length, depth and number of everything; no text makes it panic.

mod lex; // text -> words

mod parse; // words -> a query

mod eval; // a query of a row

#[cfg(test)]
mod tests;

use serde_json::Value;

pub(super) use self::eval::walk;

/// A query.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Query {
    pub(super) select: Select,
    /// More are not given in all.
    pub(super) top: Option<usize>,
    pub(super) source: Source,
    pub(super) condition: Option<Condition>,
}

/// What is shown of a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Select {
    All,
    /// How many there are, under this name.
    Count {
        name: String,
    },
    Fields(Vec<Field>),
}

/// See [`Select::Fields`].
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Field {
    path: Vec<Step>,
    /// Behind AS.
    name: Option<String>,
}

/// Where rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Devices,
    Modules,
    Jobs,
}

/// Which rows are meant.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Compare(Operand, Compare, Operand),
    In(Operand, Vec<Value>),
    Defined(Vec<Step>),
    /// The value is `true`.
    True(Operand),
}

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
}

/// A value, or where it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operand {
    Value(Value),
    Path(Vec<Step>),
    /// Of a call of IS_DEFINED; stands alone.
    Defined(Vec<Step>),
}

/// One step down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Name(String),
    Index(usize),
}

/// Why a text is no query, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the query cannot be understood at {at}: {what}")]
pub(super) struct QueryFault {
    /// In bytes.
    at: usize,
    what: String,
}

impl QueryFault {
    fn at(at: usize, what: impl Into<String>) -> Self {
        Self { at, what: what.into() }
    }
}

/// What is asked about.
pub(super) trait Row {
    /// What is at a path.
    fn walk(&self, path: &[Step]) -> Option<Value>;
    /// All of it.
    fn whole(&self) -> Value;
    /// Under which name a selected path is shown, unless AS says another.
    fn name(&self, path: &[Step]) -> String {
        last_name(path)
    }
}

/// The last name of a path.
pub(super) fn last_name(path: &[Step]) -> String {
    let last = path.iter().rev().find_map(|step| match step {
        Step::Name(name) => Some(name.clone()),
        Step::Index(_) => None,
    });
    last.unwrap_or_default()
}

impl Query {
    /// Reads `SELECT … FROM … [WHERE …]`.
    pub(super) fn parse(text: &str) -> Result<Self, QueryFault> {
        parse::query(text)
    }

    /// Reads what a job is for: `*`, a condition, or `FROM … [WHERE …]`.
    pub(super) fn of_job(text: &str) -> Result<Self, QueryFault> {
        let (source, condition) = parse::condition(text)?;
        if source == Source::Jobs {
            return Err(QueryFault::at(0, "a job is for devices or modules"));
        }
        Ok(Self { select: Select::All, top: None, source, condition })
    }

    /// True if the row is meant.
    pub(super) fn admits(&self, row: &impl Row) -> bool {
        self.condition.as_ref().is_none_or(|condition| eval::holds(condition, row))
    }

    /// What is shown of a row.
    pub(super) fn show(&self, row: &impl Row) -> Value {
        eval::project(&self.select, row)
    }
}

/// A path without the source's name, which may stand before it: `devices.tags.x` is `tags.x`.
pub(super) fn bare(path: &[Step], source: Source) -> &[Step] {
    let is = |step: &Step, wanted: &str| matches!(step, Step::Name(name) if name.eq_ignore_ascii_case(wanted));
    match (source, path) {
        (Source::Modules, [devices, modules, rest @ ..]) if is(devices, "devices") && is(modules, "modules") => rest,
        (Source::Jobs, [devices, jobs, rest @ ..]) if is(devices, "devices") && is(jobs, "jobs") => rest,
        (_, [devices, rest @ ..]) if is(devices, "devices") && !rest.is_empty() => rest,
        _ => path,
    }
}
