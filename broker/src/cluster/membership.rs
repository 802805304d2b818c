//! What a node does with the cluster's metadata: it finds or makes the cluster, shows that it runs,
//! and becomes the leader.

use super::keys::{
    CLUSTER, ClusterIdentity, Id16, LEADER, NodeRecord, View, directory_key, directory_value,
    identity_value, leader_value, node_key, node_value,
};
use super::metadata::{
    Condition, LeaseId, Metadata, MetadataError, Outcome, Put, Snapshot, Transaction,
};
use crate::system_random::random_bytes;
use ringlane_dataplane::ids::NodeId;
use std::sync::atomic::{AtomicBool, Ordering};
use thiserror::Error;

/// Why a node does not join, or does not lead.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ClusterError {
    /// The store.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A key that this release does not understand.
    #[error("what etcd holds of this cluster cannot be understood: {message}")]
    Malformed {
        /// Which key, and why.
        message: String,
    },
    /// The data directory is that of a node that was alone.
    #[error(
        "the data directory holds the log of a node that was alone, which the other nodes have not: \
         a cluster begins with empty directories. Set data_dir to an empty one, and publish again \
         what `ringlane log export` takes out of this one"
    )]
    Alone,
    /// The data directory is another cluster's.
    #[error(
        "the data directory belongs to cluster {own}, and the one in etcd is {cluster}. Correct \
         cluster.name, cluster.etcd.prefix or cluster.etcd.endpoints; or start this node with an \
         empty data_dir, which is then filled from the others"
    )]
    OtherCluster {
        /// Identity of the directory.
        own: Id16,
        /// Identity of the cluster.
        cluster: Id16,
    },
    /// Same identity, other facts.
    #[error(
        "the cluster has {what} = {cluster}, this node {own}; the manifest or etcd was changed by \
         hand: restore the one that is wrong from a backup"
    )]
    Differs {
        /// Which fact.
        what: &'static str,
        /// In etcd.
        cluster: String,
        /// Here.
        own: String,
    },
    /// The configuration wants another number of partitions.
    #[error(
        "the cluster has {cluster} partitions, the configuration wants {wanted}; set \
         runtime.partitions = {cluster} (or 0)"
    )]
    Partitions {
        /// What the cluster has.
        cluster: u32,
        /// What `runtime.partitions` says.
        wanted: u32,
    },
    /// Another list of members: two nodes could count different majorities.
    #[error(
        "the cluster in etcd has the nodes {cluster:?}, cluster.members here {own:?}; make \
         cluster.members the same on all nodes (a node is replaced under its own number; the set \
         of numbers cannot be changed)"
    )]
    Members {
        /// In etcd.
        cluster: Vec<u16>,
        /// Here.
        own: Vec<u16>,
    },
    /// The directory is of a cluster, and etcd knows none.
    #[error(
        "the data directory belongs to cluster {own}, and etcd knows no such cluster: it was wiped, \
         or another one is asked. Correct cluster.name, cluster.etcd.prefix or \
         cluster.etcd.endpoints, or restore etcd from a backup"
    )]
    Wiped {
        /// Identity of the directory.
        own: Id16,
    },
    /// Another node runs under this number.
    #[error(
        "node {node} runs already, with another data directory, at {address}; give this one its own \
         cluster.node, or stop that one and wait for its lease to end (replication.lease); if that \
         one is lost, `ringlane cluster replace {node}` does not wait"
    )]
    InUse {
        /// The number.
        node: u16,
        /// Its replication address.
        address: String,
    },
    /// The directory of this node was replaced.
    #[error(
        "this data directory is not that of node {node} any more: it was replaced, by \
         `ringlane cluster replace` or by an empty one. What it had acknowledged counts no more; start \
         the node with an empty data_dir, which is filled from the others"
    )]
    Replaced {
        /// The number.
        node: u16,
    },
    /// etcd has gone back in time.
    #[error(
        "etcd is at revision {revision}, and a log of this cluster has epoch {newest} already: etcd \
         was restored from a backup. Stop all nodes and raise its revision above {newest}, with \
         `etcdutl snapshot restore --bump-revision` where it has that, or by as many writes to \
         any key; then start them again"
    )]
    Restored {
        /// What the transaction got, or would have got.
        revision: u64,
        /// The newest epoch that is known.
        newest: u64,
    },
    /// Somebody else became the leader meanwhile.
    #[error("node {} leads in epoch {} meanwhile", .view.leader.map_or(0, |l| l.node.0), .view.epoch())]
    Superseded {
        /// What is so now.
        view: Box<View>,
    },
}

/// What a node's data directory says before it joins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// `id`, hash key and partitions of its manifest; `nodes` as configured.
    pub identity: ClusterIdentity,
    /// `runtime.partitions`; 0 = any.
    pub partitions_wanted: u32,
    /// Whether it has joined before.
    pub is_member: bool,
    /// Whether nothing was ever written to it.
    pub is_empty: bool,
}

/// A cluster that was joined.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Joined {
    /// Who it is.
    pub identity: ClusterIdentity,
    /// Whether the node has to be filled from the others before it counts: its directory is empty,
    /// and the cluster has had a leader, who may have counted on what this node had before, or another directory
    /// of this number, which may run somewhere.
    pub is_learner: bool,
}

/// The cluster's metadata as one node uses them.
#[derive(Debug)]
pub struct Membership<M> {
    store: M,
    record: NodeRecord,
    /// Whether its data directory has never been the one of its number, and may become that in place of another one.
    may_claim: AtomicBool,
}

impl<M: Metadata> Membership<M> {
    /// The node that says this of itself.
    pub fn new(store: M, record: NodeRecord) -> Self {
        Self { store, record, may_claim: AtomicBool::new(false) }
    }

    /// The same with a data directory that nobody has counted on: if another one was that of its number, and does
    /// not run, this one takes its place for good.
    #[must_use]
    pub fn with_new_directory(self) -> Self {
        Self { may_claim: AtomicBool::new(true), ..self }
    }

    /// The store.
    pub fn store(&self) -> &M {
        &self.store
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        NodeId(self.record.node)
    }

    /// Which data directory it has.
    #[must_use]
    pub fn instance(&self) -> Id16 {
        self.record.instance
    }

    /// What is so now.
    ///
    /// # Errors
    /// [`ClusterError::Metadata`], [`ClusterError::Malformed`].
    pub async fn view(&self) -> Result<View, ClusterError> {
        view(&self.store).await
    }

    /// Finds the cluster, or makes it if there is none and the data directory may be its first one.
    ///
    /// # Errors
    /// What does not go together, with what to do.
    pub async fn join(&self, own: &Standing) -> Result<Joined, ClusterError> {
        if !own.is_member && !own.is_empty {
            return Err(ClusterError::Alone);
        }
        let view = self.view().await?;
        let is_found = view.identity.is_some();
        // Before the first leader nothing was acknowledged; another directory may follow one that comes later.
        let has_counted = view.leader.is_some() || view.directory(self.node()).is_some();
        let identity = match view.identity {
            Some(identity) => identity,
            None if own.is_member => return Err(ClusterError::Wiped { own: own.identity.id }),
            None => self.make(own).await?,
        };
        check(own, &identity)?;
        let is_learner = is_found && has_counted && !own.is_member;
        Ok(Joined { identity, is_learner })
    }

    /// Makes the cluster, or finds the one that another node has made first.
    async fn make(&self, own: &Standing) -> Result<ClusterIdentity, ClusterError> {
        let value = identity_value(&own.identity);
        let transaction = Transaction {
            conditions: vec![Condition::Modified { key: CLUSTER.to_owned(), revision: 0 }],
            puts: vec![Put { key: CLUSTER.to_owned(), value, lease: None }],
        };
        match self.store.commit(&transaction).await? {
            Outcome::Done(_) => Ok(own.identity.clone()),
            Outcome::Refused(snapshot) => {
                let found = understand(&snapshot)?.identity;
                let message = "the cluster was there, and is not any more".to_owned();
                found.ok_or(ClusterError::Malformed { message })
            }
        }
    }

    /// Shows that this node runs, for as long as the lease lives, and that its data directory counts.
    ///
    /// # Errors
    /// [`ClusterError::InUse`] if another one runs under the same number, [`ClusterError::Replaced`] if
    /// another directory counts.
    pub async fn register(&self, lease: LeaseId) -> Result<(), ClusterError> {
        let mut snapshot = self.store.read().await?;
        loop {
            let view = understand(&snapshot)?;
            if let Some(other) = view.node(self.node())
                && other.record.instance != self.record.instance
            {
                let address = other.record.address.clone();
                return Err(ClusterError::InUse { node: self.record.node, address });
            }
            let Some(transaction) = self.registration(&snapshot, &view, lease)? else {
                self.may_claim.store(false, Ordering::Relaxed);
                return Ok(());
            };
            match self.store.commit(&transaction).await? {
                // It is looked at again: nothing is to be done then.
                Outcome::Done(_) => snapshot = self.store.read().await?,
                Outcome::Refused(changed) if changed.revision <= snapshot.revision => {
                    let message = "a key does not have the revision that was read".to_owned();
                    return Err(ClusterError::Malformed { message });
                }
                Outcome::Refused(changed) => snapshot = changed,
            }
        }
    }

    /// What is still to be written until this node is registered; nothing if it is.
    fn registration(
        &self,
        snapshot: &Snapshot,
        view: &View,
        lease: LeaseId,
    ) -> Result<Option<Transaction>, ClusterError> {
        let key = node_key(self.node());
        let presence = snapshot.entries.iter().find(|entry| entry.key == key);
        let own = Some(self.record.instance);
        let counts = view.directory(self.node());
        let is_own = counts.is_some_and(|directory| directory.instance == own);
        if !is_own && counts.is_some() && !self.may_claim.load(Ordering::Relaxed) {
            return Err(ClusterError::Replaced { node: self.record.node });
        }
        if is_own && presence.is_some_and(|entry| entry.lease == Some(lease)) {
            return Ok(None);
        }
        let directory = directory_key(self.node());
        let conditions = vec![
            Condition::Modified { key, revision: presence.map_or(0, |entry| entry.modified) },
            Condition::Modified { key: directory.clone(), revision: revision(view, self.node()) },
        ];
        let mut puts = vec![self.presence(lease)];
        if !is_own {
            puts.push(Put { key: directory, value: directory_value(own), lease: None });
        }
        Ok(Some(Transaction { conditions, puts }))
    }

    fn presence(&self, lease: LeaseId) -> Put {
        let (key, value) = (node_key(self.node()), node_value(&self.record));
        Put { key, value, lease: Some(lease) }
    }

    /// Becomes the leader, if nobody has since `observed`; gives the new epoch. It does not wait for
    /// anybody's lease: a majority that is fenced decides, not a clock.
    ///
    /// `newest` is the newest epoch that this node knows: of its logs, and of what others told it.
    ///
    /// # Errors
    /// [`ClusterError::Superseded`], [`ClusterError::Restored`], and those of the store. After an
    /// error of the store it is open who leads; to ask again is safe.
    pub async fn acquire(
        &self,
        observed: &View,
        newest: u64,
        lease: LeaseId,
    ) -> Result<u64, ClusterError> {
        let newest = newest.max(observed.epoch());
        // The transaction's revision is higher than the one that was observed.
        if observed.revision < newest {
            return Err(ClusterError::Restored { revision: observed.revision, newest });
        }
        if observed.identity.is_none() {
            let message = "there is no cluster to lead; join it first".to_owned();
            return Err(ClusterError::Malformed { message });
        }
        let counts = observed.directory(self.node());
        if counts.is_some_and(|directory| directory.instance != Some(self.record.instance)) {
            return Err(ClusterError::Replaced { node: self.record.node });
        }
        let claim = Id16(random()?);
        let leader =
            Put { key: LEADER.to_owned(), value: leader_value(self.node(), claim), lease: None };
        let mut conditions = vec![
            Condition::Holds { key: CLUSTER.to_owned(), value: observed.identity_value.clone() },
            Condition::Modified { key: LEADER.to_owned(), revision: observed.epoch() },
        ];
        // Who leads knows which directories count, and takes no other one's word.
        conditions.extend(members(observed).map(|node| Condition::Modified {
            key: directory_key(node),
            revision: revision(observed, node),
        }));
        let transaction = Transaction { conditions, puts: vec![leader, self.presence(lease)] };
        let epoch = match self.store.commit(&transaction).await? {
            Outcome::Done(revision) => revision,
            Outcome::Refused(snapshot) => {
                let view = understand(&snapshot)?;
                match view.leader {
                    // The answer to an earlier try was lost.
                    Some(leader) if leader.claim == claim => leader.epoch,
                    Some(_) | None => {
                        return Err(ClusterError::Superseded { view: Box::new(view) });
                    }
                }
            }
        };
        if epoch <= newest {
            return Err(ClusterError::Restored { revision: epoch, newest });
        }
        Ok(epoch)
    }
}

/// The nodes of a cluster.
pub(super) fn members(view: &View) -> impl Iterator<Item = NodeId> {
    view.identity.iter().flat_map(|identity| &identity.nodes).map(|node| NodeId(*node))
}

/// The revision that last said which directory counts; 0 if nothing did.
pub(super) fn revision(view: &View, node: NodeId) -> u64 {
    view.directory(node).map_or(0, |directory| directory.modified)
}

/// Whether a data directory and a cluster go together.
pub(super) fn check(own: &Standing, cluster: &ClusterIdentity) -> Result<(), ClusterError> {
    let mine = &own.identity;
    if mine.nodes != cluster.nodes {
        let (cluster, own) = (cluster.nodes.clone(), mine.nodes.clone());
        return Err(ClusterError::Members { cluster, own });
    }
    if own.partitions_wanted != 0 && own.partitions_wanted != cluster.partitions {
        let (cluster, wanted) = (cluster.partitions, own.partitions_wanted);
        return Err(ClusterError::Partitions { cluster, wanted });
    }
    if !own.is_member {
        // It takes over what the cluster has.
        return Ok(());
    }
    if mine.id != cluster.id {
        return Err(ClusterError::OtherCluster { own: mine.id, cluster: cluster.id });
    }
    if mine.partitions != cluster.partitions {
        let (cluster, own) = (cluster.partitions.to_string(), mine.partitions.to_string());
        return Err(ClusterError::Differs { what: "partitions", cluster, own });
    }
    if mine.hash_key != cluster.hash_key {
        // The key is a secret.
        let (cluster, own) = ("one key".to_owned(), "another".to_owned());
        return Err(ClusterError::Differs { what: "hash_key", cluster, own });
    }
    Ok(())
}

/// What is so now, for those who only look.
///
/// # Errors
/// [`ClusterError::Metadata`], [`ClusterError::Malformed`].
pub async fn view(store: &impl Metadata) -> Result<View, ClusterError> {
    understand(&store.read().await?)
}

fn understand(snapshot: &Snapshot) -> Result<View, ClusterError> {
    View::of(snapshot).map_err(|message| ClusterError::Malformed { message })
}

/// Random bytes of the system.
pub(super) fn random() -> Result<[u8; 16], ClusterError> {
    random_bytes().map_err(|error| ClusterError::Malformed {
        message: format!("the system gives no random bytes: {error}"),
    })
}
