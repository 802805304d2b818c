//! Peers that are reached over TCP for a while, although both ends offer verbs: between two devices
//! there need not be a way, and locked memory may be short, which no hello shows.
//!
//! Both ends count. A node knows those that it dials by their addresses: their dials offer TCP alone
//! once they have fallen. Those that dial it, it knows by their numbers: their links are handed to TCP
//! as they arrive. On a link that only one end writes to, only that end learns that there is no way.
//!
//! What counts as a failure is what this node's own device says: it makes or connects no queue pair, or
//! a link that nothing has come through either way ends because a call fails or, mostly, because the
//! peer's card acknowledges no write. A link that the peer has ended or refused, or that this node has
//! revoked, says nothing, whatever was written to it: fences and ends of processes are no fault of the
//! way. After [`FAILURES_MAX`] failures in a row it is TCP, for [`TCP_FOR`].

use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;
use ringlane_dataplane::ids::NodeId;
use std::time::Instant;

/// Failures in a row from which on a peer is reached over TCP.
const FAILURES_MAX: u32 = 3;
/// How long it is.
const TCP_FOR: Duration = Duration::from_secs(30);
/// Peers that are remembered; the configuration of a cluster has fewer.
const PEERS_MAX: usize = 64;

/// A peer that is reached over TCP for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fallen {
    /// This node dials it.
    Dialed(SocketAddr),
    /// It dials this node.
    Accepted(NodeId),
}

impl fmt::Display for Fallen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dialed(address) => write!(f, "{address}, which this node dials"),
            Self::Accepted(node) => write!(f, "node {node}, which dials this node"),
        }
    }
}

/// What a link that has ended says of the way over verbs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Something has landed.
    Worked,
    /// Nothing has, and this node's device says that there is no way.
    Failed,
    /// It ended for another reason.
    Nothing,
}

#[derive(Debug)]
struct Entry<K> {
    peer: K,
    failures: u32,
    /// Over TCP until then.
    until: Option<Instant>,
}

/// What became of links over verbs with peers that are known by `K`.
#[derive(Debug)]
pub(super) struct Fallback<K> {
    entries: Vec<Entry<K>>,
}

impl<K: PartialEq> Fallback<K> {
    /// Nothing is known.
    pub(super) fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// Whether the peer is to be reached over TCP.
    pub(super) fn is_tcp(&mut self, peer: &K, now: Instant) -> bool {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.peer == *peer) else {
            return false;
        };
        if entry.until.is_some_and(|until| until <= now) {
            // One more failure is enough then.
            (entry.until, entry.failures) = (None, FAILURES_MAX - 1);
        }
        entry.until.is_some()
    }

    /// Counts a link that has ended. True if this makes its peer one that is reached over TCP.
    pub(super) fn count(&mut self, peer: K, verdict: Verdict, now: Instant) -> bool {
        match verdict {
            Verdict::Worked => {
                self.entries.retain(|entry| entry.peer != peer);
                false
            }
            Verdict::Failed => self.on_failure(peer, now),
            Verdict::Nothing => false,
        }
    }

    fn on_failure(&mut self, peer: K, now: Instant) -> bool {
        let known = self.entries.iter().position(|entry| entry.peer == peer);
        let index = known.unwrap_or_else(|| {
            if self.entries.len() == PEERS_MAX {
                self.entries.remove(0);
            }
            self.entries.push(Entry { peer, failures: 0, until: None });
            self.entries.len() - 1
        });
        let entry = &mut self.entries[index];
        entry.failures = (entry.failures + 1).min(FAILURES_MAX);
        let is_new = entry.failures == FAILURES_MAX && entry.until.is_none();
        if is_new {
            entry.until = Some(now + TCP_FOR);
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u16) -> NodeId {
        NodeId(number)
    }

    fn fails(fallback: &mut Fallback<NodeId>, number: u16, now: Instant) -> bool {
        fallback.count(node(number), Verdict::Failed, now)
    }

    #[test]
    fn failures_in_a_row_lead_to_tcp_for_a_while_and_then_one_is_enough() {
        let (mut fallback, now) = (Fallback::new(), Instant::now());
        for _ in 1..FAILURES_MAX {
            assert!(!fails(&mut fallback, 1, now));
        }
        assert!(!fallback.is_tcp(&node(1), now));
        assert!(fails(&mut fallback, 1, now));
        assert!(!fails(&mut fallback, 1, now), "it is said once");
        assert!(fallback.is_tcp(&node(1), now) && !fallback.is_tcp(&node(2), now));
        let later = now + TCP_FOR;
        assert!(!fallback.is_tcp(&node(1), later));
        assert!(fails(&mut fallback, 1, later));
        assert!(fallback.is_tcp(&node(1), later));
    }

    #[test]
    fn one_success_forgives_all_and_what_says_nothing_changes_nothing() {
        let (mut fallback, now) = (Fallback::new(), Instant::now());
        for _ in 0..5 {
            fails(&mut fallback, 1, now);
        }
        assert!(!fallback.count(node(1), Verdict::Nothing, now));
        assert!(fallback.is_tcp(&node(1), now));
        assert!(!fallback.count(node(1), Verdict::Worked, now));
        assert!(!fallback.is_tcp(&node(1), now));
        assert!(!fails(&mut fallback, 1, now));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut fallback, now) = (Fallback::new(), Instant::now());
        for number in 1..1000 {
            fails(&mut fallback, number, now);
        }
        assert_eq!(fallback.entries.len(), PEERS_MAX);
    }

    #[test]
    fn who_has_fallen_is_said_with_the_direction() {
        let dialed = Fallen::Dialed(SocketAddr::from(([10, 0, 0, 2], 7883)));
        assert_eq!(dialed.to_string(), "10.0.0.2:7883, which this node dials");
        let accepted = Fallen::Accepted(node(1));
        assert_eq!(accepted.to_string(), "node 1, which dials this node");
    }
}
