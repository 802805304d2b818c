//! `ringlane cluster`: what etcd says of a cluster, asked for by a node's configuration, and what its
//! nodes say of themselves. What is asked of it is in [`operate`].

use super::ask_nodes::{Answer, ask_nodes};
use super::etcd::{Etcd, EtcdSettings};
use super::keys::{Present, View};
use super::membership::view;
use super::metadata::Metadata;
use super::operate::{self, Freed, Handed};
use super::status::ClusterStatus;
use crate::config::{ClusterConfig, MemberConfig};
use crate::ctl::CtlError;
use crate::ctl::table::{Table, output};
use clap::{Args, Subcommand};
use ringlane_dataplane::ids::NodeId;
use ringlane_dataplane::replication::quorum::majority;
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

/// What `ringlane cluster` is told.
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
    /// Configuration file (TOML) of any node of the cluster
    #[arg(short, long, value_name = "FILE", env = "RINGLANE_CONFIG", global = true)]
    pub(crate) config: Option<PathBuf>,
    /// Print JSON, one line per row
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum ClusterCommand {
    /// List the nodes: which run, which one leads, how long their leases last
    Members,
    /// Show the cluster: who leads, in which epoch, whether enough nodes run, and how far each is
    Status,
    /// Have the leader hand over to NODE, or to a follower that could lead at once, and wait until that one leads
    TransferLeader {
        /// Number of the node that is to lead
        node: Option<u16>,
    },
    /// Free the number of a node that is lost: an empty one may take its place at once, and its old data
    /// directory counts no more
    Replace {
        /// Number of the lost node
        node: u16,
    },
}

/// A node, as it is configured and as etcd knows it.
#[derive(Clone, PartialEq, Debug, Serialize)]
struct MemberRow {
    node: u16,
    name: String,
    address: String,
    advertised_address: Option<String>,
    /// Whether it holds a lease. It may be without one and lead on, while etcd does not answer it.
    runs: bool,
    /// Whether the last leadership is its own.
    leads: bool,
    /// What its lease has left.
    lease_ms: Option<u64>,
    version: Option<String>,
}

/// The cluster.
#[derive(Clone, PartialEq, Debug, Serialize)]
struct StatusRow {
    cluster: String,
    /// `None` before the first node has started.
    id: Option<String>,
    partitions: Option<u32>,
    nodes: usize,
    nodes_running: usize,
    /// Nodes that have to agree.
    majority: usize,
    /// The node that led last; `None` if there was none yet.
    leader: Option<u16>,
    leader_name: Option<String>,
    /// Whether it holds a lease.
    leader_runs: bool,
    leader_lease_ms: Option<u64>,
    /// 0 if there was no leader yet.
    epoch: u64,
    /// Of etcd; the next epoch is above it.
    revision: u64,
    /// Nodes that run, as they say themselves.
    replicas: Vec<ReplicaRow>,
}

/// A node that runs, as it says itself, and how far it is behind as the leader says.
#[derive(Clone, PartialEq, Debug, Serialize)]
struct ReplicaRow {
    node: u16,
    name: String,
    /// What it says; `None` if it was not reached.
    status: Option<ClusterStatus>,
    /// Why it was not.
    unreached: Option<String>,
    /// Partitions in which it is in step with the leader; `None` if no leader says so.
    in_step: Option<u64>,
    /// Records that it does not have durably.
    lag_records: Option<u64>,
    /// Whether it could lead at once.
    is_ready: Option<bool>,
}

/// What etcd said.
struct Found {
    view: View,
    /// Time left of the leases of the nodes that run, in their order.
    left: Vec<Option<Duration>>,
    /// What they say themselves, by their numbers.
    answers: Vec<(u16, Answer)>,
}

impl ClusterArgs {
    /// Asks and prints.
    ///
    /// # Errors
    /// [`CtlError`].
    pub(crate) fn run(&self, config: &ClusterConfig) -> Result<(), CtlError> {
        if !config.is_set() {
            let message = "cluster.members is empty: this configuration is that of a node that is \
                           alone; name that of a cluster's node with -c";
            return Err(CtlError::Failed(message.to_owned()));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| CtlError::Failed(error.to_string()))?;
        let done = runtime.block_on(self.ask(config));
        // A name that the system still looks up is waited for by nobody.
        runtime.shutdown_background();
        done
    }

    async fn ask(&self, config: &ClusterConfig) -> Result<(), CtlError> {
        let etcd = Etcd::new(EtcdSettings::of(config));
        match self.command {
            ClusterCommand::Members => {
                let rows = members(config, &find(&etcd, false).await.map_err(CtlError::Failed)?);
                if self.json { rows.iter().try_for_each(line) } else { print_members(&rows) }
            }
            ClusterCommand::Status => {
                let row = status(config, &find(&etcd, true).await.map_err(CtlError::Failed)?);
                if self.json { line(&row) } else { print_status(&row) }
            }
            ClusterCommand::TransferLeader { node } => {
                let handed = operate::transfer(&etcd, node).await.map_err(CtlError::Failed)?;
                if self.json { line(&handed) } else { write(&handed_text(&handed)) }
            }
            ClusterCommand::Replace { node } => {
                let freed = operate::replace(&etcd, node).await.map_err(CtlError::Failed)?;
                if self.json { line(&freed) } else { write(&freed_text(&freed)) }
            }
        }
    }
}

async fn find(etcd: &Etcd, asks_nodes: bool) -> Result<Found, String> {
    let view = view(etcd).await.map_err(|error| error.to_string())?;
    let mut left = Vec::new();
    for present in &view.nodes {
        left.push(match present.lease {
            Some(lease) => etcd.remaining(lease).await.map_err(|error| error.to_string())?,
            None => None,
        });
    }
    let answers = if asks_nodes { ask_nodes(&view).await } else { Vec::new() };
    Ok(Found { view, left, answers })
}

impl Found {
    fn node(&self, node: u16) -> Option<(&Present, Option<u64>)> {
        let found = self.view.nodes.iter().zip(&self.left);
        let (present, left) = found.into_iter().find(|(present, _)| present.record.node == node)?;
        let millis = left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        Some((present, millis))
    }
}

fn members(config: &ClusterConfig, found: &Found) -> Vec<MemberRow> {
    let row = |member: &MemberConfig| {
        let present = found.node(member.node);
        let record = present.map(|(present, _)| &present.record);
        let leads = |view: &View| view.leader.is_some_and(|l| l.node == NodeId(member.node));
        MemberRow {
            node: member.node,
            name: member.name.clone(),
            // What a node says of itself counts, if it runs.
            address: record.map_or(&member.address, |record| &record.address).clone(),
            advertised_address: record
                .map_or(&member.advertised_address, |record| &record.advertised_address)
                .clone(),
            runs: present.is_some(),
            leads: leads(&found.view),
            lease_ms: present.and_then(|(_, left)| left),
            version: record.map(|record| record.version.clone()),
        }
    };
    let mut rows: Vec<MemberRow> = config.members.iter().map(row).collect();
    rows.sort_by_key(|row| row.node);
    rows
}

fn status(config: &ClusterConfig, found: &Found) -> StatusRow {
    let identity = found.view.identity.as_ref();
    let leader = found.view.leader.map(|leader| leader.node.0);
    let present = leader.and_then(|node| found.node(node));
    let name = config.members.iter().find(|member| Some(member.node) == leader);
    let nodes = identity.map_or(config.members.len(), |identity| identity.nodes.len());
    StatusRow {
        cluster: config.name.clone(),
        id: identity.map(|identity| identity.id.to_string()),
        partitions: identity.map(|identity| identity.partitions),
        nodes,
        nodes_running: found.view.nodes.len(),
        majority: majority(nodes),
        leader,
        leader_name: name.map(|member| member.name.clone()),
        leader_runs: present.is_some(),
        leader_lease_ms: present.and_then(|(_, left)| left),
        epoch: found.view.epoch(),
        revision: found.view.revision,
        replicas: replicas(found),
    }
}

fn replicas(found: &Found) -> Vec<ReplicaRow> {
    let leader = found.answers.iter().find_map(|(_, answer)| {
        let status = answer.as_ref().ok()?;
        status.is_leading().then(|| (status.node, status.followers(), status.partitions.len()))
    });
    let row = |(node, answer): &(u16, Answer)| {
        let present = found.node(*node).map(|(present, _)| present);
        let seen = leader.as_ref().and_then(|(leader, followers, partitions)| {
            if leader == node {
                return Some((*partitions as u64, 0, true));
            }
            let follower = followers.iter().find(|follower| follower.node == *node)?;
            Some((follower.in_step, follower.lag, follower.is_ready))
        });
        ReplicaRow {
            node: *node,
            name: present.map(|present| present.record.name.clone()).unwrap_or_default(),
            status: answer.as_ref().ok().cloned(),
            unreached: answer.as_ref().err().cloned(),
            in_step: seen.map(|(in_step, ..)| in_step),
            lag_records: seen.map(|(_, lag, _)| lag),
            is_ready: seen.map(|(.., is_ready)| is_ready),
        }
    };
    found.answers.iter().map(row).collect()
}

fn print_members(rows: &[MemberRow]) -> Result<(), CtlError> {
    const HEADER: &[&str] =
        &["NODE", "NAME", "ROLE", "STATE", "LEASE", "REPLICATION", "CLIENTS", "VERSION"];
    let mut table = Table::new(HEADER);
    for row in rows {
        let dash = || "-".to_owned();
        table.row(vec![
            row.node.to_string(),
            row.name.clone(),
            if row.leads { "leader".to_owned() } else { dash() },
            if row.runs { "runs" } else { "absent" }.to_owned(),
            row.lease_ms.map_or_else(dash, seconds),
            row.address.clone(),
            row.advertised_address.clone().unwrap_or_else(dash),
            row.version.clone().unwrap_or_else(dash),
        ])?;
    }
    table.end()
}

fn print_status(row: &StatusRow) -> Result<(), CtlError> {
    write(&status_text(row))?;
    if row.replicas.is_empty() { Ok(()) } else { print_replicas(&row.replicas) }
}

fn handed_text(handed: &Handed) -> String {
    let Handed { from, leader, epoch, took_ms } = handed;
    format!("node {leader} leads in epoch {epoch}, in place of node {from}: after {took_ms} ms\n")
}

fn freed_text(freed: &Freed) -> String {
    let node = freed.node;
    let was = freed
        .directory
        .as_ref()
        .map_or(String::new(), |directory| format!("data directory {directory} counts no more; "));
    format!("node {node} is free: {was}start it with an empty data_dir, and the others fill it\n")
}

fn print_replicas(rows: &[ReplicaRow]) -> Result<(), CtlError> {
    const HEADER: &[&str] = &["NODE", "NAME", "ROLE", "EPOCH", "IN STEP", "LAG", "HELD", "STATE"];
    write("\n")?;
    let mut table = Table::new(HEADER);
    for row in rows {
        let dash = || "-".to_owned();
        let number = |number: Option<u64>| number.map_or_else(dash, |number| number.to_string());
        let status = row.status.as_ref();
        let held = |status: &ClusterStatus| {
            status.partitions.iter().map(|p| p.next - p.start).sum::<u64>().to_string()
        };
        table.row(vec![
            row.node.to_string(),
            row.name.clone(),
            status.map_or_else(dash, |status| status.role.to_string()),
            status.map_or_else(dash, |status| status.epoch.to_string()),
            number(row.in_step),
            number(row.lag_records),
            status.map_or_else(dash, held),
            state_text(row),
        ])?;
    }
    table.end()
}

fn state_text(row: &ReplicaRow) -> String {
    let Some(status) = &row.status else { return row.unreached.clone().unwrap_or_default() };
    let (damaged, failed) = status.ill();
    let mut state = Vec::new();
    if status.is_learner {
        state.push("being filled".to_owned());
    }
    if 0 < damaged {
        state.push(format!("{damaged} damaged"));
    }
    if 0 < failed {
        state.push(format!("{failed} failed"));
    }
    if status.cannot_lead.is_some() {
        state.push("cannot lead".to_owned());
    } else if row.is_ready == Some(false) {
        state.push("could not lead yet".to_owned());
    }
    for differ in &status.streams_differ {
        state.push(format!("has other streams than node {}", differ.node));
    }
    if status.no_majority.is_some() {
        state.push("hears no majority".to_owned());
    }
    if status.etcd_trouble.is_some() {
        state.push("etcd does not answer it".to_owned());
    }
    if state.is_empty() { "well".to_owned() } else { state.join(", ") }
}

fn seconds(millis: u64) -> String {
    format!("{} s", millis / 1000)
}

fn status_text(row: &StatusRow) -> String {
    let id = match (&row.id, row.partitions) {
        (Some(id), Some(partitions)) => format!("id {id}, {partitions} partitions"),
        _ => "not made yet: its first node does when it starts".to_owned(),
    };
    let leader = match row.leader {
        None => "none yet".to_owned(),
        Some(node) => {
            let name = row.leader_name.as_ref().map_or(String::new(), |name| format!(" ({name})"));
            let lease = match row.leader_lease_ms {
                Some(millis) => format!("runs, its lease has {} left", seconds(millis)),
                None if row.leader_runs => "runs, without a lease".to_owned(),
                None => "has no lease: it has gone, or etcd does not hear of it".to_owned(),
            };
            format!("node {node}{name}, epoch {}; {lease}", row.epoch)
        }
    };
    let enough = match row.nodes_running < row.majority {
        true => "fewer than",
        false => "at least",
    };
    format!(
        "cluster  {}, {id}\nleader   {leader}\nnodes    {} of {} run, {enough} a majority of {}\netcd     \
         revision {}\n",
        row.cluster, row.nodes_running, row.nodes, row.majority, row.revision
    )
}

fn line(row: &impl Serialize) -> Result<(), CtlError> {
    let text = serde_json::to_string(row).map_err(|error| CtlError::Failed(error.to_string()))?;
    write(&(text + "\n"))
}

fn write(text: &str) -> Result<(), CtlError> {
    io::stdout().write_all(text.as_bytes()).map_err(|error| output(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::keys::{ClusterIdentity, Id16, Leader, NodeRecord, ProxiedAt};
    use crate::cluster::metadata::LeaseId;
    use crate::cluster::status::tests::leader_of_two_partitions;

    fn config() -> ClusterConfig {
        let member = |node, name: &str| MemberConfig {
            node,
            name: name.to_owned(),
            address: format!("10.0.0.{node}:7883"),
            advertised_address: None,
        };
        let members = vec![member(2, "b"), member(1, "a"), member(3, "c")];
        ClusterConfig { node: 1, members, ..ClusterConfig::default() }
    }

    fn led_by_a_node_that_runs() -> Found {
        let record = NodeRecord {
            node: 1,
            name: "a".to_owned(),
            instance: Id16([1; 16]),
            address: "10.0.0.99:7883".to_owned(),
            advertised_address: Some("mqtt:1883".to_owned()),
            version: "0.1.0".to_owned(),
            proxied: ProxiedAt::default(),
            control: None,
            streams: None,
        };
        let identity = ClusterIdentity {
            id: Id16([5; 16]),
            hash_key: Id16([6; 16]),
            partitions: 8,
            nodes: vec![1, 2, 3],
        };
        let view = View {
            revision: 40,
            identity: Some(identity),
            leader: Some(Leader { node: NodeId(1), epoch: 17, claim: Id16([0; 16]) }),
            nodes: vec![Present { record, lease: Some(LeaseId(9)) }],
            ..View::default()
        };
        let answers = vec![(1, Ok(leader_of_two_partitions())), (2, Err("asleep".to_owned()))];
        Found { view, left: vec![Some(Duration::from_millis(2400))], answers }
    }

    #[test]
    fn members_are_those_of_the_configuration_with_what_is_known_of_them() {
        let rows = members(&config(), &led_by_a_node_that_runs());
        let seen: Vec<_> = rows.iter().map(|row| (row.node, row.runs, row.leads)).collect();
        assert_eq!(seen, [(1, true, true), (2, false, false), (3, false, false)]);
        assert_eq!((rows[0].address.as_str(), rows[0].lease_ms), ("10.0.0.99:7883", Some(2400)));
        assert_eq!((rows[1].address.as_str(), rows[1].lease_ms), ("10.0.0.2:7883", None));
    }

    #[test]
    fn replicas_are_as_they_say_and_as_far_as_the_leader_says() {
        let row = status(&config(), &led_by_a_node_that_runs());
        let [one, two] = &row.replicas[..] else { panic!("{row:?}") };
        assert_eq!((one.in_step, one.lag_records), (Some(2), Some(0)), "the leader");
        assert_eq!((two.in_step, two.lag_records), (Some(2), Some(5)));
        assert_eq!((state_text(one), state_text(two)), ("well".to_owned(), "asleep".to_owned()));
    }

    #[test]
    fn a_status_says_who_leads_and_whether_enough_run() {
        let row = status(&config(), &led_by_a_node_that_runs());
        let text = status_text(&row);
        let expected = "leader   node 1 (a), epoch 17; runs, its lease has 2 s left";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("1 of 3 run, fewer than a majority of 2"), "{text}");
        let json = serde_json::to_string(&row).unwrap();
        assert!(!json.contains("0606"), "the hash key is a secret: {json}");
        let empty = Found { view: View::default(), left: Vec::new(), answers: Vec::new() };
        let text = status_text(&status(&config(), &empty));
        assert!(text.contains("not made yet") && text.contains("none yet"), "{text}");
    }
}
