//! Devices, ports and addresses as the kernel shows them below `/sys/class/infiniband`
//! (Documentation/ABI/stable/sysfs-class-infiniband).

use std::fmt;
use std::fs;
use std::net::Ipv6Addr;
use std::path::Path;

/// Entries read of one directory: a GID table has up to 256, and a file system that is not what
/// it seems must not keep us busy.
const ENTRIES_MAX: usize = 1024;

/// One device, such as `mlx5_0` or `rxe0`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RdmaDevice {
    /// Its name.
    pub name: String,
    /// What the driver calls the node, such as `1: CA`; empty if unknown.
    pub node_type: String,
    /// The firmware's version; empty if there is none.
    pub firmware: String,
    /// Its ports, by number.
    pub ports: Vec<RdmaPort>,
}

/// One port of a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RdmaPort {
    /// From 1.
    pub number: u16,
    /// Whether it can carry data.
    pub state: PortState,
    /// What it runs on.
    pub link_layer: LinkLayer,
    /// The rate as the kernel writes it, such as `100 Gb/sec (4X EDR)`; empty if unknown.
    pub rate: String,
    /// Its addresses; empty table entries are left out.
    pub gids: Vec<Gid>,
}

/// State of a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PortState {
    /// It carries data.
    Active,
    /// No link.
    Down,
    /// A state on the way, or one that this version does not know, as the kernel names it.
    Other(String),
}

impl fmt::Display for PortState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active => f.write_str("active"),
            Self::Down => f.write_str("down"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// What a port runs on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkLayer {
    /// InfiniBand.
    InfiniBand,
    /// Ethernet: RoCE or iWARP.
    Ethernet,
    /// Something else, as the kernel names it.
    Other(String),
}

impl fmt::Display for LinkLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InfiniBand => f.write_str("InfiniBand"),
            Self::Ethernet => f.write_str("Ethernet"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// One address of a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gid {
    /// Position in the port's table; what a queue pair is told.
    pub index: u16,
    /// The address; IPv4 is mapped.
    pub address: Ipv6Addr,
    /// `IB/RoCE v1`, `RoCE v2`, or empty if the kernel does not say.
    pub kind: String,
    /// The network interface behind it; empty if there is none.
    pub interface: String,
}

/// The devices below `class` (normally `/sys/class/infiniband`), by name. What is missing or
/// cannot be read is left out.
#[must_use]
pub fn devices_in(class: &Path) -> Vec<RdmaDevice> {
    let devices = entries(class).into_iter().map(|name| {
        let path = class.join(&name);
        RdmaDevice {
            node_type: text(&path.join("node_type")),
            firmware: text(&path.join("fw_ver")),
            ports: ports_in(&path.join("ports")),
            name,
        }
    });
    devices.collect()
}

fn ports_in(path: &Path) -> Vec<RdmaPort> {
    let mut ports: Vec<RdmaPort> = entries(path)
        .into_iter()
        .filter_map(|name| Some(port(name.parse().ok()?, &path.join(&name))))
        .collect();
    ports.sort_by_key(|port| port.number);
    ports
}

fn port(number: u16, path: &Path) -> RdmaPort {
    RdmaPort {
        number,
        state: state(&text(&path.join("state"))),
        link_layer: link_layer(text(&path.join("link_layer"))),
        rate: text(&path.join("rate")),
        gids: gids_in(path),
    }
}

/// The state stands as number and name, such as `4: ACTIVE`.
fn state(text: &str) -> PortState {
    match text.split_once(':').map_or(text, |(_, name)| name.trim()) {
        "ACTIVE" => PortState::Active,
        "DOWN" => PortState::Down,
        other => PortState::Other(other.to_owned()),
    }
}

fn link_layer(text: String) -> LinkLayer {
    match text.as_str() {
        "InfiniBand" => LinkLayer::InfiniBand,
        "Ethernet" => LinkLayer::Ethernet,
        _ => LinkLayer::Other(text),
    }
}

fn gids_in(port: &Path) -> Vec<Gid> {
    let table = port.join("gids");
    let mut gids: Vec<Gid> = entries(&table)
        .into_iter()
        .filter_map(|name| {
            let index = name.parse().ok()?;
            let address: Ipv6Addr = text(&table.join(&name)).parse().ok()?;
            let attributes = port.join("gid_attrs");
            let kind = text(&attributes.join("types").join(&name));
            let interface = text(&attributes.join("ndevs").join(&name));
            (!address.is_unspecified()).then_some(Gid { index, address, kind, interface })
        })
        .collect();
    gids.sort_by_key(|gid| gid.index);
    gids
}

fn entries(path: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let names = entries.flatten().take(ENTRIES_MAX).map(|entry| entry.file_name());
    let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    names.sort_unstable();
    names
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}
