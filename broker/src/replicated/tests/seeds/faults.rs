//! What goes wrong in a run, and when: drawn from its seed as it goes.

use super::super::opening::Refused;
use super::{Run, damage};
use ringlane_dataplane::disk::memory::MemoryDisk;
use ringlane_dataplane::random::Random;
use ringlane_dataplane::time::Nanos;
use std::time::Duration;

/// The first fault comes after this time.
const FIRST: Duration = Duration::from_secs(2);

/// What a full disk still has room for, at most.
const ROOM_BYTES_MAX: u64 = 64 << 10;

/// What goes wrong until it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lasting {
    /// Power is gone.
    Down(usize),
    /// Nothing arrives at a node, nor from it.
    Cut(usize),
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
        let lasting = match random.below(19) {
            0..=5 if may_go_down && self.cluster.nodes[node].is_running() => Lasting::Down(node),
            6 | 7 => Lasting::Cut(node),
            8 | 9 => Lasting::Paused(node),
            10 => Lasting::SlowDisk(node),
            11..=13 => return self.lose_clients(),
            14 | 15 => Lasting::EtcdAway,
            16 | 17 => {
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
            Lasting::Paused(_) => self.figures.pauses += 1,
            Lasting::SlowDisk(_) => self.hold_disks(node, true),
            Lasting::FullDisk(_) => {
                self.figures.full_disks += 1;
                let room = self.random.below(ROOM_BYTES_MAX);
                self.cluster.nodes[node].files.iter().for_each(|files| files.leave_room(room));
            }
            Lasting::EtcdAway => {
                self.figures.etcd_away += 1;
                self.cluster.etcd.is_away = true;
            }
        }
        self.set_cuts();
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
                let files = &self.cluster.nodes[node].files;
                files.iter().for_each(|files| files.set_capacity(u64::MAX));
            }
            Lasting::EtcdAway => self.cluster.etcd.is_away = false,
            Lasting::SlowDisk(node) => self.hold_disks(node, false),
            Lasting::Down(_) | Lasting::Cut(_) | Lasting::Paused(_) => {}
        }
        self.set_cuts();
    }

    /// Some nodes come back with new disks, or with a bit of their disks turned, if enough others have what they had:
    /// what only they still had would be lost. Who does not start then gets new disks, as an operator would give it.
    fn come_back(&mut self, node: usize) {
        let nodes = &self.cluster.nodes;
        let others = nodes.iter().enumerate().filter(|(at, _)| *at != node);
        let lacking = others.filter(|(_, other)| other.is_learner).count();
        let is_minority = lacking < (nodes.len() - 1) / 2;
        if is_minority && self.random.one_in(6) {
            self.replace_disks(node);
        } else if is_minority && self.random.one_in(5) {
            let is_damaged = damage::flip(&self.cluster.nodes[node], &mut self.random);
            self.figures.damaged += u64::from(is_damaged);
            let Err(Refused(why)) = self.cluster.try_start(node) else { return };
            assert!(is_damaged, "a node whose disk is whole does not start: {why}");
            self.figures.replaced += 1;
            self.replace_disks(node);
        }
        self.cluster.start(node);
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

    fn set_cuts(&mut self) {
        let nodes =
            (0..self.cluster.nodes.len()).filter(|node| self.faults.is(Lasting::Cut(*node)));
        let hosts = nodes.flat_map(|node| self.cluster.nodes[node].hosts.clone());
        *self.cluster.outer.cut.borrow_mut() = hosts.collect();
    }

    /// Everything that went wrong ends.
    pub(super) fn calm(&mut self) {
        for (_, lasting) in core::mem::take(&mut self.faults.lasting) {
            self.end(lasting);
        }
    }
}
