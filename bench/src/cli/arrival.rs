//! The flags of commands whose clients come one after the other.

use super::common::CommonArgs;
use anyhow::{Context, Result, ensure};
use clap::Args;
use ringlane_bench::arrivals::ArrivalOptions;
use std::time::Duration;

#[derive(Args, Debug)]
pub(crate) struct ArrivalArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Clients.
    #[arg(short, long, default_value_t = 10_000)]
    pub(crate) clients: u64,
    /// New connections per second, on a schedule; without it as fast as `--pending` allows.
    #[arg(short = 'R', long, value_name = "PER_SECOND")]
    pub(crate) connrate: Option<f64>,
    /// Clients at most that have been started and do not stand yet.
    #[arg(long, default_value_t = 256)]
    pub(crate) pending: usize,
    /// Keep alive in seconds, with a ping every half of it; 0 is off.
    #[arg(short, long, default_value_t = 300)]
    pub(crate) keepalive: u16,
    /// Let each client subscribe to a topic of its own (QoS 1).
    #[arg(long)]
    pub(crate) subscribe: bool,
}

impl ArrivalArgs {
    pub(crate) fn options(&self) -> Result<ArrivalOptions> {
        ensure!(self.clients > 0, "--clients must be at least 1");
        Ok(ArrivalOptions {
            prefix: self.common.id_prefix.clone(),
            rate: self.connrate,
            pending_max: self.pending,
            keep_alive_secs: self.keepalive,
            subscribe: self.subscribe.then(|| self.common.topic.clone()),
            patience: self.common.patience()?,
        })
    }
}

pub(super) fn seconds(text: &str) -> Result<Duration> {
    Duration::try_from_secs_f64(text.parse().context("not a number")?).context("not a time")
}
