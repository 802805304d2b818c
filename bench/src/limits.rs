//! What this host allows a run with many connections: descriptors of this process and of the broker,
//! of the whole machine, and ports. Raises what may be raised, and says of the rest what to set.

use crate::process::Process;
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;
use std::io;
use std::net::IpAddr;

/// Descriptors that are not connections: standard streams, epoll, `/proc` files, a few clients.
pub const DESCRIPTORS_SPARE: u64 = 32;

/// Makes sure that `connections` can be open at once.
///
/// # Errors
/// If a limit is too low and cannot be raised from here. The text says how far one can go and what
/// to set.
pub fn prepare(connections: u64, sources: &[IpAddr], broker: Option<Process>) -> Result<()> {
    ports_suffice(connections, sources.len().max(1) as u64, port_range()?)?;
    raise_descriptors(connections)?;
    if let Some(broker) = broker {
        broker_suffices(connections, broker)?;
    }
    machine_suffices(connections * if broker.is_some() { 2 } else { 1 })
}

/// Raises the limit of descriptors: the soft one freely, the hard one where that is allowed.
fn raise_descriptors(connections: u64) -> Result<()> {
    let needed = connections + DESCRIPTORS_SPARE;
    let limits = getrlimit(Resource::Nofile);
    let at_least = |limit: Option<u64>| limit.is_none_or(|limit| limit >= needed);
    if at_least(limits.current) {
        return Ok(());
    }
    let raised = |maximum| Rlimit { current: Some(needed), maximum };
    if at_least(limits.maximum) {
        return setrlimit(Resource::Nofile, raised(limits.maximum)).context("descriptor limit");
    }
    if setrlimit(Resource::Nofile, raised(Some(needed))).is_ok() {
        return Ok(());
    }
    let hard = limits.maximum.unwrap_or(u64::MAX);
    bail!(
        "{connections} connections need {needed} descriptors, and this process may have {hard}: it can \
         go to {} connections. Raise the limit for both ends (`ulimit -Hn {needed}` as root, `nofile` \
         in /etc/security/limits.conf, LimitNOFILE= of a unit, at most fs.nr_open, now {}), or run \
         several ringlane-bench processes, each with its own -i and -t",
        hard.saturating_sub(DESCRIPTORS_SPARE),
        number_in("/proc/sys/fs/nr_open").map_or("unknown".to_owned(), |limit| limit.to_string()),
    )
}

/// A broker may raise its own soft limit, so the hard one counts.
fn broker_suffices(connections: u64, broker: Process) -> Result<()> {
    let text =
        fs::read_to_string(format!("/proc/{}/limits", broker.0)).context("broker's limits")?;
    let Some(hard) = hard_descriptor_limit(&text) else { return Ok(()) };
    ensure!(
        hard >= connections,
        "the broker (process {}) may have {hard} descriptors, fewer than {connections} connections: \
         start it with a higher limit (`ulimit -n`, LimitNOFILE= of its unit)",
        broker.0
    );
    Ok(())
}

fn hard_descriptor_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Each source address has the range of local ports towards one listener.
fn ports_suffice(connections: u64, sources: u64, (low, high): (u64, u64)) -> Result<()> {
    let each = (high + 1).saturating_sub(low);
    let needed = connections.div_ceil(each.max(1));
    ensure!(
        needed <= sources,
        "{connections} connections from {sources} local address(es) do not fit the ports: each gives \
         {each} (net.ipv4.ip_local_port_range is {low} to {high}). Give {needed} addresses \
         (--sources 127.0.0.1-127.0.0.{needed} towards a broker on this host), or widen the range \
         (sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\")"
    );
    Ok(())
}

fn port_range() -> io::Result<(u64, u64)> {
    let path = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = fs::read_to_string(path)?;
    let mut numbers = text.split_ascii_whitespace().map_while(|word| word.parse().ok());
    numbers.next().zip(numbers.next()).ok_or_else(|| io::Error::other(format!("{path}: no range")))
}

fn machine_suffices(descriptors: u64) -> Result<()> {
    let Some(limit) = number_in("/proc/sys/fs/file-max") else { return Ok(()) };
    let used = number_in("/proc/sys/fs/file-nr").unwrap_or(0);
    ensure!(
        limit.saturating_sub(used) >= descriptors,
        "this host may have {limit} files open, {used} are, and {descriptors} more are needed: \
         sysctl -w fs.file-max={}",
        used + descriptors + descriptors / 10
    );
    Ok(())
}

/// The first number of a file, if there is one.
fn number_in(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

/// What to think of when the kernel refuses a socket.
#[must_use]
pub fn advice(error: &io::Error) -> &'static str {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::MFILE) => "out of descriptors: raise `ulimit -n`",
        Some(Errno::NFILE) => "the host is out of files: raise fs.file-max",
        Some(Errno::ADDRNOTAVAIL | Errno::ADDRINUSE) => {
            "out of ports, or not a local address: give several --sources, or widen \
             net.ipv4.ip_local_port_range"
        }
        Some(Errno::NOBUFS | Errno::NOMEM) => "the kernel is out of memory: see net.ipv4.tcp_mem",
        _ => "see --sources and `ulimit -n`",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_counted_per_source() {
        assert!(ports_suffice(28_000, 1, (32_768, 60_999)).is_ok());
        let error = ports_suffice(1_000_000, 1, (32_768, 60_999)).unwrap_err().to_string();
        assert!(error.contains("127.0.0.1-127.0.0.36"), "{error}");
        assert!(ports_suffice(1_000_000, 36, (32_768, 60_999)).is_ok());
    }

    #[test]
    fn the_limit_of_another_process_is_read() {
        let text = "Limit  Soft Limit  Hard Limit  Units\n\
                    Max open files            1024                 20000                files     \n";
        assert_eq!(hard_descriptor_limit(text), Some(20_000));
        assert!(broker_suffices(1, Process(std::process::id())).is_ok());
        assert!(broker_suffices(u64::MAX, Process(std::process::id())).is_err());
    }

    #[test]
    fn a_limit_that_nobody_may_raise_is_explained() {
        let error = raise_descriptors(1 << 40).unwrap_err().to_string();
        assert!(error.contains("ulimit -Hn") && error.contains("it can go to"), "{error}");
    }

    #[test]
    fn a_whole_machine_is_never_enough_for_everything() {
        assert!(machine_suffices(1).is_ok());
        let error = prepare(1 << 50, &[], None).unwrap_err().to_string();
        assert!(error.contains("ip_local_port_range"), "{error}");
    }
}
