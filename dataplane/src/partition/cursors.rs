//! The fan-out cursors of a partition: which committed records some core has not been told of.
//!
//! A core never waits for another one's mailbox: its cursor stops, and what lies behind it is kept
//! until it moves on. Cursors go by the order of commitment, which is the order of offsets within
//! a level.

use crate::batch::{Level, MessageRef};
use crate::ids::{CoreId, Offset};
use crate::message::Message;
use crate::routing::CoreSet;
use std::collections::VecDeque;

/// A committed record that some core still wants, or that lies behind one.
#[derive(Debug)]
struct Kept {
    offset: Offset,
    level: Level,
    message: Message,
    wanted: CoreSet,
}

/// A destination core whose cursor stands still.
#[derive(Debug)]
struct Lag {
    core: CoreId,
    cursor: u64,
}

/// Records that are kept for cores that lag. Numbers count commitments, from 0:
/// `trimmed <= cursor <= committed`.
#[derive(Debug, Default)]
pub struct Cursors {
    /// The first commitment that is kept; `committed` if no core lags.
    trimmed: u64,
    committed: u64,
    kept: VecDeque<Kept>,
    kept_bytes: usize,
    /// Kept records of QoS 0 (retained messages): QoS 0 in no log must not pass them.
    qos0_kept: usize,
    lags: Vec<Lag>,
}

impl Cursors {
    /// Bytes of the records that are kept.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Takes note of a commitment. `missed` are the cores that want the record and could not be
    /// told now: their cursors stop here.
    pub(super) fn commit(
        &mut self,
        offset: Offset,
        level: Level,
        message: MessageRef<'_>,
        missed: CoreSet,
    ) {
        let number = self.committed;
        self.committed += 1;
        if missed.is_empty() && self.lags.is_empty() {
            self.trimmed = self.committed;
            return;
        }
        let message = message.to_message();
        self.kept_bytes += message.memory_bytes();
        self.qos0_kept += usize::from(message.head().qos == 0);
        self.kept.push_back(Kept { offset, level, message, wanted: missed });
        for core in missed.iter() {
            if !self.is_lagging(core) {
                self.lags.push(Lag { core, cursor: number });
            }
        }
    }

    /// Whether this core's cursor stands before some committed record: nothing may be sent to it
    /// out of turn.
    #[must_use]
    pub fn is_lagging(&self, core: CoreId) -> bool {
        self.lags.iter().any(|lag| lag.core == core)
    }

    /// Whether a QoS 0 message that is in no log would pass a record of QoS 0 on its way to a core.
    #[must_use]
    pub fn holds_qos0_for(&self, core: CoreId) -> bool {
        self.qos0_kept > 0 && self.is_lagging(core)
    }

    /// Whether any core's cursor stands still.
    #[must_use]
    pub fn has_lag(&self) -> bool {
        !self.lags.is_empty()
    }

    /// Moves the stopped cursors on: calls `mail` for each record that a core still wants, in
    /// their order per core, until it says that the mailbox is full. Drops the records that
    /// every cursor has passed.
    pub fn advance(&mut self, mut mail: impl FnMut(CoreId, Offset, Level, &Message) -> bool) {
        let (kept, trimmed, committed) = (&mut self.kept, self.trimmed, self.committed);
        self.lags.retain_mut(|lag| {
            while lag.cursor < committed {
                let record = &mut kept[(lag.cursor - trimmed) as usize];
                if record.wanted.contains(lag.core) {
                    if !mail(lag.core, record.offset, record.level, &record.message) {
                        return true;
                    }
                    record.wanted.remove(lag.core);
                }
                lag.cursor += 1;
            }
            false
        });
        self.trim();
    }

    fn trim(&mut self) {
        let keep_from = self.lags.iter().map(|lag| lag.cursor).fold(self.committed, u64::min);
        while self.trimmed < keep_from {
            let Some(record) = self.kept.pop_front() else { break };
            self.kept_bytes -= record.message.memory_bytes();
            self.qos0_kept -= usize::from(record.message.head().qos == 0);
            self.trimmed += 1;
        }
        debug_assert!(self.trimmed <= self.committed);
    }
}
