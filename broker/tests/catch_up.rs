//! Sessions that are owed more than memory takes: what they are owed is read from the log.

use crate::support;
use crate::support::packets::Packet;
use crate::support::properties::{MESSAGE_EXPIRY, RECEIVE_MAXIMUM};
use crate::support::{
    Broker, Client, Connect, Kind, Options, Properties, Publish, Transport, Version, Will,
};
use std::collections::HashSet;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// PUBLISH packets sent before their acknowledgements are read.
const BURST: usize = 500;

fn durable(broker: &Broker, client_id: &str) -> Client {
    Client::connect(broker.tcp, &Connect::new(Version::V5, client_id).durable())
}

fn with_window(broker: &Broker, client_id: &str, receive_maximum: u16) -> Client {
    let properties = Properties::new().two(RECEIVE_MAXIMUM, receive_maximum);
    let connect = Connect::new(Version::V5, client_id).properties(properties).durable();
    Client::connect(broker.tcp, &connect)
}

/// Subscribes and leaves.
fn absent(broker: &Broker, client_id: &str, filter: &str, qos: u8) {
    let mut client = durable(broker, client_id);
    assert_eq!(client.subscribe(filter, qos), qos);
    client.disconnect();
}

/// Publishes numbers to a topic, many at a time; the reason codes that it gets.
fn flood(client: &mut Client, topic: &str, numbers: core::ops::Range<usize>, qos: u8) -> Vec<u8> {
    flood_with(client, numbers, qos, |number| Publish::new(topic, format!("{number}")))
}

fn flood_with(
    client: &mut Client,
    numbers: core::ops::Range<usize>,
    qos: u8,
    publish: impl Fn(usize) -> Publish,
) -> Vec<u8> {
    let (mut reasons, mut next) = (Vec::new(), numbers.start);
    while next < numbers.end {
        let burst = next..numbers.end.min(next + BURST);
        for number in burst.clone() {
            client.send_publish(&publish(number).qos(qos, 1 + (number - next) as u16));
        }
        for _ in burst.clone() {
            if qos == 2 {
                let id = client.read_kind(Kind::Pubrec).id();
                client.acknowledge(Kind::Pubrel, id);
                client.read_kind(Kind::Pubcomp);
                reasons.push(0);
            } else {
                reasons.push(client.read_kind(Kind::Puback).reason());
            }
        }
        next = burst.end;
    }
    reasons
}

/// A subscriber that acknowledges what it gets, and what it got: topics and numbers.
struct Reader {
    client: Client,
    got: Vec<(String, usize)>,
    /// Identifiers of QoS 2 that are not released: another PUBLISH under one is no other message.
    open: HashSet<u16>,
}

impl Reader {
    fn new(client: Client) -> Self {
        Self { client, got: Vec::new(), open: HashSet::new() }
    }

    /// Takes one packet and answers it.
    fn step(&mut self) {
        let packet = self.client.read();
        self.answer(&packet);
    }

    fn answer(&mut self, packet: &Packet) {
        match packet.kind() {
            Kind::Publish => {
                let message = packet.publish();
                let number = message.text().parse().expect("a number");
                if message.qos < 2 || self.open.insert(message.id) {
                    self.got.push((message.topic, number));
                }
                match message.qos {
                    1 => self.client.acknowledge(Kind::Puback, message.id),
                    2 => self.client.acknowledge(Kind::Pubrec, message.id),
                    _ => {}
                }
            }
            Kind::Pubrel => {
                self.open.remove(&packet.id());
                self.client.acknowledge(Kind::Pubcomp, packet.id());
            }
            kind => panic!("{kind:?}"),
        }
    }

    fn read(&mut self, count: usize) {
        while self.got.len() < count {
            self.step();
        }
    }

    /// Everything of a topic, in order and once.
    fn assert_all(&self, topic: &str, count: usize) {
        let numbers = self.got.iter().filter(|(of, _)| of == topic).map(|(_, number)| *number);
        assert!(numbers.eq(0..count), "{topic} has gaps, doubles or another order");
    }
}

fn a_slow_client_goes_on_from_the_log_and_comes_in_step_again(transport: Transport) {
    const TOPICS: [&str; 4] = ["t/a", "t/b", "t/c", "t/d"];
    const EACH: usize = 3000;
    let broker = Broker::start(&Options::new(transport).logged().cores(2));
    let mut reader = Reader::new(durable(&broker, "slow"));
    assert_eq!(reader.client.subscribe("t/#", 1), 1);
    let mut publishers: Vec<Client> =
        TOPICS.iter().map(|topic| Client::plain(broker.tcp, Version::V5, topic)).collect();
    for first in (0..EACH).step_by(BURST) {
        for (publisher, topic) in publishers.iter_mut().zip(TOPICS) {
            flood(publisher, topic, first..first + BURST, 1);
        }
    }
    assert!(0 < broker.metric("sessions_behind_total"));
    let queued = broker.metric("queued_messages");
    assert!(queued <= 1024 + 1, "{queued} messages in memory");
    // More comes while it catches up.
    for first in (EACH..2 * EACH).step_by(BURST) {
        for (publisher, topic) in publishers.iter_mut().zip(TOPICS) {
            let before = reader.got.len();
            flood(publisher, topic, first..first + BURST, 1);
            reader.read(before + BURST);
        }
    }
    reader.read(TOPICS.len() * 2 * EACH);
    // In step: nothing is read from the log any more.
    for number in 2 * EACH..2 * EACH + 20 {
        for (publisher, topic) in publishers.iter_mut().zip(TOPICS) {
            publisher.publish(topic, format!("{number}"), 1);
            reader.read(reader.got.len() + 1);
        }
    }
    TOPICS.iter().for_each(|topic| reader.assert_all(topic, 2 * EACH + 20));
    reader.client.expect_nothing();
    broker.stop();
}

fn an_absent_session_reads_all_of_its_backlog_after_a_crash(transport: Transport) {
    const COUNT: usize = 20_000;
    const TWICE: usize = 2_000;
    let options = Options::new(transport).logged().cores(2);
    let mut broker = Broker::start(&options);
    absent(&broker, "one", "t/#", 1);
    absent(&broker, "two", "t/two", 2);
    let mut publishers =
        ["p", "q"].map(|client_id| Client::plain(broker.tcp, Version::V5, client_id));
    flood(&mut publishers[0], "t/one", 0..COUNT, 1);
    flood(&mut publishers[1], "t/two", 0..TWICE, 2);
    assert_eq!(broker.metric("queued_messages"), 0, "what is owed is in the log");
    broker.kill();
    broker.restart(&options);
    assert_eq!(broker.metric("queued_messages"), 0);
    let mut one = Reader::new(durable(&broker, "one"));
    one.read(COUNT + TWICE);
    one.assert_all("t/one", COUNT);
    one.assert_all("t/two", TWICE);
    one.client.expect_nothing();
    let mut two = Reader::new(durable(&broker, "two"));
    two.read(TWICE);
    two.assert_all("t/two", TWICE);
    broker.stop();
}

/// Windows of different sizes: a client that takes little at a time holds up none that takes more.
fn each_session_reads_at_its_own_pace(transport: Transport) {
    const COUNT: usize = 3000;
    let broker = Broker::start(&Options::new(transport).logged().cores(2));
    absent(&broker, "narrow", "t", 1);
    absent(&broker, "wide", "t", 1);
    let mut publisher = Client::plain(broker.tcp, Version::V5, "p");
    flood(&mut publisher, "t", 0..COUNT, 1);
    let mut narrow = Reader::new(with_window(&broker, "narrow", 3));
    let mut wide = Reader::new(with_window(&broker, "wide", 1000));
    narrow.read(100);
    wide.read(COUNT);
    narrow.read(COUNT);
    narrow.assert_all("t", COUNT);
    wide.assert_all("t", COUNT);
    broker.stop();
}

/// A connection may end at any moment: what was not acknowledged comes again, under its identifier,
/// and the rest follows.
fn connections_that_end_while_they_catch_up_lose_nothing(transport: Transport) {
    const COUNT: usize = 4000;
    let broker = Broker::start(&Options::new(transport).logged().cores(2));
    let mut publisher = Client::plain(broker.tcp, Version::V5, "p");
    for (client_id, qos) in [("once", 1), ("exactly", 2)] {
        absent(&broker, client_id, client_id, qos);
        flood(&mut publisher, client_id, 0..COUNT, qos);
        let mut got: Vec<usize> = Vec::new();
        let mut reader = Reader::new(durable(&broker, client_id));
        for round in 0..20_usize {
            for _ in 0..round * 11 {
                reader.step();
            }
            // Taken over, or reset, with messages under way.
            let next = (round % 2 == 0).then(|| durable(&broker, client_id));
            got.extend(reader.got.drain(..).map(|(_, number)| number));
            let Reader { client, open, .. } = reader;
            drop(client);
            let client = next.unwrap_or_else(|| durable(&broker, client_id));
            reader = Reader { open, ..Reader::new(client) };
        }
        while got.last() != Some(&(COUNT - 1)) {
            reader.step();
            got.extend(reader.got.drain(..).map(|(_, number)| number));
        }
        if qos == 1 {
            // Without doubles it is in order.
            let mut seen = vec![false; COUNT];
            got.retain(|number| !core::mem::replace(&mut seen[*number], true));
        }
        assert!(got.iter().copied().eq(0..COUNT), "{client_id}: gaps, or another order");
    }
    broker.stop();
}

fn what_was_not_acknowledged_has_its_identifier_again(transport: Transport) {
    let broker = Broker::start(&Options::new(transport).logged().cores(2));
    let mut publisher = Client::plain(broker.tcp, Version::V5, "p");
    for qos in [1, 2] {
        let mut client = with_window(&broker, "c", 5);
        assert_eq!(client.subscribe("t", qos), qos);
        flood(&mut publisher, "t", 0..20, qos);
        let sent: Vec<_> = (0..5).map(|_| client.receive()).collect();
        client.reset();
        broker.wait_until("it is gone", |broker| {
            broker.metric("connections") == 1 && broker.metric("queued_messages") == 0
        });
        let mut reader = Reader::new(with_window(&broker, "c", 5));
        for before in &sent {
            let packet = reader.client.read();
            let again = packet.publish();
            assert_eq!((again.id, again.dup, again.qos), (before.id, true, qos));
            assert_eq!(again.text(), before.text());
            reader.answer(&packet);
        }
        reader.read(20);
        reader.assert_all("t", 20);
        while !reader.open.is_empty() {
            reader.step();
        }
        reader.client.expect_nothing();
        reader.client.disconnect();
    }
    broker.stop();
}

/// Expired messages are left out, and the others have waited for so long.
fn messages_expire_in_the_log(transport: Transport) {
    let broker = Broker::start(&Options::new(transport).logged().cores(1));
    absent(&broker, "c", "t", 1);
    let mut publisher = Client::plain(broker.tcp, Version::V5, "p");
    flood_with(&mut publisher, 0..300, 1, |number| {
        let secs = if number % 3 == 0 { 1000 } else { 1 };
        let properties = Properties::new().four(MESSAGE_EXPIRY, secs);
        Publish::new("t", format!("{number}")).properties(properties)
    });
    std::thread::sleep(Duration::from_millis(2100));
    let mut client = durable(&broker, "c");
    for number in (0..300).step_by(3) {
        let message = client.receive_and_acknowledge();
        assert_eq!(message.text(), format!("{number}"));
        let left = message.properties.number(MESSAGE_EXPIRY);
        assert!(left.is_some_and(|left| (900..=998).contains(&left)), "{left:?}");
    }
    client.expect_nothing();
    assert_eq!(broker.metric("messages_dropped_expired_total"), 200);
    broker.stop();
}

/// No Local, Retain As Published and QoS as granted hold for what was read as for what is live.
fn options_hold_for_what_is_read(transport: Transport) {
    const NO_LOCAL: u8 = 4;
    const AS_PUBLISHED: u8 = 8;
    let broker = Broker::start(&Options::new(transport).logged().cores(2));
    let mut client = durable(&broker, "c");
    client.subscribe_all(&[("t", 2 | NO_LOCAL)], &Properties::new());
    client.subscribe_all(&[("kept", 1 | AS_PUBLISHED)], &Properties::new());
    let mut other = Client::plain(broker.tcp, Version::V5, "other");
    flood(&mut client, "t", 0..10, 1);
    client.disconnect();
    flood(&mut other, "t", 0..5, 2);
    other.publish_packet(Publish::new("kept", "9").qos(2, 0).retain());
    let mut client = durable(&broker, "c");
    // QoS 2 is recorded before it goes out, and QoS 1 is not.
    let mut got: Vec<_> = (0..6).map(|_| client.receive_and_acknowledge()).collect();
    let kept = got.iter().position(|message| message.topic == "kept").expect("it comes");
    let kept = got.remove(kept);
    assert_eq!((kept.qos, kept.retain), (1, true));
    for (number, message) in got.iter().enumerate() {
        assert_eq!((message.text(), message.qos), (format!("{number}"), 2));
    }
    client.expect_nothing();
    broker.stop();
}

const SMALL_BACKLOG: &str = "[session]\nmax_backlog = \"256KiB\"";
const PAYLOAD_BYTES: usize = 1000;

fn large(topic: &str, number: usize) -> Publish {
    Publish::new(topic, format!("{number:0PAYLOAD_BYTES$}"))
}

/// Publishes to `t` until the bound of a backlog is met; how many messages were taken. That bound is known
/// where the session is: how many are taken beyond it depends on when the publisher's core hears of it.
fn fill_backlog(publisher: &mut Client) -> usize {
    let mut taken = 0;
    for _ in 0..1000 {
        let reasons = flood_with(publisher, 0..50, 1, |number| large("t", number));
        let refused = reasons.iter().filter(|reason| **reason == 0x97).count();
        taken += reasons.iter().filter(|reason| **reason == 0).count();
        assert!(reasons.iter().all(|reason| [0, 0x97].contains(reason)), "{reasons:?}");
        if refused == reasons.len() {
            return taken;
        }
    }
    panic!("{taken} messages were taken and none refused");
}

/// At the bound publishers are refused, until the session has read.
fn a_full_backlog_in_the_log_is_refused(transport: Transport) {
    let options = Options::new(transport).logged().cores(2).config(SMALL_BACKLOG);
    let mut broker = Broker::start(&options);
    absent(&broker, "c", "t", 1);
    let mut publisher = Client::plain(broker.tcp, Version::V5, "p");
    let taken = fill_backlog(&mut publisher);
    assert!(230 < taken, "{taken} were taken");
    assert_eq!(flood(&mut publisher, "other", 0..1, 1), [0x10]);
    // The bound counts what was there before a start.
    broker.kill();
    broker.restart(&options);
    let mut publisher = Client::plain(broker.tcp, Version::V5, "p");
    let again = fill_backlog(&mut publisher);
    let mut reader = Reader::new(durable(&broker, "c"));
    reader.read(taken + again);
    reader.client.expect_nothing();
    publisher.publish("t", "1", 1);
    reader.read(taken + again + 1);
    broker.stop();
}

/// A will that meets the bound of somebody's backlog comes once there is room, also if its client
/// has connected again since.
fn a_will_waits_for_room(transport: Transport) {
    let broker = Broker::start(&Options::new(transport).logged().config(SMALL_BACKLOG));
    absent(&broker, "c", "t", 1);
    let mut publisher = Client::plain(broker.tcp, Version::V5, "p");
    let taken = fill_backlog(&mut publisher);
    let lost = Connect::new(Version::V5, "lost").will(Will { qos: 1, ..Will::new("t", "4711") });
    Client::connect(broker.tcp, &lost).reset();
    broker.wait_until("it is gone", |broker| broker.metric("connections") == 1);
    let back = Client::connect(broker.tcp, &Connect::new(Version::V5, "lost"));
    assert_eq!(broker.metric("wills_published_total"), 0);
    let mut reader = Reader::new(durable(&broker, "c"));
    reader.read(taken + 1);
    assert_eq!(reader.got.last().map(|(_, number)| *number), Some(4711));
    reader.client.expect_nothing();
    back.disconnect();
    broker.stop();
}

/// What was matched with QoS 1 is owed, whatever the subscription becomes [MQTT-3.8.4-4].
fn a_lower_qos_drops_nothing_that_was_matched(transport: Transport) {
    const COUNT: usize = 3000;
    let options = Options::new(transport).logged().cores(2);
    let mut broker = Broker::start(&options);
    let mut reader = Reader::new(with_window(&broker, "slow", 10));
    assert_eq!(reader.client.subscribe("t", 1), 1);
    let mut publisher = Client::plain(broker.tcp, Version::V5, "p");
    flood(&mut publisher, "t", 0..COUNT, 1);
    assert!(0 < broker.metric("sessions_behind_total"));
    assert_eq!(reader.client.subscribe("t", 0x20), 0);
    flood(&mut publisher, "t", COUNT..COUNT + 10, 1);
    reader.read(COUNT / 3 + 10);
    // QoS 0 may go before what is still to be read.
    let taken = reader.got.iter().filter(|(_, number)| *number < COUNT).count();
    reader.client.disconnect();
    broker.wait_until("it has gone", |broker| broker.metric("connections") == 1);
    broker.wait_until_logs_rest();
    broker.kill();
    broker.restart(&options);
    let mut reader = Reader::new(with_window(&broker, "slow", 10));
    let mut publisher = Client::plain(broker.tcp, Version::V5, "p");
    flood(&mut publisher, "t", COUNT..COUNT + 10, 1);
    assert_eq!(reader.client.subscribe("t", 0x21), 1, "and back");
    flood(&mut publisher, "t", COUNT + 10..COUNT + 20, 1);
    let left = COUNT - taken;
    while reader.got.last().is_none_or(|(_, number)| *number != COUNT + 19) {
        reader.step();
    }
    let owed = reader.got.iter().map(|(_, number)| *number);
    let owed: Vec<usize> = owed.filter(|number| !(COUNT..COUNT + 10).contains(number)).collect();
    assert!(owed.into_iter().eq((COUNT - left..COUNT).chain(COUNT + 10..COUNT + 20)));
    reader.client.expect_nothing();
    broker.stop();
}

/// With `drop_oldest` the newest stay, in order.
fn a_full_backlog_in_the_log_lets_go_of_the_oldest(transport: Transport) {
    const COUNT: usize = 2000;
    let options = Options::new(transport)
        .logged()
        .cores(2)
        .config(SMALL_BACKLOG)
        .config("[[stream]]\nname = \"default\"\nwhen_full = \"drop_oldest\"");
    let mut broker = Broker::start(&options);
    absent(&broker, "c", "t", 1);
    let mut publisher = Client::plain(broker.tcp, Version::V5, "p");
    let reasons = flood_with(&mut publisher, 0..COUNT, 1, |number| large("t", number));
    assert!(reasons.iter().all(|reason| *reason == 0));
    let mut dropped = 0;
    broker.wait_until("the oldest have gone", |broker| {
        (COUNT - 270..COUNT - 200)
            .contains(&(broker.metric("messages_dropped_backlog_total") as usize))
    });
    while dropped != broker.metric("messages_dropped_backlog_total") as usize {
        dropped = broker.metric("messages_dropped_backlog_total") as usize;
        std::thread::sleep(Duration::from_millis(200));
    }
    // What was let go of stays so.
    broker.terminate();
    assert_eq!(broker.wait().code(), Some(0));
    broker.restart(&options);
    let mut reader = Reader::new(durable(&broker, "c"));
    reader.read(COUNT - dropped);
    assert!(reader.got.iter().map(|(_, number)| *number).eq(dropped..COUNT));
    reader.client.expect_nothing();
    broker.stop();
}

fn segments(broker: &Broker) -> Vec<PathBuf> {
    let partition = broker.data_dir().join("partitions").join("0000");
    let files = std::fs::read_dir(partition).expect("a log").map(|file| file.expect("").path());
    let mut files: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|end| end == "log")).collect();
    files.sort();
    files
}

/// Changes a byte in the middle of a segment.
fn damage(path: &Path, at: u64) {
    let mut file = std::fs::File::options().read(true).write(true).open(path).expect("a segment");
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).expect("a place");
    file.read_exact(&mut byte).expect("a byte");
    byte[0] ^= 1;
    file.seek(SeekFrom::Start(at)).expect("a place");
    file.write_all(&byte).expect("a byte");
}

/// A part of a log that cannot be read is named and counted, and costs what is in it.
fn a_damaged_segment_costs_what_is_in_it(transport: Transport) {
    const COUNT: usize = 4000;
    let options = Options::new(transport)
        .logged()
        .cores(1)
        .config("[runtime]\npartitions = 1\n[mqtt]\nmax_packet_size = \"64KiB\"");
    let mut broker = Broker::start(&options);
    absent(&broker, "c", "t", 1);
    let mut publisher = Client::plain(broker.tcp, Version::V5, "p");
    flood_with(&mut publisher, 0..COUNT, 1, |number| large("t", number));
    let segments = segments(&broker);
    assert!(2 < segments.len(), "{segments:?}");
    damage(&segments[0], 500_000);
    let mut reader = Reader::new(durable(&broker, "c"));
    while reader.got.last().is_none_or(|(_, number)| *number != COUNT - 1) {
        reader.step();
    }
    let lost = broker.metric("messages_dropped_damaged_total") as usize;
    assert!(0 < lost && lost < 1000, "{lost} lost");
    assert_eq!(reader.got.len() + lost, COUNT);
    assert!(reader.got.is_sorted_by_key(|(_, number)| *number));
    let name = segments[0].file_name().and_then(|name| name.to_str()).expect("a name");
    broker.wait_until("the operator is told which file", |broker| broker.log().contains(name));
    publisher.publish("t", format!("{COUNT}"), 1);
    reader.read(COUNT - lost + 1);
    broker.kill();
}

/// `memory` is acknowledged before it is on the disk, and read once it is.
fn what_memory_accepted_is_read_once_it_is_flushed(transport: Transport) {
    const COUNT: usize = 3000;
    let options = Options::new(transport)
        .logged()
        .cores(2)
        .config("[[stream]]\nname = \"default\"\nlevel = \"memory\"");
    let broker = Broker::start(&options);
    let mut publisher = Client::plain(broker.tcp, Version::V5, "p");
    let mut reader = Reader::new(durable(&broker, "c"));
    assert_eq!(reader.client.subscribe("t", 1), 1);
    // It comes and goes, so that it reads what was accepted a moment ago.
    for first in (0..COUNT).step_by(COUNT / 10) {
        reader.client.disconnect();
        flood(&mut publisher, "t", first..first + COUNT / 10, 1);
        reader.client = durable(&broker, "c");
        reader.read(first + COUNT / 10);
    }
    reader.assert_all("t", COUNT);
    broker.stop();
}

/// Retained messages that an owner hands out at a time.
const BATCH: usize = 256;
/// Retained messages that are left for the last time.
const REST: usize = 10;
/// Live messages of this size end the waiting for retained ones.
const LARGE: usize = 60_000;

/// A session whose second subscription waits for its retained messages, because its client takes none,
/// while one live message is held back behind them.
fn waiting_for_retained(broker: &Broker, publisher: &mut Client, window: u16, qos: u8) -> Client {
    let batches = 1 + usize::from(window) / BATCH;
    for number in 0..batches * BATCH + REST {
        let retained = Publish::new(&format!("a/{number}"), format!("{number}")).qos(1, 0);
        publisher.publish_packet(retained.retain());
    }
    let mut client = with_window(broker, "c", window);
    assert_eq!(client.subscribe("b", qos), qos);
    assert_eq!(client.subscribe("a/#", qos), qos);
    broker.wait_until("the window is full", |broker| 0 < broker.metric("queued_messages"));
    flood(publisher, "a/x", 0..1, qos);
    client
}

/// So much is held back that the retained messages wait for the client no longer.
fn end_waiting(publisher: &mut Client, qos: u8) {
    flood_with(publisher, 1..21, qos, |number| Publish::new("a/x", format!("{number:0LARGE$}")));
}

/// What was held back comes when the queue is full of later ones: none of those comes twice.
fn what_was_held_back_finds_a_full_queue(transport: Transport) {
    const COUNT: usize = 3000;
    let broker = Broker::start(&Options::new(transport).logged().cores(1));
    let mut publisher = Client::plain(broker.tcp, Version::V5, "p");
    let client = waiting_for_retained(&broker, &mut publisher, 10, 2);
    flood(&mut publisher, "b", 0..COUNT, 2);
    assert!(0 < broker.metric("sessions_behind_total"));
    end_waiting(&mut publisher, 2);
    let mut reader = Reader::new(client);
    reader.read(BATCH + REST + 21 + COUNT);
    reader.assert_all("b", COUNT);
    reader.assert_all("a/x", 21);
    while !reader.open.is_empty() {
        reader.step();
    }
    reader.client.expect_nothing();
    broker.stop();
}

/// More than a window of messages is in flight behind one that is not: what follows them is read.
fn what_follows_a_window_in_flight_is_read(transport: Transport) {
    const WINDOW: usize = 300;
    const COUNT: usize = 2600;
    let broker = Broker::start(&Options::new(transport).logged().cores(1));
    let mut publisher = Client::plain(broker.tcp, Version::V5, "p");
    let client = waiting_for_retained(&broker, &mut publisher, WINDOW as u16, 1);
    flood(&mut publisher, "b", 0..600, 1);
    let mut reader = Reader::new(client);
    // The window is full of live messages then, and more wait behind it.
    reader.read(2 * BATCH);
    end_waiting(&mut publisher, 1);
    reader.client.reset();
    broker.wait_until("it is gone", |broker| broker.metric("connections") == 1);
    flood(&mut publisher, "b", 600..COUNT, 1);
    let before = broker.metric("queued_messages");
    let mut client = with_window(&broker, "c", WINDOW as u16);
    let again: Vec<_> = (0..WINDOW).map(|_| client.read()).collect();
    broker.wait_until("it reads on", |broker| before < broker.metric("queued_messages"));
    let mut reader = Reader::new(client);
    again.iter().for_each(|packet| reader.answer(packet));
    reader.read(REST + 21 + COUNT);
    reader.assert_all("b", COUNT);
    reader.assert_all("a/x", 21);
    reader.client.expect_nothing();
    broker.stop();
}

/// Delivery that was begun ends, also without the subscription [MQTT-3.10.4-3].
fn what_was_sent_comes_again_after_unsubscribe(transport: Transport) {
    const COUNT: usize = 900;
    let broker = Broker::start(&Options::new(transport).logged().cores(2));
    let mut publisher = Client::plain(broker.tcp, Version::V5, "p");
    let mut client = with_window(&broker, "c", COUNT as u16);
    assert_eq!(client.subscribe("t", 1), 1);
    flood(&mut publisher, "t", 0..COUNT, 1);
    (0..COUNT).for_each(|_| assert_eq!(client.receive().topic, "t"));
    client.reset();
    broker.wait_until("it is gone", |broker| broker.metric("connections") == 1);
    let mut client = with_window(&broker, "c", COUNT as u16);
    let id = client.next_id();
    client.send(&support::packets::unsubscribe(Version::V5, id, &["t"]));
    let mut numbers = Vec::new();
    while numbers.len() < COUNT {
        let packet = client.read();
        if packet.kind() == Kind::Publish {
            let message = packet.publish();
            numbers.push(message.text().parse::<usize>().expect("a number"));
            client.acknowledge(Kind::Puback, message.id);
        }
    }
    assert!(numbers.into_iter().eq(0..COUNT));
    broker.stop();
}

on_both_transports!(
    a_will_waits_for_room,
    a_lower_qos_drops_nothing_that_was_matched,
    what_was_sent_comes_again_after_unsubscribe,
    what_was_held_back_finds_a_full_queue,
    what_follows_a_window_in_flight_is_read,
    a_slow_client_goes_on_from_the_log_and_comes_in_step_again,
    an_absent_session_reads_all_of_its_backlog_after_a_crash,
    each_session_reads_at_its_own_pace,
    connections_that_end_while_they_catch_up_lose_nothing,
    what_was_not_acknowledged_has_its_identifier_again,
    messages_expire_in_the_log,
    options_hold_for_what_is_read,
    a_full_backlog_in_the_log_is_refused,
    a_full_backlog_in_the_log_lets_go_of_the_oldest,
    a_damaged_segment_costs_what_is_in_it,
    what_memory_accepted_is_read_once_it_is_flushed,
);
