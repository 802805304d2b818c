//! Which port and which address of which device links use: decided from what sysfs shows, so that it
//! can be tried on any host.

use crate::error::RdmaError;
use crate::settings::RdmaSettings;
use crate::sysfs::{Gid, LinkLayer, PortState, RdmaDevice, RdmaPort};

/// A device, a port on it, an address of that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Name of the device, such as `mlx5_0`.
    pub device: String,
    /// Number of the port, from 1.
    pub port: u16,
    /// Position of the address in the port's table.
    pub gid_index: u16,
    /// Whether packets carry a global route header: always on Ethernet.
    pub is_global: bool,
}

/// Chooses among `devices`: the first active port that the settings allow, and on it the address
/// that they name, or else the first of RoCE v2 that is an IPv4 one, or else the first of RoCE v2.
/// A fixed index would not do: 1 on soft-RoCE is 3 on many cards.
///
/// # Errors
///
/// Nothing is there that fits, with what is missing.
pub fn choose(devices: &[RdmaDevice], settings: &RdmaSettings) -> Result<Place, RdmaError> {
    let named = |device: &&RdmaDevice| settings.device.as_ref().is_none_or(|n| *n == device.name);
    let mut refusal = match &settings.device {
        Some(name) => RdmaError::NoSuchDevice(name.clone()),
        None => RdmaError::NoDevice,
    };
    for device in devices.iter().filter(named) {
        match choose_on(device, settings) {
            Ok(place) => return Ok(place),
            Err(reason) => refusal = reason,
        }
    }
    Err(refusal)
}

fn choose_on(device: &RdmaDevice, settings: &RdmaSettings) -> Result<Place, RdmaError> {
    let fits = |port: &&RdmaPort| {
        settings.port.is_none_or(|number| number == port.number) && port.state == PortState::Active
    };
    let mut refusal = RdmaError::NoActivePort(device.name.clone());
    for port in device.ports.iter().filter(fits) {
        match gid_of(port, settings.gid_index) {
            Some(gid) => {
                return Ok(Place {
                    device: device.name.clone(),
                    port: port.number,
                    gid_index: gid.index,
                    is_global: port.link_layer != LinkLayer::InfiniBand,
                });
            }
            None => {
                refusal = RdmaError::NoGid { device: device.name.clone(), port: port.number };
            }
        }
    }
    Err(refusal)
}

fn gid_of(port: &RdmaPort, index: Option<u16>) -> Option<&Gid> {
    if let Some(index) = index {
        return port.gids.iter().find(|gid| gid.index == index);
    }
    let is_v2 = |gid: &&Gid| gid.kind == "RoCE v2";
    let is_ipv4 = |gid: &&Gid| gid.address.to_ipv4_mapped().is_some();
    let v2 = || port.gids.iter().filter(is_v2);
    let on_infiniband = || port.gids.first().filter(|_| port.link_layer == LinkLayer::InfiniBand);
    v2().find(is_ipv4).or_else(|| v2().next()).or_else(on_infiniband)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gid(index: u16, address: &str, kind: &str) -> Gid {
        let address = address.parse().expect("an address");
        Gid { index, address, kind: kind.to_owned(), interface: "eth0".to_owned() }
    }

    fn port(number: u16, state: PortState, gids: Vec<Gid>) -> RdmaPort {
        let rate = String::new();
        RdmaPort { number, state, link_layer: LinkLayer::Ethernet, rate, gids }
    }

    fn device(name: &str, ports: Vec<RdmaPort>) -> RdmaDevice {
        let (node_type, firmware) = (String::new(), String::new());
        RdmaDevice { name: name.to_owned(), node_type, firmware, ports }
    }

    fn table() -> Vec<Gid> {
        vec![
            gid(0, "fe80::1", "IB/RoCE v1"),
            gid(1, "fe80::1", "RoCE v2"),
            gid(2, "::ffff:10.0.0.1", "IB/RoCE v1"),
            gid(3, "::ffff:10.0.0.1", "RoCE v2"),
        ]
    }

    #[test]
    fn the_ipv4_address_of_roce_v2_is_preferred_wherever_it_stands() {
        let devices = [device("mlx5_0", vec![port(1, PortState::Active, table())])];
        let place = choose(&devices, &RdmaSettings::default()).expect("a place");
        assert_eq!((place.device.as_str(), place.port, place.gid_index), ("mlx5_0", 1, 3));
        assert!(place.is_global);
        let mut rest = table();
        rest.truncate(3);
        let devices = [device("mlx5_0", vec![port(1, PortState::Active, rest)])];
        assert_eq!(choose(&devices, &RdmaSettings::default()).expect("a place").gid_index, 1);
    }

    #[test]
    fn settings_name_device_port_and_address() {
        let down = port(1, PortState::Down, table());
        let devices = [
            device("a", vec![down, port(2, PortState::Active, table())]),
            device("b", vec![port(1, PortState::Active, table())]),
        ];
        let found = |settings: &RdmaSettings| {
            choose(&devices, settings)
                .map(|place| (place.device.clone(), place.port, place.gid_index))
        };
        let any = RdmaSettings::default();
        assert_eq!(found(&any).expect("a place"), ("a".to_owned(), 2, 3));
        let named = RdmaSettings {
            device: Some("b".to_owned()),
            gid_index: Some(0),
            ..RdmaSettings::default()
        };
        assert_eq!(found(&named).expect("a place"), ("b".to_owned(), 1, 0));
        let absent = RdmaSettings { device: Some("c".to_owned()), ..RdmaSettings::default() };
        assert!(matches!(found(&absent), Err(RdmaError::NoSuchDevice(name)) if name == "c"));
        let dark =
            RdmaSettings { device: Some("a".to_owned()), port: Some(1), ..RdmaSettings::default() };
        assert!(matches!(found(&dark), Err(RdmaError::NoActivePort(_))));
    }

    #[test]
    fn without_an_address_the_reason_says_so() {
        let only_v1 = vec![gid(0, "fe80::1", "IB/RoCE v1")];
        let devices = [device("a", vec![port(1, PortState::Active, only_v1)])];
        let refused = choose(&devices, &RdmaSettings::default());
        assert!(matches!(refused, Err(RdmaError::NoGid { port: 1, .. })));
        assert!(matches!(choose(&[], &RdmaSettings::default()), Err(RdmaError::NoDevice)));
    }
}
