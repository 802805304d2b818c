//! What the kernel knows of this process (proc_pid_status(5), proc_pid_stat(5)).

use rustix::process::{Resource, getrlimit};
use std::fs;

/// Readings of one moment; 0 where `/proc` does not say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Process {
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// The most it has been, in bytes.
    pub resident_bytes_max: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// The limit on descriptors; 0 = none.
    pub descriptors_max: u64,
    /// Threads.
    pub threads: u64,
    /// CPU time in clock ticks of a hundredth of a second (USER_HZ, the same on all our hosts).
    pub cpu_ticks: u64,
}

impl Process {
    /// Reads them now.
    #[must_use]
    pub fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The directory that is being read is open itself.
        let open = fs::read_dir("/proc/self/fd").map(|entries| entries.count() as u64);
        Self {
            descriptors: open.unwrap_or(0).saturating_sub(1),
            descriptors_max: getrlimit(Resource::Nofile).current.unwrap_or(0),
            ..Self::parse(&status, &stat)
        }
    }

    fn parse(status: &str, stat: &str) -> Self {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.unwrap_or(0_u64)
        };
        // The command's name comes second, in parentheses, and may hold anything.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks = after_name.split_whitespace().skip(11).take(2);
        Self {
            resident_bytes: field("VmRSS") * 1024,
            resident_bytes_max: field("VmHWM") * 1024,
            threads: field("Threads"),
            cpu_ticks: ticks.filter_map(|text| text.parse::<u64>().ok()).sum(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_read() {
        let status = "Name:\tx\nVmHWM:\t  30 kB\nVmRSS:\t  20 kB\nThreads:\t5\n";
        let stat = "1 (a) b) S 1 1 1 0 -1 4 100 0 0 0 70 30 0 0 20 0 5 0 100";
        let process = Process::parse(status, stat);
        assert_eq!(process.resident_bytes, 20_480);
        assert_eq!(process.resident_bytes_max, 30_720);
        assert_eq!(process.threads, 5);
        assert_eq!(process.cpu_ticks, 100);
        assert_eq!(Process::parse("", ""), Process::default());
    }

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let process = Process::read();
        assert!(0 < process.resident_bytes);
        assert!(process.resident_bytes <= process.resident_bytes_max);
        assert!(3 <= process.descriptors);
        assert!(0 < process.threads);
    }
}
