//! The PROXY protocol: what a load balancer says of a client before the client's own bytes.
//!
//! Version 1 is a line of text, version 2 is binary ("The PROXY protocol, versions 1 & 2", haproxy.org). Both are
//! read by the library; this says how many bytes were theirs, and whose connection it is. A node that passes
//! clients on to the leader writes version 2.

use core::net::{IpAddr, SocketAddr};
use ppp::{HeaderResult, PartialResult, v1, v2};

/// What a header of version 1 begins with, and its bytes at most.
const LINE_BEGINS: &[u8] = b"PROXY ";
const LINE_BYTES_MAX: usize = 107;
/// Bytes of a header at most. Of version 2 the addresses have 216, and balancers add a few
/// values of some dozen bytes behind them.
pub(crate) const HEADER_BYTES_MAX: usize = 4096;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Proxied {
    /// Not yet a whole header.
    Incomplete,
    /// A header of so many bytes, and the client's address if it names one: a balancer that checks
    /// the node's health does not.
    Whole { consumed: usize, client: Option<SocketAddr> },
    /// No header of this protocol.
    Wrong,
}

/// Reads the header that a connection begins with.
pub(crate) fn read(bytes: &[u8]) -> Proxied {
    if is_part_of_line(bytes) {
        return Proxied::Incomplete;
    }
    let result = HeaderResult::parse(bytes);
    if result.is_incomplete() && bytes.len() < HEADER_BYTES_MAX {
        return Proxied::Incomplete;
    }
    let (consumed, client) = match result {
        HeaderResult::V1(Ok(header)) => (header.header.len(), client_v1(&header.addresses)),
        HeaderResult::V2(Ok(header)) => (header.len(), client_v2(&header)),
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => return Proxied::Wrong,
    };
    if consumed > HEADER_BYTES_MAX { Proxied::Wrong } else { Proxied::Whole { consumed, client } }
}

/// The header of version 2 that names `client`, who had connected to `server`.
pub(crate) fn header(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let (client, server) = one_family(canonical(client), canonical(server));
    let command = v2::Version::Two | v2::Command::Proxy;
    let header = v2::Builder::with_addresses(command, v2::Protocol::Stream, (client, server));
    // It fails only beyond 64 KiB. Without a header the client is refused, not mistaken.
    header.build().unwrap_or_default()
}

/// An IPv4 address that an IPv6 socket shows as one of its own.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A header has addresses of one family.
fn one_family(client: SocketAddr, server: SocketAddr) -> (SocketAddr, SocketAddr) {
    if client.is_ipv4() == server.is_ipv4() {
        (client, server)
    } else {
        (wide(client), wide(server))
    }
}

fn wide(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    SocketAddr::new(ip.into(), address.port())
}

/// Whether the end of a line of version 1 is still to come. The library takes a number of which a part
/// is missing for a wrong one.
fn is_part_of_line(bytes: &[u8]) -> bool {
    let begins = bytes.starts_with(LINE_BEGINS) || LINE_BEGINS.starts_with(bytes);
    begins && bytes.len() < LINE_BYTES_MAX && !bytes.contains(&b'\n')
}

fn address(ip: impl Into<IpAddr>, port: u16) -> Option<SocketAddr> {
    Some(SocketAddr::new(ip.into(), port))
}

fn client_v1(addresses: &v1::Addresses) -> Option<SocketAddr> {
    match addresses {
        v1::Addresses::Tcp4(ip) => address(ip.source_address, ip.source_port),
        v1::Addresses::Tcp6(ip) => address(ip.source_address, ip.source_port),
        v1::Addresses::Unknown => None,
    }
}

fn client_v2(header: &v2::Header<'_>) -> Option<SocketAddr> {
    match header.addresses {
        // What the balancer asks for itself has the balancer's address.
        _ if header.command == v2::Command::Local => None,
        v2::Addresses::IPv4(ip) => address(ip.source_address, ip.source_port),
        v2::Addresses::IPv6(ip) => address(ip.source_address, ip.source_port),
        v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 1883\r\n";

    fn v2(command: u8, family: u8, addresses: &[u8], values: &[u8]) -> Vec<u8> {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        let length = (addresses.len() + values.len()) as u16;
        header.extend_from_slice(&[0x20 | command, family]);
        header.extend_from_slice(&length.to_be_bytes());
        header.extend_from_slice(addresses);
        header.extend_from_slice(values);
        header
    }

    fn client(text: &str) -> Option<SocketAddr> {
        Some(text.parse().expect("an address"))
    }

    #[test]
    fn a_header_of_each_version_names_the_client() {
        let expected = client("192.0.2.7:40000");
        let consumed = V1.len();
        assert_eq!(read(V1), Proxied::Whole { consumed, client: expected });
        let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 0x07, 0x5b];
        // A value behind the addresses (PP2_TYPE_NOOP).
        let header = v2(1, 0x11, &v4, &[4, 0, 2, 0, 0]);
        let consumed = header.len();
        assert_eq!(read(&header), Proxied::Whole { consumed, client: expected });
        let mut v6 = [0; 36];
        (v6[15], v6[31], v6[32], v6[33]) = (1, 2, 0x9c, 0x40);
        let header = v2(1, 0x21, &v6, &[]);
        let expected = client("[::1]:40000");
        assert_eq!(read(&header), Proxied::Whole { consumed: 52, client: expected });
    }

    #[test]
    fn what_is_written_is_read() {
        let cases = [
            ("192.0.2.7:40000", "198.51.100.1:1883", "192.0.2.7:40000"),
            ("[2001:db8::7]:40000", "[2001:db8::1]:1883", "[2001:db8::7]:40000"),
            ("[::ffff:192.0.2.7]:40000", "[::ffff:198.51.100.1]:1883", "192.0.2.7:40000"),
            ("192.0.2.7:40000", "[2001:db8::1]:1883", "[::ffff:192.0.2.7]:40000"),
            ("[2001:db8::7]:40000", "198.51.100.1:1883", "[2001:db8::7]:40000"),
        ];
        for (peer, server, expected) in cases {
            let written = header(peer.parse().unwrap(), server.parse().unwrap());
            let consumed = written.len();
            assert_eq!(read(&written), Proxied::Whole { consumed, client: client(expected) });
        }
    }

    #[test]
    fn what_names_no_client_is_a_header_all_the_same() {
        let unknown = b"PROXY UNKNOWN\r\n";
        assert_eq!(read(unknown), Proxied::Whole { consumed: 15, client: None });
        let local = v2(0, 0x11, &[1; 12], &[]);
        assert_eq!(read(&local), Proxied::Whole { consumed: 28, client: None });
        let unspecified = v2(1, 0, &[], &[]);
        assert_eq!(read(&unspecified), Proxied::Whole { consumed: 16, client: None });
    }

    #[test]
    fn every_beginning_is_incomplete_and_what_follows_is_the_clients() {
        let binary = v2(1, 0x11, &[1; 12], &[4, 0, 2, 0, 0]);
        for header in [V1, &binary] {
            for end in 0..header.len() {
                assert_eq!(read(&header[..end]), Proxied::Incomplete, "{end}");
            }
            let more = [header, b"\x10\x0c\x00\x04MQTT"].concat();
            let Proxied::Whole { consumed, .. } = read(&more) else { panic!("{header:?}") };
            assert_eq!(consumed, header.len());
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let wrong: [&[u8]; 5] = [
            b"\x10\x0c\x00\x04MQTT",
            b"GET /mqtt HTTP/1.1\r\n",
            b"PROXY TCP4 a b c d\r\n",
            &v2(2, 0x11, &[1; 12], &[]),
            &v2(1, 0x11, &[1; 11], &[]),
        ];
        for bytes in wrong {
            assert_eq!(read(bytes), Proxied::Wrong, "{bytes:?}");
        }
        let long = v2(1, 0x11, &[1; 12], &vec![0; HEADER_BYTES_MAX]);
        assert_eq!(read(&long[..HEADER_BYTES_MAX]), Proxied::Wrong, "longer than anybody sends");
        assert_eq!(read(&long), Proxied::Wrong);
    }
}
