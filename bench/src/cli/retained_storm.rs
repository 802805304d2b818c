//! The flags of `retained-storm`.

use super::arrival::seconds;
use super::common::{CommonArgs, check_size, qos};
use anyhow::Result;
use clap::Args;
use ringlane_bench::retained_storm::RetainedOptions;
use ringlane_mqtt::QoS;
use std::time::Duration;

#[derive(Args, Debug)]
pub(crate) struct RetainedStormArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Subscribers, which subscribe all at once.
    #[arg(short, long, default_value_t = 100)]
    clients: usize,
    /// Topics: how many messages are retained in the end.
    #[arg(long, default_value_t = 10_000)]
    topics: u64,
    /// Messages published; later ones replace earlier ones of their topic. Default: one per topic.
    #[arg(short = 'n', long)]
    messages: Option<u64>,
    /// Publishers.
    #[arg(long, default_value_t = 4)]
    publishers: usize,
    /// Quality of service of publishes and subscriptions: 0, 1 or 2.
    #[arg(short, long, default_value = "1", value_parser = qos)]
    qos: QoS,
    /// Payload bytes, at least 16.
    #[arg(short, long, default_value_t = 64)]
    size: usize,
    /// Unacknowledged messages per publisher.
    #[arg(short = 'W', long, default_value_t = 100)]
    window: u64,
    /// Seconds between the last publish and the first subscription.
    #[arg(long, default_value = "0.5", value_parser = seconds)]
    settle: Duration,
    /// Leave the messages retained.
    #[arg(long)]
    keep: bool,
}

impl RetainedStormArgs {
    pub(crate) fn options(&self) -> Result<RetainedOptions> {
        check_size(self.size)?;
        Ok(RetainedOptions {
            prefix: self.common.id_prefix.clone(),
            topic: self.common.topic.clone(),
            messages: self.messages.unwrap_or(self.topics),
            topics: self.topics,
            publishers: self.publishers,
            subscribers: self.clients,
            qos: self.qos,
            payload_bytes: self.size,
            window: self.window,
            settle: self.settle,
            keep: self.keep,
            patience: self.common.patience()?,
            meter: self.common.meter(),
        })
    }
}
