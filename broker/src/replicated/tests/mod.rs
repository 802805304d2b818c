//! Clusters of nodes in one thread, turn by turn: real cores over links, disks and sockets in memory,
//! with a control thread and an etcd in small. The simulator runs some of them, too.

#[cfg(test)]
mod chaos;
mod client;
#[cfg(test)]
mod damaged;
mod driver;
#[cfg(test)]
mod fail_over;
#[cfg(test)]
mod learners;
#[cfg(test)]
mod levels;
mod node;
mod opening;
pub(crate) mod seeds;
mod ways;

use crate::config::{Config, StreamConfig, StreamLevel};
use client::Client;
use driver::{Outer, Wire};
use node::{Etcd, KEY, Node, PARTITIONS, address};
use ringlane_dataplane::disk::memory::MemoryDisk;
use ringlane_dataplane::ids::{CoreId, NodeId};
use ringlane_dataplane::routing::Placement;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Time between two rounds of turns.
const STEP: Duration = Duration::from_millis(2);

struct Cluster {
    outer: Rc<Outer>,
    config: Arc<Config>,
    etcd: Etcd,
    nodes: Vec<Node>,
}

impl Cluster {
    /// Three nodes with so many cores each, which have never run.
    fn new(cores: [u16; 3]) -> Self {
        Self::with_disks(cores, |_| MemoryDisk::new(), &[])
    }

    /// The same, with the disks of its cores made by number, and streams at these levels beside that for
    /// the rest, which is at `quorum_disk`.
    fn with_disks(
        cores: [u16; 3],
        disk: impl Fn(u64) -> MemoryDisk,
        levels: &[(&str, StreamLevel)],
    ) -> Self {
        Self::of(cores, Config { stream: streams(levels), ..Config::default() }, disk)
    }

    fn of(
        cores: impl IntoIterator<Item = u16, IntoIter: Clone>,
        config: Config,
        disk: impl Fn(u64) -> MemoryDisk,
    ) -> Self {
        let (outer, config, cores) = (Outer::new(), Arc::new(config), cores.into_iter());
        let members: Vec<_> = (1..).zip(cores.clone()).map(|(id, _)| NodeId(id)).collect();
        let nodes = (1..).zip(cores).map(|(id, cores)| {
            let add = |core| outer.network.borrow_mut().add(address(id), CoreId(core));
            let hosts = (0..cores).map(add).collect();
            let disk = |core| disk(u64::from(id) * 100 + u64::from(core));
            Node::new(id, members.clone(), hosts, (0..cores).map(disk).collect())
        });
        let nodes = nodes.collect();
        Self { outer, config, etcd: Etcd::default(), nodes }
    }

    /// The same, started, and one of them serves clients.
    fn serving(cores: [u16; 3]) -> (Self, usize) {
        let mut cluster = Self::new(cores);
        (0..3).for_each(|node| cluster.start(node));
        let leader = cluster.wait_for_leader();
        (cluster, leader)
    }

    fn start(&mut self, node: usize) {
        self.nodes[node].start_with_room(&self.outer, &self.config).expect("its disk is whole");
    }

    /// The same; if it is not, the node says so.
    fn start_or_name(&mut self, node: usize) {
        self.nodes[node].start_or_name(&self.outer, &self.config);
    }

    fn kill(&mut self, node: usize) {
        self.nodes[node].kill(&self.outer);
    }

    /// Nothing arrives at this node nor from it, and from now on no other one is cut off.
    fn cut_off(&self, node: usize) {
        self.join();
        let mut ways = self.outer.ways.borrow_mut();
        for other in self.nodes.iter().filter(|other| other.id != id(node)) {
            ways.cut_between(&self.nodes[node].hosts, &other.hosts);
        }
    }

    /// Nobody is cut off any more.
    fn join(&self) {
        self.outer.ways.borrow_mut().cut.clear();
    }

    /// A turn of everybody, and a little time.
    fn turn(&mut self, clients: &mut [&mut Client]) {
        for node in &mut self.nodes {
            node.turn(&self.outer, &self.config, &mut self.etcd);
        }
        clients.iter_mut().for_each(|client| client.read(&self.outer));
        self.outer.pass(STEP);
    }

    /// Turns until something holds.
    fn until(
        &mut self,
        what: &str,
        clients: &mut [&mut Client],
        mut holds: impl FnMut(&Self, &[&mut Client]) -> bool,
    ) {
        for _ in 0..10_000 {
            if holds(self, clients) {
                return;
            }
            self.turn(clients);
        }
        panic!("{what}: {:?}", self.describe());
    }

    fn describe(&self) -> Vec<String> {
        let node = |node: &Node| {
            format!(
                "node {}: leader {:?}, serves {:?}, ends {:?}, epoch {}, damaged {:?}, progress {:?}",
                node.id,
                node.leader,
                node.serves,
                node.ends,
                node.manifest.epoch,
                node.names,
                node.progress
            )
        };
        self.nodes.iter().map(node).collect()
    }

    /// Time passes.
    fn pass(&mut self, time: Duration, clients: &mut [&mut Client]) {
        let end = self.outer.now.get() + time;
        while self.outer.now.get() < end {
            self.turn(clients);
        }
    }

    /// Postings that named a record which was not there.
    fn dropped_postings(&self) -> u64 {
        self.nodes.iter().map(Node::dropped_postings).sum()
    }

    fn wait_for_leader(&mut self) -> usize {
        self.until("nobody leads", &mut [], |cluster, _| cluster.leader().is_some());
        self.leader().expect("somebody leads")
    }

    /// The one that serves, with the newest epoch.
    fn leader(&self) -> Option<usize> {
        let serving = self.nodes.iter().enumerate();
        let serving = serving.filter_map(|(at, node)| Some((node.serves?, at)));
        serving.max().map(|(_, at)| at)
    }

    /// A client connects to a core of a node, and its session is there.
    fn connect(&mut self, client: &mut Client, node: usize, core: usize) {
        self.dial(client, node, core);
        self.until("no CONNACK", &mut [client], |_, clients| clients[0].connected);
    }

    fn dial(&mut self, client: &mut Client, node: usize, core: usize) {
        let wire = self.outer.wires.borrow().len();
        self.outer.wires.borrow_mut().push(Wire::default());
        client.connect(&self.outer, wire);
        self.nodes[node].dial(core, wire);
    }

    /// Whether one node may be lost without what is promised at `level`. At `quorum_memory` a majority keeps what it has:
    /// whoever was lost has it again, as its leader has said since [`Cluster::forget_progress`].
    fn may_lose_one(&self, level: StreamLevel) -> bool {
        level == StreamLevel::QuorumDisk || self.all_have_all()
    }

    /// Whether all nodes have what the leader has, in memory at least.
    fn all_have_all(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let progress = &self.nodes[leader].progress;
        (0..PARTITIONS).all(|partition| {
            let Some(led) = progress.get(&partition) else { return false };
            let mut marks = led.followers.iter().map(|(_, marks)| *marks);
            led.is_leading && marks.all(|marks| marks.is_some_and(|(has, _)| has == led.next))
        })
    }

    fn forget_progress(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.progress.clear());
    }

    /// All followers have applied what the leader has committed.
    fn wait_for_followers(&mut self) {
        self.forget_progress();
        self.until("followers lag", &mut [], |cluster, _| {
            let Some(leader) = cluster.leader() else { return false };
            let marks = |node: &Node, partition| node.progress.get(&partition).cloned();
            (0..PARTITIONS).all(|partition| {
                let Some(led) = marks(&cluster.nodes[leader], partition) else { return false };
                let running = cluster.nodes.iter().filter(|node| node.is_running());
                let mut followers = running.filter(|node| node.id != cluster.nodes[leader].id);
                led.high_watermark == led.next
                    && followers.all(|node| {
                        marks(node, partition).is_some_and(|own| own.applied == led.next)
                    })
            })
        });
    }
}

fn streams(levels: &[(&str, StreamLevel)]) -> Vec<StreamConfig> {
    let rest = StreamConfig { level: StreamLevel::QuorumDisk, ..StreamConfig::rest() };
    let named = levels.iter().map(|(filter, level)| StreamConfig {
        name: (*filter).to_owned(),
        filters: vec![(*filter).to_owned()],
        level: *level,
        ..StreamConfig::default()
    });
    named.chain([rest]).collect()
}

fn placement(cores: u16) -> Placement {
    Placement::new(KEY, PARTITIONS, cores)
}

fn id(node: usize) -> NodeId {
    NodeId(node as u16 + 1)
}
