//! In steady state a message costs no allocation, whatever its QoS: counted by the allocator, not read off the
//! code.

#[path = "loopback/mod.rs"]
mod loopback;

use loopback::{Loopback, new_log, publish};
use ringlane::config::{Config, StreamConfig, StreamLevel};
use ringlane_dataplane::disk::memory::MemoryDisk;
use ringlane_dataplane::ids::ConnectionId;
use ringlane_mqtt::{QoS, Version};
use std::time::Duration;

const ROUNDS: usize = 100;

/// Allocations of `ROUNDS` turns in which every publisher sends its piece, after as many that
/// nobody counts.
fn allocations(broker: &mut Loopback, pieces: &[(ConnectionId, Vec<u8>)]) -> u64 {
    let turns = |broker: &mut Loopback| {
        for _ in 0..ROUNDS {
            for (publisher, piece) in pieces {
                broker.receive(*publisher, piece);
            }
            broker.end_turn();
        }
    };
    turns(broker);
    allocation_counter::measure(|| turns(broker)).count_total
}

/// Publishers that send `batch` messages in a piece, and the subscribers of each of their topics.
fn flow(
    publisher: Version,
    subscriber: Version,
    subscribers: usize,
    batch: usize,
) -> (Loopback, Vec<(ConnectionId, Vec<u8>)>) {
    let mut broker = Loopback::new(&Config::default());
    let mut pieces = Vec::new();
    for number in 0..8 {
        let topic = format!("plant/{number}/temperature");
        for copy in 0..subscribers {
            let client = broker.client(&format!("sub-{number}-{copy}"), subscriber);
            broker.subscribe(client, subscriber, &topic, QoS::AtMostOnce);
        }
        let id = broker.client(&format!("pub-{number}"), publisher);
        let packet = publish(publisher, &topic, QoS::AtMostOnce, 0, &[7; 100]);
        pieces.push((id, packet.repeat(batch)));
    }
    (broker, pieces)
}

fn check(publisher: Version, subscriber: Version, subscribers: usize, batch: usize) {
    let (mut broker, pieces) = flow(publisher, subscriber, subscribers, batch);
    let counted = allocations(&mut broker, &pieces);
    let delivered = broker.metrics.publishes_sent_qos0.get();
    assert_eq!(delivered, (2 * ROUNDS * 8 * batch * subscribers) as u64, "all are delivered");
    assert_eq!(counted, 0, "{publisher:?} to {subscriber:?}, {subscribers} subscribers");
}

#[test]
fn qos_0_between_clients_of_one_version_allocates_nothing() {
    check(Version::V311, Version::V311, 1, 1);
    check(Version::V5, Version::V5, 1, 16);
}

#[test]
fn qos_0_between_versions_allocates_nothing() {
    check(Version::V5, Version::V311, 1, 1);
    check(Version::V311, Version::V5, 3, 16);
}

#[test]
fn qos_0_to_many_subscribers_allocates_nothing() {
    check(Version::V311, Version::V311, 100, 4);
}

/// What begins in one piece and ends in the next waits in a buffer, which is kept.
#[test]
fn qos_0_in_torn_packets_allocates_nothing() {
    let (mut broker, pieces) = flow(Version::V311, Version::V311, 1, 16);
    let torn = |broker: &mut Loopback| {
        for _ in 0..ROUNDS {
            for (publisher, piece) in &pieces {
                let (front, back) = piece.split_at(piece.len() / 2 + 3);
                broker.receive(*publisher, front);
                broker.receive(*publisher, back);
            }
            broker.end_turn();
        }
    };
    torn(&mut broker);
    let counted = allocation_counter::measure(|| torn(&mut broker)).count_total;
    assert_eq!(broker.metrics.publishes_sent_qos0.get(), (2 * ROUNDS * 8 * 16) as u64);
    assert_eq!(counted, 0);
}

/// More topics than are remembered: a route that is pushed out leaves its buffers to the next.
#[test]
fn qos_0_to_topics_that_are_not_remembered_allocates_nothing() {
    let mut broker = Loopback::new(&Config::default());
    let client = broker.client("sub", Version::V311);
    broker.subscribe(client, Version::V311, "plant/+/temperature", QoS::AtMostOnce);
    let id = broker.client("pub", Version::V311);
    let topics = (0..60_000).map(|number| format!("plant/{number:05}/temperature"));
    let packets: Vec<_> =
        topics.map(|topic| publish(Version::V311, &topic, QoS::AtMostOnce, 0, b"1")).collect();
    let all = |broker: &mut Loopback| {
        for packets in packets.chunks(100) {
            packets.iter().for_each(|packet| broker.receive(id, packet));
            broker.end_turn();
        }
    };
    (0..4).for_each(|_| all(&mut broker));
    let counted = allocation_counter::measure(|| all(&mut broker)).count_total;
    // Places that no topic of the warm-up took; the more turns, the fewer.
    assert!(counted < 600, "{counted} allocations for 60,000 messages");
}

/// Acknowledgements of `count` identifiers from `first` on, one behind the other.
fn acks(buffer: &mut Vec<u8>, header: u8, first: usize, count: usize) {
    buffer.clear();
    for packet_id in first..first + count {
        let [high, low] = (packet_id as u16).to_be_bytes();
        buffer.extend_from_slice(&[header, 2, high, low]);
    }
}

/// Allocations of pairs whose subscribers answer everything in the turn after it came.
fn acknowledged_allocations(mut broker: Loopback, qos: QoS, subscribers: usize) -> u64 {
    const BATCH: usize = 16;
    let mut flows = Vec::new();
    for number in 0..8 {
        let topic = format!("plant/{number}/temperature");
        let clients: Vec<_> = (0..subscribers)
            .map(|copy| {
                let client = broker.client(&format!("sub-{number}-{copy}"), Version::V311);
                broker.subscribe(client, Version::V311, &topic, qos);
                client
            })
            .collect();
        let id = broker.client(&format!("pub-{number}"), Version::V311);
        let packets = (1..=BATCH as u16)
            .map(|packet_id| publish(Version::V311, &topic, qos, packet_id, &[7; 100]));
        flows.push((id, packets.collect::<Vec<_>>().concat(), clients));
    }
    let answers: &[u8] = if qos == QoS::AtLeastOnce { &[0x40] } else { &[0x50, 0x70] };
    let mut buffer = Vec::with_capacity(4 * BATCH);
    let mut rounds = |broker: &mut Loopback, from: usize| {
        for round in from..from + ROUNDS {
            // What nobody waits for is written a moment later.
            broker.now = broker.now + Duration::from_millis(10);
            for (publisher, piece, _) in &flows {
                broker.receive(*publisher, piece);
            }
            broker.end_turn();
            // The write, then the sync; without a log nothing is asked.
            broker.answer_disk();
            broker.answer_disk();
            for (publisher, _, clients) in &flows {
                for (header, client) in
                    answers.iter().flat_map(|h| clients.iter().map(move |c| (h, c)))
                {
                    acks(&mut buffer, *header, round * BATCH + 1, BATCH);
                    broker.receive(*client, &buffer);
                }
                if qos == QoS::ExactlyOnce {
                    acks(&mut buffer, 0x62, 1, BATCH);
                    broker.receive(*publisher, &buffer);
                }
            }
            broker.end_turn();
        }
    };
    rounds(&mut broker, 0);
    let counted = allocation_counter::measure(|| rounds(&mut broker, ROUNDS)).count_total;
    let metrics = &broker.metrics;
    let delivered = metrics.publishes_sent_qos1.get() + metrics.publishes_sent_qos2.get();
    assert_eq!(delivered, (2 * ROUNDS * 8 * BATCH * subscribers) as u64, "all are delivered");
    assert_eq!(metrics.inflight_messages.get(), 0, "and all are acknowledged");
    counted
}

#[test]
fn qos_1_and_2_allocate_nothing() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        for subscribers in [1, 20] {
            let broker = Loopback::new(&Config::default());
            let counted = acknowledged_allocations(broker, qos, subscribers);
            assert_eq!(counted, 0, "{qos:?} to {subscribers} subscribers");
        }
    }
}

/// A broker with logs whose first segments are large enough for a test.
fn logged(level: StreamLevel) -> Loopback {
    let stream = vec![StreamConfig { level, ..StreamConfig::rest() }];
    let config = Config { stream, ..Config::default() };
    let logs = (0..4).map(|partition| new_log(partition, 32 << 20)).collect();
    let mut broker = Loopback::with_logs(&config, MemoryDisk::new(), logs);
    // The first segments are made.
    (0..4).for_each(|_| broker.answer_disk());
    broker
}

#[test]
fn logged_messages_allocate_nothing() {
    for level in [StreamLevel::Memory, StreamLevel::LocalDisk] {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let counted = acknowledged_allocations(logged(level), qos, 2);
            // The index of a segment grows by doubling, with each 64 KiB of log.
            assert!(counted <= 24, "{level:?}, {qos:?}: {counted} for 12,800 messages");
        }
    }
}

/// What a client keeps that does nothing, besides the driver's own table. The tables grow by doubling,
/// so the number is one that fills most of them.
#[test]
fn an_idle_client_keeps_little_memory() {
    const CLIENTS: i64 = 8192;
    let mut broker = Loopback::new(&Config::default());
    let mut clients = Vec::with_capacity(CLIENTS as usize);
    let connected = allocation_counter::measure(|| {
        for number in 0..CLIENTS {
            clients.push(broker.client(&format!("idle-{number:07}"), Version::V311));
        }
    });
    // The table of sessions consists of 256, each of which is one allocation.
    assert!(connected.count_current < 400, "{} allocations are kept", connected.count_current);
    let each = connected.bytes_current / CLIENTS;
    assert!(each <= 380, "{each} bytes for an idle client");
    let subscribed = allocation_counter::measure(|| {
        for (number, client) in clients.iter().enumerate() {
            let filter = format!("dev/{number:07}/command");
            broker.subscribe(*client, Version::V311, &filter, QoS::AtLeastOnce);
        }
    });
    let each = subscribed.bytes_current / CLIENTS;
    assert!(each <= 220, "{each} bytes for a subscription");
}
