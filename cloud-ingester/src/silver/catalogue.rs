//! The devices there are: read from a catalogue, and kept as silver.devices with the times from which and until which
//! each row holds (SCD-2). What held of a device at a time, `devices` tells.
//!
//! | a device of the catalogue            | what becomes of its rows                                        |
//! |--------------------------------------|------------------------------------------------------------------|
//! | was never there                      | a row that has held always, or from its own `valid_from`         |
//! | is as its open row says              | nothing                                                          |
//! | differs from its open row            | that row ends now (or at `valid_from`), another begins           |
//! | is not there any more                | its open row ends now                                            |
//! | is there again                       | a row that begins now (or at `valid_from`)                       |

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, Float64Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Float64Type, TimestampMicrosecondType};
use serde::Deserialize;
use shared::config::Span;
use shared::reading::DeviceId;
use shared::time::Timestamp;

use crate::lake::Table;

/// Stands for every gateway, in a catalogue that names none, and in silver.devices.
pub const ANY: &str = "*";
/// From when a device's first row holds, unless the catalogue says.
pub const ALWAYS: Timestamp = Timestamp::from_micros(0);

/// A device, as a catalogue describes it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Device {
    /// Its gateway; [`ANY`]: whichever; `-`: none, it talks to the hub directly.
    pub gateway: String,
    /// Its name, as in readings.
    pub device: String,
    /// For people.
    pub name: Option<String>,
    /// Where it stands.
    pub site: Option<String>,
    /// Where there.
    pub area: Option<String>,
    /// IANA time zone of its local days.
    pub timezone: Option<String>,
    /// How often it sends, in seconds.
    pub expected_interval_s: Option<f64>,
}

/// A device of a catalogue, and from when it is so.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The device.
    pub device: Device,
    /// From when; none: from when the catalogue is read, or always where it is new.
    pub valid_from: Option<Timestamp>,
}

/// A row of silver.devices.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The device.
    pub device: Device,
    /// From when it is so.
    pub from: Timestamp,
    /// Until when; none: still.
    pub to: Option<Timestamp>,
}

/// What is wrong with a catalogue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// The line, from 1; 0 where there are none.
    pub line: usize,
    /// What is wrong and what to write.
    pub what: String,
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.line, self.what)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    device: Vec<toml::Spanned<Written>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    device: String,
    gateway: Option<String>,
    name: Option<String>,
    site: Option<String>,
    area: Option<String>,
    timezone: Option<String>,
    expected_interval: Option<Span>,
    valid_from: Option<String>,
}

/// Reads a catalogue in TOML: `[[device]]` with `device`, `gateway`, `name`, `site`, `area`, `timezone`,
/// `expected-interval` and `valid-from`; all but `device` may be left out.
///
/// # Errors
/// Every mistake that can be told at once.
pub fn toml(text: &str) -> Result<Vec<Entry>, Vec<Mistake>> {
    let line = |at: usize| text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1;
    let file: File = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line(span.start));
        vec![Mistake { line, what: error.message().to_owned() }]
    })?;
    let entries = file.device.into_iter().map(|written| {
        let at = line(written.span().start);
        let written = written.into_inner();
        let cells = Cells {
            gateway: written.gateway,
            device: written.device,
            name: written.name,
            site: written.site,
            area: written.area,
            timezone: written.timezone,
            interval: written.expected_interval.map(|span| Ok(span.duration().as_secs_f64())),
            valid_from: written.valid_from,
        };
        (at, cells)
    });
    checked(entries.collect())
}

/// Reads a catalogue in CSV: a line of column names as in silver.devices (`device_id`, `gateway_id`, `name`, `site`,
/// `area`, `timezone`, `expected_interval_s`, `valid_from`, `valid_to`, in any order; all but `device_id` may be left out),
/// then one line for each device. An empty cell says nothing; a line with a `valid_to` is history, and passed over.
///
/// # Errors
/// Every mistake that can be told at once.
pub fn csv(text: &str) -> Result<Vec<Entry>, Vec<Mistake>> {
    const KNOWN: [&str; 9] = [
        "device_id",
        "gateway_id",
        "name",
        "site",
        "area",
        "timezone",
        "expected_interval_s",
        "valid_from",
        "valid_to",
    ];
    let mut reader = ::csv::ReaderBuilder::new().trim(::csv::Trim::All).from_reader(text.as_bytes());
    let torn = |error: &::csv::Error| Mistake {
        line: error.position().map_or(1, |position| usize::try_from(position.line()).unwrap_or(0)),
        what: error.to_string(),
    };
    let header = reader.headers().map_err(|error| vec![torn(&error)])?.clone();
    let mut mistakes = vec![];
    for name in header.iter().filter(|name| !KNOWN.contains(name)) {
        mistakes.push(Mistake { line: 1, what: format!("the column {name:?} is not known; known are {KNOWN:?}") });
    }
    let place = KNOWN.map(|known| header.iter().position(|name| name == known));
    if place[0].is_none() {
        mistakes.push(Mistake { line: 1, what: "there is no column `device_id`".to_owned() });
    }
    let mut entries = vec![];
    for record in reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                mistakes.push(torn(&error));
                continue;
            }
        };
        let line = record.position().map_or(0, |position| usize::try_from(position.line()).unwrap_or(0));
        let cell =
            |at: usize| place[at].and_then(|at| record.get(at)).filter(|cell| !cell.is_empty()).map(str::to_owned);
        let interval =
            cell(6).map(|cell| cell.parse().map_err(|_| format!("expected_interval_s {cell:?} is no number")));
        let cells = Cells {
            device: cell(0).unwrap_or_default(),
            gateway: cell(1),
            name: cell(2),
            site: cell(3),
            area: cell(4),
            timezone: cell(5),
            interval,
            valid_from: cell(7),
        };
        // Of a file that keeps a history of its own, what holds now.
        if cell(8).is_none() {
            entries.push((line, cells));
        }
    }
    match (checked(entries), mistakes.is_empty()) {
        (Ok(entries), true) => Ok(entries),
        (Ok(_), false) => Err(mistakes),
        (Err(more), _) => {
            mistakes.extend(more);
            mistakes.sort();
            Err(mistakes)
        }
    }
}

struct Cells {
    gateway: Option<String>,
    device: String,
    name: Option<String>,
    site: Option<String>,
    area: Option<String>,
    timezone: Option<String>,
    interval: Option<Result<f64, String>>,
    valid_from: Option<String>,
}

fn checked(written: Vec<(usize, Cells)>) -> Result<Vec<Entry>, Vec<Mistake>> {
    let (mut entries, mut mistakes) = (vec![], vec![]);
    let mut known: HashMap<(String, String), usize> = HashMap::new();
    for (line, cells) in written {
        let mut wrong = |what: String| mistakes.push(Mistake { line, what });
        if let Some(fault) = DeviceId::fault(&cells.device) {
            wrong(fault);
        }
        if let Some(zone) = &cells.timezone
            && zone.parse::<chrono_tz::Tz>().is_err()
        {
            wrong(format!("timezone {zone:?} is not known; write e.g. \"Europe/Berlin\""));
        }
        let interval = cells.interval.transpose().unwrap_or_else(|fault| {
            wrong(fault);
            None
        });
        if interval.is_some_and(|interval| !(interval.is_finite() && 0.0 < interval)) {
            wrong("the expected interval must be above 0, write e.g. 10".to_owned());
        }
        let valid_from = cells.valid_from.as_deref().map(|text| (text, Timestamp::parse_rfc3339(text)));
        if let Some((text, None)) = valid_from {
            wrong(format!("valid-from {text:?} is no time; write e.g. \"2026-01-31T00:00:00Z\""));
        }
        let gateway = cells.gateway.unwrap_or_else(|| ANY.to_owned());
        if let Some(first) = known.insert((gateway.clone(), cells.device.clone()), line) {
            wrong(format!("device {:?} stands in line {first} already", cells.device));
        }
        let device = Device {
            gateway,
            device: cells.device,
            name: cells.name,
            site: cells.site,
            area: cells.area,
            timezone: cells.timezone,
            expected_interval_s: interval,
        };
        entries.push(Entry { device, valid_from: valid_from.and_then(|(_, time)| time) });
    }
    if mistakes.is_empty() { Ok(entries) } else { Err(mistakes) }
}

/// Reads a catalogue that is a table with the columns of silver.devices.
///
/// # Errors
/// A column has another type, or a row another mistake.
pub fn table(batches: &[RecordBatch]) -> Result<Vec<Entry>, Vec<Mistake>> {
    let mut written = vec![];
    for batch in batches {
        let column = |name: &str, wanted: DataType| {
            batch.column_by_name(name).map(|column| {
                arrow::compute::cast(column, &wanted)
                    .map_err(|error| vec![Mistake { line: 0, what: format!("column `{name}`: {error}") }])
            })
        };
        let text = |name: &str| column(name, DataType::Utf8).transpose();
        let (device, gateway, name) = (text("device_id")?, text("gateway_id")?, text("name")?);
        let (site, area, zone) = (text("site")?, text("area")?, text("timezone")?);
        let interval = column("expected_interval_s", DataType::Float64).transpose()?;
        let from = column("valid_from", crate::lake::tables::timestamp()).transpose()?;
        let to = column("valid_to", crate::lake::tables::timestamp()).transpose()?;
        let at = |column: &Option<ArrayRef>, row: usize| {
            let column = column.as_ref()?.as_string::<i32>();
            column.is_valid(row).then(|| column.value(row).to_owned())
        };
        for row in 0..batch.num_rows() {
            // Of a table that keeps a history of its own, what holds now.
            if to.as_ref().is_some_and(|to| to.is_valid(row)) {
                continue;
            }
            let interval = interval.as_ref().filter(|column| column.is_valid(row));
            let from = from.as_ref().filter(|column| column.is_valid(row));
            let from = from.map(|column| column.as_primitive::<TimestampMicrosecondType>().value(row));
            let cells = Cells {
                device: at(&device, row).unwrap_or_default(),
                gateway: at(&gateway, row),
                name: at(&name, row),
                site: at(&site, row),
                area: at(&area, row),
                timezone: at(&zone, row),
                interval: interval.map(|column| Ok(column.as_primitive::<Float64Type>().value(row))),
                valid_from: from.map(|micros| Timestamp::from_micros(micros).to_string()),
            };
            written.push((0, cells));
        }
    }
    checked(written)
}

/// The rows of silver.devices after a catalogue was read `now`; `None` where it says what the rows say.
#[must_use]
pub fn follow(rows: &[Row], entries: &[Entry], now: Timestamp) -> Option<Vec<Row>> {
    type Key<'a> = (&'a str, &'a str);
    fn key(device: &Device) -> Key<'_> {
        (&device.gateway, &device.device)
    }
    let mut of: BTreeMap<Key<'_>, Vec<Row>> = BTreeMap::new();
    for row in rows {
        of.entry(key(&row.device)).or_default().push(row.clone());
    }
    let wanted: BTreeMap<Key<'_>, &Entry> = entries.iter().map(|entry| (key(&entry.device), entry)).collect();
    for (key, history) in &mut of {
        if !wanted.contains_key(key) {
            history.iter_mut().filter(|row| row.to.is_none()).for_each(|row| row.to = Some(now.max(row.from)));
        }
    }
    for (key, entry) in wanted {
        let history = of.entry(key).or_default();
        let open = history.iter().find(|row| row.to.is_none());
        if open.is_some_and(|open| open.device == entry.device && entry.valid_from.is_none_or(|from| from == open.from))
        {
            continue;
        }
        let same = open.filter(|open| open.device == entry.device).map(|open| open.from);
        let from = entry.valid_from.unwrap_or(if history.is_empty() { ALWAYS } else { now });
        // What was said to hold from then on does not; what began before ends there.
        history.retain(|row| row.from < from && !(row.to.is_none() && same.is_some()));
        for row in history.iter_mut().filter(|row| row.to.is_none_or(|to| from < to)) {
            row.to = Some(from);
        }
        history.push(Row { device: entry.device.clone(), from, to: None });
    }
    let mut new: Vec<Row> = of.into_values().flatten().collect();
    let order = |a: &Row, b: &Row| (key(&a.device), a.from).cmp(&(key(&b.device), b.from));
    new.sort_by(order);
    let mut old = rows.to_vec();
    old.sort_by(order);
    (new != old).then_some(new)
}

/// Rows of silver.devices as a batch.
#[must_use]
pub fn batch(rows: &[Row]) -> RecordBatch {
    let mut texts: [StringBuilder; 6] = std::array::from_fn(|_| StringBuilder::new());
    let mut interval = Float64Builder::new();
    let mut times: [TimestampMicrosecondBuilder; 2] =
        std::array::from_fn(|_| TimestampMicrosecondBuilder::new().with_timezone("UTC"));
    for Row { device, from, to } in rows {
        let Device { gateway, device, name, site, area, timezone, expected_interval_s } = device;
        let cells = [Some(gateway), Some(device), name.as_ref(), site.as_ref(), area.as_ref(), timezone.as_ref()];
        for (builder, cell) in texts.iter_mut().zip(cells) {
            builder.append_option(cell);
        }
        interval.append_option(*expected_interval_s);
        times[0].append_value(from.micros());
        times[1].append_option(to.map(Timestamp::micros));
    }
    let texts = texts.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef);
    let columns = texts.chain([Arc::new(interval.finish()) as ArrayRef]);
    let times = times.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef);
    RecordBatch::try_new(Table::SilverDevices.schema(), columns.chain(times).collect())
        .expect("one builder per column, in order")
}

/// Rows of silver.devices, read back.
#[must_use]
pub fn rows(batch: &RecordBatch) -> Vec<Row> {
    let column = |name: &str| batch.column_by_name(name).expect("a column of silver.devices");
    let text = |name: &str, at: usize| {
        let column = column(name).as_string::<i32>();
        column.is_valid(at).then(|| column.value(at).to_owned())
    };
    let time = |name: &str, at: usize| {
        let column = column(name).as_primitive::<TimestampMicrosecondType>();
        column.is_valid(at).then(|| Timestamp::from_micros(column.value(at)))
    };
    let interval = column("expected_interval_s").as_primitive::<Float64Type>();
    let row = |at: usize| Row {
        device: Device {
            gateway: text("gateway_id", at).unwrap_or_else(|| ANY.to_owned()),
            device: text("device_id", at).unwrap_or_default(),
            name: text("name", at),
            site: text("site", at),
            area: text("area", at),
            timezone: text("timezone", at),
            expected_interval_s: interval.is_valid(at).then(|| interval.value(at)),
        },
        from: time("valid_from", at).unwrap_or(ALWAYS),
        to: time("valid_to", at),
    };
    (0..batch.num_rows()).map(row).collect()
}

#[cfg(test)]
mod tests;
