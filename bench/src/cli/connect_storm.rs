//! The flags of `connect-storm`.

use super::arrival::{ArrivalArgs, seconds};
use clap::Args;
use std::time::Duration;

#[derive(Args, Debug)]
pub(crate) struct ConnectStormArgs {
    #[command(flatten)]
    pub(crate) arrival: ArrivalArgs,
    /// Seconds that all stay before they leave.
    #[arg(long, default_value = "0", value_parser = seconds)]
    pub(crate) keep: Duration,
}
