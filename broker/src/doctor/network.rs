//! Descriptors, queues of the TCP stack, RDMA devices.

use super::{Facts, Report, Severity};

const AREA: &str = "Network";

/// Addresses of an RDMA port that are shown; tables have 256 places.
const GIDS_SHOWN: usize = 16;
/// Below this many descriptors a broker is a toy.
const DESCRIPTORS_WANTED: u64 = 65_536;

pub(super) fn check(facts: &Facts, report: &mut Report) {
    descriptors(facts, report);
    queue(facts, report, "net.core.somaxconn", "proc/sys/net/core/somaxconn");
    queue(facts, report, "net.ipv4.tcp_max_syn_backlog", "proc/sys/net/ipv4/tcp_max_syn_backlog");
    exposure(facts, report);
    rdma(facts, report);
}

fn descriptors(facts: &Facts, report: &mut Report) {
    let (soft, hard) = facts.descriptors;
    let show = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |count| count.to_string());
    let found = format!("{} (hard limit {}, which the broker uses)", show(soft), show(hard));
    let wanted = match facts.config.limits.max_connections {
        0 => DESCRIPTORS_WANTED,
        asked => u64::from(asked),
    };
    if hard.is_some_and(|limit| limit < wanted) {
        let advice = format!(
            "each connection takes one: LimitNOFILE={} in the unit, or ulimit -n",
            wanted.max(DESCRIPTORS_WANTED).next_power_of_two()
        );
        report.add(AREA, "RLIMIT_NOFILE", Severity::Warn, found, advice);
    } else {
        report.ok(AREA, "RLIMIT_NOFILE", found);
    }
}

/// The kernel cuts a listener's backlog to these (listen(2), tcp(7)).
fn queue(facts: &Facts, report: &mut Report, name: &str, path: &str) {
    let backlog = u64::from(facts.config.listeners.tcp.backlog);
    match facts.number(path) {
        None => report.ok(AREA, name, "unknown"),
        Some(limit) if limit < backlog => {
            let found = format!("{limit}, below listeners.tcp.backlog = {backlog}");
            let advice = format!(
                "sysctl -w {name}={backlog}, or many clients that connect at once are turned away"
            );
            report.add(AREA, name, Severity::Warn, found, advice);
        }
        Some(limit) => report.ok(AREA, name, limit.to_string()),
    }
}

fn exposure(facts: &Facts, report: &mut Report) {
    let listeners = &facts.config.listeners;
    let binds = [
        ("listeners.tcp.bind", listeners.tcp.enabled, listeners.tcp.bind),
        ("listeners.websocket.bind", listeners.websocket.enabled, listeners.websocket.bind),
        ("control.bind", facts.config.control.enabled, facts.config.control.bind),
    ];
    for (name, _, bind) in binds.into_iter().filter(|(_, enabled, _)| *enabled) {
        if bind.ip().is_loopback() {
            report.ok(AREA, name, format!("{bind} (this host only)"));
        } else {
            let found = format!("{bind}, open to other hosts");
            let advice = "there is no authentication yet: let a firewall decide who may connect";
            report.add(AREA, name, Severity::Warn, found, advice);
        }
    }
}

fn rdma(facts: &Facts, report: &mut Report) {
    if facts.rdma.devices.is_empty() {
        report.ok(AREA, "RDMA devices", "none (replication needs none: TCP)");
    }
    for device in &facts.rdma.devices {
        for port in &device.ports {
            let name = format!("RDMA {}/{}", device.name, port.number);
            let gids = port.gids.len();
            let found =
                format!("{}, {}, {}, {gids} addresses", port.state, port.link_layer, port.rate);
            report.ok(AREA, &name, found);
            for gid in port.gids.iter().take(GIDS_SHOWN) {
                let found = format!("{}, {} on {}", gid.address, gid.kind, gid.interface);
                report.ok(AREA, &format!("{name} gid_index {}", gid.index), found);
            }
        }
    }
    for library in &facts.rdma.libraries {
        match &library.path {
            Some(path) => report.ok(AREA, library.name, path.display().to_string()),
            None if facts.rdma.devices.is_empty() => report.ok(AREA, library.name, "not installed"),
            None => {
                let advice =
                    "install rdma-core (openEuler), or libibverbs1 and ibverbs-providers (Debian)";
                report.add(AREA, library.name, Severity::Warn, "not found", advice);
            }
        }
    }
}
