//! In steady state a message costs no allocation at either end of a link: counted by the allocator.

#![allow(clippy::unwrap_used, reason = "this is test code, though not inside a test function")]

#[path = "support/links.rs"]
mod links;
mod support;

use links::{Node, batches, head, message, pair};
use ringlane_dataplane::link::{Body, LinkDriver, LinkEvent, LinkId};
use ringlane_dataplane::net::{Driver, Wait};
use ringlane_transport_uring::TransportKind;

on_both_drivers! {
    a_steady_flow_allocates_nothing,
}

/// A turn that keeps nothing of what it is told.
fn turn(node: &mut Node) {
    node.driver.poll(&mut node.sockets, Wait::Poll, 64, &mut |_, _| {}).unwrap();
    node.driver.deliver(&mut node.links, 64, &mut |_, event| {
        assert!(matches!(event, LinkEvent::Received { .. } | LinkEvent::Room { .. }), "{event:?}");
    });
    node.driver.carry_out(&mut node.links);
    let now = node.driver.now();
    node.driver.apply(&mut node.sockets, now);
}

/// Small messages and large bodies, until all of them have come.
fn exchange(
    (one, dialed): (&mut Node, LinkId),
    (two, called): (&mut Node, LinkId),
    heads: &[(Vec<u8>, Body)],
    small: &[u8],
) {
    for (head, body) in heads.iter().cycle().take(400) {
        let _full = one.links.send(dialed, head, Some(body.clone()));
        let _full = two.links.send(called, small, None);
        turn(one);
        turn(two);
    }
    while one.links.unsent_bytes(dialed) + two.links.unsent_bytes(called) > 0 {
        turn(one);
        turn(two);
    }
}

fn a_steady_flow_allocates_nothing(kind: TransportKind) {
    let (mut one, dialed, mut two, called) = pair(kind);
    let heads: Vec<_> =
        batches(600, 256).into_iter().map(Body::new).map(|body| (head(body.len()), body)).collect();
    let small = message(48, 1);
    let mut round = || exchange((&mut one, dialed), (&mut two, called), &heads, &small);
    round();
    let counted = allocation_counter::measure(&mut round).count_total;
    assert_eq!(counted, 0);
    let counters = two.driver.link_counters();
    assert!(counters.received_messages > 400, "{counters:?}");
    assert!(counters.moved_bytes < counters.received_bytes / 4, "{counters:?}");
}
