//! A relay without a protocol: what one core's driver costs per message, and its system calls.
//!
//! 64 pairs of connections; what a publisher sends goes to its subscriber. The generator keeps a
//! window of messages per pair in flight. The last line can be checked against
//! `strace -f -c`, or with `strace -f -o FILE` and the thread number that is printed.
//!
//! `cargo run --release -p ringlane-transport-uring --example relay -- KIND [WINDOW [ROUNDS [GATHER [SPIN]]]]`
//! with KIND `uring` or `epoll`. Two more arguments are the time that completions may gather and
//! the time to poll before sleeping, both in microseconds.

use core::time::Duration;
use ringlane_dataplane::ids::{ConnectionId, CoreId, ListenerId};
use ringlane_dataplane::net::{Close, Driver, NetEvent, Sockets, Wait};
use ringlane_transport_uring::{
    AnyDriver, TransportChoice, TransportConfig, Wakers, bind, choose, open, probe,
};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

const PAIRS: usize = 64;
const GENERATORS: usize = 4;
/// A QoS 0 PUBLISH with 64 bytes of payload.
const MESSAGE_BYTES: usize = 73;

type Failure = Box<dyn core::error::Error + Send + Sync>;

/// Keeps a share of the pairs busy. The first byte of a connection says what it is.
fn generate(address: SocketAddr, window: usize, rounds: usize) -> io::Result<()> {
    let mut pairs = Vec::new();
    for _ in 0..PAIRS / GENERATORS {
        let mut subscriber = TcpStream::connect(address)?;
        let mut publisher = TcpStream::connect(address)?;
        publisher.set_nodelay(true)?;
        let port = subscriber.local_addr()?.port().to_le_bytes();
        subscriber.write_all(&[b's', 0, 0])?;
        publisher.write_all(&[b'p', port[0], port[1]])?;
        // The relay answers when it knows both.
        publisher.read_exact(&mut [0])?;
        pairs.push((publisher, subscriber));
    }
    let message = [1; MESSAGE_BYTES];
    let mut into = vec![0; MESSAGE_BYTES * window];
    for _ in 0..rounds {
        for (publisher, _) in &mut pairs {
            for _ in 0..window {
                publisher.write_all(&message)?;
            }
        }
        for (_, subscriber) in &mut pairs {
            subscriber.read_exact(&mut into)?;
        }
    }
    Ok(())
}

/// Who sends to whom, by slot.
#[derive(Default)]
struct Relay {
    ports: Vec<(u16, ConnectionId)>,
    targets: Vec<Option<ConnectionId>>,
    bytes: u64,
    open: usize,
    seen: usize,
}

impl Relay {
    fn on_event(&mut self, sockets: &mut Sockets, event: NetEvent<'_>) {
        match event {
            NetEvent::Accepted { connection, peer, .. } => {
                self.open += 1;
                self.seen += 1;
                self.ports.push((peer.port(), connection));
                // The slot may have been another's before.
                self.targets.resize(self.targets.len().max(connection.index() + 1), None);
                self.targets[connection.index()] = None;
            }
            NetEvent::Received { connection, bytes } => self.on_bytes(sockets, connection, bytes),
            NetEvent::Closed { .. } => self.open -= 1,
            NetEvent::Drained { .. } | NetEvent::Detached { .. } => {}
        }
    }

    fn on_bytes(&mut self, sockets: &mut Sockets, from: ConnectionId, bytes: &[u8]) {
        if let Some(Some(target)) = self.targets.get(from.index()) {
            self.bytes += bytes.len() as u64;
            if let Some(output) = sockets.output(*target) {
                output.bytes.extend_from_slice(bytes);
            }
            return;
        }
        sockets.establish(from);
        let [b'p', low, high] = bytes else { return };
        let port = u16::from_le_bytes([*low, *high]);
        let target = self.ports.iter().rev().find(|entry| entry.0 == port).map(|entry| entry.1);
        self.targets[from.index()] = target;
        match (target, sockets.output(from)) {
            (Some(_), Some(output)) => output.bytes.push(1),
            _ => sockets.close(from, Close::Abort),
        }
    }
}

fn cpu_ns() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().map_err(|_| io::Error::other("schedstat has changed its form"))
}

fn relay(driver: &mut AnyDriver, spin: Duration) -> io::Result<Relay> {
    let mut relay = Relay::default();
    let mut sockets = Sockets::new(2 * PAIRS);
    let mut busy_at = driver.now();
    while relay.seen < 2 * PAIRS || relay.open > 0 {
        let sleeps = driver.now() >= busy_at + spin;
        let until = driver.now() + Duration::from_secs(1);
        let wait = if sleeps { Wait::Until(until) } else { Wait::Poll };
        let events = driver.poll(&mut sockets, wait, 256, &mut |sockets, event| {
            relay.on_event(sockets, event);
        })?;
        let now = driver.now();
        if events > 0 {
            busy_at = now;
        }
        driver.apply(&mut sockets, now);
    }
    Ok(relay)
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let choice: TransportChoice = arguments.next().as_deref().unwrap_or("auto").parse()?;
    let window: usize = arguments.next().as_deref().unwrap_or("8").parse()?;
    let rounds: usize = arguments.next().as_deref().unwrap_or("2000").parse()?;
    let min_wait: u64 = arguments.next().as_deref().unwrap_or("0").parse()?;
    let spin: u64 = arguments.next().as_deref().unwrap_or("0").parse()?;
    let (kind, _) = choose(choice, &probe::probe())?;
    let mut listeners = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1, 1024)?;
    let address = listeners[0].local_addr();
    let config =
        TransportConfig { min_wait: Duration::from_micros(min_wait), ..TransportConfig::default() };
    let listeners = listeners.drain(..).map(|socket| (ListenerId(0), socket)).collect();
    let mut driver = open(kind, CoreId(0), &config, listeners, Wakers::new(1)?)?;
    let threads: Vec<_> = (0..GENERATORS)
        .map(|_| std::thread::spawn(move || generate(address, window, rounds)))
        .collect();
    let before = cpu_ns()?;
    let relay = relay(&mut driver, Duration::from_micros(spin))?;
    let cpu = cpu_ns()? - before;
    for thread in threads {
        thread.join().map_err(|_| "a generator panicked")??;
    }
    let counters = driver.counters();
    let messages = relay.bytes / MESSAGE_BYTES as u64;
    writeln!(
        io::stdout().lock(),
        "{kind} window {window}: {messages} messages, {:.3} us of CPU and {:.4} system calls per \
         message, {} system calls counted, {} completions",
        cpu as f64 / 1e3 / messages as f64,
        counters.system_calls as f64 / messages as f64,
        counters.system_calls,
        counters.completions,
    )?;
    Ok(())
}
