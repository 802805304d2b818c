//! The commit log of a partition: what was acknowledged is found here after any crash.
//!
//! [`format`] is the layout of segments and batches, [`record`] that of records; docs/formats/log.md
//! is the same as a document, with test vectors. [`writer`] hands batches to the disk in rounds and
//! moves the marks ([`progress`]), in files that [`segments`] has made. Nothing here does I/O.

pub mod format;
pub mod progress;
pub mod record;
pub mod segments;
pub mod writer;
