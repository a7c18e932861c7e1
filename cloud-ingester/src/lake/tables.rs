//! Every table of the lake: name, partitions, properties; [`super::columns`] has the columns.
//!
//! Tables are created from this page before anything is written, and never by a write: a write that creates a table
//! can slip a `timestampNtz` column in, which raises the protocol to 3/7 and hides the table from Synapse and Fabric.
//! All times are `timestamp` (microseconds, UTC), there are no deletion vectors and no column mapping: protocol 1/2.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{Schema, SchemaRef};

use super::columns::columns;
pub use super::columns::{map_of, strings, timestamp};

/// The three layers; also the names of the SQL schemas and of the directories below the lake's root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layer {
    /// What arrived, as it arrived.
    Bronze,
    /// Readings that passed the rules, and books of what did not.
    Silver,
    /// What people look at.
    Gold,
}

impl Layer {
    /// The directory and SQL schema of the layer.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bronze => "bronze",
            Self::Silver => "silver",
            Self::Gold => "gold",
        }
    }
}

/// A table of the lake. Those that every lake has are named here; [`Table::Own`] are those that users' models fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Events as read from the hub, one row each.
    BronzeMessages,
    /// Accepted readings, one row each, no id twice.
    SilverReadings,
    /// Refused readings and Events, with their bytes and reasons.
    SilverQuarantine,
    /// Ranges of sequence numbers that are accounted for without a reading.
    SilverGaps,
    /// What is known of devices, one row for each span of time in which it did not change.
    SilverDevices,
    /// One row per device, metric and minute.
    GoldMetric1m,
    /// The newest reading per device and metric.
    GoldDeviceLatest,
    /// The proof, per gateway and epoch.
    GoldGatewayHealth,
    /// One row per device, metric and hour.
    GoldMetric1h,
    /// One row per device, metric and day.
    GoldMetric1d,
    /// What was expected of a device on a day, and what came.
    GoldDeviceHealth,
    /// Until when all is here, as far as can be told.
    GoldWatermarks,
    /// A table that a user's model fills.
    Own(Own),
}

/// A table that a user's model defines: always in gold.
#[derive(Debug)]
pub struct Definition {
    /// Its name within the layer.
    pub name: &'static str,
    /// With the layer before it.
    pub full_name: &'static str,
    /// Columns in order, partition columns included.
    pub schema: SchemaRef,
    /// Columns the files are laid out by.
    pub partition_columns: &'static [&'static str],
    /// Columns with min and max in the log, with commas between them.
    pub stats_columns: &'static str,
}

/// The definition of a user's table, which lives as long as the process. Two of one name are the same table.
#[derive(Clone, Copy, Debug)]
pub struct Own(&'static Definition);

impl Own {
    const fn known_as(self) -> &'static str {
        self.0.full_name
    }
}

impl PartialEq for Own {
    fn eq(&self, other: &Self) -> bool {
        self.known_as() == other.known_as()
    }
}

impl Eq for Own {}

impl std::hash::Hash for Own {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.known_as().hash(state);
    }
}

impl PartialOrd for Own {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Own {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.known_as().cmp(other.known_as())
    }
}

impl Table {
    /// The tables that every lake has, upstream first. What one lake has in all, [`super::Lake::tables`] knows.
    pub const ALL: [Self; 12] = [
        Self::BronzeMessages,
        Self::SilverReadings,
        Self::SilverQuarantine,
        Self::SilverGaps,
        Self::SilverDevices,
        Self::GoldMetric1m,
        Self::GoldDeviceLatest,
        Self::GoldGatewayHealth,
        Self::GoldMetric1h,
        Self::GoldMetric1d,
        Self::GoldDeviceHealth,
        Self::GoldWatermarks,
    ];

    /// A user's table `gold.<name>`. Its definition is never freed: models are read once, when the process starts.
    #[must_use]
    pub fn own(name: &str, schema: SchemaRef, partition_columns: &[&str], stats_columns: &[&str]) -> Self {
        let kept = |text: String| -> &'static str { text.leak() };
        let partitions: Vec<&'static str> = partition_columns.iter().map(|&column| kept(column.to_owned())).collect();
        Self::Own(Own(Box::leak(Box::new(Definition {
            name: kept(name.to_owned()),
            full_name: kept(format!("{}.{name}", Layer::Gold.name())),
            schema,
            partition_columns: partitions.leak(),
            stats_columns: kept(stats_columns.join(",")),
        }))))
    }

    /// The layer the table lies in.
    #[must_use]
    pub const fn layer(self) -> Layer {
        match self {
            Self::BronzeMessages => Layer::Bronze,
            Self::SilverReadings | Self::SilverQuarantine | Self::SilverGaps | Self::SilverDevices => Layer::Silver,
            Self::GoldMetric1m
            | Self::GoldMetric1h
            | Self::GoldMetric1d
            | Self::GoldDeviceLatest
            | Self::GoldDeviceHealth
            | Self::GoldGatewayHealth
            | Self::GoldWatermarks
            | Self::Own(_) => Layer::Gold,
        }
    }

    /// The table's name within its layer, e.g. `messages`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BronzeMessages => "messages",
            Self::SilverReadings => "readings",
            Self::SilverQuarantine => "quarantine",
            Self::SilverGaps => "gaps",
            Self::SilverDevices => "devices",
            Self::GoldMetric1m => "metric_1m",
            Self::GoldMetric1h => "metric_1h",
            Self::GoldMetric1d => "metric_1d",
            Self::GoldDeviceLatest => "device_latest",
            Self::GoldDeviceHealth => "device_health",
            Self::GoldGatewayHealth => "gateway_health",
            Self::GoldWatermarks => "watermarks",
            Self::Own(own) => own.0.name,
        }
    }

    /// The name people use, e.g. `bronze.messages`.
    #[must_use]
    pub const fn full_name(self) -> &'static str {
        match self {
            Self::BronzeMessages => "bronze.messages",
            Self::SilverReadings => "silver.readings",
            Self::SilverQuarantine => "silver.quarantine",
            Self::SilverGaps => "silver.gaps",
            Self::SilverDevices => "silver.devices",
            Self::GoldMetric1m => "gold.metric_1m",
            Self::GoldMetric1h => "gold.metric_1h",
            Self::GoldMetric1d => "gold.metric_1d",
            Self::GoldDeviceLatest => "gold.device_latest",
            Self::GoldDeviceHealth => "gold.device_health",
            Self::GoldGatewayHealth => "gold.gateway_health",
            Self::GoldWatermarks => "gold.watermarks",
            Self::Own(own) => own.0.full_name,
        }
    }

    /// The table called `name` (`silver.readings`), if every lake has one.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.full_name() == name)
    }

    /// The table's directory, relative to the lake's root.
    #[must_use]
    pub fn path(self) -> String {
        format!("{}/{}", self.layer().name(), self.name())
    }

    /// The app id of the hop that fills `self` from the table whose `metaData.id` is `source_id`.
    #[must_use]
    pub fn app_id(self, source_id: &str) -> String {
        format!("{}<-{source_id}", self.full_name())
    }

    /// Columns in order, partition columns included.
    #[must_use]
    pub fn schema(self) -> SchemaRef {
        static SCHEMAS: LazyLock<HashMap<Table, SchemaRef>> = LazyLock::new(|| {
            let schema = |table| (table, Arc::new(Schema::new(columns(table))));
            Table::ALL.into_iter().map(schema).collect()
        });
        match self {
            Self::Own(own) => Arc::clone(&own.0.schema),
            table => Arc::clone(&SCHEMAS[&table]),
        }
    }

    /// Columns the files are laid out by; none for small tables.
    #[must_use]
    pub const fn partition_columns(self) -> &'static [&'static str] {
        match self {
            Self::BronzeMessages | Self::SilverQuarantine | Self::SilverGaps => &["ingest_date"],
            Self::SilverReadings => &["event_date"],
            Self::GoldMetric1m | Self::GoldMetric1h | Self::GoldMetric1d | Self::GoldDeviceHealth => &["window_date"],
            Self::SilverDevices | Self::GoldDeviceLatest | Self::GoldGatewayHealth | Self::GoldWatermarks => &[],
            Self::Own(own) => own.0.partition_columns,
        }
    }

    /// Columns with min and max in the log. Only keys: statistics of every column stay in memory for every file.
    #[must_use]
    pub const fn stats_columns(self) -> &'static str {
        match self {
            Self::BronzeMessages => "hub,incarnation,partition_id,sequence_number,enqueued_time,device_id",
            Self::SilverReadings => "gateway_id,epoch,seq,device_id,metric,event_time,enqueued_time",
            Self::SilverQuarantine => "id,gateway_id,epoch,seq,device_id,enqueued_time",
            Self::SilverGaps => "gateway_id,epoch,kind,from_seq,to_seq",
            Self::SilverDevices => "gateway_id,device_id,valid_from,valid_to",
            Self::GoldMetric1m | Self::GoldMetric1h | Self::GoldMetric1d => "gateway_id,device_id,metric,window_start",
            Self::GoldDeviceHealth => "gateway_id,device_id,window_start",
            Self::GoldWatermarks => "hub,incarnation,partition_id",
            Self::Own(own) => own.0.stats_columns,
            Self::GoldDeviceLatest => "gateway_id,device_id,metric",
            Self::GoldGatewayHealth => "gateway_id,epoch,state",
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};

    use super::*;

    #[test]
    fn every_time_is_utc_and_every_partition_and_stats_column_exists() {
        for table in Table::ALL {
            let schema = table.schema();
            for field in schema.fields() {
                if matches!(field.data_type(), DataType::Timestamp(..)) {
                    assert_eq!(field.data_type(), &timestamp(), "{table:?}.{}", field.name());
                }
            }
            let named = table.partition_columns().iter().copied();
            for column in named.chain(table.stats_columns().split(',')) {
                assert!(schema.field_with_name(column).is_ok(), "{table:?}.{column}");
            }
        }
    }

    #[test]
    fn a_table_is_found_by_the_name_people_use() {
        for table in Table::ALL {
            assert_eq!(Table::named(table.full_name()), Some(table));
            assert_eq!(table.full_name(), format!("{}.{}", table.layer().name(), table.name()));
        }
        assert_eq!(Table::named("readings"), None);
    }

    #[test]
    fn a_users_table_is_known_by_its_name() {
        let schema = |name: &str| Arc::new(Schema::new(vec![Field::new(name, DataType::Int64, true)]));
        let one = Table::own("mine", schema("a"), &[], &["a"]);
        assert_eq!(one, Table::own("mine", schema("b"), &[], &["b"]));
        assert_ne!(one, Table::own("yours", schema("a"), &[], &["a"]));
        assert_eq!((one.layer(), one.full_name(), one.path().as_str()), (Layer::Gold, "gold.mine", "gold/mine"));
        assert_eq!(one.schema(), schema("a"));
    }
}
