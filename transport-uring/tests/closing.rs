//! Every way in which a connection ends, and the table when it is full.

#![allow(clippy::unwrap_used, reason = "this is test code, though not inside a test function")]

mod support;

use ringlane_dataplane::net::{Close, Closure, Driver, NetEvent, Wait};
use ringlane_transport_uring::{TransportConfig, TransportKind};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};
use support::{Event, PATIENCE, Rig, message, pattern, quick};

on_both_drivers! {
    fin_comes_after_the_bytes,
    fin_lets_queued_output_out_first,
    a_reset_is_an_error_with_its_number,
    a_reset_that_a_send_meets_ends_the_connection,
    flush_delivers_the_last_bytes_while_the_peer_keeps_sending,
    flush_of_a_peer_that_reads_nothing_is_bounded,
    linger_with_a_peer_that_never_finishes_is_bounded,
    flush_of_a_paused_connection_works,
    abort_drops_what_was_queued,
    no_event_but_closed_follows_a_close,
    closing_twice_is_closing_once,
    a_slot_in_use_again_hears_nothing_of_its_past,
    a_full_table_turns_connections_away_and_recovers,
    a_dropped_driver_leaves_nothing_in_flight,
    stop_accepting_keeps_connections_and_refuses_new_ones,
}

fn fin_comes_after_the_bytes(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    for establish in [true, false] {
        rig.establish = establish;
        let (mut client, id) = rig.connect();
        let bytes = pattern(50_000, 1);
        client.write_all(&bytes).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rig.until_closed(id), Closure::Peer);
        assert!(rig.received(id) == bytes);
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "our FIN, and no reset");
    }
}

fn fin_lets_queued_output_out_first(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    let (mut client, id) = rig.connect();
    let bytes = pattern(6 << 20, 1);
    rig.send(id, &bytes);
    rig.apply();
    client.shutdown(Shutdown::Write).unwrap();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        all
    });
    assert_eq!(rig.until_closed(id), Closure::Peer);
    assert!(reader.join().unwrap() == bytes);
}

/// Closes so that the peer sees a reset: by leaving received bytes unread.
fn reset(rig: &mut Rig, client: TcpStream, id: ringlane_dataplane::ids::ConnectionId) {
    rig.send(id, b"never read");
    rig.apply();
    rig.turn();
    let mut byte = [0];
    client.peek(&mut byte).unwrap();
    drop(client);
}

fn a_reset_is_an_error_with_its_number(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    let (client, id) = rig.connect();
    reset(&mut rig, client, id);
    assert_eq!(rig.until_closed(id), Closure::Error(libc::ECONNRESET));
}

fn a_reset_that_a_send_meets_ends_the_connection(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    let (mut client, id) = rig.connect();
    rig.sockets.pause(id);
    rig.apply();
    client.write_all(b"DISCONNECT").unwrap();
    reset(&mut rig, client, id);
    // Only the send can notice while receiving is paused.
    let deadline = Instant::now() + PATIENCE;
    while rig.closed(id).is_none() {
        assert!(Instant::now() < deadline);
        if let Some(output) = rig.sockets.output(id) {
            output.bytes.extend_from_slice(b"more");
        }
        rig.apply();
        rig.turn();
    }
    assert!(matches!(rig.until_closed(id), Closure::Error(_)));
}

fn flush_delivers_the_last_bytes_while_the_peer_keeps_sending(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    for round in 0..20 {
        let (client, id) = rig.connect();
        let mut writer = client.try_clone().unwrap();
        let talker = std::thread::spawn(move || {
            // Until the broker is gone; what it answers to that does not matter here.
            while writer.write_all(&[7; 1000]).is_ok() {}
        });
        rig.until_received(id, 1000);
        let last = pattern(200_000 + round, round);
        rig.send(id, &last);
        rig.sockets.close(id, Close::Flush);
        rig.apply();
        let mut reader = client.try_clone().unwrap();
        let read = std::thread::spawn(move || {
            let mut all = vec![0; last.len()];
            reader.read_exact(&mut all).unwrap();
            assert!(all == last, "every byte");
            assert_eq!(reader.read(&mut [0]).unwrap(), 0, "then FIN");
            reader.shutdown(Shutdown::Both).unwrap();
        });
        assert_eq!(rig.until_closed(id), Closure::Local);
        read.join().unwrap();
        drop(client);
        talker.join().unwrap();
        rig.events.clear();
    }
}

fn flush_of_a_peer_that_reads_nothing_is_bounded(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    let (mut client, id) = rig.connect();
    let payload = message(&pattern(1 << 20, 1));
    for _ in 0..16 {
        rig.sockets.output(id).unwrap().push_payload(payload.clone());
    }
    rig.sockets.close(id, Close::Flush);
    rig.apply();
    assert_eq!(rig.until_closed(id), Closure::Local);
    assert!(payload.is_unique(), "nothing is kept for it");
    let mut all = Vec::new();
    let error = client.read_to_end(&mut all).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

fn linger_with_a_peer_that_never_finishes_is_bounded(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    let (mut client, id) = rig.connect();
    rig.send(id, b"bye");
    rig.sockets.close(id, Close::Flush);
    rig.apply();
    assert_eq!(rig.until_closed(id), Closure::Local);
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"bye");
}

fn flush_of_a_paused_connection_works(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    let (mut client, id) = rig.connect();
    client.write_all(&pattern(300_000, 1)).unwrap();
    rig.until("some bytes", |rig| !rig.received(id).is_empty());
    rig.sockets.pause(id);
    rig.apply();
    client.write_all(b"unread").unwrap();
    rig.send(id, b"bye");
    rig.sockets.close(id, Close::Flush);
    rig.apply();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        all
    });
    assert_eq!(rig.until_closed(id), Closure::Local);
    assert_eq!(reader.join().unwrap(), b"bye");
}

fn abort_drops_what_was_queued(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    let (mut client, id) = rig.connect();
    rig.send(id, &pattern(16 << 20, 1));
    rig.apply();
    rig.turn();
    rig.sockets.close(id, Close::Abort);
    rig.apply();
    assert_eq!(rig.until_closed(id), Closure::Local);
    let error = client.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

fn no_event_but_closed_follows_a_close(kind: TransportKind) {
    let config = TransportConfig { receive_buffer_bytes: 256, ..quick() };
    for how in [Close::Flush, Close::Abort] {
        let mut rig = Rig::with(kind, &config, 10);
        let (mut client, id) = rig.connect();
        rig.send(id, b"hello");
        client.write_all(&pattern(5000, 1)).unwrap();
        let mut after_close = Vec::new();
        let mut closed = false;
        let deadline = Instant::now() + PATIENCE;
        while rig.sockets.is_open(id) {
            assert!(Instant::now() < deadline);
            let wait = Wait::Until(rig.driver.now() + Duration::from_millis(5));
            rig.driver
                .poll(&mut rig.sockets, wait, 64, &mut |sockets, event| {
                    let end = matches!(event, NetEvent::Closed { .. });
                    if closed {
                        after_close.push(end);
                    } else if matches!(event, NetEvent::Received { .. }) {
                        sockets.close(id, how);
                        closed = true;
                    }
                })
                .unwrap();
            rig.apply();
        }
        assert_eq!(after_close, [true], "{how:?}: Closed, and nothing else");
    }
}

fn closing_twice_is_closing_once(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    let (client, id) = rig.connect();
    rig.sockets.close(id, Close::Flush);
    rig.sockets.close(id, Close::Abort);
    rig.apply();
    rig.sockets.close(id, Close::Abort);
    rig.apply();
    drop(client);
    assert_eq!(rig.until_closed(id), Closure::Local);
}

fn a_slot_in_use_again_hears_nothing_of_its_past(kind: TransportKind) {
    let mut rig = Rig::with(kind, &quick(), 1);
    let (sent, received) = (pattern(1 << 20, 1), pattern(3000, 9));
    let mut last_slot = None;
    for round in 0..200_u32 {
        let (mut client, id) = rig.connect();
        assert_eq!(last_slot.unwrap_or(id.slot), id.slot, "the only slot is used again");
        last_slot = Some(id.slot);
        assert_eq!(id.generation, round);
        // The past leaves unread bytes, an armed receive, and a send in flight.
        client.write_all(&received).unwrap();
        if round % 2 == 0 {
            rig.until("some bytes", |rig| !rig.received(id).is_empty());
            let seen = rig.received(id);
            assert_eq!(seen[..], received[..seen.len()], "round {round}");
        }
        rig.send(id, &sent);
        rig.apply();
        rig.sockets.close(id, Close::Abort);
        rig.apply();
        rig.until_closed(id);
        assert!(rig.events.iter().all(|event| event.connection() == id), "{:?}", rig.events);
        rig.events.clear();
    }
}

fn a_full_table_turns_connections_away_and_recovers(kind: TransportKind) {
    let mut rig = Rig::with(kind, &quick(), 3);
    let mut clients: Vec<_> = (0..3).map(|_| rig.connect()).collect();
    let mut refused = TcpStream::connect(rig.address).unwrap();
    refused.set_read_timeout(Some(PATIENCE)).unwrap();
    rig.until("the refusal", |rig| rig.counters().accepts_refused == 1);
    assert_eq!(refused.read(&mut [0]).unwrap_or(0), 0, "closed at once");
    let (client, id) = clients.pop().unwrap();
    drop(client);
    rig.until_closed(id);
    let (mut client, id) = rig.connect();
    client.write_all(b"welcome").unwrap();
    assert_eq!(rig.until_received(id, 7), b"welcome");
    assert_eq!(rig.sockets.open_count(), 3);
}

fn a_dropped_driver_leaves_nothing_in_flight(kind: TransportKind) {
    for zero_copy_bytes in [usize::MAX, 1000] {
        let mut rig = Rig::with(kind, &TransportConfig { zero_copy_bytes, ..quick() }, 100);
        let payload = message(&pattern(1 << 20, 1));
        let bytes = pattern(4 << 20, 2);
        let mut clients = Vec::new();
        for index in 0..20 {
            let (mut client, id) = rig.connect();
            client.write_all(&pattern(10_000, index)).unwrap();
            rig.send(id, &bytes);
            rig.sockets.output(id).unwrap().push_payload(payload.clone());
            clients.push((client, id));
        }
        rig.apply();
        rig.turn();
        rig.sockets.close(clients[0].1, Close::Abort);
        rig.sockets.close(clients[1].1, Close::Flush);
        rig.sockets.pause(clients[2].1);
        rig.apply();
        let Rig { driver, sockets, .. } = rig;
        drop(driver);
        drop(sockets);
        assert!(payload.is_unique(), "every payload in flight was given back");
        for (mut client, _) in clients {
            // Ends with FIN or a reset, but it ends.
            let _bytes_or_reset = client.read_to_end(&mut Vec::new());
        }
    }
}

fn stop_accepting_keeps_connections_and_refuses_new_ones(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    let (mut client, id) = rig.connect();
    rig.driver.stop_accepting();
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(rig.address).is_ok() {
        assert!(Instant::now() < deadline, "the port is closed");
        rig.turn();
    }
    client.write_all(b"still here").unwrap();
    assert_eq!(rig.until_received(id, 10), b"still here");
    assert_eq!(rig.count(id, |event| matches!(event, Event::Closed(..))), 0);
}
