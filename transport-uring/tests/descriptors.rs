//! Accepting when descriptors have run out. Alone in its process, because it takes them all.

#![allow(clippy::unwrap_used, reason = "this is test code, though not inside a test function")]

mod support;

use ringlane_transport_uring::TransportKind;
use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};
use support::{Event, Rig, run_on_io_uring};

/// Both drivers in one test: each takes every descriptor of the process.
#[test]
fn accepting_rests_while_descriptors_are_exhausted_and_goes_on_after() {
    // Some hosts allow a thousand million.
    let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let few = rustix::process::Rlimit { current: Some(1000), maximum: allowed.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
    exhaust(TransportKind::Epoll);
    run_on_io_uring(exhaust);
}

fn exhaust(kind: TransportKind) {
    let mut rig = Rig::new(kind);
    let (mut old, old_id) = rig.connect();
    let mut files: Vec<File> = core::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(files.pop().is_some(), "at least one descriptor was free");
    // Takes the last one: the other end cannot be accepted.
    let mut client = TcpStream::connect(rig.address).unwrap();
    rig.until("the refusal", |rig| rig.counters().accepts_refused > 0);

    // The listener rests between its tries instead of spinning.
    let before = rig.counters();
    let started = Instant::now();
    let mut turns = 0;
    while started.elapsed() < Duration::from_millis(100) {
        rig.turn_waiting(Duration::from_millis(100));
        turns += 1;
    }
    assert!(turns < 50, "{turns} turns in 100 ms with a back-off of 20 ms");
    assert!(rig.counters().accepts_refused - before.accepts_refused < 25);

    // Those who are here are served meanwhile.
    old.write_all(b"still here").unwrap();
    assert_eq!(rig.until_received(old_id, 10), b"still here");

    drop(files);
    let own = client.local_addr().unwrap();
    rig.until("the accept", |rig| {
        rig.events.iter().any(|event| matches!(event, Event::Accepted(_, peer) if *peer == own))
    });
    client.write_all(b"at last").unwrap();
    let id = rig.events.iter().rev().find_map(|event| match event {
        Event::Accepted(id, peer) if *peer == own => Some(*id),
        _ => None,
    });
    assert_eq!(rig.until_received(id.unwrap(), 7), b"at last");
}
