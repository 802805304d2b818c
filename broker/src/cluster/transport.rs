//! What carries replication on this host, and why.

use crate::config::{RdmaConfig, ReplicationConfig, ReplicationTransport};
use ringlane_transport_rdma::{Place, RdmaSettings, RdmaStatus, choose};

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

/// Chooses as `replication.transport` says.
///
/// # Errors
/// RDMA is demanded and cannot be had: why not.
pub fn carrier(config: &ReplicationConfig, host: &RdmaStatus) -> Result<Carrier, String> {
    let rdma = || place(&config.rdma, host);
    match config.transport {
        ReplicationTransport::Tcp => Ok(Carrier::Tcp("it is configured".to_owned())),
        ReplicationTransport::Rdma => rdma().map(Carrier::Rdma),
        ReplicationTransport::Auto => Ok(rdma().map_or_else(Carrier::Tcp, Carrier::Rdma)),
    }
}

fn place(config: &RdmaConfig, host: &RdmaStatus) -> Result<Place, String> {
    let place = choose(&host.devices, &rdma_settings(config)).map_err(|error| error.to_string())?;
    match host.libraries.iter().find(|library| library.path.is_none()) {
        Some(library) => Err(format!("{} is not found", library.name)),
        None => Ok(place),
    }
}
