//! What goes wrong in a run, and when: drawn from its seed.

use crate::cluster::{Cluster, Event};
use crate::core::Weather;
use crate::counters::Counter;
use crate::ledger::Violation;
use crate::node::directory_of;
use core::time::Duration;
use ringlane_dataplane::random::Random;
use ringlane_dataplane::time::Nanos;
use std::path::PathBuf;

/// Something that goes wrong, or ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A node loses its power.
    Crash(usize),
    /// It loses it, and some bits of its disk turn.
    CrashAndFlip(usize),
    /// It comes back.
    Start(usize),
    /// Nothing arrives from the first at the second.
    Cut(usize, usize),
    /// It does again.
    Heal(usize, usize),
    /// Nothing arrives at a node, nor from it.
    Isolate(usize),
    /// It does again.
    Join(usize),
    /// The links between two nodes are reset.
    Reset(usize, usize),
    /// A node stands still.
    Pause(usize, Duration),
    /// A disk is slow.
    SlowDisk(usize, Duration),
    /// It is not any more.
    FastDisk(usize),
    /// A disk has no room for another segment.
    FillDisk(usize),
    /// It has.
    FreeDisk(usize),
    /// Of so many messages one is lost, comes twice, or comes with a bit that has turned.
    Weather([u64; 3]),
    /// Messages take their time (microseconds).
    Delay(u64),
    /// Etcd does not answer.
    EtcdDown,
    /// It does.
    EtcdUp,
    /// It is set back by so many revisions.
    EtcdRestore(u64),
    /// Its revisions are put above all that it gave.
    EtcdMend,
}

/// The first fault comes at this time.
const FIRST: Nanos = Nanos::from_secs(3);

/// Draws the faults of a run between two times: they come in storms, with a while between them in which no new
/// one begins, so that a cluster can serve and has something to lose.
pub fn plan(cluster: &mut Cluster, from: Nanos, end: Nanos) {
    let mut random = cluster.random.fork();
    // Some runs see little, some see much at once.
    let pause_max = [700, 2500, 6000][random.below(3) as usize];
    let mut at = from.max(FIRST);
    while at < end {
        let storm_end = (at + random.millis(3_000, 15_000)).min(end);
        while at < storm_end {
            draw(cluster, &mut random, at, end);
            at = at + random.millis(50, pause_max);
        }
        at = at + random.millis(500, 6_000);
    }
}

fn draw(cluster: &mut Cluster, random: &mut Random, at: Nanos, end: Nanos) {
    let count = cluster.nodes.len() as u64;
    let node = random.below(count) as usize;
    let other = (node + 1 + random.below(count - 1) as usize) % count as usize;
    let length = if random.one_in(3) { random.millis(1, 400) } else { random.millis(400, 5000) };
    let over = (at + length).min(end);
    let (fault, ends) = match random.below(20) {
        0..=4 => (Fault::Crash(node), Some(Fault::Start(node))),
        5 => (Fault::CrashAndFlip(node), Some(Fault::Start(node))),
        6..=8 => (Fault::Cut(node, other), Some(Fault::Heal(node, other))),
        9 => (Fault::Isolate(node), Some(Fault::Join(node))),
        10 | 11 => (Fault::Reset(node, other), None),
        12 | 13 => (Fault::Pause(node, length), None),
        14 => {
            let delay = random.millis(20, 400);
            (Fault::SlowDisk(node, delay), Some(Fault::FastDisk(node)))
        }
        15 => (Fault::FillDisk(node), Some(Fault::FreeDisk(node))),
        16 => {
            let one_in = [(); 3].map(|()| random.between(5, 60));
            (Fault::Weather(one_in), Some(Fault::Weather([0; 3])))
        }
        17 => (Fault::Delay(random.between(1_000, 60_000)), Some(Fault::Delay(0))),
        18 => (Fault::EtcdDown, Some(Fault::EtcdUp)),
        _ => (Fault::EtcdRestore(random.between(1, 12)), Some(Fault::EtcdMend)),
    };
    cluster.queue(at, Event::Fault(fault));
    if let Some(ends) = ends {
        cluster.queue(over, Event::Fault(ends));
    }
}

/// A fault begins or ends.
///
/// # Errors
/// What a node finds at its start, or a rule that does not hold.
pub fn happen(cluster: &mut Cluster, fault: Fault) -> Result<(), Violation> {
    let Some(counter) = begin(cluster, fault)? else { return end(cluster, fault) };
    cluster.counters.count(Counter::Faults);
    if counter != Counter::Crash {
        cluster.counters.count(counter);
    }
    Ok(())
}

/// What took effect, if it is one that begins.
fn begin(cluster: &mut Cluster, fault: Fault) -> Result<Option<Counter>, Violation> {
    Ok(match fault {
        Fault::Crash(node) => crash(cluster, node, false),
        Fault::CrashAndFlip(node) => crash(cluster, node, true),
        Fault::Cut(from, to) => {
            cluster.cut(from, to);
            Some(Counter::Cut)
        }
        Fault::Isolate(node) => {
            others(cluster, node).for_each(|other| {
                cluster.cut(node, other);
                cluster.cut(other, node);
            });
            Some(Counter::Cut)
        }
        Fault::Reset(one, other) => {
            cluster.reset(one, other)?;
            Some(Counter::Reset)
        }
        Fault::Pause(node, length) => {
            cluster.nodes[node].paused_until = cluster.now + length;
            Some(Counter::Pause)
        }
        Fault::SlowDisk(node, delay) => {
            cluster.nodes[node].disk_delay = delay;
            Some(Counter::SlowDisk)
        }
        Fault::EtcdDown => {
            cluster.etcd.set_down(true);
            Some(Counter::EtcdDown)
        }
        Fault::EtcdRestore(age) => {
            cluster.etcd.restore(age);
            Some(Counter::EtcdRestored)
        }
        _ => None,
    })
}

/// What ends, or only changes how things go.
fn end(cluster: &mut Cluster, fault: Fault) -> Result<(), Violation> {
    match fault {
        Fault::Start(node) if cluster.nodes[node].core.is_none() => cluster.start(node)?,
        Fault::Heal(from, to) => {
            cluster.cuts.remove(&(from, to));
        }
        Fault::Join(node) => cluster.cuts.retain(|(from, to)| *from != node && *to != node),
        Fault::FastDisk(node) => cluster.nodes[node].disk_delay = Duration::ZERO,
        Fault::FillDisk(node) => cluster.nodes[node].disk.leave_room(40_000),
        Fault::FreeDisk(node) => cluster.nodes[node].disk.set_capacity(u64::MAX),
        Fault::Weather([loss, repeat, corrupt]) => {
            cluster.weather = Weather { loss, repeat, corrupt };
        }
        Fault::Delay(micros) => cluster.delay_micros = micros,
        Fault::EtcdUp => cluster.etcd.set_down(false),
        Fault::EtcdMend => cluster.etcd.mend(),
        _ => {}
    }
    Ok(())
}

fn others(cluster: &Cluster, node: usize) -> impl Iterator<Item = usize> + use<> {
    (0..cluster.nodes.len()).filter(move |other| *other != node)
}

fn crash(cluster: &mut Cluster, node: usize, flips: bool) -> Option<Counter> {
    cluster.nodes[node].core.as_ref()?;
    cluster.crash(node);
    let damaged = cluster.nodes.iter().filter(|node| node.is_damaged() || node.core.is_none());
    if flips && damaged.count() <= (cluster.nodes.len() - 1) / 2 {
        flip(cluster, node);
    }
    Some(Counter::Crash)
}

/// Turns a bit of a segment, in front of records that were flushed later: what lies at the very end
/// cannot be told from a torn tail.
fn flip(cluster: &mut Cluster, node: usize) {
    let partition = cluster.random.below(crate::core::PARTITIONS as u64) as usize;
    let disk = cluster.nodes[node].disk.clone();
    let directory = directory_of(partition);
    let is_log = |path: &PathBuf| {
        path.starts_with(&directory) && path.extension().is_some_and(|name| name == "log")
    };
    let Some(path) = disk.paths().into_iter().find(is_log) else { return };
    let random = &mut cluster.random;
    disk.damage(&path, |content| {
        let end = content.iter().rposition(|&byte| byte != 0).unwrap_or(0) as u64 / 4;
        if end > 8192 {
            content[random.between(4096, end) as usize] ^= 1 << random.below(8);
        }
    });
}

/// Everything that went wrong ends.
///
/// # Errors
/// As [`happen`].
pub fn calm(cluster: &mut Cluster) -> Result<(), Violation> {
    cluster.cuts.clear();
    cluster.weather = Weather::default();
    cluster.delay_micros = 0;
    cluster.etcd.set_down(false);
    cluster.etcd.mend();
    for node in 0..cluster.nodes.len() {
        let it = &mut cluster.nodes[node];
        (it.disk_delay, it.paused_until) = (Duration::ZERO, Nanos(0));
        it.disk.set_capacity(u64::MAX);
        if it.core.is_none() {
            cluster.start(node)?;
        }
    }
    Ok(())
}
