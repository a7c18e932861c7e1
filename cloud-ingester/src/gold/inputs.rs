//! The rows a model reads: readings, where asked for refused ones too, and what is known of their devices.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, BooleanArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{filter_record_batch, is_null, take};
use arrow::datatypes::{Schema, SchemaRef};

use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};

use super::model::{Model, Source};
use super::planned::{CATALOGUE, readings};
use crate::lake::{Add, Extent, Lake, LakeError, Table, View};
use crate::silver::devices::Catalogue;

const DEVICE: [&str; 2] = ["gateway_id", "device_id"];

/// Which refused rows are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Those that stand: what was replayed counts where it arrived then.
    Standing,
    /// Also those that were replayed: what they were part of changed when they went.
    Ever,
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
        self.stream_of(source, add, columns, Refused::Standing).await
    }

    /// The same, of these rows.
    ///
    /// # Errors
    /// When the file can't be read.
    pub async fn stream_of<N: AsRef<str>>(
        &self,
        source: Source,
        add: &Add,
        columns: &[N],
        refused: Refused,
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
            let batch = match (source, refused) {
                (Source::Readings, _) | (Source::Rejected, Refused::Ever) => batch,
                (Source::Rejected, Refused::Standing) => {
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
        let stored = |name: &str| batch.column_by_name(stored_as(source, name)).expect("asked for");
        let places = catalogue.map(|catalogue| {
            let [gateways, devices] = DEVICE.map(|name| stored(name).as_string::<i32>());
            (catalogue, catalogue.places(gateways, devices, stored("event_time").as_primitive()))
        });
        let columns: Vec<ArrayRef> = wanted
            .fields()
            .iter()
            .map(|field| {
                let name = field.name().as_str();
                if let Some((_, column)) = CATALOGUE.iter().find(|(known, _)| *known == name) {
                    return match &places {
                        Some((catalogue, places)) => {
                            take(catalogue.column(column), places, None).expect("places within the catalogue")
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
#[must_use]
pub fn stored_as(source: Source, name: &str) -> &str {
    match (source, name) {
        (Source::Rejected, "event_time") => "enqueued_time",
        (Source::Rejected, "reading_id") => "id",
        (_, name) => name,
    }
}
