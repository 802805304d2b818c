//! RDMA devices of a Ringlane node, found at run time.
//!
//! This crate says what is there: devices, ports and addresses from sysfs, and whether the
//! libraries that drive them can be loaded. `ringlane doctor` shows it. Replication between nodes
//! will use the same list to choose between verbs and TCP; the libraries are then loaded with
//! dlopen and never linked, so that one binary runs on every host.
//!
//! Nothing here opens a device, and nothing is unsafe.

#![forbid(unsafe_code)]

mod library;
mod sysfs;

pub use library::{Library, find_libraries};
pub use sysfs::{Gid, LinkLayer, PortState, RdmaDevice, RdmaPort, devices_in};

use std::path::Path;

/// What a host has for RDMA.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RdmaStatus {
    /// The devices, by name.
    pub devices: Vec<RdmaDevice>,
    /// `libibverbs.so.1` and `librdmacm.so.1`.
    pub libraries: Vec<Library>,
}

impl RdmaStatus {
    /// Whether a port is up and both libraries are there.
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
