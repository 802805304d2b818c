//! Links between nodes over RDMA verbs, and what a host has for them.
//!
//! `libibverbs` is loaded with dlopen and never linked, so that one binary runs on every host; where
//! it, the kernel's part or a device is missing, replication goes over TCP. A link is one reliably
//! connected queue pair between a core of this node and a core of another: each side writes whole
//! messages into a ring of the other's with WRITE_WITH_IMM, and returns credit for what it has read.
//!
//! From the bottom up: [`sysfs`](devices_in) and [`find_libraries`] say what is there, [`choose()`]
//! picks a place on it, `sys` is the library, [`Device`], memory and [`QueuePair`] are its objects as
//! safe types, [`ring`] the arithmetic of positions and credits, [`Endpoint`] a link.
//!
//! librdmacm is not used: a link is agreed on over TCP, where the nodes have to show anyway that
//! they belong to one cluster, and what it would add is one more library.

mod assembly;
mod choose;
mod device;
mod endpoint;
mod error;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod library;
mod links;
mod memory;
mod queue;
mod queue_pair;
mod received;
mod registry;
pub mod ring;
mod settings;
mod sys;
mod sysfs;

pub use assembly::Assembly;
pub use choose::{Place, choose};
pub use device::{Channel, Device};
pub use endpoint::{Endpoint, EndpointCounters};
pub use error::{AsyncEvent, DownCause, Ends, RdmaError, WorkStatus};
pub use library::{Library, find_libraries};
pub use links::{Fallen, RdmaLinkConfig, RdmaLinks};
pub use queue::{COMPLETIONS_MAX, Completion, Queue, Slice, Write};
pub use queue_pair::{PairAddress, QueuePair};
pub use received::{InRing, Received};
pub use settings::RdmaSettings;
pub use sys::LoadError;
pub use sysfs::{Gid, LinkLayer, PortState, RdmaDevice, RdmaPort, devices_in};

use std::path::Path;

/// What a host has for RDMA.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RdmaStatus {
    /// The devices, by name.
    pub devices: Vec<RdmaDevice>,
    /// `libibverbs.so.1`.
    pub libraries: Vec<Library>,
}

impl RdmaStatus {
    /// Whether a port is up and the library is there.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        let active = |port: &RdmaPort| port.state == PortState::Active;
        let port = self.devices.iter().any(|device| device.ports.iter().any(active));
        port && self.libraries.iter().all(|library| library.path.is_some())
    }
}

/// What this host has for RDMA. What cannot be read is left out.
#[must_use]
pub fn devices() -> RdmaStatus {
    status_in(Path::new("/"))
}

/// What the file system below `root` says; for tests, and for looking into a container.
#[must_use]
pub fn status_in(root: &Path) -> RdmaStatus {
    RdmaStatus {
        devices: devices_in(&root.join("sys/class/infiniband")),
        libraries: find_libraries(root, std::env::var("LD_LIBRARY_PATH").ok().as_deref()),
    }
}
