//! The flags of `churn`.

use super::common::{CommonArgs, qos};
use clap::Args;
use ringlane_mqtt::QoS;

#[derive(Args, Debug)]
pub(crate) struct ChurnArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Connections of a round.
    #[arg(short, long, default_value_t = 10_000)]
    pub(crate) clients: usize,
    /// Rounds, warm-up included.
    #[arg(short = 'R', long, default_value_t = 6)]
    pub(crate) rounds: usize,
    /// Rounds before the memory to compare with is read.
    #[arg(long, default_value_t = 2)]
    pub(crate) warm_up_rounds: usize,
    /// Quality of service: 0, 1 or 2.
    #[arg(short, long, default_value = "1", value_parser = qos)]
    pub(crate) qos: QoS,
}
