//! What a run cost the broker: CPU time, memory and switches of its process, system calls by its own
//! count; and what it cost the generator, and the machine's other guests.

use crate::metrics_page::MetricsPage;
use crate::process::{self, CpuSampler, Process, Switches};
use anyhow::{Context, Result};
use std::time::{Duration, Instant};

/// The broker's counter of system calls.
const SYSTEM_CALLS: &str = "ringlane_system_calls_total";

/// What can be read of the broker.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    /// Its process.
    pub process: Option<Process>,
    /// Its Prometheus page.
    pub metrics_url: Option<String>,
}

/// A reading at one moment.
#[derive(Clone, Debug)]
pub struct Reading {
    at: Instant,
    cpu: Option<Duration>,
    switches: Option<Switches>,
    resident_bytes: Option<u64>,
    page: Option<MetricsPage>,
    generator_cpu: Duration,
    steal: Duration,
}

/// The difference of two readings.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// Wall time in seconds.
    pub seconds: f64,
    /// CPU seconds of the broker's threads.
    pub cpu_seconds: Option<f64>,
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
    /// Reads everything that can be read. Nothing is sent by the caller meanwhile, so that the
    /// readings fit the message counts.
    ///
    /// # Errors
    /// If the process is gone, or its page does not answer or lacks the counter.
    pub fn read(&self) -> Result<Reading> {
        let resident_bytes = self.of_process(Process::resident_bytes)?;
        let cpu = self.of_process(Process::cpu_time)?;
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

    /// Reads the process's CPU time again and again, for a timeline.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn sampler(&self) -> Result<Option<CpuSampler>> {
        self.of_process(CpuSampler::open)
    }

    fn of_process<T>(&self, read: impl Fn(Process) -> std::io::Result<T>) -> Result<Option<T>> {
        self.process.map(read).transpose().context("the broker's process")
    }
}

impl Reading {
    /// What was spent from `earlier` to `self`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Spent {
        let cpu = self.cpu.zip(earlier.cpu);
        let pages = self.page.as_ref().zip(earlier.page.as_ref());
        Spent {
            seconds: (self.at - earlier.at).as_secs_f64(),
            cpu_seconds: cpu.map(|(later, earlier)| later.saturating_sub(earlier).as_secs_f64()),
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
}
