//! Received bytes that go on from where they lie: exact, whatever else is received meanwhile, and
//! copied where too many would be kept.

#![allow(clippy::unwrap_used, reason = "this is test code, though not inside a test function")]

mod support;

use ringlane_dataplane::ids::ConnectionId;
use ringlane_dataplane::net::{Driver, NetEvent, Wait};
use ringlane_transport_uring::TransportKind;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};
use support::{PATIENCE, Rig, pattern, quick};

on_both_drivers! {
    forwarded_bytes_arrive_exactly,
    peers_that_do_not_read_keep_no_buffers_from_the_others,
    bytes_in_an_output_outlive_the_driver,
}

/// One client that sends all of its bytes, and one that what comes from it goes to.
struct Flow {
    from: ConnectionId,
    to: ConnectionId,
    sender: TcpStream,
    reader: TcpStream,
    bytes: Vec<u8>,
    forwarded: usize,
}

fn flow(rig: &mut Rig, bytes: usize, seed: usize) -> Flow {
    let (sender, from) = rig.connect();
    let (reader, to) = rig.connect();
    Flow { from, to, sender, reader, bytes: pattern(bytes, seed), forwarded: 0 }
}

/// Flows whose clients begin to send when all are there.
fn flows(rig: &mut Rig, count: usize, bytes: usize) -> Vec<Flow> {
    let flows: Vec<_> = (0..count).map(|seed| flow(rig, bytes, seed)).collect();
    for flow in &flows {
        let (mut sender, bytes) = (flow.sender.try_clone().unwrap(), flow.bytes.clone());
        spawn(move || sender.write_all(&bytes));
    }
    flows
}

/// A turn in which everything received goes on; returns how many bytes went without a copy.
fn forward(rig: &mut Rig, flows: &mut [Flow]) -> usize {
    let until = rig.driver.now() + Duration::from_millis(5);
    let mut shared = 0;
    rig.driver
        .poll(&mut rig.sockets, Wait::Until(until), 256, &mut |sockets, event| {
            let NetEvent::Received { connection, bytes } = event else { return };
            let flow = flows.iter_mut().find(|flow| flow.from == connection).unwrap();
            let parts_before = sockets.output(flow.to).unwrap().shared().len();
            assert!(sockets.forward(flow.to, bytes));
            flow.forwarded += bytes.len();
            let parts = sockets.output(flow.to).unwrap().shared();
            shared += if parts.len() > parts_before { bytes.len() } else { 0 };
        })
        .unwrap();
    rig.apply();
    shared
}

/// Turns until everything was forwarded and `done`.
fn forward_all(rig: &mut Rig, flows: &mut [Flow], done: impl Fn(&Rig) -> bool) -> usize {
    let mut deadline = Instant::now() + PATIENCE;
    let (mut shared, mut left_before) = (0, usize::MAX);
    loop {
        let left: usize = flows.iter().map(|flow| flow.bytes.len() - flow.forwarded).sum();
        if left == 0 && done(rig) {
            return shared;
        }
        if left < left_before {
            deadline = Instant::now() + PATIENCE;
            left_before = left;
        }
        assert!(Instant::now() < deadline, "bytes do not come");
        shared += forward(rig, flows);
    }
}

fn read_all(flow: &Flow) -> JoinHandle<bool> {
    let (mut reader, expected) = (flow.reader.try_clone().unwrap(), flow.bytes.clone());
    spawn(move || {
        let mut seen = vec![0; expected.len()];
        reader.read_exact(&mut seen).unwrap();
        seen == expected
    })
}

fn forwarded_bytes_arrive_exactly(kind: TransportKind) {
    let mut rig = Rig::with(kind, &quick(), 10);
    let mut flows = flows(&mut rig, 3, 4_000_000);
    let readers: Vec<_> = flows.iter().map(read_all).collect();
    let to: Vec<_> = flows.iter().map(|flow| flow.to).collect();
    let all_sent = |rig: &Rig| to.iter().all(|to| rig.sockets.unsent_bytes(*to) == 0);
    let shared = forward_all(&mut rig, &mut flows, all_sent);
    assert!(shared > 1_000_000, "{shared} bytes of 12,000,000 were not copied");
    for reader in readers {
        assert!(reader.join().unwrap(), "every byte in order");
    }
}

fn peers_that_do_not_read_keep_no_buffers_from_the_others(kind: TransportKind) {
    let mut rig = Rig::with(kind, &quick(), 100);
    // More than the kernel keeps for a peer that does not read.
    let mut stuck = flows(&mut rig, 10, 5_000_000);
    let to: Vec<_> = stuck.iter().map(|flow| flow.to).collect();
    forward_all(&mut rig, &mut stuck, |_| true);
    assert!(to.iter().any(|to| rig.sockets.unsent_bytes(*to) > 0), "somebody is stuck");
    let mut others = flows(&mut rig, 1, 4_000_000);
    let reader = read_all(&others[0]);
    let other = others[0].to;
    forward_all(&mut rig, &mut others, |rig| rig.sockets.unsent_bytes(other) == 0);
    assert!(reader.join().unwrap(), "every byte in order");
    let readers: Vec<_> = stuck.iter().map(read_all).collect();
    forward_all(&mut rig, &mut stuck, |rig| to.iter().all(|to| rig.sockets.unsent_bytes(*to) == 0));
    for reader in readers {
        assert!(reader.join().unwrap(), "what was kept is as it came");
    }
}

fn bytes_in_an_output_outlive_the_driver(kind: TransportKind) {
    let mut rig = Rig::with(kind, &quick(), 10);
    let mut flows = flows(&mut rig, 1, 3_000_000);
    let to = flows[0].to;
    let mut before = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while before.is_empty() {
        assert!(Instant::now() < deadline, "nothing is forwarded without a copy");
        let until = rig.driver.now() + Duration::from_millis(5);
        rig.driver
            .poll(&mut rig.sockets, Wait::Until(until), 256, &mut |sockets, event| {
                let NetEvent::Received { bytes, .. } = event else { return };
                flows[0].forwarded += bytes.len();
                if before.is_empty() {
                    sockets.forward(to, bytes);
                    let kept = !sockets.output(to).unwrap().shared().is_empty();
                    before.extend_from_slice(if kept { bytes } else { &[] });
                }
            })
            .unwrap();
        if before.is_empty() {
            rig.apply();
        }
    }
    let Rig { driver, mut sockets, .. } = rig;
    drop(driver);
    let parts = sockets.output(to).unwrap().shared();
    assert!(parts[0].bytes.as_slice() == before, "as it was received");
}
