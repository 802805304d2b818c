//! Durable sessions: what a partition's log says of its sessions, and the state that it adds up to.
//!
//! `records` are the state records and `model` the state that they are applied to, while the broker
//! runs and when it starts. `postings` say where the messages lie that sessions are owed; `pending`
//! merges them for one session, `sweep` drops what nobody needs, `snapshot` writes the state into a
//! checkpoint, `recovered` matches what lies behind the cursors after a crash.

mod bytes;
mod model;
mod pending;
mod postings;
mod records;
mod recovered;
mod session;
mod slab;
mod snapshot;
mod sweep;

#[cfg(test)]
mod model_tests;
