use std::collections::HashMap;

use arrow::array::AsArray as _;
use deltalake::kernel::{DataType, StructField};
use deltalake::protocol::SaveMode;

use super::*;
use crate::lake::{Lake, Location};

/// A lake whose quarantine was made by a version that did not know `_rescued`.
async fn of_an_earlier_version(directory: &std::path::Path) -> Location {
    let location = Location::parse(directory.to_str().expect("UTF-8"), HashMap::new()).expect("a path");
    location.prepare().expect("a local disk");
    let table = Table::SilverQuarantine;
    let columns: StructType = table.schema().as_ref().try_into_kernel().expect("columns");
    let earlier = columns.fields().filter(|field| field.name() != "_rescued").cloned();
    let url = location.table(table).expect("a place");
    std::fs::create_dir_all(url.to_file_path().expect("a directory")).expect("made");
    let handle = deltalake::DeltaTableBuilder::from_url(url).expect("a place").build().expect("a handle");
    let made = handle.create().with_columns(earlier).with_partition_columns(["ingest_date"]);
    made.with_save_mode(SaveMode::ErrorIfExists).await.expect("created");
    location
}

#[tokio::test]
async fn a_table_of_an_earlier_version_gets_the_columns_it_lacks_and_keeps_its_protocol() {
    let directory = tempfile::tempdir().expect("a directory");
    let location = of_an_earlier_version(directory.path()).await;
    let lake = Lake::open(location.clone()).expect("a lake");
    lake.create_tables().await.expect("widened");
    let view = lake.view(Table::SilverQuarantine).await.expect("a view");
    assert_eq!(view.version(), 1);
    view.check().expect("protocol 1/2 and every column");
    // And nothing more is done next time.
    let lake = Lake::open(location).expect("a lake");
    lake.create_tables().await.expect("as it is");
    assert_eq!(lake.view(Table::SilverQuarantine).await.expect("a view").version(), 1);
}

#[tokio::test]
async fn a_table_with_a_column_we_do_not_know_is_read_and_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let location = Location::parse(directory.path().to_str().expect("UTF-8"), HashMap::new()).expect("a path");
    location.prepare().expect("a local disk");
    let lake = Lake::open(location.clone()).expect("a lake");
    lake.create_tables().await.expect("tables");
    let table = Table::GoldGatewayHealth;
    let url = location.table(table).expect("a place");
    let mut theirs = deltalake::DeltaTableBuilder::from_url(url).expect("a place").build().expect("a handle");
    theirs.load().await.expect("loads");
    let field = StructField::nullable("remark", DataType::STRING);
    theirs.add_columns().with_fields(vec![field]).await.expect("added by somebody else");

    let lake = Lake::open(location).expect("a lake");
    lake.create_tables().await.expect("as it is");
    let row = RecordBatch::new_empty(table.schema());
    let columns = row.schema().fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
    let row = RecordBatch::try_new(row.schema(), columns).expect("a row of nulls");
    let mut writer = lake.writer(table).await.expect("a writer");
    writer.write(row).await.expect("written");
    let adds = writer.finish().await.expect("a file");
    let view = lake.view(table).await.expect("a view");
    let read = view.read(&adds[0], &["gateway_id"]).await.expect("read");
    assert!(read[0].column(0).as_string::<i32>().value(0).is_empty());
}
