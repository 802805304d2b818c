//! Reading again: `SUBSCRIBE $replay/{from}/{filter}` (docs/replay.md), with the broker as a process.

use crate::support;
use crate::support::properties::{
    MAXIMUM_PACKET_SIZE, MESSAGE_EXPIRY, REASON_STRING, RECEIVE_MAXIMUM, SUBSCRIPTION_ID,
    USER_PROPERTY,
};
use crate::support::{
    Broker, Client, Connect, Kind, Options, Packet, Properties, Publish, Received, Transport,
    Version, packets,
};
use core::ops::Range;
use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

on_both_transports!(
    each_from_begins_where_it_says,
    names_that_are_wrong_are_told_what_is_right,
    those_that_come_back_wait_for_room,
    the_seam_to_live_messages_has_no_gap_and_no_duplicate,
    a_client_that_does_not_take_them_holds_up_nobody,
    a_replay_goes_on_after_kill_9,
    older_clients_get_the_same_without_properties,
    delivery_is_as_the_subscription_says,
    a_replay_is_replaced_by_its_filter_and_ends_with_it,
    a_token_of_a_lost_tail_resumes_where_the_log_parts,
    what_cannot_be_read_is_named,
    what_fits_without_more_is_delivered,
    a_replay_that_has_not_begun_replaces_none,
    what_was_in_flight_is_read_again,
    what_was_trimmed_is_said_to_be_gone,
);

const OK: u8 = 0;
const INVALID: u8 = 0x8f;
const QUOTA: u8 = 0x97;

/// Where a message lies, as its user properties say.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Place {
    partition: u32,
    offset: u64,
    time: u64,
}

fn user_properties(received: &Received) -> Vec<(String, String)> {
    let list = received.properties.list();
    let pairs = list.into_iter().filter(|(id, _)| *id == USER_PROPERTY);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    pairs
        .map(|(_, value)| {
            let name_length = usize::from(u16::from_be_bytes([value[0], value[1]]));
            let (name, value) = value[2..].split_at(name_length);
            (text(name), text(&value[2..]))
        })
        .collect()
}

fn user_property(received: &Received, name: &str) -> Option<String> {
    let mut pairs = user_properties(received).into_iter();
    pairs.find(|(found, _)| found == name).map(|(_, value)| value)
}

fn place(received: &Received) -> Place {
    let number = |name: &str| {
        let value = user_property(received, name);
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} is a number"))
    };
    Place {
        partition: number("ringlane-partition") as u32,
        offset: number("ringlane-offset"),
        time: number("ringlane-time"),
    }
}

fn token(received: &Received) -> Option<String> {
    user_property(received, "ringlane-token")
}

fn logged(transport: Transport, cores: usize) -> Options {
    Options::new(transport).logged().cores(cores)
}

/// Publishes numbers, in order, as one of several clients.
fn publish(broker: &Broker, client_id: &str, topic: &str, numbers: Range<usize>, qos: u8) {
    let mut publisher = Client::plain(broker.tcp, Version::V5, client_id);
    for number in numbers {
        publisher.publish(topic, format!("{client_id}/{number}"), qos);
    }
    publisher.disconnect();
}

/// Four clients publish the same numbers: all partitions get some with most names.
fn publish_all(broker: &Broker, topic: &str, numbers: Range<usize>) {
    for name in ["p0", "p1", "p2", "p3"] {
        publish(broker, name, topic, numbers.clone(), 1);
    }
}

fn reader(broker: &Broker, client_id: &str) -> Client {
    Client::plain(broker.tcp, Version::V5, client_id)
}

fn take(client: &mut Client, count: usize) -> Vec<Received> {
    (0..count).map(|_| client.receive_and_acknowledge()).collect()
}

/// Messages that come until one with this payload has; all are acknowledged.
fn take_until(client: &mut Client, last: &str) -> Vec<Received> {
    let mut taken = Vec::new();
    loop {
        let received = client.receive_and_acknowledge();
        let is_last = received.text() == last;
        taken.push(received);
        if is_last {
            return taken;
        }
    }
}

/// What each publisher said, in the order in which it came.
fn by_publisher(received: &[Received]) -> BTreeMap<String, Vec<usize>> {
    let mut found: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for text in received.iter().map(Received::text) {
        let (name, number) = text.split_once('/').expect("a publisher and a number");
        let number = number.parse().expect("a number");
        found.entry(name.to_owned()).or_default().push(number);
    }
    found
}

fn expect_all(received: &[Received], numbers: Range<usize>) {
    let found = by_publisher(received);
    assert_eq!(found.len(), 4, "{:?}", found.keys());
    for (name, found) in found {
        assert_eq!(found, numbers.clone().collect::<Vec<_>>(), "of {name}");
    }
}

/// Every partition's offsets rise.
fn expect_order(received: &[Received]) {
    let mut last = BTreeMap::new();
    for place in received.iter().map(place) {
        if let Some(before) = last.insert(place.partition, place.offset) {
            assert!(before < place.offset, "{place:?} behind {before}");
        }
    }
}

fn each_from_begins_where_it_says(transport: Transport) {
    for cores in [1, 2] {
        let broker = Broker::start(&logged(transport, cores));
        publish_all(&broker, "t/a", 0..10);
        thread::sleep(Duration::from_millis(20));
        publish_all(&broker, "t/b", 10..20);
        let mut client = reader(&broker, "reader");
        assert_eq!(client.subscribe("$replay/earliest/t/#", 1), 1);
        let all = take(&mut client, 80);
        expect_all(&all, 0..20);
        expect_order(&all);
        client.expect_nothing();
        let places: Vec<Place> = all.iter().map(place).collect();
        let middle = all.iter().filter(|r| r.topic == "t/a").map(|r| place(r).time).max();
        let middle = middle.expect("ten of each publisher");
        let from = |name: &str| {
            let mut client = reader(&broker, "another");
            assert_eq!(client.subscribe(&format!("$replay/{name}/t/#"), 0), OK, "{name}");
            client
        };
        // By time.
        expect_all(&take(&mut from(&format!("@{}", middle + 1)), 40), 10..20);
        expect_all(&take(&mut from("@0"), 80), 0..20);
        expect_all(&take(&mut from("-1h"), 80), 0..20);
        let mut client = from("@99999999999999");
        client.expect_nothing();
        // One partition from an offset.
        let one = places[places.len() / 2].clone();
        let mut expected: Vec<u64> = places
            .iter()
            .filter(|at| at.partition == one.partition && at.offset >= one.offset)
            .map(|at| at.offset)
            .collect();
        expected.sort_unstable();
        let mut client = from(&format!("p{}@{}", one.partition, one.offset));
        let found = take(&mut client, expected.len());
        client.expect_nothing();
        assert_eq!(found.iter().map(|r| place(r).offset).collect::<Vec<_>>(), expected);
        // With a token behind the message that had it; the last stored one has one.
        assert!(token(&all[79]).is_some(), "on the last stored message");
        let with_token = (0..80).filter(|index| token(&all[*index]).is_some());
        for index in with_token {
            let mut client = from(&token(&all[index]).expect("it has one"));
            let mut rest: Vec<Place> = take(&mut client, 79 - index).iter().map(place).collect();
            client.expect_nothing();
            rest.sort();
            let mut expected = places[index + 1..].to_vec();
            expected.sort();
            assert_eq!(rest, expected, "behind message {index}");
        }
        // And live ones.
        let mut client = from("latest");
        client.expect_nothing();
        publish(&broker, "p0", "t/c", 20..21, 1);
        assert_eq!(client.receive().text(), "p0/20");
        broker.stop();
    }
}

/// The reason code and the reason string of a SUBACK.
fn refused(client: &mut Client, name: &str) -> (u8, Option<String>) {
    let id = client.next_id();
    client.send(&packets::subscribe(client.version(), id, &[(name, 1)], &Properties::new()));
    let suback = client.read_kind(Kind::Suback);
    (suback.codes()[0], suback_text(&suback))
}

fn suback_text(suback: &Packet) -> Option<String> {
    // The packet identifier, the length of the properties in one byte or two, the properties.
    let (length, start) = match suback.body[2] {
        short @ ..0x80 => (usize::from(short), 3),
        low => (usize::from(low & 0x7f) | usize::from(suback.body[3]) << 7, 4),
    };
    Properties(suback.body[start..start + length].to_vec()).text(REASON_STRING)
}

fn names_that_are_wrong_are_told_what_is_right(transport: Transport) {
    let options = logged(transport, 2).config("[mqtt]\nmax_replays = 2\n[limits]\nmax_replays = 3");
    let broker = Broker::start(&options);
    let mut client = reader(&broker, "reader");
    for bad in ["$replay/yesterday/#", "$replay/-15/#", "$replay/@x/#", "$replay/AAAA/#"] {
        let (code, text) = refused(&mut client, bad);
        assert_eq!(code, INVALID, "{bad}");
        assert!(text.is_some_and(|text| text.contains("earliest")), "{bad}");
    }
    for bad in ["$replay/earliest", "$replay/earliest/", "$replay/latest/a/#/b"] {
        assert_eq!(refused(&mut client, bad).0, INVALID, "{bad}");
    }
    assert_eq!(refused(&mut client, "$share/g/$replay/earliest/#").0, INVALID);
    assert_eq!(refused(&mut client, "$replay/p99@0/#").0, INVALID, "no such partition");
    assert_eq!(client.subscribe("$replay/latest/a", 1), 1);
    assert_eq!(client.subscribe("$replay/latest/b", 1), 1);
    let (code, text) = refused(&mut client, "$replay/latest/c");
    assert_eq!(code, QUOTA);
    assert!(text.is_some_and(|text| text.contains("mqtt.max_replays")));
    assert_eq!(client.subscribe("$replay/latest/b", 1), 1, "one that replaces another is taken");
    assert_eq!(broker.metric("replays"), 2);
    broker.stop();
    let broker = Broker::start(&Options::new(transport));
    let mut client = reader(&broker, "reader");
    assert_eq!(refused(&mut client, "$replay/earliest/#").0, 0x83, "without a log");
    broker.stop();
}

/// However many clients come back, no more replays are read at a time than may be.
fn those_that_come_back_wait_for_room(transport: Transport) {
    let options = logged(transport, 1).config("[limits]\nmax_replays = 1");
    let broker = Broker::start(&options);
    let connect = |name: &str| {
        let connect = Connect::new(Version::V5, name).durable();
        Client::connect(broker.tcp, &connect)
    };
    for name in ["one", "two", "three"] {
        let mut client = connect(name);
        assert_eq!(client.subscribe("$replay/earliest/t/#", 1), 1, "{name}: there is room");
        assert_eq!(client.subscribe("$replay/latest/t/#", 1), 1, "{name}: in place of its own");
        client.disconnect();
    }
    publish(&broker, "p0", "t/a", 0..3, 1);
    let (mut one, mut two, three) = (connect("one"), connect("two"), connect("three"));
    expect_all_of(&take(&mut one, 3), "p0", 0..3);
    two.expect_nothing();
    assert_eq!(broker.metric("replays"), 1);
    let mut other = reader(&broker, "other");
    let (code, text) = refused(&mut other, "$replay/latest/t/#");
    assert_eq!(code, QUOTA, "others wait");
    assert!(text.is_some_and(|text| text.contains("limits.max_replays")));
    three.disconnect();
    one.disconnect();
    expect_all_of(&take(&mut two, 3), "p0", 0..3);
    assert_eq!(broker.metric("replays"), 1);
    two.unsubscribe("$replay/latest/t/#");
    assert_eq!(other.subscribe("$replay/earliest/t/#", 1), 1, "who waited has gone");
    expect_all_of(&take(&mut other, 3), "p0", 0..3);
    broker.stop();
}

fn expect_all_of(received: &[Received], publisher: &str, numbers: Range<usize>) {
    let found: Vec<String> = received.iter().map(Received::text).collect();
    let expected: Vec<String> = numbers.map(|n| format!("{publisher}/{n}")).collect();
    assert_eq!(found, expected);
}

fn the_seam_to_live_messages_has_no_gap_and_no_duplicate(transport: Transport) {
    const EACH: usize = 600;
    for cores in [1, 2] {
        let broker = Broker::start(&logged(transport, cores));
        publish_all(&broker, "t/a", 0..EACH / 4);
        let publishers: Vec<_> = ["p0", "p1", "p2", "p3"]
            .into_iter()
            .map(|name| {
                let address = broker.tcp;
                thread::spawn(move || {
                    let mut publisher = Client::plain(address, Version::V5, name);
                    for number in EACH / 4..EACH {
                        publisher.publish("t/a", format!("{name}/{number}"), 1);
                    }
                    publisher.disconnect();
                })
            })
            .collect();
        let mut readers: Vec<Client> =
            (0..3).map(|index| reader(&broker, &format!("reader-{index}"))).collect();
        for (qos, client) in (0..).zip(&mut readers) {
            assert_eq!(client.subscribe("$replay/earliest/t/#", qos), qos);
        }
        for (qos, client) in (0..).zip(&mut readers) {
            let received = take(client, 4 * EACH);
            assert!(received.iter().all(|r| r.qos == qos.min(1) && !r.retain && r.topic == "t/a"));
            expect_all(&received, 0..EACH);
            expect_order(&received);
            let without =
                received.chunks(100).filter(|some| !some.iter().any(|r| token(r).is_some()));
            assert_eq!(without.count(), 0, "a token comes with every hundred messages");
        }
        publishers.into_iter().for_each(|publisher| publisher.join().expect("it has published"));
        readers.iter_mut().for_each(Client::expect_nothing);
        broker.stop();
    }
}

fn a_client_that_does_not_take_them_holds_up_nobody(transport: Transport) {
    const MESSAGES: usize = 4000;
    let broker = Broker::start(&logged(transport, 2));
    let properties = Properties::new().two(RECEIVE_MAXIMUM, 10);
    let connect = Connect::new(Version::V5, "slow").properties(properties);
    let mut slow = Client::connect(broker.tcp, &connect);
    assert_eq!(slow.subscribe("$replay/earliest/t", 1), 1);
    let mut live = reader(&broker, "live");
    assert_eq!(live.subscribe("t", 1), 1);
    let mut publisher = Client::plain(broker.tcp, Version::V5, "p0");
    for number in 0..MESSAGES {
        let payload = format!("p0/{number}/{}", "x".repeat(200));
        publisher.publish("t", &payload, 1);
        assert_eq!(live.receive_and_acknowledge().text(), payload);
    }
    // Ten in flight, and one window of the publisher's partition behind them.
    let read = broker.metric("replayed_messages_total");
    assert!((10..=600).contains(&read), "{read} messages were read ahead");
    for number in 0..MESSAGES {
        let text = slow.receive_and_acknowledge().text();
        assert!(text.starts_with(&format!("p0/{number}/")), "{number}: {text}");
    }
    slow.expect_nothing();
    assert_eq!(broker.metric("replayed_messages_total"), MESSAGES as u64);
    broker.stop();
}

fn a_replay_goes_on_after_kill_9(transport: Transport) {
    for version in [Version::V311, Version::V5] {
        let options = logged(transport, 2);
        let mut broker = Broker::start(&options);
        publish_all(&broker, "t/a", 0..50);
        let durable = Connect::new(version, "durable").durable();
        let mut client = Client::connect(broker.tcp, &durable);
        assert_eq!(client.subscribe("$replay/earliest/t/#", 1), 1);
        let mut seen: Vec<Received> = take(&mut client, 80);
        broker.kill();
        broker.restart(&options);
        publish_all(&broker, "t/a", 50..60);
        let mut client = Client::connect(broker.tcp, &durable);
        assert!(client.connack().session_present());
        // At least once: what was acknowledged since the position was recorded comes again.
        while {
            let found = by_publisher(&seen);
            ["p0", "p1", "p2", "p3"]
                .iter()
                .any(|name| found.get(*name).is_none_or(|seen| !seen.contains(&59)))
        } {
            seen.push(client.receive_and_acknowledge());
        }
        let mut first: Vec<String> = Vec::new();
        for text in seen.iter().map(Received::text) {
            if !first.contains(&text) {
                first.push(text);
            }
        }
        assert_eq!(first.len(), 240, "everything came");
        // An orderly disconnect records the position, and absence reads nothing.
        client.expect_nothing();
        client.disconnect();
        assert_eq!(broker.metric("replays"), 0);
        publish_all(&broker, "t/a", 60..70);
        let mut client = Client::connect(broker.tcp, &durable);
        let mut rest = take(&mut client, 20);
        client.disconnect();
        broker.terminate();
        assert_eq!(broker.wait().code(), Some(0));
        broker.restart(&options);
        let mut client = Client::connect(broker.tcp, &durable);
        rest.extend(take(&mut client, 20));
        expect_all(&rest, 60..70);
        client.expect_nothing();
        client.unsubscribe("$replay/earliest/t/#");
        client.disconnect();
        broker.kill();
        broker.restart(&options);
        let mut client = Client::connect(broker.tcp, &durable);
        publish_all(&broker, "t/a", 70..71);
        client.expect_nothing();
        assert_eq!(broker.metric("replays"), 0);
        broker.stop();
    }
}

fn older_clients_get_the_same_without_properties(transport: Transport) {
    let broker = Broker::start(&logged(transport, 1));
    publish_all(&broker, "t/a", 0..10);
    for version in [Version::V31, Version::V311] {
        let mut client = Client::plain(broker.tcp, version, "older");
        assert_eq!(client.subscribe("$replay/sometime/t/#", 1), 0x80);
        assert_eq!(client.subscribe("$replay/earliest/t/#", 2), 2);
        let received = take(&mut client, 40);
        expect_all(&received, 0..10);
        client.expect_nothing();
    }
    broker.stop();
}

fn delivery_is_as_the_subscription_says(transport: Transport) {
    let captured = "[[stream]]\nname = \"all\"\nfilters = [\"kept/#\"]\ncapture_qos0 = true";
    let broker = Broker::start(&logged(transport, 2).config(captured));
    let mut publisher = reader(&broker, "publisher");
    let expiring = Properties::new().four(MESSAGE_EXPIRY, 1);
    publisher.publish_packet(Publish::new("kept/expired", "x").qos(1, 0).properties(expiring));
    let lasting = Properties::new().four(MESSAGE_EXPIRY, 1000).pair("colour", "blue");
    publisher.publish_packet(Publish::new("kept/lasting", "x").qos(2, 0).properties(lasting));
    publisher.publish("kept/captured", "x", 0);
    publisher.publish_packet(Publish::new("kept/retained", "x").qos(1, 0).retain());
    publisher.publish("$kept/hidden", "x", 1);
    publisher.publish("other", "x", 1);
    publisher.publish("volatile", "x", 0);
    thread::sleep(Duration::from_millis(1100));
    let topics = |filter: &str, qos: u8| {
        let mut client = reader(&broker, "reader");
        assert_eq!(client.subscribe(&format!("$replay/earliest/{filter}"), qos), qos & 3);
        let packets = client.fence_through(&mut reader(&broker, "fence"), 0);
        let received: Vec<Received> = packets.iter().map(Packet::publish).collect();
        assert!(received.iter().all(|received| !received.retain));
        received.into_iter().map(|received| (received.topic, received.qos)).collect::<Vec<_>>()
    };
    // The messages have long been flushed and are read before the fence has gone its way; it is
    // stored itself with QoS 1 only.
    let expect = |filter: &str, qos: u8, expected: &[(&str, u8)]| {
        let expected: Vec<_> = expected.iter().map(|(t, q)| ((*t).to_owned(), *q)).collect();
        for _ in 0..100 {
            if topics(filter, qos) == expected {
                return;
            }
        }
        assert_eq!(topics(filter, qos), expected, "{filter}");
    };
    let kept = [("kept/lasting", 2), ("kept/captured", 0), ("kept/retained", 1)];
    expect("kept/+", 0, &kept.map(|(topic, _)| (topic, 0)));
    expect("kept/#", 0, &kept.map(|(topic, _)| (topic, 0)));
    expect("+/captured", 0, &[("kept/captured", 0)]);
    expect(
        "#",
        0,
        &kept.map(|(t, _)| (t, 0)).into_iter().chain([("other", 0)]).collect::<Vec<_>>(),
    );
    expect("$kept/#", 0, &[("$kept/hidden", 0)]);
    // The granted QoS bounds the stored one, and other properties are as published.
    let mut client = reader(&broker, "reader");
    let id = Properties::new().variable(SUBSCRIPTION_ID, 77);
    assert_eq!(client.subscribe_all(&[("$replay/earliest/kept/#", 2)], &id), [2]);
    let received = take(&mut client, 3);
    assert_eq!(received.iter().map(|r| r.qos).collect::<Vec<_>>(), [2, 0, 1]);
    assert_eq!(user_property(&received[0], "colour").as_deref(), Some("blue"));
    assert!(received[0].properties.number(MESSAGE_EXPIRY).is_some_and(|left| left < 1000));
    assert!(received.iter().all(|r| r.properties.number(SUBSCRIPTION_ID) == Some(77)));
    // Live and replayed are two deliveries.
    assert_eq!(client.subscribe("kept/#", 0x20), OK, "and no retained ones");
    publisher.publish("kept/both", "x", 1);
    let both = [client.receive_and_acknowledge(), client.receive_and_acknowledge()];
    let replayed = both.iter().filter(|r| user_property(r, "ringlane-offset").is_some());
    assert_eq!(replayed.count(), 1, "{both:?}");
    // No Local.
    let mut own = reader(&broker, "own");
    own.publish("own", "mine", 1);
    reader(&broker, "else").publish("own", "yours", 1);
    assert_eq!(own.subscribe("$replay/earliest/own", 1 | 4), 1);
    assert_eq!(own.receive_and_acknowledge().text(), "yours");
    own.expect_nothing();
    broker.stop();
}

fn a_replay_is_replaced_by_its_filter_and_ends_with_it(transport: Transport) {
    let broker = Broker::start(&logged(transport, 2));
    publish_all(&broker, "t/a", 0..10);
    let mut client = reader(&broker, "reader");
    assert_eq!(client.subscribe("$replay/earliest/t/#", 0), OK);
    take(&mut client, 40);
    assert_eq!(client.subscribe("$replay/-1h/t/#", 1), 1);
    let again = take(&mut client, 40);
    expect_all(&again, 0..10);
    assert!(again.iter().all(|received| received.qos == 1), "with the new options");
    assert_eq!(broker.metric("replays"), 1);
    let codes = client.subscribe_all(
        &[("$replay/latest/t/#", 1), ("$replay/-1h/t/#", 0), ("$replay/latest/u", 1)],
        &Properties::new(),
    );
    assert_eq!(codes, [1, 0, 1]);
    expect_all(&take(&mut client, 40), 0..10);
    assert_eq!(broker.metric("replays"), 2);
    let unsuback = client.unsubscribe("$replay/-1h/t/#");
    assert_eq!(unsuback.codes(), [0]);
    assert_eq!(client.unsubscribe("$replay/-1h/t/#").codes(), [0x11]);
    publish_all(&broker, "t/a", 10..11);
    publish(&broker, "p0", "u", 0..1, 1);
    assert_eq!(client.receive_and_acknowledge().topic, "u");
    client.expect_nothing();
    client.disconnect();
    broker.wait_until("the replays have ended", |broker| broker.metric("replays") == 0);
    broker.stop();
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("its type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

fn a_token_of_a_lost_tail_resumes_where_the_log_parts(transport: Transport) {
    let options = logged(transport, 1);
    let mut broker = Broker::start(&options);
    let end = |broker: &mut Broker| {
        broker.terminate();
        assert_eq!(broker.wait().code(), Some(0));
    };
    publish(&broker, "p0", "t", 0..10, 1);
    end(&mut broker);
    let backup = broker.directory().join("backup");
    copy(&broker.data_dir(), &backup);
    broker.restart(&options);
    publish(&broker, "p0", "t", 10..20, 1);
    let mut client = reader(&broker, "reader");
    assert_eq!(client.subscribe("$replay/earliest/t", 1), 1);
    let last = token(&take(&mut client, 20)[19]).expect("on the last stored message");
    end(&mut broker);
    std::fs::remove_dir_all(broker.data_dir()).expect("it is lost");
    copy(&backup, &broker.data_dir());
    for _ in 0..3 {
        // Later epochs than that of the token.
        broker.restart(&options);
        publish(&broker, "p0", "t", 30..33, 1);
        end(&mut broker);
    }
    broker.restart(&options);
    let mut client = reader(&broker, "reader");
    let id = client.next_id();
    let name = format!("$replay/{last}/t");
    client.send(&packets::subscribe(Version::V5, id, &[(&name, 1)], &Properties::new()));
    let suback = client.read_kind(Kind::Suback);
    assert_eq!(suback.codes(), [1]);
    let text = suback_text(&suback).expect("the client is told");
    assert!(text.contains("the log parts here"), "{text}");
    let received = take_until(&mut client, "p0/32");
    let note = user_property(&received[0], "ringlane-note").expect("the client is told");
    assert!(note.contains("the log parts here"), "{note}");
    broker.wait_until("the operator is told as well", |broker| {
        broker.log().contains("a replay begins elsewhere")
    });
    broker.stop();
}

fn what_cannot_be_read_is_named(transport: Transport) {
    let small = "[commit_log]\nsegment_size = \"1MiB\"\n[mqtt]\nmax_packet_size = \"32KiB\"";
    let broker = Broker::start(&logged(transport, 1).config(small));
    let mut publisher = Client::plain(broker.tcp, Version::V5, "p0");
    for number in 0..200 {
        publisher.publish("t", format!("p0/{number}/{}", "x".repeat(20_000)), 1);
    }
    broker.wait_until("several segments are full", |b| b.metric("log_segments") >= 7);
    let segments = std::fs::read_dir(broker.data_dir().join("partitions")).expect("partitions");
    let used = segments
        .map(|entry| entry.expect("a partition").path().join("00000000000000000001.log"))
        .find(|path| path.exists() && has_record(path));
    let path = used.expect("the publisher's partition has a second segment");
    let mut bytes = std::fs::read(&path).expect("a segment");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).expect("a damaged segment");
    let properties = Properties::new().four(MAXIMUM_PACKET_SIZE, 1 << 20);
    let connect = Connect::new(Version::V5, "reader").properties(properties);
    let mut client = Client::connect(broker.tcp, &connect);
    assert_eq!(client.subscribe("$replay/earliest/t", 1), 1);
    let mut received: Vec<Received> = Vec::new();
    while received.last().is_none_or(|last| !last.text().starts_with("p0/199/")) {
        received.push(client.receive_and_acknowledge());
    }
    expect_order(&received);
    let notes: Vec<String> =
        received.iter().filter_map(|r| user_property(r, "ringlane-note")).collect();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!((150..200).contains(&received.len()), "{} came", received.len());
    assert_eq!(broker.metric("replay_lost_ranges_total"), 1);
    let log = broker.log();
    assert!(log.contains("00000000000000000001.log") && log.contains("cannot be read"), "{log}");
    broker.stop();
}

fn what_was_trimmed_is_said_to_be_gone(transport: Transport) {
    let broker = Broker::start(&logged(transport, 2).config(support::broker::TRIMMED));
    let mut publisher = Client::plain(broker.tcp, Version::V5, "p0");
    let mut client = reader(&broker, "reader");
    assert_eq!(client.subscribe("$replay/latest/t", 1), 1);
    publisher.publish("t", "p0/first", 1);
    let first = place(&client.receive_and_acknowledge());
    client.disconnect();
    let mut number = 0;
    let begins = format!("$replay/p{}@{}/t", first.partition, first.offset);
    loop {
        let before = broker.metric("log_segments_trimmed_total");
        for _ in 0..100 {
            publisher.publish("t", format!("p0/{number}/{}", "x".repeat(40_000)), 1);
            number += 1;
        }
        if before > 0 {
            break;
        }
        assert!(number < 10_000, "nothing is trimmed");
    }
    let mut client = reader(&broker, "reader");
    let id = client.next_id();
    client.send(&packets::subscribe(Version::V5, id, &[(&begins, 1)], &Properties::new()));
    let suback = client.read_kind(Kind::Suback);
    assert_eq!(suback.codes(), [1]);
    let gone = suback_text(&suback).expect("the client is told");
    let begins = format!("p{}@{}..", first.partition, first.offset);
    assert!(gone.starts_with(&begins) && gone.contains("no longer kept"), "{gone}");
    let received = client.receive_and_acknowledge();
    assert_eq!(user_property(&received, "ringlane-note"), Some(gone.clone()));
    // It goes on at the first record that is kept.
    let kept = gone[begins.len()..].split(':').next().and_then(|to| to.parse::<u64>().ok());
    assert!(kept.is_some_and(|kept| kept <= place(&received).offset), "{gone}");
    broker.stop();
}

fn has_record(path: &std::path::Path) -> bool {
    let bytes = std::fs::read(path).expect("a segment");
    bytes[4096..].iter().any(|byte| *byte != 0)
}

/// A client with a Maximum Packet Size gets what it would get live, without user properties where
/// they have no room, and is told of what it would not.
fn what_fits_without_more_is_delivered(transport: Transport) {
    let broker = Broker::start(&logged(transport, 1));
    let mut publisher = reader(&broker, "publisher");
    let fits = "f".repeat(165);
    for payload in ["first", &fits, &"l".repeat(400), "last"] {
        publisher.publish("t/a", payload, 1);
    }
    for qos in [0, 1] {
        let limit = Properties::new().four(MAXIMUM_PACKET_SIZE, 190);
        let connect = Connect::new(Version::V5, "small").properties(limit);
        let mut client = Client::connect(broker.tcp, &connect);
        assert_eq!(client.subscribe("$replay/earliest/t/#", qos), qos);
        let [first, bare, last] = [(); 3].map(|()| client.receive_and_acknowledge());
        assert_eq!([first.text(), bare.text(), last.text()], ["first", &*fits, "last"]);
        assert!(token(&first).is_some() && place(&first).offset < place(&last).offset);
        assert!(user_properties(&bare).is_empty(), "they have no room");
        let note = user_property(&last, "ringlane-note").expect("of the large one");
        assert!(note.ends_with("larger than the Maximum Packet Size"), "{note}");
        assert!(token(&last).is_none(), "it has no room beside the note");
        publisher.publish("t/a", "live", 1);
        let live = client.receive_and_acknowledge();
        assert_eq!(live.text(), "live");
        assert!(token(&live).is_some(), "it comes as soon as there is room");
        client.disconnect();
    }
    broker.stop();
}

/// A connection that ends before SUBACK leaves the replay that was there.
fn a_replay_that_has_not_begun_replaces_none(transport: Transport) {
    let options = logged(transport, 2);
    let mut broker = Broker::start(&options);
    publish_all(&broker, "t/a", 0..5);
    let durable = Connect::new(Version::V5, "durable").durable();
    let mut client = Client::connect(broker.tcp, &durable);
    assert_eq!(client.subscribe("$replay/earliest/t/#", 1), 1);
    take(&mut client, 20);
    for number in 5..8 {
        let anew = [("$replay/-1h/t/#", 1)];
        let mut bytes = packets::subscribe(Version::V5, 77, &anew, &Properties::new());
        bytes.extend(packets::disconnect());
        client.send(&bytes);
        client.expect_closed();
        if number == 7 {
            broker.kill();
            broker.restart(&options);
        }
        publish(&broker, "p0", "t/a", number..number + 1, 1);
        client = Client::connect(broker.tcp, &durable);
        assert!(client.connack().session_present());
        take_until(&mut client, &format!("p0/{number}"));
        assert_eq!(broker.metric("replays"), 1);
    }
    assert_eq!(client.unsubscribe("$replay/earliest/t/#").codes(), [0]);
    assert_eq!(client.unsubscribe("$replay/earliest/t/#").codes(), [0x11], "there is one");
    broker.stop();
}

/// What a client has not acknowledged takes no memory while it is away, and comes again.
fn what_was_in_flight_is_read_again(transport: Transport) {
    let broker = Broker::start(&logged(transport, 2));
    publish_all(&broker, "t/a", 0..10);
    let durable = Connect::new(Version::V5, "durable").durable();
    let mut client = Client::connect(broker.tcp, &durable);
    assert_eq!(client.subscribe("$replay/earliest/t/#", 1), 1);
    for _ in 0..40 {
        client.receive();
    }
    assert_eq!(broker.metric("inflight_messages"), 40);
    client.disconnect();
    broker.wait_until("nothing is kept", |broker| broker.metric("inflight_messages") == 0);
    let mut client = Client::connect(broker.tcp, &durable);
    let again = take(&mut client, 40);
    expect_all(&again, 0..10);
    client.expect_nothing();
    client.disconnect();
    let mut client = Client::connect(broker.tcp, &durable);
    client.expect_nothing();
    broker.stop();
}
