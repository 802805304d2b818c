//! `ringlane doctor`: what this host gives and lacks, and what to change.
//!
//! The checks are pure: they look at [`Facts`] that were gathered before, and at files below a
//! root, so that tests can make up a host. Nothing is changed and nothing stays open.

mod cluster;
mod cpus;
mod kernel;
mod levels;
mod memory;
mod network;
mod report;
mod storage;

pub use report::{Check, Report, Severity};

use crate::cluster::etcd::{Etcd, EtcdSettings};
use crate::cluster::transport::{Carrier, carrier, make_one};
use crate::config::{Config, TransportSetting};
use crate::startup::{CORES_MAX, affinity, limits};
use ringlane_transport_rdma::RdmaStatus;
use ringlane_transport_uring::probe::{self, Capabilities};
use rustix::process::{Resource, getrlimit};
use std::fs;
use std::path::{Path, PathBuf};

/// What cannot be read from a file below a root.
#[derive(Debug)]
pub struct Facts {
    /// Where files are read; `/` but in tests.
    pub root: PathBuf,
    /// The io_uring features.
    pub capabilities: Capabilities,
    /// CPUs that this process may use.
    pub allowed: Vec<u32>,
    /// The configuration's cores, or why they cannot be had.
    pub cores: Result<Vec<u32>, String>,
    /// Soft and hard limit on descriptors; `None` = unlimited.
    pub descriptors: (Option<u64>, Option<u64>),
    /// Soft and hard limit on locked memory, in bytes; `None` = unlimited.
    pub locked_bytes: (Option<u64>, Option<u64>),
    /// RDMA devices and libraries.
    pub rdma: RdmaStatus,
    /// What would carry replication, tried as a start does, or why the configured carrier cannot be had.
    pub carrier: Result<Carrier, String>,
    /// Bytes that can be written in the data directory's file system.
    pub free_bytes: Option<u64>,
    /// Bytes of messages that the node may hold.
    pub message_bytes: u64,
    /// The endpoints of the cluster's etcd, each with its version or what does not work.
    pub etcd: Vec<(String, Result<String, String>)>,
    /// The configuration.
    pub config: Config,
}

impl Facts {
    /// Looks at this host.
    #[must_use]
    pub fn gather(config: &Config) -> Self {
        let limit = |resource| {
            let limit = getrlimit(resource);
            (limit.current, limit.maximum)
        };
        let allowed = affinity::allowed_cpus().unwrap_or_default();
        let online = affinity::online_cpus();
        let cores = affinity::resolve(&config.runtime.cores, &allowed, &online, CORES_MAX);
        let rdma = ringlane_transport_rdma::devices();
        Self {
            root: PathBuf::from("/"),
            capabilities: probe::probe(),
            cores: cores.map_err(|error| error.to_string()),
            allowed,
            descriptors: limit(Resource::Nofile),
            locked_bytes: limit(Resource::Memlock),
            carrier: carrier(&config.replication, &rdma, make_one),
            rdma,
            free_bytes: free_bytes(&config.data_dir),
            message_bytes: limits::message_bytes(&config.limits),
            etcd: etcd_versions(config),
            config: config.clone(),
        }
    }

    /// The trimmed text of a file below the root.
    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok().map(|text| text.trim().to_owned())
    }

    fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    fn cpus(&self, path: &str) -> Vec<u32> {
        affinity::parse_cpus(&self.text(path).unwrap_or_default())
    }

    fn wants_uring(&self) -> bool {
        self.config.runtime.transport == TransportSetting::Uring
    }
}

/// Asks the endpoints of a cluster's etcd, each for as long as the configuration lets it take.
fn etcd_versions(config: &Config) -> Vec<(String, Result<String, String>)> {
    if !config.cluster.is_set() {
        return Vec::new();
    }
    let etcd = Etcd::new(EtcdSettings::of(&config.cluster));
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let versions = runtime.block_on(etcd.versions());
    // A name that the system still looks up is waited for by nobody.
    runtime.shutdown_background();
    versions
}

/// Bytes free for this user where `path` is, or would be made.
fn free_bytes(path: &Path) -> Option<u64> {
    let path = fs::canonicalize(path).or_else(|_| std::path::absolute(path)).ok()?;
    let existing = path.ancestors().find(|ancestor| ancestor.exists())?;
    let status = rustix::fs::statvfs(existing).ok()?;
    status.f_bavail.checked_mul(status.f_frsize)
}

/// Examines this host for this configuration.
#[must_use]
pub fn examine(config: &Config) -> Report {
    check(&Facts::gather(config))
}

/// Judges the facts.
#[must_use]
pub fn check(facts: &Facts) -> Report {
    let mut report = Report::default();
    kernel::check(facts, &mut report);
    cpus::check(facts, &mut report);
    memory::check(facts, &mut report);
    network::check(facts, &mut report);
    storage::check(facts, &mut report);
    storage::file_driver(facts, &mut report);
    levels::check(facts, &mut report);
    cluster::check(facts, &mut report);
    report
}

#[cfg(test)]
mod tests;
