//! What carries the links of this node: decided, and tried, before its cores begin.

use super::StartError;
use crate::cluster::transport::{Carrier, carrier, make_one, rdma_settings};
use crate::config::{ReplicationConfig, ReplicationTransport};
use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::replication::hello::{Expected, Transports};
use ringlane_transport_rdma::{Place, RdmaLinkConfig, RdmaSettings, devices};
use std::time::Duration;
use tracing::info;

/// A hello, and a try to connect, take no longer than this times the silence that is borne.
const SILENCES: u32 = 3;

/// Links over verbs, as each core makes them.
#[derive(Clone, Debug)]
pub(super) struct RdmaPlan {
    pub(super) place: Place,
    /// There is to be no TCP.
    pub(super) is_demanded: bool,
    settings: RdmaSettings,
    expected: Expected,
    message_bytes_max: u32,
    patience: Duration,
}

impl RdmaPlan {
    /// The configuration of a core's links.
    pub(super) fn config(&self, core: CoreId) -> RdmaLinkConfig {
        let config = RdmaLinkConfig::new(core, self.expected, self.settings.clone());
        RdmaLinkConfig {
            transports: Self::transports(Some(self)),
            message_bytes_max: self.message_bytes_max,
            hello_timeout: config.hello_timeout.max(self.patience),
            connect_timeout: config.connect_timeout.max(self.patience),
            dial_timeout: config.dial_timeout.max(2 * self.patience),
            ..config
        }
    }

    /// How this node can talk.
    pub(super) fn transports(plan: Option<&Self>) -> Transports {
        match plan {
            None => Transports::TCP,
            Some(plan) if plan.is_demanded => Transports::RDMA,
            Some(_) => Transports::TCP.with(Transports::RDMA),
        }
    }
}

/// Decides for a node, and says so. None: TCP.
///
/// # Errors
/// RDMA is demanded and cannot be had.
pub(super) fn plan(
    config: &ReplicationConfig,
    expected: Expected,
    message_bytes_max: u32,
) -> Result<Option<RdmaPlan>, StartError> {
    let demand = config.transport;
    let settings = rdma_settings(&config.rdma);
    let found = carrier(config, &devices(), make_one);
    let place = match found.map_err(|why| StartError::NoRdma { why })? {
        Carrier::Tcp(why) => {
            info!(transport = "tcp", why, "replication");
            return Ok(None);
        }
        Carrier::Rdma(place) => place,
    };
    let Place { device, port, gid_index, .. } = &place;
    let is_demanded = demand == ReplicationTransport::Rdma;
    let others = if is_demanded { "are refused" } else { "are reached over TCP" };
    info!(
        transport = "rdma",
        device, port, gid_index, "replication; nodes that do not offer RDMA {others}"
    );
    let patience = config.suspect_after * SILENCES;
    let plan = RdmaPlan { place, is_demanded, settings, expected, message_bytes_max, patience };
    Ok(Some(plan))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RdmaConfig;
    use ringlane_dataplane::ids::NodeId;
    use ringlane_dataplane::log::format::DirectoryId;

    fn found(transport: ReplicationTransport) -> Result<Option<RdmaPlan>, StartError> {
        let rdma = RdmaConfig { device: Some("none_such".to_owned()), ..RdmaConfig::default() };
        let config = ReplicationConfig { transport, rdma, ..ReplicationConfig::default() };
        let expected =
            Expected { cluster: DirectoryId([1; 16]), node: NodeId(1), cores: 1, partitions: 4 };
        plan(&config, expected, 1 << 20)
    }

    #[test]
    fn without_its_device_auto_is_tcp_and_a_demand_is_refused_with_the_remedy() {
        for transport in [ReplicationTransport::Auto, ReplicationTransport::Tcp] {
            let plan = found(transport).expect("TCP");
            assert_eq!(RdmaPlan::transports(plan.as_ref()), Transports::TCP);
        }
        let message = found(ReplicationTransport::Rdma).expect_err("no device").to_string();
        assert!(message.contains("there is no RDMA device none_such"), "{message}");
        assert!(message.contains("replication.transport = \"auto\""), "{message}");
    }

    #[test]
    fn a_plan_offers_tcp_unless_rdma_is_demanded_and_bears_what_a_slow_node_takes() {
        let plan = RdmaPlan {
            place: Place { device: "rxe0".to_owned(), port: 1, gid_index: 1, is_global: true },
            is_demanded: true,
            settings: RdmaSettings::default(),
            expected: Expected {
                cluster: DirectoryId([1; 16]),
                node: NodeId(1),
                cores: 1,
                partitions: 4,
            },
            message_bytes_max: 1 << 20,
            patience: Duration::from_secs(9),
        };
        assert_eq!(RdmaPlan::transports(Some(&plan)), Transports::RDMA);
        assert_eq!(plan.config(CoreId(0)).transports, Transports::RDMA);
        let both = RdmaPlan::transports(Some(&RdmaPlan { is_demanded: false, ..plan.clone() }));
        assert!(both.has(Transports::RDMA) && both.has(Transports::TCP));
        let config = plan.config(CoreId(3));
        assert_eq!((config.core, config.message_bytes_max), (CoreId(3), 1 << 20));
        assert_eq!(config.hello_timeout, Duration::from_secs(9));
        assert_eq!(config.dial_timeout, Duration::from_secs(18));
    }
}
