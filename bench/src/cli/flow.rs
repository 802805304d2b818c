//! The flags of a load of messages: how many clients, how large, how long, how fast.

use super::common::{CommonArgs, check_size, qos};
use super::search::SearchArgs;
use anyhow::{Context, Result, ensure};
use clap::Args;
use ringlane_bench::flow::{FlowOptions, Limit, Pace};
use ringlane_mqtt::QoS;
use std::time::Duration;

/// How long a run is measured, in seconds, if nothing is said.
const DURATION_SECONDS: f64 = 10.0;
/// The interval of a publisher in milliseconds, if nothing is said: that of `emqtt-bench`.
const INTERVAL_MILLIS: f64 = 1000.0;

#[derive(Args, Debug)]
pub(crate) struct LoadArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Pairs, publishers, subscribers, or members of the group.
    #[arg(short, long, default_value_t = 64)]
    pub(crate) clients: usize,
    /// Quality of service: 0, 1 or 2. Default: 0; 1 for `publish-ack`.
    #[arg(short, long, value_parser = qos)]
    qos: Option<QoS>,
    /// Payload bytes, at least 16.
    #[arg(short, long, default_value_t = 64)]
    size: usize,
    /// Unfinished messages per publisher; 0 sends as fast as the socket takes it. In a closed loop
    /// the default is as many as `--batch`; in an open loop there is no bound but the broker's
    /// Receive Maximum.
    #[arg(short = 'W', long)]
    window: Option<u64>,
    /// Messages sent in one write.
    #[arg(short, long, default_value_t = 1)]
    batch: u64,
    /// Measured seconds. Default: 10; 2 for each trial of a search.
    #[arg(short, long)]
    duration: Option<f64>,
    /// Seconds before that, not measured.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Messages per publisher, instead of a duration.
    #[arg(short = 'n', long)]
    messages: Option<u64>,
}

/// A closed loop.
#[derive(Args, Debug)]
pub(crate) struct FlowArgs {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    #[command(flatten)]
    pub(crate) search: SearchArgs,
}

/// An open loop.
#[derive(Args, Debug)]
pub(crate) struct OpenArgs {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// Messages per second of all publishers together.
    #[arg(long, conflicts_with = "interval_of_msg")]
    rate: Option<f64>,
    /// Milliseconds between two messages (or batches) of a publisher. Default: 1000.
    #[arg(short = 'I', long, value_name = "MS")]
    interval_of_msg: Option<f64>,
}

impl LoadArgs {
    /// About how long it is to run; zero if it is given a number of messages.
    pub(super) fn length(&self) -> Duration {
        let measured = self.duration.unwrap_or(DURATION_SECONDS);
        let seconds = if self.messages.is_some() { 0.0 } else { self.warm_up + measured };
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }

    /// What the engine is told, but for the pace.
    fn options(&self, pace: Pace, window: u64, seconds: f64, qos: QoS) -> Result<FlowOptions> {
        ensure!(self.clients > 0, "--clients must be at least 1");
        ensure!(self.batch > 0, "--batch must be at least 1");
        check_size(self.size)?;
        let duration = |value, name| Duration::try_from_secs_f64(value).context(name);
        let limit = match self.messages {
            Some(count) => Limit::Messages(count),
            None => Limit::Time {
                warm_up: duration(self.warm_up, "--warm-up")?,
                run: duration(self.duration.unwrap_or(seconds), "--duration")?,
            },
        };
        ensure!(
            window == 0 || window >= self.batch,
            "--batch {} does not fit --window {window}",
            self.batch
        );
        Ok(FlowOptions {
            qos: self.qos.unwrap_or(qos),
            payload_bytes: self.size,
            pace,
            window,
            batch: self.batch,
            limit,
            patience: self.common.patience()?,
            meter: self.common.meter(),
        })
    }

    fn closed(&self, qos: QoS) -> Result<FlowOptions> {
        let window = self.window.unwrap_or(self.batch);
        self.options(Pace::Window, window, DURATION_SECONDS, qos)
    }
}

impl FlowArgs {
    pub(crate) fn options(&self) -> Result<FlowOptions> {
        self.load.closed(QoS::AtMostOnce)
    }

    /// A trial of a search.
    pub(crate) fn trial(&self, rate: f64) -> Result<FlowOptions> {
        ensure!(self.load.messages.is_none(), "--search goes by time: --duration, not --messages");
        let window = self.load.window.unwrap_or(0);
        self.load.options(Pace::Rate(rate), window, SearchArgs::TRIAL_SECONDS, QoS::AtMostOnce)
    }
}

impl OpenArgs {
    /// An open loop with so many publishers.
    pub(crate) fn options(&self, publishers: usize) -> Result<FlowOptions> {
        self.open(publishers, QoS::AtMostOnce)
    }

    /// `publish-ack`: with a window and no rate it is a closed loop.
    pub(crate) fn acknowledged(&self) -> Result<FlowOptions> {
        let options = match (self.rate, self.interval_of_msg, self.load.window) {
            (None, None, Some(_)) => self.load.closed(QoS::AtLeastOnce),
            _ => self.open(self.load.clients, QoS::AtLeastOnce),
        }?;
        ensure!(options.qos != QoS::AtMostOnce, "QoS 0 has no acknowledgements");
        Ok(options)
    }

    fn open(&self, publishers: usize, qos: QoS) -> Result<FlowOptions> {
        let interval = self.interval_of_msg.unwrap_or(INTERVAL_MILLIS);
        let of_interval = publishers as f64 * self.load.batch as f64 * 1000.0 / interval;
        let rate = self.rate.unwrap_or(of_interval);
        ensure!(rate.is_finite() && rate > 0.0, "{rate} messages per second");
        let window = self.load.window.unwrap_or(0);
        self.load.options(Pace::Rate(rate), window, DURATION_SECONDS, qos)
    }
}
