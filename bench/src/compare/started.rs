//! A broker that is there to be measured: a process, the nodes of a cluster, or one that ran before.

use super::cluster::Cluster;
use super::launch::Running;
use super::recipe::{Recipe, Values};
use super::run::Endpoint;
use crate::meter::Watched;
use anyhow::Result;
use std::net::SocketAddr;

/// A broker that takes clients.
#[derive(Debug)]
pub(super) enum Started {
    One { running: Running, metrics: Option<String> },
    Cluster(Cluster),
    There { address: SocketAddr, processes: Vec<Watched> },
}

impl Started {
    /// Starts what a recipe says and waits until it takes clients.
    ///
    /// # Errors
    /// If it does not start.
    pub(super) fn start(name: &str, recipe: &Recipe, values: &Values) -> Result<Self> {
        if recipe.nodes > 1 {
            let room = values.directory.clone();
            let mut cluster = Cluster::new(name, recipe, room, values.port, &values.cpu)?;
            cluster.start()?;
            return Ok(Self::Cluster(cluster));
        }
        let running = Running::start(name, recipe, values)?;
        let metrics = recipe.metrics.as_ref().map(|url| values.fill(url));
        Ok(Self::One { running, metrics })
    }

    /// One that runs already, and is left as it is.
    pub(super) fn there(address: SocketAddr, processes: Vec<Watched>) -> Self {
        Self::There { address, processes }
    }

    /// Where the load goes now.
    ///
    /// # Errors
    /// If no node of a cluster leads.
    pub(super) fn endpoint(&mut self) -> Result<Endpoint> {
        Ok(match self {
            Self::One { running, metrics } => Endpoint {
                address: running.address,
                processes: vec![Watched { role: String::new(), process: running.process }],
                metrics: metrics.clone(),
            },
            Self::Cluster(cluster) => {
                let leader = cluster.await_leader()?;
                let (address, processes) = (cluster.addresses()[leader], cluster.watched(leader));
                Endpoint { address, processes, metrics: None }
            }
            Self::There { address, processes } => {
                Endpoint { address: *address, processes: processes.clone(), metrics: None }
            }
        })
    }

    /// Stops its threads where they are.
    ///
    /// # Errors
    /// If it is gone.
    pub(super) fn freeze(&self) -> Result<()> {
        match self {
            Self::One { running, .. } => running.freeze(),
            Self::Cluster(cluster) => cluster.freeze(),
            Self::There { .. } => Ok(()),
        }
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// If it is gone.
    pub(super) fn thaw(&self) -> Result<()> {
        match self {
            Self::One { running, .. } => running.thaw(),
            Self::Cluster(cluster) => cluster.thaw(),
            Self::There { .. } => Ok(()),
        }
    }

    /// The end of what it has printed.
    pub(super) fn output(&self) -> String {
        match self {
            Self::One { running, .. } => running.output(),
            Self::Cluster(cluster) => cluster.output(),
            Self::There { .. } => String::new(),
        }
    }
}
