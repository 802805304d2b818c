//! How a core's links over TCP behave.

use crate::config::TransportError;
use core::time::Duration;
use ringlane_dataplane::ids::ListenerId;
use ringlane_dataplane::replication::hello::{Expected, HELLO_BYTES, Transports};

/// The links of one core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// Which of the core's listeners is for links; what it accepts is never a client.
    pub listener: ListenerId,
    /// Who may call this node.
    pub expected: Expected,
    /// How this node can talk, for calls that come in.
    pub transports: Transports,
    /// How long a peer may leave sent bytes unacknowledged, its window closed, or, when nothing is
    /// sent, the probes that then go out each second unanswered (TCP_USER_TIMEOUT and SO_KEEPALIVE,
    /// tcp(7)): 100 ms to 60 s.
    pub silence: Duration,
    /// How long a peer may take to say hello, and this core to answer it.
    pub hello_timeout: Duration,
    /// How long one try to connect may take.
    pub connect_timeout: Duration,
    /// How long a dial tries again before it gives up.
    pub dial_timeout: Duration,
    /// Between the first two tries to reach a core of a peer, however many dials they belong to; twice as
    /// long with each try after that.
    pub backoff_min: Duration,
    /// Between two tries, at most. A link that was up for longer than this makes the next dial the first.
    pub backoff_max: Duration,
    /// Bytes of a link's receive buffer, 4 KiB to 64 MiB. A longer message makes it grow for as long as it
    /// takes to deliver it.
    pub receive_bytes: u32,
    /// Peers that have been accepted and have not said hello, at most; a further one takes the place of the one that has
    /// been silent for longest.
    pub greetings_max: u16,
}

impl LinkConfig {
    /// The defaults for a node.
    #[must_use]
    pub fn new(listener: ListenerId, expected: Expected) -> Self {
        Self {
            listener,
            expected,
            transports: Transports::TCP,
            silence: Duration::from_secs(2),
            hello_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_millis(500),
            dial_timeout: Duration::from_secs(3),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_millis(500),
            receive_bytes: 256 * 1024,
            greetings_max: 64,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), TransportError> {
        let wrong = |field, allowed| Err(TransportError::Config { field, allowed });
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&self.silence) {
            return wrong("links.silence", "100 ms to 60 s");
        }
        if !(4096..=64 << 20).contains(&self.receive_bytes) {
            return wrong("links.receive_bytes", "4 KiB to 64 MiB");
        }
        if self.greetings_max == 0 {
            return wrong("links.greetings_max", "at least 1");
        }
        if self.backoff_min.is_zero() || self.backoff_min > self.backoff_max {
            return wrong("links.backoff_min", "above zero, and at most links.backoff_max");
        }
        Ok(())
    }
}

const _: () = assert!(HELLO_BYTES <= 4096, "a hello fits into every receive buffer");
