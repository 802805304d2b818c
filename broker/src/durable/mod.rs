//! Durable sessions: what a partition's log says of its sessions, and the state that it adds up to.
//!
//! `records` are the state records and `model` the state that they are applied to, while the broker
//! runs and when it starts. `postings` say where the messages lie that sessions are owed; `pending`
//! merges them for one session, `sweep` drops what nobody needs, `snapshot` writes the state into a
//! checkpoint, `recovered` matches what lies behind the cursors after a crash. All of these are pure.
//!
//! While the broker runs, `live` appends and applies, `waits` are those who wait for the disk, `overdue` is what
//! waits for room in the log, `room` says what has room there and `ballast` keeps some for checkpoints,
//! `lifecycle`, `exchange` and `retained` say what is recorded when, and `upkeep` is what is done
//! once a second: `checkpointing` writes checkpoints and `trimming` lets go of what is behind them. `start` makes the state of a node out of its logs, `standby` a core's sessions
//! and routes out of that, before it is needed where a core follows, and `restore` and `settle` what is left.

mod ballast;
mod bytes;
mod catch_up;
pub(crate) mod checkpoint;
mod checkpointing;
mod exchange;
mod expiring;
mod lifecycle;
mod live;
mod model;
mod overdue;
mod pending;
mod posting_block;
mod postings;
mod ranges;
mod record_parts;
mod records;
mod recovered;
mod restore;
mod retained;
mod room;
mod session;
mod settle;
mod slab;
mod snapshot;
mod standby;
mod start;
mod sweep;
mod trimming;
mod upkeep;
mod waits;

pub(crate) use ballast::BALLAST_NAME;
pub(crate) use catch_up::{QUEUE_BYTES_MAX, QUEUE_MESSAGES_MAX, What, Window};
pub(crate) use checkpointing::{Checkpoints, Followed, KEPT, Kept};
pub(crate) use live::Durable;
pub(crate) use model::PartitionState;
pub(crate) use overdue::DueWill;
pub(crate) use pending::OwedPosting;
pub(crate) use postings::Place;
pub(crate) use ranges::Ranges;
pub(crate) use records::{ReplayBody, StateRecord, SubscriptionOptions};
pub(crate) use session::SessionState;
pub(crate) use settle::Settling;
pub(crate) use standby::Standby;
pub(crate) use start::{CoreState, NodeState, Recovery, posted_filters, publisher_of};
pub(crate) use waits::Kept as KeptByMembers;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod standby_tests;
