//! The flags that every command has, and how their values are read.

use super::output::OutputArgs;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use ringlane_bench::fleet::Target;
use ringlane_bench::meter::{Meter, Watched};
use ringlane_bench::payload::PAYLOAD_BYTES_MIN;
use ringlane_bench::process::Process;
use ringlane_mqtt::{QoS, Version};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// What one `--sources` gives.
#[derive(Clone, Debug)]
struct Sources(Vec<IpAddr>);

#[derive(Args, Debug)]
pub(crate) struct CommonArgs {
    /// Broker host.
    #[arg(short = 'h', long, default_value = "127.0.0.1")]
    host: String,
    /// Broker port.
    #[arg(short, long, default_value_t = 1883)]
    port: u16,
    /// MQTT version: 3 (3.1), 4 (3.1.1) or 5; also mqttv31, mqttv311, mqttv5.
    #[arg(short = 'V', long, default_value = "4", value_parser = version)]
    protocol_version: Version,
    /// What client identifiers begin with.
    #[arg(short = 'i', long, default_value = "bench")]
    pub(crate) id_prefix: String,
    /// What topics begin with.
    #[arg(short, long, default_value = "bench")]
    pub(crate) topic: String,
    /// Local addresses to connect from, in turn: a list of addresses, ranges (127.0.0.1-127.0.0.40)
    /// and networks (127.0.1.0/24). One is enough for some 28,000 connections.
    #[arg(long, alias = "source", value_name = "LIST", value_parser = sources)]
    sources: Vec<Sources>,
    /// Process of the broker: its CPU time, memory and descriptors are reported. Of a cluster give all nodes,
    /// each with its role, first the one that is loaded: leader=PID,follower=PID,follower=PID; CPU time is then
    /// that of all of them, and told by role.
    #[arg(long, value_name = "[ROLE=]PID,...", value_delimiter = ',', value_parser = watched)]
    pid: Vec<Watched>,
    /// The broker's Prometheus page: system calls per message are reported.
    #[arg(long, value_name = "URL")]
    metrics: Option<String>,
    /// Pin this program to a CPU.
    #[arg(long)]
    pub(crate) cpu: Option<usize>,
    /// What the report calls the broker, such as its name and version.
    #[arg(long, value_name = "TEXT")]
    pub(crate) broker_name: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// Seconds without any arrival after which a run is over.
    #[arg(long, default_value_t = 10.0)]
    patience: f64,
}

impl CommonArgs {
    pub(crate) fn target(&self) -> Result<Target> {
        let address: SocketAddr = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .with_context(|| format!("host {:?}", self.host))?
            .next()
            .with_context(|| format!("host {:?} has no address", self.host))?;
        let sources = self.sources.iter().flat_map(|list| list.0.iter().copied()).collect();
        Ok(Target { address, version: self.protocol_version, sources })
    }

    pub(crate) fn meter(&self) -> Meter {
        Meter { processes: self.processes(), metrics_url: self.metrics.clone() }
    }

    /// The one process that is looked at where there can be but one.
    pub(crate) fn process(&self) -> Option<Process> {
        self.pid.first().map(|watched| watched.process)
    }

    pub(crate) fn processes(&self) -> Vec<Watched> {
        self.pid.clone()
    }

    pub(crate) fn patience(&self) -> Result<Duration> {
        Duration::try_from_secs_f64(self.patience).context("--patience")
    }
}

pub(crate) fn check_size(size: usize) -> Result<()> {
    ensure!(size >= PAYLOAD_BYTES_MIN, "--size must be at least {PAYLOAD_BYTES_MIN}");
    Ok(())
}

fn sources(text: &str) -> Result<Sources> {
    ringlane_bench::sources::parse(text).map(Sources)
}

/// `PID` or `ROLE=PID`.
pub(super) fn watched(text: &str) -> Result<Watched> {
    let (role, pid) = text.split_once('=').unwrap_or(("", text));
    let pid = pid.parse().with_context(|| format!("{pid:?} is not the number of a process"))?;
    Ok(Watched { role: role.to_owned(), process: Process(pid) })
}

pub(super) fn version(text: &str) -> Result<Version> {
    Ok(match text {
        "3" | "31" | "mqttv31" => Version::V31,
        "4" | "311" | "mqttv311" => Version::V311,
        "5" | "mqttv5" => Version::V5,
        _ => bail!("not one of 3, 4, 5, mqttv31, mqttv311, mqttv5"),
    })
}

pub(super) fn qos(text: &str) -> Result<QoS> {
    text.parse().ok().and_then(QoS::from_u8).context("not one of 0, 1, 2")
}
