//! Between cores: connections that move, and wake-ups.

#![allow(clippy::unwrap_used, reason = "this is test code, though not inside a test function")]

mod support;

use ringlane_dataplane::ids::{ConnectionId, CoreId, ListenerId};
use ringlane_dataplane::net::{Close, Closure, Driver, NetEvent, Sockets, Wait};
use ringlane_transport_uring::{TransportKind, Wakers};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use support::{Event, PATIENCE, Rig, quick};

on_both_drivers! {
    a_connection_moves_to_another_core_with_its_bytes,
    detach_sends_what_is_queued_first,
    detach_with_a_receive_in_flight_loses_nothing,
    a_detaching_connection_that_ends_is_closed,
    what_is_written_in_the_turn_of_the_adoption_is_sent,
    a_core_that_sleeps_is_woken_by_another,
    a_core_that_sleeps_is_woken_by_any_thread,
    a_core_wakes_the_control_thread,
    a_wait_ends_when_its_time_has_come,
    accepted_sockets_send_without_delay,
}

struct Move {
    socket: OwnedFd,
    listener: ListenerId,
    peer: SocketAddr,
    carried: Vec<u8>,
}

/// What the second core does: adopts, establishes, echoes until the peer's FIN.
fn adopt_and_echo(kind: TransportKind, wakers: Wakers, moves: &mpsc::Receiver<Move>, count: usize) {
    let mut rig = Rig::core(kind, &quick(), 1000, CoreId(1), wakers);
    let mut closed = 0;
    let deadline = Instant::now() + PATIENCE;
    while closed < count {
        assert!(Instant::now() < deadline);
        while let Ok(moved) = moves.try_recv() {
            let id = rig.sockets.adopt(moved.socket, moved.listener, moved.peer).unwrap();
            rig.sockets.establish(id);
            rig.send(id, &moved.carried);
            assert_eq!(rig.sockets.peer(id), Some(moved.peer));
        }
        rig.apply();
        let wait = Wait::Until(rig.driver.now() + Duration::from_millis(100));
        let mut on_event = |sockets: &mut Sockets, event: NetEvent<'_>| match event {
            // Within the event, as a broker does: the peer's FIN may be the next one.
            NetEvent::Received { connection, bytes } => {
                let output = sockets.output(connection).expect("an open connection");
                output.bytes.extend_from_slice(bytes);
            }
            NetEvent::Closed { cause, .. } => {
                assert_eq!(cause, Closure::Peer);
                closed += 1;
            }
            NetEvent::Accepted { .. } | NetEvent::Drained { .. } | NetEvent::Detached { .. } => {}
        };
        rig.driver.poll(&mut rig.sockets, wait, 256, &mut on_event).unwrap();
    }
    rig.apply();
}

fn a_connection_moves_to_another_core_with_its_bytes(kind: TransportKind) {
    const COUNT: usize = 50;
    let wakers = Wakers::new(3).unwrap();
    let (sender, receiver) = mpsc::channel();
    let other = wakers.clone();
    let second = std::thread::spawn(move || adopt_and_echo(kind, other, &receiver, COUNT));
    let mut rig = Rig::core(kind, &quick(), 1000, CoreId(0), wakers);
    rig.establish = false;
    let mut clients = Vec::new();
    for index in 0..COUNT {
        let (mut client, id) = rig.connect();
        client.write_all(format!("CONNECT {index} ").as_bytes()).unwrap();
        rig.until_received(id, 9);
        rig.sockets.detach(id);
        // Arrives while the connection is between the cores.
        client.write_all(b"and more, ").unwrap();
        rig.apply();
        rig.until("the move", |rig| {
            rig.count(id, |event| matches!(event, Event::Detached(..))) == 1
        });
        assert!(!rig.sockets.is_open(id));
        // A receive that was in flight may have delivered before the move.
        let carried = rig.received(id);
        for event in core::mem::take(&mut rig.events) {
            if let Event::Detached(_, socket, listener, peer) = event {
                assert_eq!(listener, ListenerId(3));
                assert_eq!(peer, client.local_addr().unwrap());
                let carried = carried.clone();
                sender.send(Move { socket, listener, peer, carried }).unwrap();
                rig.driver.wake(CoreId(1));
            }
        }
        clients.push(client);
    }
    rig.turn();
    for (index, client) in clients.iter_mut().enumerate() {
        client.write_all(b"and the end").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut all = String::new();
        client.read_to_string(&mut all).unwrap();
        assert_eq!(all, format!("CONNECT {index} and more, and the end"));
    }
    second.join().unwrap();
    assert_eq!(rig.sockets.open_count(), 0);
}

fn detach_sends_what_is_queued_first(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    rig.establish = false;
    let (mut client, id) = rig.connect();
    client.write_all(b"CONNECT").unwrap();
    rig.until_received(id, 7);
    rig.send(id, b"last words");
    rig.sockets.detach(id);
    assert!(rig.sockets.output(id).is_none(), "no output is taken any more");
    rig.apply();
    let socket = until_detached(&mut rig, id);
    let mut words = [0; 10];
    client.read_exact(&mut words).unwrap();
    assert_eq!(&words, b"last words");
    drop(socket);
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "nobody else holds the socket");
}

fn until_detached(rig: &mut Rig, id: ConnectionId) -> OwnedFd {
    rig.until("the move", |rig| rig.count(id, |event| matches!(event, Event::Detached(..))) == 1);
    let at = rig.events.iter().position(|event| matches!(event, Event::Detached(..))).unwrap();
    match rig.events.remove(at) {
        Event::Detached(_, socket, _, _) => socket,
        _ => unreachable!("the position is that of a Detached"),
    }
}

fn detach_with_a_receive_in_flight_loses_nothing(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    rig.establish = false;
    for _ in 0..50 {
        let (mut client, id) = rig.connect();
        rig.turn_waiting(Duration::ZERO);
        // The receive is armed; the bytes race the stop.
        client.write_all(b"hello").unwrap();
        rig.sockets.detach(id);
        rig.apply();
        let socket = until_detached(&mut rig, id);
        let mut seen = rig.received(id);
        let mut rest = std::net::TcpStream::from(socket);
        client.shutdown(Shutdown::Write).unwrap();
        rest.read_to_end(&mut seen).unwrap();
        assert_eq!(seen, b"hello", "delivered before the move, or still in the socket");
        rig.events.clear();
    }
}

fn a_detaching_connection_that_ends_is_closed(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    rig.establish = false;
    let (client, id) = rig.connect();
    // Too much for the socket: the move waits, and the peer never reads.
    rig.send(id, &vec![1; 32 << 20]);
    rig.sockets.detach(id);
    rig.apply();
    assert!(matches!(rig.until_closed(id), Closure::Error(libc::ETIMEDOUT)));
    drop(client);
}

fn what_is_written_in_the_turn_of_the_adoption_is_sent(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    rig.establish = false;
    for how in [None, Some(Close::Flush)] {
        let (mut client, id) = rig.connect();
        let peer = client.local_addr().unwrap();
        rig.sockets.detach(id);
        rig.apply();
        let socket = until_detached(&mut rig, id);
        let id = rig.sockets.adopt(socket, ListenerId(3), peer).unwrap();
        rig.sockets.establish(id);
        rig.send(id, b"CONNACK");
        if let Some(how) = how {
            rig.sockets.close(id, how);
        }
        rig.apply();
        rig.turn_waiting(Duration::ZERO);
        let mut connack = [0; 7];
        client.read_exact(&mut connack).unwrap();
        assert_eq!(&connack, b"CONNACK");
        if how.is_some() {
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "then FIN");
        }
        drop(client);
        rig.until_closed(id);
    }
}

fn a_core_that_sleeps_is_woken_by_another(kind: TransportKind) {
    let wakers = Wakers::new(3).unwrap();
    let (ready, is_ready) = mpsc::channel();
    let other = wakers.clone();
    let sleeper = std::thread::spawn(move || {
        let mut rig = Rig::core(kind, &quick(), 10, CoreId(1), other);
        // What is left of the set-up is taken first.
        rig.turn_waiting(Duration::ZERO);
        rig.turn_waiting(Duration::ZERO);
        for _ in 0..20 {
            ready.send(()).unwrap();
            rig.turn_waiting(Duration::from_secs(60));
        }
        rig.counters()
    });
    let mut rig = Rig::core(kind, &quick(), 10, CoreId(0), wakers);
    let started = Instant::now();
    for _ in 0..20 {
        is_ready.recv_timeout(PATIENCE).unwrap();
        // It may not have fallen asleep yet; a wake-up before that ends the sleep as well.
        rig.driver.wake(CoreId(1));
        rig.turn_waiting(Duration::ZERO);
    }
    sleeper.join().unwrap();
    assert!(started.elapsed() < Duration::from_secs(50), "woken, not timed out");
}

fn a_core_that_sleeps_is_woken_by_any_thread(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    rig.turn_waiting(Duration::ZERO);
    let started = Instant::now();
    for _ in 0..20 {
        let wakers = rig.wakers.clone();
        let waker = std::thread::spawn(move || wakers.wake(CoreId(0)));
        rig.turn_waiting(Duration::from_secs(60));
        waker.join().unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(50), "woken, not timed out");
}

fn a_core_wakes_the_control_thread(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    let before = rig.counters().system_calls;
    rig.driver.wake(CoreId(1));
    assert_eq!(rig.counters().system_calls, before + 1, "an event counter costs one call");
    assert!(rig.wakers.wait(CoreId(1), PATIENCE));
}

fn a_wait_ends_when_its_time_has_come(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    rig.turn_waiting(Duration::ZERO);
    let until = rig.driver.now() + Duration::from_millis(30);
    let mut turns = 0;
    while rig.driver.now() < until {
        rig.driver.poll(&mut rig.sockets, Wait::Until(until), 1, &mut |_, _| {}).unwrap();
        turns += 1;
    }
    assert!(turns < 5, "it sleeps instead of spinning: {turns} turns");
    let calls = rig.counters().system_calls;
    rig.driver.poll(&mut rig.sockets, Wait::Poll, 1, &mut |_, _: NetEvent<'_>| {}).unwrap();
    assert!(rig.counters().system_calls <= calls + 1);
}

fn accepted_sockets_send_without_delay(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    rig.establish = false;
    let (_client, id) = rig.connect();
    rig.sockets.detach(id);
    rig.apply();
    let socket = until_detached(&mut rig, id);
    assert!(socket2::SockRef::from(&socket.as_fd()).tcp_nodelay().unwrap());
}
