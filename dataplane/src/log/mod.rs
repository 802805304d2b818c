//! The commit log of a partition: what was acknowledged is found here after any crash.
//!
//! [`format`] is the layout of segments and batches, [`record`] that of records; docs/formats/log.md
//! is the same as a document, with test vectors. Nothing here does I/O.

pub mod format;
pub mod record;
