//! How a core's links over verbs behave.

use crate::settings::RdmaSettings;
use core::net::SocketAddr;
use core::time::Duration;
use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::replication::hello::Expected;

/// The links of one core.
#[derive(Clone, Debug)]
pub struct RdmaLinkConfig {
    /// The core.
    pub core: CoreId,
    /// Who may call this node.
    pub expected: Expected,
    /// The device and how it is used.
    pub settings: RdmaSettings,
    /// Bytes of the longest message that this node takes.
    pub message_bytes_max: u32,
    /// Where peers call; none if another driver accepts and hands over what has said hello.
    pub listen: Option<SocketAddr>,
    /// How long a peer may take to say hello, and this core to answer it.
    pub hello_timeout: Duration,
    /// How long one try to connect, hellos included, may take.
    pub connect_timeout: Duration,
    /// How long a dial tries again before it gives up.
    pub dial_timeout: Duration,
    /// Between two tries.
    pub backoff: Duration,
    /// Peers that have been accepted and are not up, at most; further ones are turned away.
    pub greetings_max: usize,
}

impl RdmaLinkConfig {
    /// The defaults for a core.
    #[must_use]
    pub fn new(core: CoreId, expected: Expected, settings: RdmaSettings) -> Self {
        Self {
            core,
            expected,
            settings,
            message_bytes_max: ringlane_dataplane::replication::wire::MESSAGE_BYTES_MAX,
            listen: None,
            hello_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            dial_timeout: Duration::from_secs(3),
            backoff: Duration::from_millis(50),
            greetings_max: 64,
        }
    }
}
