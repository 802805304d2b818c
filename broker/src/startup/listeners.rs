//! The listeners of a node, opened before a core runs: a wrong address is an error at start.

use crate::config::Config;
use crate::control::ListenerView;
use crate::service::ListenerKind;
use ringlane_transport_uring::{ListenSocket, TransportError, bind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Who connects to a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Door {
    /// Clients.
    Clients(ListenerKind),
    /// Other nodes that pass on their clients.
    Passed(ListenerKind),
    /// Other nodes, for replication.
    Nodes,
}

/// A listener with one socket per core.
#[derive(Debug)]
pub(super) struct OpenListener {
    pub(super) door: Door,
    pub(super) address: SocketAddr,
    pub(super) sockets: Vec<ListenSocket>,
}

impl OpenListener {
    /// Listens on an address, for each core.
    ///
    /// # Errors
    /// If it cannot be had.
    pub(super) fn open(
        door: Door,
        address: SocketAddr,
        cores: usize,
        backlog: u32,
    ) -> Result<Self, TransportError> {
        let sockets = bind_soon(address, cores, backlog)?;
        let address = sockets.first().map_or(address, ListenSocket::local_addr);
        Ok(Self { door, address, sockets })
    }

    /// What the cores make of whoever comes in; none for what is no client.
    pub(super) fn kind(&self) -> Option<ListenerKind> {
        match self.door {
            Door::Clients(kind) | Door::Passed(kind) => Some(kind),
            Door::Nodes => None,
        }
    }

    /// What operators see; not those that nodes tell each other.
    pub(super) fn view(&self) -> Option<ListenerView> {
        let kind = match self.door {
            Door::Clients(ListenerKind::Tcp) => "mqtt",
            Door::Clients(ListenerKind::WebSocket) => "websocket",
            Door::Nodes => "replication",
            Door::Passed(_) => return None,
        };
        Some(ListenerView { kind, address: self.address })
    }
}

/// How long an address that is in use is waited for. The kernel takes down the ring of a process
/// that was killed, and the listening sockets in it, a moment after the process has gone
/// (io_uring(7)): a restart at once finds them still there.
const ADDRESS_WAIT: Duration = Duration::from_secs(3);
const ADDRESS_PAUSE: Duration = Duration::from_millis(20);

/// Listens on an address, once whoever has it has gone.
fn bind_soon(
    address: SocketAddr,
    cores: usize,
    backlog: u32,
) -> Result<Vec<ListenSocket>, TransportError> {
    let begun = Instant::now();
    loop {
        match bind(address, cores, backlog) {
            Err(TransportError::AddressInUse { .. }) if begun.elapsed() < ADDRESS_WAIT => {
                std::thread::sleep(ADDRESS_PAUSE);
            }
            result => return result,
        }
    }
}

/// Opens what the configuration has for clients.
///
/// # Errors
/// The first address that cannot be had.
pub(super) fn open(config: &Config, cores: usize) -> Result<Vec<OpenListener>, TransportError> {
    let backlog = config.listeners.tcp.backlog;
    let open = |(kind, address)| OpenListener::open(Door::Clients(kind), address, cores, backlog);
    wanted(config).map(open).collect()
}

/// The listeners of the configuration that are enabled.
pub(super) fn wanted(config: &Config) -> impl Iterator<Item = (ListenerKind, SocketAddr)> {
    let (tcp, websocket) = (&config.listeners.tcp, &config.listeners.websocket);
    let wanted = [
        (tcp.enabled, ListenerKind::Tcp, tcp.bind),
        (websocket.enabled, ListenerKind::WebSocket, websocket.bind),
    ];
    wanted.into_iter().filter(|(enabled, ..)| *enabled).map(|(_, kind, bind)| (kind, bind))
}
