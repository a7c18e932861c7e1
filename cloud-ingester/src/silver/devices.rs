//! What silver.devices says of a device at a time, in memory and in SQL: one rule for both.
//!
//! A row holds of a device at a time if its span covers that time and its gateway is the device's own or whichever
//! ([`ANY`]). Where both do, the device's own counts.

use std::collections::HashMap;

use arrow::array::{Array as _, ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array};
use shared::time::Timestamp;

use super::catalogue::{self, ANY, Device, Row};
use crate::lake::{LakeError, Table, View};

/// silver.devices at one version.
#[derive(Debug, Clone)]
pub struct Catalogue {
    version: i64,
    rows: Vec<Row>,
    /// The same rows in the same order, as the table has them.
    columns: RecordBatch,
    /// Device -> gateway -> its rows, by when they begin.
    of: HashMap<String, HashMap<String, Vec<u32>>>,
}

impl Default for Catalogue {
    fn default() -> Self {
        Self::new(0, vec![])
    }
}

impl Catalogue {
    /// The catalogue of these rows.
    #[must_use]
    pub fn new(version: i64, mut rows: Vec<Row>) -> Self {
        rows.sort_by_key(|row| row.from);
        let mut of: HashMap<String, HashMap<String, Vec<u32>>> = HashMap::new();
        for (row, at) in rows.iter().zip(0..) {
            let Device { gateway, device, .. } = &row.device;
            of.entry(device.clone()).or_default().entry(gateway.clone()).or_default().push(at);
        }
        Self { version, columns: catalogue::batch(&rows), rows, of }
    }

    /// Reads silver.devices.
    ///
    /// # Errors
    /// When a file can't be read.
    pub async fn read(view: &View) -> Result<Self, LakeError> {
        let schema = Table::SilverDevices.schema();
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let mut rows = vec![];
        for add in view.all_files() {
            rows.extend(view.read(&add, &names).await?.iter().flat_map(catalogue::rows));
        }
        Ok(Self::new(view.version(), rows))
    }

    /// The version of silver.devices.
    #[must_use]
    pub const fn version(&self) -> i64 {
        self.version
    }

    /// All rows.
    pub fn all(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter()
    }

    /// What held of a device at a time.
    #[must_use]
    pub fn as_of(&self, gateway: &str, device: &str, time: Timestamp) -> Option<&Device> {
        self.place(gateway, device, time).and_then(|at| self.rows.get(at as usize)).map(|row| &row.device)
    }

    fn place(&self, gateway: &str, device: &str, time: Timestamp) -> Option<u32> {
        let gateways = self.of.get(device)?;
        let holds = |at: &&u32| {
            let row = &self.rows[**at as usize];
            row.from <= time && row.to.is_none_or(|to| time < to)
        };
        [gateway, ANY].into_iter().find_map(|gateway| gateways.get(gateway)?.iter().find(holds)).copied()
    }

    /// Of each row, which row of [`Catalogue::column`] held of its device at its time; null where none did.
    #[must_use]
    pub fn places(
        &self,
        gateways: &StringArray,
        devices: &StringArray,
        times: &TimestampMicrosecondArray,
    ) -> UInt32Array {
        let place = |at: usize| {
            if self.rows.is_empty() || devices.is_null(at) || times.is_null(at) {
                return None;
            }
            let gateway = if gateways.is_null(at) { ANY } else { gateways.value(at) };
            self.place(gateway, devices.value(at), Timestamp::from_micros(times.value(at)))
        };
        (0..devices.len()).map(place).collect()
    }

    /// A column of silver.devices, with a value for each row.
    ///
    /// # Panics
    /// When the table has no such column.
    #[must_use]
    pub fn column(&self, name: &str) -> &ArrayRef {
        self.columns.column_by_name(name).expect("a column of silver.devices")
    }
}

/// The same in SQL: joins `devices`, a table as silver.devices, to what is called `r` and has `gateway_id`, `device_id`
/// and `event_time`. No row of `r` becomes two.
#[must_use]
pub fn joins(devices: &str) -> String {
    let side = |name: &str, gateway: &str| {
        format!(
            "left join {devices} {name} on {name}.gateway_id = {gateway} and {name}.device_id = r.device_id and \
             {name}.valid_from <= r.event_time and ({name}.valid_to is null or r.event_time < {name}.valid_to)"
        )
    };
    format!("{} {}", side("own_device", "r.gateway_id"), side("any_device", &format!("'{ANY}'")))
}

/// A column of silver.devices behind [`joins`].
#[must_use]
pub fn joined(column: &str) -> String {
    format!("case when own_device.device_id is null then any_device.{column} else own_device.{column} end")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::session::{Limits, query, session};

    fn row(gateway: &str, device: &str, name: Option<&str>, from: i64, to: Option<i64>) -> Row {
        let (gateway, device, name) = (gateway.to_owned(), device.to_owned(), name.map(str::to_owned));
        let device = Device { gateway, device, name, ..Device::default() };
        Row { device, from: Timestamp::from_micros(from), to: to.map(Timestamp::from_micros) }
    }

    #[tokio::test]
    async fn a_devices_own_gateway_goes_before_whichever_at_every_moment_in_memory_as_in_sql() {
        let rows = vec![
            row("*", "a", Some("any"), 0, Some(300)),
            row("*", "b", Some("b"), 0, None),
            row("gw", "a", Some("mine"), 100, Some(200)),
            row("gw", "a", None, 250, None),
            row("-", "c", Some("direct"), 0, None),
        ];
        let catalogue = Catalogue::new(7, rows);
        let cases = [
            ("gw", "a", 99, "any"),
            ("gw", "a", 100, "mine"),
            ("gw", "a", 199, "mine"),
            ("gw", "a", 200, "any"),
            ("gw", "a", 250, ""),
            ("gw", "a", 400, ""),
            ("other", "a", 150, "any"),
            ("other", "a", 300, ""),
            ("-", "b", 1, "b"),
            ("-", "c", 1, "direct"),
            ("gw", "c", 1, ""),
        ];
        let gateways: StringArray = cases.iter().map(|case| Some(case.0)).collect();
        let devices: StringArray = cases.iter().map(|case| Some(case.1)).collect();
        let times: TimestampMicrosecondArray = cases.iter().map(|case| Some(case.2)).collect();
        let times = times.with_timezone("UTC");
        let expected: StringArray = cases.iter().map(|case| Some(case.3).filter(|name| !name.is_empty())).collect();
        let places = catalogue.places(&gateways, &devices, &times);
        let names = arrow::compute::take(catalogue.column("name"), &places, None).expect("places of the catalogue");
        assert_eq!(names.as_ref(), &expected as &dyn arrow::array::Array);
        for (gateway, device, time, name) in cases {
            let found = catalogue.as_of(gateway, device, Timestamp::from_micros(time));
            assert_eq!(found.and_then(|it| it.name.as_deref()).unwrap_or_default(), name, "{gateway} {device} {time}");
        }

        let session = session(Limits { memory_bytes: 64 << 20 }).expect("a session");
        let columns: [(&str, ArrayRef); 3] = [
            ("gateway_id", std::sync::Arc::new(gateways)),
            ("device_id", std::sync::Arc::new(devices)),
            ("event_time", std::sync::Arc::new(times)),
        ];
        let readings = RecordBatch::try_from_iter(columns).expect("as long as each other");
        session.register_batch("r", readings).expect("a table");
        session.register_batch("devices", catalogue.columns.clone()).expect("a table");
        let sql = format!(
            "select count(*) as n, count({name}) as named, sum(case when {name} = 'mine' then 1 else 0 end) as mine, \
             sum(case when {name} = 'any' then 1 else 0 end) as whichever from r {}",
            joins("devices"),
            name = joined("name"),
        );
        let found = query(&session, &sql).await.expect("an answer");
        let shown = arrow::util::pretty::pretty_format_batches(&found).expect("printable").to_string();
        assert!(shown.contains("| 11 | 7     | 2    | 3         |"), "{shown}");
    }
}
