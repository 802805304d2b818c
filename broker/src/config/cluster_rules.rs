//! What must go together in `[cluster]` and `[replication]`.

use super::validate::Rules;
use super::{ClusterConfig, Config, EtcdConfig, MemberConfig, Redirect, ReplicationConfig};
use crate::cluster::etcd::Endpoint;
use hyper::http::uri::Authority;
use ringlane_dataplane::ids::NODES_MAX;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

const MEMBERS: &[&str] = &["cluster.members"];

pub(super) fn check(config: &Config, rules: &mut Rules) {
    times(&config.replication, rules);
    rdma(config, rules);
    let cluster = &config.cluster;
    if !cluster.is_set() {
        alone(cluster, rules);
        return;
    }
    name(cluster, rules);
    members(&cluster.members, rules);
    redirect(cluster, rules);
    own(config, rules);
    not_yet(config, rules);
    etcd(&cluster.etcd, rules);
    let tries = cluster.etcd.timeout * u32::try_from(cluster.etcd.endpoints.len()).unwrap_or(1);
    let lease = config.replication.lease;
    if lease <= tries {
        let message = format!(
            "cluster.etcd.timeout times the {} endpoints is {tries:?}, which is not below \
             replication.lease = {lease:?}: one that hangs would cost the lease. Make the timeout \
             shorter, or the lease longer",
            cluster.etcd.endpoints.len()
        );
        rules.broken(&["cluster.etcd.timeout", "replication.lease"], message);
    }
}

/// Keys of a cluster without its members: somebody forgot them.
fn alone(cluster: &ClusterConfig, rules: &mut Rules) {
    let unset = ClusterConfig::default();
    let set = [
        ("cluster.node", cluster.node != unset.node),
        ("cluster.etcd.endpoints", cluster.etcd.endpoints != unset.etcd.endpoints),
    ];
    for (key, _) in set.into_iter().filter(|(_, is_set)| *is_set) {
        let message = format!(
            "{key} is set and cluster.members is empty; add the members, this node among them, or \
             take {key} out for a node that is alone"
        );
        rules.broken(&[key], message);
    }
}

/// What a cluster cannot do, or not yet.
fn not_yet(config: &Config, rules: &mut Rules) {
    if !config.commit_log.enabled {
        let message = "commit_log.enabled is false, and the nodes of a cluster copy the log; leave \
                       it true, or take cluster.members out for a node that is alone";
        rules.broken(&["commit_log.enabled", "cluster.members"], message.to_owned());
    }
}

fn name(cluster: &ClusterConfig, rules: &mut Rules) {
    let name = &cluster.name;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || 64 < name.len() || !name.chars().all(is_plain) {
        let message = format!(
            "cluster.name is \"{name}\"; 1 to 64 letters, digits, \".\", \"_\" and \"-\" are right, \
             because it is part of keys in etcd"
        );
        rules.broken(&["cluster.name"], message);
    }
}

fn members(members: &[MemberConfig], rules: &mut Rules) {
    if NODES_MAX < members.len() {
        let message = format!("cluster.members has {} nodes; at most {NODES_MAX}", members.len());
        rules.broken(MEMBERS, message);
    }
    let (mut nodes, mut names, mut addresses) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (index, member) in members.iter().enumerate() {
        let who = format!("cluster.members, entry {}", index + 1);
        if member.node == 0 {
            rules.broken(MEMBERS, format!("{who}: node is missing or 0; number them from 1"));
        } else if let Some(other) = nodes.insert(member.node, index + 1) {
            let message = format!(
                "{who}: node = {} is taken by entry {other}; give each its own",
                member.node
            );
            rules.broken(MEMBERS, message);
        }
        if member.name.is_empty() {
            rules.broken(MEMBERS, format!("{who}: name is missing; add name = \"...\""));
        } else if let Some(other) = names.insert(&member.name, index + 1) {
            let message = format!("{who}: name = \"{}\" is taken by entry {other}", member.name);
            rules.broken(MEMBERS, message);
        }
        if let Some(other) = addresses.insert(&member.address, index + 1) {
            let message =
                format!("{who}: address = \"{}\" is taken by entry {other}", member.address);
            rules.broken(MEMBERS, message);
        }
        let given = [("address", Some(&member.address))];
        let advertised = [("advertised_address", member.advertised_address.as_ref())];
        for (key, text) in given.into_iter().chain(advertised) {
            if text.is_some_and(|text| !is_host_and_port(text)) {
                let text = text.map_or("", String::as_str);
                let message = format!(
                    "{who}: {key} is \"{text}\"; write a host and a port, such as \"10.0.0.1:7883\""
                );
                rules.broken(MEMBERS, message);
            }
        }
    }
}

/// Clients are sent to whoever leads, which may be any node.
fn redirect(cluster: &ClusterConfig, rules: &mut Rules) {
    if cluster.redirect == Redirect::Proxy {
        return;
    }
    let nowhere = cluster.members.iter().filter(|member| member.advertised_address.is_none());
    let names: Vec<&str> = nowhere.map(|member| member.name.as_str()).collect();
    if !names.is_empty() {
        let message = format!(
            "cluster.redirect is \"server-reference\", and {} of cluster.members has no \
             advertised_address to send clients to; give every member one, or choose \"proxy\"",
            names.join(", ")
        );
        rules.broken(&["cluster.redirect", "cluster.members"], message);
    }
}

/// Whether `text` is a name or address, a colon and a port that is not 0.
fn is_host_and_port(text: &str) -> bool {
    let Ok(authority) = text.parse::<Authority>() else { return false };
    let has_port = authority.port_u16().is_some_and(|port| port != 0);
    has_port && !authority.host().is_empty() && !text.contains('@')
}

/// This node among the members, and where it listens for the others.
fn own(config: &Config, rules: &mut Rules) {
    let cluster = &config.cluster;
    let Some(own) = cluster.own().filter(|_| cluster.node != 0) else {
        let mut numbers: Vec<String> =
            cluster.members.iter().map(|member| member.node.to_string()).collect();
        numbers.sort();
        let message = format!(
            "cluster.node is {}, which is none of cluster.members ({}); set it to this node's number",
            cluster.node,
            numbers.join(", ")
        );
        rules.broken(&["cluster.node", "cluster.members"], message);
        return;
    };
    let key = "replication.bind";
    let Some(bind) = config.replication.bind.or_else(|| own.address.parse().ok()) else {
        let message = format!(
            "replication.bind is not set, and the address of this node, \"{}\", is not one that can \
             be listened on; set replication.bind to an address of this host with its port",
            own.address
        );
        rules.broken(&[key, "cluster.members"], message);
        return;
    };
    if bind.port() == 0 {
        rules.broken(&[key], format!("{key} is {bind}; other nodes need a port that is not 0"));
    }
    for (other_key, other) in taken(config) {
        if overlap(bind, other) {
            let message = format!("{key} is {bind}, which {other_key} = {other} has already");
            rules.broken(&[key, other_key, "cluster.members"], message);
        }
    }
}

fn taken(config: &Config) -> impl Iterator<Item = (&'static str, SocketAddr)> {
    let (tcp, websocket) = (&config.listeners.tcp, &config.listeners.websocket);
    let binds = [
        ("listeners.tcp.bind", tcp.enabled, tcp.bind),
        ("listeners.websocket.bind", websocket.enabled, websocket.bind),
        ("control.bind", config.control.enabled, config.control.bind),
    ];
    binds.into_iter().filter(|(_, enabled, _)| *enabled).map(|(key, _, bind)| (key, bind))
}

/// Whether both cannot be listened on at once.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.port() != 0 && (any || one.ip() == other.ip())
}

fn etcd(etcd: &EtcdConfig, rules: &mut Rules) {
    let key = "cluster.etcd.endpoints";
    if etcd.endpoints.is_empty() {
        let message = format!(
            "{key} is empty; a cluster needs the client URLs of an etcd, such as \
             [\"http://10.0.0.9:2379\"]"
        );
        rules.broken(&[key, "cluster.members"], message);
    }
    for text in &etcd.endpoints {
        if let Err(message) = Endpoint::parse(text) {
            rules.broken(&[key], format!("{key}: \"{text}\": {message}"));
        }
    }
    let prefix = &etcd.prefix;
    if !prefix.starts_with('/') || prefix.len() < 2 || prefix.ends_with('/') {
        let message = format!(
            "cluster.etcd.prefix is \"{prefix}\"; it must begin with \"/\", and not end with it"
        );
        rules.broken(&["cluster.etcd.prefix"], message);
    }
    if etcd.username.is_some() && etcd.password_file.as_os_str().is_empty() {
        let message = "cluster.etcd.username is set and cluster.etcd.password_file is not; name the \
                       file with its password";
        rules.broken(&["cluster.etcd.username"], message.to_owned());
    }
    let (least, most) = (Duration::from_millis(50), Duration::from_secs(10));
    rules.time("cluster.etcd.timeout", etcd.timeout, least, most);
}

fn times(replication: &ReplicationConfig, rules: &mut Rules) {
    let ReplicationConfig { heartbeat, suspect_after, lease, .. } = *replication;
    let (milli, second) = (Duration::from_millis(1), Duration::from_secs(1));
    rules.time("replication.heartbeat", heartbeat, 5 * milli, 10 * second);
    rules.time("replication.suspect_after", suspect_after, 20 * milli, 60 * second);
    if suspect_after < 3 * heartbeat {
        let message = format!(
            "replication.suspect_after is {suspect_after:?}; it must be at least three times \
             replication.heartbeat = {heartbeat:?}, or one late heartbeat costs a leader"
        );
        rules.broken(&["replication.suspect_after", "replication.heartbeat"], message);
    }
    rules.time("replication.lease", lease, 2 * second, 60 * second);
    rules.whole_seconds("replication.lease", lease);
    rules.range("replication.proxy_connections", replication.proxy_connections, 1, 1_000_000);
}

fn rdma(config: &Config, rules: &mut Rules) {
    let rdma = &config.replication.rdma;
    // The time-out has five bits, where 0 is without end, the retry count three (ibv_modify_qp(3)).
    rules.range("replication.rdma.timeout", rdma.timeout, 8, 20);
    rules.range("replication.rdma.retry", rdma.retry, 1, 7);
    if rdma.port == Some(0) {
        let message = "replication.rdma.port is 0; ports are numbered from 1".to_owned();
        rules.broken(&["replication.rdma.port"], message);
    }
    if rdma.mtu.is_some_and(|mtu| ![256, 512, 1024, 2048, 4096].contains(&mtu)) {
        let mtu = rdma.mtu.unwrap_or_default();
        let message =
            format!("replication.rdma.mtu is {mtu}; write \"auto\", 256, 512, 1024, 2048 or 4096");
        rules.broken(&["replication.rdma.mtu"], message);
    }
}
