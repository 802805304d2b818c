//! Nodes of one recipe on this host that are one broker: Ringlane with an etcd, or peers whose recipe says how
//! their nodes find each other.

use super::launch::{Running, accepts_connect};
use super::recipe::{PORTS_PER_NODE, Recipe, Seat, Values};
use crate::meter::Watched;
use crate::metrics_page::get;
use anyhow::{Context, Result, bail, ensure};
use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a cluster may take until its nodes take clients and one of them leads.
const START_MAX: Duration = Duration::from_secs(120);
/// How often it is asked.
const GLANCE: Duration = Duration::from_millis(5);
/// How often a recipe's command is asked who leads.
const LEADER_GLANCE: Duration = Duration::from_millis(250);
/// How long nodes that stood still are left alone.
const SETTLE: Duration = Duration::from_secs(1);
/// The file of Ringlane's recipes that the cluster is written into.
pub(crate) const CONFIGURATION: &str = "ringlane.toml";
/// Ports of an etcd.
const ETCD_PORTS: u16 = 2;

/// Nodes, and an etcd beside those of Ringlane.
#[derive(Debug)]
pub(crate) struct Cluster {
    name: String,
    etcd: Option<Running>,
    nodes: Vec<Node>,
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

    fn says_that_it_leads(&self) -> bool {
        let control = format!("127.0.0.1:{}", self.values.port + 1);
        let answer = self.running.as_ref().and_then(|_| get(&control, "readyz").ok());
        answer.is_some_and(|text| text.contains("this node") && text.contains("leads"))
    }
}

/// Ports that a broker of a recipe takes.
pub(super) fn ports_of(recipe: &Recipe) -> u16 {
    let etcd = if recipe.nodes > 1 { ETCD_PORTS } else { 0 };
    recipe.nodes * PORTS_PER_NODE + etcd
}

impl Cluster {
    /// The nodes of a recipe in a directory that is made, none of them started, and an etcd that runs if they are
    /// Ringlane's. Nodes get one of the CPUs each, in turn.
    ///
    /// # Errors
    /// If a program is missing or the etcd does not start.
    pub(crate) fn new(
        name: &str,
        recipe: &Recipe,
        room: PathBuf,
        first_port: u16,
        cpus: &str,
    ) -> Result<Self> {
        let (program, nodes) = (recipe.find_program(name)?, recipe.nodes);
        fs::create_dir_all(&room).with_context(|| room.display().to_string())?;
        let is_ringlane = recipe.files.contains_key(CONFIGURATION);
        let etcd_port = first_port + nodes * PORTS_PER_NODE;
        let etcd = is_ringlane.then(|| start_etcd(&room, etcd_port, cpus)).transpose()?;
        let cpus: Vec<&str> = cpus.split(',').collect();
        let node = |number: u16| -> Result<Node> {
            let seat = Seat { node: number, nodes, first_port };
            let name = format!("n{number}");
            let values = Values {
                program: program.clone(),
                directory: room.join(&name),
                port: seat.port_of(number),
                cpu: cpus[usize::from(number - 1) % cpus.len()].to_owned(),
                seat: Some(seat),
                ..Values::default()
            };
            let recipe = match &etcd {
                Some(etcd) => member(recipe, seat, etcd.address)?,
                None => recipe.clone(),
            };
            Ok(Node { name, recipe, values, running: None })
        };
        let nodes = (1..=nodes).map(node).collect::<Result<_>>()?;
        Ok(Self { name: name.to_owned(), etcd, nodes, keeps_directory: false, room })
    }

    /// Starts all nodes and waits until they take clients.
    ///
    /// # Errors
    /// If one of them ends, they are not ready in time, or what has to be prepared fails.
    pub(super) fn start(&mut self) -> Result<()> {
        self.launch()?;
        for node in &mut self.nodes {
            if let Some(running) = &mut node.running {
                running.await_ready(&node.name).with_context(|| self.name.clone())?;
            }
        }
        let Some(first) = self.nodes.first() else { return Ok(()) };
        if let Some(command) = &first.recipe.prepare {
            let said = first.recipe.output_of(command, &first.values);
            said.with_context(|| format!("{} cannot be prepared", self.name))?;
        }
        Ok(())
    }

    /// Whether an etcd stands beside the nodes.
    pub(crate) fn has_etcd(&self) -> bool {
        self.etcd.is_some()
    }

    /// Leaves what the nodes stored when this is dropped, and says where.
    pub(crate) fn keep_directory(&mut self) -> &Path {
        self.keeps_directory = true;
        &self.room
    }

    /// The version that the program gives.
    pub(crate) fn version(&self) -> String {
        self.nodes.first().map(|node| node.recipe.version_line(&node.values)).unwrap_or_default()
    }

    /// Starts the nodes that do not run, and does not wait for them.
    ///
    /// # Errors
    /// If one cannot be started.
    pub(crate) fn launch(&mut self) -> Result<()> {
        for node in self.nodes.iter_mut().filter(|node| node.running.is_none()) {
            node.running = Some(Running::launch(&node.name, &node.recipe, &node.values)?);
        }
        Ok(())
    }

    /// Where clients connect to each node.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Node::address).collect()
    }

    /// The name of a node, and the node itself, which is the caller's to end.
    pub(crate) fn take(&mut self, index: usize) -> (String, Option<Running>) {
        let node = &mut self.nodes[index];
        (node.name.clone(), node.running.take())
    }

    /// The node that leads, as it says itself or a command of the recipe does.
    pub(crate) fn leader(&self) -> Option<usize> {
        if self.has_etcd() {
            return self.nodes.iter().position(Node::says_that_it_leads);
        }
        let first = self.nodes.first()?;
        let Some(command) = &first.recipe.leader else { return Some(0) };
        let said = first.recipe.output_of(command, &first.values).ok()?;
        let number: usize = said.trim().parse().ok()?;
        (1..=self.nodes.len()).contains(&number).then(|| number - 1)
    }

    /// Waits until one of the nodes leads and takes clients.
    ///
    /// # Errors
    /// If none does in time.
    pub(super) fn await_leader(&mut self) -> Result<usize> {
        let deadline = Instant::now() + START_MAX;
        loop {
            let leader = self.leader();
            if let Some(index) = leader.filter(|index| accepts_connect(self.addresses()[*index])) {
                return Ok(index);
            }
            ensure!(!self.has_ended(), "a node of {} ended: {}", self.name, self.output());
            let is_late = deadline < Instant::now();
            ensure!(!is_late, "{} has no leader after {START_MAX:?}: {}", self.name, self.output());
            sleep(if self.has_etcd() { GLANCE } else { LEADER_GLANCE });
        }
    }

    /// All processes by role, the leader first.
    pub(super) fn watched(&self, leader: usize) -> Vec<Watched> {
        let role = |index: usize| if index == leader { "leader" } else { "follower" };
        let nodes = (0..).zip(&self.nodes).filter_map(|(index, node)| {
            let process = node.running.as_ref()?.process;
            Some((index, Watched { role: role(index).to_owned(), process }))
        });
        let mut nodes: Vec<(usize, Watched)> = nodes.collect();
        nodes.sort_by_key(|(index, _)| *index != leader);
        let etcd = self.etcd.iter();
        let etcd = etcd.map(|etcd| Watched { role: "etcd".to_owned(), process: etcd.process });
        nodes.into_iter().map(|(_, watched)| watched).chain(etcd).collect()
    }

    fn running(&self) -> impl Iterator<Item = &Running> {
        self.etcd.iter().chain(self.nodes.iter().filter_map(|node| node.running.as_ref()))
    }

    /// Stops all where they are.
    ///
    /// # Errors
    /// If one is gone.
    pub(super) fn freeze(&self) -> Result<()> {
        self.running().try_for_each(Running::freeze)
    }

    /// Lets all go on, and gives them the time to find out that they stood still: a leader may have lost its
    /// lease meanwhile.
    ///
    /// # Errors
    /// If one is gone.
    pub(super) fn thaw(&self) -> Result<()> {
        self.running().try_for_each(Running::thaw)?;
        sleep(SETTLE);
        Ok(())
    }

    /// Whether a node has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        let mut running = self.nodes.iter_mut().filter_map(|node| node.running.as_mut());
        running.any(|node| node.has_ended())
    }

    /// What the nodes said last, for people.
    pub(crate) fn output(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            let said = node.running.as_ref().map(Running::output).unwrap_or_default();
            let _ = writeln!(text, "{}: {said}", node.name);
        }
        text.trim_end().to_owned()
    }
}

impl Drop for Cluster {
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
    let values = Values { program, directory, port, cpu: cpus.to_owned(), ..Values::default() };
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

/// The recipe of one node of Ringlane: what is configured for a node that is alone, and the cluster behind it.
fn member(recipe: &Recipe, seat: Seat, etcd: SocketAddr) -> Result<Recipe> {
    let mut recipe = recipe.clone();
    let Some(text) = recipe.files.get_mut(CONFIGURATION) else {
        bail!("there is no {CONFIGURATION}")
    };
    if !text.contains("[runtime]") {
        // Nodes on one host share its CPUs and its disk.
        text.push_str(
            "\n[runtime]\nidle = \"park\"\npartitions = 4\n[commit_log]\nsegment_size = \"4MiB\"\n",
        );
    }
    let node = seat.node;
    let _ = write!(
        text,
        "\n[cluster]\nnode = {node}\n[cluster.etcd]\nendpoints = [\"http://{etcd}\"]\n"
    );
    for number in 1..=seat.nodes {
        let port = seat.port_of(number) + 3;
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
        for node in 1..=3 {
            let seat = Seat { node, nodes: 3, first_port: 4000 };
            let recipe = member(&recipe, seat, etcd).unwrap();
            let text = recipe.files[CONFIGURATION].replace("{port", "{");
            let table: toml::Table = text.parse().unwrap();
            let cluster = &table["cluster"];
            assert_eq!(cluster["node"].as_integer(), Some(i64::from(node)));
            let members = cluster["members"].as_array().unwrap();
            let addresses: Vec<&str> =
                members.iter().filter_map(|member| member["address"].as_str()).collect();
            assert_eq!(addresses, ["127.0.0.1:4003", "127.0.0.1:4007", "127.0.0.1:4011"]);
        }
        let other = Recipe::of_command("x {port}");
        let seat = Seat { node: 1, nodes: 3, first_port: 4000 };
        assert!(member(&other, seat, etcd).is_err(), "no Ringlane");
    }
}
