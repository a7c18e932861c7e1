//! Microsoft Fabric: a OneLake shortcut per table, and views for the lakehouse's SQL analytics endpoint.

use serde_json::{Value, json};

use super::tsql::name;
use super::{ExportError, File, Place, Wishes, comment};
use crate::lake::tables::{Layer, Table};

/// Where no connection is given.
const CONNECTION: &str = "00000000-0000-0000-0000-000000000000";

const README: &str = "\
The lake for Microsoft Fabric: tables of a lakehouse with schemas, as shortcuts; nothing is copied.

1. Make a lakehouse with schemas, and a connection to the storage; its id stands in the shortcuts
   (`--connection GUID`; without it they say 00000000-0000-0000-0000-000000000000).
2. `shortcuts.metadata.json` is the form of Fabric's Git integration: put it beside the lakehouse's files in the
   workspace's repository and update from Git. Or send each object of `shortcuts.requests.json` by
   `POST https://api.fabric.microsoft.com/v1/workspaces/WORKSPACE/items/LAKEHOUSE/shortcuts`.
3. Run `views.sql` at the lakehouse's SQL analytics endpoint.

Checked: the JSON parses and has a target per table; `views.sql` is parsed as T-SQL by sqlfluff and names columns that
exist. The tables are what Fabric asks for: Delta protocol 1/2, no column mapping, no deletion vectors, all times
`timestamp` (UTC), and checkpoints whose pages use no dictionary and no run-length encoded values.
Not checked: a run in Fabric.
";

const VIEWS: &str = "\
Views for the SQL analytics endpoint of a Fabric lakehouse whose tables are shortcuts into the lake.

Checked: parsed as T-SQL by sqlfluff; every column exists.
Not checked: a run in Fabric.";

pub(super) fn files(wishes: &Wishes) -> Result<Vec<File>, ExportError> {
    let connection = wishes.connection.as_deref().unwrap_or(CONNECTION);
    let mut metadata = vec![];
    let mut requests = vec![];
    for &table in &wishes.tables {
        let (kind, member, target) = target(&wishes.place, table, connection)?;
        let path = format!("Tables/{}", table.layer().name());
        let mut tagged = json!({ "type": kind });
        tagged[member] = target.clone();
        metadata.push(json!({ "name": table.name(), "path": format!("/{path}"), "target": tagged }));
        let mut plain = json!({});
        plain[member] = target;
        requests.push(json!({ "path": path, "name": table.name(), "target": plain }));
    }
    let pretty = |values: Vec<Value>| format!("{:#}\n", Value::Array(values));
    Ok(vec![
        File { path: "README.md".to_owned(), text: format!("# Fabric\n\n{README}") },
        File { path: "shortcuts.metadata.json".to_owned(), text: pretty(metadata) },
        File { path: "shortcuts.requests.json".to_owned(), text: pretty(requests) },
        File { path: "views.sql".to_owned(), text: views() },
    ])
}

/// A shortcut's target: its type, the member that describes it, the description. Source: Fabric REST API, Core, OneLake
/// Shortcuts, Create Shortcut.
fn target(place: &Place, table: Table, connection: &str) -> Result<(&'static str, &'static str, Value), ExportError> {
    let below = |path: &str| format!("{path}/{}", table.path()).trim_matches('/').to_owned();
    let of = |location: String, subpath: String| json!({ "location": location, "subpath": subpath, "connectionId": connection });
    match place {
        Place::Azure { account, container, path } => {
            let location = format!("https://{account}.dfs.core.windows.net");
            Ok(("AdlsGen2", "adlsGen2", of(location, format!("/{container}/{}", below(path)))))
        }
        Place::S3 { bucket, path } => {
            let location = format!("https://{bucket}.s3.amazonaws.com");
            Ok(("AmazonS3", "amazonS3", of(location, format!("/{}", below(path)))))
        }
        Place::Gcs { bucket, path } => {
            let location = format!("https://{bucket}.storage.googleapis.com");
            Ok(("GoogleCloudStorage", "googleCloudStorage", of(location, format!("/{}", below(path)))))
        }
        Place::OneLake(_) => Err(ExportError::AlreadyThere { service: "Fabric" }),
    }
}

/// What people ask first, of tables that are there in every lake.
fn views() -> String {
    let gold = name(Layer::Gold.name());
    comment("--", VIEWS)
        + &format!(
            "\nCREATE OR ALTER VIEW {gold}.[metric_last_day] AS\n\
             SELECT [gateway_id], [device_id], [metric], [unit], [window_start], [readings],\n       \
             [value_avg], [value_min], [value_max], [value_p95]\n\
             FROM {gold}.[metric_1m]\n\
             WHERE [window_start] >= DATEADD(DAY, -1, SYSUTCDATETIME());\nGO\n\
             \nCREATE OR ALTER VIEW {gold}.[unproven_gateways] AS\n\
             SELECT [gateway_id], [epoch], [state], [last], [arrived], [quarantined], [given_up], [missing]\n\
             FROM {gold}.[gateway_health]\nWHERE [missing] <> 0;\nGO\n"
        )
}
