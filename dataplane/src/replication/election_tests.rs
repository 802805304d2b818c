//! Tests of the election: nodes that tell each other heartbeats, and an etcd that gives epochs.

use super::*;
use std::collections::BTreeSet;

const MS: u64 = 1_000_000;

struct Cluster {
    now: Nanos,
    nodes: Vec<Election>,
    dead: BTreeSet<usize>,
    /// From whom to whom nothing arrives.
    cut: BTreeSet<(usize, usize)>,
    revision: u64,
    has_etcd: bool,
    /// Who cannot make its log equal to the others'.
    behind: BTreeSet<usize>,
    /// Whose takeovers take longer than others wait for a leader.
    slow: BTreeSet<usize>,
    given: Vec<(usize, u64)>,
}

impl Cluster {
    fn new(nodes: u16) -> Self {
        let members: Vec<_> = (1..=nodes).map(NodeId).collect();
        let election = |node: &NodeId| {
            let setup = Setup {
                node: *node,
                members: members.clone(),
                heartbeat_every: Duration::from_millis(50),
                suspect_after: Duration::from_millis(300),
                campaign_for: Duration::from_millis(1000),
                seed: u64::from(node.0) * 77,
            };
            Election::new(setup, 0, Nanos(MS))
        };
        let mut cluster = Self {
            now: Nanos(MS),
            nodes: members.iter().map(election).collect(),
            dead: BTreeSet::new(),
            cut: BTreeSet::new(),
            revision: 10,
            has_etcd: true,
            behind: BTreeSet::new(),
            slow: BTreeSet::new(),
            given: Vec::new(),
        };
        for one in &mut cluster.nodes {
            let own = one.setup.node;
            for two in members.iter().filter(|two| **two != own) {
                one.on_link_up(*two, cluster.now);
            }
        }
        cluster
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now = Nanos(self.now.0 + MS);
            for index in 0..self.nodes.len() {
                if !self.dead.contains(&index) {
                    self.turn(index);
                }
            }
        }
    }

    fn turn(&mut self, index: usize) {
        let mut commands = Vec::new();
        self.nodes[index].end_turn(self.now);
        self.nodes[index].take_commands(&mut commands);
        for command in commands {
            match command {
                Command::Send { to, message } => {
                    let to = usize::from(to.0) - 1;
                    let from = self.nodes[index].setup.node;
                    if !self.cut.contains(&(index, to)) && !self.dead.contains(&to) {
                        self.nodes[to].on_message(from, &message, self.now);
                    }
                }
                Command::AskForEpoch { observed } => self.ask(index, observed),
                Command::Campaign { epoch } => self.campaign(index, epoch),
                Command::StepDown => {}
            }
        }
    }

    fn ask(&mut self, index: usize, observed: u64) {
        let newest = self.given.last().map_or(0, |(_, epoch)| *epoch);
        if !self.has_etcd || observed < newest {
            return self.nodes[index].on_epoch_refused(self.now);
        }
        self.revision += 3;
        self.given.push((index, self.revision));
        self.nodes[index].on_epoch_given(self.revision, self.now);
    }

    /// As the replicas would: it fences those that it reaches.
    fn campaign(&mut self, index: usize, epoch: u64) {
        let candidate = self.nodes[index].setup.node;
        let mut fenced = 1;
        for other in 0..self.nodes.len() {
            let is_cut = self.cut.contains(&(index, other)) || self.cut.contains(&(other, index));
            if other != index && !is_cut && !self.dead.contains(&other) {
                self.nodes[other].on_epoch_seen(epoch, Some(candidate), self.now);
                fenced += 1;
            }
        }
        if self.behind.contains(&index) {
            self.nodes[index].on_gave_up(self.now);
        } else if fenced >= majority(self.nodes.len()) && !self.slow.contains(&index) {
            self.nodes[index].on_leading(epoch, self.now);
        }
    }

    fn leaders(&self) -> Vec<usize> {
        let leads = |index: &usize| !self.dead.contains(index) && self.nodes[*index].is_leading();
        (0..self.nodes.len()).filter(leads).collect()
    }

    fn kill(&mut self, index: usize) {
        self.dead.insert(index);
        let killed = self.nodes[index].setup.node;
        for other in self.nodes.iter_mut().filter(|node| node.setup.node != killed) {
            other.on_link_down(killed, self.now);
        }
    }
}

#[test]
fn the_first_node_leads_and_keeps_leading() {
    let mut cluster = Cluster::new(3);
    cluster.run(250);
    assert!(cluster.leaders().is_empty(), "somebody may lead already");
    cluster.run(200);
    assert_eq!(cluster.leaders(), [0]);
    cluster.run(5000);
    assert_eq!((cluster.leaders(), cluster.given.len()), (vec![0], 1));
    assert!(cluster.nodes.iter().all(|node| node.leader() == Some(NodeId(1))));
}

#[test]
fn a_leader_that_dies_is_replaced_at_once_and_one_that_is_silent_soon() {
    let mut cluster = Cluster::new(3);
    cluster.run(1000);
    cluster.kill(0);
    cluster.run(10);
    assert_eq!(cluster.leaders(), [1], "its links were reset");
    let mut cluster = Cluster::new(3);
    cluster.run(1000);
    cluster.dead.insert(0);
    cluster.run(280);
    assert_eq!(cluster.given.len(), 1, "it is not suspected yet");
    cluster.run(100);
    assert_eq!(cluster.leaders(), [1]);
}

#[test]
fn who_alone_does_not_hear_the_leader_deposes_nobody() {
    let mut cluster = Cluster::new(3);
    cluster.run(1000);
    cluster.cut.insert((0, 1));
    cluster.run(5000);
    assert_eq!((cluster.leaders(), cluster.given.len()), (vec![0], 1));
    cluster.cut.insert((0, 2));
    cluster.run(600);
    assert_eq!(cluster.leaders(), [1], "nobody hears it");
    assert_eq!(cluster.given.len(), 2);
}

#[test]
fn a_leader_that_hears_nobody_gives_up_and_comes_back_as_a_follower() {
    let mut cluster = Cluster::new(3);
    cluster.run(1000);
    for other in [1, 2] {
        cluster.cut.insert((0, other));
        cluster.cut.insert((other, 0));
    }
    cluster.run(1000);
    assert_eq!(cluster.leaders(), [1]);
    cluster.cut.clear();
    cluster.run(1000);
    assert_eq!((cluster.leaders(), cluster.given.len()), (vec![1], 2));
    assert_eq!(cluster.nodes[0].leader(), Some(NodeId(2)));
}

#[test]
fn a_leader_needs_no_etcd_and_a_candidate_waits_for_it() {
    let mut cluster = Cluster::new(3);
    cluster.run(1000);
    cluster.has_etcd = false;
    cluster.run(60_000);
    assert_eq!(cluster.leaders(), [0]);
    cluster.kill(0);
    cluster.run(5000);
    assert!(cluster.leaders().is_empty());
    cluster.has_etcd = true;
    cluster.run(1000);
    assert_eq!(cluster.leaders().len(), 1);
}

#[test]
fn who_cannot_lead_leaves_it_to_the_next() {
    let mut cluster = Cluster::new(3);
    cluster.run(1000);
    cluster.behind.insert(1);
    cluster.kill(0);
    cluster.run(2500);
    assert_eq!(cluster.leaders(), [2]);
    let mut cluster = Cluster::new(3);
    cluster.nodes[0].set_eligible(false);
    cluster.run(1500);
    assert_eq!((cluster.leaders(), cluster.given.len()), (vec![1], 1));
}

#[test]
fn a_takeover_is_given_its_time() {
    let mut cluster = Cluster::new(3);
    cluster.slow.insert(0);
    cluster.run(1200);
    assert_eq!(cluster.given.len(), 1, "nobody else asks while it campaigns");
    cluster.run(2000);
    assert_eq!(cluster.leaders(), [1], "but not for ever");
}

#[test]
fn a_leader_that_is_started_anew_is_replaced_although_replicas_still_obey_it() {
    let mut cluster = Cluster::new(3);
    cluster.run(1000);
    let (_, epoch) = cluster.given[0];
    let mut anew = Election::new(cluster.nodes[0].setup.clone(), epoch, cluster.now);
    for other in [2, 3] {
        anew.on_link_up(NodeId(other), cluster.now);
    }
    cluster.nodes[0] = anew;
    for _ in 0..1500 {
        for follower in [1, 2] {
            cluster.nodes[follower].on_epoch_seen(epoch, Some(NodeId(1)), cluster.now);
        }
        cluster.run(1);
    }
    assert_eq!((cluster.leaders().len(), cluster.given.len()), (1, 2));
}

#[test]
fn leadership_is_handed_over() {
    let mut cluster = Cluster::new(3);
    cluster.run(1000);
    cluster.nodes[0].transfer(NodeId(3));
    cluster.run(100);
    assert_eq!((cluster.leaders(), cluster.given.len()), (vec![2], 2));
    cluster.run(3000);
    assert_eq!(cluster.leaders(), [2]);
}

/// A node that was started a moment ago, say, and does not have what it needs to lead yet.
#[test]
fn who_is_called_and_cannot_lead_yet_takes_over_later_but_from_nobody_else() {
    for (waits, led_by, given) in [(500, 2, 2), (1500, 0, 1)] {
        let mut cluster = Cluster::new(3);
        cluster.run(1000);
        cluster.nodes[2].set_eligible(false);
        cluster.nodes[0].transfer(NodeId(3));
        cluster.run(waits);
        assert_eq!(cluster.leaders(), [0]);
        cluster.nodes[2].set_eligible(true);
        cluster.run(100);
        assert_eq!((cluster.leaders(), cluster.given.len()), (vec![led_by], given), "{waits} ms");
    }
    let mut cluster = Cluster::new(3);
    cluster.run(1000);
    cluster.nodes[2].set_eligible(false);
    cluster.nodes[0].transfer(NodeId(3));
    cluster.run(10);
    cluster.nodes[0].on_gave_up(cluster.now);
    cluster.dead.insert(0);
    while cluster.leaders() != [1] {
        cluster.run(1);
    }
    cluster.nodes[2].set_eligible(true);
    cluster.run(3000);
    assert_eq!((cluster.leaders(), cluster.given.len()), (vec![1], 2), "who called has gone");
}

#[test]
fn a_node_alone_leads_itself() {
    let mut cluster = Cluster::new(1);
    cluster.run(400);
    assert_eq!(cluster.leaders(), [0]);
}

#[test]
fn a_lease_counts_from_when_it_was_asked_for() {
    let mut lease = Lease::default();
    assert!(!lease.is_held(Nanos(0)));
    lease.on_keep_alive(Nanos(100 * MS), Duration::from_secs(1));
    assert!(lease.is_held(Nanos(999 * MS)) && !lease.is_held(Nanos(1000 * MS)));
    lease.on_keep_alive(Nanos(50 * MS), Duration::from_secs(1));
    assert!(lease.is_held(Nanos(999 * MS)), "an older answer takes nothing back");
    lease.end();
    assert!(!lease.is_held(Nanos(200 * MS)));
}
