//! QoS 2 to a client that is exactly once whatever the message comes from, across kill -9: replays and retained messages.

use crate::support::{
    Broker, Client, Connect, Held, Kind, Options, Packet, Properties, Publish, Received, Transport,
    Version,
};
use std::collections::{BTreeMap, HashSet};

on_both_transports!(
    a_replay_is_exactly_once_across_kills,
    a_replayed_message_comes_again_as_it_was,
    an_ended_replay_completes_what_it_began,
    identifiers_of_retained_messages_are_not_used_again,
);

const PUBLISHERS: usize = 4;

fn logged(transport: Transport) -> Options {
    Options::new(transport).logged().cores(1)
}

fn resume(broker: &Broker, version: Version) -> Client {
    let client = Client::connect(broker.tcp, &Connect::new(version, "exact").durable());
    assert!(client.connack().session_present());
    client
}

fn begin(broker: &Broker, version: Version) -> Client {
    Client::connect(broker.tcp, &Connect::new(version, "exact").durable())
}

fn publish(broker: &Broker, numbers: core::ops::Range<usize>) {
    for name in 0..PUBLISHERS {
        let mut client = Client::plain(broker.tcp, Version::V5, &format!("p{name}"));
        for number in numbers.clone() {
            client.publish("t/a", format!("{name}/{number}"), 2);
        }
        client.disconnect();
    }
}

/// What was taken, and how often.
#[derive(Default)]
struct Book {
    held: Held,
    taken: BTreeMap<String, usize>,
}

impl Book {
    fn take(&mut self, client: &mut Client, packet: &Packet, answers: bool) {
        if let Some(text) = self.held.take(client, packet, answers) {
            *self.taken.entry(text).or_default() += 1;
        }
    }

    fn is_whole(&self, each: usize) -> bool {
        self.taken.len() == each * PUBLISHERS && self.held.is_empty()
    }
}

fn a_replay_is_exactly_once_across_kills(transport: Transport) {
    const EACH: usize = 60;
    for version in [Version::V311, Version::V5] {
        let mut broker = Broker::start(&logged(transport));
        publish(&broker, 0..EACH);
        let mut client = begin(&broker, version);
        assert_eq!(client.subscribe("$replay/earliest/t/#", 2), 2);
        let (mut book, mut random) = (Book::default(), 7_u32);
        for (cycle, cores) in [1, 2, 1, 2, 1, 2].into_iter().enumerate() {
            for _ in 0..50 + cycle * 7 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let packet = client.read();
                book.take(&mut client, &packet, random >> 16 & 7 != 0);
            }
            if cycle == 3 {
                // Not only crashes: what is in flight stays with the session.
                client.reset();
            }
            broker.kill();
            broker.restart(&logged(transport).cores(cores));
            client = resume(&broker, version);
        }
        while !book.is_whole(EACH) {
            let packet = client.read();
            book.take(&mut client, &packet, true);
        }
        client.expect_nothing();
        assert!(book.taken.values().all(|times| *times == 1), "{:?}", book.taken);
        // The place is recorded at the end of a connection: nothing comes again.
        client.disconnect();
        broker.wait_until("it is gone", |broker| broker.metric("connections") == 0);
        broker.terminate();
        assert_eq!(broker.wait().code(), Some(0));
        broker.restart(&logged(transport));
        let mut client = resume(&broker, version);
        publish(&broker, EACH..EACH + 1);
        while !book.is_whole(EACH + 1) {
            let packet = client.read();
            book.take(&mut client, &packet, true);
        }
        assert!(book.taken.values().all(|times| *times == 1), "{:?}", book.taken);
        broker.stop();
    }
}

/// The user properties that say where a message lies.
fn place(received: &Received) -> Vec<Vec<u8>> {
    let all = received.properties.list().into_iter().filter(|(id, _)| *id == 0x26);
    let all = all.map(|(_, pair)| pair.to_vec());
    all.filter(|pair| !pair[2..].starts_with(b"ringlane-token")).collect()
}

fn a_replayed_message_comes_again_as_it_was(transport: Transport) {
    let mut broker = Broker::start(&logged(transport));
    publish(&broker, 0..1);
    let mut client = begin(&broker, Version::V5);
    let id = Properties::new().variable(0x0b, 9);
    assert_eq!(client.subscribe_all(&[("$replay/earliest/t/#", 2)], &id), [2]);
    let sent: Vec<_> = (0..PUBLISHERS).map(|_| client.receive()).collect();
    for crash in [false, true] {
        if crash {
            broker.kill();
            broker.restart(&logged(transport));
        } else {
            client.reset();
            broker.wait_until("it is gone", |broker| broker.metric("connections") == 0);
        }
        client = resume(&broker, Version::V5);
        for before in &sent {
            let again = client.receive();
            assert_eq!((again.id, again.text(), again.dup), (before.id, before.text(), true));
            assert_eq!(again.properties.number(0x0b), Some(9));
            assert_eq!(place(&again), place(before));
            assert_eq!(place(&again).len(), 3, "partition, offset and time");
        }
        client.expect_nothing();
    }
    sent.iter().for_each(|received| client.finish(received));
    client.expect_nothing();
    broker.stop();
}

/// Neither UNSUBSCRIBE nor another beginning takes back what was sent, and the new one is a new one.
fn an_ended_replay_completes_what_it_began(transport: Transport) {
    let mut broker = Broker::start(&logged(transport));
    publish(&broker, 0..1);
    let mut client = begin(&broker, Version::V5);
    assert_eq!(client.subscribe("$replay/earliest/t/#", 2), 2);
    let first: Vec<_> = (0..PUBLISHERS).map(|_| client.receive()).collect();
    client.finish(&first[0]);
    assert_eq!(client.subscribe("$replay/earliest/t/#", 2), 2, "once more");
    let second: Vec<_> = (0..PUBLISHERS).map(|_| client.receive()).collect();
    let used: HashSet<u16> = first[1..].iter().chain(&second).map(|received| received.id).collect();
    assert_eq!(used.len(), 2 * PUBLISHERS - 1, "each has an identifier of its own");
    client.finish(&second[0]);
    for _ in 0..2 {
        broker.wait_until_logs_rest();
        broker.kill();
        broker.restart(&logged(transport));
        client = resume(&broker, Version::V5);
        for before in first[1..].iter().chain(&second[1..]) {
            let again = client.receive();
            assert_eq!((again.id, again.text(), again.dup), (before.id, before.text(), true));
        }
        client.expect_nothing();
    }
    assert_eq!(client.unsubscribe("$replay/earliest/t/#").codes(), [0]);
    broker.kill();
    broker.restart(&logged(transport));
    client = resume(&broker, Version::V5);
    for before in first[1..].iter().chain(&second[1..]) {
        assert_eq!(client.receive().id, before.id);
        client.finish(before);
    }
    publish(&broker, 1..2);
    client.expect_nothing();
    broker.stop();
}

/// A retained message on its way to a new subscription is not sent again after a crash, but its
/// identifier is released before it stands for another message.
fn identifiers_of_retained_messages_are_not_used_again(transport: Transport) {
    for version in [Version::V311, Version::V5] {
        let mut broker = Broker::start(&logged(transport));
        let mut publisher = Client::plain(broker.tcp, Version::V5, "publisher");
        for topic in 0..6 {
            let publish = Publish::new(&format!("r/{topic}"), format!("{topic}")).qos(2, 0);
            publisher.publish_packet(publish.retain());
        }
        let mut client = begin(&broker, version);
        assert_eq!(client.subscribe("r/#", 2), 2);
        let sent: Vec<_> = (0..6).map(|_| client.receive()).collect();
        assert!(sent.iter().all(|received| received.retain && received.qos == 2));
        client.finish(&sent[0]);
        client.acknowledge(Kind::Pubrec, sent[1].id);
        assert_eq!(client.expect(Kind::Pubrel).id(), sent[1].id);
        broker.wait_until_logs_rest();
        broker.kill();
        broker.restart(&logged(transport));
        client = resume(&broker, version);
        let released: Vec<u16> = (0..5).map(|_| client.expect(Kind::Pubrel).id()).collect();
        assert_eq!(released, sent[1..].iter().map(|received| received.id).collect::<Vec<_>>());
        let mut publisher = Client::plain(broker.tcp, Version::V5, "publisher");
        publisher.publish("r/live", "live", 2);
        let live = client.receive();
        assert!(!released.contains(&live.id), "{} is in use", live.id);
        client.finish(&live);
        for id in released {
            client.acknowledge(Kind::Pubcomp, id);
        }
        client.expect_nothing();
        client.disconnect();
        broker.wait_until("nothing is open", |broker| broker.metric("inflight_messages") == 0);
        broker.stop();
    }
}
