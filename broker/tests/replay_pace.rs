//! What replays do to the turns of a core: little beside live messages, and nothing once they ended.

use crate::loopback::{Loopback, new_log, publish};
use ringlane::config::Config;
use ringlane_dataplane::disk::memory::MemoryDisk;
use ringlane_dataplane::ids::ConnectionId;
use ringlane_mqtt::{QoS, Version};

const STORED: u64 = 1000;
const V311: Version = Version::V311;

/// A broker with stored messages of 100 bytes, and two clients with live traffic between them.
struct Node {
    broker: Loopback,
    publisher: ConnectionId,
    live: u64,
}

impl Node {
    fn new() -> Self {
        let mut broker = Loopback::with_sessions(
            &Config::default(),
            MemoryDisk::new(),
            (0..4).map(|partition| new_log(partition, 1 << 16)).collect(),
        );
        broker.end_turn();
        broker.settle_disk();
        let publisher = broker.client("publisher", V311);
        for number in 1..=STORED {
            let packet = publish(V311, "cold/x", QoS::AtLeastOnce, number as u16, &[7; 100]);
            broker.receive(publisher, &packet);
            if number % 100 == 0 {
                broker.settle_disk();
            }
        }
        let subscriber = broker.client("subscriber", V311);
        broker.subscribe(subscriber, V311, "live", QoS::AtMostOnce);
        Self { broker, publisher, live: 0 }
    }

    /// A client that reads again has subscribed.
    fn replay(&mut self) -> ConnectionId {
        let reader = self.broker.client("reader", V311);
        self.broker.subscribe(reader, V311, "$replay/earliest/cold/#", QoS::AtMostOnce);
        reader
    }

    fn publish_live(&mut self) {
        let packet = publish(V311, "live", QoS::AtMostOnce, 0, b"now");
        self.broker.receive(self.publisher, &packet);
        self.live += 1;
    }

    fn sent(&self) -> u64 {
        self.broker.metrics.publishes_sent_qos0.get()
    }

    /// Replayed messages that were handed out.
    fn handed_out(&self) -> u64 {
        self.sent() - self.live
    }

    /// A turn with a live message; what else was read and handed out in it.
    fn live_turn(&mut self) -> (u64, u64) {
        let read = self.broker.metrics.replayed_messages.get();
        let handed_out = self.handed_out();
        self.publish_live();
        self.broker.disk_turn();
        let read = self.broker.metrics.replayed_messages.get() - read;
        (read, self.handed_out() - handed_out)
    }
}

#[test]
fn beside_live_messages_replays_work_in_few_turns_and_small_pieces() {
    let mut node = Node::new();
    node.publish_live();
    node.replay();
    let (mut turns, mut idle) = (0, 0);
    while node.handed_out() < STORED {
        let (read, handed_out) = node.live_turn();
        assert!(read <= 100 && handed_out <= 100, "{read} and {handed_out} in one turn");
        assert!(read == 0 || handed_out == 0, "one turn reads, another one hands out");
        turns += 1;
        idle += u64::from(read == 0 && handed_out == 0);
        assert!(turns < 4000, "replays go on: {} of {STORED}", node.handed_out());
    }
    assert!(turns * 3 <= idle * 4, "three of four turns are for live messages: {idle} of {turns}");
    assert_eq!(node.handed_out(), STORED, "each once");
}

#[test]
fn without_live_messages_replays_have_all_of_a_turn() {
    let mut node = Node::new();
    node.broker.pass(2);
    node.replay();
    let (mut turns, mut most) = (0, 0);
    while node.handed_out() < STORED {
        let before = node.handed_out();
        node.broker.disk_turn();
        most = most.max(node.handed_out() - before);
        turns += 1;
        assert!(turns < 1000, "{} of {STORED}", node.handed_out());
    }
    assert!(most > 100, "{most} in one turn");
}

#[test]
fn a_core_rests_when_the_clients_of_replays_have_gone() {
    for turns in 0..20 {
        let mut node = Node::new();
        let reader = node.replay();
        for _ in 0..turns {
            node.broker.disk_turn();
        }
        node.broker.lose(reader);
        node.broker.settle_disk();
        node.broker.end_turn();
        assert!(node.broker.idle, "lost after {turns} turns");
    }
}
