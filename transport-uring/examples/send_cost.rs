//! What a send costs by its size: copied and zero-copy, over loopback.
//!
//! One core sends one payload of a size again and again to one peer that reads and drops, and
//! the CPU time of both threads is divided by the number of sends. The two ways take turns, so
//! that the noise of the machine meets both.
//!
//! `cargo run --release -p ringlane-transport-uring --example send_cost [rounds]`

use ringlane_dataplane::ids::{CoreId, ListenerId};
use ringlane_dataplane::message::{Message, MessageHead};
use ringlane_dataplane::net::{Driver, NetEvent, Sockets, Wait};
use ringlane_dataplane::time::Nanos;
use ringlane_transport_uring::{
    TransportConfig, TransportError, TransportKind, Wakers, bind, open,
};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

const SIZES: [usize; 7] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];
const BYTES_PER_RUN: usize = 512 << 20;

/// CPU nanoseconds of the calling thread.
fn cpu_ns() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().map_err(|_| io::Error::other("schedstat has changed its form"))
}

fn payload(bytes: usize) -> Message {
    let head = MessageHead {
        publisher: 0,
        accepted_at: Nanos(0),
        expires_at: Nanos::NEVER,
        topic_bytes: 0,
        properties_bytes: 0,
        qos: 0,
        retain: false,
    };
    Message::new(head, "t", &[], &vec![7; bytes], &mut Vec::new())
}

/// Reads until the end; the CPU time that took.
fn drain(address: SocketAddr) -> io::Result<u64> {
    let mut client = TcpStream::connect(address)?;
    let mut into = vec![0; 1 << 20];
    let before = cpu_ns()?;
    while client.read(&mut into)? > 0 {}
    Ok(cpu_ns()? - before)
}

struct Cost {
    sender_ns: u64,
    reader_ns: u64,
    zero_copy: u64,
}

fn run(bytes: usize, zero_copy_bytes: usize) -> Result<Cost, TransportError> {
    let failed = |source| TransportError::System { what: String::from("the run"), source };
    let mut listeners = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1, 16)?;
    let address = listeners[0].local_addr();
    let config = TransportConfig { zero_copy_bytes, ..TransportConfig::default() };
    let wakers = Wakers::new(1).map_err(failed)?;
    let listeners = listeners.drain(..).map(|socket| (ListenerId(0), socket)).collect();
    let mut driver = open(TransportKind::Uring, CoreId(0), &config, listeners, wakers)?;
    let mut sockets = Sockets::new(1);
    let reader = std::thread::spawn(move || drain(address));
    let message = payload(bytes);
    let mut left = BYTES_PER_RUN / bytes;
    let count = left as u64;
    let before = cpu_ns().map_err(failed)?;
    let mut open = true;
    while open {
        let until = Wait::Until(driver.now() + core::time::Duration::from_secs(1));
        let mut on_event = |sockets: &mut Sockets, event: NetEvent<'_>| match event {
            NetEvent::Accepted { connection, .. } | NetEvent::Drained { connection } => {
                if left == 0 {
                    sockets.close(connection, ringlane_dataplane::net::Close::Flush);
                } else if let Some(output) = sockets.output(connection) {
                    left -= 1;
                    output.push_payload(message.clone());
                }
            }
            NetEvent::Closed { .. } => open = false,
            NetEvent::Received { .. } | NetEvent::Detached { .. } => {}
        };
        driver.poll(&mut sockets, until, 64, &mut on_event).map_err(failed)?;
        let now = driver.now();
        driver.apply(&mut sockets, now);
    }
    let sender_ns = (cpu_ns().map_err(failed)? - before) / count;
    let zero_copy = driver.counters().zero_copy_sends;
    let reader_ns = match reader.join() {
        Ok(time) => time.map_err(failed)? / count,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    Ok(Cost { sender_ns, reader_ns, zero_copy })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), TransportError> {
    let rounds: usize = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(5);
    let mut out = io::stdout().lock();
    let failed = |source| TransportError::System { what: String::from("the output"), source };
    writeln!(out, "bytes      copied_us zero_copy_us ratio_sender ratio_both zero_copy_sends")
        .map_err(failed)?;
    for bytes in SIZES {
        let mut pairs = Vec::new();
        for _ in 0..rounds {
            pairs.push((run(bytes, usize::MAX)?, run(bytes, 1)?));
        }
        let of = |value: &dyn Fn(&(Cost, Cost)) -> f64| median(pairs.iter().map(value).collect());
        let copied = of(&|pair| pair.0.sender_ns as f64 / 1e3);
        let zero_copy = of(&|pair| pair.1.sender_ns as f64 / 1e3);
        let sender = of(&|pair| pair.1.sender_ns as f64 / pair.0.sender_ns as f64);
        let both = of(&|pair| {
            (pair.1.sender_ns + pair.1.reader_ns) as f64
                / (pair.0.sender_ns + pair.0.reader_ns) as f64
        });
        let sends = pairs[0].1.zero_copy;
        writeln!(
            out,
            "{bytes:<10} {copied:>9.2} {zero_copy:>12.2} {sender:>12.2} {both:>10.2} {sends:>8}"
        )
        .map_err(failed)?;
    }
    Ok(())
}
