//! `throughput`: who talks to whom in a closed loop.

use super::common::CommonArgs;
use super::flow::FlowArgs;
use super::shared::SharedArgs;
use clap::Subcommand;
use std::time::Duration;

/// Who talks to whom.
#[derive(Subcommand, Debug)]
pub(crate) enum ThroughputCommand {
    /// N publishers, each with a subscriber of its own.
    Pairs(FlowArgs),
    /// N publishers, one subscriber.
    FanIn(FlowArgs),
    /// One publisher, N subscribers.
    FanOut(FlowArgs),
    /// A shared-subscription group of N members.
    Shared(SharedArgs),
}

impl ThroughputCommand {
    pub(super) fn common(&self) -> &CommonArgs {
        match self {
            Self::Pairs(args) | Self::FanIn(args) | Self::FanOut(args) => &args.load.common,
            Self::Shared(args) => &args.common,
        }
    }

    /// About how long it runs; zero if its flags do not say.
    pub(super) fn length(&self) -> Duration {
        match self {
            Self::Pairs(args) | Self::FanIn(args) | Self::FanOut(args) if !args.search.search => {
                args.load.length()
            }
            _ => Duration::ZERO,
        }
    }
}
