//! What has to be true after every step, and that all become equal when the faults end.

use super::World;
use super::node::{Job, Node};
use crate::log::record::RecordKind;
use crate::replication::quorum::majority;
use crate::replication::replica::{Replica, RoleKind};
use core::time::Duration;
use std::collections::BTreeSet;

impl World {
    /// A leader that serves has all that was ever acknowledged.
    pub(super) fn holds_all(&self, index: usize) {
        let node = &self.nodes[index];
        assert!(self.ledger.len() as u64 <= node.next(), "node {} lacks records", node.id);
        for offset in node.start..self.ledger.len() as u64 {
            let found = node.at(offset);
            assert_eq!(found, &self.ledger[offset as usize], "offset {offset} of {}", node.id);
        }
    }

    pub(super) fn check(&mut self, index: usize) {
        let members = self.nodes.len();
        let node = &mut self.nodes[index];
        let Some(replica) = &node.replica else { return };
        let mark = replica.high_watermark().0;
        assert!(node.high_watermark <= mark, "the high watermark of {} goes back", node.id);
        assert!(mark <= replica.quorum_accepted().0.max(mark));
        assert_eq!(replica.next_offset().0.max(mark), replica.next_offset().0);
        node.high_watermark = mark;
        if node.jobs.iter().any(|job| matches!(job, Job::Reset(_))) {
            return;
        }
        assert_eq!(replica.next_offset().0, node.next(), "replica and log of {}", node.id);
        for offset in node.checked.max(node.start)..mark {
            let found = node.at(offset);
            if offset < self.ledger.len() as u64 {
                assert_eq!(found, &self.ledger[offset as usize], "offset {offset} of {}", node.id);
                continue;
            }
            assert_eq!(offset, self.ledger.len() as u64, "offsets are committed in order");
            let holders = self.flushed.get(&(offset, found.epoch)).map_or(0, BTreeSet::len);
            assert!(majority(members) <= holders, "offset {offset} is on {holders} nodes");
            self.counters.count("committed");
            self.ledger.push(found.clone());
        }
        node.checked = mark;
    }

    /// The faults end: all nodes come back, one leads, and all become equal.
    pub(in crate::replication) fn heal(&mut self) {
        self.is_healing = true;
        for round in 0..200 {
            for one in 0..self.nodes.len() {
                if self.nodes[one].replica.is_none() {
                    self.start(one);
                }
                for two in 0..one {
                    self.link_up(self.nodes[one].id, self.nodes[two].id);
                }
            }
            let candidate = self.leader_or_next(round);
            self.run_quietly(40);
            if self.nodes[candidate].replica.as_ref().is_some_and(Replica::is_serving) {
                let epoch = self.nodes[candidate].appends_in.expect("it leads");
                self.append(candidate, RecordKind::PUBLISH, 2, epoch);
                self.run_quietly(40);
                if self.are_equal() {
                    return;
                }
            }
        }
        let state = |node: &Node| {
            let replica = node.replica.as_ref().expect("it is up");
            let (start, next) = (node.start, node.next());
            (node.id, replica.role(), replica.epoch(), start, next, node.damage)
        };
        panic!("no progress: {:?}", self.nodes.iter().map(state).collect::<Vec<_>>());
    }

    fn leader_or_next(&mut self, round: usize) -> usize {
        let leads = |node: &Node| {
            node.replica.as_ref().is_some_and(|replica| {
                replica.role() == RoleKind::Leader && replica.epoch() >= node.manifest.epoch
            })
        };
        let leader = self.nodes.iter().filter(|node| leads(node)).max_by_key(|n| n.manifest.epoch);
        if let Some(leader) = leader {
            return Self::index(leader.id);
        }
        let candidate = round % self.nodes.len();
        self.campaign(candidate);
        self.settle();
        candidate
    }

    fn run_quietly(&mut self, turns: usize) {
        for _ in 0..turns {
            self.make_room();
            for index in 0..self.nodes.len() {
                while let Some(job) = self.nodes[index].jobs.pop_front() {
                    self.do_job(index, job);
                }
            }
            for _ in 0..self.nodes.len() * 4 {
                self.flush();
            }
            for _ in 0..200 {
                self.deliver();
            }
            self.now = self.now + Duration::from_millis(20);
            self.settle();
        }
    }

    fn are_equal(&self) -> bool {
        let ends = |node: &Node| {
            let mark = node.replica.as_ref().map(|replica| replica.high_watermark().0);
            (node.next(), mark, node.damage)
        };
        let first = ends(&self.nodes[0]);
        let is_whole = first.1 == Some(first.0) && first.2.is_none();
        is_whole && self.nodes.iter().all(|node| ends(node) == first)
    }
}
