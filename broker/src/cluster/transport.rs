//! What carries replication on this host, and why: what a start does, and what `doctor` says.

use crate::config::{RdmaConfig, ReplicationConfig, ReplicationTransport};
use ringlane_transport_rdma::{
    Device, Place, QueuePair, RdmaError, RdmaSettings, RdmaStatus, choose,
};

/// What carries replication.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Carrier {
    /// Verbs, on this port of this device.
    Rdma(Place),
    /// TCP, for this reason.
    Tcp(String),
}

/// The settings of links over verbs that a configuration asks for.
#[must_use]
pub fn rdma_settings(config: &RdmaConfig) -> RdmaSettings {
    RdmaSettings {
        device: config.device.clone(),
        port: config.port,
        gid_index: config.gid_index,
        path_mtu: config.mtu,
        traffic_class: config.traffic_class,
        ack_timeout: config.timeout,
        retries: config.retry,
        ..RdmaSettings::default()
    }
}

/// Chooses as `replication.transport` says. What is shown of the host is not all: `trial` makes what a link
/// needs on the port that fits ([`make_one`]).
///
/// # Errors
/// RDMA is demanded and cannot be had: why not.
pub fn carrier(
    config: &ReplicationConfig,
    host: &RdmaStatus,
    trial: impl FnOnce(&Place, &RdmaSettings) -> Result<(), RdmaError>,
) -> Result<Carrier, String> {
    let rdma = || place(&rdma_settings(&config.rdma), host, trial);
    match config.transport {
        ReplicationTransport::Tcp => Ok(Carrier::Tcp("it is configured".to_owned())),
        ReplicationTransport::Rdma => rdma().map(Carrier::Rdma),
        ReplicationTransport::Auto => Ok(rdma().map_or_else(Carrier::Tcp, Carrier::Rdma)),
    }
}

fn place(
    settings: &RdmaSettings,
    host: &RdmaStatus,
    trial: impl FnOnce(&Place, &RdmaSettings) -> Result<(), RdmaError>,
) -> Result<Place, String> {
    let place = choose(&host.devices, settings).map_err(|error| error.to_string())?;
    if let Some(library) = host.libraries.iter().find(|library| library.path.is_none()) {
        return Err(format!("{} is not found", library.name));
    }
    match trial(&place, settings) {
        Ok(()) => Ok(place),
        Err(error) => Err(format!("RDMA device {} cannot be used: {error}", place.device)),
    }
}

/// Makes what a link needs, once, and lets go of it: sysfs does not show what the device or the limit of
/// locked memory refuse.
///
/// # Errors
/// What could not be made.
pub fn make_one(place: &Place, settings: &RdmaSettings) -> Result<(), RdmaError> {
    let device = Device::open(place)?;
    QueuePair::new(&device, None, settings, 0).map(drop)
}
