//! Columns and names as SQL Server writes them.

use arrow::datatypes::DataType;

/// A name in brackets. Names of the lake hold no bracket.
pub(super) fn name(text: &str) -> String {
    format!("[{text}]")
}

/// The type of a column as serverless SQL reads it from Parquet. Lists and maps come as JSON text. Source: Microsoft
/// Learn, "Query Parquet files using serverless SQL pool", type mapping.
pub(super) fn data_type(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Utf8 => "VARCHAR(8000)",
        DataType::Int64 => "BIGINT",
        DataType::Int32 => "INT",
        DataType::Float64 => "FLOAT",
        DataType::Boolean => "BIT",
        DataType::Date32 => "DATE",
        DataType::Timestamp(..) => "DATETIME2(6)",
        DataType::Binary => "VARBINARY(MAX)",
        // Lists and maps, and what a later column may bring.
        _ => "VARCHAR(MAX)",
    }
}
