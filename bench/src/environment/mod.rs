//! What a figure depends on beside the broker: the machine, the tool, and what else went on while
//! it was measured.

mod clock;
mod host;
mod noise;

pub use clock::rfc3339;
pub use host::{Host, online_cpus};
pub use noise::{Noise, NoiseMeter};

use crate::process::Process;
use serde::{Deserialize, Serialize};
use std::time::SystemTime;

/// Everything that is written beside the figures.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Environment {
    /// When the run began, in UTC.
    pub time: String,
    /// Version of this tool, and the commit it was built from if that is known.
    pub tool: String,
    /// The command line.
    pub command: Vec<String>,
    /// The machine.
    pub host: Host,
    /// The broker's name and version, if known.
    pub broker: Option<String>,
    /// What else went on during the run.
    pub noise: Noise,
}

/// Watches the machine from the start of a run to its end.
#[derive(Debug)]
pub struct Recorder {
    began: SystemTime,
    meter: NoiseMeter,
}

impl Recorder {
    /// Starts to watch, with the broker's processes if they are known.
    #[must_use]
    pub fn start(broker: Vec<Process>) -> Self {
        Self { began: SystemTime::now(), meter: NoiseMeter::start(broker) }
    }

    /// What was seen since the start.
    #[must_use]
    pub fn finish(&self, broker: Option<String>) -> Environment {
        Environment {
            time: rfc3339(self.began),
            tool: tool(),
            command: std::env::args().collect(),
            host: Host::read(),
            broker,
            noise: self.meter.finish(),
        }
    }
}

/// This program's version and commit.
#[must_use]
pub fn tool() -> String {
    let version = env!("CARGO_PKG_VERSION");
    match option_env!("RINGLANE_BENCH_COMMIT") {
        Some(commit) => format!("ringlane-bench {version} ({commit})"),
        None => format!("ringlane-bench {version}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_recorded_with_its_machine() {
        let recorder = Recorder::start(vec![Process(std::process::id())]);
        let environment = recorder.finish(Some("floor".into()));
        assert!(environment.tool.starts_with("ringlane-bench 0."), "{}", environment.tool);
        assert!(!environment.command.is_empty());
        assert_eq!(environment.broker.as_deref(), Some("floor"));
        let text = serde_json::to_string(&environment).unwrap();
        let back: Environment = serde_json::from_str(&text).unwrap();
        assert_eq!(back.time, environment.time);
        assert_eq!(back.host.kernel, environment.host.kernel);
    }
}
