//! `end-to-end`: latency from publisher to subscriber on a fixed schedule.

use super::flow::{self, Shape};
use crate::cli::end_to_end::EndToEndCommand;
use crate::cli::flow::OpenArgs;
use anyhow::Result;
use ringlane_bench::report::Report;

pub(crate) fn run(command: &EndToEndCommand) -> Result<Report> {
    match command {
        EndToEndCommand::Pairs(args) => run_shape(Shape::Pairs, args),
        EndToEndCommand::FanIn(args) => run_shape(Shape::FanIn, args),
        EndToEndCommand::FanOut(args) => run_shape(Shape::FanOut, args),
        EndToEndCommand::Shared(args) => {
            run_shape(Shape::Shared { publishers: args.publishers }, &args.open)
        }
    }
}

fn run_shape(shape: Shape, args: &OpenArgs) -> Result<Report> {
    let plan = shape.plan(&args.load);
    let options = args.options(plan.publishers.len())?;
    flow::run(shape, &args.load, &plan, &options)
}
