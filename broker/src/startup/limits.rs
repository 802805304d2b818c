//! What the host gives: descriptors, locked memory, RAM; and what the node makes of it.

use crate::config::LimitsConfig;
use crate::replay::READINGS_MAX;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;

/// Descriptors that are not connections: listeners, rings, wake-ups, log, control plane.
const DESCRIPTORS_RESERVED: u64 = 64;
const DESCRIPTORS_RESERVED_PER_CORE: u64 = 16;
/// The segment that is written, that again past the page cache, the next one, one that is read, a checkpoint.
const DESCRIPTORS_RESERVED_PER_PARTITION: u64 = 5;
/// What replays have open gets one part in so many.
const READINGS_SHARE: u64 = 4;

/// A limit after it was raised as far as the hard limit allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Raised {
    /// The soft limit now; `None` = unlimited.
    pub now: Option<u64>,
    /// The soft limit before.
    pub before: Option<u64>,
}

/// Raises the soft limits on descriptors and on locked memory to the hard limits (getrlimit(2)).
/// A refusal leaves the limit as it is: nothing depends on more than what is there.
pub fn raise() -> (Raised, Raised) {
    (raise_one(Resource::Nofile), raise_one(Resource::Memlock))
}

fn raise_one(resource: Resource) -> Raised {
    let before = getrlimit(resource);
    let wanted = Rlimit { current: before.maximum, maximum: before.maximum };
    if before.current != before.maximum {
        // A failure shows in what is read back.
        let _ = setrlimit(resource, wanted);
    }
    Raised { now: getrlimit(resource).current, before: before.current }
}

/// Connections that one core may hold.
///
/// A bound that was asked for is shared out evenly, so that the node never exceeds it. Without
/// one, every core may use all of the descriptors: the kernel is the bound then.
#[must_use]
pub fn connections_per_core(
    limits: &LimitsConfig,
    descriptors: Option<u64>,
    cores: usize,
    partitions: u32,
) -> usize {
    let cores_count = cores.max(1) as u64;
    let replays = u64::from(limits.max_replays).saturating_mul(u64::from(partitions));
    let readings = replays.min(cores_count * readings_per_core(descriptors, cores) as u64);
    let reserved = descriptors_reserved(cores, partitions) + readings;
    let available = descriptors.unwrap_or(u64::from(u32::MAX)).saturating_sub(reserved).max(1);
    let per_core = match limits.max_connections {
        0 => available,
        asked => u64::from(asked).div_ceil(cores_count).min(available),
    };
    usize::try_from(per_core.min(u64::from(u32::MAX))).unwrap_or(usize::MAX)
}

/// Partitions that one core may read at a time for replays: each has a file open.
#[must_use]
pub fn readings_per_core(descriptors: Option<u64>, cores: usize) -> usize {
    let share = descriptors.map(|all| all / READINGS_SHARE / cores.max(1) as u64);
    let share = share.and_then(|share| usize::try_from(share).ok());
    share.unwrap_or(usize::MAX).clamp(1, READINGS_MAX)
}

/// Descriptors that `max_connections` needs; what a warning names when there are fewer.
#[must_use]
pub fn descriptors_wanted(limits: &LimitsConfig, cores: usize, partitions: u32) -> u64 {
    u64::from(limits.max_connections) + descriptors_reserved(cores, partitions)
}

fn descriptors_reserved(cores: usize, partitions: u32) -> u64 {
    DESCRIPTORS_RESERVED
        + DESCRIPTORS_RESERVED_PER_CORE * cores.max(1) as u64
        + DESCRIPTORS_RESERVED_PER_PARTITION * u64::from(partitions)
}

/// Bytes of messages that the node may hold: what is configured, else half of the memory.
#[must_use]
pub fn message_bytes(limits: &LimitsConfig) -> u64 {
    if limits.memory != 0 { limits.memory } else { host_memory_bytes() / 2 }
}

/// What a host is taken to have where nothing says so.
const MEMORY_UNKNOWN_BYTES: u64 = 1 << 30;

/// Bytes of memory of this host, or of the container if it has less.
#[must_use]
pub fn host_memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let host = meminfo(&text, "MemTotal").unwrap_or(MEMORY_UNKNOWN_BYTES);
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let container = cgroup_paths(&group)
        .find_map(|path| fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()));
    container.unwrap_or(host).min(host)
}

/// Where a memory limit of this control group may stand (cgroup v2): in the group as it is named
/// here, or at the root of a container's own namespace.
fn cgroup_paths(cgroup: &str) -> impl Iterator<Item = String> {
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::"));
    let own = own.map(|path| path.trim_end_matches('/')).filter(|path| !path.is_empty());
    let own = own.map(|path| format!("/sys/fs/cgroup{path}/memory.max"));
    own.into_iter().chain(["/sys/fs/cgroup/memory.max".to_owned()])
}

/// A field of `/proc/meminfo` in bytes (proc_meminfo(5)).
#[must_use]
pub fn meminfo(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let mut words = line.split_whitespace();
    let number: u64 = words.next()?.parse().ok()?;
    Some(if words.next() == Some("kB") { number * 1024 } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_follow_the_configuration_and_the_descriptors() {
        let asked = |max_connections| LimitsConfig { max_connections, ..LimitsConfig::default() };
        let cases = [
            (0, Some(1024), 2, 928),
            (0, None, 2, u32::MAX as usize - 96),
            (100, Some(1024), 2, 50),
            (101, Some(1024), 2, 51),
            (100_000, Some(1024), 2, 928),
            (0, Some(10), 2, 1),
        ];
        for (max, descriptors, cores, expected) in cases {
            let found = connections_per_core(&asked(max), descriptors, cores, 0);
            assert_eq!(found, expected, "{max}");
        }
        assert_eq!(descriptors_wanted(&asked(1000), 2, 0), 1096);
        assert_eq!(descriptors_wanted(&asked(1000), 2, 8), 1136);
    }

    #[test]
    fn readings_have_a_bound_and_a_quarter_of_the_descriptors() {
        let cases =
            [(None, 2, READINGS_MAX), (Some(1 << 20), 2, READINGS_MAX), (Some(1024), 2, 128)];
        for (descriptors, cores, expected) in cases {
            assert_eq!(readings_per_core(descriptors, cores), expected);
        }
        assert_eq!(readings_per_core(Some(2), 64), 1);
        let limits = LimitsConfig::default();
        let reserved = (1 << 20) - connections_per_core(&limits, Some(1 << 20), 2, 4);
        assert_eq!(reserved, 96 + 4 * 5 + 128 * 4);
    }

    #[test]
    fn memory_is_what_is_configured_or_half_of_what_there_is() {
        let limits = LimitsConfig { memory: 5, ..LimitsConfig::default() };
        assert_eq!(message_bytes(&limits), 5);
        assert!(0 < message_bytes(&LimitsConfig::default()));
    }

    #[test]
    fn meminfo_is_read_in_bytes() {
        let text = "MemTotal:       16 kB\nHugePages_Total:     3\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(16_384));
        assert_eq!(meminfo(text, "HugePages_Total"), Some(3));
        assert_eq!(meminfo(text, "Mem"), None);
    }

    #[test]
    fn limits_are_raised_to_the_hard_limit() {
        let (descriptors, _) = raise();
        assert_eq!(descriptors.now, getrlimit(Resource::Nofile).maximum);
    }
}
