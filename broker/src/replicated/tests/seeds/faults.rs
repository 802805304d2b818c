//! What goes wrong in a run, and when: drawn from its seed as it goes.

use super::Run;
use ringlane_dataplane::disk::memory::MemoryDisk;
use ringlane_dataplane::random::Random;
use ringlane_dataplane::time::Nanos;
use std::time::Duration;

/// The first fault comes after this time.
const FIRST: Duration = Duration::from_secs(2);

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
        let random = &mut self.random;
        let node = random.below(3) as usize;
        let long = millis(random, 400, 4_000);
        let short = millis(random, 1, 400);
        let length = if random.one_in(3) { short } else { long };
        let lasting = match random.below(17) {
            0..=5 if self.cluster.nodes[node].is_running() => Lasting::Down(node),
            6 | 7 => Lasting::Cut(node),
            8 | 9 => Lasting::Paused(node),
            10 => Lasting::SlowDisk(node),
            11..=13 => return self.lose_clients(),
            14 | 15 => Lasting::EtcdAway,
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
            }
            Lasting::Cut(_) => self.figures.cuts += 1,
            Lasting::Paused(_) => self.figures.pauses += 1,
            Lasting::SlowDisk(_) => self.hold_disks(node, true),
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
            Lasting::Down(node) if !self.cluster.nodes[node].is_running() => {
                self.wipe_some(node);
                self.cluster.start(node);
            }
            Lasting::EtcdAway => self.cluster.etcd.is_away = false,
            Lasting::SlowDisk(node) => self.hold_disks(node, false),
            Lasting::Down(_) | Lasting::Cut(_) | Lasting::Paused(_) => {}
        }
        self.set_cuts();
    }

    /// Some nodes come back with new disks, if all others have what they had: what only they still had would be lost.
    fn wipe_some(&mut self, node: usize) {
        let Self { cluster, random, figures, .. } = self;
        let others_are_whole = cluster.nodes.iter().all(|node| !node.is_learner);
        if !random.one_in(6) || !others_are_whole {
            return;
        }
        figures.wiped += 1;
        let (secret, epoch) = (random.any(), cluster.etcd.epoch);
        cluster.nodes[node].replace_disks(epoch, |core| MemoryDisk::shuffled(secret ^ core));
    }

    fn hold_disks(&mut self, node: usize, held: bool) {
        self.cluster.nodes[node].files.iter().for_each(|files| files.hold(held));
    }

    fn set_cuts(&mut self) {
        let nodes = (0..3).filter(|node| self.faults.is(Lasting::Cut(*node)));
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
