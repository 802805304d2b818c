//! Lanes between nodes whose numbers of cores differ, and what happens to them.

use super::*;
use crate::link::LinkDown;
use crate::link::memory::{HostId, Network};
use crate::log::format::DirectoryId;
use crate::replication::hello::{DirectoryTag, RdmaEnd, Transports};

const PARTITIONS: u32 = 8;
const RETRY: Duration = Duration::from_millis(100);

fn address(node: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, node as u8], 7000))
}

struct Core {
    host: HostId,
    node: u16,
    links: Links,
    lanes: Lanes,
    seen: Vec<LaneEvent>,
}

impl Core {
    fn new(host: HostId, node: u16, core: u16, cores: u16, nodes: u16) -> Self {
        let hello = Hello {
            cluster: DirectoryId([7; 16]),
            from: NodeId(node),
            to: NodeId(node),
            from_core: CoreId(core),
            to_core: CoreId(0),
            cores,
            partitions: PARTITIONS,
            message_bytes_max: 1 << 20,
            transports: Transports::TCP,
            directory: DirectoryTag::default(),
            rdma: RdmaEnd::default(),
        };
        let others = (1..=nodes).filter(|other| *other != node);
        let peers: Vec<_> = others.map(|other| (NodeId(other), address(other))).collect();
        let lanes = Lanes::new(hello, &peers, RETRY);
        Self { host, node, links: Links::new(1 << 20), lanes, seen: Vec::new() }
    }
}

/// A cluster; each node has the cores that are in `cores` at its place.
struct Cluster {
    network: Network,
    cores: Vec<Core>,
    now: Nanos,
}

impl Cluster {
    fn new(cores_of: &[u16]) -> Self {
        let mut cluster = Self { network: Network::new(1 << 20), cores: Vec::new(), now: Nanos(1) };
        for (node, cores) in (1..).zip(cores_of) {
            cluster.start(node, *cores, cores_of.len() as u16);
        }
        cluster
    }

    fn start(&mut self, node: u16, cores: u16, nodes: u16) {
        for core in 0..cores {
            let host = self.network.add(address(node), CoreId(core));
            self.cores.push(Core::new(host, node, core, cores, nodes));
        }
    }

    fn crash(&mut self, node: u16) {
        let (gone, rest) =
            core::mem::take(&mut self.cores).into_iter().partition(|core| core.node == node);
        self.cores = rest;
        let gone: Vec<Core> = gone;
        gone.iter().for_each(|core| self.network.crash(core.host));
    }

    fn core(&mut self, host: HostId) -> Option<usize> {
        self.cores.iter().position(|core| core.host == host)
    }

    /// Lets everything arrive, in order, for a second.
    fn settle(&mut self) {
        for _ in 0..20 {
            self.now = self.now + RETRY / 2;
            self.turn();
        }
    }

    fn turn(&mut self) {
        for core in &mut self.cores {
            if core.lanes.next_tick() <= self.now {
                core.lanes.tick(self.now, &mut core.links);
            }
        }
        loop {
            for core in &mut self.cores {
                let Core { host, links, lanes, seen, .. } = core;
                self.network.carry_out(*host, links);
                self.network.deliver(*host, links, &mut |links, event| {
                    seen.extend(lanes.on_event(links, &event));
                });
            }
            let Some(way) = self.network.ways().next() else { return };
            match self.core(way.to) {
                Some(index) => {
                    let Core { links, lanes, seen, .. } = &mut self.cores[index];
                    self.network.arrive(way.id, links, &mut |links, event| {
                        seen.extend(lanes.on_event(links, &event));
                    });
                }
                None => unreachable!("what goes to a host that crashed is gone with it"),
            }
        }
    }

    /// Each partition has a link between its owners on any two nodes, and there are no more lanes than
    /// that takes; how many there are.
    fn check(&self) -> usize {
        let mut lanes = std::collections::BTreeSet::new();
        for partition in (0..PARTITIONS).map(PartitionId) {
            for one in &self.cores {
                for other in &self.cores {
                    let owns = |core: &Core| {
                        let Hello { from_core, cores, .. } = core.lanes.hello;
                        partition.0 % u32::from(cores) == u32::from(from_core.0)
                    };
                    if one.node == other.node || !owns(one) || !owns(other) {
                        continue;
                    }
                    let link = one.lanes.link_of(NodeId(other.node), partition).expect("a link");
                    let lane = one.lanes.lane_of(link).unwrap();
                    assert_eq!(lane.peer_core, other.lanes.hello.from_core);
                    assert!(one.links.is_up(link));
                    lanes.insert((one.host, lane.peer, lane.peer_core));
                }
            }
        }
        let places = self.cores.iter().flat_map(|core| &core.lanes.peers);
        let up = places.flat_map(|peer| &peer.places).filter(|place| place.is_up).count();
        assert_eq!(up, lanes.len(), "and no other");
        up
    }
}

#[test]
fn every_partition_has_a_link_whatever_the_numbers_of_cores() {
    for (cores, ends) in [
        (vec![1, 1, 1], 6),
        (vec![2, 2], 4),
        (vec![4, 4, 4], 24),
        (vec![2, 3], 12),
        (vec![3, 1, 2], 22),
        (vec![8, 2], 16),
        (vec![1, 16], 16),
    ] {
        let mut cluster = Cluster::new(&cores);
        cluster.settle();
        assert_eq!(cluster.check(), ends, "{cores:?}");
    }
}

#[test]
fn a_node_that_comes_back_with_other_cores_is_found_again() {
    let mut cluster = Cluster::new(&[2, 4, 2]);
    cluster.settle();
    cluster.check();
    for (node, cores) in [(2, 1), (2, 3), (1, 5), (3, 1)] {
        cluster.crash(node);
        cluster.settle();
        let ups = |core: &Core| {
            core.seen.iter().filter(|event| matches!(event, LaneEvent::Up(_))).count()
        };
        for core in &cluster.cores {
            let peers = core.lanes.peers.iter().filter(|peer| peer.node == NodeId(node));
            assert!(peers.flat_map(|peer| &peer.places).all(|place| !place.is_up));
            assert!(core.seen.len() <= 2 * ups(core), "each that ends was up");
        }
        cluster.start(node, cores, 3);
        cluster.settle();
        cluster.check();
    }
}

#[test]
fn a_peer_that_has_begun_anew_takes_the_place_of_its_old_link() {
    let mut cluster = Cluster::new(&[1, 1]);
    cluster.settle();
    assert_eq!(cluster.check(), 2);
    let lane = |node, peer| Lane { core: CoreId(node), peer: NodeId(peer), peer_core: CoreId(0) };
    assert_eq!(cluster.cores[1].seen, [LaneEvent::Up(lane(0, 1))]);
    let old = cluster.cores[1].lanes.link_of(NodeId(1), PartitionId(0)).unwrap();
    // Node 1 alone learns of the end.
    let way = cluster.network.between(HostId(0), HostId(1)).next().unwrap();
    cluster.network.end(way, LinkDown::Error(104));
    cluster.settle();
    assert_eq!(cluster.check(), 2);
    let new = cluster.cores[1].lanes.link_of(NodeId(1), PartitionId(0)).unwrap();
    assert_ne!(new, old);
    let [up, down] = [LaneEvent::Up, LaneEvent::Down].map(|event| event(lane(0, 1)));
    assert_eq!(cluster.cores[1].seen, [up, down, up]);
    assert!(!cluster.cores[1].links.is_up(old));
    assert_eq!(cluster.cores[0].seen.len(), 3);
}

#[test]
fn strangers_and_those_who_should_be_dialed_are_not_answered() {
    let mut cluster = Cluster::new(&[1, 1]);
    // Node 2 waits for node 1; here it dials all the same.
    let hello = Hello { to: NodeId(1), to_core: CoreId(0), ..cluster.cores[1].lanes.hello };
    let dialed = cluster.cores[1].links.connect(address(1), hello).unwrap();
    cluster.settle();
    assert!(!cluster.cores[1].links.is_up(dialed));
    assert_eq!(cluster.check(), 2);
    assert_eq!(cluster.cores[0].seen.len(), 1);
}

#[test]
fn a_directory_that_was_replaced_loses_its_lanes_and_gets_no_new_ones() {
    let [old, new] = [DirectoryTag([1; 6]), DirectoryTag([2; 6])];
    // Node 1 dials node 2, and node 2 is dialed: each is the one that was replaced once.
    for (replaced, other) in [(0, 1), (1, 0)] {
        let mut cluster = Cluster::new(&[1, 1]);
        cluster.cores[replaced].lanes.hello.directory = old;
        cluster.settle();
        assert_eq!(cluster.check(), 2);
        let node = NodeId(cluster.cores[replaced].node);
        let counts = |cluster: &mut Cluster, directory| {
            let Core { lanes, links, .. } = &mut cluster.cores[other];
            lanes.set_directory(node, Some(directory), links);
            cluster.settle();
            cluster.cores[other].lanes.link_of(node, PartitionId(0)).is_some()
        };
        assert!(counts(&mut cluster, old));
        assert!(!counts(&mut cluster, new), "another one counts");
        assert!(!counts(&mut cluster, DirectoryTag::default()), "none does");
        let up = cluster.cores[other].seen.len();
        cluster.settle();
        assert_eq!(cluster.cores[other].seen.len(), up, "it is not let in again");
        assert!(counts(&mut cluster, old));
    }
}

#[test]
fn a_node_that_has_moved_is_dialed_where_it_is() {
    let mut cluster = Cluster::new(&[1, 1]);
    let nowhere = SocketAddr::from(([10, 9, 9, 9], 1));
    cluster.cores[0].lanes.set_address(NodeId(2), nowhere);
    cluster.settle();
    assert!(cluster.cores[0].lanes.link_of(NodeId(2), PartitionId(0)).is_none());
    cluster.cores[0].lanes.set_address(NodeId(2), address(2));
    cluster.settle();
    assert_eq!(cluster.check(), 2);
}
