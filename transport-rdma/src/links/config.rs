//! How a core's links over verbs behave.

use crate::settings::RdmaSettings;
use core::time::Duration;
use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::replication::hello::{Expected, Transports};

/// The links of one core.
#[derive(Clone, Debug)]
pub struct RdmaLinkConfig {
    /// The core.
    pub core: CoreId,
    /// Who may call this node.
    pub expected: Expected,
    /// How this node can talk: where TCP is not among it, no peer that has called is left to TCP.
    pub transports: Transports,
    /// The device and how it is used.
    pub settings: RdmaSettings,
    /// Bytes of the longest message that this node takes.
    pub message_bytes_max: u32,
    /// How long a peer that was dialed may take to answer, and this core to answer one that has called.
    pub hello_timeout: Duration,
    /// How long one try to connect, hellos included, may take.
    pub connect_timeout: Duration,
    /// How long a dial tries again before it gives up.
    pub dial_timeout: Duration,
    /// Between two tries.
    pub backoff: Duration,
}

impl RdmaLinkConfig {
    /// The defaults for a core.
    #[must_use]
    pub fn new(core: CoreId, expected: Expected, settings: RdmaSettings) -> Self {
        Self {
            core,
            expected,
            transports: Transports::TCP.with(Transports::RDMA),
            settings,
            message_bytes_max: ringlane_dataplane::replication::wire::MESSAGE_BYTES_MAX,
            hello_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            dial_timeout: Duration::from_secs(3),
            backoff: Duration::from_millis(50),
        }
    }
}
