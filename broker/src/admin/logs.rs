//! The logs of a core's partitions.

use super::LogView;
use crate::ctl::rows::PartitionRow;
use crate::service::Broker;

impl Broker {
    pub(super) fn list_logs(&self) -> Vec<LogView> {
        (0..self.partitions.len()).filter_map(|index| self.log_view(index)).collect()
    }

    fn log_view(&self, index: usize) -> Option<LogView> {
        let partition = &self.partitions[index];
        let log = partition.log()?;
        let marks = partition.marks();
        let state = match (log.fault(), log.full()) {
            (Some(_), _) => "failed",
            (None, Some(_)) => "full",
            (None, None) => "open",
        };
        let row = PartitionRow {
            partition: partition.id().0,
            core: self.core.0,
            state: state.to_owned(),
            segments: log.segments().count() as u64,
            bytes: log.segments().file_bytes(),
            first_offset: marks.start.0,
            next_offset: marks.accepted.0,
            flushed_offset: marks.flushed.0,
            needed: Vec::new(),
        };
        let own = self.durable.as_ref().and_then(|durable| durable.partitions.get(index));
        let all = 0..self.placement.partitions();
        let matched = own.map_or_else(Vec::new, |own| {
            all.map(|partition| (partition, own.state.matched_from(partition))).collect()
        });
        Some(LogView { row, matched })
    }
}
