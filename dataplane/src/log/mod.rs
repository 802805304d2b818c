//! The commit log of a partition: what was acknowledged is found here after any crash.
//!
//! [`mod@format`] is the layout of segments and batches, [`record`] that of records; docs/formats/log.md
//! is the same as a document, with test vectors. [`writer`] hands batches to the disk in rounds and
//! moves the marks ([`progress`]), in files that [`segments`] has made; [`room`] says how much of them is kept free, and [`retention`] which of
//! them may go. [`reader`] reads beside it, and [`stored`] makes messages of what it finds. [`scan`]
//! reads segments batch by batch, and [`recovery`] opens a log with it after any end of the process;
//! [`index`] says where to begin reading. [`mod@truncate`] gives up the end of a
//! log whose leader has another one, [`mod@reset`] begins one anew behind a leader's checkpoint, and [`epoch_table`] finds what both are compared by. Nothing here does I/O of its own: files come in through
//! [`crate::disk`].

mod checksum;
pub mod epoch_table;
pub mod format;
mod gather;
pub mod index;
#[cfg(test)]
mod model_tests;
pub mod progress;
#[cfg(test)]
mod quorum_tests;
pub mod reader;
pub mod record;
mod recover_error;
pub mod recovery;
pub mod reset;
#[cfg(test)]
mod reset_tests;
pub mod retention;
#[cfg(test)]
mod rig;
pub mod room;
pub mod scan;
pub mod segments;
pub mod stored;
pub mod truncate;
#[cfg(test)]
mod truncate_tests;
pub mod writer;
