//! What the disk can do: write, `fdatasync`, again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// A write of a busy log is about so long.
pub(super) const WRITE_BYTES: usize = 64 * 1024;
/// Where a file begins anew, so that the disk does not fill; till then it grows, as a log does.
const FILE_BYTES: u64 = 512 * 1024 * 1024;

/// Writes out what an earlier measurement left in memory, so that the next one does not wait for it.
///
/// # Errors
/// There is no `sync`, or it failed.
pub(super) fn settle(directory: &Path) -> io::Result<()> {
    let ended = Command::new("sync").arg("--file-system").arg(directory).status()?;
    if ended.success() { Ok(()) } else { Err(io::Error::other("`sync --file-system` failed")) }
}

/// Syncs per second of `writers` threads, a file each, each write after the one before was synced.
///
/// # Errors
/// The disk says no.
pub(super) fn syncs_per_second(directory: &Path, writers: u32, length: Duration) -> io::Result<f64> {
    let begun = Instant::now();
    let counts = thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|number| {
                let path = directory.join(format!("syncs-{number}"));
                scope.spawn(move || syncs(&path, begun, length))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<io::Result<Vec<u64>>>()
    })?;
    Ok(counts.iter().sum::<u64>() as f64 / begun.elapsed().as_secs_f64())
}

fn syncs(path: &Path, begun: Instant, length: Duration) -> io::Result<u64> {
    let file = File::create(path)?;
    let bytes = vec![0xa5; WRITE_BYTES];
    let mut count = 0;
    while begun.elapsed() < length {
        file.write_all_at(&bytes, count * WRITE_BYTES as u64 % FILE_BYTES)?;
        file.sync_data()?;
        count += 1;
    }
    std::fs::remove_file(path)?;
    Ok(count)
}
