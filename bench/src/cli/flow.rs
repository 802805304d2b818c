//! The flags of a closed loop of messages.

use super::common::{CommonArgs, check_size, qos};
use anyhow::{Context, Result, ensure};
use clap::Args;
use ringlane_bench::flow::{FlowOptions, Limit};
use ringlane_mqtt::QoS;
use std::time::Duration;

#[derive(Args, Debug)]
pub(crate) struct FlowArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Pairs, publishers or subscribers.
    #[arg(short, long, default_value_t = 64)]
    pub(crate) clients: usize,
    /// Quality of service: 0, 1 or 2.
    #[arg(short, long, default_value = "0", value_parser = qos)]
    qos: QoS,
    /// Payload bytes, at least 16.
    #[arg(short, long, default_value_t = 64)]
    size: usize,
    /// Unfinished messages per publisher; 0 sends as fast as the socket takes it. Default: as
    /// many as `--batch`.
    #[arg(short = 'W', long)]
    window: Option<u64>,
    /// Messages sent in one write.
    #[arg(short, long, default_value_t = 1)]
    batch: u64,
    /// Measured seconds.
    #[arg(short, long, default_value_t = 10.0)]
    duration: f64,
    /// Seconds before that, not measured.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Messages per publisher, instead of a duration.
    #[arg(short = 'n', long)]
    messages: Option<u64>,
}

impl FlowArgs {
    /// How long it is to run; zero if it is given a number of messages.
    pub(super) fn length(&self) -> Duration {
        let seconds = if self.messages.is_some() { 0.0 } else { self.warm_up + self.duration };
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }

    pub(crate) fn options(&self) -> Result<FlowOptions> {
        ensure!(self.clients > 0, "--clients must be at least 1");
        ensure!(self.batch > 0, "--batch must be at least 1");
        check_size(self.size)?;
        let seconds = |value, name| Duration::try_from_secs_f64(value).context(name);
        let limit = match self.messages {
            Some(count) => Limit::Messages(count),
            None => Limit::Time {
                warm_up: seconds(self.warm_up, "--warm-up")?,
                run: seconds(self.duration, "--duration")?,
            },
        };
        let window = self.window.unwrap_or(self.batch);
        ensure!(
            window == 0 || window >= self.batch,
            "--batch {} does not fit --window {window}",
            self.batch
        );
        Ok(FlowOptions {
            qos: self.qos,
            payload_bytes: self.size,
            window,
            batch: self.batch,
            limit,
            patience: self.common.patience()?,
            meter: self.common.meter(),
        })
    }
}
