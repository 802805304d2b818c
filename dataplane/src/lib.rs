//! Ringlane's data plane: it decides, and does no I/O itself.
//!
//! One [`runtime`] core is one pinned thread that owns everything it touches. Time, sockets and
//! wake-ups come in through the seam in [`net`], other nodes through that in [`link`], files through
//! that in [`disk`]; mails from other cores come in through [`runtime::mailbox`]. Nothing here knows
//! the clock, the kernel, or MQTT on the wire.
//!
//! Reading order: [`ids`], [`time`], [`message`], [`batch`], [`net`], [`link`], [`disk`],
//! [`runtime`], [`routing`], [`log`], [`replication`].

pub mod batch;
pub mod clock;
pub mod disk;
pub mod ids;
pub mod link;
pub mod log;
pub mod message;
pub mod net;
pub mod partition;
mod peer;
pub mod planted;
pub mod random;
pub mod replication;
pub mod routing;
pub mod runtime;
pub mod time;
pub mod wide_table;
