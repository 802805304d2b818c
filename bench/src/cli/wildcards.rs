//! The flags of `wildcards`.

use super::probe::ProbeArgs;
use anyhow::{Result, ensure};
use clap::Args;

#[derive(Args, Debug)]
pub(crate) struct WildcardsArgs {
    #[command(flatten)]
    pub(crate) probe: ProbeArgs,
    /// Subscriptions without wildcards.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) exact: u64,
    /// Subscriptions with wildcards: `#` and `+` at the end, `+` in the middle.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) wildcard: u64,
    /// Numbers of subscriptions at which to measure, before all are there. Default: 1,000 and each
    /// ten times as many.
    #[arg(long, value_delimiter = ',')]
    pub(crate) steps: Vec<u64>,
    /// Connections that hold the subscriptions. Default: one for each 1,000.
    #[arg(short, long)]
    pub(crate) clients: Option<usize>,
    /// Numbers of listeners that match, measured one after the other.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    pub(crate) matching: Vec<usize>,
    /// Publishers.
    #[arg(long, default_value_t = 4)]
    pub(crate) publishers: usize,
    /// Topics that are published to in turn, so that caches of routes do not hide the search.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) topics: usize,
}

/// What one client may hold with the defaults of Ringlane.
const PER_CLIENT: u64 = 1000;

impl WildcardsArgs {
    /// The given steps, or 1,000, 10,000, ..., and then all.
    pub(crate) fn steps(&self) -> Result<Vec<u64>> {
        let all = self.exact + self.wildcard;
        ensure!(all > 0, "--exact and --wildcard are both 0");
        let mut steps = self.steps.clone();
        if steps.is_empty() {
            let decades = std::iter::successors(Some(1000), |step: &u64| step.checked_mul(10));
            steps = decades.take_while(|step| *step < all).collect();
        }
        ensure!(steps.iter().all(|step| *step < all), "--steps must be below {all}");
        steps.push(all);
        Ok(steps)
    }

    pub(crate) fn holders(&self) -> usize {
        let needed = (self.exact + self.wildcard).div_ceil(PER_CLIENT);
        self.clients.unwrap_or(usize::try_from(needed).unwrap_or(usize::MAX))
    }
}
