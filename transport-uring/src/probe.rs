//! What this host's kernel gives, found by trying: never by comparing version numbers.

use crate::sys;

/// The io_uring features that the driver uses or that a later one may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UringCapabilities {
    /// One accept that goes on by itself.
    pub multishot_accept: bool,
    /// One receive that goes on by itself.
    pub multishot_receive: bool,
    /// Receive buffers in a ring shared with the kernel.
    pub buffer_rings: bool,
    /// Only one thread submits, and the kernel knows.
    pub single_issuer: bool,
    /// Completions are made when the core asks for them, not by interrupting it.
    pub defer_taskrun: bool,
    /// No indirection in the submission queue.
    pub no_sqarray: bool,
    /// Messages from ring to ring.
    pub msg_ring: bool,
    /// Zero-copy send of one run of bytes.
    pub send_zc: bool,
    /// Zero-copy send of several runs.
    pub sendmsg_zc: bool,
    /// Busy polling of network interfaces from the wait.
    pub napi: bool,
    /// Sends and receives that take several buffers.
    pub bundles: bool,
    /// Buffers that are consumed piece by piece.
    pub incremental_buffers: bool,
    /// A wait that lets completions gather.
    pub min_wait: bool,
    /// Receive without a copy.
    pub receive_zc: bool,
    /// Timeouts in the wait call itself.
    pub ext_arg: bool,
    /// Cancellation by descriptor.
    pub cancel_fd: bool,
}

/// Why io_uring cannot be used at all, and what to do about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UringRefusal {
    /// What failed.
    pub reason: String,
    /// What an operator can do.
    pub remedy: String,
}

/// What this host gives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// The kernel's release, for people; nothing is decided by it.
    pub kernel: String,
    /// The io_uring features, or why there are none.
    pub uring: Result<UringCapabilities, UringRefusal>,
}

/// Tries everything once. Takes a few milliseconds.
#[must_use]
pub fn probe() -> Capabilities {
    let refusal = UringRefusal {
        reason: String::from("the io_uring driver is not part of this build"),
        remedy: String::from("use the epoll transport"),
    };
    Capabilities { kernel: sys::kernel_release(), uring: Err(refusal) }
}

impl Capabilities {
    /// The features that the io_uring driver cannot do without and that this host lacks. With
    /// no io_uring at all that is `io_uring` alone.
    #[must_use]
    pub fn missing_for_uring(&self) -> Vec<&'static str> {
        let Ok(uring) = &self.uring else { return vec!["io_uring"] };
        let needed = [
            ("multishot accept", uring.multishot_accept),
            ("multishot receive", uring.multishot_receive),
            ("buffer rings", uring.buffer_rings),
            ("SINGLE_ISSUER", uring.single_issuer),
            ("DEFER_TASKRUN", uring.defer_taskrun),
            ("timeouts in the wait call", uring.ext_arg),
        ];
        needed.iter().filter(|(_, present)| !present).map(|(name, _)| *name).collect()
    }

    /// Every feature with the kernel it came with and whether it is here.
    #[must_use]
    pub fn features(&self) -> Vec<(&'static str, &'static str, bool)> {
        let uring = self.uring.as_ref().copied().unwrap_or_default();
        vec![
            ("timeouts in the wait call", "5.11", uring.ext_arg),
            ("ring messages", "5.18", uring.msg_ring),
            ("buffer rings", "5.19", uring.buffer_rings),
            ("multishot accept", "5.19", uring.multishot_accept),
            ("cancel by descriptor", "5.19", uring.cancel_fd),
            ("multishot receive", "6.0", uring.multishot_receive),
            ("SINGLE_ISSUER", "6.0", uring.single_issuer),
            ("SEND_ZC", "6.0", uring.send_zc),
            ("DEFER_TASKRUN", "6.1", uring.defer_taskrun),
            ("SENDMSG_ZC", "6.1", uring.sendmsg_zc),
            ("NO_SQARRAY", "6.6", uring.no_sqarray),
            ("NAPI busy poll", "6.9", uring.napi),
            ("bundles", "6.10", uring.bundles),
            ("incremental buffers", "6.12", uring.incremental_buffers),
            ("min-wait", "6.12", uring.min_wait),
            ("zero-copy receive", "6.15", uring.receive_zc),
        ]
    }
}
