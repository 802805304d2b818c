//! Finds the highest rate that holds: doubling, then bisection, then the same again and again.

use anyhow::Result;

/// How to search.
#[derive(Clone, Copy, Debug)]
pub struct SearchOptions {
    /// The first rate, in messages per second.
    pub start_rate: f64,
    /// The search ends when the lowest rate that failed is within this part of the highest that
    /// held.
    pub precision: f64,
    /// How often in a row the rate found must hold.
    pub confirmations: usize,
}

/// Below this rate nothing is searched for.
const RATE_MIN: f64 = 1.0;
/// Above this rate nothing is searched for either.
const RATE_MAX: f64 = 1e9;

/// The highest rate for which `holds` says yes, or `None` if there is none. A rate has failed only
/// if it failed twice in a row: one disturbance of the machine must not end the search.
///
/// # Errors
/// Those of `holds`.
pub fn highest_rate(
    options: &SearchOptions,
    holds: &mut dyn FnMut(f64) -> Result<bool>,
) -> Result<Option<f64>> {
    let Some((mut low, mut high)) = bracket(options.start_rate, holds)? else { return Ok(None) };
    loop {
        while high > low * (1.0 + options.precision) {
            let middle = (low * high).sqrt();
            match holds_or_holds_again(middle, holds)? {
                true => low = middle,
                false => high = middle,
            }
        }
        if is_confirmed(low, options.confirmations, holds)? {
            return Ok(Some(low));
        }
        high = low;
        low /= 1.0 + 2.0 * options.precision;
        if low < RATE_MIN {
            return Ok(None);
        }
    }
}

/// A rate that holds and one that does not.
fn bracket(start: f64, holds: &mut dyn FnMut(f64) -> Result<bool>) -> Result<Option<(f64, f64)>> {
    let mut rate = start;
    if holds_or_holds_again(rate, holds)? {
        while rate < RATE_MAX && holds_or_holds_again(rate * 2.0, holds)? {
            rate *= 2.0;
        }
        return Ok(Some((rate, rate * 2.0)));
    }
    while rate / 2.0 >= RATE_MIN {
        rate /= 2.0;
        if holds_or_holds_again(rate, holds)? {
            return Ok(Some((rate, rate * 2.0)));
        }
    }
    Ok(None)
}

fn holds_or_holds_again(rate: f64, holds: &mut dyn FnMut(f64) -> Result<bool>) -> Result<bool> {
    Ok(holds(rate)? || holds(rate)?)
}

fn is_confirmed(
    rate: f64,
    confirmations: usize,
    holds: &mut dyn FnMut(f64) -> Result<bool>,
) -> Result<bool> {
    for _ in 0..confirmations {
        if !holds(rate)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: SearchOptions =
        SearchOptions { start_rate: 1000.0, precision: 0.05, confirmations: 3 };

    fn search(holds: impl Fn(f64, usize) -> bool) -> (Option<f64>, usize) {
        let mut trials = 0;
        let found = highest_rate(&OPTIONS, &mut |rate| {
            trials += 1;
            Ok(holds(rate, trials))
        });
        (found.unwrap(), trials)
    }

    #[test]
    fn a_limit_is_found_from_below_and_from_above() {
        for limit in [17.0, 900.0, 1000.0, 123_456.0, 5e6] {
            let (found, trials) = search(|rate, _| rate <= limit);
            let found = found.unwrap();
            assert!(found <= limit && found > limit / 1.06, "{limit}: {found}");
            assert!(trials < 50, "{limit}: {trials}");
        }
    }

    #[test]
    fn nothing_holds_if_nothing_does() {
        assert_eq!(search(|_, _| false).0, None);
    }

    #[test]
    fn one_disturbance_does_not_end_it() {
        let (found, _) = search(|rate, trial| trial % 7 != 0 && rate <= 50_000.0);
        assert!(found.unwrap() > 40_000.0, "{found:?}");
    }

    #[test]
    fn what_is_not_confirmed_is_lowered() {
        // Above 20,000 only every other trial holds: never three in a row.
        let (found, _) =
            search(|rate, trial| rate <= 20_000.0 || (rate < 80_000.0 && trial % 2 == 0));
        let found = found.unwrap();
        assert!((15_000.0..=20_000.0).contains(&found), "{found}");
    }
}
