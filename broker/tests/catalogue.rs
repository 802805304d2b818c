//! The malformed-packet catalogue against the running broker: every row gets the reaction that its
//! normative statement asks for, on both transports, over TCP and WebSocket, whole and byte by
//! byte; the broker lives, and a healthy pair beside it loses nothing.

#[path = "catalogue/judge.rs"]
mod judge;
#[path = "catalogue/table.rs"]
mod table;

use crate::support;
use crate::support::{
    Broker, Client, Connect, Options, Packet, Transport, Version, Will, Witness, broker, show,
};
use judge::{Observed, is_allowed};
use std::collections::{BTreeSet, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use table::{Row, When, rows};

const PACKETS: &str = include_str!("catalogue/packets.txt");

/// Receive Maximum as row P21 needs it, and a short time limit for F06 and F21.
const CONFIG: &str = "[mqtt]\nreceive_maximum = 20\nconnect_timeout = \"2s\"";

/// Connections that are made at the same time.
const WORKERS: usize = 16;

/// Longer rows are not sent byte by byte.
const DRIBBLED_BYTES_MAX: usize = 300;

on_both_transports!(every_row_gets_the_reaction_that_its_statement_asks_for);

fn every_row_gets_the_reaction_that_its_statement_asks_for(transport: Transport) {
    let rows = rows(PACKETS);
    let broker = Broker::start(&Options::new(transport).config(CONFIG));
    let witness = Witness::start(broker.tcp);
    let mut probe = Probe::new(&broker);
    let runs = [
        Run { number: 0, carrier: Carrier::Tcp, pieces: Pieces::Whole },
        Run { number: 1, carrier: Carrier::Tcp, pieces: Pieces::Bytes },
        Run { number: 2, carrier: Carrier::WebSocket, pieces: Pieces::Whole },
        Run { number: 3, carrier: Carrier::WebSocket, pieces: Pieces::Bytes },
    ];
    let mut findings = Vec::new();
    for run in &runs {
        findings.extend(run.all(&broker, &rows));
    }
    probe.check(&broker, &wills_of(&runs, &rows));
    witness.finish();
    broker.stop();
    assert!(findings.is_empty(), "{} findings\n{}", findings.len(), findings.join("\n"));
}

/// The table finds the differences of another broker that are known for its version 2.0.11.
#[test]
fn the_table_itself_finds_the_known_differences_of_another_broker() {
    if broker::other_broker().is_none() {
        println!("NOT RUN: RINGLANE_TEST_BROKER names no other broker");
        return;
    }
    let reactions = [
        "F07", "F11", "F12", "F16", "F17", "F18", "V09", "P02", "P17", "P18", "P19", "P21", "A03",
        "A05", "S18", "S19", "S21",
    ];
    // It closes with 0x81 where the specification says that it is a protocol error, 0x82.
    let codes = ["P13", "S04", "S11", "S22", "U02"];
    let bridging = ["C05"];
    let known: BTreeSet<&str> = reactions.into_iter().chain(codes).chain(bridging).collect();
    let mut rows = rows(PACKETS);
    rows.retain(|row| !row.is_slow());
    let broker = Broker::on(Transport::Epoll);
    let run = Run { number: 0, carrier: Carrier::Tcp, pieces: Pieces::Whole };
    let findings = run.all(&broker, &rows);
    let found: BTreeSet<&str> = findings.iter().map(|finding| &finding[..3]).collect();
    broker.stop();
    assert_eq!(found, known, "\n{}", findings.join("\n"));
}

#[test]
fn the_table_is_whole() {
    let rows = rows(PACKETS);
    let ids: BTreeSet<&str> = rows.iter().map(|row| row.id).collect();
    assert_eq!(ids.len(), 125);
    let distinct: HashSet<_> = rows.iter().map(|row| (row.id, row.version)).collect();
    assert_eq!(distinct.len(), rows.len());
    for row in &rows {
        assert!(!row.statements.is_empty() && !row.case.is_empty(), "{}", row.title());
    }
}

/// What no row of its kind allows, so that the table cannot pass by asking for nothing.
#[test]
fn the_judge_refuses_what_a_row_does_not_ask_for() {
    let packet = |version, bytes: &str| {
        Packet::parse(version, &support::hex(bytes)).expect("a whole packet").0
    };
    for row in rows(PACKETS) {
        let judged = |packets: &[&str], closed| {
            let packets = packets.iter().map(|bytes| packet(row.version, bytes)).collect();
            is_allowed(&row, &Observed { packets, closed })
        };
        let accepted = if row.version.is_v5() { "20 03 00 00 00" } else { "20 02 00 00" };
        assert!(!judged(&[accepted, accepted], false), "{}", row.title());
        assert!(!judged(&["D0 00"], true), "a PINGRESP, {}", row.title());
        assert!(!judged(&["E0 01 00"], true), "DISCONNECT without an error, {}", row.title());
        assert!(!judged(&["30 04 00 01 74 78"], false), "a message, {}", row.title());
        if !row.may_stay() {
            assert!(!judged(&[], false), "no reaction, {}", row.title());
            assert!(!judged(&[accepted], false), "accepted, {}", row.title());
        }
        if row.version == Version::V311 {
            assert!(!judged(&["E0 01 81"], true), "DISCONNECT in 3.1.1, {}", row.title());
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Carrier {
    Tcp,
    WebSocket,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pieces {
    Whole,
    Bytes,
}

/// One pass over the table.
#[derive(Clone, Copy, Debug)]
struct Run {
    number: usize,
    carrier: Carrier,
    pieces: Pieces,
}

impl Run {
    /// Whether this pass says something about the row that an earlier one did not.
    fn takes(self, row: &Row) -> bool {
        let length_fits = row.bytes.len() > 1 && row.bytes.len() <= DRIBBLED_BYTES_MAX;
        self.pieces == Pieces::Whole || (length_fits && !row.is_slow())
    }

    /// Runs all rows, several at a time, the slow ones first; returns what is not as asked.
    fn all(self, broker: &Broker, rows: &[Row]) -> Vec<String> {
        let mut queue: Vec<&Row> = rows.iter().filter(|row| self.takes(row)).collect();
        queue.sort_by_key(|row| !row.is_slow());
        let next = AtomicUsize::new(0);
        let findings = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    while let Some(row) = queue.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Some(finding) = self.finding(broker, row) {
                            findings.lock().expect("no worker panics here").push(finding);
                        }
                    }
                });
            }
        });
        let mut findings = findings.into_inner().expect("no worker panics here");
        findings.sort();
        findings
    }

    fn finding(self, broker: &Broker, row: &Row) -> Option<String> {
        let observed = self.observe(broker, row);
        (!is_allowed(row, &observed)).then(|| {
            format!(
                "{} ({:?}, {:?})\n    sent {}\n    asked {:?}\n    got {:?}, {}",
                row.title(),
                self.carrier,
                self.pieces,
                show(&row.bytes),
                row.reactions,
                observed.packets,
                if observed.closed { "closed" } else { "open" },
            )
        })
    }

    fn observe(self, broker: &Broker, row: &Row) -> Observed {
        let mut client = match self.carrier {
            Carrier::Tcp => Client::open(broker.tcp, row.version),
            Carrier::WebSocket => Client::open_websocket(broker.websocket, row.version),
        };
        if row.when != When::First {
            client.greet(&self.connect(row));
        }
        self.send(&mut client, &row.bytes);
        let (outcome, closed) = if row.may_stay() {
            let outcome = client.try_fence();
            let closed = outcome.is_err();
            (outcome, closed)
        } else {
            let outcome = client.try_closed(patience());
            let closed = outcome.is_ok();
            (outcome, closed)
        };
        let packets: Vec<Packet> = outcome.unwrap_or_else(|packets| packets);
        Observed { packets, closed }
    }

    fn connect(self, row: &Row) -> Connect {
        let name = format!("{}-{}-{}", row.id, row.version as u8, self.number);
        let connect = Connect::new(row.version, &name);
        match row.when {
            When::Will => connect.will(Will::new(&self.will_topic(row), &name)),
            _ => connect,
        }
    }

    fn will_topic(self, row: &Row) -> String {
        format!("will/{}/{}/{}", row.id, row.version as u8, self.number)
    }

    /// The broker may close before it has been sent everything, so that errors say nothing.
    fn send(self, client: &mut Client, bytes: &[u8]) {
        let size = if self.pieces == Pieces::Whole { bytes.len() } else { 1 };
        for piece in bytes.chunks(size) {
            if client.try_send(piece).is_err() {
                return;
            }
        }
    }
}

/// How long a row may take to close; shorter where known differences are expected.
fn patience() -> Duration {
    if broker::other_broker().is_some() { Duration::from_secs(2) } else { support::PATIENCE }
}

/// The topics of the wills that must be published.
fn wills_of(runs: &[Run], rows: &[Row]) -> BTreeSet<String> {
    let with_will = |row: &&Row| row.when == When::Will;
    runs.iter()
        .flat_map(|run| {
            let taken = rows.iter().filter(with_will).filter(|row| run.takes(row));
            taken.map(|row| run.will_topic(row))
        })
        .collect()
}

/// Subscribers to what the rows would publish if they were processed, and to their wills.
struct Probe {
    messages: Client,
    wills: Client,
}

impl Probe {
    fn new(broker: &Broker) -> Self {
        let mut messages = Client::plain(broker.tcp, Version::V5, "probe-messages");
        for filter in ["t", "a/#", "probe"] {
            assert_eq!(messages.subscribe(filter, 1), 1);
        }
        let mut wills = Client::plain(broker.tcp, Version::V5, "probe-wills");
        assert_eq!(wills.subscribe("will/#", 1), 1);
        Self { messages, wills }
    }

    /// No row was processed, and every will was published once.
    fn check(&mut self, broker: &Broker, expected: &BTreeSet<String>) {
        let mut publisher = Client::plain(broker.tcp, Version::V5, "probe-publisher");
        publisher.publish("probe", "the end", 1);
        let first = self.messages.receive_and_acknowledge();
        assert_eq!(first.topic, "probe", "a malformed packet was processed: {first:?}");
        let mut wills = BTreeSet::new();
        for _ in expected {
            let will = self.wills.receive_and_acknowledge();
            assert!(wills.insert(will.topic.clone()), "a will twice: {will:?}");
        }
        assert_eq!(&wills, expected);
        self.wills.expect_nothing();
    }
}
