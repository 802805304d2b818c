//! A model of etcd: transactions that give revisions, which are epochs.
//!
//! A transaction gives the next revision to the node that asked. Its answer may come late, or never
//! although it was carried out. While etcd is unavailable nothing is carried out. After it was restored from
//! a backup it gives revisions again that it has given before.

use ringlane_dataplane::ids::NodeId;

/// What it answers who wants to lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// This epoch is yours.
    Given(u64),
    /// Another one has an epoch that you did not know of.
    Newer(u64, NodeId),
    /// Nothing.
    Silence,
}

/// The store.
#[derive(Clone, Copy, Debug)]
pub struct Etcd {
    revision: u64,
    /// The revision at which a leader was written last, and who.
    leader: (u64, NodeId),
    /// The highest that was ever given.
    given: u64,
    is_down: bool,
}

impl Default for Etcd {
    fn default() -> Self {
        Self { revision: 10, leader: (0, NodeId(0)), given: 10, is_down: false }
    }
}

impl Etcd {
    /// A node asks for an epoch: none is given if a newer one than it knows of has been.
    pub fn ask(&mut self, node: NodeId, observed: u64) -> Answer {
        if self.is_down {
            return Answer::Silence;
        }
        if observed < self.leader.0 {
            return Answer::Newer(self.leader.0, self.leader.1);
        }
        self.revision += 1;
        self.leader = (self.revision, node);
        self.given = self.given.max(self.revision);
        Answer::Given(self.revision)
    }

    /// Whether it answers from now on.
    pub fn set_down(&mut self, is_down: bool) {
        self.is_down = is_down;
    }

    /// Whether it answers.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.is_down
    }

    /// Other keys change, too: revisions are not dense.
    pub fn skip(&mut self, count: u64) {
        self.revision += count;
    }

    /// A backup takes its place that is so many revisions old.
    pub fn restore(&mut self, age: u64) {
        self.revision = self.revision.saturating_sub(age).max(1);
        self.leader.0 = self.leader.0.min(self.revision);
    }

    /// What the remedy for that is: revisions go on above all that were given.
    pub fn mend(&mut self) {
        self.revision = self.revision.max(self.given);
    }
}
