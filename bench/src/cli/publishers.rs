//! The flags of `publishers`.

use super::probe::ProbeArgs;
use clap::Args;

#[derive(Args, Debug)]
pub(crate) struct PublishersArgs {
    #[command(flatten)]
    pub(crate) probe: ProbeArgs,
    /// Numbers of publishers, measured one after the other.
    #[arg(short, long, value_delimiter = ',', default_value = "10,100,1000,10000")]
    pub(crate) clients: Vec<usize>,
}
