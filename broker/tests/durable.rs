//! Sessions that outlive the broker: the process is killed between any two steps, and started again
//! on the same data.

use crate::support::{
    Broker, Client, Connect, Kind, Options, Properties, Publish, Transport, Version, Will, packets,
};

/// A broker with a log that can be killed and started again.
struct Node {
    broker: Broker,
    options: Options,
}

impl Node {
    fn start(transport: Transport) -> Self {
        let options = Options::new(transport).logged();
        Self { broker: Broker::start(&options), options }
    }

    /// The process ends as in a crash, and comes back with another number of cores.
    fn crash_to(&mut self, cores: usize) {
        self.options = self.options.clone().cores(cores);
        self.broker.kill();
        self.broker.restart(&self.options);
    }

    fn crash(&mut self) {
        let cores = self.options.cores;
        self.crash_to(cores);
    }

    fn connect(&self, connect: &Connect) -> Client {
        Client::connect(self.broker.tcp, connect)
    }

    /// A client whose session outlives its connection.
    fn durable(&self, version: Version, client_id: &str) -> Client {
        self.connect(&Connect::new(version, client_id).durable())
    }

    /// The same, which must find its session.
    fn resume(&self, version: Version, client_id: &str) -> Client {
        let client = self.durable(version, client_id);
        assert!(client.connack().session_present(), "{client_id} has its session");
        client
    }

    fn publisher(&self) -> Client {
        Client::plain(self.broker.tcp, Version::V5, "publisher")
    }

    fn publish(&self, topic: &str, numbers: core::ops::Range<usize>, qos: u8) {
        let mut publisher = self.publisher();
        for number in numbers {
            publisher.publish(topic, format!("{number}"), qos);
        }
        publisher.disconnect();
    }
}

fn expect_numbers(client: &mut Client, numbers: core::ops::Range<usize>) {
    for number in numbers {
        assert_eq!(client.receive_and_acknowledge().text(), format!("{number}"));
    }
    client.expect_nothing();
}

/// What is owed comes before what is published now.
fn expect_nothing_of_the_log(node: &Node, client: &mut Client) {
    let packets = client.fence_through(&mut node.publisher(), 1);
    assert!(packets.is_empty(), "{packets:?}");
}

fn an_absent_session_gets_everything_after_crashes(transport: Transport) {
    for version in [Version::V311, Version::V5] {
        let mut node = Node::start(transport);
        for client in 0..4 {
            let mut client = node.durable(version, &format!("absent-{client}"));
            assert_eq!(client.subscribe("t/#", 1), 1);
            client.disconnect();
        }
        let mut next = 0;
        for cores in [1, 2, 1] {
            node.publish("t/a", next..next + 40, 1);
            next += 40;
            node.crash_to(cores);
        }
        node.publish("t/a", next..next + 5, 1);
        for client in 0..4 {
            let mut client = node.resume(version, &format!("absent-{client}"));
            expect_numbers(&mut client, 0..next + 5);
            client.disconnect();
        }
        // What was acknowledged does not come again, once its position is in the log.
        node.broker.terminate();
        assert_eq!(node.broker.wait().code(), Some(0));
        node.broker.restart(&node.options);
        let mut client = node.resume(version, "absent-0");
        expect_nothing_of_the_log(&node, &mut client);
        node.broker.stop();
    }
}

/// A start that has read much writes a checkpoint, and the next one reads only what comes behind.
fn the_log_is_not_read_again_and_again(transport: Transport) {
    const BATCH: u16 = 600;
    let mut node = Node::start(transport);
    let mut client = node.durable(Version::V5, "absent");
    client.subscribe("t", 1);
    client.disconnect();
    let mut retained = node.publisher();
    retained.publish_packet(Publish::new("kept", "forever").qos(1, 0).retain());
    let publish = |node: &Node, from: usize| {
        let mut publisher = node.publisher();
        for id in 0..BATCH {
            let payload = format!("{}", from + usize::from(id));
            publisher.send_publish(&Publish::new("t", payload).qos(1, id + 1));
        }
        (0..BATCH).for_each(|_| drop(publisher.read_kind(Kind::Puback)));
        from + usize::from(BATCH)
    };
    // All partitions' publishers are one client, and so in one log.
    let mut next = 0;
    for _ in 0..2 {
        next = publish(&node, next);
        next = publish(&node, next);
        node.broker.wait_until_logs_rest();
        node.crash();
        // And once more, with nothing behind the checkpoint.
        node.crash();
    }
    next = publish(&node, next);
    node.crash();
    let read = node.broker.metric("log_recovered_records");
    assert!(read < 2 * u64::from(BATCH), "{read} records read, {next} published");
    let mut client = node.resume(Version::V5, "absent");
    expect_numbers(&mut client, 0..next);
    client.subscribe("kept", 1);
    assert_eq!(client.receive_and_acknowledge().text(), "forever");
    // A damaged checkpoint is done without.
    client.disconnect();
    node.broker.wait_until_logs_rest();
    node.crash();
    for file in checkpoints(&node) {
        let mut bytes = std::fs::read(&file).expect("a checkpoint");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&file, bytes).expect("a damaged checkpoint");
    }
    node.crash();
    assert!(node.broker.log().contains("a checkpoint cannot be used"), "{}", node.broker.log());
    let mut client = node.resume(Version::V5, "absent");
    client.expect_nothing();
    node.publish("t", 0..1, 1);
    assert_eq!(client.receive_and_acknowledge().text(), "0");
    node.broker.stop();
}

fn checkpoints(node: &Node) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let partitions = node.broker.data_dir().join("partitions");
    for partition in std::fs::read_dir(partitions).expect("partitions/") {
        let files = std::fs::read_dir(partition.expect("an entry").path()).expect("a directory");
        found.extend(files.map(|file| file.expect("an entry").path()));
    }
    found.retain(|path| path.extension().is_some_and(|extension| extension == "checkpoint"));
    assert!(!found.is_empty());
    found
}

fn what_was_not_acknowledged_comes_again(transport: Transport) {
    let mut node = Node::start(transport);
    let mut client = node.durable(Version::V5, "c");
    client.subscribe("t", 1);
    node.publish("t", 0..20, 1);
    for number in 0..20 {
        assert_eq!(client.receive().text(), format!("{number}"));
    }
    node.crash();
    let mut client = node.resume(Version::V5, "c");
    expect_numbers(&mut client, 0..20);
    node.broker.stop();
}

fn subscriptions_hold_from_their_acknowledgement_on(transport: Transport) {
    let mut node = Node::start(transport);
    let mut client = node.durable(Version::V5, "c");
    client.subscribe("kept", 1);
    client.subscribe("dropped", 1);
    node.crash();
    node.publish("kept", 0..3, 1);
    node.publish("dropped", 0..3, 1);
    let mut client = node.resume(Version::V5, "c");
    for _ in 0..6 {
        client.receive_and_acknowledge();
    }
    client.unsubscribe("dropped");
    node.crash();
    node.publish("dropped", 0..3, 1);
    node.publish("kept", 0..3, 1);
    // What was acknowledged right before the crash may come again.
    let mut client = node.resume(Version::V5, "c");
    let received = client.fence_through(&mut node.publisher(), 1);
    let received: Vec<_> = received.iter().map(|packet| packet.publish()).collect();
    assert!(received.iter().all(|message| message.topic == "kept"), "{received:?}");
    let last = received.iter().rev().take(3).rev().map(|message| message.text());
    assert_eq!(last.collect::<Vec<_>>(), ["0", "1", "2"]);
    // A clean start forgets all of it.
    let clean = Connect::new(Version::V5, "c");
    assert!(!node.connect(&clean).connack().session_present());
    node.crash();
    let again = node.durable(Version::V5, "c");
    assert!(!again.connack().session_present());
    node.broker.stop();
}

fn overlapping_filters_are_one_delivery(transport: Transport) {
    let mut node = Node::start(transport);
    let mut client = node.durable(Version::V5, "c");
    let id = |id| Properties::new().variable(0x0b, id);
    client.subscribe_all(&[("a/+", 1)], &id(5));
    client.subscribe_all(&[("a/b", 2)], &id(6));
    client.subscribe_all(&[("#", 0)], &id(7));
    client.disconnect();
    node.publish("a/b", 0..3, 1);
    node.crash();
    let mut client = node.resume(Version::V5, "c");
    for number in 0..3 {
        let received = client.receive_and_acknowledge();
        assert_eq!((received.text(), received.qos), (format!("{number}"), 1));
        let ids: Vec<_> = received.properties.list().into_iter().map(|(id, _)| id).collect();
        assert_eq!(ids, [0x0b, 0x0b], "of the subscriptions that keep messages");
    }
    client.expect_nothing();
    node.broker.stop();
}

fn qos_2_to_a_subscriber_is_exactly_once(transport: Transport) {
    let mut node = Node::start(transport);
    let mut client = node.durable(Version::V5, "c");
    client.subscribe("t", 2);
    node.publish("t", 0..2, 2);
    let first = client.receive();
    let second = client.receive();
    assert_eq!((first.text(), second.text()), ("0".to_owned(), "1".to_owned()));
    // PUBLISH was sent: the same message comes again under the same identifier.
    node.crash();
    let mut client = node.resume(Version::V5, "c");
    for sent in [&first, &second] {
        let again = client.receive();
        assert_eq!((again.id, again.text(), again.dup), (sent.id, sent.text(), true));
    }
    client.acknowledge(Kind::Pubrec, first.id);
    assert_eq!(client.expect(Kind::Pubrel).id(), first.id);
    // PUBREC was seen: PUBREL comes again, the message does not.
    node.crash();
    let mut client = node.resume(Version::V5, "c");
    assert_eq!(client.expect(Kind::Pubrel).id(), first.id);
    assert_eq!(client.receive().id, second.id);
    client.acknowledge(Kind::Pubcomp, first.id);
    client.acknowledge(Kind::Pubrec, second.id);
    assert_eq!(client.expect(Kind::Pubrel).id(), second.id);
    client.acknowledge(Kind::Pubcomp, second.id);
    // That both are over is in the log with the next message at the latest.
    node.publish("t", 2..3, 2);
    let third = client.receive_and_acknowledge();
    assert_eq!(third.text(), "2");
    client.unsubscribe("other");
    client.subscribe("other", 2);
    node.crash();
    let mut client = node.resume(Version::V5, "c");
    expect_nothing_of_the_log(&node, &mut client);
    node.broker.stop();
}

fn qos_2_from_a_publisher_is_exactly_once(transport: Transport) {
    let mut node = Node::start(transport);
    let mut subscriber = node.durable(Version::V5, "subscriber");
    subscriber.subscribe("t", 2);
    subscriber.disconnect();
    let mut publisher = node.durable(Version::V5, "publisher");
    publisher.send_publish(&Publish::new("t", "once").qos(2, 7));
    assert_eq!(publisher.expect(Kind::Pubrec).id(), 7);
    for _ in 0..2 {
        node.crash();
        publisher = node.resume(Version::V5, "publisher");
        publisher.send_publish(&Publish::new("t", "once").qos(2, 7).dup());
        assert_eq!(publisher.expect(Kind::Pubrec).id(), 7);
    }
    publisher.acknowledge(Kind::Pubrel, 7);
    assert_eq!(publisher.expect(Kind::Pubcomp).reason(), 0);
    node.crash();
    publisher = node.resume(Version::V5, "publisher");
    publisher.acknowledge(Kind::Pubrel, 7);
    assert_eq!(publisher.expect(Kind::Pubcomp).reason(), 0x92, "it was released");
    publisher.send_publish(&Publish::new("t", "another").qos(2, 7));
    assert_eq!(publisher.expect(Kind::Pubrec).id(), 7);
    let mut subscriber = node.resume(Version::V5, "subscriber");
    assert_eq!(subscriber.receive_and_acknowledge().text(), "once");
    assert_eq!(subscriber.receive_and_acknowledge().text(), "another");
    subscriber.expect_nothing();
    node.broker.stop();
}

fn retained_messages_are_there_again(transport: Transport) {
    let mut node = Node::start(transport);
    let mut publisher = node.publisher();
    for topic in 0..20 {
        let topic = format!("r/{topic}");
        publisher.publish_packet(Publish::new(&topic, "old").qos(1, 0).retain());
        publisher.publish_packet(Publish::new(&topic, "new").qos(1, 0).retain());
    }
    publisher.publish_packet(Publish::new("r/0", "").qos(1, 0).retain());
    for cores in [1, 2] {
        node.crash_to(cores);
        let mut client = Client::plain(node.broker.tcp, Version::V5, "reader");
        client.subscribe("r/#", 1);
        let mut topics: Vec<String> = (1..20)
            .map(|_| {
                let received = client.receive_and_acknowledge();
                assert_eq!((received.text().as_str(), received.retain), ("new", true));
                received.topic
            })
            .collect();
        topics.sort();
        topics.dedup();
        assert_eq!(topics.len(), 19);
        client.expect_nothing();
        client.disconnect();
    }
    node.broker.stop();
}

fn wills_of_clients_that_were_connected_fire(transport: Transport) {
    let mut node = Node::start(transport);
    let mut reader = node.durable(Version::V5, "reader");
    reader.subscribe("will/#", 1);
    let will = |topic: &str| Will::new(topic, "gone");
    let lost = Connect::new(Version::V5, "lost").will(will("will/lost"));
    let back = Connect::new(Version::V5, "back").durable().will(will("will/back"));
    let left = Connect::new(Version::V5, "left").durable().will(will("will/left"));
    let _lost = node.connect(&lost);
    let _back = node.connect(&back);
    node.connect(&left).disconnect();
    node.broker.wait_until_logs_rest();
    node.crash();
    let _back = node.connect(&back);
    let mut reader = node.resume(Version::V5, "reader");
    assert_eq!(reader.receive_and_acknowledge().topic, "will/lost");
    reader.expect_nothing();
    node.broker.stop();
}

fn expiry_goes_on_across_a_crash(transport: Transport) {
    let mut node = Node::start(transport);
    let expiring = |client_id: &str, secs: u32| {
        let mut connect = Connect::new(Version::V5, client_id);
        connect.clean = false;
        connect.properties(Properties::new().four(0x11, secs))
    };
    node.connect(&expiring("short", 1)).disconnect();
    node.connect(&expiring("long", 1000)).disconnect();
    node.crash();
    node.broker.wait_until("one session has expired", |broker| {
        broker.metric("sessions_expired_total") == 1
    });
    node.crash();
    assert!(!node.connect(&expiring("short", 1)).connack().session_present());
    assert!(node.connect(&expiring("long", 1000)).connack().session_present());
    node.broker.stop();
}

/// CONNACK waits for the disk, and a takeover meanwhile leaves one connection and one session.
fn connections_that_wait_for_the_log_are_taken_over(transport: Transport) {
    let mut node = Node::start(transport);
    let connect = Connect::new(Version::V5, "contended").durable();
    for _ in 0..20 {
        let mut clients: Vec<Client> =
            (0..4).map(|_| Client::open(node.broker.tcp, Version::V5)).collect();
        for client in &mut clients {
            client.send(&connect.encode());
        }
        // Each is accepted and taken over, or taken over before; then one is left.
        clients.iter_mut().for_each(|client| drop(client.try_fence()));
        let alive = clients.iter_mut().filter_map(|client| client.try_fence().ok()).count();
        assert!(alive <= 1, "{alive} connections of one client");
    }
    let mut client = node.resume(Version::V5, "contended");
    client.subscribe("t", 1);
    node.crash();
    node.publish("t", 0..3, 1);
    expect_numbers(&mut node.resume(Version::V5, "contended"), 0..3);
    node.broker.wait_until("one session is there", |broker| broker.metric("sessions") == 1);
    node.broker.stop();
}

/// What a client sends behind its CONNECT waits with it.
fn packets_behind_connect_wait_for_it(transport: Transport) {
    let node = Node::start(transport);
    let mut client = Client::open(node.broker.tcp, Version::V5);
    let mut bytes = Connect::new(Version::V5, "eager").durable().encode();
    bytes.extend(packets::subscribe(Version::V5, 1, &[("t", 1)], &Properties::new()));
    bytes.extend(Publish::new("t", "first").qos(1, 2).encode(Version::V5));
    client.send(&bytes);
    client.expect(Kind::Connack);
    let mut kinds: Vec<Kind> = (0..3).map(|_| client.read().kind()).collect();
    kinds.sort_by_key(|kind| kind.first_byte());
    assert_eq!(kinds, [Kind::Publish, Kind::Puback, Kind::Suback]);
    node.broker.stop();
}

on_both_transports!(
    an_absent_session_gets_everything_after_crashes,
    the_log_is_not_read_again_and_again,
    what_was_not_acknowledged_comes_again,
    subscriptions_hold_from_their_acknowledgement_on,
    overlapping_filters_are_one_delivery,
    qos_2_to_a_subscriber_is_exactly_once,
    qos_2_from_a_publisher_is_exactly_once,
    retained_messages_are_there_again,
    wills_of_clients_that_were_connected_fire,
    expiry_goes_on_across_a_crash,
    connections_that_wait_for_the_log_are_taken_over,
    packets_behind_connect_wait_for_it,
);
