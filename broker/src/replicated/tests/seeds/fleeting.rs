//! QoS 0 in a run: somebody who says what time it is, and somebody who listens. Nothing of it has to come, but what
//! was said to a node whose lease had ended comes from nobody.

use super::super::Cluster;
use super::super::client::Client;
use super::super::driver::Outer;
use super::{AFTER_REFUSAL, people};
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::QoS;
use std::rc::Rc;

const TOPIC: &str = "fleeting";

/// Both clients, at one node.
pub(super) struct Fleeting {
    teller: Client,
    listener: Client,
    /// The node that they have dialed.
    node: usize,
    /// When they dial next, at the earliest: one of them was refused.
    dial_at: Nanos,
    /// What has come.
    seen: usize,
    /// What was said to a node without a lease.
    pub(super) in_vain: u64,
}

impl Fleeting {
    pub(super) fn new() -> Self {
        let [teller, listener] = ["teller", "listener"].map(Client::that_may_be_refused);
        Self { dial_at: Nanos(0), teller, listener, node: 0, seen: 0, in_vain: 0 }
    }

    pub(super) fn has_subscribed(&self) -> bool {
        self.listener.subacks > 0
    }

    /// Messages that have come.
    pub(super) fn heard(&self) -> u64 {
        self.listener.received.len() as u64
    }

    /// Both go to the leader as soon as they have lost the node that they were at, however late it notices that it leads
    /// no more. `core` is one of the leader's.
    pub(super) fn go_on(&mut self, cluster: &mut Cluster, core: impl Fn(u16) -> usize) {
        let outer = Rc::clone(&cluster.outer);
        self.teller.read(&outer);
        self.listener.read(&outer);
        self.look(cluster);
        if self.listener.take_connected() && !self.has_subscribed() {
            self.listener.subscribe(&outer, TOPIC, QoS::AtMostOnce);
        }
        if self.teller.take_refused() | self.listener.take_refused() {
            self.dial_at = outer.now.get() + AFTER_REFUSAL;
        }
        let Some(leader) = cluster.leader() else { return };
        if outer.now.get() < self.dial_at {
            return;
        }
        if self.teller.has_wire() && self.listener.has_wire() {
            return;
        }
        self.hang_up(&outer);
        self.node = leader;
        let core = core(cluster.nodes[leader].cores);
        people::dial(cluster, &mut self.teller, core);
        people::dial(cluster, &mut self.listener, core);
    }

    fn hang_up(&mut self, outer: &Outer) {
        self.teller.hang_up(outer);
        self.listener.hang_up(outer);
    }

    /// Says what time it is, also to a node that stands still.
    pub(super) fn tell(&mut self, cluster: &Cluster) {
        if !self.teller.connected {
            return;
        }
        let now = cluster.outer.now.get();
        let has_ended = cluster.nodes[self.node].lease_ends() <= now;
        self.in_vain += u64::from(has_ended);
        let payload = now.0.to_string();
        let message = (TOPIC, payload.as_bytes());
        self.teller.publish(&cluster.outer, message, QoS::AtMostOnce, false);
    }

    /// What was said before the lease ended may come late: the node had taken it, and stood still.
    fn look(&mut self, cluster: &Cluster) {
        let lease_until = cluster.nodes[self.node].lease_ends();
        for payload in &self.listener.received[self.seen..] {
            let text = String::from_utf8_lossy(payload);
            let said_at = Nanos(text.parse().expect("a time"));
            assert!(
                said_at < lease_until,
                "what was said at {said_at:?} comes under a lease that ended at {lease_until:?}"
            );
        }
        self.seen = self.listener.received.len();
    }
}
