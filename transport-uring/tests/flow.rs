//! Bytes in and out: echo, many connections, coalescing, short writes, pauses, shortages.

#![allow(clippy::unwrap_used, reason = "this is test code, though not inside a test function")]

mod support;

use ringlane_dataplane::net::{Closure, Driver};
use ringlane_transport_uring::{TransportConfig, TransportKind};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;
use support::{Event, Rig, message, pattern, quick};

on_both_drivers! {
    bytes_come_back_as_they_went,
    a_greeting_receives_once_per_turn_and_then_goes_on,
    a_hundred_connections_keep_their_bytes_apart,
    what_one_turn_writes_is_one_send,
    a_slow_reader_gets_every_byte_in_order,
    shared_payloads_and_bytes_keep_their_order_over_short_writes,
    more_payloads_than_one_send_can_name_arrive,
    output_during_a_send_goes_out_after_it,
    drained_says_that_nothing_is_left,
    a_paused_connection_delivers_nothing_until_it_is_resumed,
    a_pause_inside_an_event_holds_back_what_follows,
    a_pause_in_the_greeting_holds_too,
    few_events_per_turn_lose_nothing,
    few_receive_buffers_lose_nothing,
    a_shortage_under_load_silences_nobody,
    a_small_ring_loses_nothing,
}

fn echo(rig: &mut Rig) {
    let received: Vec<_> = rig
        .events
        .drain(..)
        .filter_map(|event| match event {
            Event::Received(id, bytes) => Some((id, bytes)),
            _ => None,
        })
        .collect();
    for (id, bytes) in received {
        rig.send(id, &bytes);
    }
}

fn bytes_come_back_as_they_went(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    let (mut client, id) = rig.connect();
    for round in 0..50 {
        let bytes = pattern(round * 37 + 1, round);
        client.write_all(&bytes).unwrap();
        assert_eq!(rig.until_received(id, bytes.len()), bytes);
        echo(&mut rig);
        rig.apply();
        rig.turn_waiting(Duration::ZERO);
        let mut back = vec![0; bytes.len()];
        client.read_exact(&mut back).unwrap();
        assert_eq!(back, bytes);
        rig.events.clear();
    }
    let counters = rig.counters();
    assert_eq!(counters.received_bytes, counters.sent_bytes);
    assert_eq!(counters.accepts_refused, 0);
}

fn a_greeting_receives_once_per_turn_and_then_goes_on(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    rig.establish = false;
    let (mut client, id) = rig.connect();
    client.write_all(b"CONN").unwrap();
    assert_eq!(rig.until_received(id, 4), b"CONN");
    client.write_all(b"ECT").unwrap();
    assert_eq!(rig.until_received(id, 7), b"CONNECT");
    rig.sockets.establish(id);
    rig.apply();
    for round in 1..=20 {
        client.write_all(b"more").unwrap();
        rig.until_received(id, 7 + 4 * round);
    }
    assert_eq!(rig.received(id).len(), 87);
}

fn a_hundred_connections_keep_their_bytes_apart(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    let mut clients: Vec<_> = (0..100).map(|_| rig.connect()).collect();
    assert_eq!(rig.sockets.open_count(), 100);
    for (index, (client, _)) in clients.iter_mut().enumerate() {
        client.write_all(&pattern(3000, index)).unwrap();
    }
    for (index, (_, id)) in clients.iter().enumerate() {
        assert_eq!(rig.until_received(*id, 3000), pattern(3000, index));
    }
    for (index, (_, id)) in clients.iter().enumerate() {
        rig.send(*id, &pattern(2000, index + 7));
    }
    rig.apply();
    rig.turn();
    for (index, (client, _)) in clients.iter_mut().enumerate() {
        let mut bytes = vec![0; 2000];
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, pattern(2000, index + 7));
    }
    for (client, id) in clients {
        drop(client);
        assert_eq!(rig.until_closed(id), Closure::Peer);
    }
    assert_eq!(rig.sockets.open_count(), 0);
}

fn what_one_turn_writes_is_one_send(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    let (mut client, id) = rig.connect();
    rig.turn();
    let before = rig.counters();
    for _ in 0..100 {
        rig.send(id, b"0123456789");
    }
    rig.apply();
    rig.until("drained", |rig| rig.count(id, |event| matches!(event, Event::Drained(_))) == 1);
    let after = rig.counters();
    assert_eq!(after.sent_bytes - before.sent_bytes, 1000);
    // epoll: one send, and the waits; io_uring: the send is in the wait.
    assert!(after.system_calls - before.system_calls <= 3, "{before:?} {after:?}");
    let mut bytes = [0; 1000];
    client.read_exact(&mut bytes).unwrap();
    assert!(bytes.chunks(10).all(|chunk| chunk == b"0123456789"));
}

/// Reads in small steps in the background, until the end.
fn read_slowly(mut client: TcpStream) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let mut step = [0; 8192];
        loop {
            match client.read(&mut step).unwrap() {
                0 => return all,
                bytes => all.extend_from_slice(&step[..bytes]),
            }
        }
    })
}

fn a_slow_reader_gets_every_byte_in_order(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    let (client, id) = rig.connect();
    let bytes = pattern(12 << 20, 1);
    rig.send(id, &bytes);
    rig.apply();
    rig.turn_for(Duration::from_millis(50));
    assert!(rig.sockets.unsent_bytes(id) > 0, "the socket buffer is smaller than that");
    assert!(rig.sockets.unsent_bytes(id) < bytes.len(), "what the kernel took is booked");
    let reader = read_slowly(client);
    rig.until("drained", |rig| rig.count(id, |event| matches!(event, Event::Drained(_))) > 0);
    assert_eq!(rig.sockets.unsent_bytes(id), 0);
    rig.sockets.close(id, ringlane_dataplane::net::Close::Flush);
    rig.until_closed(id);
    assert!(reader.join().unwrap() == bytes, "every byte in order");
}

fn shared_payloads_and_bytes_keep_their_order_over_short_writes(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    let (client, id) = rig.connect();
    let payload = message(&pattern(100_000, 5));
    let mut expected = Vec::new();
    let output = rig.sockets.output(id).unwrap();
    for index in 0..60 {
        let head = pattern(1 + index * 3, index);
        output.bytes.extend_from_slice(&head);
        output.push_payload(payload.clone());
        expected.extend_from_slice(&head);
        expected.extend_from_slice(payload.payload());
    }
    output.bytes.extend_from_slice(b"end");
    expected.extend_from_slice(b"end");
    rig.apply();
    rig.turn_for(Duration::from_millis(50));
    assert!(!payload.is_unique(), "the driver holds the payload while it sends");
    let reader = read_slowly(client);
    rig.until("drained", |rig| rig.count(id, |event| matches!(event, Event::Drained(_))) > 0);
    assert!(payload.is_unique(), "and gives it back");
    rig.sockets.close(id, ringlane_dataplane::net::Close::Flush);
    rig.until_closed(id);
    assert!(reader.join().unwrap() == expected, "every byte in order");
}

fn more_payloads_than_one_send_can_name_arrive(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    let (mut client, id) = rig.connect();
    let output = rig.sockets.output(id).unwrap();
    let mut expected = Vec::new();
    for index in 0..1000_usize {
        output.bytes.extend_from_slice(&index.to_le_bytes());
        output.push_payload(message(&pattern(index % 7, index)));
        expected.extend_from_slice(&index.to_le_bytes());
        expected.extend_from_slice(&pattern(index % 7, index));
    }
    rig.apply();
    rig.until("drained", |rig| rig.count(id, |event| matches!(event, Event::Drained(_))) > 0);
    let mut bytes = vec![0; expected.len()];
    client.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, expected);
}

fn output_during_a_send_goes_out_after_it(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    let (client, id) = rig.connect();
    let first = pattern(8 << 20, 1);
    rig.send(id, &first);
    rig.apply();
    rig.turn();
    let second = pattern(100_000, 2);
    for chunk in second.chunks(1000) {
        rig.send(id, chunk);
        rig.apply();
        rig.turn_waiting(Duration::ZERO);
    }
    assert!(rig.sockets.unsent_bytes(id) > second.len());
    let reader = read_slowly(client);
    rig.sockets.close(id, ringlane_dataplane::net::Close::Flush);
    rig.until_closed(id);
    let all = reader.join().unwrap();
    assert!(all[..first.len()] == first, "the first output");
    assert!(all[first.len()..] == second, "and what was written meanwhile");
}

fn drained_says_that_nothing_is_left(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    let (client, id) = rig.connect();
    rig.send(id, &pattern(8 << 20, 1));
    rig.apply();
    rig.turn_for(Duration::from_millis(30));
    assert_eq!(rig.count(id, |event| matches!(event, Event::Drained(_))), 0);
    let reader = read_slowly(client);
    rig.until("drained", |rig| rig.count(id, |event| matches!(event, Event::Drained(_))) == 1);
    assert_eq!(rig.sockets.unsent_bytes(id), 0);
    rig.turn_for(Duration::from_millis(30));
    assert_eq!(rig.count(id, |event| matches!(event, Event::Drained(_))), 1);
    drop(rig);
    assert_eq!(reader.join().unwrap().len(), 8 << 20);
}

fn a_paused_connection_delivers_nothing_until_it_is_resumed(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    let (mut client, id) = rig.connect();
    let (mut other, other_id) = rig.connect();
    client.write_all(b"before").unwrap();
    rig.until_received(id, 6);
    for round in 1..=20 {
        rig.sockets.pause(id);
        // Races the stop on purpose: these bytes may be with the driver already.
        client.write_all(b"between").unwrap();
        rig.apply();
        let seen = rig.received(id).len();
        client.write_all(b"later").unwrap();
        other.write_all(b"x").unwrap();
        rig.until_received(other_id, round);
        assert_eq!(rig.received(id).len(), seen, "nothing while paused");
        rig.sockets.resume(id);
        rig.apply();
        rig.until_received(id, 6 + round * 12);
    }
    let expected = format!("before{}", "betweenlater".repeat(20));
    assert_eq!(rig.received(id), expected.as_bytes());
    rig.sockets.pause(id);
    rig.apply();
    client.write_all(b"last").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    rig.turn_for(Duration::from_millis(30));
    assert_eq!(rig.received(id).len(), expected.len());
    rig.sockets.resume(id);
    rig.apply();
    assert_eq!(rig.until_closed(id), Closure::Peer);
    assert!(rig.received(id).ends_with(b"last"), "bytes before FIN are delivered before Closed");
}

fn a_pause_inside_an_event_holds_back_what_follows(kind: TransportKind) {
    // Small buffers: what comes at once is many events of one turn.
    let config = TransportConfig { receive_buffer_bytes: 256, ..quick() };
    let mut rig = Rig::with(kind, &config, 10);
    let (mut client, id) = rig.connect();
    let bytes = pattern(200_000, 3);
    client.write_all(&bytes).unwrap();
    let mut seen = Vec::new();
    let mut pauses = 0;
    let deadline = std::time::Instant::now() + support::PATIENCE;
    while seen.len() < bytes.len() {
        assert!(std::time::Instant::now() < deadline);
        let until = rig.driver.now() + Duration::from_millis(5);
        let mut paused = rig.sockets.is_paused(id);
        let wait = ringlane_dataplane::net::Wait::Until(until);
        rig.driver
            .poll(&mut rig.sockets, wait, 64, &mut |sockets, event| {
                if let ringlane_dataplane::net::NetEvent::Received { bytes, .. } = event {
                    assert!(!paused, "no bytes after the pause");
                    seen.extend_from_slice(bytes);
                    sockets.pause(id);
                    pauses += 1;
                    paused = true;
                }
            })
            .unwrap();
        rig.apply();
        if paused {
            rig.sockets.resume(id);
            rig.apply();
        }
    }
    assert!(pauses > 1);
    assert!(seen == bytes, "every byte in order");
}

fn a_pause_in_the_greeting_holds_too(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    rig.establish = false;
    let (mut client, id) = rig.connect();
    rig.sockets.pause(id);
    rig.apply();
    client.write_all(b"hello").unwrap();
    rig.turn_for(Duration::from_millis(30));
    assert_eq!(rig.received(id), b"");
    rig.sockets.resume(id);
    rig.apply();
    assert_eq!(rig.until_received(id, 5), b"hello");
}

fn few_events_per_turn_lose_nothing(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    rig.events_max = 2;
    let mut clients: Vec<_> = (0..20).map(|_| rig.connect()).collect();
    for (client, _) in &mut clients {
        client.write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    }
    for (_, id) in &clients {
        assert_eq!(rig.until_closed(*id), Closure::Peer);
        assert_eq!(rig.received(*id), b"hello");
    }
    assert_eq!(rig.sockets.open_count(), 0);
}

fn few_receive_buffers_lose_nothing(kind: TransportKind) {
    let config = TransportConfig { receive_buffers: 8, receive_buffer_bytes: 256, ..quick() };
    let mut rig = Rig::with(kind, &config, 100);
    let mut clients: Vec<_> = (0..10).map(|_| rig.connect()).collect();
    for (index, (client, _)) in clients.iter_mut().enumerate() {
        client.write_all(&pattern(20_000, index)).unwrap();
    }
    for (index, (_, id)) in clients.iter().enumerate() {
        assert_eq!(rig.until_received(*id, 20_000), pattern(20_000, index));
    }
    let shortages = rig.counters().buffer_shortages;
    match kind {
        TransportKind::Uring => assert!(shortages > 0, "8 buffers of 256 bytes run out"),
        TransportKind::Epoll => assert_eq!(shortages, 0),
    }
}

/// All clients send without end, so that every buffer is taken and completions are left behind in
/// every turn; each of them must go on all the same.
fn a_shortage_under_load_silences_nobody(kind: TransportKind) {
    let config = TransportConfig { receive_buffers: 8, receive_buffer_bytes: 256, ..quick() };
    let mut rig = Rig::with(kind, &config, 100);
    let mut clients: Vec<_> = (0..60).map(|_| rig.connect()).collect();
    rig.events_max = 2;
    let mut taken = vec![0; clients.len()];
    for _ in 0..2 {
        for _ in 0..600 {
            for (client, _) in &mut clients {
                client.set_nonblocking(true).unwrap();
                // What does not fit now is not needed.
                let _ = client.write(&[7; 4096]);
            }
            rig.turn_waiting(Duration::ZERO);
        }
        for ((_, id), before) in clients.iter().zip(&mut taken) {
            let now = rig.received(*id).len();
            assert!(now > *before, "{id:?} got nothing further: {before} bytes");
            *before = now;
        }
    }
}

fn a_small_ring_loses_nothing(kind: TransportKind) {
    let config = TransportConfig { ring_entries: 8, ..quick() };
    let mut rig = Rig::with(kind, &config, 200);
    let mut clients: Vec<_> = (0..120).map(|_| rig.connect()).collect();
    for round in 0..5 {
        for (index, (client, id)) in clients.iter_mut().enumerate() {
            client.write_all(&pattern(100, index + round)).unwrap();
            rig.send(*id, &pattern(50, index + round));
        }
        rig.apply();
        for (index, (client, id)) in clients.iter_mut().enumerate() {
            let bytes = rig.until_received(*id, 100 * (round + 1));
            assert_eq!(bytes[100 * round..], pattern(100, index + round));
            let mut back = [0; 50];
            client.read_exact(&mut back).unwrap();
            assert_eq!(back[..], pattern(50, index + round));
        }
    }
    drop(clients);
    rig.until("all closed", |rig| rig.sockets.open_count() == 0);
}
