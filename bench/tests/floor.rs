//! The floor relay under the load engine: nothing lost, doubled or reordered, and what it does not
//! relay is refused.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use ringlane_bench::fleet::{self, Target};
use ringlane_bench::floor::Floor;
use ringlane_bench::flow::{self, FlowOptions, FlowPlan, Limit, ListenerPlan, PublisherPlan};
use ringlane_bench::link::LinkOptions;
use ringlane_bench::login::Login;
use ringlane_bench::payload::{PublishTemplate, Stamp};
use ringlane_bench::swarm::{Event, LinkId, Swarm};
use ringlane_mqtt::{Packet, QoS, Version, encode};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// A relay that runs until the test process ends.
fn relay(unbatched: bool) -> SocketAddr {
    let mut floor = Floor::bind("127.0.0.1:0".parse().unwrap(), unbatched).unwrap();
    let address = floor.local_address().unwrap();
    std::thread::spawn(move || floor.run(&mut std::io::sink()));
    address
}

fn publishers(count: usize) -> Vec<PublisherPlan> {
    let plan =
        |index| PublisherPlan { client_id: format!("p{index}"), topic: format!("t/{index}") };
    (0..count).map(plan).collect()
}

fn listener(index: usize, filter: &str, streams: std::ops::Range<usize>) -> ListenerPlan {
    ListenerPlan { client_id: format!("s{index}"), filter: filter.to_owned(), streams }
}

fn pairs(count: usize) -> FlowPlan {
    let listeners =
        (0..count).map(|index| listener(index, &format!("t/{index}"), index..index + 1));
    FlowPlan { publishers: publishers(count), listeners: listeners.collect(), shared: false }
}

fn fan_in(count: usize) -> FlowPlan {
    FlowPlan {
        publishers: publishers(count),
        listeners: vec![listener(0, "t/+", 0..count)],
        shared: false,
    }
}

fn fan_out(count: usize) -> FlowPlan {
    let listeners = (0..count).map(|index| listener(index, "t/#", 0..1));
    FlowPlan { publishers: publishers(1), listeners: listeners.collect(), shared: false }
}

#[track_caller]
fn check(address: SocketAddr, plan: &FlowPlan, payload_bytes: usize, window: u64, messages: u64) {
    let options = FlowOptions {
        payload_bytes,
        window,
        limit: Limit::Messages(messages),
        ..FlowOptions::default()
    };
    for version in [Version::V311, Version::V5] {
        let target = Target::new(address, version);
        let outcome = flow::run(&target, plan, &options).unwrap();
        assert!(outcome.is_perfect(), "{version:?} {payload_bytes} bytes: {outcome:?}");
        let copies: usize = plan.listeners.iter().map(|listener| listener.streams.len()).sum();
        assert_eq!(outcome.delivered, messages * copies as u64);
    }
}

#[test]
fn pairs_fan_in_and_fan_out_are_perfect() {
    let address = relay(false);
    for (payload_bytes, window, messages) in [(16, 1, 500), (64, 200, 5000), (4096, 200, 1000)] {
        check(address, &pairs(8), payload_bytes, window, messages);
        check(address, &fan_in(8), payload_bytes, window, messages);
        check(address, &fan_out(8), payload_bytes, window, messages);
    }
}

#[test]
fn packets_larger_than_a_read_are_relayed() {
    let address = relay(false);
    check(address, &pairs(3), 1_000_000, 4, 20);
    check(address, &fan_in(3), 700_000, 4, 20);
}

#[test]
fn without_batches_it_is_as_perfect() {
    let address = relay(true);
    check(address, &fan_out(20), 64, 16, 2000);
    check(address, &fan_in(4), 300, 16, 2000);
}

/// Publishes without limit to subscribers of which one reads nothing for a while: the publisher is
/// stopped, not the messages dropped.
#[test]
fn a_full_output_stops_its_inputs_and_loses_nothing() {
    let target = Target::new(relay(false), Version::V311);
    let mut swarm = Swarm::new().unwrap();
    let logins: Vec<Login> = ["a", "b", "p", "q"].map(Login::clean).to_vec();
    let links: Vec<LinkId> = fleet::connect_all(&mut swarm, &target, &logins, PATIENCE)
        .unwrap()
        .iter()
        .map(|member| member.link)
        .collect();
    let requests = [(links[0], "t/#", QoS::AtMostOnce), (links[1], "t/#", QoS::AtMostOnce)];
    fleet::subscribe_all(&mut swarm, target.version, &requests, PATIENCE).unwrap();
    swarm.pause(links[0], true);
    let mut sent = [0u64; 2];
    let mut next = [[0u64; 2]; 2];
    let templates = ["t/0", "t/1"]
        .map(|topic| PublishTemplate::new(target.version, QoS::AtMostOnce, topic, 5000));
    let deadline = Instant::now() + PATIENCE;
    let mut turn = |swarm: &mut Swarm, publish: bool| {
        for stream in 0..2 {
            let link = links[2 + stream];
            let unsent = swarm.link(link).unwrap().unsent_bytes();
            if publish && unsent < 100_000 {
                let stamp = Stamp { stream: stream as u32, sequence: sent[stream], sent_ns: 0 };
                templates[stream].write(swarm.out(link).unwrap(), 0, stamp);
                sent[stream] += 1;
            }
        }
        let timeout = Duration::from_millis(if publish { 0 } else { 5 });
        swarm
            .poll(timeout, &mut |_, id, event| {
                if let Event::Packet(Packet::Publish(publish)) = event {
                    let listener = usize::from(id == links[1]);
                    let stamp = Stamp::read(publish.payload).unwrap();
                    let expected = &mut next[listener][stamp.stream as usize];
                    assert_eq!(stamp.sequence, *expected, "lost or out of order");
                    *expected += 1;
                }
            })
            .unwrap();
        assert!(Instant::now() < deadline, "sent {sent:?}, received {next:?}");
        (sent, next)
    };
    // Stopped: neither publisher gets anything more into its socket.
    let mut before = 0;
    for _ in 0.. {
        let (sent, _) = turn(&mut swarm, true);
        let is_full = |link: LinkId| swarm.link(link).unwrap().unsent_bytes() >= 100_000;
        if is_full(links[2]) && is_full(links[3]) && sent[0] + sent[1] == before {
            break;
        }
        before = sent[0] + sent[1];
    }
    swarm.pause(links[0], false);
    loop {
        let (sent, next) = turn(&mut swarm, false);
        if next == [sent, sent] {
            break;
        }
    }
}

/// What a client that sends `bytes` behind its CONNECT gets before the connection ends, if it does.
fn ends_with(version: Version, bytes: &[u8]) -> Option<u8> {
    let target = Target::new(relay(false), version);
    let mut swarm = Swarm::new().unwrap();
    let link = swarm.open(&LinkOptions::mqtt(target.address, version)).unwrap();
    Login::clean("x").encode(version, swarm.out(link).unwrap());
    swarm.send(link, bytes);
    let deadline = Instant::now() + PATIENCE;
    let (mut reason, mut ended) = (None, false);
    while !ended {
        swarm
            .poll(Duration::from_millis(10), &mut |_, _, event| match event {
                Event::Packet(Packet::Disconnect(disconnect)) => reason = Some(disconnect.reason.0),
                Event::Closed(_) => ended = true,
                _ => {}
            })
            .unwrap();
        assert!(Instant::now() < deadline, "the connection was not ended");
    }
    reason
}

#[test]
fn what_is_not_a_plain_message_is_refused() {
    let mut acknowledged = Vec::new();
    PublishTemplate::new(Version::V5, QoS::AtLeastOnce, "t", 16).write(
        &mut acknowledged,
        1,
        Stamp { stream: 0, sequence: 0, sent_ns: 0 },
    );
    assert_eq!(ends_with(Version::V5, &acknowledged), Some(0x83));
    let mut retained = Vec::new();
    PublishTemplate::new(Version::V311, QoS::AtMostOnce, "t", 16).write(
        &mut retained,
        0,
        Stamp { stream: 0, sequence: 0, sent_ns: 0 },
    );
    retained[0] |= 1;
    assert_eq!(ends_with(Version::V311, &retained), None);
    let mut again = Vec::new();
    Login::clean("y").encode(Version::V5, &mut again);
    assert_eq!(ends_with(Version::V5, &again), Some(0x83));
}

/// Wires follow subscriptions: a subscriber that comes after the first message is served, one that
/// unsubscribes is not, and pings are answered in between.
#[test]
fn wires_follow_subscriptions() {
    let target = Target::new(relay(false), Version::V311);
    let mut swarm = Swarm::new().unwrap();
    let logins: Vec<Login> = ["s", "p"].map(Login::clean).to_vec();
    let members = fleet::connect_all(&mut swarm, &target, &logins, PATIENCE).unwrap();
    let (subscriber, publisher) = (members[0].link, members[1].link);
    let template = PublishTemplate::new(target.version, QoS::AtMostOnce, "t/x", 16);
    let publish = |swarm: &mut Swarm, sequence| {
        let stamp = Stamp { stream: 0, sequence, sent_ns: 0 };
        template.write(swarm.out(publisher).unwrap(), 0, stamp);
        encode::pingreq(swarm.out(publisher).unwrap());
        let deadline = Instant::now() + PATIENCE;
        let (mut got, mut pong) = (Vec::new(), [false; 2]);
        while pong != [true; 2] {
            swarm
                .poll(Duration::from_millis(10), &mut |swarm, id, event| match event {
                    Event::Packet(Packet::Publish(publish)) => {
                        got.push(Stamp::read(publish.payload).unwrap().sequence);
                    }
                    Event::Packet(Packet::Pingresp) if id == publisher => {
                        pong[0] = true;
                        encode::pingreq(swarm.out(subscriber).unwrap());
                    }
                    Event::Packet(Packet::Pingresp) => pong[1] = true,
                    _ => {}
                })
                .unwrap();
            assert!(Instant::now() < deadline, "no PINGRESP");
        }
        got
    };
    assert_eq!(publish(&mut swarm, 0), [0; 0]);
    let request = [(subscriber, "t/+", QoS::AtMostOnce)];
    fleet::subscribe_all(&mut swarm, target.version, &request, PATIENCE).unwrap();
    assert_eq!(publish(&mut swarm, 1), [1]);
    encode::unsubscribe(swarm.out(subscriber).unwrap(), target.version, 9, &["t/+"]);
    fleet::fence(&mut swarm, &[subscriber], PATIENCE).unwrap();
    assert_eq!(publish(&mut swarm, 2), [0; 0]);
}
