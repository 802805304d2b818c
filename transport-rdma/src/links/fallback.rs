//! Peers that are reached over TCP for a while, although both ends offer verbs: between two devices
//! there need not be a way, and locked memory may be short, which no hello shows.
//!
//! A dial counts as a failure if the peer was spoken to and nothing of a write of this node or the peer
//! ever landed. After [`FAILURES_MAX`] of them in a row dials to that address offer TCP alone, for
//! [`TCP_FOR`].

use core::net::SocketAddr;
use core::time::Duration;
use std::time::Instant;

/// Failures in a row from which on a peer is reached over TCP.
const FAILURES_MAX: u32 = 3;
/// How long it is.
const TCP_FOR: Duration = Duration::from_secs(30);
/// Addresses that are remembered; the configuration of a cluster has fewer.
const ADDRESSES_MAX: usize = 64;

#[derive(Debug)]
struct Entry {
    address: SocketAddr,
    failures: u32,
    /// Over TCP until then.
    until: Option<Instant>,
}

/// What became of dials over verbs.
#[derive(Debug, Default)]
pub(super) struct Fallback {
    entries: Vec<Entry>,
}

impl Fallback {
    /// Whether the address is to be dialed over TCP.
    pub(super) fn is_tcp(&mut self, address: SocketAddr, now: Instant) -> bool {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.address == address) else {
            return false;
        };
        if entry.until.is_some_and(|until| until <= now) {
            // One more failure is enough then.
            (entry.until, entry.failures) = (None, FAILURES_MAX - 1);
        }
        entry.until.is_some()
    }

    /// Something landed on a link to the address.
    pub(super) fn on_success(&mut self, address: SocketAddr) {
        self.entries.retain(|entry| entry.address != address);
    }

    /// Nothing did. True if this makes it one that is reached over TCP.
    pub(super) fn on_failure(&mut self, address: SocketAddr, now: Instant) -> bool {
        let known = self.entries.iter().position(|entry| entry.address == address);
        let index = known.unwrap_or_else(|| {
            if self.entries.len() == ADDRESSES_MAX {
                self.entries.remove(0);
            }
            self.entries.push(Entry { address, failures: 0, until: None });
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

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    #[test]
    fn failures_in_a_row_lead_to_tcp_for_a_while_and_then_one_is_enough() {
        let (mut fallback, now) = (Fallback::default(), Instant::now());
        for _ in 1..FAILURES_MAX {
            assert!(!fallback.on_failure(address(1), now));
        }
        assert!(!fallback.is_tcp(address(1), now));
        assert!(fallback.on_failure(address(1), now));
        assert!(!fallback.on_failure(address(1), now), "it is said once");
        assert!(fallback.is_tcp(address(1), now) && !fallback.is_tcp(address(2), now));
        let later = now + TCP_FOR;
        assert!(!fallback.is_tcp(address(1), later));
        assert!(fallback.on_failure(address(1), later));
        assert!(fallback.is_tcp(address(1), later));
    }

    #[test]
    fn one_success_forgives_all() {
        let (mut fallback, now) = (Fallback::default(), Instant::now());
        for _ in 0..5 {
            fallback.on_failure(address(1), now);
        }
        fallback.on_success(address(1));
        assert!(!fallback.is_tcp(address(1), now));
        assert!(!fallback.on_failure(address(1), now));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut fallback, now) = (Fallback::default(), Instant::now());
        for port in 1..1000 {
            fallback.on_failure(address(port), now);
        }
        assert_eq!(fallback.entries.len(), ADDRESSES_MAX);
    }
}
