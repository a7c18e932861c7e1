use super::*;
use crate::gold::model::Model;
use crate::lake::tables::Table;

/// The models that come with the product.
fn embedded() -> Vec<Model> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(crate::gold::models::embedded()).expect("models")
}

fn wishes(url: &str) -> Wishes {
    let place = Place::parse(url, None).expect("a place");
    let (tables, models) = (Table::ALL.to_vec(), embedded());
    Wishes { place, tables, models, name: "iot".to_owned(), sql_endpoint: None, connection: None }
}

const AZURE: &str = "abfss://lake@acme.dfs.core.windows.net/iot";

fn export(target: Target) -> Vec<File> {
    files(target, &wishes(AZURE)).expect("Azure is read by all")
}

#[test]
fn every_export_is_as_it_was_read_by_a_person() {
    // One table of each kind: partitioned with maps, partitioned, not partitioned.
    let tables = vec![Table::BronzeMessages, Table::GoldMetric1m, Table::GoldGatewayHealth];
    let models = embedded().into_iter().filter(|model| model.target == Table::GoldMetric1m).collect();
    let few = Wishes { tables, models, ..wishes(AZURE) };
    for (target, golden) in [
        (Target::Synapse, expect_test::expect_file!["golden/synapse.txt"]),
        (Target::Fabric, expect_test::expect_file!["golden/fabric.txt"]),
        (Target::Powerbi, expect_test::expect_file!["golden/powerbi.txt"]),
        (Target::Databricks, expect_test::expect_file!["golden/databricks.txt"]),
    ] {
        let text: String = files(target, &few)
            .expect("Azure is read by all")
            .iter()
            .map(|file| format!("==== {}\n{}", file.path, file.text))
            .collect();
        golden.assert_eq(&text);
    }
}

#[test]
fn every_table_and_column_is_in_the_exports_of_all_layers() {
    for target in [Target::Synapse, Target::Databricks] {
        let text: String = export(target).into_iter().map(|file| file.text).collect();
        for table in Table::ALL {
            assert!(text.contains(&table.path()), "{target:?} {}", table.path());
            for field in table.schema().fields() {
                assert!(text.contains(field.name()), "{target:?} {}.{}", table.full_name(), field.name());
            }
        }
    }
    for file in export(Target::Fabric).iter().filter(|file| file.path.ends_with(".json")) {
        let shortcuts: Vec<serde_json::Value> = serde_json::from_str(&file.text).expect("JSON");
        assert_eq!(shortcuts.len(), Table::ALL.len(), "{}", file.path);
    }
}

#[test]
fn every_export_says_what_was_checked_and_what_was_not() {
    for target in [Target::Synapse, Target::Fabric, Target::Powerbi, Target::Databricks] {
        let files = export(target);
        for file in &files {
            let comments = !file.path.ends_with(".json") && !file.path.contains(".p") && !file.path.ends_with(".bim");
            if comments {
                assert!(file.text.contains("Checked: ") && file.text.contains("Not checked: "), "{}", file.path);
            }
        }
        assert!(files.iter().any(|file| file.text.contains("Not checked: ")), "{target:?}");
    }
}

#[test]
fn json_parses_and_a_pipeline_holds_the_models_own_text() {
    for target in [Target::Fabric, Target::Powerbi] {
        for file in export(target).iter().filter(|file| !file.path.ends_with(".md") && !file.path.ends_with(".sql")) {
            serde_json::from_str::<serde_json::Value>(&file.text).expect(&file.path);
        }
    }
    let exported = export(Target::Databricks);
    for name in ["metric_1m", "device_latest"] {
        let model = embedded().into_iter().find(|model| model.target.name() == name);
        let file = exported.iter().find(|file| file.path == format!("src/gold/{name}.sql")).expect(name);
        assert!(file.text.contains(model.expect(name).draft.sql.trim_end()), "{name}");
    }
}

/// A model whose header lies beside it, one in local days, and what the command finds of both.
#[test]
fn users_models_and_their_tables_are_exported_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    let window = "[window]\nkind = \"tumbling\"\nsize = \"1d\"\n";
    let header = |name: &str| format!("target = \"gold.{name}\"\nmode = \"window\"\nkeys = [\"device_id\"]\n{window}");
    let select = "select device_id, window_start, window_end, count(*) as n_of_day\n\
                  from windowed group by device_id, window_start, window_end\n";
    write("days.sql", select);
    write("days.toml", &header("days"));
    write("local.sql", select);
    write("local.toml", &(header("local_days") + "timezone = \"Europe/Berlin\"\n"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (tables, models) = runtime.block_on(everything(Some(folder.path()))).expect("models");
    let all = Wishes { tables, models, ..wishes(AZURE) };
    let export = |target| files(target, &all).expect("Azure is read by all");
    for target in [Target::Synapse, Target::Fabric, Target::Powerbi, Target::Databricks] {
        let text: String = export(target).into_iter().map(|file| file.text).collect();
        for name in ["days", "local_days"] {
            assert!(text.contains(name), "{target:?} {name}");
        }
    }
    let exported = export(Target::Databricks);
    let days = exported.iter().find(|file| file.path == "src/gold/days.sql").expect("a pipeline").text.clone();
    assert!(
        days.contains(select.trim_end()) && days.contains("86400000000") && days.contains("A model of your own"),
        "{days}"
    );
    assert!(
        exported[0].text.contains("gold.local_days"),
        "what no SELECT of Spark's makes is named: {}",
        exported[0].text
    );
}

#[test]
fn a_service_that_cannot_reach_the_lake_is_named() {
    for (target, url, expected) in [
        (Target::Synapse, "s3://lake/iot", "Synapse does not read s3:// URLs; it reads Azure storage"),
        (Target::Powerbi, "gs://lake", "Power BI does not read gs:// URLs"),
        (Target::Fabric, "abfss://w@onelake.dfs.fabric.microsoft.com/l.Lakehouse/Files", "without a shortcut"),
    ] {
        let error = files(target, &wishes(url)).expect_err(url).to_string();
        assert!(error.contains(expected), "{error}");
    }
    for url in ["s3://lake/iot", "gs://lake/iot"] {
        for target in [Target::Fabric, Target::Databricks] {
            assert!(files(target, &wishes(url)).is_ok(), "{target:?} {url}");
        }
    }
    for name in ["", "1st", "it's", "a-b"] {
        let named = Wishes { name: name.to_owned(), ..wishes(AZURE) };
        assert_eq!(files(Target::Synapse, &named), Err(ExportError::Name(name.to_owned())));
    }
}

#[test]
fn what_fabrics_views_name_exists() {
    let views = export(Target::Fabric).into_iter().find(|file| file.path == "views.sql").expect("views.sql").text;
    let columns: Vec<String> = Table::ALL
        .into_iter()
        .flat_map(|table| table.schema().fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>())
        .chain(Table::ALL.into_iter().flat_map(|table| [table.layer().name().to_owned(), table.name().to_owned()]))
        .chain(["metric_last_day".to_owned(), "unproven_gateways".to_owned()])
        .collect();
    for named in views.split('[').skip(1).map(|rest| rest.split(']').next().expect("a name")) {
        assert!(columns.iter().any(|column| column == named), "{named}");
    }
}
