//! The broker on several cores with every turn chosen by a seed and mailboxes of two words: what
//! real threads meet once in a million runs happens here all the time, and repeats.
//!
//! A failing seed is in the assertion's message; the loops below run it first if it is put there.

#[path = "cores_model/client.rs"]
mod client;
#[path = "cores_model/node.rs"]
mod node;

use client::Client;
use node::Node;
use ringlane::config::Config;
use ringlane_mqtt::{QoS, ReasonCode, Version};

/// A small generator of choices (xorshift64*): the same seed makes the same run.
struct Choice(u64);

impl Choice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

const CORES: u16 = 3;
const SLOTS: usize = 2;

fn version(n: usize) -> Version {
    [Version::V5, Version::V311, Version::V31][n % 3]
}

fn connected(node: &mut Node, id: &str, version: Version, clean: bool, core: usize) -> Client {
    let mut client = Client::new(id, version);
    client.connect(node, core, clean);
    node.settle();
    client.read(node);
    assert!(client.connected, "{id} is accepted");
    client
}

fn number(payload: &[u8]) -> usize {
    std::str::from_utf8(payload).expect("digits").parse().expect("digits")
}

fn turn_some_core(node: &mut Node, choice: &mut Choice) {
    let core = choice.below(node.core_count());
    let bytes = 1 + choice.below(200);
    node.turn(core, bytes);
    node.now.0 += 100_000;
}

/// First occurrences of each number, in order of arrival.
fn first_occurrences(numbers: &[usize]) -> Vec<usize> {
    let mut seen = std::collections::HashSet::new();
    numbers.iter().copied().filter(|number| seen.insert(*number)).collect()
}

/// Subscribers that are away come back, until all have what they are owed.
fn bring_everybody_back(node: &mut Node, choice: &mut Choice, subscribers: &mut [Client]) {
    for _ in 0..60 {
        for subscriber in subscribers.iter_mut() {
            if subscriber.wire.is_none() {
                subscriber.connect(node, choice.below(3), false);
            }
            subscriber.read(node);
        }
        for core in 0..node.core_count() {
            node.turn(core, 1 << 16);
        }
    }
    node.settle();
    for subscriber in subscribers {
        subscriber.read(node);
    }
    node.settle();
}

/// QoS 1 and 2 from many publishers to sessions that come and go: nothing acknowledged is lost,
/// order is kept per publisher and QoS, and QoS 2 comes once.
#[test]
fn sessions_that_come_and_go_miss_nothing() {
    const MESSAGES: usize = 60;
    for seed in 0..30 {
        let mut choice = Choice::new(seed);
        let mut node = Node::new(CORES, SLOTS, &Config::default());
        let qos = [QoS::AtLeastOnce, QoS::ExactlyOnce];
        let mut subscribers: Vec<_> = (0..4)
            .map(|n| connected(&mut node, &format!("sub{n}"), version(n), false, n % 3))
            .collect();
        for (n, subscriber) in subscribers.iter_mut().enumerate() {
            subscriber.subscribe(&mut node, "load/#", qos[n % 2]);
        }
        node.settle();
        let mut publishers: Vec<_> = (0..3)
            .map(|n| connected(&mut node, &format!("pub{n}"), version(n), true, n % 3))
            .collect();
        let mut sent = [0; 3];
        while sent.iter().any(|count| *count < MESSAGES) {
            let p = choice.below(3);
            if sent[p] < MESSAGES {
                let topic = format!("load/{p}");
                let payload = sent[p].to_string();
                publishers[p].publish(&mut node, &topic, payload.as_bytes(), qos[p % 2], false);
                sent[p] += 1;
            }
            for _ in 0..choice.below(6) {
                turn_some_core(&mut node, &mut choice);
            }
            let s = choice.below(4);
            subscribers[s].read(&mut node);
            publishers[p].read(&mut node);
            if choice.one_in(12) {
                match subscribers[s].wire {
                    Some(wire) => {
                        node.reset(wire);
                        subscribers[s].read(&mut node);
                    }
                    None => subscribers[s].connect(&mut node, choice.below(3), false),
                }
            }
        }
        bring_everybody_back(&mut node, &mut choice, &mut subscribers);
        for publisher in &mut publishers {
            publisher.read(&mut node);
            assert_eq!(publisher.acknowledged.len(), MESSAGES, "seed {seed}");
        }
        for (n, subscriber) in subscribers.iter_mut().enumerate() {
            subscriber.read(&mut node);
            for p in 0..3 {
                let topic = format!("load/{p}");
                let of_topic = subscriber.received.iter().filter(|r| r.topic == topic);
                let numbers: Vec<_> = of_topic.map(|r| number(&r.payload)).collect();
                let expected: Vec<_> = (0..MESSAGES).collect();
                let name = &subscriber.id;
                let first = first_occurrences(&numbers);
                assert_eq!(first, expected, "seed {seed}: {name} of {topic}");
                if qos[n % 2] == QoS::ExactlyOnce && qos[p % 2] == QoS::ExactlyOnce {
                    assert_eq!(numbers, expected, "seed {seed}: once: {name} of {topic}");
                }
            }
        }
        assert_eq!(node.metric(|m| m.inflight_messages.get()), 0, "seed {seed}");
        assert_eq!(node.metric(|m| m.queued_messages.get()), 0, "seed {seed}");
        assert_eq!(node.metric(|m| m.queued_bytes.get()), 0, "seed {seed}");
    }
}

/// A new subscription sees the retained message, then every live one: never an old one after a
/// new one, and none missing in between.
#[test]
fn retained_messages_come_before_live_ones_and_none_is_missed() {
    const MESSAGES: usize = 40;
    for seed in 0..60 {
        let mut choice = Choice::new(seed);
        let mut node = Node::new(CORES, SLOTS, &Config::default());
        let publisher_id = format!("pub{seed}");
        let topic = format!("state/{seed}");
        let mut publisher = connected(&mut node, &publisher_id, Version::V5, true, 0);
        let mut subscribers = Vec::new();
        for n in 0..6 {
            subscribers.push(connected(
                &mut node,
                &format!("s{seed}-{n}"),
                version(n),
                true,
                n % 3,
            ));
        }
        let mut waiting: Vec<usize> = (0..6).collect();
        for sent in 0..MESSAGES {
            let payload = sent.to_string();
            publisher.publish(&mut node, &topic, payload.as_bytes(), QoS::AtLeastOnce, true);
            for _ in 0..choice.below(12) {
                turn_some_core(&mut node, &mut choice);
            }
            if choice.one_in(5)
                && let Some(n) = waiting.pop()
            {
                let filter = if choice.one_in(2) { topic.as_str() } else { "state/+" };
                subscribers[n].subscribe(&mut node, filter, QoS::AtLeastOnce);
            }
            for subscriber in &mut subscribers {
                subscriber.read(&mut node);
            }
        }
        for _ in 0..10 {
            node.settle();
            for subscriber in &mut subscribers {
                subscriber.read(&mut node);
            }
        }
        for (n, subscriber) in subscribers.iter().enumerate() {
            if waiting.contains(&n) {
                continue;
            }
            let numbers: Vec<_> = subscriber.received.iter().map(|r| number(&r.payload)).collect();
            let first = *numbers.first().unwrap_or_else(|| panic!("seed {seed}: {n} got nothing"));
            let expected: Vec<_> = (first..MESSAGES).collect();
            assert_eq!(numbers, expected, "seed {seed}: subscriber {n}");
        }
    }
}

/// A shared group with members on all cores: one stalls, one goes, and every message still comes.
#[test]
fn a_group_loses_nothing_when_members_stall_and_go() {
    const MESSAGES: usize = 300;
    for seed in 0..20 {
        let mut choice = Choice::new(seed);
        let mut node = Node::new(CORES, SLOTS, &Config::default());
        let mut members: Vec<_> = (0..4)
            .map(|n| connected(&mut node, &format!("m{seed}-{n}"), version(n), true, n % 3))
            .collect();
        for member in &mut members {
            member.subscribe(&mut node, "$share/g/work/#", QoS::AtLeastOnce);
        }
        members[1].answers = false;
        node.settle();
        let mut publisher = connected(&mut node, &format!("p{seed}"), Version::V311, true, 0);
        for sent in 0..MESSAGES {
            let payload = sent.to_string();
            publisher.publish(&mut node, "work/a", payload.as_bytes(), QoS::AtLeastOnce, false);
            for _ in 0..choice.below(8) {
                turn_some_core(&mut node, &mut choice);
            }
            for member in &mut members {
                member.read(&mut node);
            }
            if sent == MESSAGES / 2 {
                node.reset(members[0].wire.expect("connected"));
                members[0].read(&mut node);
            }
        }
        for _ in 0..20 {
            node.settle();
            for member in &mut members {
                member.read(&mut node);
            }
        }
        // The stalled member goes too: what it held back is given to the others.
        node.reset(members[1].wire.expect("connected"));
        let stalled: Vec<_> = members[1].received.iter().map(|r| number(&r.payload)).collect();
        assert!(!stalled.is_empty(), "seed {seed}: the stalled member got its window");
        for _ in 0..10 {
            node.settle();
            members[2].read(&mut node);
            members[3].read(&mut node);
        }
        let mut others: Vec<_> = [0, 2, 3]
            .iter()
            .flat_map(|n| members[*n].received.iter().map(|r| number(&r.payload)))
            .collect();
        let share = MESSAGES / 4;
        for n in [2, 3] {
            let got = members[n].received.len();
            assert!(got * 10 >= share * 9, "seed {seed}: member {n} got {got} of {MESSAGES}");
        }
        others.sort_unstable();
        others.dedup();
        assert_eq!(others, (0..MESSAGES).collect::<Vec<_>>(), "seed {seed}");
        assert_eq!(node.metric(|m| m.shared_pending.get()), 0, "seed {seed}");
    }
}

/// The same client identifier again and again on any core, under fan-out: one survivor, and the
/// session's messages neither lost nor reordered.
#[test]
fn takeovers_leave_one_survivor_and_lose_nothing() {
    const MESSAGES: usize = 120;
    for seed in 0..30 {
        let mut choice = Choice::new(seed);
        let mut node = Node::new(CORES, SLOTS, &Config::default());
        let id = format!("same{seed}");
        let mut first = connected(&mut node, &id, Version::V5, false, 0);
        first.subscribe(&mut node, "t", QoS::AtLeastOnce);
        node.settle();
        first.read(&mut node);
        let mut publisher = connected(&mut node, &format!("p{seed}"), Version::V311, true, 1);
        let mut incarnations = vec![first];
        for sent in 0..MESSAGES {
            let payload = sent.to_string();
            publisher.publish(&mut node, "t", payload.as_bytes(), QoS::AtLeastOnce, false);
            if choice.one_in(6) {
                let mut next = Client::new(&id, Version::V5);
                next.connect(&mut node, choice.below(3), false);
                incarnations.push(next);
            }
            for _ in 0..choice.below(10) {
                turn_some_core(&mut node, &mut choice);
            }
            let some = choice.below(incarnations.len());
            incarnations[some].read(&mut node);
        }
        for _ in 0..20 {
            node.settle();
            for incarnation in &mut incarnations {
                incarnation.read(&mut node);
            }
        }
        let survivors = incarnations.iter().filter(|client| client.wire.is_some()).count();
        assert_eq!(survivors, 1, "seed {seed}");
        let last = incarnations.iter().filter(|client| client.disconnect_reason.is_some());
        for loser in last {
            assert_eq!(loser.disconnect_reason, Some(ReasonCode::SESSION_TAKEN_OVER));
        }
        let mut numbers: Vec<_> = incarnations
            .iter()
            .flat_map(|client| client.received.iter().map(|r| number(&r.payload)))
            .collect();
        for client in &incarnations {
            let own: Vec<_> = client.received.iter().map(|r| number(&r.payload)).collect();
            assert!(own.is_sorted(), "seed {seed}: {own:?}");
        }
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers, (0..MESSAGES).collect::<Vec<_>>(), "seed {seed}");
    }
}

/// QoS 0 across full mailboxes: in order, and what does not arrive is counted.
#[test]
fn qos0_is_in_order_and_every_drop_is_counted() {
    const MESSAGES: usize = 400;
    for seed in 0..20 {
        let mut choice = Choice::new(seed);
        let mut node = Node::new(CORES, SLOTS, &Config::default());
        let mut subscribers: Vec<_> = (0..3)
            .map(|n| connected(&mut node, &format!("s{seed}-{n}"), version(n), true, n % 3))
            .collect();
        for subscriber in &mut subscribers {
            subscriber.subscribe(&mut node, "t", QoS::ExactlyOnce);
        }
        node.settle();
        let mut publisher = connected(&mut node, &format!("p{seed}"), Version::V311, true, 1);
        for sent in 0..MESSAGES {
            publisher.publish(&mut node, "t", sent.to_string().as_bytes(), QoS::AtMostOnce, false);
        }
        for _ in 0..2000 {
            turn_some_core(&mut node, &mut choice);
            // Some cores are slower than the 10 ms that a mailbox is waited for.
            node.now.0 += 2_000_000;
        }
        node.settle();
        let mut received = 0;
        for subscriber in &mut subscribers {
            subscriber.read(&mut node);
            let numbers: Vec<_> = subscriber.received.iter().map(|r| number(&r.payload)).collect();
            assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "seed {seed}");
            received += numbers.len();
        }
        // Three sessions; those that live on one core share its mail, so a drop counts per core.
        let dropped = node.metric(|m| m.dropped_mailbox.get()) as usize;
        let to: u64 = node.metric(|m| m.dropped_mailbox_to.iter().map(|c| c.get()).sum());
        assert_eq!(to as usize, dropped, "seed {seed}: counted per destination core");
        assert!(received <= 3 * MESSAGES);
        if dropped == 0 {
            assert_eq!(received, 3 * MESSAGES, "seed {seed}: nothing dropped, nothing missing");
        } else {
            assert!(received + 3 * dropped >= 3 * MESSAGES, "seed {seed}: every loss is counted");
        }
    }
}

/// Draining tells MQTT 5 clients why, closes everybody, and stops.
#[test]
fn draining_disconnects_everybody() {
    let mut node = Node::new(CORES, SLOTS, &Config::default());
    let mut clients: Vec<_> =
        (0..6).map(|n| connected(&mut node, &format!("c{n}"), version(n), true, n % 3)).collect();
    node.drain();
    node.settle();
    for client in &mut clients {
        client.read(&mut node);
        assert!(client.wire.is_none(), "{} is closed", client.id);
        let told = client.version.is_v5().then_some(ReasonCode::SERVER_SHUTTING_DOWN);
        assert_eq!(client.disconnect_reason, told);
    }
    assert_eq!(node.metric(|m| m.connections.get()), 0);
}
