//! The filters that records are posted for, of the partitions of one core.

use ringlane_dataplane::routing::FilterTree;

/// A filter that records are posted for: some durable session of a partition subscribes to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Posted {
    /// Where the partition stands in this core's table.
    pub(crate) partition: u16,
    /// The filter's number there.
    pub(crate) filter: u32,
}

/// Those filters. They go from core to control thread and back at a takeover, because both match records
/// with them, and there may be too many to be put together then.
#[derive(Debug, Default)]
pub(crate) struct PostedFilters(FilterTree<Vec<Posted>>);

impl PostedFilters {
    /// Records are posted for a filter of this partition from now on, under this number; or not any
    /// more.
    pub(crate) fn set(&mut self, filter: &str, partition: u16, number: Option<u32>) {
        let Some(number) = number else { return self.remove(filter, partition) };
        let posted = Posted { partition, filter: number };
        let list = self.0.entry(filter, || Vec::with_capacity(1));
        match list.iter_mut().find(|posted| posted.partition == partition) {
            Some(known) => *known = posted,
            None => list.push(posted),
        }
    }

    fn remove(&mut self, filter: &str, partition: u16) {
        let Some(list) = self.0.get_mut(filter) else { return };
        list.retain(|posted| posted.partition != partition);
        if list.is_empty() {
            self.0.remove(filter);
        }
    }

    /// Puts in the filters that match a topic, those of one partition side by side.
    pub(crate) fn of_topic(&self, topic: &str, into: &mut Vec<Posted>) {
        into.clear();
        self.0.for_each_match(topic, &mut |list| into.extend_from_slice(list));
        into.sort_unstable();
    }

    #[cfg(test)]
    pub(crate) fn get(&self, filter: &str) -> &[Posted] {
        self.0.get(filter).map_or(&[], Vec::as_slice)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partition_has_its_number_until_it_gives_it_up() {
        let mut filters = PostedFilters::default();
        for (filter, partition, number) in [("a", 1, 7), ("+", 0, 5), ("a", 0, 3), ("a", 1, 8)] {
            filters.set(filter, partition, Some(number));
        }
        let mut found = Vec::new();
        filters.of_topic("a", &mut found);
        let numbers: Vec<_> = found.iter().map(|p| (p.partition, p.filter)).collect();
        assert_eq!(numbers, [(0, 3), (0, 5), (1, 8)]);
        for (filter, partition) in [("a", 0), ("a", 1), ("b", 1), ("+", 0)] {
            filters.set(filter, partition, None);
        }
        filters.of_topic("a", &mut found);
        assert!(found.is_empty() && filters.len() == 0);
    }
}
