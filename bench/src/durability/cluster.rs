//! A cluster that is held to what it has acknowledged: an etcd, and nodes of one recipe on this host.

use super::host::{Fault, Host, TERM_MAX};
use super::level::Level;
use crate::compare::{Recipe, Running, Values, accepts_connect};
use crate::metrics_page::{MetricsPage, get};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a cluster may take to have a leader that accepts a CONNECT.
const START_MAX: Duration = Duration::from_secs(60);
/// How often it is asked.
const GLANCE: Duration = Duration::from_millis(5);
/// Ports of a node: MQTT, control plane, WebSocket, replication.
const PORTS_PER_NODE: u16 = 4;
/// The file of the recipe that the cluster is written into.
const CONFIGURATION: &str = "ringlane.toml";
/// One strike in so many ends all nodes, as a loss of power in the whole room does.
const ALL_ONE_IN: u32 = 4;

/// One etcd, and nodes.
#[derive(Debug)]
pub struct ClusterHost {
    name: String,
    etcd: Option<Running>,
    nodes: Vec<Node>,
    level: Level,
    strikes: u32,
    keeps_directory: bool,
    room: PathBuf,
}

/// A node, running or not.
#[derive(Debug)]
struct Node {
    name: String,
    recipe: Recipe,
    values: Values,
    running: Option<Running>,
}

impl Node {
    fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.values.port))
    }

    /// An offset of each partition, as the node says it.
    fn offsets(&self, name: &str) -> BTreeMap<String, u64> {
        let page =
            MetricsPage::fetch(&format!("http://127.0.0.1:{}/metrics", self.values.port + 1));
        let page = page.unwrap_or_default();
        page.labelled(name).map(|(labels, value)| (labels.to_owned(), value as u64)).collect()
    }
}

impl ClusterHost {
    /// A cluster of `nodes` nodes in a directory that is made, on ports from `first_port` on, with all
    /// streams at `level`.
    ///
    /// # Errors
    /// If a program is missing, or the recipe is not Ringlane's.
    pub fn new(
        name: &str,
        recipe: &Recipe,
        room: PathBuf,
        first_port: u16,
        cpus: &str,
        (nodes, level): (u16, Level),
    ) -> Result<Self> {
        ensure!((1..=7).contains(&nodes), "a cluster has 1 to 7 nodes, not {nodes}");
        let program = recipe.find_program(name)?;
        fs::create_dir_all(&room).with_context(|| room.display().to_string())?;
        let etcd = start_etcd(&room, first_port + nodes * PORTS_PER_NODE, cpus)?;
        let cpus: Vec<&str> = cpus.split(',').collect();
        let node = |index: u16| -> Result<Node> {
            let port = first_port + index * PORTS_PER_NODE;
            let name = format!("n{}", index + 1);
            let directory = room.join(&name);
            let cpu = cpus[usize::from(index) % cpus.len()].to_owned();
            let values =
                Values { program: program.clone(), directory, port, cpu, unbatched: false };
            let recipe = member(recipe, first_port, index, (nodes, level), etcd.address)?;
            Ok(Node { name, recipe, values, running: None })
        };
        let nodes = (0..nodes).map(node).collect::<Result<_>>()?;
        let etcd = Some(etcd);
        let (name, strikes, keeps_directory) = (name.to_owned(), 0, false);
        Ok(Self { name, etcd, nodes, level, strikes, keeps_directory, room })
    }

    /// Leaves what the nodes stored when this is dropped, and says where.
    pub fn keep_directory(&mut self) -> &Path {
        self.keeps_directory = true;
        &self.room
    }

    /// The version that the program gives.
    #[must_use]
    pub fn version(&self) -> String {
        self.nodes.first().map(|node| node.recipe.version_line(&node.values)).unwrap_or_default()
    }

    /// Starts the nodes that do not run, and does not wait for them.
    fn launch(&mut self) -> Result<()> {
        for node in self.nodes.iter_mut().filter(|node| node.running.is_none()) {
            node.running = Some(Running::launch(&node.name, &node.recipe, &node.values)?);
        }
        Ok(())
    }

    /// The node that says that it leads.
    fn leader(&self) -> Option<usize> {
        self.nodes.iter().position(|node| {
            let control = format!("127.0.0.1:{}", node.values.port + 1);
            let answer = node.running.as_ref().and_then(|_| get(&control, "readyz").ok());
            answer.is_some_and(|text| text.contains("this node") && text.contains("leads"))
        })
    }

    /// Waits until every node has what the leader has now.
    fn wait_until_in_step(&self, deadline: Instant) -> Result<()> {
        let next = |leader: usize| self.nodes[leader].offsets("ringlane_replica_next_offset");
        let mut wanted = BTreeMap::new();
        let is_in_step = |node: &Node, wanted: &BTreeMap<String, u64>| {
            let has = node.offsets("ringlane_replica_flushed_offset");
            wanted.iter().all(|(partition, next)| has.get(partition).is_some_and(|has| next <= has))
        };
        loop {
            if wanted.is_empty() {
                wanted = self.leader().map(next).unwrap_or_default();
            } else if self.nodes.iter().all(|node| is_in_step(node, &wanted)) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "a node does not catch up: {}", self.output());
            sleep(GLANCE);
        }
    }

    /// The leader, or all nodes: which of them it is goes by how often it was struck.
    fn victims(&mut self, fault: Fault) -> Vec<usize> {
        self.strikes += 1;
        let may_take_all = fault == Fault::Kill && self.level.survives_all();
        if may_take_all && self.strikes.is_multiple_of(ALL_ONE_IN) {
            return (0..self.nodes.len()).collect();
        }
        // Nobody leads for a while after a fault: then any one will do.
        let any = self.strikes as usize % self.nodes.len();
        vec![self.leader().unwrap_or(any)]
    }
}

impl Host for ClusterHost {
    fn start(&mut self) -> Result<SocketAddr> {
        self.launch()?;
        let deadline = Instant::now() + START_MAX;
        loop {
            // A node that follows nobody lets a client wait: whoever leads is asked.
            let leader = self.leader().map(|leader| self.nodes[leader].address());
            if let Some(address) = leader.filter(|address| accepts_connect(*address)) {
                if self.level == Level::QuorumMemory {
                    self.wait_until_in_step(deadline)?;
                }
                return Ok(address);
            }
            ensure!(!self.has_ended(), "a node of {} ended: {}", self.name, self.output());
            ensure!(
                Instant::now() < deadline,
                "{} has no leader after {START_MAX:?}: {}",
                self.name,
                self.output()
            );
            sleep(GLANCE);
        }
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Node::address).collect()
    }

    fn weaken(&mut self, fault: Fault) -> Result<()> {
        self.level.check(fault)
    }

    fn strike(&mut self, fault: Fault) -> Result<()> {
        for index in self.victims(fault) {
            let node = &mut self.nodes[index];
            let Some(running) = node.running.take() else { bail!("{} does not run", node.name) };
            let struck = match fault {
                Fault::Term => running.terminate(TERM_MAX),
                _ => running.kill(),
            };
            struck.with_context(|| node.name.clone())?;
        }
        Ok(())
    }

    fn stumble(&mut self, fault: Fault, after: Duration) -> Result<()> {
        if self.level == Level::QuorumMemory {
            // Two that lack what they had in memory are a majority.
            self.start()?;
        } else {
            self.launch()?;
        }
        sleep(after);
        self.strike(fault)
    }

    fn arm(&mut self, failpoint: Option<String>) {
        // Which node would meet it is not known.
        assert!(failpoint.is_none(), "a cluster has no failpoints");
    }

    fn has_ended(&mut self) -> bool {
        let mut running = self.nodes.iter_mut().filter_map(|node| node.running.as_mut());
        running.any(|node| node.has_ended())
    }

    fn output(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            let said = node.running.as_ref().map(Running::output).unwrap_or_default();
            let _ = writeln!(text, "{}: {said}", node.name);
        }
        text.trim_end().to_owned()
    }
}

impl Drop for ClusterHost {
    fn drop(&mut self) {
        // Nodes that end in order hand over: what is to be looked at is as it was when they are killed.
        for node in &mut self.nodes {
            let _ = node.running.take().map(Running::reap);
        }
        drop(self.etcd.take());
        if !self.keeps_directory {
            let nodes = self.nodes.iter().map(|node| node.values.directory.clone());
            for directory in nodes.chain([self.room.join("etcd")]) {
                let _ = fs::remove_dir_all(directory);
            }
        }
    }
}

/// An etcd of one member that answers.
fn start_etcd(room: &Path, port: u16, cpus: &str) -> Result<Running> {
    let recipe = Recipe::of_command(
        "etcd --data-dir {dir}/data --listen-client-urls http://127.0.0.1:{port} \
         --advertise-client-urls http://127.0.0.1:{port} \
         --listen-peer-urls http://127.0.0.1:{port1} \
         --initial-advertise-peer-urls http://127.0.0.1:{port1} \
         --initial-cluster default=http://127.0.0.1:{port1} \
         --heartbeat-interval 20 --election-timeout 200",
    );
    let (program, directory) = (PathBuf::new(), room.join("etcd"));
    let values = Values { program, directory, port, cpu: cpus.to_owned(), unbatched: false };
    let mut running = Running::launch("etcd", &recipe, &values)?;
    let deadline = Instant::now() + START_MAX;
    let is_healthy = |address: SocketAddr| {
        TcpStream::connect(address).is_ok()
            && get(&address.to_string(), "health").is_ok_and(|text| text.contains("\"true\""))
    };
    while !is_healthy(running.address) {
        ensure!(
            !running.has_ended(),
            "etcd ended; is it installed (etcd-server)? {}",
            running.output()
        );
        ensure!(Instant::now() < deadline, "etcd does not answer: {}", running.output());
        sleep(GLANCE);
    }
    Ok(running)
}

/// The recipe of one node: what is configured for a node that is alone, and the cluster behind it.
fn member(
    recipe: &Recipe,
    first_port: u16,
    index: u16,
    (nodes, level): (u16, Level),
    etcd: SocketAddr,
) -> Result<Recipe> {
    let mut recipe = recipe.clone();
    let Some(text) = recipe.files.get_mut(CONFIGURATION) else {
        bail!("--cluster needs a recipe of Ringlane with a {CONFIGURATION}")
    };
    // Nodes on one host share its CPUs and its disk.
    let _ = write!(
        text,
        "\n[runtime]\nidle = \"park\"\npartitions = 4\n[commit_log]\nsegment_size = \"4MiB\"\n\
         [cluster]\nnode = {}\n[cluster.etcd]\nendpoints = [\"http://{etcd}\"]\n",
        index + 1
    );
    if level.is_of_one_node() {
        // Where heartbeats are late another one takes over, which may cost what is promised of hand-overs.
        text.push_str("[replication]\nsuspect_after = \"5s\"\n");
    }
    let _ = write!(text, "[[stream]]\nname = \"default\"\nlevel = \"{}\"\n", level.name());
    for other in 0..nodes {
        let (number, port) = (other + 1, first_port + other * PORTS_PER_NODE + 3);
        let _ = write!(
            text,
            "[[cluster.members]]\nnode = {number}\nname = \"n{number}\"\n\
             address = \"127.0.0.1:{port}\"\n"
        );
    }
    Ok(recipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_knows_all_nodes_and_its_own_number() {
        let recipe = Recipe::built_in("ringlane-disk").unwrap().unwrap();
        let etcd = SocketAddr::from((Ipv4Addr::LOCALHOST, 2379));
        for index in 0..3 {
            let recipe = member(&recipe, 4000, index, (3, Level::Memory), etcd).unwrap();
            let text = recipe.files[CONFIGURATION].replace("{port", "{");
            let table: toml::Table = text.parse().unwrap();
            assert_eq!(table["stream"][0]["level"].as_str(), Some("memory"));
            let cluster = &table["cluster"];
            assert_eq!(cluster["node"].as_integer(), Some(i64::from(index) + 1));
            let members = cluster["members"].as_array().unwrap();
            let addresses: Vec<&str> =
                members.iter().filter_map(|member| member["address"].as_str()).collect();
            assert_eq!(addresses, ["127.0.0.1:4003", "127.0.0.1:4007", "127.0.0.1:4011"]);
        }
        let other = Recipe::of_command("x {port}");
        assert!(member(&other, 4000, 0, (3, Level::default()), etcd).is_err(), "no Ringlane");
    }
}
