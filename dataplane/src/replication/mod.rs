//! Replication: what the nodes of a cluster say to each other, and what they make of it.
//!
//! Each partition has a [`replica::Replica`] on every node: a leader whose log the others follow.
//! [`replica`] says how to run one, [`command`] what it asks for; what it does in each role is in
//! `follower`, `takeover` and `leader`. [`epochs`] finds where two logs part, [`quorum`] how many are enough,
//! [`reign`] is what a node has promised.
//!
//! [`election`] is one per node: who wants to lead all of them.
//!
//! [`hello`] is what both ends of a link say first, [`message`] what they say after it, and [`wire`] the
//! bytes of that; docs/formats/replication.md is the same as a document, with test vectors. Nothing here
//! does I/O, knows the clock or draws a random number.

mod bytes;
pub mod command;
pub mod election;
pub mod epochs;
mod follower;
pub mod hello;
pub mod host;
mod leader;
pub mod message;
#[cfg(test)]
mod model;
#[cfg(test)]
mod model_tests;
pub mod quorum;
pub mod reign;
pub mod replica;
mod tail;
mod takeover;
pub mod wire;

pub use follower::CHECKPOINT_WINDOW_BYTES;
