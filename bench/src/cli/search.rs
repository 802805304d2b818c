//! The flags of `throughput --search`.

use anyhow::{Result, bail, ensure};
use clap::Args;
use ringlane_bench::search::SearchOptions;
use std::time::Duration;

#[derive(Args, Debug)]
pub(crate) struct SearchArgs {
    /// Find the highest rate of an open loop whose 99th percentile is below `--p99`, with nothing
    /// lost.
    #[arg(long)]
    pub(crate) search: bool,
    /// The bound: us, ms or s.
    #[arg(long, default_value = "5ms", value_parser = duration, requires = "search")]
    pub(crate) p99: Duration,
    /// Where the search begins, in messages per second.
    #[arg(long, default_value_t = 1000.0, requires = "search")]
    start_rate: f64,
    /// How often the rate found must hold in a row.
    #[arg(long, default_value_t = 3, requires = "search")]
    confirmations: usize,
    /// How near the search comes, as a part of the rate.
    #[arg(long, default_value_t = 0.05, requires = "search")]
    precision: f64,
}

impl SearchArgs {
    /// How long a trial is measured if nothing is said.
    pub(super) const TRIAL_SECONDS: f64 = 2.0;

    pub(crate) fn options(&self) -> Result<SearchOptions> {
        ensure!(self.start_rate >= 1.0, "--start-rate must be at least 1");
        ensure!(0.0 < self.precision && self.precision < 1.0, "--precision is a part of 1");
        Ok(SearchOptions {
            start_rate: self.start_rate,
            precision: self.precision,
            confirmations: self.confirmations.max(1),
        })
    }
}

/// A time with its unit.
fn duration(text: &str) -> Result<Duration> {
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    for (unit, seconds) in units {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(Duration::try_from_secs_f64(number.trim().parse::<f64>()? * seconds)?);
        }
    }
    bail!("a time needs a unit: us, ms or s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(duration("5ms").unwrap(), Duration::from_millis(5));
        assert_eq!(duration("250us").unwrap(), Duration::from_micros(250));
        assert_eq!(duration("1.5s").unwrap(), Duration::from_millis(1500));
        assert!(duration("5").is_err());
        assert!(duration("-5ms").is_err());
    }
}
