//! Who owns what: client identifiers, topics and shared groups go by keyed hash to a partition,
//! and a partition goes to a core.

use crate::ids::{CoreId, PartitionId};
use core::hash::Hasher;
use siphasher::sip::SipHasher24;

/// The number of partitions if the configuration names none: at least 4, and a power of two that
/// gives each core at least one.
#[must_use]
pub fn default_partitions(cores: u16) -> u32 {
    u32::from(cores).next_power_of_two().max(4)
}

/// The placement of a node. Key and number of partitions are for the life of the data directory,
/// the number of cores is for the life of the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placement {
    /// Key of the hash; secret, so that nobody can choose client identifiers that all go to one
    /// partition.
    pub key: [u8; 16],
    /// Number of partitions, at least 1.
    pub partitions: u32,
    /// Number of cores, at least 1.
    pub cores: u16,
}

/// Kinds of names that are hashed, so that a topic and a group of the same text are independent.
const TOPIC: u8 = b't';
const GROUP: u8 = b'g';

impl Placement {
    /// A placement.
    ///
    /// # Panics
    /// If there is no partition or no core.
    #[must_use]
    pub fn new(key: [u8; 16], partitions: u32, cores: u16) -> Self {
        assert!(partitions > 0, "a node has at least one partition");
        assert!(cores > 0, "a node has at least one core");
        Self { key, partitions, cores }
    }

    /// SipHash-2-4 of the client identifier's bytes under the key. Part of the data format: it
    /// decides which log a client's messages are in.
    #[must_use]
    pub fn client_hash(&self, client_id: &str) -> u64 {
        SipHasher24::new_with_key(&self.key).hash(client_id.as_bytes())
    }

    /// The partition of a hash.
    #[must_use]
    pub fn partition_of(&self, hash: u64) -> PartitionId {
        PartitionId((hash % u64::from(self.partitions)) as u32)
    }

    /// The core that owns a partition.
    #[must_use]
    pub fn owner(&self, partition: PartitionId) -> CoreId {
        CoreId((partition.0 % u32::from(self.cores)) as u16)
    }

    /// Partitions of the node.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Where a partition stands among those of its owner.
    #[must_use]
    pub fn index_on_core(&self, partition: PartitionId) -> u32 {
        partition.0 / u32::from(self.cores)
    }

    /// The core that owns a client's session.
    #[must_use]
    pub fn client_owner(&self, client_id: &str) -> CoreId {
        self.owner(self.partition_of(self.client_hash(client_id)))
    }

    /// The core that keeps a topic's retained message.
    #[must_use]
    pub fn topic_owner(&self, topic: &str) -> CoreId {
        self.owner_of(&[&[TOPIC], topic.as_bytes()])
    }

    /// The partition whose log keeps a topic's retained message.
    #[must_use]
    pub fn topic_partition(&self, topic: &str) -> PartitionId {
        self.partition_of(self.hash_of(&[&[TOPIC], topic.as_bytes()]))
    }

    /// The core that owns a shared-subscription group. A group's name has no `/`, so name and filter
    /// cannot run into each other [MQTT-4.8.2-2].
    #[must_use]
    pub fn group_owner(&self, group: &str, filter: &str) -> CoreId {
        self.owner(self.partition_of(self.group_hash(group, filter)))
    }

    /// The keyed hash that says which partition a shared-subscription group belongs to, and which
    /// names it in the log.
    #[must_use]
    pub fn group_hash(&self, group: &str, filter: &str) -> u64 {
        self.hash_of(&[&[GROUP], group.as_bytes(), b"/", filter.as_bytes()])
    }

    /// The partitions that a core owns, in rising order.
    pub fn owned(&self, core: CoreId) -> impl Iterator<Item = PartitionId> + use<> {
        (u32::from(core.0)..self.partitions).step_by(usize::from(self.cores)).map(PartitionId)
    }

    fn owner_of(&self, parts: &[&[u8]]) -> CoreId {
        self.owner(self.partition_of(self.hash_of(parts)))
    }

    fn hash_of(&self, parts: &[&[u8]]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        for part in parts {
            hasher.write(part);
        }
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(partitions: u32, cores: u16) -> Placement {
        Placement::new(core::array::from_fn(|index| index as u8), partitions, cores)
    }

    #[test]
    fn the_hash_is_siphash_2_4() {
        // First and sixteenth vector of the reference implementation, key 00 01 .. 0f; inputs that
        // are valid UTF-8.
        assert_eq!(placement(4, 1).client_hash(""), 0x726f_db47_dd0e_0e31);
        let input: String = (0u8..15).map(char::from).collect();
        assert_eq!(placement(4, 1).client_hash(&input), 0xa129_ca61_49be_45e5);
    }

    #[test]
    fn defaults_cover_every_core() {
        for (cores, expected) in [(1, 4), (2, 4), (4, 4), (5, 8), (8, 8), (9, 16), (65, 128)] {
            assert_eq!(default_partitions(cores), expected, "{cores} cores");
        }
    }

    #[test]
    fn every_partition_is_owned_by_exactly_one_core() {
        for (partitions, cores) in [(4, 1), (4, 3), (16, 5), (2, 4)] {
            let placement = placement(partitions, cores);
            let mut seen = vec![0; partitions as usize];
            for core in (0..cores).map(CoreId) {
                for partition in placement.owned(core) {
                    assert_eq!(placement.owner(partition), core);
                    seen[partition.0 as usize] += 1;
                }
            }
            assert!(seen.iter().all(|owners| *owners == 1), "{partitions} over {cores}: {seen:?}");
        }
    }

    #[test]
    fn names_spread_over_the_cores() {
        let placement = placement(8, 4);
        let mut clients = [0; 4];
        let mut topics = [0; 4];
        for number in 0..4000 {
            clients[placement.client_owner(&format!("client-{number}")).index()] += 1;
            topics[placement.topic_owner(&format!("client-{number}")).index()] += 1;
        }
        for count in clients.iter().chain(&topics) {
            assert!((800..1200).contains(count), "{clients:?} {topics:?}");
        }
        assert_ne!(clients, topics, "kinds of names are independent");
    }

    #[test]
    fn groups_go_by_name_and_filter() {
        let placement = placement(64, 64);
        let owner = placement.group_owner("g", "a/b");
        assert_eq!(placement.group_owner("g", "a/b"), owner, "the same every time");
        let others = (0..20).map(|n| placement.group_owner(&format!("g{n}"), "a/b"));
        assert!(others.into_iter().any(|other| other != owner));
        let others = (0..20).map(|n| placement.group_owner("g", &format!("a/{n}")));
        assert!(others.into_iter().any(|other| other != owner));
    }

    #[test]
    fn another_key_is_another_placement() {
        let other = Placement::new([7; 16], 4, 1);
        assert_ne!(other.client_hash("a"), placement(4, 1).client_hash("a"));
    }
}
