//! How much may be read again at a time: readings cost their owner a file, memory and commands of
//! its disk, whoever asks for them.
//!
//! Each core takes a bounded number of readings, and shares it out evenly to the cores that ask: so
//! they know by themselves what fits, and none can take another's part.

use ringlane_dataplane::disk::COMMANDS_MAX;

/// Readings of one core, at most. Each has at most three commands under way (its file is closed, the
/// next one opened, and one that took its place may be doing the same), which leaves the log more
/// than half of all commands.
pub(crate) const READINGS_MAX: usize = 8 * 1024;
const _: () = assert!(3 * READINGS_MAX <= COMMANDS_MAX / 2);

/// What the subscribers of one core may have read.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Room {
    /// Replays.
    replays: usize,
    /// Readings on any one core.
    readings: usize,
    /// Partitions that any one core has, at most.
    partitions_each: usize,
}

impl Room {
    /// Room for `replays`, where each of `cores` takes `readings`.
    pub(crate) fn new(replays: usize, readings: usize, partitions: u32, cores: u16) -> Self {
        let cores = u32::from(cores.max(1));
        let partitions_each = partitions.div_ceil(cores) as usize;
        Self { replays, readings: readings / cores as usize, partitions_each }
    }

    /// Readings that a replay of so many partitions may be on any one core.
    pub(super) fn cost(&self, partitions: usize) -> usize {
        partitions.min(self.partitions_each)
    }

    /// Whether one more fits beside `replays` with `readings`.
    pub(super) fn fits(&self, (replays, readings): (usize, usize), cost: usize) -> bool {
        replays < self.replays && readings + cost <= self.readings
    }

    /// Replays of all partitions that fit, if that is fewer than were asked for.
    pub(crate) fn fewer(&self) -> Option<usize> {
        let fit = self.readings / self.partitions_each.max(1);
        (fit < self.replays).then_some(fit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_of_all_cores_together_fit_each_core() {
        for (cores, partitions) in [(1, 1), (1, 4), (2, 4), (2, 1024), (3, 1000), (16, 64)] {
            let room = Room::new(10_000, READINGS_MAX, partitions, cores);
            let cost = room.cost(partitions as usize);
            let mut used = (0, 0);
            while room.fits(used, cost) {
                used = (used.0 + 1, used.1 + cost);
            }
            assert!(used.0 > 0, "{cores} cores, {partitions} partitions");
            assert!(used.1 * usize::from(cores) <= READINGS_MAX);
            assert_eq!(room.fewer().unwrap_or(10_000), used.0);
        }
    }

    #[test]
    fn one_partition_costs_one_and_the_number_of_replays_counts_too() {
        let room = Room::new(2, 100, 1024, 2);
        assert!(!room.fits((0, 0), room.cost(1024)), "not one of them fits");
        assert!(room.fits((1, 1), room.cost(1)) && !room.fits((2, 2), room.cost(1)));
        assert_eq!((room.fewer(), Room::new(2, 8192, 4, 2).fewer()), (Some(0), None));
    }
}
