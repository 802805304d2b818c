//! A cluster that is held to what it has acknowledged: nodes are struck, and started again.

use super::host::{Fault, Host, TERM_MAX};
use super::level::Level;
use crate::compare::{CONFIGURATION, Cluster, Recipe, accepts_connect};
use crate::metrics_page::MetricsPage;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a cluster may take to have a leader that accepts a CONNECT.
const START_MAX: Duration = Duration::from_secs(60);
/// How often it is asked.
const GLANCE: Duration = Duration::from_millis(5);
/// One strike in so many ends all nodes, as a loss of power in the whole room does.
const ALL_ONE_IN: u32 = 4;

/// A cluster whose nodes run or not.
#[derive(Debug)]
pub struct ClusterHost {
    name: String,
    cluster: Cluster,
    level: Level,
    strikes: u32,
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
        let recipe = at_level(&Recipe { nodes, ..recipe.clone() }, level);
        let cluster = Cluster::new(name, &recipe, room, first_port, cpus)?;
        ensure!(cluster.has_etcd(), "--cluster needs a recipe of Ringlane");
        Ok(Self { name: name.to_owned(), cluster, level, strikes: 0 })
    }

    /// Leaves what the nodes stored when this is dropped, and says where.
    pub fn keep_directory(&mut self) -> &Path {
        self.cluster.keep_directory()
    }

    /// The version that the program gives.
    #[must_use]
    pub fn version(&self) -> String {
        self.cluster.version()
    }

    /// An offset of each partition, as a node says it.
    fn offsets(&self, node: usize, name: &str) -> BTreeMap<String, u64> {
        let control = self.cluster.addresses()[node].port() + 1;
        let page = MetricsPage::fetch(&format!("http://127.0.0.1:{control}/metrics"));
        let page = page.unwrap_or_default();
        page.labelled(name).map(|(labels, value)| (labels.to_owned(), value as u64)).collect()
    }

    /// Waits until every node has what the leader has now.
    fn wait_until_in_step(&self, deadline: Instant) -> Result<()> {
        let next = |leader: usize| self.offsets(leader, "ringlane_replica_next_offset");
        let mut wanted = BTreeMap::new();
        let is_in_step = |node: usize, wanted: &BTreeMap<String, u64>| {
            let has = self.offsets(node, "ringlane_replica_flushed_offset");
            wanted.iter().all(|(partition, next)| has.get(partition).is_some_and(|has| next <= has))
        };
        loop {
            if wanted.is_empty() {
                wanted = self.cluster.leader().map(next).unwrap_or_default();
            } else if (0..self.cluster.addresses().len()).all(|node| is_in_step(node, &wanted)) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "a node does not catch up: {}", self.output());
            sleep(GLANCE);
        }
    }

    /// The leader, or all nodes: which of them it is goes by how often it was struck.
    fn victims(&mut self, fault: Fault) -> Vec<usize> {
        self.strikes += 1;
        let nodes = self.cluster.addresses().len();
        let may_take_all = fault == Fault::Kill && self.level.survives_all();
        if may_take_all && self.strikes.is_multiple_of(ALL_ONE_IN) {
            return (0..nodes).collect();
        }
        // Nobody leads for a while after a fault: then any one will do.
        let any = self.strikes as usize % nodes;
        vec![self.cluster.leader().unwrap_or(any)]
    }
}

impl Host for ClusterHost {
    fn start(&mut self) -> Result<SocketAddr> {
        self.cluster.launch()?;
        let deadline = Instant::now() + START_MAX;
        loop {
            // A node that follows nobody lets a client wait: whoever leads is asked.
            let leader = self.cluster.leader().map(|leader| self.cluster.addresses()[leader]);
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
        self.cluster.addresses()
    }

    fn weaken(&mut self, fault: Fault) -> Result<()> {
        self.level.check(fault)
    }

    fn strike(&mut self, fault: Fault) -> Result<()> {
        for index in self.victims(fault) {
            let (name, running) = self.cluster.take(index);
            let Some(running) = running else { bail!("{name} does not run") };
            let struck = match fault {
                Fault::Term => running.terminate(TERM_MAX),
                _ => running.kill(),
            };
            struck.context(name)?;
        }
        Ok(())
    }

    fn stumble(&mut self, fault: Fault, after: Duration) -> Result<()> {
        if self.level == Level::QuorumMemory {
            // Two that lack what they had in memory are a majority.
            self.start()?;
        } else {
            self.cluster.launch()?;
        }
        sleep(after);
        self.strike(fault)
    }

    fn arm(&mut self, failpoint: Option<String>) {
        // Which node would meet it is not known.
        assert!(failpoint.is_none(), "a cluster has no failpoints");
    }

    fn has_ended(&mut self) -> bool {
        self.cluster.has_ended()
    }

    fn output(&self) -> String {
        self.cluster.output()
    }
}

/// The recipe with all streams at a level, if it is Ringlane's.
fn at_level(recipe: &Recipe, level: Level) -> Recipe {
    let mut recipe = recipe.clone();
    let Some(text) = recipe.files.get_mut(CONFIGURATION) else { return recipe };
    if level.is_of_one_node() {
        // Where heartbeats are late another one takes over, which may cost what is promised of hand-overs.
        text.push_str("\n[replication]\nsuspect_after = \"5s\"\n");
    }
    let _ = write!(text, "\n[[stream]]\nname = \"default\"\nlevel = \"{}\"\n", level.name());
    recipe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_streams_of_the_nodes_are_at_the_level() {
        let recipe = Recipe::built_in("ringlane-disk").unwrap().unwrap();
        let text = &at_level(&recipe, Level::Memory).files[CONFIGURATION];
        let table: toml::Table = text.replace("{port", "{").parse().unwrap();
        assert_eq!(table["stream"][0]["level"].as_str(), Some("memory"));
        assert_eq!(table["replication"]["suspect_after"].as_str(), Some("5s"));
    }
}
