//! Room for the data directory.

use super::{Facts, Report, Severity};

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
