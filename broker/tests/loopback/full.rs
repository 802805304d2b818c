//! Disks that are full: for publishes at once, and for records that clients wait for in the end.

use super::Loopback;
use ringlane_dataplane::ids::{ConnectionId, PartitionId};
use ringlane_dataplane::routing::Placement;
use ringlane_mqtt::Version;

const PARTITIONS: u32 = 4;

/// Who owns what.
pub fn placement() -> Placement {
    Placement::new([7; 16], PARTITIONS, 1)
}

/// The partition of a client.
pub fn partition_of(client_id: &str) -> PartitionId {
    placement().partition_of(placement().client_hash(client_id))
}

/// Names of clients of one partition, long ones.
pub fn clients_of(partition: PartitionId) -> impl Iterator<Item = String> {
    (0..).map(|n| format!("{n:0>900}")).filter(move |name| partition_of(name) == partition)
}

/// CONNACK's code, of MQTT 3.1.1.
pub fn connack(broker: &mut Loopback, client: ConnectionId) -> Option<u8> {
    broker.take_sent(client).get(3).copied()
}

/// Clients connect until the log of a partition, which has no room for publishes, takes no more
/// sessions. Who was refused.
pub fn use_up_state(broker: &mut Loopback, partition: PartitionId) -> String {
    // Who waited for the next segment is told that there is none.
    broker.pass(1);
    broker.settle_disk();
    assert!(0 < broker.metrics.log_full.get());
    let refused = clients_of(partition).take(2000).find(|name| {
        let client = broker.returning_client(name, Version::V311);
        broker.settle_disk();
        connack(broker, client) == Some(3)
    });
    refused.expect("the log takes no more sessions")
}
