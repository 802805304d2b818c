//! Rounds into figures: medians, quartiles, and ratios inside one round.

use serde::{Deserialize, Serialize};

/// Where a handful of values lie.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// A quarter of the values is below.
    pub q1: f64,
    /// Half of the values is below.
    pub median: f64,
    /// Three quarters of the values are below.
    pub q3: f64,
    /// The greatest.
    pub max: f64,
    /// How many values there were.
    pub rounds: usize,
}

impl Spread {
    /// The spread of some values; none of no values. Quartiles are interpolated between neighbours.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let at = |share| quantile(&sorted, share);
        Some(Self { min, q1: at(0.25), median: at(0.5), q3: at(0.75), max, rounds: sorted.len() })
    }

    /// The spread of `ours / theirs`, round by round: both were measured within the same minute, so
    /// that what changes from minute to minute is in both. Rounds that lack one of the two, or
    /// whose divisor is 0, are left out.
    #[must_use]
    pub fn of_ratios(ours: &[Option<f64>], theirs: &[Option<f64>]) -> Option<Self> {
        let ratios: Vec<f64> = ours
            .iter()
            .zip(theirs)
            .filter_map(|(ours, theirs)| (*ours).zip(*theirs))
            .filter(|(_, theirs)| *theirs != 0.0)
            .map(|(ours, theirs)| ours / theirs)
            .collect();
        Self::of(&ratios)
    }
}

/// The value at a share of a sorted slice that is not empty, interpolated.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * (place - place.floor())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_its_five_figures() {
        let spread = Spread::of(&[5.0, 1.0, 4.0, 2.0, 3.0]).unwrap();
        assert_eq!((spread.min, spread.q1, spread.median), (1.0, 2.0, 3.0));
        assert_eq!((spread.q3, spread.max, spread.rounds), (4.0, 5.0, 5));
        let even = Spread::of(&[1.0, 2.0]).unwrap();
        assert_eq!((even.q1, even.median), (1.25, 1.5));
        assert!(Spread::of(&[]).is_none());
        assert!(Spread::of(&[f64::NAN]).is_none());
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let ours = [Some(1.0), Some(20.0), None, Some(3.0)];
        let theirs = [Some(2.0), Some(40.0), Some(1.0), Some(0.0)];
        let spread = Spread::of_ratios(&ours, &theirs).unwrap();
        assert_eq!((spread.min, spread.median, spread.max, spread.rounds), (0.5, 0.5, 0.5, 2));
    }
}
