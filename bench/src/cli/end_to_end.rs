//! `end-to-end`: who talks to whom in an open loop.

use super::common::CommonArgs;
use super::flow::OpenArgs;
use clap::{Args, Subcommand};
use std::time::Duration;

/// Who talks to whom.
#[derive(Subcommand, Debug)]
pub(crate) enum EndToEndCommand {
    /// N publishers, each with a subscriber of its own.
    Pairs(OpenArgs),
    /// N publishers, one subscriber.
    FanIn(OpenArgs),
    /// One publisher, N subscribers.
    FanOut(OpenArgs),
    /// A shared-subscription group of N members.
    Shared(SharedOpenArgs),
}

#[derive(Args, Debug)]
pub(crate) struct SharedOpenArgs {
    #[command(flatten)]
    pub(crate) open: OpenArgs,
    /// Publishers.
    #[arg(long, default_value_t = 2)]
    pub(crate) publishers: usize,
}

impl EndToEndCommand {
    pub(super) fn common(&self) -> &CommonArgs {
        match self {
            Self::Pairs(args) | Self::FanIn(args) | Self::FanOut(args) => &args.load.common,
            Self::Shared(args) => &args.open.load.common,
        }
    }

    /// About how long it runs; zero if its flags do not say.
    pub(super) fn length(&self) -> Duration {
        match self {
            Self::Pairs(args) | Self::FanIn(args) | Self::FanOut(args) => args.load.length(),
            Self::Shared(args) => args.open.load.length(),
        }
    }
}
