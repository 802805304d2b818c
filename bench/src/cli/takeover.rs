//! The flags of `takeover`.

use super::common::CommonArgs;
use clap::Args;

#[derive(Args, Debug)]
pub(crate) struct TakeoverArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Rounds.
    #[arg(short = 'R', long, default_value_t = 3000)]
    pub(crate) rounds: u64,
    /// New sockets per round.
    #[arg(long, default_value_t = 2)]
    pub(crate) sockets: usize,
    /// Publishers.
    #[arg(long, default_value_t = 4)]
    pub(crate) publishers: usize,
    /// Other subscribers of the same messages.
    #[arg(short, long, default_value_t = 8)]
    pub(crate) clients: usize,
    /// Unfinished messages per publisher.
    #[arg(short = 'W', long, default_value_t = 8)]
    pub(crate) window: u64,
}
