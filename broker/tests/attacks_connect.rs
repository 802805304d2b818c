//! Attacks on the way in: sockets that never finish CONNECT, that say nothing after it, that flood
//! sessions, wills and takeovers.
//!
//! Source: the table of resource attacks, rows R01 to R03, R12, R13 and R16. In each, the broker's
//! memory stays within the bound that the test states, and a healthy pair beside the attack loses
//! nothing.

use crate::load;
use crate::load::{Crowd, KIB, MIB, Memory, scaled};
use crate::support::properties::{self, Properties};
use crate::support::{
    Broker, Client, Connect, Kind, Options, Publish, Transport, Version, Will, Witness, packets,
};
use ringlane_bench::fleet::Target;
use ringlane_bench::process::Process;
use ringlane_bench::takeover::{self, TakeoverOptions};
use std::time::{Duration, Instant};

/// What the broker may hold per socket before CONNECT, and after it without traffic.
const SOCKET_BYTES_MAX: u64 = 16 * KIB;
/// What an allocator may keep that no connection accounts for.
const SLACK: u64 = 8 * MIB;

on_both_transports!(
    slow_connects_end_at_the_deadline,
    silent_clients_give_their_slots_back,
    announced_bytes_that_never_come_take_no_memory,
    a_flood_of_wills_is_published_once_each,
    sessions_are_refused_at_their_bound,
    flapping_with_takeover_costs_bounded_cpu,
);

/// R01: the deadline counts from the accept, not from the last byte.
fn slow_connects_end_at_the_deadline(transport: Transport) {
    let options = Options::new(transport).config("[mqtt]\nconnect_timeout = \"2s\"");
    let broker = Broker::start(&options);
    let witness = Witness::start(broker.tcp);
    let memory = Memory::of(&broker);
    let count = scaled(2000);
    let connect = Connect::new(Version::V311, &"x".repeat(1000)).encode();
    let mut crowd = Crowd::new(broker.tcp);
    crowd.open(count, |_| connect[..1].to_vec());
    let deadline = Instant::now() + load::CROWD_PATIENCE;
    let mut sent = 1;
    while crowd.closed() < count {
        assert!(Instant::now() < deadline, "{} of {count} are closed", crowd.closed());
        if sent < connect.len() - 1 {
            crowd.send_all(|_| connect[sent..=sent].to_vec());
            sent += 1;
        }
        crowd.turn();
        std::thread::sleep(Duration::from_millis(100));
        memory.assert_growth(count as u64 * SOCKET_BYTES_MAX + SLACK, "half a CONNECT each");
    }
    assert!(sent < connect.len() - 1, "the CONNECT came to its end first");
    broker.wait_until("each is counted", |broker| {
        broker.metric("connect_timeouts_total") == count as u64
    });
    let slot = Client::plain(broker.tcp, Version::V5, "after");
    slot.disconnect();
    witness.finish();
    broker.stop();
}

/// R02 (SlowITe): a long keep alive does not hold a slot: MQTT 5 clients are told the broker's own.
fn silent_clients_give_their_slots_back(transport: Transport) {
    let count = scaled(1000);
    let config = format!(
        "[mqtt]\nmax_keep_alive = \"1s\"\n[limits]\nmax_connections = {}",
        count + 2 // The witness has two.
    );
    let broker = Broker::start(&Options::new(transport).config(&config));
    let witness = Witness::start(broker.tcp);
    let memory = Memory::of(&broker);
    let mut crowd = Crowd::new(broker.tcp);
    crowd.open(count, |index| {
        Connect::new(Version::V5, &format!("silent-{index}")).keep_alive(65_535).encode()
    });
    crowd.wait_closed();
    let mut accepted = 0;
    for index in 0..count {
        let packets = crowd.take_packets(index, Version::V5);
        let Some(connack) = packets.first().filter(|packet| packet.reason() == 0) else { continue };
        let told = connack.properties().number(properties::SERVER_KEEP_ALIVE);
        assert_eq!(told, Some(1), "MQTT-3.1.2-21");
        let last = packets.last().expect("a packet");
        assert_eq!((last.kind(), last.reason()), (Kind::Disconnect, 0x8d), "client {index}");
        accepted += 1;
    }
    // Slots are counted per core, and the kernel shares connections out by their hash: a core may be
    // full before the node is.
    assert!(accepted >= count * 3 / 4, "{accepted} of {count} got a slot");
    memory.assert_growth(count as u64 * SOCKET_BYTES_MAX + SLACK, "silent clients");
    broker.wait_until("the slots are free", |broker| broker.metric("sockets") == 2);
    let mut others = Crowd::new(broker.tcp);
    others.connect(count / 2, |index| Connect::new(Version::V5, &format!("next-{index}")));
    others.reset_all();
    witness.finish();
    broker.stop();
}

/// R03: nothing is allocated because a length says so, neither before CONNECT nor after it.
fn announced_bytes_that_never_come_take_no_memory(transport: Transport) {
    let broker = Broker::on(transport);
    let witness = Witness::start(broker.tcp);
    let memory = Memory::of(&broker);
    let count = scaled(1500);
    let bound = count as u64 * SOCKET_BYTES_MAX + SLACK;

    // Above every limit: refused as soon as the length is known.
    let mut crowd = Crowd::new(broker.tcp);
    crowd.open(count, |_| vec![0x10, 0xff, 0xff, 0xff, 0x7f]);
    crowd.wait_closed();
    memory.assert_growth(bound, "CONNECT of 256 MiB");

    // Within the limit of CONNECT (64 KiB).
    let mut crowd = Crowd::new(broker.tcp);
    crowd.open(count, |_| vec![0x10, 0xf0, 0xff, 0x03]);
    broker
        .wait_until("all sockets are seen", |broker| broker.metric("sockets") >= count as u64 + 2);
    memory.assert_growth(bound, "CONNECT of 64 KiB");
    crowd.reset_all();

    // Within the limit of a packet (1 MiB), after CONNECT.
    let mut crowd = Crowd::new(broker.tcp);
    crowd.connect(count, |index| Connect::new(Version::V311, &format!("announcer-{index}")));
    crowd.send_all(|_| vec![0x30, 0xf0, 0xff, 0x3f, 0x00, 0x01, b'a']);
    crowd.turn();
    witness_goes_on(&witness);
    memory.assert_growth(bound, "PUBLISH of 1 MiB");
    assert_eq!(crowd.closed(), 0);
    crowd.reset_all();
    witness.finish();
    broker.stop();
}

/// Waits until the witness has exchanged some more messages, so that the cores have seen what was
/// sent before.
fn witness_goes_on(witness: &Witness) {
    let goal = witness.messages() + 200;
    let deadline = Instant::now() + load::CROWD_PATIENCE;
    while witness.messages() < goal {
        assert!(Instant::now() < deadline, "the witness stands still");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// R12: clients with wills, cut off at once, again and again.
fn a_flood_of_wills_is_published_once_each(transport: Transport) {
    const ROUNDS: usize = 3;
    const WILL_BYTES: usize = 2048;
    let broker = Broker::on(transport);
    let witness = Witness::start(broker.tcp);
    let count = scaled(1000);
    let mut heir = Client::plain(broker.tcp, Version::V5, "heir");
    assert_eq!(heir.subscribe("wills/+", 1), 1);
    let memory = Memory::of(&broker);
    for round in 0..ROUNDS {
        let mut crowd = Crowd::new(broker.tcp);
        crowd.connect(count, |index| {
            let will = Will::new(&format!("wills/{index}"), &"w".repeat(WILL_BYTES));
            Connect::new(Version::V311, &format!("mortal-{index}")).will(will)
        });
        crowd.reset_all();
        let mut seen = vec![false; count];
        for _ in 0..count {
            let received = heir.receive_and_acknowledge();
            let index: usize = received.topic["wills/".len()..].parse().expect("a number");
            assert!(!seen[index], "round {round}: will {index} came twice");
            assert_eq!(received.payload.len(), WILL_BYTES);
            seen[index] = true;
        }
        heir.expect_nothing();
    }
    assert_eq!(broker.metric("wills_published_total"), (ROUNDS * count) as u64);
    let bound = count as u64 * (SOCKET_BYTES_MAX + 2 * WILL_BYTES as u64) + SLACK;
    memory.assert_growth(bound, "wills");
    witness.finish();
    broker.stop();
}

/// R13: sessions that would be kept for ever, under new client identifiers each time.
fn sessions_are_refused_at_their_bound(transport: Transport) {
    const CONFIGURED: u64 = 400;
    // Each core gets its part and a quarter more, because hashing does not spread evenly.
    const SESSIONS_MAX: u64 = CONFIGURED + CONFIGURED / 4 + 2;
    let config = format!("[session]\nmax_sessions = {CONFIGURED}");
    let broker = Broker::start(&Options::new(transport).config(&config));
    let witness = Witness::start(broker.tcp);
    let memory = Memory::of(&broker);
    let count = scaled(1500);
    for (version, refusal) in [(Version::V5, 0x97), (Version::V311, 3)] {
        let mut crowd = Crowd::new(broker.tcp);
        let id = |index| format!("{version:?}-for-ever-{index}");
        let forever = Properties::new().four(properties::SESSION_EXPIRY, u32::MAX);
        crowd.open(count, |index| {
            let mut connect = Connect::new(version, &id(index)).durable();
            if version.is_v5() {
                connect = connect.properties(forever.clone());
            }
            connect.encode()
        });
        let mut refused = 0;
        for index in 0..count {
            let connack = crowd.next_packet(index, version);
            assert_eq!(connack.kind(), Kind::Connack);
            if connack.reason() != 0 {
                assert_eq!(connack.reason(), refusal, "{version:?}");
                refused += 1;
            }
        }
        assert!(refused >= count as u64 - SESSIONS_MAX, "{refused} refused");
        crowd.reset_all();
    }
    assert!(broker.metric("sessions") <= SESSIONS_MAX);
    assert!(broker.metric("sessions_refused_total") >= 2 * (count as u64 - SESSIONS_MAX));
    memory.assert_growth(count as u64 * SOCKET_BYTES_MAX + SLACK, "sessions for ever");
    witness.finish();
    broker.stop();
}

/// R16: one client identifier from ever new sockets, while messages flow to it. Flapping detection
/// is off by default; what must hold is that it costs bounded CPU and confuses nothing.
fn flapping_with_takeover_costs_bounded_cpu(transport: Transport) {
    let broker = Broker::on(transport);
    let witness = Witness::start(broker.tcp);
    let process = Process(broker.pid());
    let memory = Memory::of(&broker);
    let rounds = scaled(150) as u64;
    let before = process.cpu_time().expect("the broker lives");
    let options = TakeoverOptions {
        client_id: "flapper".to_owned(),
        rounds,
        sockets: 6,
        publishers: vec!["flap-publisher".to_owned()],
        bystanders: Vec::new(),
        topic: "flap".to_owned(),
        window: 4,
        patience: load::CROWD_PATIENCE,
    };
    let target = Target::new(broker.tcp, ringlane_mqtt::Version::V5);
    let outcome = takeover::run(&target, &options).expect("one connection survives each round");
    assert!(outcome.is_perfect(rounds), "{outcome:?}");
    let spent = process.cpu_time().expect("the broker lives").saturating_sub(before);
    let each = spent / u32::try_from(rounds * 6).expect("a small number");
    load::note(format!("broker CPU per connection, the witness included: {each:?}"));
    assert!(each < Duration::from_millis(20), "{each:?} of CPU per connection");
    memory.assert_growth(SLACK, "flapping");
    // The last connection is ended by one more, with a clean session.
    assert_eq!(broker.metric("session_takeovers_total"), rounds * 6 + 1);
    // A connection that ends in the middle of CONNECT leaves nothing either.
    let connect = Connect::new(Version::V5, "flapper").encode();
    let mut crowd = Crowd::new(broker.tcp);
    crowd.open(scaled(500), |index| connect[..1 + index % (connect.len() - 1)].to_vec());
    crowd.reset_all();
    let mut last = Client::plain(broker.tcp, Version::V5, "flapper");
    last.send_publish(&Publish::new("flap/last", "x").qos(1, 1));
    assert_eq!(last.read_kind(Kind::Puback).id(), 1);
    last.send(&packets::disconnect());
    broker.wait_until("only the witness is left", |broker| broker.metric("sessions") == 2);
    witness.finish();
    broker.stop();
}
