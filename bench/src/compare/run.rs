//! One run of a suite: this program again, pinned, with the broker's address and process.

use super::workloads::WorkloadPlan;
use crate::meter::Watched;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a run may take beyond its warm-up and its measured time.
const SLACK: Duration = Duration::from_secs(180);
/// How often it is asked whether it is done. This program wakes on the load's CPU, if at all.
const GLANCE: Duration = Duration::from_millis(50);

/// Where the load goes.
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    /// What is measured.
    pub(super) processes: Vec<Watched>,
    pub(super) metrics: Option<String>,
}

/// One run.
pub(super) struct RunPlan<'a> {
    pub(super) workload: &'a WorkloadPlan,
    pub(super) endpoint: &'a Endpoint,
    pub(super) cpu: usize,
    pub(super) seconds: f64,
    pub(super) warm_up_seconds: f64,
    /// What the run's own report calls the broker.
    pub(super) broker: &'a str,
    /// A file for its JSON.
    pub(super) output: &'a Path,
}

impl RunPlan<'_> {
    fn arguments(&self) -> Vec<String> {
        let mut arguments = self.workload.arguments();
        let mut add = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
        add("--host", self.endpoint.address.ip().to_string());
        add("--port", self.endpoint.address.port().to_string());
        add("--cpu", self.cpu.to_string());
        add("--broker-name", self.broker.to_owned());
        add("--json", self.output.display().to_string());
        let pids: Vec<String> = self.endpoint.processes.iter().map(Watched::to_string).collect();
        if !pids.is_empty() {
            add("--pid", pids.join(","));
        }
        if let Some(metrics) = &self.endpoint.metrics {
            add("--metrics", metrics.clone());
        }
        if self.workload.is_timed() && !self.workload.has(&["-d", "--duration"]) {
            add("--duration", self.seconds.to_string());
        }
        if self.workload.is_timed() && !self.workload.has(&["--warm-up"]) {
            add("--warm-up", self.warm_up_seconds.to_string());
        }
        arguments
    }
}

/// Runs it and returns its JSON, whatever its checks said.
///
/// # Errors
/// If it ends without JSON, or does not end.
pub(super) fn run(plan: &RunPlan<'_>) -> Result<Value> {
    let _ = fs::remove_file(plan.output);
    let program = std::env::current_exe().context("this program's path")?;
    let mut child = Command::new(program)
        .args(plan.arguments())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("this program does not start again")?;
    let limit = Duration::from_secs_f64(plan.seconds + plan.warm_up_seconds) + SLACK;
    let ended = await_end(&mut child, limit)?;
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take().filter(|_| ended) {
        stderr.read_to_string(&mut said).context("its standard error")?;
    }
    match fs::read_to_string(plan.output) {
        Ok(text) => serde_json::from_str(&text).context("its JSON"),
        Err(_) if ended => bail!("{}", said.trim()),
        Err(_) => bail!("no end after {limit:?}"),
    }
}

/// Whether it ended within a time; it is killed if not.
fn await_end(child: &mut Child, limit: Duration) -> Result<bool> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if child.try_wait()?.is_some() {
            return Ok(true);
        }
        sleep(GLANCE);
    }
    child.kill()?;
    child.wait()?;
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Process;

    #[test]
    fn a_workloads_own_flags_win() {
        let processes =
            ["leader", ""].map(|role| Watched { role: role.into(), process: Process(7) });
        let processes = processes.to_vec();
        let endpoint =
            Endpoint { address: "127.0.0.1:1999".parse().unwrap(), processes, metrics: None };
        let mut workload = WorkloadPlan {
            name: "x".into(),
            suite: "throughput pairs".into(),
            flags: vec!["-d".into(), "9".into()],
            unbatched_floor: false,
        };
        let arguments = |workload: &WorkloadPlan| {
            let plan = RunPlan {
                workload,
                endpoint: &endpoint,
                cpu: 1,
                seconds: 3.0,
                warm_up_seconds: 1.0,
                broker: "mosquitto 2",
                output: Path::new("/x.json"),
            };
            plan.arguments().join(" ")
        };
        assert_eq!(
            arguments(&workload),
            "throughput pairs -d 9 --host 127.0.0.1 --port 1999 --cpu 1 --broker-name mosquitto 2 \
             --json /x.json --pid leader=7,7 --warm-up 1"
        );
        workload.suite = "connect-storm".into();
        workload.flags.clear();
        assert!(!arguments(&workload).contains("--duration"));
    }
}
