//! What arrives when between hosts: nothing on a way that is cut, and late on one that is slow.

use ringlane_dataplane::link::memory::{HostId, Way, WayId};
use ringlane_dataplane::random::Random;
use ringlane_dataplane::time::Nanos;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// From which host, and to which.
pub(super) type Direction = (HostId, HostId);

/// The ways between all hosts. What waits on one arrives in order, whatever each takes.
#[derive(Debug)]
pub(super) struct Ways {
    /// Nothing arrives here; it waits.
    pub(super) cut: Vec<Direction>,
    /// What sets out here takes this long, at most.
    pub(super) late: Vec<(Direction, Duration)>,
    /// What anything takes, at most.
    pub(super) usual: Duration,
    random: Random,
    /// When what waits arrives.
    due: BTreeMap<WayId, VecDeque<Nanos>>,
}

impl Ways {
    /// Everything arrives at once.
    pub(super) fn new(random: Random) -> Self {
        let (cut, late, due) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self { cut, late, usual: Duration::ZERO, random, due }
    }

    /// Nothing arrives between these hosts and those any more, in either direction.
    pub(super) fn cut_between(&mut self, these: &[HostId], those: &[HostId]) {
        for one in these {
            self.cut.extend(those.iter().flat_map(|other| [(*one, *other), (*other, *one)]));
        }
    }

    /// Whether the next of a way arrives. What sets out is late or not, however long it waits for a way that is open.
    pub(super) fn arrives(&mut self, way: &Way, now: Nanos) -> bool {
        let takes = self.takes_at_most((way.from, way.to));
        let Self { random, due, .. } = self;
        let times = due.entry(way.id).or_default();
        if times.len() > way.waiting {
            // The link is over, and what was under way is lost: its end comes next.
            times.clear();
        }
        while times.len() < way.waiting {
            let last = times.back().copied().unwrap_or_default();
            times.push_back(last.max(now + drawn(random, takes)));
        }
        let is_here = times.front().is_some_and(|due| *due <= now);
        is_here && !self.cut.contains(&(way.from, way.to))
    }

    /// The next of a way is taken.
    pub(super) fn take(&mut self, way: WayId) {
        let Some(times) = self.due.get_mut(&way) else { return };
        times.pop_front();
        if times.is_empty() {
            self.due.remove(&way);
        }
    }

    fn takes_at_most(&self, direction: Direction) -> Duration {
        let late = self.late.iter().filter(|(of, _)| *of == direction).map(|(_, takes)| *takes);
        late.fold(self.usual, Duration::max)
    }
}

/// So long or less. Who is never late costs no draw.
fn drawn(random: &mut Random, longest: Duration) -> Duration {
    if longest.is_zero() { longest } else { random.micros(0, longest.as_micros() as u64) }
}
