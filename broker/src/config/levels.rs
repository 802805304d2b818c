//! What the levels of streams mean, in words: for the lines at the start and for `ringlane doctor`.

use super::{Config, StreamLevel};

/// Names of streams that are written out; of more the number is told.
const NAMES_MAX: usize = 8;

/// A level that some streams are at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LevelInUse {
    pub(crate) level: &'static str,
    /// Their names.
    pub(crate) streams: String,
    /// When a message is acknowledged, and what may lose it then.
    pub(crate) means: &'static str,
}

/// The levels of a configuration, the weakest first.
pub(crate) fn levels_in_use(config: &Config) -> Vec<LevelInUse> {
    let streams = config.streams();
    let all = [
        StreamLevel::Memory,
        StreamLevel::LocalDisk,
        StreamLevel::QuorumMemory,
        StreamLevel::QuorumDisk,
    ];
    let used = all.into_iter().filter_map(|level| {
        let names = streams.iter().filter(|stream| stream.level == level);
        let names: Vec<&str> = names.map(|stream| stream.name.as_str()).collect();
        let means = means(level, config.cluster.is_set());
        (!names.is_empty()).then(|| LevelInUse {
            level: level.name(),
            streams: list(&names),
            means,
        })
    });
    used.collect()
}

fn list(names: &[&str]) -> String {
    let told = names.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES_MAX) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}

/// A level that is settled: `auto` is one of the others by now.
fn means(level: StreamLevel, is_cluster: bool) -> &'static str {
    match (level, is_cluster) {
        (StreamLevel::Memory, false) => {
            "acknowledged in memory; a crash may lose the newest messages"
        }
        (StreamLevel::Memory, true) => {
            "acknowledged in the leader's memory; a fail-over may lose the newest messages"
        }
        (StreamLevel::LocalDisk | StreamLevel::Auto, false) => {
            "acknowledged on this node's disk; the loss of that disk loses it"
        }
        (StreamLevel::LocalDisk, true) => {
            "acknowledged on the leader's disk; a fail-over may lose the newest messages"
        }
        (StreamLevel::QuorumMemory, _) => {
            "acknowledged in the memory of a majority; survives the loss of a minority of nodes, not \
             that of power of a majority at once"
        }
        (StreamLevel::QuorumDisk, _) | (StreamLevel::Auto, true) => {
            "acknowledged on the disks of a majority; survives the loss of a minority of nodes and \
             that of power of all"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MemberConfig, StreamConfig};
    use super::*;

    fn stream(name: &str, level: StreamLevel) -> StreamConfig {
        let filters = vec![name.to_owned()];
        StreamConfig { name: name.to_owned(), filters, level, ..StreamConfig::default() }
    }

    #[test]
    fn each_level_is_named_once_with_its_streams() {
        let mut config = Config::default();
        config.cluster.members = vec![MemberConfig::default()];
        let memory = |number| stream(&format!("m{number}"), StreamLevel::Memory);
        config.stream = (0..10).map(memory).chain([stream("a", StreamLevel::Auto)]).collect();
        let used = levels_in_use(&config);
        let told: Vec<_> = used.iter().map(|used| (used.level, used.streams.as_str())).collect();
        let many = "m0, m1, m2, m3, m4, m5, m6, m7 and 2 more";
        assert_eq!(told, [("memory", many), ("quorum_disk", "a, default")]);
        assert!(used[0].means.contains("a fail-over may lose"), "{used:?}");
    }

    #[test]
    fn a_node_that_is_alone_has_no_fail_over() {
        let config = Config { stream: vec![stream("m", StreamLevel::Memory)], ..Config::default() };
        let used = levels_in_use(&config);
        assert_eq!((used.len(), used[1].level), (2, "local_disk"));
        assert!(used.iter().all(|used| !used.means.contains("fail-over")));
    }
}
