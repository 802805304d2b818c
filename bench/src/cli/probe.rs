//! The flags of commands that measure a steady flow, window by window.

use super::arrival::seconds;
use super::common::{CommonArgs, check_size};
use anyhow::Result;
use clap::Args;
use ringlane_bench::probe::{ProbeOptions, Run};
use std::time::Duration;

#[derive(Args, Debug)]
pub(crate) struct ProbeArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Payload bytes, at least 16.
    #[arg(short, long, default_value_t = 64)]
    size: usize,
    /// Unfinished messages, of all publishers together.
    #[arg(short = 'W', long, default_value_t = 10)]
    window: u64,
    /// Send the next window only when the one before is complete: the broker gets as many messages
    /// at once each time, which instruction counts need.
    #[arg(long)]
    lockstep: bool,
    /// Messages per second of all publishers together, on a schedule.
    #[arg(long)]
    rate: Option<f64>,
    /// Measured seconds of each window.
    #[arg(short, long, default_value = "3", value_parser = seconds)]
    duration: Duration,
    /// Messages of each window, instead of a duration.
    #[arg(short = 'n', long)]
    messages: Option<u64>,
    /// Seconds before each window, not measured; with --messages, a tenth of them.
    #[arg(long, default_value = "0.5", value_parser = seconds)]
    warm_up: Duration,
    /// Run `PROGRAM start NAME` before and `PROGRAM end NAME` after each window.
    #[arg(long, value_name = "PROGRAM")]
    hook: Option<String>,
}

impl ProbeArgs {
    pub(crate) fn options(&self) -> Result<ProbeOptions> {
        check_size(self.size)?;
        Ok(ProbeOptions {
            payload_bytes: self.size,
            window: self.window,
            lockstep: self.lockstep,
            rate: self.rate,
            run: self.messages.map_or(Run::Time(self.duration), Run::Messages),
            patience: self.common.patience()?,
            meter: self.common.meter(),
            hook: self.hook.clone(),
        })
    }

    pub(crate) fn warm_up(&self) -> Run {
        self.messages.map_or(Run::Time(self.warm_up), |count| Run::Messages(count / 10))
    }
}
