//! A disk that is full while windows are put aside: whoever it hits says so and is tried again, the others go on, and
//! nothing is left lying about.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use datafusion::error::{DataFusionError, Result as FusionResult};
use datafusion::execution::{SpillFile, SpillWriter, TempFileFactory};
use tempfile::{TempDir, TempPath};

use super::kit::{Kit, LIMITS, envelope, event};
use crate::hop::Settings;
use crate::lake::Table;
use crate::lake::session::on_disk;

/// A disk of the session's that can be full: then a write into a file of it says what the system says, no space left.
struct Disk {
    folder: TempDir,
    full: AtomicBool,
    made: AtomicU64,
}

/// Removed when nobody needs it any more.
struct Aside(TempPath);

impl Disk {
    fn new() -> Arc<Self> {
        let folder = tempfile::tempdir().expect("a directory");
        Arc::new(Self { folder, full: AtomicBool::new(false), made: AtomicU64::new(0) })
    }

    fn is_empty(&self) -> bool {
        self.folder.path().read_dir().expect("a directory").next().is_none()
    }
}

impl TempFileFactory for Disk {
    fn create_temp_file(&self, _description: &str) -> FusionResult<Arc<dyn SpillFile>> {
        let path = self.folder.path().join(self.made.fetch_add(1, Ordering::SeqCst).to_string());
        match self.full.load(Ordering::SeqCst) {
            true => symlink("/dev/full", &path)?,
            false => drop(File::create(&path)?),
        }
        Ok(Arc::new(Aside(TempPath::try_from_path(path)?)))
    }
}

impl SpillFile for Aside {
    fn path(&self) -> Option<&Path> {
        let path: &Path = &self.0;
        Some(path)
    }

    fn size(&self) -> Option<u64> {
        None
    }

    fn read_stream(&self) -> FusionResult<Pin<Box<dyn futures::Stream<Item = FusionResult<bytes::Bytes>> + Send>>> {
        Err(DataFusionError::Internal("sorts have memory enough".to_owned()))
    }

    fn open_writer(&self) -> FusionResult<Box<dyn SpillWriter>> {
        Err(DataFusionError::Internal("sorts have memory enough".to_owned()))
    }
}

/// Events with readings of a few minutes, each minute with more rows than are computed in memory. The first
/// have a minute more, whose rows stay when others come: they are copied before anything is computed.
async fn fill(kit: &Kit, from: i64) {
    let events = (from..from + 8).map(|at| {
        let seq = 6 * at + 1;
        let time = (at - from) * 20;
        let mut readings: Vec<_> =
            (0..6).map(|more| (seq + more, ["a", "b", "c"][more as usize % 3], more as f64, time)).collect();
        if at == 0 {
            readings[5] = (seq + 5, "a", 5.0, 600);
        }
        event(at, "g", &envelope(seq + 5, &readings))
    });
    kit.store(&events.collect::<Vec<_>>()).await;
}

/// Files with rows in the lake's directory of a table, whether it knows them or not.
fn parquet(kit: &Kit, table: Table) -> usize {
    fn count(folder: &Path) -> usize {
        let entries = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
        let files = entries.map(|path: PathBuf| match path.is_dir() {
            true if path.ends_with("_delta_log") => 0,
            true => count(&path),
            false => usize::from(path.extension().is_some_and(|kind| kind == "parquet")),
        });
        files.sum()
    }
    let root = kit.lake.location().local().expect("on a disk");
    count(&root.join(table.layer().name()).join(table.name()))
}

/// The table of each round, and those that come by the clock.
const WINDOWS: [Table; 4] = [Table::GoldMetric1m, Table::GoldMetric1h, Table::GoldMetric1d, Table::GoldDeviceHealth];

#[tokio::test]
async fn a_disk_that_is_full_stops_no_other_model_leaves_nothing_behind_and_is_made_up_for() {
    let kit = Kit::new().await;
    let settings = Settings { window_rows: 4, ..Kit::settings() };
    let disk = Disk::new();
    let mut hops = kit.hops_with(settings).await.expect("takes over");
    hops.session = on_disk(LIMITS, Arc::clone(&disk) as _).expect("a session");
    fill(&kit, 0).await;
    kit.settle(&mut hops).await;
    assert!(0 < disk.made.load(Ordering::SeqCst) && disk.is_empty(), "rows are put aside, and go");
    let files = WINDOWS.map(|table| parquet(&kit, table));
    assert!(!files.contains(&0), "{files:?}");
    let before = kit.ask("select * from gold.metric_1m order by metric, window_start").await;

    disk.full.store(true, Ordering::SeqCst);
    fill(&kit, 8).await;
    // By the clock it is their turn as well.
    for table in WINDOWS {
        hops.turn(table).due_now();
    }
    for _ in 0..2 {
        let error = hops.round().await.expect_err("the disk is full").to_string();
        assert!(error.contains("put rows of a gold table aside") && error.contains("No space left"), "{error}");
    }
    let troubles = kit.lake.troubles();
    for table in WINDOWS {
        let trouble = troubles.get(table.full_name()).unwrap_or_else(|| panic!("no {table:?} in {troubles:?}"));
        assert!(trouble.contains("No space left"), "{trouble}");
    }
    assert!(disk.is_empty(), "what was begun is gone");
    assert_eq!(WINDOWS.map(|table| parquet(&kit, table)), files, "no file is there that no commit names");
    assert_eq!(kit.ask("select * from gold.metric_1m order by metric, window_start").await, before);
    let level = "select (select count(*) from gold.device_latest) as latest, \
                 (select max(last) from gold.gateway_health) as last";
    let level = kit.ask(level).await;
    assert!(level.contains("| 3      | 96   |"), "the others went on: {level}");

    disk.full.store(false, Ordering::SeqCst);
    for table in WINDOWS {
        hops.turn(table).a_minute_on();
    }
    // Those that come by the clock too, an hour before their next turn.
    let report = hops.round().await.expect("there is room again");
    let done: Vec<_> = report.gold.iter().map(|done| done.table).collect();
    assert!(WINDOWS.iter().all(|table| done.contains(table)), "{done:?}");
    assert_eq!(kit.lake.troubles().len(), 0);
    kit.settle(&mut hops).await;

    let other = Kit::new().await;
    let mut never = other.hops().await;
    for from in [0, 8] {
        fill(&other, from).await;
        other.settle(&mut never).await;
    }
    assert_eq!(kit.everything().await, other.everything().await);
}
