//! Trimming: how far the log of each partition of this core may go, once a second.
//!
//! A segment goes if retention lets it go, if both kept checkpoints are behind it, and if no partition
//! of any core needs a record of it: to match it, to send it, or to send it again. What is needed
//! is found out by a walk (`sweep`) and is told once the log that says so is flushed; before every
//! partition has told, nothing goes.

use super::live::Durable;
use crate::config::{Config, StreamConfig};
use crate::mail::Mail;
use crate::service::{Broker, Timer, Turn};
use ringlane_dataplane::ids::{CoreId, Offset, PartitionId};
use ringlane_dataplane::log::recovery::ReplayFrom;
use ringlane_dataplane::log::retention::Retention;
use ringlane_dataplane::log::segments::Sealed;
use std::time::Duration;

/// How often a core goes on with the walks of its partitions, one behind the other, and how far in one
/// turn: sessions, filters, ranges of postings and what is dropped of them, together. That is some
/// 200 us, and 200,000 of them a second.
const WALK_EVERY: Duration = Duration::from_millis(20);
const WALK_BUDGET: usize = 4096;

/// What a partition needs of all logs.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// What a walk has found out; it holds once the log is flushed up to the offset.
    found: Option<(Offset, Vec<u64>)>,
    told: Vec<u64>,
}

/// What is known of the needs of all partitions of the node.
#[derive(Debug)]
pub(super) struct Trimming {
    /// Of each log; what its streams share.
    retention: Retention,
    /// The lowest offset that each partition needs of each log of this core, as far as it has told.
    needs: Vec<Vec<Option<u64>>>,
}

impl Trimming {
    /// For a core that owns `own` of `partitions`.
    pub(super) fn new(config: &Config, own: usize, partitions: u32) -> Self {
        let needs = vec![vec![None; partitions as usize]; own];
        Self { retention: retention(config, partitions), needs }
    }

    /// The lowest offset of a log that anybody needs, once all have told.
    fn needed(&self, index: usize) -> Option<u64> {
        self.needs[index].iter().copied().collect::<Option<Vec<_>>>()?.into_iter().min()
    }
}

/// How long a partition keeps its records: as the longest of all streams says, because each may have
/// some in it. Sizes are those of the node, and are shared out.
fn retention(config: &Config, partitions: u32) -> Retention {
    let of = |stream: &StreamConfig| Retention {
        bytes: Some(stream.retention_size)
            .filter(|bytes| *bytes > 0)
            .map(|bytes| bytes / u64::from(partitions.max(1))),
        age_ms: Some(stream.retention_age)
            .filter(|age| !age.is_zero())
            .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
    };
    let all = config.streams();
    all.iter().map(of).reduce(Retention::widest).unwrap_or_default()
}

impl Durable {
    /// What a partition of the node needs of the logs of this core.
    fn note_needs(
        &mut self,
        logs: impl Iterator<Item = PartitionId>,
        by: PartitionId,
        needs: &[u64],
    ) {
        for (log, known) in logs.zip(&mut self.trimming.needs) {
            if let Some(known) = known.get_mut(by.0 as usize) {
                *known = needs.get(log.0 as usize).copied();
            }
        }
    }
}

impl Broker {
    /// Begins a walk of each partition, unless those of last time have not ended.
    pub(super) fn begin_walks(&mut self, turn: &mut Turn<'_>) {
        if let Some(durable) = self.durable.as_mut().filter(|durable| durable.walk.is_none()) {
            durable.walk = Some(0);
            turn.timers.schedule(turn.now + WALK_EVERY, Timer::Walk);
        }
    }

    /// Goes on with the walks, as far as one turn may.
    pub(crate) fn on_walk_timer(&mut self, turn: &mut Turn<'_>) {
        let mut budget = WALK_BUDGET;
        while let Some(durable) = &mut self.durable
            && let Some(index) = durable.walk
            && budget > 0
        {
            if index == durable.partitions.len() {
                durable.walk = None;
                return;
            }
            self.look_for_needs(turn, index, &mut budget);
        }
        turn.timers.schedule(turn.now + WALK_EVERY, Timer::Walk);
    }

    /// Goes on with the walk of a partition; behind its end with that of the next one.
    fn look_for_needs(&mut self, turn: &mut Turn<'_>, index: usize, budget: &mut usize) {
        let Self { durable: Some(durable), partitions, .. } = self else { return };
        let marks = partitions[index].marks();
        let own = &mut durable.partitions[index];
        if let Some(found) = own.state.sweep(&mut own.sweep, budget) {
            durable.walk = Some(index + 1);
            // What waits to be flushed is not put off by what comes later.
            own.needs.found.get_or_insert((marks.accepted, found));
        }
        self.note_behind(index);
        self.tell_needs(turn, index);
    }

    /// Sessions that are sent nothing and acknowledge nothing have their positions recorded, too.
    fn note_behind(&mut self, index: usize) {
        let Some(durable) = &mut self.durable else { return };
        for slot in durable.partitions[index].sweep.take_behind() {
            let Some(durable) = &self.durable else { return };
            let Some(session) = durable.partitions[index].state.session(slot) else { continue };
            let hash = self.placement.client_hash(&session.client_id);
            if let Some(id) = self.sessions.find(&session.client_id, hash) {
                self.note_moved(id);
            }
        }
    }

    /// Tells what the last walk has found out, once it holds.
    pub(super) fn tell_needs(&mut self, turn: &mut Turn<'_>, index: usize) {
        let partition = self.partitions[index].id();
        let flushed = self.partitions[index].marks().high_watermark;
        let Some(durable) = &mut self.durable else { return };
        let needs = &mut durable.partitions[index].needs;
        let Some((_, found)) = needs.found.take_if(|(end, _)| *end <= flushed) else { return };
        if needs.told == found {
            return;
        }
        needs.told.clone_from(&found);
        let own = self.core;
        for to in (0..self.cores()).map(CoreId).filter(|to| *to != own) {
            let needs = found.clone();
            self.send_mail(turn, to, Mail::LogNeeds { partition, needs });
        }
        self.on_log_needs(partition, &found);
    }

    /// What a partition of another core, or of this one, needs of the logs of this core.
    pub(crate) fn on_log_needs(&mut self, by: PartitionId, needs: &[u64]) {
        let logs = self.placement.owned(self.core);
        if let Some(durable) = &mut self.durable {
            durable.note_needs(logs, by, needs);
        }
    }

    /// Trims the logs of this core as far as they may be.
    pub(super) fn trim_logs(&mut self, turn: &Turn<'_>) {
        let partitions = self.durable.as_ref().map_or(0, |durable| durable.partitions.len());
        for index in 0..partitions {
            self.trim_log(turn, index);
        }
    }

    fn trim_log(&mut self, turn: &Turn<'_>, index: usize) {
        let unix_ms = self.unix_ms(turn.now);
        let held = self.kept_for_followers(index);
        let Self { durable: Some(durable), partitions, metrics, .. } = self else { return };
        let Some(needed) = durable.trimming.needed(index) else { return };
        let partition = &mut partitions[index];
        // What comes behind the last publish are records of state: nobody else needs them.
        let needed = if partition.published().0 <= needed { u64::MAX } else { needed };
        let retention = durable.trimming.retention;
        let own = &mut durable.partitions[index];
        let Some(log) = partition.log_mut() else { return };
        let marks = log.marks();
        let sealed = log.segments().sealed();
        let below = |needed| retention.trim_below(sealed.iter(), unix_ms, needed);
        let needed = Offset(needed).min(marks.high_watermark).min(held);
        let kept = own.checkpoints.older().map(|older| replayed_from(&older, sealed.iter()));
        let (wanted, allowed) = (below(needed), below(needed.min(kept.unwrap_or_default())));
        own.checkpoints.want(turn.now, allowed < wanted, log.full().is_some());
        if allowed <= marks.start {
            return;
        }
        let before = sealed.len();
        log.trim(allowed);
        let trimmed = before - log.segments().sealed().len();
        own.state.trim_epochs(log.marks().start.0);
        metrics.log_segments_trimmed.add(trimmed as u64);
    }
}

/// The first offset that replay of a checkpoint needs. The segment that it begins in stays, also if
/// it begins at the end of that one, behind all its records.
pub(super) fn replayed_from<'a>(
    from: &ReplayFrom,
    mut sealed: impl Iterator<Item = &'a Sealed>,
) -> Offset {
    let segment = sealed.find(|segment| segment.number == from.segment);
    segment.map_or(from.offset, |segment| segment.base.min(from.offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringlane_dataplane::log::format::SegmentId;
    use std::time::Duration;

    fn stream(name: &str, bytes: u64, secs: u64) -> StreamConfig {
        let (retention_size, retention_age) = (bytes, Duration::from_secs(secs));
        let filters = vec![name.to_owned()];
        StreamConfig {
            name: name.to_owned(),
            filters,
            retention_size,
            retention_age,
            ..StreamConfig::default()
        }
    }

    #[test]
    fn the_longest_of_all_streams_counts_and_sizes_are_shared_out() {
        let of = |streams: Vec<StreamConfig>| {
            let rest = StreamConfig {
                retention_size: 400,
                retention_age: Duration::from_secs(1),
                ..StreamConfig::rest()
            };
            let stream = streams.into_iter().chain([rest]).collect();
            retention(&Config { stream, ..Config::default() }, 4)
        };
        assert_eq!(of(vec![]), Retention { bytes: Some(100), age_ms: Some(1000) });
        let wide = of(vec![stream("a", 800, 1), stream("b", 4, 60)]);
        assert_eq!(wide, Retention { bytes: Some(200), age_ms: Some(60_000) });
        let endless = of(vec![stream("a", 0, 1), stream("b", 4, 0)]);
        assert_eq!(endless, Retention { bytes: None, age_ms: None });
    }

    #[test]
    fn nothing_is_known_before_all_have_told() {
        let mut trimming = Trimming::new(&Config::default(), 1, 2);
        assert_eq!(trimming.needed(0), None);
        trimming.needs[0][1] = Some(7);
        assert_eq!(trimming.needed(0), None);
        trimming.needs[0][0] = Some(9);
        assert_eq!(trimming.needed(0), Some(7));
    }

    #[test]
    fn the_segment_that_replay_begins_in_is_kept() {
        let segment = |number| Sealed {
            number,
            id: SegmentId([0; 16]),
            base: Offset(number * 10),
            end: Offset(number * 10 + 10),
            file_bytes: 100,
            last_unix_ms: 0,
        };
        let sealed: Vec<_> = (0..3).map(segment).collect();
        let kept = |segment, offset| {
            let from =
                ReplayFrom { offset: Offset(offset), segment, position: 99, flushed: Offset(0) };
            let needed = replayed_from(&from, sealed.iter());
            Retention { bytes: Some(0), age_ms: None }.trim_below(sealed.iter(), 0, needed).0
        };
        assert_eq!(kept(1, 15), 10, "in the midst of it");
        assert_eq!(kept(1, 20), 10, "behind all its records");
        assert_eq!(kept(2, 20), 20);
        assert_eq!(kept(3, 30), 30, "not sealed yet");
    }
}
