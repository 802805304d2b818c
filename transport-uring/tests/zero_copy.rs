//! Zero-copy sends: exact bytes, memory given back, and copies where the bound is reached. On
//! epoll the threshold changes nothing, and the tests say the same.

#![allow(clippy::unwrap_used, reason = "this is test code, though not inside a test function")]

mod support;

use ringlane_dataplane::net::{Close, Closure};
use ringlane_transport_uring::{TransportConfig, TransportKind};
use std::io::Read;
use support::{Event, Rig, message, pattern, quick};

on_both_drivers! {
    large_sends_arrive_exactly_and_are_given_back,
    at_the_bound_of_pending_sends_the_rest_is_copied,
    a_close_with_notices_pending_keeps_the_bytes_until_they_come,
}

fn zero_copy(pending_max: u16) -> TransportConfig {
    TransportConfig { zero_copy_bytes: 1000, zero_copy_pending_max: pending_max, ..quick() }
}

fn large_sends_arrive_exactly_and_are_given_back(kind: TransportKind) {
    // More than there are sends, however late the notices come.
    let mut rig = Rig::with(kind, &zero_copy(1024), 10);
    let (mut client, id) = rig.connect();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        all
    });
    let payload = message(&pattern(50_000, 5));
    let plain = pattern(30_000, 6);
    let mut expected = Vec::new();
    for round in 0..200 {
        let output = rig.sockets.output(id).unwrap();
        match round % 4 {
            0 => {
                output.bytes.extend_from_slice(&plain);
                expected.extend_from_slice(&plain);
            }
            1 => {
                output.bytes.extend_from_slice(b"small");
                expected.extend_from_slice(b"small");
            }
            _ => {
                output.bytes.extend_from_slice(b"head");
                output.push_payload(payload.clone());
                output.bytes.extend_from_slice(b"tail");
                expected.extend_from_slice(b"head");
                expected.extend_from_slice(payload.payload());
                expected.extend_from_slice(b"tail");
            }
        }
        rig.apply();
        let drained = round + 1;
        rig.until("drained", |rig| {
            rig.count(id, |event| matches!(event, Event::Drained(_))) == drained
        });
        assert_eq!(rig.sockets.unsent_bytes(id), 0);
    }
    rig.until("the payload back", |_| payload.is_unique());
    let sends = rig.counters().zero_copy_sends;
    match kind {
        TransportKind::Uring => assert!(sends >= 150, "{sends}"),
        TransportKind::Epoll => assert_eq!(sends, 0),
    }
    rig.sockets.close(id, Close::Flush);
    rig.apply();
    assert_eq!(rig.until_closed(id), Closure::Local);
    assert!(reader.join().unwrap() == expected, "every byte in order");
}

fn at_the_bound_of_pending_sends_the_rest_is_copied(kind: TransportKind) {
    let mut rig = Rig::with(kind, &zero_copy(1), 10);
    let mut clients: Vec<_> = (0..5).map(|_| rig.connect()).collect();
    let bytes = pattern(20_000, 1);
    for (_, id) in &clients {
        rig.send(*id, &bytes);
    }
    rig.apply();
    for (client, _) in &mut clients {
        rig.turn();
        let mut all = vec![0; bytes.len()];
        client.read_exact(&mut all).unwrap();
        assert!(all == bytes);
    }
    let sends = rig.counters().zero_copy_sends;
    assert!(sends <= 1, "{sends}");
}

fn a_close_with_notices_pending_keeps_the_bytes_until_they_come(kind: TransportKind) {
    let mut rig = Rig::with(kind, &zero_copy(64), 10);
    for how in [Close::Abort, Close::Flush] {
        let (client, id) = rig.connect();
        let payload = message(&pattern(2 << 20, 1));
        for _ in 0..4 {
            rig.sockets.output(id).unwrap().push_payload(payload.clone());
        }
        rig.apply();
        rig.turn();
        rig.sockets.close(id, how);
        rig.apply();
        assert_eq!(rig.until_closed(id), Closure::Local);
        rig.until("the payload back", |_| payload.is_unique());
        drop(client);
    }
}
