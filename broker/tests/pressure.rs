//! A subscriber whose output is full: its publishers wait for a moment, and then its QoS 0 is
//! dropped and counted, until it has caught up.

use crate::loopback::{Loopback, publish};
use ringlane::config::Config;
use ringlane_dataplane::ids::ConnectionId;
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::{QoS, Version};

const PAYLOAD_BYTES: usize = 4096;

struct Flow {
    broker: Loopback,
    publisher: ConnectionId,
    subscriber: ConnectionId,
    packet: Vec<u8>,
    sent: u64,
}

impl Flow {
    fn new() -> Self {
        let mut broker = Loopback::new(&Config::default());
        let subscriber = broker.client("sub", Version::V311);
        broker.subscribe(subscriber, Version::V311, "t", QoS::AtMostOnce);
        let publisher = broker.client("pub", Version::V311);
        let packet = publish(Version::V311, "t", QoS::AtMostOnce, 0, &[7; PAYLOAD_BYTES]);
        Self { broker, publisher, subscriber, packet, sent: 0 }
    }

    fn send(&mut self, messages: usize) {
        for _ in 0..messages {
            self.broker.receive(self.publisher, &self.packet);
            self.sent += 1;
        }
        self.broker.end_turn();
    }

    /// The subscriber stops reading and the publisher sends on until it is held up.
    fn fill(&mut self) {
        self.broker.stalled.push(self.subscriber);
        while !self.broker.is_paused(self.publisher) {
            assert!(self.sent < 1000, "there is a bound");
            self.send(1);
        }
    }

    fn delivered(&self) -> u64 {
        self.broker.metrics.publishes_sent_qos0.get()
    }

    fn dropped(&self) -> u64 {
        self.broker.metrics.dropped_slow.get()
    }

    fn wait(&mut self, millis: u64) {
        self.broker.now = Nanos(self.broker.now.0 + millis * 1_000_000);
        self.broker.end_turn();
    }
}

/// The window of 200 messages of 4 KiB that a load tool has in flight.
#[test]
fn a_window_of_200_messages_of_4_kib_fits_the_default_bound() {
    let mut flow = Flow::new();
    flow.broker.stalled.push(flow.subscriber);
    flow.send(200);
    assert!(!flow.broker.is_paused(flow.publisher));
    assert_eq!((flow.delivered(), flow.dropped()), (200, 0));
}

#[test]
fn a_burst_that_is_read_in_time_loses_nothing() {
    let mut flow = Flow::new();
    flow.fill();
    flow.wait(9);
    assert!(flow.broker.is_paused(flow.publisher), "it has not read yet");
    assert_eq!(flow.delivered(), flow.sent - 1, "the last one waits");
    flow.broker.read_again(flow.subscriber);
    flow.broker.end_turn();
    assert!(!flow.broker.is_paused(flow.publisher));
    flow.send(100);
    assert_eq!((flow.delivered(), flow.dropped()), (flow.sent, 0));
}

#[test]
fn who_does_not_read_holds_up_publishers_once_and_only_for_a_moment() {
    let mut flow = Flow::new();
    flow.fill();
    let full_at = flow.delivered();
    flow.wait(10);
    assert!(!flow.broker.is_paused(flow.publisher), "its time is over");
    assert_eq!(flow.dropped(), 1);
    flow.send(50);
    assert!(!flow.broker.is_paused(flow.publisher), "dropped at once from now on");
    assert_eq!((flow.delivered(), flow.dropped()), (full_at, 51));
    assert_eq!(flow.broker.metrics.backpressure_pauses.get(), 1);
    // It has caught up: what comes from now on is delivered again.
    flow.broker.read_again(flow.subscriber);
    flow.send(50);
    assert_eq!((flow.delivered(), flow.dropped()), (full_at + 50, 51));
}

/// Others that get the same messages do not wait longer than the publisher does, and miss nothing.
#[test]
fn a_full_output_among_many_costs_the_others_nothing_but_the_moment() {
    let mut flow = Flow::new();
    let other = flow.broker.client("other", Version::V5);
    flow.broker.subscribe(other, Version::V5, "#", QoS::AtMostOnce);
    flow.fill();
    assert_eq!(flow.delivered(), 2 * flow.sent, "what was taken goes to both");
    flow.wait(10);
    flow.send(10);
    assert_eq!(flow.dropped(), 10);
    assert_eq!(flow.delivered(), 2 * (flow.sent - 10) + 10);
}
