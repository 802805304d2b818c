//! The cluster: what would carry replication and why, the members, the etcd.

use super::{Facts, Report, Severity};
use crate::config::ReplicationTransport;
use ringlane_transport_rdma::{PortState, RdmaStatus};

const AREA: &str = "Cluster";

pub(super) fn check(facts: &Facts, report: &mut Report) {
    transport(facts, report);
    if facts.config.cluster.is_set() {
        members(facts, report);
        bind(facts, report);
        etcd(facts, report);
    }
}

/// What carries replication, and why.
fn transport(facts: &Facts, report: &mut Report) {
    let name = "replication.transport";
    let rdma = rdma(&facts.rdma, facts.config.replication.rdma.device.as_deref());
    match (facts.config.replication.transport, rdma) {
        (ReplicationTransport::Tcp, _) => report.ok(AREA, name, "tcp, as configured"),
        (ReplicationTransport::Auto, Ok(place)) => {
            report.ok(AREA, name, format!("auto takes rdma: {place}"));
        }
        (ReplicationTransport::Auto, Err(why)) => {
            report.ok(AREA, name, format!("auto takes tcp: {why}"));
        }
        (ReplicationTransport::Rdma, Ok(place)) => {
            report.ok(AREA, name, format!("rdma, as configured: {place}"));
        }
        (ReplicationTransport::Rdma, Err(why)) => {
            let advice = "see \"RDMA\" above, or set replication.transport = \"auto\"";
            report.add(AREA, name, Severity::Fail, format!("rdma cannot be had: {why}"), advice);
        }
    }
}

/// The port that replication would use, or what is missing.
fn rdma(status: &RdmaStatus, device: Option<&str>) -> Result<String, String> {
    let named = |name: &str| device.is_none_or(|device| device == name);
    let mut devices = status.devices.iter().filter(|device| named(&device.name)).peekable();
    if devices.peek().is_none() {
        return Err(device.map_or_else(
            || "there is no RDMA device".to_owned(),
            |device| format!("there is no RDMA device {device}"),
        ));
    }
    let ports = devices.flat_map(|device| device.ports.iter().map(|port| (&device.name, port)));
    let mut active = ports.filter(|(_, port)| port.state == PortState::Active);
    let Some((device, port)) = active.next() else {
        return Err("no port of an RDMA device is active".to_owned());
    };
    match status.libraries.iter().find(|library| library.path.is_none()) {
        Some(library) => Err(format!("{} is not found", library.name)),
        None => Ok(format!("port {} of {device} is active", port.number)),
    }
}

fn members(facts: &Facts, report: &mut Report) {
    let cluster = &facts.config.cluster;
    let count = cluster.members.len();
    let own = cluster.own().map_or("", |member| member.name.as_str());
    let lost = (count - 1) / 2;
    let found = format!("{count} nodes, this one is {} ({own}); {lost} may be lost", cluster.node);
    if count > 1 && count.is_multiple_of(2) {
        let fewer = count - 1;
        let advice = format!("{fewer} nodes survive as many losses, and wait for fewer answers");
        report.add(AREA, "cluster.members", Severity::Warn, found, advice);
    } else {
        report.ok(AREA, "cluster.members", found);
    }
}

fn bind(facts: &Facts, report: &mut Report) {
    let replication = &facts.config.replication;
    let own = facts.config.cluster.own();
    let bind = replication.bind.or_else(|| own.and_then(|own| own.address.parse().ok()));
    let Some(bind) = bind else { return };
    let name = "replication.bind";
    if bind.ip().is_unspecified() {
        let advice =
            "nodes show no password: bind to the address of a network that only they reach";
        report.add(AREA, name, Severity::Warn, format!("{bind}, on every network"), advice);
    } else {
        report.ok(AREA, name, bind.to_string());
    }
}

fn etcd(facts: &Facts, report: &mut Report) {
    let is_found = facts.etcd.iter().any(|(_, answer)| answer.is_ok());
    let severity = if is_found { Severity::Warn } else { Severity::Fail };
    for (endpoint, answer) in &facts.etcd {
        let name = format!("etcd {endpoint}");
        match answer {
            Ok(version) => report.ok(AREA, &name, format!("version {version}")),
            Err(message) => {
                let advice = "check that it runs, and that this host reaches it";
                report.add(AREA, &name, severity, message.as_str(), advice);
            }
        }
    }
}
