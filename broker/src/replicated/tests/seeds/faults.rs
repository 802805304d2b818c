//! What goes wrong in a run, and when: drawn from its seed as it goes.

use super::super::node::Flaw;
use super::{Run, damage};
use crate::config::StreamLevel;
use ringlane_dataplane::disk::memory::MemoryDisk;
use ringlane_dataplane::link::LinkDown;
use ringlane_dataplane::random::Random;
use ringlane_dataplane::time::Nanos;
use std::time::Duration;

/// The first fault comes after this time.
const FIRST: Duration = Duration::from_secs(2);

/// What a full disk still has room for, at most.
const ROOM_BYTES_MAX: u64 = 64 << 10;
/// What a message takes on a way that is late, one of these at most: less and more than what makes a leader suspect.
const LATE_MS: [u64; 3] = [60, 250, 1_200];
/// `ECONNRESET` (errno(3)).
const ECONNRESET: i32 = 104;

/// The ways from one node to another; from or to all others where none is named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Road {
    from: Option<usize>,
    to: Option<usize>,
}

impl Road {
    /// Between two of so many nodes, or on one side of one.
    fn drawn(nodes: usize, random: &mut Random) -> Self {
        let from = random.index(nodes);
        let to = (from + 1 + random.index(nodes - 1)) % nodes;
        match random.below(4) {
            0 => Self { from: Some(from), to: None },
            1 => Self { from: None, to: Some(to) },
            _ => Self { from: Some(from), to: Some(to) },
        }
    }

    fn has(self, from: usize, to: usize) -> bool {
        from != to && self.from.is_none_or(|it| it == from) && self.to.is_none_or(|it| it == to)
    }
}

/// What goes wrong until it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lasting {
    /// Power is gone.
    Down(usize),
    /// Nothing arrives at a node, nor from it.
    Cut(usize),
    /// Nothing arrives in one direction.
    OneWay(Road),
    /// What arrives in one direction comes late, by so much at most.
    Late(Road, Duration),
    /// A node stands still.
    Paused(usize),
    /// A disk completes nothing.
    SlowDisk(usize),
    /// A disk has hardly any room.
    FullDisk(usize),
    /// Etcd answers nobody: no epoch is given and no lease is kept.
    EtcdAway,
}

/// What is wrong now, and what comes next.
#[derive(Debug)]
pub(super) struct Faults {
    lasting: Vec<(Nanos, Lasting)>,
    next: Nanos,
    storm_ends: Nanos,
    pause_max_ms: u64,
}

impl Faults {
    pub(super) fn new(now: Nanos, random: &mut Random) -> Self {
        let next = now + FIRST;
        let pause_max_ms = [1_000, 2_500, 6_000][random.below(3) as usize];
        Self { lasting: Vec::new(), next, storm_ends: next, pause_max_ms }
    }

    fn is(&self, what: Lasting) -> bool {
        self.lasting.iter().any(|(_, lasting)| *lasting == what)
    }

    pub(super) fn is_a_disk_full(&self) -> bool {
        self.lasting.iter().any(|(_, lasting)| matches!(lasting, Lasting::FullDisk(_)))
    }

    pub(super) fn is_paused(&self, node: usize) -> bool {
        self.is(Lasting::Paused(node))
    }
}

/// Each of these with each of those.
fn pairs<T: Copy>(these: &[T], those: &[T]) -> impl Iterator<Item = (T, T)> {
    these.iter().flat_map(|one| those.iter().map(|other| (*one, *other)))
}

fn millis(random: &mut Random, from: u64, to: u64) -> Duration {
    Duration::from_micros(random.between(from * 1000, to * 1000))
}

impl Run {
    /// Ends what has lasted long enough, and begins what is due.
    pub(super) fn go_wrong(&mut self) {
        let now = self.now();
        let over: Vec<_> = self.faults.lasting.extract_if(.., |(at, _)| *at <= now).collect();
        over.into_iter().for_each(|(_, lasting)| self.end(lasting));
        if now < self.faults.next {
            return;
        }
        let random = &mut self.random;
        if self.faults.storm_ends <= now {
            // A while without new faults, then as many again.
            self.faults.next = now + millis(random, 500, 6_000);
            self.faults.storm_ends = self.faults.next + millis(random, 3_000, 15_000);
            return;
        }
        self.faults.next = now + millis(random, 50, self.faults.pause_max_ms);
        self.begin();
    }

    fn begin(&mut self) {
        let may_go_down = self.cluster.may_lose_one(self.level);
        let random = &mut self.random;
        let node = random.index(self.cluster.nodes.len());
        let long = millis(random, 400, 4_000);
        let short = millis(random, 1, 400);
        let mut length = if random.one_in(3) { short } else { long };
        let nodes = self.cluster.nodes.len();
        let lasting = match random.below(24) {
            0..=5 if may_go_down && self.cluster.nodes[node].is_running() => Lasting::Down(node),
            6 => Lasting::Cut(node),
            7..=9 => Lasting::OneWay(Road::drawn(nodes, random)),
            10 => {
                let longest = Duration::from_millis(LATE_MS[random.index(LATE_MS.len())]);
                Lasting::Late(Road::drawn(nodes, random), longest)
            }
            11 | 12 => return self.reset_links(),
            13 | 14 => Lasting::Paused(node),
            15 => Lasting::SlowDisk(node),
            16..=18 => return self.lose_clients(),
            19 | 20 => Lasting::EtcdAway,
            21 | 22 => {
                // It takes a while until the room that is left is used up.
                length = millis(random, 3_000, 15_000);
                Lasting::FullDisk(node)
            }
            _ => return,
        };
        if self.faults.is(lasting) {
            return;
        }
        self.figures.faults += 1;
        self.faults.lasting.push((self.now() + length, lasting));
        match lasting {
            Lasting::Down(_) => {
                self.figures.crashes += 1;
                self.cluster.kill(node);
                self.cluster.forget_progress();
            }
            Lasting::Cut(_) => self.figures.cuts += 1,
            Lasting::OneWay(_) => {
                self.figures.cuts += 1;
                self.figures.one_way += 1;
            }
            Lasting::Late(..) => self.figures.late += 1,
            Lasting::Paused(_) => self.figures.pauses += 1,
            Lasting::SlowDisk(_) => self.hold_disks(node, true),
            Lasting::FullDisk(_) => {
                self.figures.full_disks += 1;
                let room = self.random.below(ROOM_BYTES_MAX);
                let node = &mut self.cluster.nodes[node];
                node.files.iter().for_each(|files| files.leave_room(room));
                // At `quorum_memory` a node that begins again for it would lose what a majority may have counted.
                node.lacks_room = self.level == StreamLevel::QuorumDisk;
            }
            Lasting::EtcdAway => {
                self.figures.etcd_away += 1;
                self.cluster.etcd.is_away = true;
            }
        }
        self.set_ways();
    }

    /// Links between two nodes end, and what was under way on them is lost. Each side learns it when it arrives there.
    fn reset_links(&mut self) {
        let Self { cluster, random, figures, .. } = self;
        let nodes = cluster.nodes.len();
        let one = random.index(nodes);
        let other = (one + 1 + random.index(nodes - 1)) % nodes;
        let mut network = cluster.outer.network.borrow_mut();
        let mut count = 0;
        for (from, to) in pairs(&cluster.nodes[one].hosts, &cluster.nodes[other].hosts) {
            let ways: Vec<_> = network.between(from, to).collect();
            // Both directions of a link come one after the other.
            for link in ways.chunk_by(|a, b| a.wire() == b.wire()) {
                if random.one_in(3) {
                    continue;
                }
                count += 1;
                link.iter().for_each(|way| network.end(*way, LinkDown::Error(ECONNRESET)));
            }
        }
        figures.resets += count;
        figures.faults += u64::from(count > 0);
    }

    /// Some connections are gone, on the clients' side.
    fn lose_clients(&mut self) {
        self.figures.faults += 1;
        for at in 0..self.clients() {
            if self.random.one_in(2) {
                let outer = std::rc::Rc::clone(&self.cluster.outer);
                self.client(at).hang_up(&outer);
            }
        }
    }

    fn end(&mut self, lasting: Lasting) {
        match lasting {
            Lasting::Down(node) if !self.cluster.nodes[node].is_running() => self.come_back(node),
            Lasting::FullDisk(node) => {
                let node = &mut self.cluster.nodes[node];
                node.files.iter().for_each(|files| files.set_capacity(u64::MAX));
                node.lacks_room = false;
            }
            Lasting::EtcdAway => self.cluster.etcd.is_away = false,
            Lasting::SlowDisk(node) => self.hold_disks(node, false),
            Lasting::Down(_)
            | Lasting::Cut(_)
            | Lasting::OneWay(_)
            | Lasting::Late(..)
            | Lasting::Paused(_) => {}
        }
        self.set_ways();
    }

    /// Some nodes come back with new disks, or with a bit of their disks turned, if enough others have what they had:
    /// what only they still had would be lost.
    fn come_back(&mut self, node: usize) {
        if self.cluster.nodes[node].names.is_some() {
            // Its operator has it.
            return;
        }
        let may_lose_disk = self.may_lose_disk(node) && !self.cluster.nodes[node].is_flawed();
        if may_lose_disk && self.random.one_in(6) {
            self.replace_disks(node);
        } else if may_lose_disk && self.random.one_in(5) {
            return self.come_back_flawed(node);
        }
        self.cluster.start_or_name(node);
    }

    /// Whether enough others have what this node had.
    fn may_lose_disk(&self, node: usize) -> bool {
        let nodes = &self.cluster.nodes;
        let others = nodes.iter().enumerate().filter(|(at, _)| *at != node);
        let lacking = others.filter(|(_, other)| other.is_learner || other.is_flawed()).count();
        lacking < (nodes.len() - 1) / 2
    }

    /// What a start has to see is no matter any more once it has.
    fn come_back_flawed(&mut self, node: usize) {
        let Self { cluster, random, figures, .. } = self;
        // At `quorum_memory` a leader that begins again for it would lose what a majority may have counted.
        let is_unread = self.level == StreamLevel::QuorumDisk && random.one_in(2);
        let flip = if is_unread { damage::flip_unread } else { damage::flip };
        let flaw = flip(&cluster.nodes[node], random);
        let count = if is_unread { &mut figures.unread } else { &mut figures.damaged };
        *count += u64::from(flaw.is_some());
        cluster.nodes[node].flaw = flaw;
        cluster.start_or_name(node);
        if !is_unread && cluster.nodes[node].names.is_none() {
            cluster.nodes[node].flaw = None;
        }
    }

    /// Who has said that its disk is damaged gets new ones, as an operator would give it.
    pub(super) fn replace_damaged(&mut self) {
        for node in 0..self.cluster.nodes.len() {
            let is_named = self.cluster.nodes[node].names.is_some();
            if is_named && !self.faults.is(Lasting::Down(node)) && self.may_lose_disk(node) {
                let is_unread = |flaw: &Flaw| flaw.is_unread;
                let flaw = self.cluster.nodes[node].flaw.as_ref();
                self.figures.met += u64::from(flaw.is_some_and(is_unread));
                self.figures.replaced += 1;
                self.cluster.kill(node);
                self.replace_disks(node);
                self.cluster.start_or_name(node);
            }
        }
    }

    fn replace_disks(&mut self, node: usize) {
        let Self { cluster, random, figures, .. } = self;
        figures.wiped += 1;
        figures.no_room += cluster.nodes[node].no_room_count();
        let (secret, epoch) = (random.any(), cluster.etcd.epoch);
        cluster.nodes[node].replace_disks(epoch, |core| MemoryDisk::shuffled(secret ^ core));
    }

    fn hold_disks(&mut self, node: usize, held: bool) {
        self.cluster.nodes[node].files.iter().for_each(|files| files.hold(held));
    }

    /// What arrives between nodes now, and when.
    fn set_ways(&mut self) {
        let Self { cluster, faults, .. } = self;
        let nodes = &cluster.nodes;
        let mut ways = cluster.outer.ways.borrow_mut();
        ways.cut.clear();
        ways.late.clear();
        for (from, to) in pairs(&Vec::from_iter(0..nodes.len()), &Vec::from_iter(0..nodes.len())) {
            let hosts: Vec<_> = pairs(&nodes[from].hosts, &nodes[to].hosts).collect();
            for (_, lasting) in &faults.lasting {
                match lasting {
                    Lasting::Cut(node) if from != to && [from, to].contains(node) => {
                        ways.cut.extend(&hosts);
                    }
                    Lasting::OneWay(road) if road.has(from, to) => ways.cut.extend(&hosts),
                    Lasting::Late(road, longest) if road.has(from, to) => {
                        ways.late.extend(hosts.iter().map(|direction| (*direction, *longest)));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Everything that went wrong ends.
    pub(super) fn calm(&mut self) {
        for (_, lasting) in core::mem::take(&mut self.faults.lasting) {
            self.end(lasting);
        }
    }
}
