//! Keeps a node in its cluster: its lease, its key, and what it knows of who leads.
//!
//! Two tasks of the control thread. One keeps the lease at a third of its time, and reads the keys
//! after each: what a read shows was so after the keep-alive was sent, so that both together say
//! until when a leader may go on with what needs no quorum. The other watches for changes and reads
//! again at each, so that nobody waits a third of a lease to hear of a new leader. Errors are told
//! and tried again; nothing here decides anything.

use super::boottime::boottime;
use super::keys::View;
use super::membership::{ClusterError, Membership, random};
use super::metadata::{Changes, Granted, LeaseId, Metadata, MetadataError};
use ringlane_dataplane::ids::NodeId;
use ringlane_dataplane::time::Nanos;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

/// The lease is kept this often within its time.
const KEEPS_PER_LEASE: u32 = 3;

/// What failed is tried again after this part of the lease.
const RETRIES_PER_LEASE: u32 = 20;

/// A watch that has told nothing for so long is opened anew: its connection may be dead without a
/// word, as that to a host that lost its power.
const WATCH_LONGEST: Duration = Duration::from_secs(60);

/// A lease that is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Which one.
    pub id: LeaseId,
    /// `CLOCK_BOOTTIME` when the keep-alive was sent that was answered last.
    pub sent: Nanos,
    /// How long it counts from then on.
    pub ttl: Duration,
}

impl Lease {
    fn of(id: LeaseId, granted: Granted) -> Self {
        Self { id, sent: granted.sent, ttl: granted.ttl }
    }

    /// When it ends unless it is kept (`CLOCK_BOOTTIME`).
    #[must_use]
    pub fn ends(&self) -> Nanos {
        self.sent + self.ttl
    }
}

/// What a node knows of its cluster.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Known {
    /// What the keys said last.
    pub view: View,
    /// Its lease, if it has one, and the view was read after it was sent.
    pub lease: Option<Lease>,
    /// What did not work, if the last try did not.
    pub trouble: Option<String>,
}

impl Known {
    /// Until when `node` may do as the leader of `epoch` what needs no quorum (`CLOCK_BOOTTIME`):
    /// to be looked at after the flush, before the acknowledgement. `None` if it may not at all.
    #[must_use]
    pub fn leads_until(&self, node: NodeId, epoch: u64) -> Option<Nanos> {
        let leader = self.view.leader?;
        let leads = leader.node == node && leader.epoch == epoch;
        self.lease.filter(|_| leads).map(|lease| lease.ends())
    }
}

/// A node that is kept in its cluster until this is dropped.
#[derive(Debug)]
pub struct Keeper<M: Metadata> {
    membership: Arc<Membership<M>>,
    known: Arc<watch::Sender<Known>>,
    tasks: [AbortHandle; 2],
}

impl<M: Metadata> Keeper<M> {
    /// Takes a lease, registers the node, and keeps both; on the current runtime.
    ///
    /// # Errors
    /// The store does not answer, or the number is taken.
    pub async fn start(membership: Membership<M>, ttl: Duration) -> Result<Self, ClusterError> {
        let membership = Arc::new(membership);
        let lease = enter(&membership, ttl).await?;
        let view = membership.view().await?;
        Ok(Self::knowing(membership, ttl, Known { view, lease: Some(lease), trouble: None }))
    }

    /// The same for a node that has been in its cluster before, while the store does not answer: it has no
    /// lease yet and knows of nobody, which suffices to follow.
    #[must_use]
    pub fn start_alone(membership: Membership<M>, ttl: Duration, trouble: String) -> Self {
        let known = Known { trouble: Some(trouble), ..Known::default() };
        Self::knowing(Arc::new(membership), ttl, known)
    }

    fn knowing(membership: Arc<Membership<M>>, ttl: Duration, first: Known) -> Self {
        let known = Arc::new(watch::Sender::new(first));
        let keep = Keep { membership: Arc::clone(&membership), known: Arc::clone(&known), ttl };
        let follow = Follow { membership: Arc::clone(&membership), known: Arc::clone(&known), ttl };
        let tasks =
            [tokio::spawn(keep.run()).abort_handle(), tokio::spawn(follow.run()).abort_handle()];
        Self { membership, known, tasks }
    }

    /// What the node does with the metadata.
    #[must_use]
    pub fn membership(&self) -> &Membership<M> {
        &self.membership
    }

    /// What is known, and when it changes.
    #[must_use]
    pub fn known(&self) -> watch::Receiver<Known> {
        self.known.subscribe()
    }

    /// Becomes the leader, if nobody has since what is known now; gives the new epoch.
    ///
    /// # Errors
    /// As [`Membership::acquire`]; without a lease the store's trouble.
    pub async fn acquire(&self, newest: u64) -> Result<u64, ClusterError> {
        let Known { mut view, lease, trouble } = self.known.borrow().clone();
        let Some(lease) = lease else {
            let why = trouble.unwrap_or_else(|| "this node has no lease".to_owned());
            return Err(MetadataError::Unreachable { tried: vec![why] }.into());
        };
        if view.revision < newest {
            // Nodes tell each other of an epoch sooner than etcd tells all of them.
            view = self.membership.view().await?;
            self.known.send_if_modified(|known| take_view(known, view.clone()));
        }
        self.membership.acquire(&view, newest, lease.id).await
    }

    /// Leaves the cluster in an orderly way: the others see that this node has gone, and nothing is kept
    /// any more.
    ///
    /// # Errors
    /// The store; then the lease ends by itself.
    pub async fn leave(&self) -> Result<(), ClusterError> {
        for task in &self.tasks {
            task.abort();
        }
        let lease = self.known.borrow().lease;
        if let Some(lease) = lease {
            self.membership.store().revoke(lease.id).await?;
        }
        Ok(())
    }
}

impl<M: Metadata> Drop for Keeper<M> {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Takes a new lease and registers with it.
async fn enter<M: Metadata>(
    membership: &Membership<M>,
    ttl: Duration,
) -> Result<Lease, ClusterError> {
    let id = new_lease()?;
    let granted = membership.store().grant(id, ttl).await?;
    if let Err(error) = membership.register(id).await {
        // Nobody is to wait for the end of a lease that has no key.
        if let Err(left) = membership.store().revoke(id).await {
            debug!(%left, "a lease that is not needed ends by itself");
        }
        return Err(error);
    }
    Ok(Lease::of(id, granted))
}

/// A lease's identifier, drawn.
pub(super) fn new_lease() -> Result<LeaseId, ClusterError> {
    let bytes = random()?;
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[..8]);
    // etcd's are positive 64-bit integers, and 0 means "choose one for me".
    Ok(LeaseId((u64::from_le_bytes(number) >> 1).max(1)))
}

/// Takes in a newer view; an older one, read before, is left.
fn take_view(known: &mut Known, view: View) -> bool {
    let is_newer = known.view.revision < view.revision;
    if is_newer {
        known.view = view;
    }
    is_newer
}

/// The task that keeps the lease.
struct Keep<M> {
    membership: Arc<Membership<M>>,
    known: Arc<watch::Sender<Known>>,
    ttl: Duration,
}

impl<M: Metadata> Keep<M> {
    async fn run(self) {
        loop {
            let pause = match self.known.borrow().trouble {
                None => self.ttl / KEEPS_PER_LEASE,
                Some(_) => self.ttl / RETRIES_PER_LEASE,
            };
            sleep(pause).await;
            match self.step().await {
                Ok((lease, view)) => self.well(lease, view),
                Err(error) => self.ill(&error),
            }
        }
    }

    /// Keeps the lease, or takes a new one if it has ended; then reads.
    async fn step(&self) -> Result<(Lease, View), ClusterError> {
        let lease = self.known.borrow().lease;
        let kept = match lease {
            Some(lease) => match self.membership.store().keep_alive(lease.id).await {
                Ok(granted) => Some(Lease::of(lease.id, granted)),
                Err(MetadataError::LeaseLost { lease }) => {
                    warn!(%lease, "the lease of this node has ended; taking a new one");
                    self.known.send_modify(|known| known.lease = None);
                    None
                }
                Err(error) => return Err(error.into()),
            },
            None => None,
        };
        let lease = match kept {
            Some(lease) => lease,
            None => enter(&self.membership, self.ttl).await?,
        };
        Ok((lease, self.read().await?))
    }

    /// Reads, once more if the other task has read something newer meanwhile: then only a store that
    /// has gone back in time shows something older.
    async fn read(&self) -> Result<View, ClusterError> {
        let view = self.membership.view().await?;
        let known = self.known.borrow().view.revision;
        if view.revision < known { self.membership.view().await } else { Ok(view) }
    }

    fn well(&self, lease: Lease, view: View) {
        let had_trouble = self.known.borrow().trouble.is_some();
        if had_trouble {
            info!("etcd answers again");
        }
        self.known.send_modify(|known| {
            if view.revision < known.view.revision {
                warn!(
                    revision = view.revision,
                    known = known.view.revision,
                    "etcd has gone back in time: was it restored from a backup?"
                );
            }
            // Also an older one: what is so now counts.
            known.view = view;
            known.lease = Some(lease);
            known.trouble = None;
        });
    }

    fn ill(&self, error: &ClusterError) {
        let message = error.to_string();
        let is_first = self.known.borrow().trouble.is_none();
        if is_first {
            warn!("{message}");
        }
        let now = boottime();
        self.known.send_modify(|known| {
            // An old lease is kept in mind while it counts: the next try may still be in time.
            if known.lease.is_some_and(|lease| lease.ends() <= now) && is_first {
                warn!("the lease of this node has not been kept in time");
            }
            known.trouble = Some(message);
        });
    }
}

/// The task that hears of changes.
struct Follow<M> {
    membership: Arc<Membership<M>>,
    known: Arc<watch::Sender<Known>>,
    ttl: Duration,
}

impl<M: Metadata> Follow<M> {
    async fn run(self) {
        loop {
            if let Err(error) = self.follow().await {
                debug!(%error, "the watch of etcd has ended; opening another one");
                sleep(self.ttl / RETRIES_PER_LEASE).await;
            }
        }
    }

    /// Watches from a reading on, so that no change falls between, until it ends.
    async fn follow(&self) -> Result<(), ClusterError> {
        let from = self.read().await? + 1;
        let mut changes = self.membership.store().watch(from).await?;
        loop {
            match timeout(WATCH_LONGEST, changes.next()).await {
                Ok(Ok(_)) => drop(self.read().await?),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => return Ok(()),
            }
        }
    }

    async fn read(&self) -> Result<u64, ClusterError> {
        let view = self.membership.view().await?;
        let revision = view.revision;
        self.known.send_if_modified(|known| take_view(known, view));
        Ok(revision)
    }
}
