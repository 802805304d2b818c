//! What can go wrong with a device, and why a link ended.

use crate::sys::LoadError;
use std::io;

/// Why a device, or something on it, cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RdmaError {
    /// No library.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The kernel has no RDMA, or none of its devices is in sight.
    #[error("there is no RDMA device")]
    NoDevice,
    /// The device that the configuration names is not there.
    #[error("there is no RDMA device {0}")]
    NoSuchDevice(String),
    /// No port of the device carries data, or the one that was named does not.
    #[error("no active port on RDMA device {0}")]
    NoActivePort(String),
    /// The port has no address that a peer could be reached from.
    #[error("port {port} of RDMA device {device} has no RoCE v2 address; name one by its index")]
    NoGid {
        /// The device.
        device: String,
        /// The port.
        port: u16,
    },
    /// A call of the library failed.
    #[error("{call}: {error}{}", hint(.error))]
    Call {
        /// The function.
        call: &'static str,
        /// What it said.
        error: io::Error,
    },
    /// A setting that no device can follow.
    #[error("{0}")]
    Setting(String),
}

impl RdmaError {
    /// The last error of a library call that sets `errno`.
    pub(crate) fn last(call: &'static str) -> Self {
        Self::Call { call, error: io::Error::last_os_error() }
    }

    /// A closure for `map_err`.
    pub(crate) fn of(call: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::Call { call, error }
    }
}

/// What an operator can do about it.
fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => " (locked memory may be limited: LimitMEMLOCK=infinity, ulimit -l)",
        Some(libc::EFAULT) => " (this kernel pins no such memory for remote writes)",
        _ => "",
    }
}

/// Why a link over verbs ended. None of them heals by itself: the link is made anew.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DownCause {
    /// The peer answered nothing, not even the network card's acknowledgement: it is gone or the
    /// way is cut.
    #[error("the peer does not answer")]
    Silent,
    /// The peer refused the write: it has revoked our right, or the ring is not there any more.
    #[error("the peer refuses our writes ({0})")]
    Refused(WorkStatus),
    /// The peer had no receive posted. Credits make that impossible: it, or we, miscounted.
    #[error("the peer had no receive posted")]
    NotReady,
    /// The work was flushed because the queue pair had failed before.
    #[error("the queue pair has failed")]
    Flushed,
    /// Another completion in error.
    #[error("work failed ({0})")]
    Work(WorkStatus),
    /// What the peer wrote is not what the protocol allows.
    #[error("the peer breaks the ring's protocol: {0}")]
    Protocol(#[from] crate::ring::RingError),
    /// A call of the library failed.
    #[error("{call}: error {errno}")]
    Call {
        /// The function.
        call: &'static str,
        /// An `errno` value.
        errno: i32,
    },
    /// The device reported that it, the port or the queue is unusable.
    #[error("the device reports {0}")]
    Device(AsyncEvent),
    /// The peer closed the connection that the link was agreed on, as its end does.
    #[error("the peer's process has ended or let go of the link")]
    PeerClosed,
    /// This node revoked the peer's right to write.
    #[error("revoked by this node")]
    Revoked,
    /// This node let go of it.
    #[error("closed by this node")]
    Local,
}

/// `ibv_wc_status`, other than success.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WorkStatus(pub i32);

impl WorkStatus {
    pub(crate) const WR_FLUSH: Self = Self(5);
    pub(crate) const REM_INV_REQ: Self = Self(9);
    pub(crate) const REM_ACCESS: Self = Self(10);
    pub(crate) const REM_OP: Self = Self(11);
    pub(crate) const RETRY_EXC: Self = Self(12);
    pub(crate) const RNR_RETRY_EXC: Self = Self(13);

    /// What a failed completion means for the link.
    #[must_use]
    pub fn cause(self) -> DownCause {
        match self {
            Self::RETRY_EXC => DownCause::Silent,
            Self::REM_INV_REQ | Self::REM_ACCESS | Self::REM_OP => DownCause::Refused(self),
            Self::RNR_RETRY_EXC => DownCause::NotReady,
            Self::WR_FLUSH => DownCause::Flushed,
            _ => DownCause::Work(self),
        }
    }
}

impl core::fmt::Display for WorkStatus {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        const NAMES: [&str; 24] = [
            "success",
            "local length error",
            "local queue pair operation error",
            "local end-to-end context error",
            "local protection error",
            "flushed",
            "memory window bind error",
            "bad response",
            "local access error",
            "remote invalid request",
            "remote access error",
            "remote operation error",
            "transport retries exceeded",
            "receiver-not-ready retries exceeded",
            "reliable datagram domain violation",
            "remote invalid read request",
            "remote aborted",
            "invalid end-to-end context number",
            "invalid end-to-end context state",
            "fatal error",
            "response timeout",
            "general error",
            "tag matching error",
            "tag matching rendezvous incomplete",
        ];
        match usize::try_from(self.0).ok().and_then(|index| NAMES.get(index)) {
            Some(name) => f.write_str(name),
            None => write!(f, "status {}", self.0),
        }
    }
}

/// What a device reports besides completions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AsyncEvent {
    /// `ibv_event_type`.
    pub kind: i32,
    /// The object that it is about, as an address; other things for events of a port or the device.
    pub subject: u64,
}

/// Whom an event ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ends {
    /// Nobody: it is news only, such as "communication established".
    Nobody,
    /// The link that has this queue pair or completion queue, and no other: what one peer does must
    /// not end the links of others.
    Subject,
    /// All links on the device: it failed, the port went down, or its address changed.
    All,
}

impl AsyncEvent {
    /// Whose links cannot go on.
    #[must_use]
    pub fn ends(self) -> Ends {
        match self.kind {
            0..=3 => Ends::Subject,
            8 | 10 | 18 => Ends::All,
            _ => Ends::Nobody,
        }
    }

    /// Whether a queue pair could not go on: devices say so when nothing answers (`IBV_EVENT_QP_FATAL`), some of them
    /// before the work's own end tells.
    #[must_use]
    pub fn is_queue_fatal(self) -> bool {
        self.kind == 1
    }

    /// Whether the device is lost for good, until it is opened again.
    #[must_use]
    pub fn is_device_lost(self) -> bool {
        self.kind == 8
    }
}

impl core::fmt::Display for AsyncEvent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self.kind {
            0 => "a completion queue that overran",
            1 => "a queue pair that failed",
            2 => "an invalid request to a queue pair",
            3 => "an access violation at a queue pair",
            8 => "its own failure",
            9 => "a port that came up",
            10 => "a port that went down",
            18 => "a changed address",
            other => return write!(f, "event {other}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_one_queue_pair_ends_no_other_link() {
        let ends = |kind| AsyncEvent { kind, subject: 0 }.ends();
        assert_eq!([0, 1, 2, 3].map(ends), [Ends::Subject; 4]);
        assert_eq!([8, 10, 18].map(ends), [Ends::All; 3]);
        assert_eq!([4, 9, 11, 17, 99].map(ends), [Ends::Nobody; 5]);
    }
}
