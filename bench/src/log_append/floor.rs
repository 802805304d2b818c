//! The floor: a thread per file that writes and syncs with plain calls, on files that were made
//! as the log makes its segments.

use super::scratch::Scratch;
use crate::report::latency_histogram;
use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of each file; the writes go round in it.
const FILE_BYTES: usize = 64 << 20;

/// What was measured, over all files.
#[derive(Debug)]
pub struct Floor {
    /// Of fdatasync(2) alone.
    pub sync_latency: Histogram<u64>,
    /// Of a write and its sync.
    pub round_latency: Histogram<u64>,
}

impl Default for Floor {
    fn default() -> Self {
        Self { sync_latency: latency_histogram(), round_latency: latency_histogram() }
    }
}

impl Floor {
    fn add(&mut self, other: &Self) -> Result<()> {
        self.sync_latency.add(&other.sync_latency)?;
        self.round_latency.add(&other.round_latency)?;
        Ok(())
    }
}

/// Rounds of `bytes` on each of `files` files at once, for `time`.
///
/// # Errors
/// If a file cannot be made, written or synced.
pub fn run(directory: &Path, files: u32, bytes: usize, time: Duration) -> Result<Floor> {
    let scratch = Scratch::within(directory)?;
    let bytes = bytes.clamp(1, FILE_BYTES);
    let made: Result<Vec<File>> = (0..files).map(|number| make(&scratch, number)).collect();
    let until = Instant::now() + time;
    let start = |file: File| thread::spawn(move || rounds(&file, bytes, until));
    let threads: Vec<_> = made?.into_iter().map(start).collect();
    let mut floor = Floor::default();
    for handle in threads {
        floor.add(&handle.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??)?;
    }
    Ok(floor)
}

fn make(scratch: &Scratch, number: u32) -> Result<File> {
    let path = scratch.path().join(number.to_string());
    let make = || -> std::io::Result<File> {
        let file = File::create_new(&path)?;
        file.write_all_at(&vec![0; FILE_BYTES], 0)?;
        file.sync_all()?;
        File::open(scratch.path())?.sync_all()?;
        Ok(file)
    };
    make().with_context(|| path.display().to_string())
}

fn rounds(file: &File, bytes: usize, until: Instant) -> Result<Floor> {
    let data = vec![0x5A; bytes];
    let mut floor = Floor::default();
    let mut position = 0;
    loop {
        let began = Instant::now();
        if began >= until {
            return Ok(floor);
        }
        file.write_all_at(&data, position as u64)?;
        let written = Instant::now();
        file.sync_data()?;
        floor.sync_latency.saturating_record(nanos(written.elapsed()));
        floor.round_latency.saturating_record(nanos(began.elapsed()));
        position += bytes;
        if FILE_BYTES < position + bytes {
            position = 0;
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_counted_on_every_file() {
        let time = Duration::from_millis(50);
        let floor = run(&std::env::temp_dir(), 2, 4096, time).unwrap();
        assert!(floor.round_latency.len() >= 2);
        assert_eq!(floor.round_latency.len(), floor.sync_latency.len());
        assert!(floor.round_latency.max() >= floor.sync_latency.max());
    }
}
