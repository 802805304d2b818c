//! A client whose output grows faster than it reads: for a moment the publishers of its QoS 0 are
//! held up, as at a full mailbox; then its messages are dropped until it has caught up.
//!
//! A burst that a client takes a moment to read costs nothing, and a client that does not read costs
//! its publishers one such moment.

use crate::connection::Link;
use crate::service::Sizes;
use ringlane_dataplane::net::Sockets;
use ringlane_dataplane::time::Nanos;
use std::time::Duration;

/// How long a full output may hold up the publishers.
pub(crate) const OUTPUT_WAIT: Duration = Duration::from_millis(10);

/// What is to be done with QoS 0 for a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pressure {
    Send,
    /// Its publisher had better wait.
    Wait,
    Drop,
}

/// Whether so much of a full output has gone that publishers may go on.
pub(crate) fn has_room_again(unsent_bytes: usize, output_bytes_high: usize) -> bool {
    unsent_bytes <= output_bytes_high / 2
}

impl Link {
    /// Looks at the output, and remembers since when it has been full.
    #[inline]
    pub(super) fn pressure(&mut self, sockets: &Sockets, sizes: &Sizes, now: Nanos) -> Pressure {
        let unsent_bytes = sockets.unsent_bytes(self.connection);
        if unsent_bytes <= sizes.output_bytes_high {
            if self.full_since != Nanos::NEVER
                && has_room_again(unsent_bytes, sizes.output_bytes_high)
            {
                self.full_since = Nanos::NEVER;
            }
            return Pressure::Send;
        }
        self.full_since = self.full_since.min(now);
        if now.since(self.full_since) < OUTPUT_WAIT { Pressure::Wait } else { Pressure::Drop }
    }
}
