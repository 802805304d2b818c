//! The data directory: room, and who writes its files.

use super::{Facts, Report, Severity};
use crate::config::{FileDriverSetting, TransportSetting};

const AREA: &str = "Storage";

/// Below this, a disk is about to be full.
const FREE_BYTES_WANTED: u64 = 1 << 30;

pub(super) fn check(facts: &Facts, report: &mut Report) {
    let name = format!("data_dir {}", facts.config.data_dir.display());
    match facts.free_bytes {
        None => {
            let advice = "set data_dir to a directory that exists or can be made";
            report.add(AREA, &name, Severity::Fail, "cannot be examined", advice);
        }
        Some(bytes) if bytes < FREE_BYTES_WANTED => {
            let found = format!("{} MiB free", bytes >> 20);
            report.add(AREA, &name, Severity::Warn, found, "make room, or set data_dir elsewhere");
        }
        Some(bytes) => report.ok(AREA, &name, format!("{} MiB free", bytes >> 20)),
    }
}

/// Who writes the log: its own key says so, and the socket driver that runs.
pub(super) fn file_driver(facts: &Facts, report: &mut Report) {
    if !facts.config.commit_log.enabled {
        return;
    }
    let name = "file driver of the commit log";
    let capabilities = &facts.capabilities;
    let is_usable = capabilities.uring.is_ok() && capabilities.missing_for_uring().is_empty();
    let wants_epoll = facts.config.runtime.transport == TransportSetting::Epoll;
    let has_ring = is_usable && !wants_epoll;
    match facts.config.commit_log.file_driver {
        FileDriverSetting::Threads => report.ok(AREA, name, "threads"),
        FileDriverSetting::IoUring if has_ring => report.ok(AREA, name, "io_uring"),
        FileDriverSetting::IoUring => {
            let found = "threads, because there is no io_uring";
            let advice =
                "see \"io_uring driver\" above, or set commit_log.file_driver = \"threads\"";
            report.add(AREA, name, Severity::Warn, found, advice);
        }
    }
}
