//! The rows a model reads: readings, where asked for refused ones too, and what is known of their devices.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array,
};
use arrow::compute::{concat_batches, filter_record_batch, is_null, take};
use arrow::datatypes::{Schema, SchemaRef, TimestampMicrosecondType};

use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};

use super::keys::KeyReader;
use super::model::{Model, Source};
use super::planned::{CATALOGUE, readings};
use crate::lake::{Add, Extent, Lake, LakeError, Table, View};

const DEVICE: [&str; 2] = ["gateway_id", "device_id"];

/// What is known of devices, by time.
#[derive(Debug)]
pub struct Catalogue {
    rows: RecordBatch,
    /// Since when, until when, which row.
    spans: HashMap<Vec<u8>, Vec<(i64, i64, u32)>>,
}

impl Catalogue {
    /// Reads silver.devices.
    ///
    /// # Errors
    /// When a file can't be read.
    pub async fn read(view: &View) -> Result<Self, LakeError> {
        let schema = Table::SilverDevices.schema();
        let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let mut batches = vec![];
        for add in view.all_files() {
            batches.extend(view.read(&add, &columns).await?);
        }
        let wanted: Vec<_> = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
        let wanted = Arc::new(Schema::new(wanted));
        let rows = concat_batches(&wanted, &batches).expect("files are read in the shape of their table");
        let time = |name: &str| rows.column_by_name(name).expect("read").as_primitive::<TimestampMicrosecondType>();
        let (from, to) = (time("valid_from"), time("valid_to"));
        let mut spans: HashMap<Vec<u8>, Vec<(i64, i64, u32)>> = HashMap::new();
        let mut reader = KeyReader::new(&rows, &DEVICE);
        for (at, row) in (0..rows.num_rows()).zip(0_u32..) {
            let until = if to.is_null(at) { i64::MAX } else { to.value(at) };
            let since = if from.is_null(at) { i64::MIN } else { from.value(at) };
            spans.entry(reader.at(at).to_vec()).or_default().push((since, until, row));
        }
        Ok(Self { rows, spans })
    }

    /// The place in the catalogue of each row of a batch.
    fn places(&self, batch: &RecordBatch) -> UInt32Array {
        let times = batch.column_by_name("event_time").expect("read").as_primitive::<TimestampMicrosecondType>();
        let mut reader = KeyReader::new(batch, &DEVICE);
        let place = |at: usize| {
            let time = (!times.is_null(at)).then(|| times.value(at))?;
            let spans = self.spans.get(reader.at(at))?;
            spans.iter().find(|(from, to, _)| *from <= time && time < *to).map(|(.., row)| *row)
        };
        (0..batch.num_rows()).map(place).collect()
    }
}

/// The sources of a model, each at one version.
#[derive(Clone)]
pub struct Inputs {
    views: Vec<(Source, View)>,
    catalogue: Option<Arc<Catalogue>>,
}

/// A file of one of the sources, and what times it holds.
#[derive(Debug, Clone)]
pub struct File {
    /// Whose.
    pub source: Source,
    /// The file.
    pub add: Add,
    /// Along the time its rows are windowed by.
    pub extent: Extent,
}

impl Inputs {
    /// The sources of `model` in these versions.
    ///
    /// # Errors
    /// When the catalogue can't be read.
    pub async fn new(lake: &Lake, model: &Model, views: Vec<(Source, View)>) -> Result<Self, LakeError> {
        let catalogue = match model.catalogue {
            true => Some(Arc::new(Catalogue::read(&lake.view(Table::SilverDevices).await?).await?)),
            false => None,
        };
        Ok(Self { views, catalogue })
    }

    /// One of the sources.
    ///
    /// # Panics
    /// When it is none of this model's.
    #[must_use]
    pub fn view(&self, source: Source) -> &View {
        &self.views.iter().find(|(other, _)| *other == source).expect("files are named by their source").1
    }

    /// Every file, with its extent.
    #[must_use]
    pub fn all_files(&self) -> Vec<File> {
        self.views
            .iter()
            .flat_map(|(source, view)| view.all_files().into_iter().map(|add| file(*source, add)))
            .collect()
    }

    /// Files that may hold rows of these dates (of UTC, as the log writes them).
    #[must_use]
    pub fn files_on(&self, dates: &HashSet<String>) -> Vec<File> {
        let mut files = vec![];
        for (source, view) in &self.views {
            let adds = match source {
                Source::Readings => view.files_in("event_date", |date| dates.contains(date)),
                Source::Rejected => view.all_files(),
            };
            files.extend(adds.into_iter().map(|add| file(*source, add)));
        }
        files
    }

    /// Rows of one file, with these columns of the relation in this order.
    ///
    /// # Errors
    /// When the file can't be read.
    pub async fn read<N: AsRef<str>>(
        &self,
        source: Source,
        add: &Add,
        columns: &[N],
    ) -> Result<Vec<RecordBatch>, LakeError> {
        self.stream(source, add, columns).await?.try_collect().await
    }

    /// The same, as they are read.
    ///
    /// # Errors
    /// When the file can't be read.
    pub async fn stream<N: AsRef<str>>(
        &self,
        source: Source,
        add: &Add,
        columns: &[N],
    ) -> Result<BoxStream<'_, Result<RecordBatch, LakeError>>, LakeError> {
        let known = relation();
        let wanted: Vec<_> = columns
            .iter()
            .map(|name| known.field_with_name(name.as_ref()).expect("models name columns of the relation").clone())
            .collect();
        let wanted = Arc::new(Schema::new(wanted));
        let view = self.view(source);
        let asked: HashSet<&str> = columns.iter().map(AsRef::as_ref).collect();
        let joined = CATALOGUE.iter().any(|(name, _)| asked.contains(name));
        let mut physical: Vec<&str> = vec![];
        let has = view.table().schema();
        for name in asked.iter().copied().chain(if joined { &DEVICE[..] } else { &[] }.iter().copied()) {
            let name = stored_as(source, name);
            if has.field_with_name(name).is_ok() && !physical.contains(&name) {
                physical.push(name);
            }
        }
        if joined && !physical.contains(&stored_as(source, "event_time")) {
            physical.push(stored_as(source, "event_time"));
        }
        if source == Source::Rejected {
            physical.push("replayed_at");
        }
        let rows = view.stream(add, &physical).await?;
        let shaped = rows.map_ok(move |batch| {
            let batch = match source {
                Source::Readings => batch,
                // What was replayed counts where it arrived then.
                Source::Rejected => {
                    let left = is_null(batch.column_by_name("replayed_at").expect("asked for")).expect("any column");
                    filter_record_batch(&batch, &left).expect("a mask is as long as its batch")
                }
            };
            self.shape(source, &batch, &wanted, joined)
        });
        Ok(shaped.boxed())
    }

    fn shape(&self, source: Source, batch: &RecordBatch, wanted: &SchemaRef, joined: bool) -> RecordBatch {
        let rows = batch.num_rows();
        let catalogue = self.catalogue.as_ref().filter(|_| joined);
        let places = catalogue.map(|catalogue| {
            let named = renamed(source, batch);
            (catalogue, catalogue.places(&named))
        });
        let columns: Vec<ArrayRef> = wanted
            .fields()
            .iter()
            .map(|field| {
                let name = field.name().as_str();
                if let Some((_, column)) = CATALOGUE.iter().find(|(known, _)| *known == name) {
                    return match &places {
                        Some((catalogue, places)) => {
                            let column = catalogue.rows.column_by_name(column).expect("a column of silver.devices");
                            take(column, places, None).expect("places within the catalogue")
                        }
                        None => new_null_array(field.data_type(), rows),
                    };
                }
                if name == "rejected" {
                    return Arc::new(BooleanArray::from(vec![source == Source::Rejected; rows]));
                }
                match batch.column_by_name(stored_as(source, name)) {
                    Some(column) => Arc::clone(column),
                    None => new_null_array(field.data_type(), rows),
                }
            })
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(wanted), columns, &options).expect("each as long as the others")
    }
}

/// A file of a source, with the times it holds.
#[must_use]
pub fn file(source: Source, add: Add) -> File {
    let extent = Extent::of(&add, stored_as(source, "event_time"));
    File { source, add, extent }
}

/// The columns of `readings`, as one schema.
fn relation() -> SchemaRef {
    static SCHEMA: std::sync::LazyLock<SchemaRef> = std::sync::LazyLock::new(|| Arc::new(Schema::new(readings())));
    Arc::clone(&SCHEMA)
}

/// What a column of the relation is called in its table.
fn stored_as(source: Source, name: &str) -> &str {
    match (source, name) {
        (Source::Rejected, "event_time") => "enqueued_time",
        (Source::Rejected, "reading_id") => "id",
        (_, name) => name,
    }
}

/// A batch with its time under the relation's name.
fn renamed(source: Source, batch: &RecordBatch) -> RecordBatch {
    let time = batch.column_by_name(stored_as(source, "event_time")).expect("asked for");
    let parts = DEVICE.iter().map(|name| (*name, Arc::clone(batch.column_by_name(name).expect("asked for")), true));
    let parts = parts.chain([("event_time", Arc::clone(time), true)]);
    RecordBatch::try_from_iter_with_nullable(parts).expect("columns of one batch")
}
