//! What the kernel says of another process: CPU time, resident memory, descriptors, switches; and
//! of this thread and the machine, what tells whether a run was disturbed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
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

    /// Times that its living threads left a CPU (`/proc/PID/task/*/status`).
    ///
    /// # Errors
    /// If the process is gone.
    pub fn switches(self) -> io::Result<Switches> {
        let mut switches = Switches::default();
        for entry in fs::read_dir(format!("/proc/{}/task", self.0))? {
            let path = entry?.path().join("status");
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let field = |name| number(text.lines().find_map(|line| line.strip_prefix(name)));
            switches.voluntary += field("voluntary_ctxt_switches:")?;
            switches.involuntary += field("nonvoluntary_ctxt_switches:")?;
        }
        Ok(switches)
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

/// Times that threads left a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Switches {
    /// To wait for something.
    pub voluntary: u64,
    /// Because something else was to run there.
    pub involuntary: u64,
}

impl Switches {
    /// What came since `earlier`; threads that ended meanwhile are forgotten.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            voluntary: self.voluntary.saturating_sub(earlier.voluntary),
            involuntary: self.involuntary.saturating_sub(earlier.involuntary),
        }
    }
}

/// Reads the CPU time of processes often and cheaply: the files of their threads stay open. Threads
/// that begin later are not seen.
#[derive(Debug)]
pub struct CpuSampler {
    files: Vec<File>,
    seconds: f64,
}

impl CpuSampler {
    /// Opens the files of the threads that live now.
    ///
    /// # Errors
    /// If a process is gone, or the kernel has no scheduler statistics.
    pub fn open(processes: &[Process]) -> io::Result<Self> {
        let mut files = Vec::new();
        for process in processes {
            for entry in fs::read_dir(format!("/proc/{}/task", process.0))? {
                files.push(File::open(entry?.path().join("schedstat"))?);
            }
        }
        Ok(Self { files, seconds: 0.0 })
    }

    /// CPU seconds of these threads so far; those that ended count no more, but the sum never
    /// falls.
    pub fn seconds(&mut self) -> f64 {
        let mut buffer = [0; 128];
        let nanos: u64 = self
            .files
            .iter()
            .filter_map(|file| {
                let length = file.read_at(&mut buffer, 0).ok()?;
                let text = std::str::from_utf8(&buffer[..length]).ok()?;
                number(text.split_ascii_whitespace().next()).ok()
            })
            .sum();
        self.seconds = self.seconds.max(nanos as f64 / 1e9);
        self.seconds
    }
}

/// CPU time of the calling thread.
///
/// # Errors
/// If the kernel has no scheduler statistics.
pub fn own_thread_cpu() -> io::Result<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    number(text.split_ascii_whitespace().next()).map(Duration::from_nanos)
}

/// Time in which the machine's CPUs had work and the hypervisor ran something else, since it
/// started: the field `steal` of `/proc/stat`, in ticks of 10 ms (Source: proc(5)).
///
/// # Errors
/// If the kernel does not say.
pub fn machine_steal() -> io::Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let steal = text.lines().next().and_then(|line| line.split_ascii_whitespace().nth(8));
    number(steal).map(|ticks| Duration::from_millis(ticks * 10))
}

fn number(text: Option<&str>) -> io::Result<u64> {
    text.and_then(|text| text.trim().parse().ok())
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
    fn a_sampler_agrees_with_the_whole() {
        let me = Process(std::process::id());
        let mut sampler = CpuSampler::open(&[me]).unwrap();
        let before = me.cpu_time().unwrap().as_secs_f64();
        let sampled = sampler.seconds();
        let after = me.cpu_time().unwrap().as_secs_f64();
        assert!(before <= sampled + 1e-9 && sampled <= after + 1e-9, "{before} {sampled} {after}");
        assert!(own_thread_cpu().unwrap() <= me.cpu_time().unwrap());
        assert!(machine_steal().is_ok());
    }

    #[test]
    fn waiting_is_a_voluntary_switch() {
        let me = Process(std::process::id());
        let before = me.switches().unwrap();
        (0..20).for_each(|_| std::thread::sleep(Duration::from_micros(100)));
        assert!(me.switches().unwrap().since(before).voluntary >= 10);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        let gone = Process(u32::MAX);
        assert!(gone.resident_bytes().is_err());
        assert!(gone.switches().is_err());
        assert!(CpuSampler::open(&[gone]).is_err());
        assert!(!gone.is_alive());
    }
}
