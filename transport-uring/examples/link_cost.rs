//! What a message costs on a link between two threads, at either end, by its size.
//!
//! One thread sends as fast as there is room, 64 messages a turn, and waits where there is none; the
//! other one counts. A message is a head and, from 24 bytes on, a part of a batch. Beside it the
//! floor: the same bytes through a plain socket, in pieces of 256 KiB.
//!
//! `cargo run --release -p ringlane-transport-uring --example link_cost [seconds]`

#![expect(clippy::unwrap_used, reason = "an example that cannot measure ends")]
#![expect(clippy::print_stdout, reason = "it prints what it has measured")]

#[path = "../tests/support/links.rs"]
mod links;
#[path = "../tests/support/mod.rs"]
mod support;

use links::{Node, batches, config, head, hello};
use ringlane_dataplane::link::{Body, LinkDriver, LinkEvent, LinkId};
use ringlane_dataplane::net::{Driver, Wait};
use ringlane_transport_uring::TransportKind;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Bytes of a message: an acknowledgement, one record of 256 bytes, a full batch.
const SIZES: [usize; 3] = [48, 24 + 320, 48 * 1024];
const PIECE_BYTES: usize = 256 * 1024;

/// CPU nanoseconds of the calling thread.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// One turn, from which only what counts is kept: messages, and whether the link is over.
fn turn(node: &mut Node, wait: Wait) -> (u64, bool) {
    let (mut messages, mut is_over) = (0, false);
    node.driver.poll(&mut node.sockets, wait, 64, &mut |_, _| {}).unwrap();
    node.driver.deliver(&mut node.links, 4096, &mut |_, event| match event {
        LinkEvent::Received { .. } => messages += 1,
        LinkEvent::Down { .. } => is_over = true,
        _ => {}
    });
    finish(node);
    (messages, is_over)
}

fn finish(node: &mut Node) {
    node.driver.carry_out(&mut node.links);
    let now = node.driver.now();
    node.driver.apply(&mut node.sockets, now);
}

fn soon(node: &Node) -> Wait {
    Wait::Until(node.driver.now() + Duration::from_millis(100))
}

/// Counts until the link is over: messages, and the CPU time that they took.
fn receive(kind: TransportKind, tell: &mpsc::Sender<SocketAddr>) -> (u64, u64, u64) {
    let mut node = Node::with(kind, 2, config(2));
    tell.send(node.address).unwrap();
    node.until("the link", |node| !node.ups().is_empty());
    let (mut all, before) = (0, cpu_ns());
    loop {
        let wait = soon(&node);
        let (messages, is_over) = turn(&mut node, wait);
        all += messages;
        if is_over {
            return (all, cpu_ns() - before, node.driver.link_counters().moved_bytes);
        }
    }
}

fn connect(kind: TransportKind, address: SocketAddr) -> (Node, LinkId) {
    let mut node = Node::with(kind, 1, config(1));
    let link = node.links.connect(address, hello(1, 2)).unwrap();
    node.until("the link", |node| node.is_up(link));
    (node, link)
}

/// Sends for so long; the CPU time that it took.
fn send(node: &mut Node, link: LinkId, bytes: usize, time: Duration) -> u64 {
    let batch = batches(2000, 256).into_iter().max_by_key(|batch| batch.body().len()).unwrap();
    let body = bytes - 24;
    let parts =
        (body > 24).then(|| Body::part(batch.clone(), 0..body.min(batch.body().len()) as u32));
    let head = head(parts.as_ref().map_or(body, Body::len));
    let head = if parts.is_some() { head } else { links::message(bytes, 0) };
    let (until, before) = (Instant::now() + time, cpu_ns());
    let mut has_room = true;
    while Instant::now() < until {
        let wait = if has_room { Wait::Poll } else { soon(node) };
        turn(node, wait);
        has_room = (0..64).all(|_| node.links.send(link, &head, parts.clone()).is_ok());
        finish(node);
    }
    cpu_ns() - before
}

fn run(kind: TransportKind, bytes: usize, time: Duration) {
    let (tell, told) = mpsc::channel();
    let receiver = std::thread::spawn(move || receive(kind, &tell));
    let (mut node, link) = connect(kind, told.recv().unwrap());
    let sender_ns = send(&mut node, link, bytes, time);
    let sends = node.driver.link_counters().sends;
    drop(node);
    let (messages, receiver_ns, moved) = receiver.join().unwrap();
    let per = |ns: u64| ns as f64 / messages.max(1) as f64;
    println!(
        "{kind:>8} {bytes:>6} B: {:>9.0} messages/s, {:>7.0} ns to send, {:>7.0} ns to receive, \
         {:>5.1} messages a send, {:>4.1} % moved",
        messages as f64 / time.as_secs_f64(),
        per(sender_ns),
        per(receiver_ns),
        messages as f64 / sends.max(1) as f64,
        100.0 * moved as f64 / (messages.max(1) * bytes as u64) as f64,
    );
}

/// CPU nanoseconds per byte of both ends of a plain connection.
fn floor(time: Duration) -> (f64, f64) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let reader = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let (mut piece, mut bytes, before) = (vec![0; PIECE_BYTES], 0, cpu_ns());
        loop {
            match stream.read(&mut piece).unwrap() {
                0 => return (cpu_ns() - before) as f64 / bytes as f64,
                read => bytes += read,
            }
        }
    });
    let mut stream = TcpStream::connect(address).unwrap();
    let (piece, until, before) = (vec![7; PIECE_BYTES], Instant::now() + time, cpu_ns());
    let mut bytes = 0;
    while Instant::now() < until {
        stream.write_all(&piece).unwrap();
        bytes += piece.len();
    }
    let sender = (cpu_ns() - before) as f64 / bytes as f64;
    drop(stream);
    (sender, reader.join().unwrap())
}

fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(2.0);
    let time = Duration::from_secs_f64(seconds);
    for bytes in SIZES {
        for kind in [TransportKind::Uring, TransportKind::Epoll] {
            run(kind, bytes, time);
        }
        let (sender, receiver) = floor(time);
        let of = |per_byte: f64| per_byte * bytes as f64;
        println!(
            "   floor {bytes:>6} B: {:>32.0} ns to send, {:>7.0} ns to receive",
            of(sender),
            of(receiver)
        );
    }
}
