//! Clients of a run: who publishes and goes on after each end of a connection, and who subscribes and comes and goes.

use super::super::Cluster;
use super::super::client::Client;
use super::super::driver::Outer;
use super::KEPT;
use ringlane_mqtt::QoS;
use std::collections::BTreeMap;

/// Messages of a publisher that are not complete, at most.
const IN_FLIGHT_MAX: usize = 16;

/// A message that was sent and is not complete.
#[derive(Clone, Debug)]
struct Sent {
    number: u64,
    payload: Vec<u8>,
    /// The epoch of the leader that it was sent to last.
    epoch: u64,
}

/// What came for a publisher.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Answers {
    pub(super) complete: u64,
    pub(super) refused: u64,
}

/// A client that goes on where it was, as one that keeps its session does.
pub(super) struct Publisher {
    pub(super) client: Client,
    pub(super) qos: QoS,
    topic: String,
    /// By packet identifier.
    in_flight: BTreeMap<u16, Sent>,
    /// Numbers of what was acknowledged, in order.
    pub(super) acknowledged: Vec<u64>,
    /// Numbers of what was refused for a full disk: what it says next is another message.
    pub(super) refused: Vec<u64>,
    number: u64,
    is_known: bool,
    /// Exchanges of QoS 2 that went on with another leader than the one that they began with.
    pub(super) carried_over: u64,
}

impl Publisher {
    pub(super) fn new(index: usize, qos: QoS, prefix: &str) -> Self {
        Self {
            client: Client::that_may_be_refused(&format!("publisher-{index}")),
            qos,
            topic: format!("{prefix}/{index}"),
            in_flight: BTreeMap::new(),
            acknowledged: Vec::new(),
            refused: Vec::new(),
            number: 0,
            is_known: false,
            carried_over: 0,
        }
    }

    /// Publishes the next message, if not too many are under way.
    pub(super) fn publish(&mut self, outer: &Outer, index: usize, epoch: u64, bytes: usize) {
        if self.in_flight.len() >= IN_FLIGHT_MAX || !self.client.connected {
            return;
        }
        self.number += 1;
        let mut payload = format!("{index}-{:08}", self.number).into_bytes();
        payload.resize(payload.len().max(bytes), b'.');
        let packet_id = self.client.publish(outer, (&self.topic, &payload), self.qos, false);
        let sent = Sent { number: self.number, payload, epoch };
        self.in_flight.insert(packet_id, sent);
    }

    /// Says again what was not answered, in the order in which it was said first [MQTT-4.4.0-1].
    pub(super) fn go_on(&mut self, outer: &Outer, epoch: u64) {
        assert!(
            self.client.session_present || !self.is_known,
            "the session of a publisher is kept"
        );
        self.is_known = true;
        self.take_answers();
        for (packet_id, sent) in &mut self.in_flight {
            self.carried_over += u64::from(self.qos == QoS::ExactlyOnce && sent.epoch != epoch);
            sent.epoch = epoch;
            if self.client.acknowledged.contains(packet_id) {
                self.client.release(outer, *packet_id);
            } else {
                let again = (&self.topic[..], &sent.payload[..]);
                self.client.publish_as(outer, *packet_id, again, self.qos, (false, true));
            }
        }
    }

    /// Lets go of what is complete, and of what was refused; how many were the one or the other.
    pub(super) fn take_answers(&mut self) -> Answers {
        let Self { client, qos, in_flight, acknowledged, refused, .. } = self;
        let answered =
            if *qos == QoS::ExactlyOnce { &client.completed } else { &client.acknowledged };
        let mut answers = Answers::default();
        in_flight.retain(|packet_id, sent| {
            let is_complete = answered.contains(packet_id);
            let is_refused = client.refused.contains(packet_id);
            assert!(!(is_complete && is_refused), "{packet_id} is complete, and refused");
            if is_complete {
                answers.complete += 1;
                acknowledged.push(sent.number);
            } else if is_refused {
                answers.refused += 1;
                refused.push(sent.number);
            }
            !is_complete && !is_refused
        });
        answers
    }

    pub(super) fn is_done(&self) -> bool {
        self.in_flight.is_empty()
    }
}

/// A client that subscribes to all topics and keeps its session.
pub(super) struct Subscriber {
    pub(super) client: Client,
    pub(super) qos: QoS,
    is_known: bool,
    /// What it has looked at of what was received.
    seen: usize,
    /// For each publisher and number, how often it came.
    pub(super) times: BTreeMap<(usize, u64), u32>,
    /// The newest of each publisher.
    newest: BTreeMap<usize, u64>,
}

impl Subscriber {
    pub(super) fn new(name: &str, qos: QoS) -> Self {
        Self {
            client: Client::that_may_be_refused(name),
            qos,
            is_known: false,
            seen: 0,
            times: BTreeMap::new(),
            newest: BTreeMap::new(),
        }
    }

    pub(super) fn has_subscribed(&self) -> bool {
        self.client.subacks > 0
    }

    /// After CONNACK.
    pub(super) fn go_on(&mut self, outer: &Outer) {
        assert!(
            self.client.session_present || !self.is_known,
            "the session of a subscriber is kept"
        );
        self.is_known |= self.has_subscribed();
        if !self.has_subscribed() {
            self.client.subscribe(outer, &format!("{KEPT}/+"), self.qos);
        }
    }

    /// Counts what has come; what QoS 2 promises holds at once.
    pub(super) fn take_messages(&mut self, qos_of: &[QoS]) {
        for payload in &self.client.received[self.seen..] {
            let text = String::from_utf8_lossy(payload);
            let (publisher, number) = text.split_once('-').expect("a payload of a publisher");
            let number = number.trim_end_matches('.').parse::<u64>().expect("a number");
            let publisher = publisher.parse::<usize>().expect("a publisher");
            let times = self.times.entry((publisher, number)).or_default();
            *times += 1;
            if self.qos == QoS::ExactlyOnce && qos_of[publisher] == QoS::ExactlyOnce {
                assert_eq!(*times, 1, "message {publisher}-{number} of QoS 2 has come again");
                let newest = self.newest.entry(publisher).or_default();
                assert!(*newest < number, "message {publisher}-{number} has come after {newest}");
                *newest = number;
            }
        }
        self.seen = self.client.received.len();
    }

    /// What was refused to a publisher at QoS 2 was taken by nobody.
    pub(super) fn check_refused(&self, index: usize, publisher: &Publisher) {
        if publisher.qos != QoS::ExactlyOnce {
            return;
        }
        for number in &publisher.refused {
            let has_come = self.times.contains_key(&(index, *number));
            assert!(!has_come, "message {index}-{number} was refused, and has come");
        }
    }

    /// The first of what was acknowledged to a publisher that has not come.
    pub(super) fn lacks(&self, index: usize, publisher: &Publisher) -> Option<u64> {
        let is_missing = |number: &&u64| !self.times.contains_key(&(index, **number));
        publisher.acknowledged.iter().find(is_missing).copied()
    }
}

/// Gives a connection to a client that has none, at a core of the leader.
pub(super) fn dial(cluster: &mut Cluster, client: &mut Client, core: usize) {
    if let Some(leader) = cluster.leader() {
        cluster.dial(client, leader, core);
    }
}
