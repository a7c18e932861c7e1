//! Power BI: a connection file for the SQL endpoint, and a semantic model that reads the gold tables of the lake itself.

use serde_json::{Value, json};

use super::{ExportError, File, Place, Wishes};
use crate::lake::tables::{Layer, Table};
use arrow::datatypes::DataType;

const README: &str = "\
The lake for Power BI, two ways in:

- `lake.pbids`: double-click opens Power BI Desktop, connected (DirectQuery) to the SQL endpoint that `export synapse` or
  Fabric made. Without `--sql-endpoint` it names WORKSPACE-ondemand.sql.azuresynapse.net: put yours there.
- `gold.pbip`: opens the semantic model in `gold.SemanticModel` and an empty report. Its tables are those of gold, read
  as Delta straight from the storage (`DeltaLake.Table`); its measures are below \"Measures\". The storage's URL is the
  parameter LakeUrl.

Checked: all files parse as JSON; every table and column of the model is one of the lake, of its type; every measure
names columns that exist, and its brackets match; relationships join columns of one type.
Not checked: a run in Power BI; the DAX and M are parsed by nothing.
";

/// Measures of tables: table, name, DAX, format. Averages of windows are weighed: a window of two readings is not one of
/// sixty.
const MEASURES: [(&str, &str, &str, &str); 9] = [
    ("metric_1m", "Readings", "SUM('metric_1m'[readings])", "#,0"),
    (
        "metric_1m",
        "Average",
        "DIVIDE(SUMX(FILTER('metric_1m', NOT ISBLANK('metric_1m'[value_avg])), 'metric_1m'[value_avg] * 'metric_1m'[readings]), \
         SUMX(FILTER('metric_1m', NOT ISBLANK('metric_1m'[value_avg])), 'metric_1m'[readings]))",
        "#,0.00",
    ),
    ("metric_1m", "Minimum", "MIN('metric_1m'[value_min])", "#,0.00"),
    ("metric_1m", "Maximum", "MAX('metric_1m'[value_max])", "#,0.00"),
    ("metric_1m", "Devices", "DISTINCTCOUNT('metric_1m'[device_id])", "#,0"),
    ("device_latest", "Newest reading", "MAX('device_latest'[event_time])", "General Date"),
    ("gateway_health", "Missing readings", "SUM('gateway_health'[missing])", "#,0"),
    ("gateway_health", "Outstanding readings", "SUM('gateway_health'[outstanding])", "#,0"),
    (
        "gateway_health",
        "Refused share",
        "DIVIDE(SUM('gateway_health'[quarantined]), SUM('gateway_health'[quarantined]) + SUM('gateway_health'[arrived]))",
        "0.00 %",
    ),
];

/// Power BI's semantic models of 2024 on; what it opens it raises itself.
const COMPATIBILITY: u32 = 1567;

/// The M that opens a folder below the lake's root.
type Opens = fn(&str) -> String;

pub(super) fn files(wishes: &Wishes) -> Result<Vec<File>, ExportError> {
    let (parameter, source) = source(&wishes.place)?;
    let server = wishes.sql_endpoint.as_deref().unwrap_or("WORKSPACE-ondemand.sql.azuresynapse.net");
    let connection = json!({ "version": "0.1", "connections": [{
        "details": { "protocol": "tds", "address": { "server": server, "database": wishes.name } },
        "options": {}, "mode": "DirectQuery"
    }] });
    let tables: Vec<Value> =
        wishes.tables.iter().filter(|table| table.layer() == Layer::Gold).map(|&t| table(t, source)).collect();
    let model = json!({
        "name": wishes.name,
        "compatibilityLevel": COMPATIBILITY,
        "model": {
            "culture": "en-US",
            "defaultPowerBIDataSourceVersion": "powerBI_V3",
            "sourceQueryCulture": "en-US",
            "expressions": [{ "name": "LakeUrl", "kind": "m", "expression": format!(
                "{} meta [IsParameterQuery=true, Type=\"Text\", IsParameterQueryRequired=true]", quoted(&parameter)
            ) }],
            "tables": tables,
            "annotations": [{ "name": "__PBI_TimeIntelligenceEnabled", "value": "0" }],
        }
    });
    let pbip = json!({ "version": "1.0", "artifacts": [{ "report": { "path": "gold.Report" } }], "settings": { "enableAutoRecovery": true } });
    let definition = json!({ "version": "1.0", "settings": {} });
    let report = json!({ "version": "1.0", "datasetReference": { "byPath": { "path": "../gold.SemanticModel" } } });
    let layout = json!({ "config": "{\"version\":\"5.43\"}", "layoutOptimization": 0, "sections": [
        { "name": "page1", "displayName": "Gold", "width": 1280, "height": 720, "displayOption": 1, "config": "{}", "visualContainers": [] }
    ] });
    let file = |path: &str, value: &Value| File { path: path.to_owned(), text: format!("{value:#}\n") };
    Ok(vec![
        File { path: "README.md".to_owned(), text: format!("# Power BI\n\n{README}") },
        file("lake.pbids", &connection),
        file("gold.pbip", &pbip),
        file("gold.SemanticModel/definition.pbism", &definition),
        file("gold.SemanticModel/model.bim", &model),
        file("gold.Report/definition.pbir", &report),
        file("gold.Report/report.json", &layout),
    ])
}

/// The parameter's value, and the M that opens the folder `path` below it.
fn source(place: &Place) -> Result<(String, Opens), ExportError> {
    match place.for_https() {
        Some(url) => Ok((url, |path| format!("AzureStorage.DataLake(LakeUrl & \"/{path}\")"))),
        None => {
            let scheme = place.scheme();
            let reads = "Azure storage and OneLake (the others through Fabric or Databricks)";
            Err(ExportError::Unreachable { service: "Power BI", scheme, reads })
        }
    }
}

fn table(table: Table, source: Opens) -> Value {
    let schema = table.schema();
    let columns: Vec<Value> = schema
        .fields()
        .iter()
        .map(|field| {
            let (data_type, summarize) = column_type(field.data_type());
            json!({ "name": field.name(), "dataType": data_type, "sourceColumn": field.name(), "summarizeBy": summarize })
        })
        .collect();
    let measures: Vec<Value> = MEASURES
        .iter()
        .filter(|(of, ..)| *of == table.name())
        .map(|(_, name, dax, format)| {
            json!({ "name": name, "expression": dax, "formatString": format, "displayFolder": "Measures" })
        })
        .collect();
    let expression = vec![
        "let".to_owned(),
        format!("    Source = DeltaLake.Table({})", source(&table.path())),
        "in".to_owned(),
        "    Source".to_owned(),
    ];
    json!({
        "name": table.name(),
        "columns": columns,
        "measures": measures,
        "partitions": [{ "name": table.name(), "mode": "import", "source": { "type": "m", "expression": expression } }],
    })
}

/// The tabular model's type, and what a visual does with it unasked. Sums of averages mean nothing: nothing is summed.
fn column_type(data_type: &DataType) -> (&'static str, &'static str) {
    let kind = match data_type {
        DataType::Int32 | DataType::Int64 => "int64",
        DataType::Float64 => "double",
        DataType::Boolean => "boolean",
        DataType::Date32 | DataType::Timestamp(..) => "dateTime",
        _ => "string",
    };
    (kind, "none")
}

/// A text of M.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measure_names_columns_that_exist_and_closes_its_brackets() {
        for (table, name, dax, _) in MEASURES {
            let found = Table::ALL.into_iter().find(|t| t.layer() == Layer::Gold && t.name() == table);
            let schema = found.unwrap_or_else(|| panic!("{name}: there is no gold.{table}")).schema();
            let own = format!("'{table}'[");
            let mut columns = dax.split(own.as_str()).skip(1).map(|rest| rest.split(']').next().expect("a column"));
            assert!(columns.clone().next().is_some(), "{name} names a column of its table");
            assert!(columns.all(|column| schema.field_with_name(column).is_ok()), "{name}: {dax}");
            let count = |c: char| dax.matches(c).count();
            assert_eq!((count('('), count('[')), (count(')'), count(']')), "{name}");
        }
    }
}
