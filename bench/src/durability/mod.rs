//! The ledger of acknowledged writes: a broker is struck in the middle of its work, started again,
//! and held to what it had acknowledged.
//!
//! Publishers and subscribers have persistent sessions and resume as the protocol demands. Each
//! message proves itself by its payload. After each fault everything that was acknowledged must
//! come: QoS 1 at least once, QoS 2 exactly once, in order, to every session that was subscribed;
//! [`Check`] has the rules by name. Everything is drawn from one seed.

mod book;
mod choice;
mod cluster;
mod cycle;
mod dial;
mod disk;
mod engine;
mod findings;
mod history;
mod host;
mod journal;
mod level;
mod outside;
mod proof;
mod publisher;
mod retained;
mod session;
mod track;
mod wills;

pub use cluster::ClusterHost;
pub use disk::DiskKind;
pub use findings::{Check, Findings};
pub use host::{Fault, Host, RecipeHost};
pub use level::Level;
pub use outside::OutsideHost;
pub use proof::PROOF_BYTES;

use crate::fleet::Target;
use crate::login::Login;
use anyhow::{Result, ensure};
use book::{Book, Kind};
use choice::Choice;
use dial::Dial;
use engine::Engine;
use hdrhistogram::Histogram;
use history::History;
use journal::Journal;
use publisher::Publisher;
use ringlane_mqtt::{QoS, Version};
use session::{Habit, Session};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use wills::Wills;

/// What a run is to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// From which everything is drawn.
    pub seed: u64,
    /// Faults.
    pub cycles: u32,
    /// What happens in each.
    pub fault: Fault,
    /// The MQTT version of all clients; not 3.1, which has no Session Present.
    pub version: Version,
    /// The qualities of service to publish with.
    pub qos: Vec<QoS>,
    /// Publishers.
    pub publishers: u32,
    /// Topics of each.
    pub topics: u32,
    /// Unanswered messages of each.
    pub window: usize,
    /// Subscribers, whose habits are taken in turn: one on everything with QoS 2, one on `#` with
    /// QoS 1, two that are away at times, a slow one, one whose subscription is always ended.
    pub subscribers: usize,
    /// Whether others publish on the broker, too.
    pub is_shared: bool,
    /// Bytes of a payload.
    pub payload_bytes: usize,
    /// The fault comes after so many answers to publishers: least and most.
    pub answers: (u64, u64),
    /// How long the broker may take to go on.
    pub patience: Duration,
    /// A cycle's drain ends when nothing came for so long.
    pub silence: Duration,
    /// The last drain ends when nothing came for so long.
    pub final_silence: Duration,
    /// How long after the last start promised wills may come; zero is no client with a will.
    pub will_wait: Duration,
    /// After one of so many drains there is a rest, so long that every acknowledgement of a subscriber
    /// must be kept from then on.
    pub rest_one_in: u64,
    /// How long that is.
    pub rest: Duration,
    /// In one of four cycles the fault comes again, at most so long after the start; zero is never.
    pub stumble: Duration,
    /// Failpoints of the broker, one of which it meets in each cycle after the fault.
    pub failpoints: Vec<String>,
    /// Whether to go on after a finding.
    pub keep_going: bool,
    /// Where to write the history.
    pub history: Option<PathBuf>,
    /// Whether findings are kept off standard error.
    pub is_quiet: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            cycles: 20,
            fault: Fault::Kill,
            version: Version::V5,
            qos: vec![QoS::AtLeastOnce, QoS::ExactlyOnce],
            publishers: 4,
            topics: 3,
            window: 8,
            subscribers: 6,
            is_shared: false,
            payload_bytes: 64,
            answers: (20, 400),
            patience: Duration::from_secs(20),
            silence: Duration::from_secs(2),
            final_silence: Duration::from_secs(5),
            will_wait: Duration::from_secs(15),
            rest_one_in: 10,
            rest: Duration::from_millis(2500),
            stumble: Duration::from_millis(60),
            failpoints: Vec::new(),
            keep_going: false,
            history: None,
            is_quiet: false,
        }
    }
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Cycles that were begun.
    pub cycles: u32,
    /// Failpoints that were met.
    pub tripped: u32,
    /// Publishes that the broker acknowledged.
    pub acknowledged: u64,
    /// Deliveries that these make: one per message and session that must have it.
    pub owed: u64,
    /// Messages that came.
    pub deliveries: u64,
    /// Of these, repeats that the protocol allows.
    pub repeats: u64,
    /// Nanoseconds from start to first CONNACK.
    pub restarts: Histogram<u64>,
    /// How long it took.
    pub length: Duration,
    /// What was wrong.
    pub findings: Findings,
}

/// Runs the ledger against a broker.
///
/// # Errors
/// If nothing can be said of the broker: it does not start the first time, clients are not let in,
/// or this machine lacks something.
pub fn run(options: &Options, host: &mut dyn Host) -> Result<Outcome> {
    ensure!(options.version != Version::V31, "MQTT 3.1 has no Session Present: 3.1.1 or 5");
    ensure!(!options.qos.is_empty(), "no QoS to publish with");
    ensure!(!options.qos.contains(&QoS::AtMostOnce), "QoS 0 promises nothing");
    ensure!(options.publishers > 0 && options.topics > 0, "nobody publishes anything");
    ensure!((1..=10_000).contains(&options.window), "the window must be 1 to 10,000");
    let history = History::new(options.history.as_deref())?;
    let mut journal = Journal {
        book: Book::new(options.seed),
        findings: Findings::new(options.is_quiet),
        history,
        cycle: 0,
        life: 0,
        is_cluster: false,
        version: options.version,
        payload_bytes: options.payload_bytes,
        answers: 0,
        deliveries: 0,
        repeats: 0,
    };
    let root = format!("ledger/{:x}", options.seed);
    let publishers = publishers(options, &root, &mut journal.book);
    let wills = wills(options, &root, &mut journal.book);
    let mut sessions = sessions(options, &root);
    sessions.iter_mut().for_each(|session| session.attend(&journal));
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let target = Target::new(nowhere, options.version);
    let choice = Choice::new(options.seed);
    let engine = Engine::new(target, choice, journal, publishers, sessions, wills);
    cycle::Run::new(options, host, engine)?.run()
}

/// Topic numbers beyond those of live messages.
const RETAINED_TOPIC: u32 = u32::MAX;
const WILL_TOPIC: u32 = u32::MAX - 1;

fn publishers(options: &Options, root: &str, book: &mut Book) -> Vec<Publisher> {
    let qos = &options.qos;
    let publisher = |number: u32| {
        let mut live = Vec::new();
        for topic in 0..options.topics {
            let name = format!("{root}/p{number}/{topic}");
            live.extend(
                qos.iter()
                    .map(|qos| book.add_stream(Kind::Live, number, topic, name.clone(), *qos)),
            );
        }
        let level = qos[number as usize % qos.len()];
        let name = format!("{root}/r/{number}");
        let retained = book.add_stream(Kind::Retained, number, RETAINED_TOPIC, name, level);
        let dial = Dial::new(Login::persistent(format!("ledger-pub-{number}")));
        Publisher::new(dial, live, retained, options.window)
    };
    (0..options.publishers).map(publisher).collect()
}

fn wills(options: &Options, root: &str, book: &mut Book) -> Wills {
    let stream = |qos: &QoS| {
        let name = format!("{root}/w/{}", *qos as u8);
        book.add_stream(Kind::Will, options.publishers, WILL_TOPIC, name, *qos)
    };
    Wills::new("ledger-will-".to_owned(), options.qos.iter().map(stream).collect())
}

fn sessions(options: &Options, root: &str) -> Vec<Session> {
    let best = options.qos.iter().copied().max().unwrap_or_default();
    let widest = if options.is_shared { format!("{root}/#") } else { "#".to_owned() };
    let habits = [
        (Habit::Present, format!("{root}/#"), best),
        (Habit::Present, widest, QoS::AtLeastOnce),
        (Habit::Away, format!("{root}/p0/#"), best),
        (Habit::Away, format!("{root}/+/0"), QoS::AtLeastOnce),
        (Habit::Slow, format!("{root}/#"), best),
        (Habit::Leaver, format!("{root}/#"), best),
    ];
    let session = |number: usize| {
        let (habit, filter, qos) = habits[number % habits.len()].clone();
        let name = format!("ledger-sub-{number}-{habit:?}").to_lowercase();
        let mut login = Login::persistent(name);
        login.receive_maximum = (habit == Habit::Slow).then_some(SLOW_RECEIVE_MAXIMUM);
        Session::new(Dial::new(login), habit, filter, qos)
    };
    (0..options.subscribers).map(session).collect()
}

/// What a slow subscriber takes at once (MQTT 5).
const SLOW_RECEIVE_MAXIMUM: u16 = 16;
