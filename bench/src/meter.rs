//! What a run cost the broker: CPU time of its process, system calls by its own count.

use crate::metrics_page::MetricsPage;
use crate::process::Process;
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
    page: Option<MetricsPage>,
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
}

impl Meter {
    /// Reads everything that can be read. Nothing is sent by the caller meanwhile, so that the
    /// readings fit the message counts.
    ///
    /// # Errors
    /// If the process is gone, or its page does not answer or lacks the counter.
    pub fn read(&self) -> Result<Reading> {
        let cpu =
            self.process.map(Process::cpu_time).transpose().context("the broker's CPU time")?;
        let page = self
            .metrics_url
            .as_deref()
            .map(|url| MetricsPage::fetch(url).with_context(|| format!("metrics from {url}")))
            .transpose()?;
        if let Some(page) = &page {
            anyhow::ensure!(page.has(SYSTEM_CALLS), "the metrics page has no {SYSTEM_CALLS}");
        }
        Ok(Reading { at: Instant::now(), cpu, page })
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
        }
    }
}
