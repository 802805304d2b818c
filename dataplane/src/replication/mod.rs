//! Replication: what the nodes of a cluster say to each other, and what they make of it.
//!
//! [`hello`] is what both ends of a link say first, [`message`] what they say after it, and [`wire`] the
//! bytes of that;
//! docs/formats/replication.md is the same as a document, with test vectors. Nothing here does I/O,
//! knows the clock or draws a random number.

mod bytes;
pub mod epochs;
pub mod hello;
pub mod message;
pub mod wire;
