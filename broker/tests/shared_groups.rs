//! Shared subscriptions in the log: what waits in a group is there again after kill -9, and QoS 2 is
//! given to one member once.

use crate::support::{Broker, Client, Connect, Held, Kind, Options, Publish, Transport, Version};
use std::collections::BTreeMap;
use std::time::Duration;

on_both_transports!(
    what_waits_in_a_group_survives_kills,
    what_a_member_had_not_acknowledged_goes_to_another,
    qos_2_is_given_once_across_kills,
    a_group_without_members_ends,
    a_group_is_bounded_by_its_backlog_in_the_log,
);

fn logged(transport: Transport) -> Options {
    Options::new(transport).logged().cores(1)
}

fn member(broker: &Broker, name: &str) -> Client {
    Client::connect(broker.tcp, &Connect::new(Version::V5, name).durable())
}

fn join(broker: &Broker, name: &str, qos: u8) -> Client {
    let mut client = member(broker, name);
    assert_eq!(client.subscribe("$share/g/t/#", qos), qos);
    client
}

fn publish(broker: &Broker, numbers: core::ops::Range<usize>, qos: u8) {
    let mut client = Client::plain(broker.tcp, Version::V5, "publisher");
    for number in numbers {
        client.publish("t/a", format!("{number}"), qos);
    }
    client.disconnect();
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}

/// Nobody waits for what a group is done with: it is in the log once a second.
fn wait_until_recorded(broker: &Broker) {
    std::thread::sleep(Duration::from_millis(1300));
    broker.wait_until_logs_rest();
}

fn what_waits_in_a_group_survives_kills(transport: Transport) {
    let mut broker = Broker::start(&logged(transport));
    for name in ["one", "two"] {
        join(&broker, name, 1).disconnect();
    }
    let mut next = 0;
    for cores in [1, 2, 1] {
        publish(&broker, next..next + 700, 1);
        next += 700;
        broker.kill();
        broker.restart(&logged(transport).cores(cores));
    }
    assert_eq!(broker.metric("shared_pending"), 0, "absent members take no memory");
    let mut one = member(&broker, "one");
    let got: Vec<usize> =
        (0..next).map(|_| number(&one.receive_and_acknowledge().text())).collect();
    assert!(got.into_iter().eq(0..next), "in order, without gaps");
    one.expect_nothing();
    wait_until_recorded(&broker);
    broker.kill();
    broker.restart(&logged(transport).cores(2));
    let mut two = member(&broker, "two");
    publish(&broker, next..next + 1, 1);
    assert_eq!(number(&two.receive_and_acknowledge().text()), next, "nothing comes again");
    two.expect_nothing();
    broker.stop();
}

fn what_a_member_had_not_acknowledged_goes_to_another(transport: Transport) {
    let mut broker = Broker::start(&logged(transport).cores(2));
    let mut one = join(&broker, "one", 1);
    join(&broker, "two", 1).disconnect();
    publish(&broker, 0..20, 1);
    let first = one.receive_and_acknowledge();
    let mut rest: Vec<usize> = (1..20).map(|_| number(&one.receive().text())).collect();
    rest.sort_unstable();
    wait_until_recorded(&broker);
    broker.kill();
    broker.restart(&logged(transport).cores(2));
    let mut two = member(&broker, "two");
    let got: Vec<usize> = (1..20).map(|_| number(&two.receive_and_acknowledge().text())).collect();
    assert_eq!((number(&first.text()), got), (0, rest));
    two.expect_nothing();
    broker.stop();
}

fn qos_2_is_given_once_across_kills(transport: Transport) {
    const COUNT: usize = 400;
    const NAMES: [&str; 3] = ["one", "two", "three"];
    let mut broker = Broker::start(&logged(transport));
    let mut clients = NAMES.map(|name| join(&broker, name, 2));
    let mut books = NAMES.map(|_| Held::default());
    let (mut taken, mut random) = (BTreeMap::<usize, usize>::new(), 7_u32);
    let mut draw = |below: u32| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 16) % below
    };
    for (cycle, cores) in [1, 2, 1, 2, 1, 2, 1, 2].into_iter().enumerate() {
        publish(&broker, cycle * COUNT / 8..(cycle + 1) * COUNT / 8, 2);
        for _ in 0..60 + draw(40) {
            let one = draw(3) as usize;
            let Ok(packet) = clients[one].try_read(Duration::from_millis(30)) else { continue };
            let text = books[one].take(&mut clients[one], &packet, draw(8) != 0);
            text.into_iter().for_each(|text| *taken.entry(number(&text)).or_default() += 1);
        }
        if draw(2) == 0 {
            // As much as is in the log by itself.
            std::thread::sleep(Duration::from_millis(1100));
        }
        broker.kill();
        broker.restart(&logged(transport).cores(cores));
        clients = NAMES.map(|name| member(&broker, name));
    }
    while taken.len() < COUNT || books.iter().any(|book| !book.is_empty()) {
        for (client, book) in clients.iter_mut().zip(&mut books) {
            while let Ok(packet) = client.try_read(Duration::from_millis(30)) {
                let text = book.take(client, &packet, true);
                text.into_iter().for_each(|text| *taken.entry(number(&text)).or_default() += 1);
            }
        }
    }
    clients.iter_mut().for_each(|client| client.expect_nothing());
    let twice: Vec<_> = taken.iter().filter(|(_, times)| **times != 1).collect();
    assert!(twice.is_empty() && taken.len() == COUNT, "{twice:?}");
    broker.stop();
}

fn a_group_without_members_ends(transport: Transport) {
    let mut broker = Broker::start(&logged(transport));
    let mut one = join(&broker, "one", 1);
    assert_eq!(broker.metric("shared_groups"), 1);
    one.unsubscribe("$share/g/t/#");
    broker.wait_until("the group is gone", |broker| broker.metric("shared_groups") == 0);
    publish(&broker, 0..10, 1);
    wait_until_recorded(&broker);
    broker.kill();
    broker.restart(&logged(transport));
    assert_eq!(broker.metric("shared_groups"), 0);
    let mut two = join(&broker, "two", 1);
    publish(&broker, 10..11, 1);
    assert_eq!(number(&two.receive_and_acknowledge().text()), 10);
    // One whose only member is not kept is not kept either.
    let mut plain = Client::plain(broker.tcp, Version::V5, "plain");
    assert_eq!(plain.subscribe("$share/other/t/#", 1), 1);
    broker.kill();
    broker.restart(&logged(transport));
    broker.wait_until("the group is there", |broker| broker.metric("shared_groups") == 1);
    broker.stop();
}

fn a_group_is_bounded_by_its_backlog_in_the_log(transport: Transport) {
    let options = logged(transport).cores(2).config("[session]\nmax_backlog = \"256KiB\"");
    let mut broker = Broker::start(&options);
    join(&broker, "one", 1).disconnect();
    let mut publisher = Client::plain(broker.tcp, Version::V5, "p");
    let mut flood = |broker: &mut Broker, restart: bool| {
        if restart {
            broker.kill();
            broker.restart(&options);
            publisher = Client::plain(broker.tcp, Version::V5, "p");
        }
        let mut taken = 0;
        for number in 0..2000 {
            let publish = Publish::new("t/a", format!("{number:01000}")).qos(1, 1);
            publisher.send_publish(&publish);
            let reason = publisher.read_kind(Kind::Puback).reason();
            if reason == 0x97 {
                return taken;
            }
            taken += 1;
        }
        panic!("{taken} messages of 1,000 bytes were taken");
    };
    let taken = flood(&mut broker, false);
    let again = flood(&mut broker, true);
    assert!(taken > 200 && again < 50, "{taken} and {again} after a start");
    let mut one = member(&broker, "one");
    for _ in 0..taken + again {
        one.receive_and_acknowledge();
    }
    one.expect_nothing();
    publish(&broker, 7..8, 1);
    assert_eq!(number(&one.receive_and_acknowledge().text()), 7);
    broker.stop();
}
