//! `throughput`: messages in a closed loop, or the highest rate of an open one.

use super::flow::{self, Shape};
use crate::cli::flow::FlowArgs;
use crate::cli::throughput::ThroughputCommand;
use anyhow::Result;
use ringlane_bench::report::Report;

pub(crate) fn run(command: &ThroughputCommand) -> Result<Report> {
    match command {
        ThroughputCommand::Pairs(args) => run_shape(Shape::Pairs, args),
        ThroughputCommand::FanIn(args) => run_shape(Shape::FanIn, args),
        ThroughputCommand::FanOut(args) => run_shape(Shape::FanOut, args),
        ThroughputCommand::Shared(args) => super::shared::run(args),
    }
}

fn run_shape(shape: Shape, args: &FlowArgs) -> Result<Report> {
    if args.search.search {
        return super::search::run(shape, args);
    }
    flow::run(shape, &args.load, &shape.plan(&args.load), &args.options()?)
}
