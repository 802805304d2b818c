//! How often what a run is there for took place.

use core::fmt;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Counter {
    /// Publishes that were acknowledged.
    Acknowledged,
    /// Faults that took effect.
    Faults,
    /// Nodes that became leader of a partition.
    LeaderChange,
    /// Logs that were truncated.
    Truncation,
    /// Nodes that lost their power and were started again.
    Crash,
    /// Logs of which recovery cut a torn tail.
    TornTail,
    /// Logs in which recovery found damage.
    Damage,
    /// Logs that were whole again after damage.
    Repaired,
    /// Messages that found no room on their link.
    NoRoom,
    /// Records that were read from the log for another node.
    CatchUp,
    /// Logs of replicas that had no room for their next segment; what found no room on a disk of a whole broker.
    DiskFull,
    /// Messages that were lost on their way.
    Lost,
    /// Messages that came twice.
    Repeated,
    /// Messages in which a bit had turned.
    Corrupted,
    /// Links that were cut in one direction or both.
    Cut,
    /// Links that were reset.
    Reset,
    /// Nodes that stood still for a while.
    Pause,
    /// Disks that were slow.
    SlowDisk,
    /// Times in which etcd did not answer.
    EtcdDown,
    /// Times in which etcd was set back to an older revision.
    EtcdRestored,
    /// Candidates that etcd gave too old an epoch.
    OldEpoch,
    /// Nodes that stopped leading, and began again.
    BeganAgain,
    /// Writes into a peer's ring that came to its end.
    RingWrap,
    /// Turns of a link over rings that ended with bytes to send and no credit for them.
    CreditsExhausted,
    /// Sessions that another connection has taken over.
    Takeover,
    /// Exchanges of QoS 2 that went on with another leader.
    CarriedOver,
    /// Acknowledgements at `quorum_memory` that were lost with all who had them in memory.
    Excused,
    /// Messages of QoS 0 that have come.
    Fleeting,
    /// Messages of QoS 0 that were published to a node whose lease had ended.
    WithoutLease,
    /// Nodes that came back with new disks.
    Wiped,
    /// Logs that began anew behind a checkpoint of the leader.
    Learned,
    /// Starts of a log behind a checkpoint.
    BehindCheckpoint,
    /// Times in which a disk of a whole broker was full.
    FullDisk,
    /// Publishes and CONNECTs that were refused for it (0x97).
    Refused,
    /// Disks of whole brokers of which a bit has turned.
    Flipped,
    /// Nodes that did not start for it, and got new ones.
    Replaced,
    /// Ways between whole brokers that were cut in one direction.
    OneWay,
    /// Ways between whole brokers that messages came late on.
    Late,
    /// Records that nodes of whole brokers agreed on.
    Agreed,
    /// Logs of whole brokers that were not truncated, put in place or opened for want of room.
    NoRoomForLog,
    /// Bits that turned in front of a checkpoint of a whole broker.
    Unread,
    /// Whole brokers that read there later, and were replaced.
    Met,
}

/// The counters, in the order of [`Counter`].
pub const NAMES: [&str; 42] = [
    "acknowledged",
    "faults",
    "leader change",
    "truncation",
    "crash",
    "torn tail",
    "damage",
    "repaired",
    "no room on a link",
    "catch-up from the log",
    "ENOSPC",
    "lost",
    "repeated",
    "corrupted",
    "cut",
    "reset",
    "pause",
    "slow disk",
    "etcd down",
    "etcd restored",
    "old epoch refused",
    "began again",
    "ring wrap",
    "credits exhausted",
    "takeover of a session",
    "QoS 2 across a fail-over",
    "excused",
    "QoS 0",
    "QoS 0 without a lease",
    "wiped",
    "learned from a checkpoint",
    "started behind a checkpoint",
    "full disk of a broker",
    "refused for a full disk",
    "bit turned on a broker's disk",
    "replaced for it",
    "cut between brokers one way",
    "late way between brokers",
    "records that brokers agree on",
    "no room to truncate or put in place",
    "bit turned in front of a checkpoint",
    "met later, and replaced",
];

/// What each run of all tests has to have, be it in clusters of replicas or of whole brokers.
pub const DEMANDED: [Counter; 9] = [
    Counter::LeaderChange,
    Counter::Truncation,
    Counter::Learned,
    Counter::TornTail,
    Counter::RingWrap,
    Counter::CreditsExhausted,
    Counter::Takeover,
    Counter::CarriedOver,
    Counter::DiskFull,
];

/// One number for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counters([u64; NAMES.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; NAMES.len()])
    }
}

impl Counters {
    /// One more.
    pub fn count(&mut self, counter: Counter) {
        self.0[counter as usize] += 1;
    }

    /// So many more.
    pub fn count_many(&mut self, counter: Counter, many: u64) {
        self.0[counter as usize] += many;
    }

    /// How many.
    #[must_use]
    pub fn of(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum += more);
    }

    /// The names of those that never took place, and could have.
    #[must_use]
    pub fn missing(&self, kind: Kind) -> Vec<&'static str> {
        let all = NAMES.iter().zip(self.0).enumerate();
        all.filter(|(at, (_, n))| *n == 0 && kind.has(*at)).map(|(_, (name, _))| *name).collect()
    }
}

/// What a run is a cluster of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Replicas with their logs.
    Replicas,
    /// Whole brokers.
    Brokers,
}

impl Kind {
    /// What a column is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Replicas => "replicas",
            Self::Brokers => "brokers",
        }
    }

    fn has(self, counter: usize) -> bool {
        let of_sessions = [
            Counter::Takeover,
            Counter::CarriedOver,
            Counter::Fleeting,
            Counter::WithoutLease,
            Counter::Wiped,
            Counter::Learned,
            Counter::BehindCheckpoint,
            Counter::FullDisk,
            Counter::Refused,
            Counter::Flipped,
            Counter::Replaced,
            Counter::OneWay,
            Counter::Late,
            Counter::Agreed,
            Counter::NoRoomForLog,
            Counter::Unread,
        ];
        let of_both = [
            Counter::Acknowledged,
            Counter::Faults,
            Counter::LeaderChange,
            Counter::Truncation,
            Counter::Crash,
            Counter::TornTail,
            Counter::DiskFull,
            Counter::Cut,
            Counter::Reset,
            Counter::Pause,
            Counter::EtcdDown,
            Counter::BeganAgain,
        ];
        // Too seldom for a few seeds.
        let of_none = [Counter::Excused, Counter::Met];
        let is_in = |counters: &[Counter]| counters.iter().any(|c| *c as usize == counter);
        match self {
            Self::Replicas => !is_in(&of_sessions) && !is_in(&of_none),
            Self::Brokers => is_in(&of_sessions) || is_in(&of_both),
        }
    }
}

/// Counters side by side, each with a name above it.
#[derive(Debug)]
pub struct Table<'a>(pub &'a [(&'static str, Counters)]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(of, _)| write!(f, "{of:>12}"))?;
        writeln!(f)?;
        for (at, name) in NAMES.iter().enumerate() {
            self.0.iter().try_for_each(|(_, counters)| write!(f, "{:>12}", counters.0[at]))?;
            writeln!(f, " {name}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Table(&[("", *self)]))
    }
}
