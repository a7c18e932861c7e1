//! `min_by(x, y)` and `max_by(x, y)` as Spark has them: the `x` of the row with the least, or greatest, `y`.
//!
//! DataFusion says the same as `first_value(x order by …)`, which few others know. Where `y` is `struct(a, b, …)`, each of
//! its fields becomes a key of the order by itself: nothing is packed into structs that rows are compared by.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::plan_err;
use datafusion::error::{DataFusionError, Result};
use datafusion::functions_aggregate::first_last::first_value_udaf;
use datafusion::logical_expr::expr::{AggregateFunction, ScalarFunction, Sort};
use datafusion::logical_expr::function::{AccumulatorArgs, AggregateFunctionSimplification};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Expr, Signature, Volatility};

/// Both.
#[must_use]
pub(super) fn functions() -> [AggregateUDF; 2] {
    [("min_by", true), ("max_by", false)].map(|(name, least)| {
        let signature = Signature::any(2, Volatility::Immutable);
        AggregateUDF::from(By { name, least, signature })
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct By {
    name: &'static str,
    least: bool,
    signature: Signature,
}

impl AggregateUDFImpl for By {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [found, _] => Ok(found.clone()),
            _ => plan_err!("{} takes two arguments", self.name),
        }
    }

    fn return_field(&self, arguments: &[FieldRef]) -> Result<FieldRef> {
        match arguments {
            [found, _] => Ok(Arc::new(found.as_ref().clone().with_name(self.name).with_nullable(true))),
            _ => plan_err!("{} takes two arguments", self.name),
        }
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Err(DataFusionError::NotImplemented(format!("{} over a window", self.name)))
    }

    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        let least = self.least;
        Some(Box::new(move |function, _| first_in_order(function, least)))
    }
}

fn first_in_order(function: AggregateFunction, least: bool) -> Result<Expr> {
    let mut params = function.params;
    let Some(by) = params.args.pop().filter(|_| params.args.len() == 1) else {
        return plan_err!("{} takes two arguments", function.func.name());
    };
    // Spark has nulls below everything within a struct, and passes over a row whose `y` is null itself.
    let key = |expr| Sort { expr, asc: least, nulls_first: least };
    let (order, filter) = match by {
        Expr::ScalarFunction(ScalarFunction { func, args }) if func.name() == "struct" => {
            (args.into_iter().map(key).collect(), params.filter)
        }
        // Names and values by turns.
        Expr::ScalarFunction(ScalarFunction { func, args }) if func.name() == "named_struct" => {
            (args.into_iter().skip(1).step_by(2).map(key).collect(), params.filter)
        }
        by => {
            let there = by.clone().is_not_null();
            let there = match params.filter {
                Some(filter) => filter.and(there),
                None => there,
            };
            (vec![key(by)], Some(Box::new(there)))
        }
    };
    let first = AggregateFunction::new_udf(first_value_udaf(), params.args, params.distinct, filter, order, None);
    Ok(Expr::AggregateFunction(first))
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;

    use crate::lake::session::{Limits, query, session};

    async fn check(sql: &str, expected: &[&str]) {
        let session = session(Limits { memory_bytes: 64 << 20 }).expect("a session");
        let rows =
            "(values (1, 10.0, 'a'), (2, 20.0, 'b'), (2, 5.0, 'c'), (null, 99.0, 'd'), (3, null, 'e')) t(x, y, name)";
        let batches = query(&session, &sql.replace("ROWS", rows)).await.expect(sql);
        let shown = pretty_format_batches(&batches).expect("printable").to_string();
        let found: Vec<&str> = shown.lines().nth(3).expect("a row").split('|').map(str::trim).collect();
        assert_eq!(found[1..found.len() - 1], *expected, "{sql}\n{shown}");
    }

    #[tokio::test]
    async fn the_row_with_the_least_or_greatest_says_it() {
        check("select min_by(name, y) as lo, max_by(name, y) as hi from ROWS", &["c", "d"]).await;
        check("select min_by(name, x) as lo, max_by(name, x) as hi from ROWS", &["a", "e"]).await;
        check("select min_by(x, y) as lo, max_by(x, y) as hi from ROWS", &["2", ""]).await;
        check(
            "select max_by(name, struct(x, y)) as hi, min_by(name, struct(x, y)) as lo from ROWS where x = 2",
            &["b", "c"],
        )
        .await;
        check("select min_by(name, struct(x, y)) as lo, max_by(name, struct(x, y)) as hi from ROWS", &["d", "e"]).await;
        check("select max_by(name, struct(x, y)) filter (where y is not null) as hi from ROWS", &["b"]).await;
        check("select max_by(name, y) filter (where x = 7) as hi from ROWS", &[""]).await;
        check("select max_by(name, y) as hi from ROWS where y is null", &[""]).await;
    }

    #[tokio::test]
    async fn what_is_ordered_by_is_not_packed_into_structs() {
        let session = session(Limits { memory_bytes: 64 << 20 }).expect("a session");
        let sql = "select max_by(x, struct(y, coalesce(x, 0))) as hi from (values (1, 2)) t(x, y)";
        let frame = session.sql(sql).await.expect("plans");
        let plan = frame.into_optimized_plan().expect("optimises").display_indent().to_string();
        assert!(plan.contains("first_value(t.x) ORDER BY [t.y DESC NULLS LAST, t.x DESC NULLS LAST]"), "{plan}");
    }

    #[tokio::test]
    async fn over_a_window_it_is_not_known() {
        let session = session(Limits { memory_bytes: 64 << 20 }).expect("a session");
        let sql = "select max_by(x, y) over (partition by x) from (values (1, 2)) t(x, y)";
        assert!(query(&session, sql).await.is_err());
    }
}
