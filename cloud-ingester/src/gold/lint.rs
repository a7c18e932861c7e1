//! What a model's SELECT may use: a subset of Spark SQL that means the same on every engine. Looks at the parsed text;
//! [`super::planned`] looks at the plan, where types are known.

use std::ops::ControlFlow;

use datafusion::common::config::Dialect;
use datafusion::execution::session_state::SessionState;
use datafusion::sql::parser::Statement as Parsed;
use datafusion::sql::sqlparser::ast::{
    AccessExpr, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArguments,
    GroupByExpr, ObjectName, OrderByExpr, Query, Select, SelectItem, Spanned as _, Statement, Subscript, TableFactor,
    Value, Visit as _, Visitor, WindowType,
};
use datafusion::sql::sqlparser::tokenizer::Span;

/// Aggregates.
const AGGREGATES: [&str; 16] = [
    "avg",
    "bool_and",
    "bool_or",
    "count",
    "max",
    "max_by",
    "median",
    "min",
    "min_by",
    "percentile_cont",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "sum",
    "var_pop",
    "var_samp",
];

/// Functions that want `over (… order by …)`.
const RANKS: [&str; 7] = ["dense_rank", "first_value", "lag", "last_value", "lead", "rank", "row_number"];

/// Functions of one row.
const SCALARS: [&str; 20] = [
    "abs",
    "coalesce",
    "concat",
    "date_trunc",
    "exp",
    "greatest",
    "least",
    "ln",
    "lower",
    "nullif",
    "pmod",
    "power",
    "sqrt",
    "timestamp_micros",
    "timestamp_millis",
    "timestamp_seconds",
    "to_date",
    "trim",
    "unix_micros",
    "upper",
];

/// Functions people will look for, and what to write.
const INSTEAD: [(&str, &str); 12] = [
    ("any_value", "takes any row; write max(x), or row_number() over (partition by … order by …) = 1"),
    ("array_agg", "depends on the order of rows"),
    ("collect_list", "depends on the order of rows"),
    ("collect_set", "depends on the order of rows"),
    ("current_date", "a table must not depend on when a hop ran"),
    ("current_timestamp", "a table must not depend on when a hop ran"),
    ("first", "takes any row; write min_by(x, y)"),
    ("from_unixtime", "is a time here and a text in Spark; write timestamp_seconds(x)"),
    ("last", "takes any row; write max_by(x, y)"),
    ("now", "a table must not depend on when a hop ran"),
    ("to_timestamp", "differs in precision; write timestamp_micros(x) or timestamp_seconds(x)"),
    ("approx_percentile", "differs from engine to engine; write percentile_cont(p) within group (order by x)"),
];

/// Columns of the relations that are never null, so that an order needs no word on nulls.
const NEVER_NULL: [&str; 7] =
    ["device_id", "event_time", "gateway_id", "metric", "reading_id", "window_end", "window_start"];

/// A finding: where, counted from 1, and what.
pub(super) type Finding = (u64, String);

/// A SELECT that was read.
pub(super) struct Read {
    /// For the planner.
    pub(super) statement: Parsed,
    /// What it must not use.
    pub(super) findings: Vec<Finding>,
    /// Lines of divisions, of casts, and of min and max: whether they are fine, types tell.
    pub(super) divisions: Vec<u64>,
    /// Casts to whole numbers.
    pub(super) casts: Vec<u64>,
    /// `min` and `max`.
    pub(super) extremes: Vec<u64>,
    /// The line of the SELECT.
    pub(super) line: u64,
}

/// Parses and looks through a SELECT that knows `relations`. `row_wise`: it sees one row at a time.
///
/// # Errors
/// The one reason why it does not parse.
pub(super) fn read(state: &SessionState, sql: &str, relations: &[&str], row_wise: bool) -> Result<Read, Finding> {
    let parsed = state.sql_to_statement(sql, &Dialect::Databricks);
    let statement = parsed.map_err(|error| {
        let text = error.strip_backtrace();
        let line = line_in(&text).unwrap_or_else(|| first_line(sql));
        if text.contains("single SQL statement") {
            return (line, "more than one statement; a model is one SELECT".to_owned());
        }
        // As the parser words it, without the names of its types.
        let plain = text.split_once("ParserError(\"").and_then(|(_, said)| said.strip_suffix("\")"));
        (line, plain.map_or(text.clone(), |said| format!("SQL: {}", said.replace("\\\"", "\""))))
    })?;
    let mut lint = Lint {
        relations,
        row_wise,
        local: vec![],
        out: Read {
            findings: vec![],
            divisions: vec![],
            casts: vec![],
            extremes: vec![],
            line: first_line(sql),
            statement: statement.clone(),
        },
    };
    match &statement {
        Parsed::Statement(plain) if matches!(**plain, Statement::Query(_)) => {
            let _ = plain.visit(&mut lint);
        }
        _ => lint.out.findings.push((lint.out.line, "is not a SELECT".to_owned())),
    }
    lint.out.findings.sort();
    lint.out.findings.dedup();
    Ok(lint.out)
}

/// The line on which the SELECT begins.
fn first_line(sql: &str) -> u64 {
    let first = sql.lines().position(|line| !matches!(line.trim(), "") && !line.trim().starts_with("--"));
    first.map_or(1, |line| line as u64 + 1)
}

/// `… at Line: 3, Column: 9`.
fn line_in(text: &str) -> Option<u64> {
    let after = text.split("Line: ").nth(1)?;
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Whether it has a value in every row, as far as its text tells.
fn is_never_null(expr: &Expr) -> bool {
    match expr {
        Expr::Identifier(name) => NEVER_NULL.contains(&name.value.as_str()),
        Expr::CompoundIdentifier(names) => names.last().is_some_and(|name| NEVER_NULL.contains(&name.value.as_str())),
        Expr::Case { else_result, .. } => else_result.is_some(),
        Expr::Value(_) => true,
        _ => false,
    }
}

fn is_named(function: &Function, name: &str) -> bool {
    function.name.to_string().eq_ignore_ascii_case(name)
}

fn arguments(function: &Function) -> Vec<&Expr> {
    let FunctionArguments::List(list) = &function.args else { return vec![] };
    let plain = list.args.iter().filter_map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    });
    plain.collect()
}

struct Lint<'a> {
    relations: &'a [&'a str],
    row_wise: bool,
    /// Names that `with` gives.
    local: Vec<String>,
    out: Read,
}

impl Lint<'_> {
    fn fault(&mut self, span: Span, what: impl Into<String>) {
        let line = if span.start.line == 0 { self.out.line } else { span.start.line };
        self.out.findings.push((line, what.into()));
    }

    fn function(&mut self, function: &Function) {
        let name = function.name.to_string().to_ascii_lowercase();
        let span = function.name.span();
        let rank = RANKS.contains(&name.as_str());
        let aggregate = AGGREGATES.contains(&name.as_str());
        if let Some((_, instead)) = INSTEAD.iter().find(|(other, _)| *other == name) {
            return self.fault(span, format!("{name}: {instead}"));
        }
        if !rank && !aggregate && !SCALARS.contains(&name.as_str()) {
            return self.fault(span, format!("{name}: not among the functions that every engine knows (docs/sql.md)"));
        }
        if self.row_wise && (rank || aggregate) {
            return self.fault(span, format!("{name}: mode \"append\" sees one row at a time"));
        }
        if matches!(name.as_str(), "min" | "max") {
            self.out.extremes.push(span.start.line);
        }
        if matches!(name.as_str(), "min_by" | "max_by") {
            self.extreme_by(&name, span, function);
        }
        if let FunctionArguments::List(list) = &function.args
            && list.clauses.iter().any(|clause| matches!(clause, FunctionArgumentClause::OrderBy(_)))
        {
            self.fault(
                span,
                format!("{name}: an order within the brackets is known to few; write over (… order by …)"),
            );
        }
        if function.null_treatment.is_some() {
            self.fault(span, format!("{name}: leave `nulls` out; keep nulls away by a `where` or a `case`"));
        }
        match &function.over {
            None if rank => self.fault(span, format!("{name}: takes any row; write over (partition by … order by …)")),
            None => {}
            Some(WindowType::NamedWindow(_)) => self.fault(span, "name no windows; write the order where it is used"),
            Some(WindowType::WindowSpec(spec)) => {
                if rank && spec.order_by.is_empty() {
                    self.fault(span, format!("{name}: takes any row; write over (partition by … order by …)"));
                }
                for order in &spec.order_by {
                    self.order(order);
                }
            }
        }
    }

    /// `min_by(x, y)`: engines order nulls within a struct differently, and few know it over a window.
    fn extreme_by(&mut self, name: &str, span: Span, function: &Function) {
        if function.over.is_some() {
            self.fault(span, format!("{name}: write row_number() over (… order by …) = 1"));
        }
        let [_, Expr::Struct { values, .. }] = arguments(function)[..] else { return };
        for key in values {
            let filled = matches!(key, Expr::Function(inner) if is_named(inner, "coalesce"));
            if !filled && !is_never_null(key) {
                self.fault(key.span(), format!("{name} by {key}: write coalesce({key}, …)"));
            }
        }
    }

    /// Engines put nulls at different ends.
    fn order(&mut self, order: &OrderByExpr) {
        if order.options.nulls_first.is_none() && !is_never_null(&order.expr) {
            self.fault(order.expr.span(), format!("order by {}: write `nulls first` or `nulls last`", order.expr));
        }
    }

    fn cast(&mut self, span: Span, to: &DataType) {
        match to {
            DataType::Timestamp(..) | DataType::Datetime(_) | DataType::TimestampNtz(_) => self.fault(
                span,
                "a cast to timestamp makes a time without a zone, which hides a table from readers; write timestamp_micros(x)",
            ),
            DataType::BigInt(_) | DataType::Int(_) | DataType::Integer(_) | DataType::SmallInt(_) | DataType::TinyInt(_) => {
                self.out.casts.push(span.start.line);
            }
            _ => {}
        }
    }
}

impl Visitor for Lint<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if let Some(with) = &query.with {
            self.local.extend(with.cte_tables.iter().map(|table| table.alias.name.value.clone()));
            if with.recursive {
                self.fault(with.with_token.0.span, "with recursive: not known everywhere");
            }
        }
        if query.limit_clause.is_some() || query.fetch.is_some() {
            self.fault(query.span(), "limit: takes any rows; write row_number() over (… order by …) <= n");
        }
        if query.order_by.is_some() {
            self.fault(query.span(), "order by: the rows of a table have no order; leave it out");
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        let span = select.select_token.0.span;
        for item in &select.projection {
            if matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)) {
                self.fault(item.span(), "*: name the columns; relations may get more of them");
            }
        }
        if select.into.is_some() || select.top.is_some() || !select.lateral_views.is_empty() || select.qualify.is_some()
        {
            self.fault(span, "into, top, lateral view, qualify: not known everywhere");
        }
        let grouped = match &select.group_by {
            GroupByExpr::All(_) => {
                self.fault(span, "group by all: name the columns");
                true
            }
            GroupByExpr::Expressions(columns, modifiers) => {
                if !modifiers.is_empty() {
                    self.fault(span, "group by … with: not known everywhere");
                }
                !columns.is_empty()
            }
        };
        if self.row_wise && (grouped || select.distinct.is_some()) {
            self.fault(span, "group by, distinct: mode \"append\" sees one row at a time");
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if !matches!(
            factor,
            TableFactor::Table { args: None, .. } | TableFactor::Derived { .. } | TableFactor::NestedJoin { .. }
        ) {
            self.fault(Span::empty(), format!("{factor}: not a table"));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let name = relation.to_string();
        if !self.relations.contains(&name.as_str()) && !self.local.contains(&name) {
            let known = self.relations.join(", ");
            self.fault(relation.span(), format!("{name}: a model reads {known} and nothing else"));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(function) => self.function(function),
            Expr::Cast { data_type, .. } => self.cast(expr.span(), data_type),
            Expr::TypedString(typed) if !matches!(typed.data_type, DataType::Date) => self.fault(
                typed.value.span,
                format!(
                    "{expr}: makes a time without a zone, which hides a table from readers; write timestamp_micros(x)"
                ),
            ),
            Expr::BinaryOp { op, .. } => {
                use datafusion::sql::sqlparser::ast::BinaryOperator as Op;
                match op {
                    Op::Divide => self.out.divisions.push(expr.span().start.line),
                    Op::Plus
                    | Op::Minus
                    | Op::Multiply
                    | Op::Gt
                    | Op::Lt
                    | Op::GtEq
                    | Op::LtEq
                    | Op::Eq
                    | Op::NotEq
                    | Op::And
                    | Op::Or => {}
                    Op::Modulo => self.fault(expr.span(), "%: write pmod(x, n)"),
                    other => self.fault(expr.span(), format!("{other}: not known everywhere")),
                }
            }
            Expr::CompoundFieldAccess { access_chain, .. } => {
                for access in access_chain {
                    let named = matches!(
                        access,
                        AccessExpr::Subscript(Subscript::Index { index: Expr::Value(value) })
                            if matches!(value.value, Value::SingleQuotedString(_))
                    );
                    if !named {
                        self.fault(expr.span(), format!("{expr}: counts from 1 here and from 0 in Spark"));
                    }
                }
            }
            Expr::Interval(interval) if interval.leading_field.is_none() => {
                self.fault(expr.span(), format!("{expr}: write interval '1' minute"));
            }
            Expr::AtTimeZone { .. } => {
                self.fault(
                    expr.span(),
                    "at time zone: makes times that tables don't hold; `timezone` of [window] gives local days",
                );
            }
            Expr::Extract { .. }
            | Expr::Ceil { .. }
            | Expr::Floor { .. }
            | Expr::Position { .. }
            | Expr::Substring { .. }
            | Expr::SimilarTo { .. }
            | Expr::RLike { .. }
            | Expr::Lambda(_)
            | Expr::Array(_) => {
                self.fault(expr.span(), format!("{expr}: not among what every engine knows (docs/sql.md)"));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
