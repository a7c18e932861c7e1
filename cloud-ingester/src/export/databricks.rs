//! Databricks: an asset bundle with the catalogue of the lake, and a pipeline made of the gold models themselves.

use arrow::datatypes::DataType;

use super::{ExportError, File, Wishes, comment};
use crate::gold::inputs;
use crate::gold::model::{Mode, Model, Source, Windows};
use crate::gold::planned::{self, CATALOGUE};
use crate::lake::tables::{Layer, Table};
use crate::silver::devices;

const CATALOG: &str = "\
The lake in Unity Catalog: external tables over its folders; nothing is copied. The location must lie in an external
location that you may use.

Checked: the statements are parsed by sqlfluff (dialect databricks); the tables are read by Spark with Delta.
Not checked: a run in Databricks.";

const PIPELINE: &str = "\
The gold models as a pipeline of Databricks' own: what stands after `as` is the ingester's SELECT, to the letter, behind
a relation that Spark computes as the ingester does. Its tables lie in a schema beside the ingester's, so that both can
be compared; to let Databricks alone make gold, point readers at it.

Checked: the statement is parsed by sqlfluff (dialect databricks); the query in it is run by Spark and by Sail over a lake
of the ingester's, with the same rows as its gold.
Not checked: a run in Databricks.";

/// The same of a user's model, which nobody has run but its user.
const PIPELINE_OWN: &str = "\
A model of your own as part of the pipeline: what stands after `as` is its SELECT, to the letter, behind a relation that
Spark computes as the ingester does. Its table lies in a schema beside the ingester's, so that both can be compared.

Checked: the SELECT keeps to the subset of SQL that means the same on Spark (the ingester's docs/sql.md).
Not checked: a run on Spark or in Databricks.";

/// What a bundle leaves out, and why.
const LEFT_OUT: &str = "\
Not among the models of this pipeline, since no SELECT makes them: gold.gateway_health (the proof, out of the ranges of
sequence numbers that were seen) and gold.watermarks. Read the ingester's.";

const BUNDLE: &str = "\
The lake as a Databricks asset bundle: `databricks bundle deploy -t dev`, then `databricks bundle run catalog`, then
`databricks bundle run gold`. WORKSPACE and WAREHOUSE_ID are yours to fill in.

Checked: parses as YAML; the files it names are there.
Not checked: `databricks bundle validate`, which asks a workspace.";

pub(super) fn files(wishes: &Wishes) -> Result<Vec<File>, ExportError> {
    let mut files = vec![
        File { path: "databricks.yml".to_owned(), text: bundle(wishes) },
        File { path: "src/catalog.sql".to_owned(), text: catalog(wishes) },
    ];
    for model in &wishes.models {
        if let Some(text) = pipeline(model) {
            files.push(File { path: format!("src/gold/{}.sql", model.target.name()), text });
        }
    }
    Ok(files)
}

fn bundle(wishes: &Wishes) -> String {
    let name = &wishes.name;
    let mut told = format!("{BUNDLE}\n\n{LEFT_OUT}");
    let own = wishes.models.iter().filter(|model| pipeline(model).is_none()).map(|model| model.target.full_name());
    let own: Vec<&str> = own.collect();
    if !own.is_empty() {
        let what = "Nor these, whose windows Spark cannot be given in SQL, or which only add rows";
        told += &format!("\n{what}: {}.", own.join(", "));
    }
    comment("#", &told)
        + &format!(
            "bundle:
  name: {name}

variables:
  catalog:
    description: The catalogue that shows the lake
    default: {name}
  warehouse_id:
    description: The SQL warehouse that creates the catalogue's tables
    default: WAREHOUSE_ID

targets:
  dev:
    mode: development
    default: true
    workspace:
      host: https://WORKSPACE.azuredatabricks.net
  prod:
    mode: production
    workspace:
      host: https://WORKSPACE.azuredatabricks.net
      root_path: /Workspace/Shared/.bundle/${{bundle.name}}/${{bundle.target}}

resources:
  jobs:
    catalog:
      name: {name} catalogue
      parameters:
        - name: catalog
          default: ${{var.catalog}}
      tasks:
        - task_key: catalog
          sql_task:
            warehouse_id: ${{var.warehouse_id}}
            file:
              path: src/catalog.sql
            parameters:
              catalog: \"{{{{job.parameters.catalog}}}}\"
  pipelines:
    gold:
      name: {name} gold
      catalog: ${{var.catalog}}
      schema: gold_by_databricks
      serverless: true
      continuous: false
      libraries:
        - glob:
            include: src/gold/**
"
        )
}

fn catalog(wishes: &Wishes) -> String {
    let root = wishes.place.for_spark();
    let mut sql = comment("--", CATALOG)
        + "\nCREATE CATALOG IF NOT EXISTS IDENTIFIER(:catalog);\nUSE CATALOG IDENTIFIER(:catalog);\n";
    for layer in [Layer::Bronze, Layer::Silver, Layer::Gold] {
        sql += &format!("CREATE SCHEMA IF NOT EXISTS {};\n", layer.name());
    }
    for &table in &wishes.tables {
        // Delta's log says which columns there are; written here they are a promise that the service compares.
        let schema = table.schema();
        let columns: Vec<String> = schema
            .fields()
            .iter()
            .map(|f| {
                format!(
                    "  {} {}{}",
                    f.name(),
                    spark_type(f.data_type()),
                    if f.is_nullable() { "" } else { " NOT NULL" }
                )
            })
            .collect();
        let partitions = match table.partition_columns() {
            [] => String::new(),
            columns => format!("PARTITIONED BY ({})\n", columns.join(", ")),
        };
        sql += &format!(
            "\nCREATE TABLE IF NOT EXISTS {} (\n{}\n)\nUSING DELTA\n{partitions}LOCATION '{root}/{}';\n",
            table.full_name(),
            columns.join(",\n"),
            table.path()
        );
    }
    sql
}

fn spark_type(data_type: &DataType) -> String {
    match data_type {
        DataType::Int32 => "INT".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Date32 => "DATE".to_owned(),
        DataType::Timestamp(..) => "TIMESTAMP".to_owned(),
        DataType::Binary => "BINARY".to_owned(),
        DataType::List(element) => format!("ARRAY<{}>", spark_type(element.data_type())),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => {
                format!("MAP<{}, {}>", spark_type(pair[0].data_type()), spark_type(pair[1].data_type()))
            }
            _ => "MAP<STRING, STRING>".to_owned(),
        },
        _ => "STRING".to_owned(),
    }
}

/// A model as a materialised view; `None` for one whose relation Spark cannot be given in SQL.
fn pipeline(model: &Model) -> Option<String> {
    let relation = relation(model.draft.mode, &rows(model))?;
    let told = if let Table::Own(_) = model.target { PIPELINE_OWN } else { PIPELINE };
    // A partition column is the engine's, not the SELECT's.
    Some(format!(
        "{}\ncreate or refresh materialized view {}\nas with {relation}\n{}",
        comment("--", told),
        model.target.name(),
        model.draft.sql.trim_end().to_owned() + ";\n"
    ))
}

/// The rows a model is made of, as something to select from: readings, refused ones where it asks for them, and what is
/// known of their devices.
fn rows(model: &Model) -> String {
    let plain = !model.catalogue && model.draft.sources == [Source::Readings];
    if plain && !model.columns.iter().any(|column| column == "rejected") {
        return "silver.readings".to_owned();
    }
    let known = planned::readings();
    let of = |source: Source| {
        let table = source.table();
        let columns = model.columns.iter().filter(|name| !CATALOGUE.iter().any(|(joined, _)| name == joined));
        let columns = columns.map(|name| {
            let stored = inputs::stored_as(source, name);
            match name.as_str() {
                "rejected" => format!("{} as rejected", source == Source::Rejected),
                name if table.schema().field_with_name(stored).is_err() => {
                    let field = known.iter().find(|field| field.name() == name);
                    format!("cast(null as {}) as {name}", spark_type(field.map_or(&DataType::Utf8, |f| f.data_type())))
                }
                name if name == stored => name.to_owned(),
                name => format!("{stored} as {name}"),
            }
        });
        let standing = if source == Source::Rejected { " where replayed_at is null" } else { "" };
        format!("select {} from {}{standing}", columns.collect::<Vec<_>>().join(", "), table.full_name())
    };
    let parts: Vec<String> = model.draft.sources.iter().map(|source| of(*source)).collect();
    let all = parts.join("\n    union all ");
    if !model.catalogue {
        return format!("(\n    {all}\n  ) r");
    }
    let asked = CATALOGUE.iter().filter(|(name, _)| model.columns.iter().any(|column| column == name));
    let asked: Vec<String> = asked.map(|(name, column)| format!("{} as {name}", devices::joined(column))).collect();
    let joins = devices::joins("silver.devices").replace(" left join", "\n    left join");
    format!("(\n    select r.*, {} from (\n    {all}\n    ) r\n    {joins}\n  ) r", asked.join(", "))
}

/// What the SELECT reads, as a common table expression over `rows`.
fn relation(mode: Mode, rows: &str) -> Option<String> {
    match mode {
        Mode::Window(Windows::Grid(grid)) => {
            let micros = grid.tumbling_in_utc()?;
            let start = format!("unix_micros(event_time) - pmod(unix_micros(event_time), {micros})");
            Some(format!(
                "windowed as (\n  select\n    *,\n    timestamp_micros({start}) as window_start,\n    \
                 timestamp_micros({start} + {micros}) as window_end\n  from {rows}\n)"
            ))
        }
        Mode::Latest | Mode::Full => Some(format!("readings as (select * from {rows})")),
        Mode::Window(Windows::Session { .. }) | Mode::Append => None,
    }
}
