//! The address of a peer, as small as it has to be kept: there is one per connection.

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// An IP address and a port in 22 bytes. An IPv4 peer of a listener on both versions is an IPv4 one
/// here, and the flow label of IPv6 is not kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerAddress {
    ip: [u8; 16],
    scope: [u8; 4],
    port: u16,
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        let (ip, scope) = match address {
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
            SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
        };
        Self { ip: ip.octets(), scope: scope.to_be_bytes(), port: address.port() }
    }
}

impl From<PeerAddress> for SocketAddr {
    fn from(peer: PeerAddress) -> Self {
        let ip = Ipv6Addr::from(peer.ip);
        match ip.to_ipv4_mapped() {
            Some(v4) => Self::from((Ipv4Addr::from(v4.octets()), peer.port)),
            None => {
                let scope = u32::from_be_bytes(peer.scope);
                Self::V6(SocketAddrV6::new(ip, peer.port, 0, scope))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back() {
        for text in ["127.0.0.1:1883", "[::1]:1", "[fe80::1%3]:65535", "[2001:db8::7]:80"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddr::from(PeerAddress::from(address)), address);
        }
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:7".parse().unwrap();
        let back = SocketAddr::from(PeerAddress::from(mapped));
        assert_eq!(back, "192.0.2.1:7".parse().unwrap());
    }
}
