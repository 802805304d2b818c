//! What a run cost the broker: CPU time, memory and switches of its processes, system calls by its own
//! count; and what it cost the generator, and the machine's other guests.

use crate::metrics_page::MetricsPage;
use crate::process::{self, CpuSampler, Process, Switches};
use anyhow::{Context, Result};
use std::fmt;
use std::time::{Duration, Instant};

/// The broker's counter of system calls.
const SYSTEM_CALLS: &str = "ringlane_system_calls_total";

/// A process of the broker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Watched {
    /// What it does, such as `leader` or `follower`; empty where nobody has said so.
    pub role: String,
    /// The process.
    pub process: Process,
}

impl fmt::Display for Watched {
    /// As `--pid` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.role.as_str() {
            "" => write!(f, "{}", self.process.0),
            role => write!(f, "{role}={}", self.process.0),
        }
    }
}

/// What can be read of the broker.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    /// Its processes: one, or the nodes of a cluster and what stands beside them. CPU time is that of all together,
    /// memory and switches are the first one's.
    pub processes: Vec<Watched>,
    /// Its Prometheus page.
    pub metrics_url: Option<String>,
}

/// A reading at one moment.
#[derive(Clone, Debug)]
pub struct Reading {
    at: Instant,
    /// By process.
    cpu: Vec<(String, Duration)>,
    switches: Option<Switches>,
    resident_bytes: Option<u64>,
    page: Option<MetricsPage>,
    generator_cpu: Duration,
    steal: Duration,
}

/// CPU seconds of the processes of one role.
#[derive(Clone, PartialEq, Debug)]
pub struct RoleCpu {
    /// Their role.
    pub role: String,
    /// How many they are.
    pub processes: u32,
    /// What they spent together.
    pub seconds: f64,
}

/// The difference of two readings.
#[derive(Clone, Debug, Default)]
pub struct Spent {
    /// Wall time in seconds.
    pub seconds: f64,
    /// CPU seconds of the threads of all the broker's processes.
    pub cpu_seconds: Option<f64>,
    /// The same by role, if its processes have roles.
    pub roles: Vec<RoleCpu>,
    /// System calls of its socket drivers.
    pub system_calls: Option<f64>,
    /// Switches of its threads.
    pub switches: Option<Switches>,
    /// Its resident bytes at the beginning and at the end.
    pub resident_bytes: Option<(u64, u64)>,
    /// CPU seconds of the generator's thread, active waiting included.
    pub generator_cpu_seconds: f64,
    /// Seconds that the hypervisor took from all CPUs of this machine together.
    pub steal_seconds: f64,
}

impl Meter {
    /// A broker that is one process.
    #[must_use]
    pub fn of(process: Process) -> Self {
        let processes = vec![Watched { role: String::new(), process }];
        Self { processes, metrics_url: None }
    }

    /// Reads everything that can be read. Nothing is sent by the caller meanwhile, so that the
    /// readings fit the message counts.
    ///
    /// # Errors
    /// If the process is gone, or its page does not answer or lacks the counter.
    pub fn read(&self) -> Result<Reading> {
        let resident_bytes = self.of_process(Process::resident_bytes)?;
        let cpu = self.cpu()?;
        let switches = self.of_process(Process::switches)?;
        let page = self
            .metrics_url
            .as_deref()
            .map(|url| MetricsPage::fetch(url).with_context(|| format!("metrics from {url}")))
            .transpose()?;
        if let Some(page) = &page {
            anyhow::ensure!(page.has(SYSTEM_CALLS), "the metrics page has no {SYSTEM_CALLS}");
        }
        let generator_cpu = process::own_thread_cpu().unwrap_or_default();
        let steal = process::machine_steal().unwrap_or_default();
        let at = Instant::now();
        Ok(Reading { at, cpu, switches, resident_bytes, page, generator_cpu, steal })
    }

    /// Reads the processes' CPU time again and again, for a timeline.
    ///
    /// # Errors
    /// If a process is gone.
    pub fn sampler(&self) -> Result<Option<CpuSampler>> {
        let processes: Vec<Process> =
            self.processes.iter().map(|watched| watched.process).collect();
        let sampler = (!processes.is_empty()).then(|| CpuSampler::open(&processes));
        sampler.transpose().context("the broker's processes")
    }

    fn cpu(&self) -> Result<Vec<(String, Duration)>> {
        let read = |watched: &Watched| Ok((watched.role.clone(), watched.process.cpu_time()?));
        let all: std::io::Result<_> = self.processes.iter().map(read).collect();
        all.context("the broker's processes")
    }

    /// The one process, or that of the node which is loaded.
    #[must_use]
    pub fn first(&self) -> Option<Process> {
        self.processes.first().map(|watched| watched.process)
    }

    fn of_process<T>(&self, read: impl Fn(Process) -> std::io::Result<T>) -> Result<Option<T>> {
        self.first().map(read).transpose().context("the broker's process")
    }
}

impl Reading {
    /// What was spent from `earlier` to `self`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Spent {
        let roles = self.roles_since(earlier);
        let pages = self.page.as_ref().zip(earlier.page.as_ref());
        Spent {
            seconds: (self.at - earlier.at).as_secs_f64(),
            cpu_seconds: (!roles.is_empty()).then(|| roles.iter().map(|role| role.seconds).sum()),
            roles: if self.has_roles() { roles } else { Vec::new() },
            system_calls: pages
                .map(|(later, earlier)| later.sum(SYSTEM_CALLS) - earlier.sum(SYSTEM_CALLS)),
            switches: self
                .switches
                .zip(earlier.switches)
                .map(|(later, earlier)| later.since(earlier)),
            resident_bytes: earlier.resident_bytes.zip(self.resident_bytes),
            generator_cpu_seconds: self
                .generator_cpu
                .saturating_sub(earlier.generator_cpu)
                .as_secs_f64(),
            steal_seconds: self.steal.saturating_sub(earlier.steal).as_secs_f64(),
        }
    }

    fn has_roles(&self) -> bool {
        self.cpu.iter().any(|(role, _)| !role.is_empty())
    }

    /// What the processes of each role spent, in the order in which the roles come first.
    fn roles_since(&self, earlier: &Self) -> Vec<RoleCpu> {
        let mut roles: Vec<RoleCpu> = Vec::new();
        for ((role, later), (_, earlier)) in self.cpu.iter().zip(&earlier.cpu) {
            let seconds = later.saturating_sub(*earlier).as_secs_f64();
            match roles.iter_mut().find(|known| known.role == *role) {
                Some(known) => {
                    known.processes += 1;
                    known.seconds += seconds;
                }
                None => roles.push(RoleCpu { role: role.clone(), processes: 1, seconds }),
            }
        }
        roles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_is_told_by_role() {
        let reading = |millis: &[(&str, u64)]| {
            let cpu = millis.iter();
            let cpu = cpu.map(|(role, ms)| ((*role).to_owned(), Duration::from_millis(*ms)));
            Reading { cpu: cpu.collect(), ..Meter::default().read().unwrap() }
        };
        let before = reading(&[("leader", 10), ("follower", 20), ("follower", 30)]);
        let after = reading(&[("leader", 510), ("follower", 120), ("follower", 230)]);
        let spent = after.since(&before);
        assert!((spent.cpu_seconds.unwrap() - 0.8).abs() < 1e-9, "{spent:?}");
        let seen: Vec<_> = spent.roles.iter().map(|r| (r.role.as_str(), r.processes)).collect();
        assert_eq!(seen, [("leader", 1), ("follower", 2)]);
        assert!((spent.roles[1].seconds - 0.3).abs() < 1e-9, "{spent:?}");
        let alone = reading(&[("", 50)]).since(&reading(&[("", 20)]));
        assert!(alone.roles.is_empty() && (alone.cpu_seconds.unwrap() - 0.03).abs() < 1e-9);
        assert_eq!(reading(&[]).since(&reading(&[])).cpu_seconds, None);
    }
}
