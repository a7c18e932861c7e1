//! Events out of files: Avro as Event Hubs' Capture writes it, and JSON lines.
//!
//! - A Capture file holds one partition's Events; where it lies tells the hub and the partition, as Capture names its
//!   folders: `…/HUB/PARTITION/YEAR/MONTH/DAY/HOUR/MINUTE/SECOND.avro`. Neither tells the life of the hub they are of.
//! - A line of JSON is an object: `body` (any JSON; text stands for itself) or `body_base64`, and what is known of
//!   `sequence_number`, `partition`, `offset`, `enqueued_time`, `device_id`, `message_id`, `content_type`, `properties`,
//!   `system_properties`.
//! - Events without a number (Avro that IoT Hub routes to storage has none) are numbered in the order of the files.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use apache_avro::types::Value as Avro;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value as Json;
use shared::time::Timestamp;

use super::{Event, Stream};

/// What files do not tell.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The event hub; where it is not given the folders tell.
    pub hub: Option<Arc<str>>,
    /// The life of the hub.
    pub incarnation: i64,
    /// The partition; where it is not given the line or the folders tell.
    pub partition: Option<i32>,
}

/// Why a file can't be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It can't be read.
    #[error("read {path}: {detail}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        detail: String,
    },
    /// It is read, and something in it is no Event.
    #[error("read {path}, event {number}: {detail}")]
    Event {
        /// The file.
        path: PathBuf,
        /// Which of it, from 1.
        number: u64,
        /// What is wrong.
        detail: String,
    },
    /// Hub or partition are not known.
    #[error("read {path}: its folders do not tell the {what}; say --{what}")]
    Unplaced {
        /// The file.
        path: PathBuf,
        /// `hub` or `partition`.
        what: &'static str,
    },
}

/// Reads a file from its beginning; `next` is the number of its first Event, where they have none of their own. Each Event
/// is handed to `each`.
///
/// # Errors
/// [`ImportError`]; what came before is handed on.
pub fn read(path: &Path, origin: &Origin, next: &mut i64, mut each: impl FnMut(Event)) -> Result<(), ImportError> {
    let failed = |detail: String| ImportError::Read { path: path.to_owned(), detail };
    let mut file = BufReader::new(File::open(path).map_err(|error| failed(error.to_string()))?);
    let mut magic = [0; 3];
    let begins = file.read(&mut magic).map_err(|error| failed(error.to_string()))?;
    let file = BufReader::new(File::open(path).map_err(|error| failed(error.to_string()))?);
    let told = folders(path);
    let hub = origin.hub.clone().or(told.as_ref().map(|(hub, _)| hub.as_str().into()));
    let hub = hub.ok_or(ImportError::Unplaced { path: path.to_owned(), what: "hub" })?;
    let placed =
        Placed { hub, incarnation: origin.incarnation, partition: origin.partition.or(told.map(|(_, at)| at)) };
    let mut number = 0;
    let mut take = |read: Result<Event, String>| {
        number += 1;
        match read {
            Ok(event) => each(event),
            Err(detail) if detail == NO_PARTITION => {
                return Err(ImportError::Unplaced { path: path.to_owned(), what: "partition" });
            }
            Err(detail) => return Err(ImportError::Event { path: path.to_owned(), number, detail }),
        }
        Ok(())
    };
    if magic[..begins] == *b"Obj" {
        let records = apache_avro::Reader::new(file).map_err(|error| failed(error.to_string()))?;
        for record in records {
            take(record.map_err(|error| error.to_string()).and_then(|record| of_avro(record, &placed, next)))?;
        }
        return Ok(());
    }
    for line in file.lines() {
        let line = line.map_err(|error| failed(error.to_string()))?;
        if !line.trim().is_empty() {
            take(of_json(&line, &placed, next))?;
        }
    }
    Ok(())
}

const NO_PARTITION: &str = "no partition";

struct Placed {
    hub: Arc<str>,
    incarnation: i64,
    partition: Option<i32>,
}

impl Placed {
    fn stream(&self, told: Option<i32>) -> Result<Stream, String> {
        let partition = told.or(self.partition).ok_or(NO_PARTITION)?;
        Ok(Stream { hub: Arc::clone(&self.hub), incarnation: self.incarnation, partition })
    }
}

/// Hub and partition, as Capture names its folders: then come six numbers.
fn folders(path: &Path) -> Option<(String, i32)> {
    let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
    let [.., hub, partition, year, month, day, hour, minute, second] = &parts[..] else { return None };
    let second = second.split('.').next()?;
    let numbers = [*year, *month, *day, *hour, *minute, second];
    let fit = numbers.iter().all(|part| part.parse::<u32>().is_ok());
    fit.then(|| Some(((*hub).to_owned(), partition.parse().ok()?)))?
}

fn take_number(own: Option<i64>, next: &mut i64) -> i64 {
    let number = own.unwrap_or(*next);
    *next = number + 1;
    number
}

fn of_avro(record: Avro, placed: &Placed, next: &mut i64) -> Result<Event, String> {
    let Avro::Record(fields) = record else { return Err("is no record".to_owned()) };
    let mut event = Event {
        stream: placed.stream(None)?,
        sequence_number: 0,
        offset: None,
        enqueued_time: None,
        device_id: None,
        message_id: None,
        content_type: None,
        properties: vec![],
        system_properties: vec![],
        body: bytes::Bytes::new(),
        body_encoding: None,
    };
    let mut own = None;
    for (name, value) in fields {
        match (name.as_str(), plain(value)) {
            ("SequenceNumber", Avro::Long(number)) => own = Some(number),
            ("Offset", value) => event.offset = text(&value),
            ("EnqueuedTimeUtc", value) => {
                let said = text(&value).unwrap_or_default();
                event.enqueued_time = Some(captured_time(&said).ok_or(format!("EnqueuedTimeUtc `{said}` is no time"))?);
            }
            ("Properties", Avro::Map(values)) => event.properties = texts(values),
            ("SystemProperties", Avro::Map(values)) => event.system_properties = texts(values),
            ("Body", Avro::Bytes(body)) => event.body = body.into(),
            ("Body", Avro::String(body)) => event.body = body.into_bytes().into(),
            _ => {}
        }
    }
    event.sequence_number = take_number(own, next);
    let system = |names: &[&str]| {
        let found = event.system_properties.iter().find(|(name, _)| names.contains(&name.as_str()));
        found.map(|(_, value)| value.clone())
    };
    let device_id = system(&["iothub-connection-device-id", "connectionDeviceId"]);
    let message_id = system(&["message-id", "messageId"]);
    let content_type = system(&["content-type", "contentType"]);
    Ok(Event { device_id, message_id, content_type, ..event })
}

fn plain(value: Avro) -> Avro {
    match value {
        Avro::Union(_, value) => plain(*value),
        value => value,
    }
}

fn text(value: &Avro) -> Option<String> {
    match value {
        Avro::String(text) => Some(text.clone()),
        Avro::Long(number) => Some(number.to_string()),
        Avro::Int(number) => Some(number.to_string()),
        Avro::Double(number) => Some(number.to_string()),
        Avro::Float(number) => Some(number.to_string()),
        Avro::Boolean(truth) => Some(truth.to_string()),
        Avro::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    }
}

fn texts(values: std::collections::HashMap<String, Avro>) -> Vec<(String, String)> {
    let mut texts: Vec<_> = values.into_iter().filter_map(|(name, value)| Some((name, text(&plain(value))?))).collect();
    texts.sort();
    texts
}

/// RFC 3339 as IoT Hub's routing writes it, or `11/23/2026 9:16:00 PM` as Capture does; always UTC.
fn captured_time(text: &str) -> Option<Timestamp> {
    if let Some(time) = Timestamp::parse_rfc3339(text) {
        return Some(time);
    }
    let format = time::macros::format_description!(
        "[month padding:none]/[day padding:none]/[year] [hour repr:12 padding:none]:[minute]:[second] [period]"
    );
    let time = time::PrimitiveDateTime::parse(text, format).ok()?.assume_utc();
    Some(Timestamp::from_millis(time.unix_timestamp() * 1_000))
}

fn of_json(line: &str, placed: &Placed, next: &mut i64) -> Result<Event, String> {
    let line: Json = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let Json::Object(line) = line else { return Err("is no object".to_owned()) };
    let known = [
        "sequence_number",
        "partition",
        "offset",
        "enqueued_time",
        "device_id",
        "message_id",
        "content_type",
        "properties",
        "system_properties",
        "body",
        "body_base64",
    ];
    if let Some(unknown) = line.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("does not know `{unknown}`; write {}", known.join(", ")));
    }
    let text = |name: &str| match line.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("`{name}` must be text")),
    };
    let integer = |name: &str| match line.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(value) => value.as_i64().map(Some).ok_or(format!("`{name}` must be an integer")),
    };
    let texts = |name: &str| match line.get(name) {
        None | Some(Json::Null) => Ok(vec![]),
        Some(Json::Object(values)) => {
            let shown = |value: &Json| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
            let mut texts: Vec<_> = values.iter().map(|(name, value)| (name.clone(), shown(value))).collect();
            texts.sort();
            Ok(texts)
        }
        Some(_) => Err(format!("`{name}` must be an object")),
    };
    let body = match (line.get("body"), text("body_base64")?) {
        (None, Some(base64)) => BASE64.decode(base64).map_err(|error| format!("body_base64: {error}"))?,
        (Some(Json::String(body)), None) => body.clone().into_bytes(),
        (Some(body), None) => body.to_string().into_bytes(),
        _ => return Err("must have `body` or `body_base64`".to_owned()),
    };
    let enqueued = text("enqueued_time")?;
    let enqueued_time = match &enqueued {
        Some(said) => Some(captured_time(said).ok_or(format!("enqueued_time `{said}` is no time (RFC 3339)"))?),
        None => None,
    };
    let partition = integer("partition")?.map(i32::try_from).transpose().map_err(|_| "`partition` is too large")?;
    Ok(Event {
        stream: placed.stream(partition)?,
        sequence_number: take_number(integer("sequence_number")?, next),
        offset: text("offset")?,
        enqueued_time,
        device_id: text("device_id")?,
        message_id: text("message_id")?,
        content_type: text("content_type")?,
        properties: texts("properties")?,
        system_properties: texts("system_properties")?,
        body: body.into(),
        body_encoding: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(path: &Path, origin: &Origin) -> Result<Vec<Event>, ImportError> {
        let mut events = vec![];
        read(path, origin, &mut 0, |event| events.push(event))?;
        Ok(events)
    }

    fn origin() -> Origin {
        Origin { hub: None, incarnation: 7, partition: None }
    }

    /// The schema that Microsoft's documentation of Capture shows.
    const CAPTURE: &str = r#"{"type":"record","name":"EventData","namespace":"Microsoft.ServiceBus.Messaging","fields":[
        {"name":"SequenceNumber","type":"long"},{"name":"Offset","type":"string"},{"name":"EnqueuedTimeUtc","type":"string"},
        {"name":"SystemProperties","type":{"type":"map","values":["long","double","string","bytes"]}},
        {"name":"Properties","type":{"type":"map","values":["long","double","string","bytes","null"]}},
        {"name":"Body","type":["null","bytes"]}]}"#;

    #[test]
    fn a_capture_file_tells_hub_partition_and_numbers() {
        let directory = tempfile::tempdir().expect("a directory");
        let folder = directory.path().join("ns/plant/3/2026/11/23/21/15");
        std::fs::create_dir_all(&folder).expect("folders");
        let schema = apache_avro::Schema::parse_str(CAPTURE).expect("a schema");
        let mut writer =
            apache_avro::Writer::with_codec(&schema, vec![], apache_avro::Codec::Deflate(Default::default()))
                .expect("a writer");
        for number in [41, 42] {
            let text = |text: &str| Avro::Union(2, Box::new(Avro::String(text.to_owned())));
            let record = Avro::Record(vec![
                ("SequenceNumber".to_owned(), Avro::Long(number)),
                ("Offset".to_owned(), Avro::String((number * 100).to_string())),
                ("EnqueuedTimeUtc".to_owned(), Avro::String("11/23/2026 9:16:00 PM".to_owned())),
                (
                    "SystemProperties".to_owned(),
                    Avro::Map([("iothub-connection-device-id".to_owned(), text("gw-01"))].into()),
                ),
                (
                    "Properties".to_owned(),
                    Avro::Map([("n".to_owned(), Avro::Union(0, Box::new(Avro::Long(5))))].into()),
                ),
                ("Body".to_owned(), Avro::Union(1, Box::new(Avro::Bytes(b"{}".to_vec())))),
            ]);
            writer.append_value(record).expect("it fits the schema");
        }
        let path = folder.join("00.avro");
        std::fs::write(&path, writer.into_inner().expect("bytes")).expect("a file");
        let events = read_all(&path, &origin()).expect("two Events");
        let stream = Stream { hub: "plant".into(), incarnation: 7, partition: 3 };
        assert_eq!(events.iter().map(|event| event.sequence_number).collect::<Vec<_>>(), [41, 42]);
        assert_eq!(events[0].stream, stream);
        assert_eq!(events[0].enqueued_time, Timestamp::parse_rfc3339("2026-11-23T21:16:00Z"));
        assert_eq!((events[0].device_id.as_deref(), &events[0].body[..]), (Some("gw-01"), &b"{}"[..]));
        assert_eq!(events[0].properties, [("n".to_owned(), "5".to_owned())]);
        let flat = directory.path().join("00.avro");
        std::fs::copy(&path, &flat).expect("a copy");
        assert!(matches!(read_all(&flat, &origin()), Err(ImportError::Unplaced { what: "hub", .. })));
        let named = Origin { hub: Some("h".into()), partition: Some(1), ..origin() };
        assert_eq!(read_all(&flat, &named).expect("told")[0].stream.partition, 1);
    }

    #[test]
    fn lines_of_json_are_events_and_mistakes_are_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("events.jsonl");
        let placed = Origin { hub: Some("h".into()), partition: Some(0), ..origin() };
        let lines = "{\"body\":{\"a\":1},\"device_id\":\"d\",\"enqueued_time\":\"2026-11-23T21:16:00Z\"}\n\n\
                     {\"body\":\"x\",\"sequence_number\":9,\"partition\":2}\n{\"body_base64\":\"AAE=\"}\n";
        std::fs::write(&path, lines).expect("a file");
        let events = read_all(&path, &placed).expect("three Events");
        let found: Vec<_> =
            events.iter().map(|event| (event.stream.partition, event.sequence_number, &event.body[..])).collect();
        assert_eq!(found, [(0, 0, &b"{\"a\":1}"[..]), (2, 9, b"x"), (0, 10, b"\0\x01")]);
        for (line, said) in [
            ("{\"body\":1,\"bodi\":2}", "does not know `bodi`"),
            ("{}", "must have `body`"),
            ("{\"body\":1,\"enqueued_time\":\"noon\"}", "`noon` is no time"),
            ("[]", "is no object"),
        ] {
            std::fs::write(&path, format!("{{\"body\":1}}\n{line}\n")).expect("a file");
            let refused = read_all(&path, &placed).expect_err(line).to_string();
            assert!(refused.contains(said) && refused.contains("event 2"), "{refused}");
        }
    }
}
