//! Links whose peer is cut off without a word: two network namespaces, and the wire between them.
//!
//! Needs root and ip(8); says so where it cannot run.

#![allow(clippy::unwrap_used, reason = "this is test code, though not inside a test function")]

#[path = "support/links.rs"]
mod links;
mod support;

use links::{Node, config, message, pair_of, until};
use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::link::LinkDown;
use ringlane_transport_uring::{LinkConfig, TransportKind, Wakers, bind};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

on_both_drivers! {
    a_silent_cut_with_nothing_under_way_is_noticed_by_both,
    a_silent_cut_under_load_is_noticed,
    a_dial_into_a_cut_is_given_up_and_succeeds_once_it_is_over,
}

/// Two network namespaces with one wire between them; this thread is in the first.
struct Wire {
    names: [String; 2],
    before: File,
}

impl Wire {
    /// `None` where this process may not.
    #[allow(clippy::print_stderr, reason = "a test that cannot run says so")]
    fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let names = ["a", "b"].map(|end| format!("rl-{}-{number}-{end}", std::process::id()));
        let before = File::open("/proc/thread-self/ns/net").unwrap();
        if !ip(&["netns", "add", &names[0]]) {
            eprintln!("NOT RUN: no network namespaces (root and iproute2 are needed)");
            return None;
        }
        let wire = Self { names, before };
        let [a, b] = &wire.names;
        assert!(ip(&["netns", "add", b]));
        assert!(ip(&["-n", a, "link", "add", "v0", "type", "veth", "peer", "v0", "netns", b]));
        for (name, address) in [(a, "10.231.0.1/24"), (b, "10.231.0.2/24")] {
            assert!(ip(&["-n", name, "link", "set", "lo", "up"]));
            assert!(ip(&["-n", name, "address", "add", address, "dev", "v0"]));
            assert!(ip(&["-n", name, "link", "set", "v0", "up"]));
        }
        Some(wire)
    }

    fn enter(&self, end: usize) {
        let file = File::open(format!("/run/netns/{}", self.names[end])).unwrap();
        enter(&file);
    }

    /// Cuts it, or mends it. The first end notices nothing.
    fn set(&self, is_whole: bool) {
        let state = if is_whole { "up" } else { "down" };
        assert!(ip(&["-n", &self.names[1], "link", "set", "v0", state]));
    }

    /// Node 1 at the first end and node 2 at the other.
    fn nodes(&self, kind: TransportKind, config: impl Fn(u16) -> LinkConfig) -> (Node, Node) {
        self.enter(1);
        let address = SocketAddr::from(([10, 231, 0, 2], 7000));
        let listener = bind(address, 1, 16).unwrap().remove(0);
        let wakers = Wakers::new(2).unwrap();
        let two = Node::core(kind, (2, CoreId(0)), config(2), listener, wakers);
        self.enter(0);
        (Node::with(kind, 1, config(1)), two)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        enter(&self.before);
        for name in &self.names {
            ip(&["netns", "delete", name]);
        }
    }
}

fn enter(namespace: &File) {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

fn ip(arguments: &[&str]) -> bool {
    let command = Command::new("ip").args(arguments).stderr(Stdio::null()).status();
    command.is_ok_and(|status| status.success())
}

fn impatient(number: u16) -> LinkConfig {
    LinkConfig { silence: Duration::from_millis(500), ..config(number) }
}

/// What the kernel says of a peer that does not answer.
fn is_silence(cause: Option<LinkDown>) -> bool {
    let errors = [libc::ETIMEDOUT, libc::EHOSTUNREACH, libc::ENETUNREACH];
    matches!(cause, Some(LinkDown::Error(errno)) if errors.contains(&errno))
}

fn a_silent_cut_with_nothing_under_way_is_noticed_by_both(kind: TransportKind) {
    let Some(wire) = Wire::new() else { return };
    let (one, two) = wire.nodes(kind, impatient);
    let (mut one, dialed, mut two, called) = pair_of(one, two);
    wire.set(false);
    until("the end", &mut one, &mut two, |one, two| {
        one.down(dialed).is_some() && two.down(called).is_some()
    });
    assert!(is_silence(one.down(dialed)), "{:?}", one.down(dialed));
    assert!(is_silence(two.down(called)), "{:?}", two.down(called));
    wire.set(true);
    let again = one.dial(&two);
    until("the link", &mut one, &mut two, |one, _| one.is_up(again) || one.down(again).is_some());
    assert!(one.is_up(again));
}

fn a_silent_cut_under_load_is_noticed(kind: TransportKind) {
    let Some(wire) = Wire::new() else { return };
    let (one, two) = wire.nodes(kind, impatient);
    let (mut one, dialed, mut two, called) = pair_of(one, two);
    let large = message(100_000, 1);
    let (mut sent, mut is_cut) = (0u64, false);
    until("the end", &mut one, &mut two, |one, two| {
        sent += u64::from(one.links.send(dialed, &large, None).is_ok());
        if !is_cut && two.received(called).len() > 1_000_000 {
            wire.set(false);
            is_cut = true;
        }
        two.seen.truncate(100);
        one.down(dialed).is_some()
    });
    assert!(is_cut && is_silence(one.down(dialed)), "{:?}", one.down(dialed));
    assert!(sent > 10);
}

fn a_dial_into_a_cut_is_given_up_and_succeeds_once_it_is_over(kind: TransportKind) {
    let Some(wire) = Wire::new() else { return };
    let times = |number| LinkConfig {
        connect_timeout: Duration::from_millis(50),
        dial_timeout: Duration::from_millis(400),
        ..impatient(number)
    };
    let (mut one, mut two) = wire.nodes(kind, times);
    wire.set(false);
    let link = one.dial(&two);
    one.until("the end", |one| one.down(link).is_some());
    assert!(matches!(one.down(link), Some(LinkDown::Unreachable(_))), "{:?}", one.down(link));
    wire.set(true);
    let mut link = one.dial(&two);
    until("the link", &mut one, &mut two, |one, two| {
        if one.down(link).is_some() {
            link = one.dial(two);
        }
        one.is_up(link)
    });
}
