//! When a core of a peer may be dialed again: two tries are never closer together than that, whatever
//! became of the links between them.

use core::net::SocketAddr;
use core::time::Duration;
use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::time::Nanos;

#[derive(Debug)]
struct Entry {
    address: SocketAddr,
    core: CoreId,
    not_before: Nanos,
    delay: Duration,
}

/// The tries of late. As many entries as cores of peers were dialed, which the configuration of
/// the cluster bounds.
#[derive(Debug, Default)]
pub(crate) struct Backoffs(Vec<Entry>);

impl Backoffs {
    /// When the next try may begin; it counts as made then.
    pub(crate) fn next(
        &mut self,
        (address, core): (SocketAddr, CoreId),
        now: Nanos,
        (min, max): (Duration, Duration),
    ) -> Nanos {
        let index = self.find(address, core).unwrap_or_else(|| {
            // Those whose time has long come say nothing.
            self.0.retain(|entry| now < entry.not_before + max);
            self.0.push(Entry { address, core, not_before: now, delay: min });
            self.0.len() - 1
        });
        let entry = &mut self.0[index];
        let at = entry.not_before.max(now);
        entry.not_before = at + entry.delay;
        entry.delay = (entry.delay * 2).min(max);
        at
    }

    /// The peer was reached and stayed: the next try is the first one.
    pub(crate) fn forget(&mut self, address: SocketAddr, core: CoreId) {
        if let Some(index) = self.find(address, core) {
            self.0.swap_remove(index);
        }
    }

    fn find(&self, address: SocketAddr, core: CoreId) -> Option<usize> {
        self.0.iter().position(|entry| entry.address == address && entry.core == core)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(35));

    fn millis(at: u64) -> Nanos {
        Nanos(at * 1_000_000)
    }

    #[test]
    fn tries_come_further_apart_up_to_a_bound() {
        let mut backoffs = Backoffs::default();
        let peer = (SocketAddr::from(([10, 0, 0, 1], 1)), CoreId(3));
        let mut next = |now| backoffs.next(peer, millis(now), LIMITS);
        assert_eq!([next(0), next(1), next(1)], [millis(0), millis(10), millis(30)]);
        assert_eq!([next(1), next(500), next(501)], [millis(65), millis(500), millis(535)]);
    }

    #[test]
    fn peers_do_not_wait_for_each_other_and_are_forgotten() {
        let mut backoffs = Backoffs::default();
        let peer = |core| (SocketAddr::from(([10, 0, 0, 1], 1)), CoreId(core));
        for core in 0..20 {
            assert_eq!(backoffs.next(peer(core), millis(0), LIMITS), millis(0));
        }
        backoffs.forget(peer(4).0, peer(4).1);
        assert_eq!(backoffs.next(peer(4), millis(1), LIMITS), millis(1));
        assert_eq!(backoffs.0.len(), 20);
        assert_eq!(backoffs.next(peer(99), millis(1000), LIMITS), millis(1000));
        assert_eq!(backoffs.0.len(), 1);
    }
}
