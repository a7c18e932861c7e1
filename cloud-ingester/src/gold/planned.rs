//! Makes sure that a model's SELECT fits: plans it over empty rows, looks at types, and says which columns its table has.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::datasource::MemTable;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable as _, LogicalPlan, Operator};
use datafusion::prelude::SessionContext;

use super::lint::{self, Finding};
use super::model::{Draft, Mistake, Mode, Model, Pass, is_name};
use crate::lake::Table;
use crate::lake::tables::timestamp;

/// What is known of a reading's device at its time; the columns of silver.devices they come from.
pub const CATALOGUE: [(&str, &str); 5] = [
    ("device_name", "name"),
    ("site", "site"),
    ("area", "area"),
    ("timezone", "timezone"),
    ("expected_interval_s", "expected_interval_s"),
];

/// The columns of `readings`; those of `windowed` but for the window.
#[must_use]
pub fn readings() -> Vec<Field> {
    let silver = Table::SilverReadings.schema();
    let hidden = |name: &str| name.starts_with('_') || matches!(name, "event_date" | "ingest_time");
    let mut fields: Vec<Field> =
        silver.fields().iter().filter(|field| !hidden(field.name())).map(|field| field.as_ref().clone()).collect();
    fields.push(Field::new("rejected", DataType::Boolean, false));
    let devices = Table::SilverDevices.schema();
    for (name, column) in CATALOGUE {
        let column = devices.field_with_name(column).expect("a column of silver.devices");
        fields.push(Field::new(name, column.data_type().clone(), true));
    }
    fields.into_iter().map(|field| field.with_nullable(true)).collect()
}

/// The columns of a relation.
#[must_use]
pub fn relation(mode: Mode) -> SchemaRef {
    let mut fields = readings();
    if let Mode::Window(_) = mode {
        fields.push(Field::new("window_start", timestamp(), true));
        fields.push(Field::new("window_end", timestamp(), true));
    }
    Arc::new(Schema::new(fields))
}

/// Plans models, one after the other.
pub struct Planner {
    session: SessionContext,
}

impl Planner {
    /// Plans in this session; it has to be one of its own, since it knows the relations as empty tables.
    ///
    /// # Errors
    /// When the session does not take the relations.
    pub fn new(session: SessionContext) -> Result<Self, DataFusionError> {
        for mode in [Mode::Full, Mode::Window(super::model::Windows::Session { gap: 1 })] {
            let name = if mode == Mode::Full { "readings" } else { "windowed" };
            let empty = MemTable::try_new(relation(mode), vec![vec![]])?;
            session.register_table(name, Arc::new(empty))?;
        }
        Ok(Self { session })
    }

    /// A model whose SELECT fits its header. `own`: a user's, which fills a table of its own.
    ///
    /// # Errors
    /// Every mistake that can be told at once.
    pub async fn plan(&self, draft: Draft, own: bool) -> Result<Model, Vec<Mistake>> {
        match self.fit(&draft, own).await {
            Ok((target, columns, pass)) => {
                let catalogue = CATALOGUE.iter().any(|(name, _)| columns.iter().any(|column| column == name));
                Ok(Model { target, draft, columns, catalogue, pass })
            }
            Err(findings) => {
                let mistake = |(line, what)| Mistake { file: draft.file.clone(), line, what };
                Err(findings.into_iter().map(mistake).collect())
            }
        }
    }

    async fn fit(&self, draft: &Draft, own: bool) -> Result<(Table, Vec<String>, Pass), Vec<Finding>> {
        let state = self.session.state();
        let read = lint::read(&state, &draft.sql, &[draft.relation()], draft.mode == Mode::Append);
        let read = read.map_err(|finding| vec![finding])?;
        if !read.findings.is_empty() {
            return Err(read.findings);
        }
        let fault = |error: DataFusionError| {
            let line = error.diagnostic().and_then(|found| found.span).map_or(read.line, |span| span.start.line);
            // The first line says it; what follows are lists of all there is.
            let text = error.strip_backtrace();
            vec![(line, text.lines().next().unwrap_or_default().to_owned())]
        };
        let plan = state.statement_to_plan(read.statement.clone()).await.map_err(fault)?;
        let mut findings = vec![];
        types(&plan, &read, &mut findings).map_err(fault)?;
        let optimised = state.optimize(&plan).map_err(fault)?;
        if draft.mode == Mode::Append {
            row_wise(&plan, read.line, &mut findings);
        }
        let mut columns = BTreeSet::new();
        let scans = scanned(&optimised, &mut columns);
        columns.extend(draft.keys.iter().cloned());
        columns.insert("event_time".to_owned());
        columns.remove("window_start");
        columns.remove("window_end");
        let table = table(draft, plan.schema(), own, read.line, &mut findings);
        match table {
            Some(table) if findings.is_empty() => {
                let pass = match scans {
                    1 if folds(&optimised) => Pass::Folds,
                    1 => Pass::Once,
                    _ => Pass::Again,
                };
                Ok((table, columns.into_iter().collect(), pass))
            }
            _ => Err(findings),
        }
    }
}

/// The columns of the relation that a plan reads; and how often it reads it.
fn scanned(plan: &LogicalPlan, columns: &mut BTreeSet<String>) -> usize {
    let mut scans = 0;
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            scans += 1;
            columns.extend(scan.projected_schema.fields().iter().map(|field| field.name().clone()));
            columns.extend(scan.filters.iter().flat_map(Expr::column_refs).map(|column| column.name.clone()));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    scans
}

/// Whether a plan holds groups, and no rows.
fn folds(plan: &LogicalPlan) -> bool {
    let mut folds = true;
    let _ = plan.apply_with_subqueries(|node| {
        folds &= matches!(
            node,
            LogicalPlan::TableScan(_)
                | LogicalPlan::Projection(_)
                | LogicalPlan::Filter(_)
                | LogicalPlan::SubqueryAlias(_)
                | LogicalPlan::Aggregate(_)
        );
        Ok(if folds { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    folds
}

/// What means something else elsewhere because of its types.
fn types(plan: &LogicalPlan, read: &lint::Read, findings: &mut Vec<Finding>) -> Result<(), DataFusionError> {
    let at = |lines: &[u64]| lines.first().copied().unwrap_or(read.line);
    plan.apply_with_subqueries(|node| {
        let schema = merge_schema(&node.inputs());
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                // Columns from outside a subquery have no type here; they have one where they come from.
                let type_of = |expr: &Expr| expr.get_type(&schema).ok();
                match expr {
                    Expr::Cast(cast) if cast.field.data_type().is_integer() => {
                        let time = matches!(type_of(&cast.expr), Some(DataType::Timestamp(..)));
                        if time {
                            let what = format!("{expr}: microseconds here, seconds in Spark; write unix_micros(x)");
                            findings.push((at(&read.casts), what));
                        }
                    }
                    Expr::BinaryExpr(binary) if binary.op == Operator::Divide => {
                        let whole = |expr| type_of(expr).is_some_and(|found| found.is_integer());
                        if whole(&binary.left) && whole(&binary.right) {
                            let what = format!("{expr}: cut to a whole number here, not in Spark; cast one to double");
                            findings.push((at(&read.divisions), what));
                        }
                    }
                    Expr::AggregateFunction(aggregate) if matches!(aggregate.func.name(), "min" | "max") => {
                        let mut types = aggregate.params.args.iter().filter_map(type_of);
                        if types.any(|found| found.is_nested()) {
                            let what = format!("{expr}: engines order nulls within structs differently");
                            findings.push((at(&read.extremes), what));
                        }
                    }
                    _ => {}
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(())
}

/// Rows of an `append` come each from one row.
fn row_wise(plan: &LogicalPlan, line: u64, findings: &mut Vec<Finding>) {
    let _ = plan.apply_with_subqueries(|node| {
        let fits = matches!(
            node,
            LogicalPlan::Projection(_)
                | LogicalPlan::Filter(_)
                | LogicalPlan::SubqueryAlias(_)
                | LogicalPlan::TableScan(_)
                | LogicalPlan::Union(_)
        );
        if !fits {
            findings.push((line, "mode \"append\" sees one row at a time: no joins, groups or sub-queries".to_owned()));
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
}

/// The table that holds what the SELECT gives.
fn table(draft: &Draft, found: &DFSchema, own: bool, line: u64, findings: &mut Vec<Finding>) -> Option<Table> {
    let before = findings.len();
    let mut fields: Vec<Field> = vec![];
    for field in found.fields() {
        let name = field.name();
        if !is_name(name) {
            findings
                .push((line, format!("column {name:?}: give it a name of small letters, digits and `_`: … as name")));
        } else if matches!(name.as_str(), "window_date" | "event_date") {
            findings.push((line, format!("column {name}: is filled in by the engine; leave it out")));
        } else if fields.iter().any(|other| other.name() == name) {
            findings.push((line, format!("column {name}: is there twice")));
        }
        match stored(field.data_type()) {
            Ok(stored) => fields.push(Field::new(name, stored, true)),
            Err(why) => findings.push((line, format!("column {name}: {why}"))),
        }
    }
    let type_of = |name: &str| fields.iter().find(|field| field.name() == name).map(Field::data_type);
    let mut want = |name: &str, why: &str| {
        if type_of(name) != Some(&timestamp()) {
            findings.push((line, format!("column {name}: missing, or not the relation's; {why}")));
        }
    };
    let date = match draft.mode {
        Mode::Window(_) => {
            want("window_start", "mode \"window\" has one");
            want("window_end", "mode \"window\" has one");
            Some("window_date")
        }
        Mode::Latest => {
            want("event_time", "mode \"latest\" has one");
            None
        }
        Mode::Append => (type_of("event_time") == Some(&timestamp())).then_some("event_date"),
        Mode::Full => None,
    };
    let known = relation(draft.mode);
    for key in &draft.keys {
        let relation = known.field_with_name(key).ok().map(Field::data_type);
        match (relation, type_of(key)) {
            (None, _) => findings.push((1, format!("keys: {key} is no column of {}", draft.relation()))),
            (_, None) => findings.push((line, format!("column {key}: missing; it is one of the keys"))),
            (Some(relation), Some(found)) if relation != found || relation.is_nested() || relation.is_floating() => {
                findings.push((
                    line,
                    format!("column {key}: has to be the relation's, and no fraction; it is one of the keys"),
                ));
            }
            _ => {}
        }
    }
    if before < findings.len() {
        return None;
    }
    let mut stats: Vec<&str> = draft.keys.iter().map(String::as_str).collect();
    stats.extend(
        ["window_start", "window_end", "event_time"].into_iter().filter(|name| type_of(name) == Some(&timestamp())),
    );
    stats.dedup();
    if stats.is_empty() {
        stats.extend(fields.first().map(|field| field.name().as_str()));
    }
    let partitions: Vec<&str> = date.into_iter().collect();
    let mut all = fields.clone();
    all.extend(date.map(|name| Field::new(name, DataType::Date32, true)));
    let full_name = format!("gold.{}", draft.target);
    match Table::named(&full_name) {
        Some(table) if !own && table.schema().fields() == Schema::new(all.clone()).fields() => Some(table),
        Some(_) => {
            findings.push((1, format!("target {full_name}: is a table of the product; choose another name")));
            None
        }
        None => Some(Table::own(&draft.target, Arc::new(Schema::new(all)), &partitions, &stats)),
    }
}

/// The type a column is stored as.
fn stored(found: &DataType) -> Result<DataType, String> {
    use DataType::{
        Binary, BinaryView, Boolean, Date32, Decimal128, Float16, Float32, Float64, Int8, Int16, Int32, Int64,
        LargeBinary, LargeUtf8, Null, Timestamp, UInt8, UInt16, UInt32, UInt64, Utf8, Utf8View,
    };
    Ok(match found {
        Utf8 | LargeUtf8 | Utf8View => Utf8,
        Binary | LargeBinary | BinaryView => Binary,
        Boolean | Int8 | Int16 | Int32 | Int64 | Float32 | Float64 | Date32 | Decimal128(..) => found.clone(),
        Float16 => Float32,
        UInt8 => Int16,
        UInt16 => Int32,
        UInt32 | UInt64 => Int64,
        Timestamp(
            TimeUnit::Microsecond | TimeUnit::Nanosecond | TimeUnit::Millisecond | TimeUnit::Second,
            Some(zone),
        ) if &**zone == "UTC" => timestamp(),
        Timestamp(_, None) => {
            return Err("is a time without a zone, which hides the table from readers".to_owned());
        }
        Null => return Err("is always null; give it a type: cast(null as double)".to_owned()),
        other => return Err(format!("is {other}, which not every reader opens; take it apart")),
    })
}
