//! Azure Synapse serverless SQL: a view per table, and an external table where the lake has no partitions.

use super::tsql::{data_type, name};
use super::{ExportError, File, Place, Wishes, comment};
use crate::lake::tables::{Layer, Table};

const HEADER: &str = "\
The lake for Azure Synapse, serverless SQL pool. Run it once, as an administrator of the pool, in `master`.
The pool's managed identity needs the role \"Storage Blob Data Reader\" on the container.

Partitioned tables are views: serverless SQL skips partitions in OPENROWSET alone. Tables without partitions are
external tables. Times are UTC. Lists and maps (properties, reasons, readings) come as JSON: use OPENJSON.

Checked: parsed as T-SQL by sqlfluff; columns and types come from the ingester's own list of tables, whose protocol is
Delta 1/2, and which five other engines read row for row.
Not checked: a run in Synapse.";

pub(super) fn files(wishes: &Wishes) -> Result<Vec<File>, ExportError> {
    let root = match &wishes.place {
        place @ (Place::Azure { .. } | Place::OneLake(_)) => place.for_https(),
        Place::S3 { .. } | Place::Gcs { .. } => None,
    };
    let scheme = wishes.place.scheme();
    let root = root.ok_or(ExportError::Unreachable { service: "Synapse", scheme, reads: "Azure storage" })?;
    let database = name(&wishes.name);
    let mut sql = comment("--", HEADER);
    sql += &format!(
        "\n-- Texts compare by their bytes, as in the lake.\nCREATE DATABASE {database} COLLATE Latin1_General_100_BIN2_UTF8;\nGO\n\
         USE {database};\nGO\n\
         CREATE MASTER KEY;\nGO\n\
         CREATE DATABASE SCOPED CREDENTIAL [lake_identity] WITH IDENTITY = 'Managed Identity';\nGO\n\
         CREATE EXTERNAL DATA SOURCE [lake] WITH (LOCATION = '{root}', CREDENTIAL = [lake_identity]);\nGO\n\
         CREATE EXTERNAL FILE FORMAT [delta] WITH (FORMAT_TYPE = DELTA);\nGO\n"
    );
    for layer in [Layer::Bronze, Layer::Silver, Layer::Gold] {
        sql += &format!("CREATE SCHEMA {};\nGO\n", name(layer.name()));
    }
    for &table in &wishes.tables {
        sql += &if table.partition_columns().is_empty() { external_table(table) } else { view(table) };
    }
    Ok(vec![File { path: "synapse.sql".to_owned(), text: sql }])
}

fn view(table: Table) -> String {
    format!(
        "\nCREATE VIEW {}.{} AS\nSELECT *\nFROM OPENROWSET(\n    BULK '{}',\n    DATA_SOURCE = 'lake',\n    FORMAT = 'DELTA'\n) WITH (\n{}\n) AS [rows];\nGO\n",
        name(table.layer().name()),
        name(table.name()),
        table.path(),
        columns(table)
    )
}

fn external_table(table: Table) -> String {
    format!(
        "\nCREATE EXTERNAL TABLE {}.{} (\n{}\n) WITH (\n    LOCATION = '{}',\n    DATA_SOURCE = [lake],\n    FILE_FORMAT = [delta]\n);\nGO\n",
        name(table.layer().name()),
        name(table.name()),
        columns(table),
        table.path()
    )
}

fn columns(table: Table) -> String {
    let schema = table.schema();
    let columns = schema.fields().iter().map(|f| format!("    {} {}", name(f.name()), data_type(f.data_type())));
    columns.collect::<Vec<_>>().join(",\n")
}
