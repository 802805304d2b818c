//! The metadata in memory: a small model of etcd whose time, outages and restored backups are the
//! test's to command.

use super::metadata::{
    Changes, Condition, Granted, KeyValue, LeaseId, Metadata, MetadataError, Outcome, Snapshot,
    Transaction,
};
use ringlane_dataplane::time::Nanos;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// A store that all its clones share.
#[derive(Clone, Debug)]
pub struct Memory {
    state: Arc<Mutex<State>>,
    /// The revision that was reached; told to those who watch.
    reached: watch::Sender<u64>,
}

#[derive(Clone, Debug, Default)]
struct State {
    now: Nanos,
    revision: u64,
    keys: BTreeMap<String, KeyValue>,
    leases: BTreeMap<LeaseId, Lease>,
    /// Revisions of changes that a watch can still be told, ascending.
    history: Vec<u64>,
    /// The first revision that is kept.
    compacted: u64,
    is_down: bool,
    /// Transactions from now on that are carried out, and whose answer is lost.
    lost_answers: u32,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl: Duration,
    ends: Nanos,
}

/// What a backup of the store holds.
#[derive(Clone, Debug)]
pub struct Backup(State);

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// An empty store, at revision 1 as etcd is.
    #[must_use]
    pub fn new() -> Self {
        let state = State { revision: 1, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), reached: watch::Sender::new(1) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time that leases are counted on.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.state().now
    }

    /// Lets time pass; leases that end take their keys along.
    pub fn advance(&self, time: Duration) {
        let mut state = self.state();
        state.now = state.now + time;
        let now = state.now;
        let ended: Vec<LeaseId> =
            state.leases.iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).collect();
        for lease in ended {
            state.end(lease);
        }
        self.tell(state.revision);
    }

    /// Whether nobody gets an answer.
    pub fn set_down(&self, is_down: bool) {
        self.state().is_down = is_down;
    }

    /// Carries out so many transactions without an answer.
    pub fn lose_answers(&self, count: u32) {
        self.state().lost_answers = count;
    }

    /// Takes a backup.
    #[must_use]
    pub fn backup(&self) -> Backup {
        Backup(self.state().clone())
    }

    /// Puts a backup back: the revision goes back with it. Watches that are open stay without a
    /// word until the old revision is passed.
    pub fn restore(&self, backup: Backup) {
        *self.state() = backup.0;
    }

    /// Forgets the changes so far.
    pub fn compact(&self) {
        let mut state = self.state();
        state.compacted = state.revision + 1;
        state.history.clear();
    }

    fn tell(&self, revision: u64) {
        self.reached.send_if_modified(|reached| {
            let is_new = *reached != revision;
            *reached = revision;
            is_new
        });
    }

    fn up(&self) -> Result<MutexGuard<'_, State>, MetadataError> {
        let state = self.state();
        if state.is_down {
            return Err(unreachable("it is down"));
        }
        Ok(state)
    }
}

fn unreachable(message: &str) -> MetadataError {
    MetadataError::Unreachable { tried: vec![format!("memory: {message}")] }
}

impl State {
    fn snapshot(&self) -> Snapshot {
        Snapshot { revision: self.revision, entries: self.keys.values().cloned().collect() }
    }

    fn holds(&self, condition: &Condition) -> bool {
        match condition {
            Condition::Holds { key, value } => {
                self.keys.get(key).is_some_and(|entry| entry.value == *value)
            }
            Condition::Modified { key, revision } => {
                self.keys.get(key).map_or(0, |entry| entry.modified) == *revision
            }
        }
    }

    fn change(&mut self) {
        self.revision += 1;
        self.history.push(self.revision);
    }

    fn end(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
        let before = self.keys.len();
        self.keys.retain(|_, entry| entry.lease != Some(lease));
        if self.keys.len() != before {
            self.change();
        }
    }

    fn put(&mut self, transaction: &Transaction) -> Result<u64, MetadataError> {
        let lost = transaction.puts.iter().filter_map(|put| put.lease);
        if let Some(lease) = lost.into_iter().find(|lease| !self.leases.contains_key(lease)) {
            return Err(MetadataError::LeaseLost { lease });
        }
        self.change();
        for put in &transaction.puts {
            let entry = KeyValue {
                key: put.key.clone(),
                value: put.value.clone(),
                modified: self.revision,
                lease: put.lease,
            };
            self.keys.insert(put.key.clone(), entry);
        }
        Ok(self.revision)
    }

    fn give(&mut self, id: LeaseId, ttl: Duration) -> Granted {
        self.leases.insert(id, Lease { ttl, ends: self.now + ttl });
        Granted { sent: self.now, ttl }
    }
}

impl Metadata for Memory {
    type Changes = MemoryChanges;

    async fn read(&self) -> Result<Snapshot, MetadataError> {
        Ok(self.up()?.snapshot())
    }

    async fn commit(&self, transaction: &Transaction) -> Result<Outcome, MetadataError> {
        let mut state = self.up()?;
        if !transaction.conditions.iter().all(|condition| state.holds(condition)) {
            return Ok(Outcome::Refused(state.snapshot()));
        }
        let revision = state.put(transaction)?;
        self.tell(revision);
        if 0 < state.lost_answers {
            state.lost_answers -= 1;
            // It is sent again, as every client of etcd does that has several endpoints.
            return Ok(Outcome::Refused(state.snapshot()));
        }
        Ok(Outcome::Done(revision))
    }

    async fn grant(&self, lease: LeaseId, ttl: Duration) -> Result<Granted, MetadataError> {
        Ok(self.up()?.give(lease, ttl))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Granted, MetadataError> {
        let mut state = self.up()?;
        match state.leases.get(&lease).copied() {
            Some(Lease { ttl, .. }) => Ok(state.give(lease, ttl)),
            None => Err(MetadataError::LeaseLost { lease }),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), MetadataError> {
        let mut state = self.up()?;
        state.end(lease);
        self.tell(state.revision);
        Ok(())
    }

    async fn remaining(&self, lease: LeaseId) -> Result<Option<Duration>, MetadataError> {
        let state = self.up()?;
        Ok(state.leases.get(&lease).map(|lease| lease.ends.since(state.now)))
    }

    async fn watch(&self, revision: u64) -> Result<MemoryChanges, MetadataError> {
        drop(self.up()?);
        Ok(MemoryChanges {
            memory: self.clone(),
            reached: self.reached.subscribe(),
            next: revision,
        })
    }
}

/// Changes of the store in memory.
#[derive(Debug)]
pub struct MemoryChanges {
    memory: Memory,
    reached: watch::Receiver<u64>,
    next: u64,
}

impl Changes for MemoryChanges {
    async fn next(&mut self) -> Result<u64, MetadataError> {
        loop {
            self.reached.mark_unchanged();
            let found = {
                let state = self.memory.up()?;
                if self.next < state.compacted {
                    return Err(MetadataError::Compacted { revision: state.compacted });
                }
                state.history.iter().copied().find(|revision| self.next <= *revision)
            };
            if let Some(revision) = found {
                self.next = revision + 1;
                return Ok(revision);
            }
            self.reached.changed().await.map_err(|_| unreachable("it has gone"))?;
        }
    }
}
