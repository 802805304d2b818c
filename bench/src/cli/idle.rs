//! The flags of `idle-connections`.

use super::arrival::{ArrivalArgs, seconds};
use clap::Args;
use std::time::Duration;

#[derive(Args, Debug)]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    pub(crate) arrival: ArrivalArgs,
    /// Numbers of connections at which to measure, before all of them stand: 1000,10000.
    #[arg(long, value_delimiter = ',')]
    pub(crate) steps: Vec<u64>,
    /// Seconds of rest before each measurement.
    #[arg(long, default_value = "1", value_parser = seconds)]
    pub(crate) settle: Duration,
    /// Seconds that all stand, and the broker's CPU time is read.
    #[arg(long, default_value = "5", value_parser = seconds)]
    pub(crate) hold: Duration,
    /// Connections that get a message each at the end, which is checked.
    #[arg(long, default_value_t = 100)]
    pub(crate) sample: usize,
}
