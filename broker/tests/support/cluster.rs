//! A cluster: a real etcd and one process per node, each on ports and a directory of its own.

use super::broker::{Place, cpus, ringlane};
use super::etcd::EtcdServer;
use super::{Broker, Client, Connect, Options, PATIENCE, Transport};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Index;
use std::process::Output;
use std::time::{Duration, Instant};

/// Small segments, so that a test does not write zeros for most of its time.
const SMALL: &str = r#"
    [runtime]
    partitions = 4
    [mqtt]
    max_packet_size = "64KiB"
    [commit_log]
    enabled = true
    segment_size = "1MiB"
    checkpoint_size = "256KiB"
"#;

/// How long a test waits between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a cluster may take to have a leader, with slow machines and retries of etcd.
const ELECTION_PATIENCE: Duration = PATIENCE.saturating_mul(2);

/// Nodes with their etcd, ended and removed with this value. A node is named by its place, from 0;
/// its number is one more.
#[derive(Debug)]
pub struct Cluster {
    pub etcd: EtcdServer,
    nodes: Vec<Broker>,
    options: Vec<Options>,
}

impl Cluster {
    /// Starts a cluster of so many nodes with one core each, and waits until one of them leads.
    pub fn start(nodes: usize) -> Self {
        Self::start_with(&Options::new(Transport::Uring).cores(1), nodes)
    }

    /// The same with options of every node.
    pub fn start_with(options: &Options, nodes: usize) -> Self {
        let etcd = EtcdServer::start();
        let places: Vec<Place> = (0..nodes).map(|_| Place::new()).collect();
        let options: Vec<Options> =
            (0..nodes).map(|node| member(options, &places, node, &etcd)).collect();
        let nodes = places.into_iter().zip(&options);
        let nodes = nodes.map(|(place, options)| Broker::launch(place, options)).collect();
        let cluster = Self { etcd, nodes, options };
        cluster.leader();
        cluster
    }

    /// How many nodes there are, running or not.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The node that leads. Waits for one.
    pub fn leader(&self) -> usize {
        self.leader_other_than(None)
    }

    /// Waits until another node leads.
    pub fn leader_after(&self, old: usize) -> usize {
        self.leader_other_than(Some(old))
    }

    fn leader_other_than(&self, old: Option<usize>) -> usize {
        let deadline = Instant::now() + ELECTION_PATIENCE;
        loop {
            let leader = self.try_leader().filter(|leader| Some(*leader) != old);
            if let Some(leader) = leader {
                return leader;
            }
            assert!(Instant::now() < deadline, "nobody leads: {:?}", self.status());
            std::thread::sleep(PAUSE);
        }
    }

    /// The node that says now that it leads, and is ready.
    pub fn try_leader(&self) -> Option<usize> {
        let leads = |node: &Broker| {
            let answer = get(node.control, "/readyz");
            let is_own = |text: &str| text.contains("this node") && text.contains("leads");
            answer.is_some_and(|(status, text)| status == 200 && is_own(&text))
        };
        self.nodes.iter().position(leads)
    }

    /// Any node that does not lead.
    pub fn follower(&self) -> usize {
        let leader = self.leader();
        (0..self.len()).find(|node| *node != leader).expect("more nodes than one")
    }

    /// What `ringlane cluster status` prints, by the configuration of the first node.
    pub fn status(&self) -> Output {
        self.command(0, "cluster status --json")
    }

    /// What a command prints that is given the configuration of a node.
    pub fn command(&self, node: usize, command: &str) -> Output {
        let mut program = ringlane(&self.options[node], &self.nodes[node], command);
        program.output().expect("the program runs")
    }

    /// `kill -9`.
    pub fn kill(&self, node: usize) {
        self.nodes[node].signal("KILL");
    }

    /// Stops a node with SIGTERM; it must end with exit code 0.
    pub fn terminate(&mut self, node: usize) {
        self.nodes[node].terminate();
        let status = self.nodes[node].wait();
        assert_eq!(status.code(), Some(0), "{}", self.nodes[node].log());
    }

    /// Lets a node stand still, with all that it holds: to the others it has gone without a word.
    pub fn pause(&self, node: usize) {
        self.nodes[node].signal("STOP");
    }

    /// Lets it go on.
    pub fn resume(&self, node: usize) {
        self.nodes[node].signal("CONT");
    }

    /// Waits for the end of a node that ends.
    pub fn wait_for_end(&mut self, node: usize) {
        self.nodes[node].wait();
    }

    /// Waits for the end of a node that is refused: its exit code, and what it said.
    pub fn end_of(&mut self, node: usize) -> (Option<i32>, String) {
        let status = self.nodes[node].wait();
        (status.code(), self.nodes[node].log())
    }

    /// Starts a node again that ends, with what it had; does not wait until it is ready.
    pub fn restart(&mut self, node: usize) {
        self.nodes[node].wait();
        let options = self.options[node].clone();
        self.nodes[node].spawn_again(&options);
    }

    /// Starts it again with another configuration on top.
    pub fn restart_with(&mut self, node: usize, config: &str) {
        self.options[node] = self.options[node].clone().config(config);
        self.restart(node);
    }

    /// Waits until a node answers that it is ready: it leads, or follows a leader.
    pub fn wait_until_ready(&self, node: usize) {
        self.wait_until_said(node, (200, ""));
    }

    /// Waits until `/readyz` of a node answers with a status and says something.
    pub fn wait_until_said(&self, node: usize, (status, said): (u16, &str)) {
        let deadline = Instant::now() + ELECTION_PATIENCE;
        loop {
            let answer = get(self.nodes[node].control, "/readyz");
            if answer.as_ref().is_some_and(|(code, text)| *code == status && text.contains(said)) {
                return;
            }
            assert!(Instant::now() < deadline, "node {node} says {answer:?}");
            std::thread::sleep(PAUSE);
        }
    }

    /// Takes from a node that ends all that it had, and waits until etcd takes it for gone: another
    /// directory under its number is refused as long as its lease lives.
    pub fn wipe(&mut self, node: usize) {
        self.nodes[node].wait();
        std::fs::remove_dir_all(self.nodes[node].data_dir()).expect("its data");
        let own = format!("\"node\":{},", node + 1);
        let is_gone = |output: &Output| {
            let text = String::from_utf8_lossy(&output.stdout);
            let row = text.lines().find(|row| row.contains(&own));
            row.is_some_and(|row| row.contains("\"runs\":false"))
        };
        let deadline = Instant::now() + PATIENCE;
        while !is_gone(&self.command(0, "cluster members --json")) {
            assert!(Instant::now() < deadline, "the lease of node {node} does not end");
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits until a follower has all that the leader has, in all partitions.
    pub fn wait_until_in_step(&self, node: usize) {
        let deadline = Instant::now() + ELECTION_PATIENCE;
        let label = format!("node=\"{}\"", node + 1);
        let is_in_step = |leader: usize| {
            let of = |name| {
                let rows = self.nodes[leader].metric_by_label(name);
                rows.into_iter().find(|(row, _)| *row == label).map(|(_, value)| value)
            };
            of("follower_partitions_in_step") == Some(4.0)
                && of("follower_lag_records") == Some(0.0)
                && of("follower_ready") == Some(1.0)
        };
        while !self.try_leader().is_some_and(is_in_step) {
            assert!(Instant::now() < deadline, "node {node} does not come into step");
            std::thread::sleep(PAUSE);
        }
    }

    /// A client of a node, whoever leads: tries until it is accepted, because a cluster that has
    /// no leader lets it wait for a while and then closes.
    pub fn connect(&self, node: usize, connect: &Connect) -> Client {
        let deadline = Instant::now() + ELECTION_PATIENCE;
        loop {
            match Client::try_connect(self.nodes[node].tcp, connect) {
                Some(client) => return client,
                None => assert!(Instant::now() < deadline, "node {node} takes no client"),
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// A client whose session outlives its connection.
    pub fn durable(&self, node: usize, client_id: &str) -> Client {
        self.connect(node, &Connect::new(super::Version::V5, client_id).durable())
    }
}

impl Index<usize> for Cluster {
    type Output = Broker;

    fn index(&self, node: usize) -> &Broker {
        &self.nodes[node]
    }
}

/// The options of a node: who the others are, and a CPU of its own where there are enough.
pub fn member(options: &Options, places: &[Place], node: usize, etcd: &EtcdServer) -> Options {
    let member = |(index, place): (usize, &Place)| {
        let number = index + 1;
        let Place { replication, tcp, .. } = place;
        format!(
            "{{ node = {number}, name = \"n{number}\", address = \"{replication}\", \
             advertised_address = \"{tcp}\" }}"
        )
    };
    let members: Vec<String> = places.iter().enumerate().map(member).collect();
    let cluster = format!(
        "[cluster]\nnode = {}\nmembers = [{}]\n[cluster.etcd]\nendpoints = [{:?}]\n",
        node + 1,
        members.join(", "),
        etcd.url(),
    );
    let mut of_node = Options { config: String::new(), ..options.clone() }
        .config(SMALL)
        .config(&options.config)
        .config(&cluster);
    if options.cores == 1 {
        let all = cpus(usize::MAX);
        let cpu = &all[node % all.len()];
        of_node = of_node.config(&format!("[runtime]\ncores = [{cpu}]\n"));
    }
    of_node
}

/// Status and body of a GET, of a node that may be about to end or stand still.
fn get(control: SocketAddr, path: &str) -> Option<(u16, String)> {
    const LONGEST: Duration = Duration::from_millis(500);
    let mut socket = TcpStream::connect_timeout(&control, LONGEST).ok()?;
    socket.set_read_timeout(Some(LONGEST)).ok()?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some((status, body.to_owned()))
}
