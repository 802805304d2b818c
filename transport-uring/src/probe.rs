//! What this host's kernel gives, found by trying: never by comparing version numbers.

mod self_test;

use crate::sys;
use crate::uring::ring;
use io_uring::types::Napi;
use io_uring::{Builder, IoUring, Probe, opcode};
use std::io;

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

/// Tries everything once: opens small rings, and sends a few bytes through a socket pair. Takes a
/// few milliseconds and leaves nothing behind.
#[must_use]
pub fn probe() -> Capabilities {
    Capabilities { kernel: sys::kernel_release(), uring: probe_uring() }
}

fn probe_uring() -> Result<UringCapabilities, UringRefusal> {
    let plain = IoUring::new(ENTRIES).map_err(|error| refusal(&error))?;
    let mut found = features_of(&plain);
    let mut single_issuer: Builder = IoUring::builder();
    found.single_issuer = single_issuer.setup_single_issuer().build(ENTRIES).is_ok();
    found.defer_taskrun = ring::build(ENTRIES, false).is_ok();
    found.no_sqarray = ring::build(ENTRIES, true).is_ok();
    drop(plain);
    if found.defer_taskrun {
        self_test::run(&mut found);
    }
    Ok(found)
}

/// Entries of the rings that are opened for a try.
pub(crate) const ENTRIES: u32 = 8;

/// What the kernel says about itself.
fn features_of(uring: &IoUring) -> UringCapabilities {
    let parameters = uring.params();
    let submitter = uring.submitter();
    let mut operations = Probe::new();
    // An old kernel without the probe has none of these either.
    let known = submitter.register_probe(&mut operations).is_ok();
    let has = |code| known && operations.is_supported(code);
    let napi = submitter.register_napi(&mut Napi::new()).is_ok();
    if napi {
        let _same_as_before = submitter.unregister_napi(&mut Napi::new());
    }
    UringCapabilities {
        ext_arg: parameters.is_feature_ext_arg(),
        bundles: parameters.is_feature_recvsend_bundle(),
        min_wait: parameters.is_feature_min_timeout(),
        msg_ring: has(opcode::MsgRingData::CODE),
        send_zc: has(opcode::SendZc::CODE),
        sendmsg_zc: has(opcode::SendMsgZc::CODE),
        receive_zc: has(opcode::RecvZc::CODE),
        napi,
        ..UringCapabilities::default()
    }
}

fn refusal(error: &io::Error) -> UringRefusal {
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    explain(error, setting.ok().as_deref().map(str::trim))
}

fn explain(error: &io::Error, disabled: Option<&str>) -> UringRefusal {
    let restricted = disabled.is_some_and(|value| value != "0");
    let (reason, remedy) = match error.raw_os_error() {
        Some(libc::EPERM) if restricted => (
            format!("kernel.io_uring_disabled is {}", disabled.unwrap_or_default()),
            String::from("set it to 0 with sysctl -w kernel.io_uring_disabled=0"),
        ),
        Some(libc::EPERM | libc::EACCES) => (
            String::from("the system call is denied (a seccomp filter, as container runtimes set)"),
            String::from(
                "allow io_uring_setup, io_uring_enter and io_uring_register in the filter",
            ),
        ),
        Some(libc::ENOSYS) => (
            String::from("this kernel has no io_uring, or a seccomp filter hides it"),
            String::from("use kernel 6.1 or later, or allow io_uring_setup in the filter"),
        ),
        Some(libc::ENOMEM) => (
            String::from("no memory may be locked for the ring"),
            String::from("raise the limit of locked memory (ulimit -l, LimitMEMLOCK)"),
        ),
        _ => (format!("io_uring_setup failed: {error}"), String::from("see io_uring_setup(2)")),
    };
    UringRefusal { reason, remedy }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_cause_and_a_remedy() {
        let because = |errno, disabled| {
            let refusal = explain(&io::Error::from_raw_os_error(errno), disabled);
            format!("{}: {}", refusal.reason, refusal.remedy)
        };
        assert!(because(libc::EPERM, Some("2")).contains("sysctl"));
        assert!(because(libc::EPERM, Some("0")).contains("seccomp"));
        assert!(because(libc::EPERM, None).contains("seccomp"));
        assert!(because(libc::ENOSYS, None).contains("6.1"));
        assert!(because(libc::ENOMEM, Some("0")).contains("LimitMEMLOCK"));
        assert!(because(libc::EMFILE, Some("0")).contains("io_uring_setup(2)"));
    }

    #[test]
    fn the_probe_agrees_with_itself() {
        let capabilities = probe();
        assert!(!capabilities.kernel.is_empty());
        assert_eq!(capabilities.features().len(), 16);
        let names: Vec<_> = capabilities.features().iter().map(|feature| feature.0).collect();
        for missing in capabilities.missing_for_uring() {
            assert!(missing == "io_uring" || names.contains(&missing), "{missing}");
        }
        if let Ok(uring) = capabilities.uring {
            assert!(!uring.defer_taskrun || uring.single_issuer);
            assert!(!uring.multishot_receive || uring.buffer_rings);
        }
    }

    #[test]
    fn without_io_uring_nothing_else_is_missing() {
        let refusal = UringRefusal { reason: String::new(), remedy: String::new() };
        let host = Capabilities { kernel: String::new(), uring: Err(refusal) };
        assert_eq!(host.missing_for_uring(), ["io_uring"]);
        assert!(host.features().iter().all(|feature| !feature.2));
    }
}
