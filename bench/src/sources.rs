//! Local addresses to connect from: `127.0.0.1`, `127.0.0.1-127.0.0.40`, `127.0.1.0/24`, `fd00::/120`,
//! several of them with commas. Each gives a connection to one listener some 28,000 ports, so that a
//! million connections need about forty.

use anyhow::{Context, Result, bail, ensure};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses that one range or network adds at most: ports for seven million connections.
pub const RANGE_MAX: u128 = 256;

/// Reads a list of addresses, ranges and networks. Of a range or network the first [`RANGE_MAX`] are
/// taken; of an IPv4 network neither its own address nor its broadcast address.
///
/// # Errors
/// If a part is none of these, a range runs backwards, or the families of a range differ.
pub fn parse(text: &str) -> Result<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = bounds(part).with_context(|| format!("source {part:?}"))?;
        addresses.extend(between(first, last));
    }
    Ok(addresses)
}

fn bounds(part: &str) -> Result<(IpAddr, IpAddr)> {
    if let Some((first, last)) = part.split_once('-') {
        let (first, last) = (address(first)?, address(last)?);
        ensure!(first.is_ipv4() == last.is_ipv4(), "the two ends are of different families");
        ensure!(first <= last, "the range runs backwards");
        return Ok((first, last));
    }
    match part.split_once('/') {
        Some((base, length)) => network(address(base)?, length.parse().context("prefix length")?),
        None => address(part).map(|address| (address, address)),
    }
}

fn address(text: &str) -> Result<IpAddr> {
    text.trim().parse().with_context(|| format!("{text:?} is not an address"))
}

fn network(base: IpAddr, prefix_bits: u32) -> Result<(IpAddr, IpAddr)> {
    let width = if base.is_ipv4() { Ipv4Addr::BITS } else { Ipv6Addr::BITS };
    let Some(host_bits) = width.checked_sub(prefix_bits) else {
        bail!("a prefix of {prefix_bits} bits is longer than the address")
    };
    let host_mask = u128::MAX.checked_shr(u128::BITS - host_bits).unwrap_or(0);
    let (first, last) = (number(base) & !host_mask, number(base) | host_mask);
    let reserved = u128::from(base.is_ipv4() && host_bits > 1);
    Ok((of_number(first + reserved, base), of_number(last - reserved, base)))
}

fn between(first: IpAddr, last: IpAddr) -> impl Iterator<Item = IpAddr> {
    let count = (number(last) - number(first)).saturating_add(1).min(RANGE_MAX);
    (0..count).map(move |offset| of_number(number(first) + offset, first))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address of a number, of the family of `like`.
fn of_number(number: u128, like: IpAddr) -> IpAddr {
    match like {
        // A network or range of IPv4 stays within 32 bits.
        IpAddr::V4(_) => Ipv4Addr::from_bits(number as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        parse(text).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_ranges_and_networks_mix() {
        assert_eq!(texts("127.0.0.1"), ["127.0.0.1"]);
        assert_eq!(texts("127.0.0.254-127.0.1.1").len(), 4);
        assert_eq!(texts("10.0.0.5/30, ::1"), ["10.0.0.5", "10.0.0.6", "::1"]);
        assert_eq!(texts("fd00::7/127"), ["fd00::6", "fd00::7"]);
        assert_eq!(texts("10.0.0.5/32"), ["10.0.0.5"]);
        assert_eq!(texts("10.0.0.5/31"), ["10.0.0.4", "10.0.0.5"]);
    }

    #[test]
    fn a_large_network_gives_its_first_addresses() {
        let addresses = texts("127.0.0.0/8");
        assert_eq!(addresses.len(), 256);
        assert_eq!((addresses[0].as_str(), addresses[255].as_str()), ("127.0.0.1", "127.0.1.0"));
        assert_eq!(texts("::/0").len(), 256);
    }

    #[test]
    fn what_is_no_source_is_an_error() {
        for text in ["", "x", "127.0.0.2-127.0.0.1", "127.0.0.1-::1", "10.0.0.0/33", "10.0.0.0/x"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
