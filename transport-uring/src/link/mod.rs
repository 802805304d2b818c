//! Links over TCP: the third seam that a core's driver implements, beside its sockets and its files.
//!
//! They have a table of their own instead of a place among the clients' connections. A client's
//! bytes go through shared receive buffers and are cut into packets by the broker; a link has one
//! receive buffer to itself, which the kernel writes into and messages are delivered from, and its
//! sends go out of the batches of the log. They dial, say hello, and end without a farewell, none of
//! which clients do (docs/adr/0007). What they share with clients is the engine, and the ids
//! that name a socket to it: those of links are the slots from [`FIRST_SLOT`] on.
//!
//! `opening` is the way of a link until it is up, `traffic` what goes over it, `closing` its end. An
//! event waits in `table` until [`LinkDriver::deliver`](ringlane_dataplane::link::LinkDriver) asks for it.

mod assembly;
mod backoff;
mod closing;
mod config;
mod opening;
mod peer;
mod table;
mod traffic;

pub use config::LinkConfig;
pub(crate) use table::TcpLinks;

use ringlane_dataplane::ids::ConnectionId;

/// Slots from here on name links to the engine. No table of clients is that long.
pub(crate) const FIRST_SLOT: u32 = 1 << 27;

/// Whether an id that the engine uses is that of a link.
pub(crate) fn is_link(connection: ConnectionId) -> bool {
    connection.slot >= FIRST_SLOT
}

/// The position in tables of links of an id that is that of one.
pub(crate) fn position(connection: ConnectionId) -> usize {
    (connection.slot - FIRST_SLOT) as usize
}
