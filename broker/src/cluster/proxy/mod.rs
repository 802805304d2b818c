//! Clients of a node that follows are passed on to the leader.
//!
//! Ordinary clients do not follow a reference to another server, so a follower joins each of them
//! to the leader: the PROXY protocol names the client, then bytes go both ways until one side ends
//! or somebody else leads. While nobody is known to lead, clients wait, for a bounded time. Where the
//! operator wants it (`cluster.redirect`) clients of MQTT 5 are told where the leader is instead.
//!
//! It knows nothing of MQTT but where a CONNECT (`opening`) and other packets end (`boundary`), so that it can
//! say why it ends a client (`farewell`), and runs as tasks of the control thread: what is bounded is how many
//! clients there are and what is held of each.

mod boundary;
mod farewell;
mod flow;
mod metrics;
mod opening;
mod pair;
#[cfg(test)]
mod tests;

pub(crate) use metrics::ProxyMetrics;

use crate::service::ListenerKind;
use pair::Pair;
use ringlane_dataplane::ids::NodeId;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tracing::debug;

/// What bounds the proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ProxyLimits {
    /// Clients at once; further ones are closed (`replication.proxy_connections`).
    pub(crate) connections_max: usize,
    /// How long a client waits for a leader, or for one that can be reached, before it is closed.
    pub(crate) wait: Duration,
}

/// Who leads, and where it takes clients that other nodes pass on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ProxyTarget {
    /// The leader.
    pub(crate) node: NodeId,
    /// Its epoch.
    pub(crate) epoch: u64,
    /// Host and port of its listener for MQTT behind the PROXY protocol.
    pub(crate) mqtt: Option<String>,
    /// The same for WebSocket.
    pub(crate) websocket: Option<String>,
    /// What clients of MQTT 5 are told instead of being passed on, and when another one leads
    /// (`cluster.redirect`).
    pub(crate) reference: Option<String>,
}

impl ProxyTarget {
    /// The same node in a later epoch is another leader.
    fn reign(&self) -> (NodeId, u64) {
        (self.node, self.epoch)
    }

    fn address(&self, kind: ListenerKind) -> Option<&str> {
        match kind {
            ListenerKind::Tcp => self.mqtt.as_deref(),
            ListenerKind::WebSocket => self.websocket.as_deref(),
        }
    }
}

/// A client that a core of a follower has accepted.
#[derive(Debug)]
pub(crate) struct AcceptedClient {
    /// Its socket, with no operation in flight.
    pub(crate) socket: OwnedFd,
    /// What it speaks.
    pub(crate) kind: ListenerKind,
    /// Whether a load balancer's header of the PROXY protocol comes first: that one is passed on
    /// then, and none is written.
    pub(crate) is_behind_balancer: bool,
    /// Its address.
    pub(crate) peer: SocketAddr,
    /// What was read of it already.
    pub(crate) bytes: Vec<u8>,
}

/// Joins clients to the leader. What it has taken goes on without it, and ends with the sender of
/// the leader.
#[derive(Debug)]
pub(crate) struct Proxy {
    limits: ProxyLimits,
    leader: watch::Receiver<Option<ProxyTarget>>,
    slots: Arc<Semaphore>,
    metrics: Arc<ProxyMetrics>,
}

impl Proxy {
    /// A proxy to whoever `leader` names.
    pub(crate) fn new(limits: ProxyLimits, leader: watch::Receiver<Option<ProxyTarget>>) -> Self {
        let slots = Arc::new(Semaphore::new(limits.connections_max.min(Semaphore::MAX_PERMITS)));
        Self { limits, leader, slots, metrics: Arc::default() }
    }

    /// What it counts.
    pub(crate) fn metrics(&self) -> Arc<ProxyMetrics> {
        Arc::clone(&self.metrics)
    }

    /// Takes a client, on the current runtime; closes it where there are too many.
    pub(crate) fn take(&self, client: AcceptedClient) {
        let peer = client.peer;
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            self.metrics.refused.add(1);
            debug!(%peer, "a client is turned away: replication.proxy_connections is reached");
            return;
        };
        match Pair::new(client, self) {
            Ok(pair) => {
                tokio::spawn(async move {
                    pair.run().await;
                    drop(slot);
                });
            }
            Err(error) => {
                self.metrics.refused.add(1);
                debug!(%peer, %error, "a client's socket cannot be taken over");
            }
        }
    }
}
