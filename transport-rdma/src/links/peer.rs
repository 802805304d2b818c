//! One peer of a core: a connection on its way to a link, or a link.

use super::fallback::Verdict;
use super::greeting::Greeting;
use crate::endpoint::Endpoint;
use crate::error::DownCause;
use crate::queue_pair::{PairAddress, QueuePair};
use crate::ring::{RING_BYTES_MAX, RING_BYTES_MIN};
use core::net::SocketAddr;
use ringlane_dataplane::link::{LinkDown, LinkId};
use ringlane_dataplane::replication::hello::{Hello, HelloError, RdmaEnd};
use std::time::Instant;

/// How far a peer has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// A dial that waits for its time.
    Resting,
    /// A dial whose connection is not there yet.
    Connecting,
    /// Its hello has not come.
    Greeting,
    /// Its hello has come, and the core has not answered.
    Greeted,
    /// It was answered, and has not said that it is ready.
    Confirming,
    /// A link.
    Up,
}

/// A link in use.
pub(super) type LinkEnd = Endpoint<QueuePair>;

/// A peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    pub(super) phase: Phase,
    /// When the phase is over at the latest; none for a link.
    pub(super) deadline: Option<Instant>,
    /// When a dial gives up; none for who was accepted.
    pub(super) gives_up_at: Option<Instant>,
    pub(super) link: Option<LinkId>,
    /// No queue pair could be made here, or connected with its own.
    pub(super) lacks_pair: bool,
    pub(super) own: Option<Box<Hello>>,
    pub(super) theirs: Option<Box<Hello>>,
    pub(super) greeting: Option<Greeting>,
    /// Before it is a link.
    pub(super) pair: Option<Box<QueuePair>>,
    /// Once it is one, or about to be.
    pub(super) end: Option<Box<LinkEnd>>,
    /// Why it ends, once what has come is delivered.
    pub(super) cause: Option<DownCause>,
}

impl Peer {
    pub(super) fn new(address: SocketAddr, phase: Phase) -> Self {
        Self {
            address,
            phase,
            deadline: None,
            gives_up_at: None,
            link: None,
            lacks_pair: false,
            own: None,
            theirs: None,
            greeting: None,
            pair: None,
            end: None,
            cause: None,
        }
    }

    /// What it says of the way over verbs, now that it has ended.
    pub(super) fn verdict(&self) -> Verdict {
        let has_worked = self.end.as_ref().is_some_and(|end| end.has_worked());
        let has_failed = self.lacks_pair || self.cause.as_ref().is_some_and(shows_no_way);
        match (has_worked, has_failed) {
            (true, _) => Verdict::Worked,
            (false, true) => Verdict::Failed,
            (false, false) => Verdict::Nothing,
        }
    }
}

impl From<&PairAddress> for RdmaEnd {
    /// The address as a hello says it.
    fn from(address: &PairAddress) -> Self {
        Self {
            queue_pair: address.number,
            packet_sequence: address.psn,
            gid: address.gid,
            path_mtu: address.mtu as u16,
            ring_key: address.ring_key,
            ring_address: address.ring_address,
            ring_bytes: u64::from(address.ring_bytes),
        }
    }
}

/// The address that a hello says.
pub(super) fn pair_address(end: &RdmaEnd) -> Result<PairAddress, LinkDown> {
    let bytes = u32::try_from(end.ring_bytes).ok();
    let bytes = bytes.filter(|bytes| (RING_BYTES_MIN..=RING_BYTES_MAX).contains(bytes));
    let ring_bytes = bytes.ok_or(LinkDown::NoHello(HelloError::Value))?;
    Ok(PairAddress {
        number: end.queue_pair,
        psn: end.packet_sequence,
        gid: end.gid,
        mtu: u32::from(end.path_mtu),
        ring_address: end.ring_address,
        ring_key: end.ring_key,
        ring_bytes,
    })
}

/// Whether a link that ended so, and that nothing has come through, shows that there is no way: this node's own
/// device says so. What a peer has ended, or refuses, is no fault of the way.
fn shows_no_way(cause: &DownCause) -> bool {
    match cause {
        DownCause::Silent | DownCause::Call { .. } | DownCause::Work(_) => true,
        DownCause::Device(event) => event.is_queue_fatal(),
        DownCause::Refused(_)
        | DownCause::NotReady
        | DownCause::Flushed
        | DownCause::Protocol(_)
        | DownCause::PeerClosed
        | DownCause::Revoked
        | DownCause::Local => false,
    }
}

/// What the core is told of a cause.
pub(super) fn link_down(cause: &DownCause) -> LinkDown {
    match cause {
        DownCause::Revoked | DownCause::Local => LinkDown::Revoked,
        DownCause::PeerClosed => LinkDown::Ended,
        DownCause::Silent => LinkDown::Error(libc::ETIMEDOUT),
        // The peer has taken our right to write: another may lead.
        DownCause::Refused(_) => LinkDown::Error(libc::EACCES),
        DownCause::NotReady => LinkDown::Error(libc::ENOBUFS),
        DownCause::Flushed => LinkDown::Error(libc::ECONNRESET),
        DownCause::Protocol(crate::ring::RingError::MessageBytes(bytes)) => {
            LinkDown::Length(*bytes)
        }
        DownCause::Protocol(_) => LinkDown::Error(libc::EPROTO),
        DownCause::Call { errno, .. } => LinkDown::Error(*errno),
        DownCause::Device(_) => LinkDown::Error(libc::ENODEV),
        DownCause::Work(_) => LinkDown::Error(libc::EIO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{AsyncEvent, WorkStatus};
    use crate::ring::RingError;

    fn ended(cause: Option<DownCause>, lacks_pair: bool) -> Verdict {
        let peer = Peer::new(SocketAddr::from(([10, 0, 0, 2], 7883)), Phase::Up);
        Peer { cause, lacks_pair, ..peer }.verdict()
    }

    #[test]
    fn what_the_own_device_says_of_the_way_is_a_failure() {
        let call = DownCause::Call { call: "ibv_post_send", errno: libc::EINVAL };
        let fatal = DownCause::Device(AsyncEvent { kind: 1, subject: 7 });
        for cause in [DownCause::Silent, call, fatal, WorkStatus(19).cause()] {
            assert_eq!(ended(Some(cause.clone()), false), Verdict::Failed, "{cause}");
        }
        assert_eq!(ended(None, true), Verdict::Failed, "no queue pair");
    }

    #[test]
    fn what_somebody_has_ended_or_refused_says_nothing_of_the_way() {
        let causes = [
            DownCause::PeerClosed,
            DownCause::Revoked,
            DownCause::Local,
            WorkStatus::REM_ACCESS.cause(),
            WorkStatus::RNR_RETRY_EXC.cause(),
            WorkStatus::WR_FLUSH.cause(),
            DownCause::Protocol(RingError::MessageBytes(1)),
            DownCause::Device(AsyncEvent { kind: 10, subject: 0 }),
        ];
        for cause in causes {
            assert_eq!(ended(Some(cause.clone()), false), Verdict::Nothing, "{cause}");
        }
        assert_eq!(ended(None, false), Verdict::Nothing, "a dial that was turned away");
    }

    #[test]
    fn addresses_come_back_from_hellos_and_impossible_rings_do_not() {
        let address = PairAddress {
            number: 0x12_3456,
            psn: 0xab_cdef,
            gid: [7; 16],
            mtu: 1024,
            ring_address: 0x7f00_0000_0000,
            ring_key: 99,
            ring_bytes: 4 << 20,
        };
        assert_eq!(pair_address(&RdmaEnd::from(&address)), Ok(address));
        for bytes in [0, 100, 1 << 31, u64::MAX >> 1] {
            let end = RdmaEnd { ring_bytes: bytes, ..RdmaEnd::from(&address) };
            assert!(pair_address(&end).is_err(), "{bytes}");
        }
    }
}
