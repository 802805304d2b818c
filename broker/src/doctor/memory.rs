//! Memory: how much, locked, huge.

use super::{Facts, Report, Severity};
use crate::startup::limits::meminfo;

const AREA: &str = "Memory";

/// What a link over RDMA locks at most: its ring, what it sends from, and the batches of its core.
const LOCKED_BYTES_PER_LINK: u64 = 24 << 20;

pub(super) fn check(facts: &Facts, report: &mut Report) {
    let info = facts.text("proc/meminfo").unwrap_or_default();
    budget(facts, &info, report);
    locked(facts, report);
    huge_pages(facts, &info, report);
    transparent(facts, report);
}

fn budget(facts: &Facts, info: &str, report: &mut Report) {
    let total = meminfo(info, "MemTotal").unwrap_or(0);
    let found = format!(
        "{} MiB for messages (limits.memory), {} MiB in the host",
        facts.message_bytes >> 20,
        total >> 20
    );
    if total != 0 && total < facts.message_bytes {
        let advice = "lower limits.memory: the node would be killed before it refuses messages";
        report.add(AREA, "messages", Severity::Warn, found, advice);
    } else {
        report.ok(AREA, "messages", found);
    }
}

fn locked(facts: &Facts, report: &mut Report) {
    let (soft, hard) = facts.locked_bytes;
    let show = |limit: Option<u64>| {
        limit.map_or_else(|| "unlimited".to_owned(), |bytes| format!("{} KiB", bytes / 1024))
    };
    let found = format!("{} (hard limit {})", show(soft), show(hard));
    let rdma = !facts.rdma.devices.is_empty();
    let wanted = LOCKED_BYTES_PER_LINK * links(facts);
    if rdma && hard.is_some_and(|bytes| bytes < wanted) {
        let advice = format!(
            "LimitMEMLOCK=infinity in the unit (ulimit -l): RDMA registers memory that must stay in \
             place, up to {} MiB here",
            wanted >> 20
        );
        report.add(AREA, "RLIMIT_MEMLOCK", Severity::Warn, found, advice);
    } else {
        report.ok(AREA, "RLIMIT_MEMLOCK", found);
    }
}

/// Links of this node to others: one of each core to each node, where all have as many cores.
fn links(facts: &Facts) -> u64 {
    let cores = facts.cores.as_ref().map_or(1, Vec::len);
    let others = facts.config.cluster.members.len().saturating_sub(1);
    (cores * others).max(1) as u64
}

fn huge_pages(facts: &Facts, info: &str, report: &mut Report) {
    let count = |field| meminfo(info, field).unwrap_or(0);
    let size = count("Hugepagesize") >> 10;
    let found =
        format!("{} of {size} KiB, {} free", count("HugePages_Total"), count("HugePages_Free"));
    let advice = match facts.number("proc/sys/vm/nr_hugepages") {
        Some(0) => "none are needed yet; sysctl vm.nr_hugepages reserves some",
        Some(_) | None => "",
    };
    report.add(AREA, "huge pages", Severity::Ok, found, advice);
}

/// With `always`, the kernel compacts memory at times of its own choosing.
fn transparent(facts: &Facts, report: &mut Report) {
    let text = facts.text("sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let chosen = text.split('[').nth(1).and_then(|rest| rest.split(']').next());
    match chosen {
        None => report.ok(AREA, "transparent huge pages", "not in this kernel"),
        Some("always") => {
            let advice = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled avoids pauses \
                          when memory is compacted";
            report.add(AREA, "transparent huge pages", Severity::Warn, "always", advice);
        }
        Some(other) => report.ok(AREA, "transparent huge pages", other),
    }
}
