//! A healthy pair beside an attack: numbered QoS 1 messages that must all arrive, in order.

use super::{Client, Kind, Publish, Version};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Messages that are sent in one piece before the next ones.
const BATCH: u64 = 8;

/// Between batches, so that the witness leaves the machine to the attack.
const PAUSE: Duration = Duration::from_millis(2);

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A publisher and a subscriber that exchange messages until [`Witness::finish`].
#[derive(Debug)]
pub struct Witness {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<Report>,
}

/// What a witness has seen.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Messages that were published, acknowledged, delivered once each and in order.
    pub messages: u64,
    /// The longest time from sending a batch to having it delivered and acknowledged.
    pub slowest: Duration,
}

impl Witness {
    /// Starts a pair of MQTT 5 clients.
    pub fn start(address: SocketAddr) -> Self {
        Self::start_version(address, Version::V5)
    }

    pub fn start_version(address: SocketAddr, version: Version) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("witness-{number}");
        let pair = Pair::new(address, version, &name);
        let stop = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new(AtomicU64::new(0));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || pair.run(&stopped, &counted))
            .expect("a thread for the witness");
        Self { stop, rounds, thread }
    }

    /// Messages delivered so far; an attack can wait for it to grow.
    pub fn messages(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed) * BATCH
    }

    /// Ends the exchange; fails if a message was lost, repeated or out of order, or if none went
    /// through.
    pub fn finish(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let report = match self.thread.join() {
            Ok(report) => report,
            Err(cause) => std::panic::resume_unwind(cause),
        };
        assert!(report.messages > 0, "the witness did nothing");
        report
    }
}

struct Pair {
    publisher: Client,
    subscriber: Client,
    topic: String,
}

impl Pair {
    fn new(address: SocketAddr, version: Version, name: &str) -> Self {
        let topic = format!("{name}/messages");
        let mut subscriber = Client::plain(address, version, &format!("{name}-subscriber"));
        assert_eq!(subscriber.subscribe(&topic, 1), 1);
        let publisher = Client::plain(address, version, &format!("{name}-publisher"));
        Self { publisher, subscriber, topic }
    }

    fn run(mut self, stop: &AtomicBool, rounds: &AtomicU64) -> Report {
        let mut report = Report { messages: 0, slowest: Duration::ZERO };
        while report.messages == 0 || !stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            self.round(report.messages);
            report.messages += BATCH;
            report.slowest = report.slowest.max(start.elapsed());
            rounds.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(PAUSE);
        }
        self.subscriber.expect_nothing();
        self.publisher.disconnect();
        self.subscriber.disconnect();
        report
    }

    fn round(&mut self, first: u64) {
        let version = self.publisher.version();
        let numbers = first..first + BATCH;
        let mut bytes = Vec::new();
        for number in numbers.clone() {
            let publish = Publish::new(&self.topic, number.to_string()).qos(1, id_of(number));
            bytes.extend(publish.encode(version));
        }
        self.publisher.send(&bytes);
        for number in numbers {
            let puback = self.publisher.expect(Kind::Puback);
            assert_eq!((puback.id(), puback.reason()), (id_of(number), 0), "witness {number}");
            let received = self.subscriber.receive_and_acknowledge();
            let seen = (received.text(), received.qos, received.dup);
            assert_eq!(seen, (number.to_string(), 1, false), "witness {number}");
        }
    }
}

fn id_of(number: u64) -> u16 {
    (number % 60_000 + 1) as u16
}
