//! What the kernel says of another process: CPU time, resident memory, descriptors.

use std::fs;
use std::io;
use std::time::Duration;

/// A process that is watched, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Process(pub u32);

impl Process {
    /// CPU time of all its living threads: the first field of `/proc/PID/task/*/schedstat`, which
    /// counts nanoseconds on a CPU, where `utime` and `stime` count ticks.
    ///
    /// # Errors
    /// If the process is gone, or the kernel has no scheduler statistics.
    pub fn cpu_time(self) -> io::Result<Duration> {
        let mut nanos = 0u64;
        for entry in fs::read_dir(format!("/proc/{}/task", self.0))? {
            let path = entry?.path().join("schedstat");
            let Ok(text) = fs::read_to_string(&path) else { continue };
            nanos += number(text.split_ascii_whitespace().next())?;
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// Resident memory in bytes, counted by the kernel page by page (`smaps_rollup`; the figure in
    /// `status` lags by up to 64 pages per thread).
    ///
    /// # Errors
    /// If the process is gone or belongs to another user.
    pub fn resident_bytes(self) -> io::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.0))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
        Ok(number(line.and_then(|rest| rest.split_ascii_whitespace().next()))? * 1024)
    }

    /// Descriptors open now.
    ///
    /// # Errors
    /// If the process is gone or belongs to another user.
    pub fn descriptors(self) -> io::Result<u64> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.0))?.count() as u64)
    }

    /// Whether it still exists.
    #[must_use]
    pub fn is_alive(self) -> bool {
        fs::metadata(format!("/proc/{}", self.0)).is_ok()
    }
}

fn number(text: Option<&str>) -> io::Result<u64> {
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a number in /proc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_all_three() {
        let me = Process(std::process::id());
        assert!(me.cpu_time().unwrap() > Duration::ZERO);
        assert!(me.resident_bytes().unwrap() > 100_000);
        assert!(me.descriptors().unwrap() >= 3);
        assert!(me.is_alive());
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        let gone = Process(u32::MAX);
        assert!(gone.resident_bytes().is_err());
        assert!(!gone.is_alive());
    }
}
