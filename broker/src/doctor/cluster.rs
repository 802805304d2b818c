//! The cluster: what would carry replication and why, the members, the etcd.

use super::{Facts, Report, Severity};
use crate::cluster::transport::Carrier;
use crate::config::ReplicationTransport;
use ringlane_transport_rdma::Place;

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
    let how = match facts.config.replication.transport {
        ReplicationTransport::Auto => "auto takes",
        ReplicationTransport::Rdma | ReplicationTransport::Tcp => "configured:",
    };
    match &facts.carrier {
        Ok(Carrier::Rdma(place)) => {
            let Place { device, port, gid_index, .. } = place;
            let found = format!(
                "{how} rdma: device {device}, port {port}, gid_index {gid_index}; the port is active, \
                 and what a link needs could be made there with this user's limits"
            );
            report.ok(AREA, name, found);
        }
        Ok(Carrier::Tcp(why)) => report.ok(AREA, name, format!("{how} tcp: {why}")),
        Err(why) => {
            let advice = "see \"RDMA\" above, or set replication.transport = \"auto\"";
            report.add(AREA, name, Severity::Fail, format!("rdma cannot be had: {why}"), advice);
        }
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
        let advice =
            format!("one less, {fewer}, survives as many losses and waits for fewer answers");
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
