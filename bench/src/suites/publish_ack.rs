//! `publish-ack`: latency from publisher to acknowledgement, without any subscriber.

use super::flow::{self, Shape};
use crate::cli::flow::OpenArgs;
use anyhow::Result;
use ringlane_bench::report::Report;

pub(crate) fn run(args: &OpenArgs) -> Result<Report> {
    let shape = Shape::PublishersOnly;
    flow::run(shape, &args.load, &shape.plan(&args.load), &args.acknowledged()?)
}
