//! The seam of the cluster's metadata: a few keys, transactions with a revision, leases.
//!
//! Keys are named without the prefix that an implementation puts before them.
//!
//! [`Etcd`](super::etcd::Etcd) is what clusters use, [`Memory`](super::memory::Memory) what tests
//! do. What the keys mean is decided above the seam, once for both.

use ringlane_dataplane::time::Nanos;
use std::fmt;
use std::time::Duration;
use thiserror::Error;

/// The identifier of a lease; chosen at random by whoever asks for it, so that asking again after
/// an answer was lost does no harm. From 1 to 2^63 - 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One key with its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyValue {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// The revision of its last change.
    pub modified: u64,
    /// The lease whose end takes the key away.
    pub lease: Option<LeaseId>,
}

/// All keys at one revision.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// Of the store: it grows with every change of any key.
    pub revision: u64,
    /// By key.
    pub entries: Vec<KeyValue>,
}

/// What must hold for a transaction to be carried out; revision 0 = there is no such key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Condition {
    /// The key has this value.
    Holds {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
    },
    /// This revision was the last to change the key.
    Modified {
        /// The key.
        key: String,
        /// The revision.
        revision: u64,
    },
}

/// A key that gets a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Put {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// The lease whose end takes it away.
    pub lease: Option<LeaseId>,
}

/// Puts that are carried out together or not at all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Transaction {
    /// All of these must hold.
    pub conditions: Vec<Condition>,
    /// Then these are done.
    pub puts: Vec<Put>,
}

/// What became of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was carried out, and has this revision.
    Done(u64),
    /// A condition does not hold, or did not any more: an earlier try may have been carried out
    /// whose answer was lost.
    Refused(Snapshot),
}

/// A lease that was granted or kept alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Granted {
    /// `CLOCK_BOOTTIME` just before the request was sent: from then on it counts, not from when
    /// the answer came.
    pub sent: Nanos,
    /// How long it was given.
    pub ttl: Duration,
}

/// Why the store did not do it.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum MetadataError {
    /// No endpoint answered.
    #[error(
        "etcd does not answer ({}); check that it runs, and that cluster.etcd.endpoints names it",
        .tried.join("; ")
    )]
    Unreachable {
        /// Each endpoint with what did not work.
        tried: Vec<String>,
    },
    /// It answered, and refused.
    #[error("{endpoint}: etcd refuses {call}: {message}{}", remedy(.message))]
    Refused {
        /// Who.
        endpoint: String,
        /// What.
        call: &'static str,
        /// What it said.
        message: String,
    },
    /// The file with the password cannot be read.
    #[error("cannot read the password of etcd: {message}; set cluster.etcd.password_file")]
    Password {
        /// The file, and what the system said.
        message: String,
    },
    /// The lease has ended: etcd heard nothing of it for too long.
    #[error("lease {lease} has ended; a new one is asked for")]
    LeaseLost {
        /// Which one.
        lease: LeaseId,
    },
    /// The changes that were asked for are not kept any more.
    #[error("changes up to revision {revision} are not kept any more; all is read again")]
    Compacted {
        /// The first revision that is kept.
        revision: u64,
    },
}

/// What to do about a refusal, as far as it is known.
fn remedy(message: &str) -> &'static str {
    match message {
        text if text.contains("invalid user ID or password") => {
            "; check cluster.etcd.username and cluster.etcd.password_file"
        }
        text if text.contains("authentication is not enabled") => {
            "; enable it, or take cluster.etcd.username out of the configuration"
        }
        text if text.contains("user name is empty") => {
            "; set cluster.etcd.username and cluster.etcd.password_file"
        }
        text if text.contains("permission denied") => {
            "; grant the user readwrite on the keys below cluster.etcd.prefix: `etcdctl role \
             grant-permission ROLE --prefix=true readwrite PREFIX`"
        }
        text if text.contains("database space exceeded") => {
            "; compact and defragment etcd, and disarm the alarm"
        }
        text if text.contains("Not Found") => "; is it etcd 3.4 or later, with its gateway on?",
        _ => "",
    }
}

/// The store. All reads are linearizable: what a read shows was true after it was sent.
pub trait Metadata: Send + Sync + 'static {
    /// Tells when keys change.
    type Changes: Changes;

    /// Reads all keys.
    fn read(&self) -> impl Future<Output = Result<Snapshot, MetadataError>> + Send;

    /// Carries out a transaction. If an answer is lost it is sent again, so that one that was
    /// carried out may come back as refused.
    fn commit(
        &self,
        transaction: &Transaction,
    ) -> impl Future<Output = Result<Outcome, MetadataError>> + Send;

    /// Makes a lease; whole seconds, rounded up.
    fn grant(
        &self,
        lease: LeaseId,
        ttl: Duration,
    ) -> impl Future<Output = Result<Granted, MetadataError>> + Send;

    /// Begins the time of a lease anew.
    fn keep_alive(
        &self,
        lease: LeaseId,
    ) -> impl Future<Output = Result<Granted, MetadataError>> + Send;

    /// Ends a lease, and its keys.
    fn revoke(&self, lease: LeaseId) -> impl Future<Output = Result<(), MetadataError>> + Send;

    /// How long a lease has left; `None` if it has ended.
    fn remaining(
        &self,
        lease: LeaseId,
    ) -> impl Future<Output = Result<Option<Duration>, MetadataError>> + Send;

    /// Changes from `revision` on, that one included.
    fn watch(
        &self,
        revision: u64,
    ) -> impl Future<Output = Result<Self::Changes, MetadataError>> + Send;
}

/// A stream of changes.
pub trait Changes: Send {
    /// Waits for the next change and gives its revision. Nothing is lost if the caller stops
    /// waiting.
    fn next(&mut self) -> impl Future<Output = Result<u64, MetadataError>> + Send;
}
