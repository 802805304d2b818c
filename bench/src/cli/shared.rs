//! The flags of a shared-subscription group under load.

use super::common::{CommonArgs, qos};
use clap::{Args, ValueEnum};
use ringlane_bench::shared::Stall;
use ringlane_mqtt::QoS;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum StallArg {
    /// Reads, and acknowledges nothing.
    NoAck,
    /// Reads nothing.
    NoRead,
}

#[derive(Args, Debug)]
pub(crate) struct SharedArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Members of the group.
    #[arg(short, long, default_value_t = 8)]
    pub(crate) clients: usize,
    /// Publishers.
    #[arg(long, default_value_t = 2)]
    pub(crate) publishers: usize,
    /// Quality of service: 0, 1 or 2.
    #[arg(short, long, default_value = "1", value_parser = qos)]
    pub(crate) qos: QoS,
    /// Payload bytes, at least 16.
    #[arg(short, long, default_value_t = 64)]
    pub(crate) size: usize,
    /// Messages per publisher.
    #[arg(short = 'n', long, default_value_t = 20_000)]
    pub(crate) messages: u64,
    /// Unfinished messages per publisher.
    #[arg(short = 'W', long, default_value_t = 32)]
    pub(crate) window: u64,
    /// Receive Maximum of the members (MQTT 5).
    #[arg(long, default_value_t = 16)]
    pub(crate) receive_maximum: u16,
    /// Members that stall.
    #[arg(long, default_value_t = 0)]
    pub(crate) stalled: usize,
    /// How they stall.
    #[arg(long, value_enum, default_value = "no-ack")]
    stall: StallArg,
    /// Members that are cut off half-way.
    #[arg(long, default_value_t = 0)]
    pub(crate) killed: usize,
}

impl SharedArgs {
    pub(crate) fn stall(&self) -> Stall {
        match self.stall {
            StallArg::NoAck => Stall::NoAcknowledgement,
            StallArg::NoRead => Stall::NoRead,
        }
    }
}
