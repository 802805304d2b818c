//! What is compared: built-in sets of workloads, a file of them, or one from the command line.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::fs;
use std::path::Path;

/// The commands of this program that have `--duration` and `--warm-up`.
const TIMED: [&str; 3] = ["throughput", "end-to-end", "publish-ack"];

/// A workload: a suite of this program with its flags.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadPlan {
    /// Its name in tables.
    pub name: String,
    /// The command, such as `throughput pairs`.
    pub suite: String,
    /// Its flags, without those that say which broker is measured.
    #[serde(default)]
    pub flags: Vec<String>,
    /// Whether the floor is to write every packet on its own, as a broker without batching must.
    #[serde(default)]
    pub unbatched_floor: bool,
}

/// Workloads, and how often and how long each runs unless flags say otherwise.
#[derive(Clone, PartialEq, Debug)]
pub struct WorkloadSet {
    /// The workloads.
    pub workloads: Vec<WorkloadPlan>,
    /// Rounds.
    pub rounds: usize,
    /// Measured seconds of each run.
    pub seconds: f64,
}

/// A file of `[[workload]]` tables.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    workload: Vec<WorkloadPlan>,
}

/// What one CPU core of a broker costs per message, over the shapes of traffic that matter.
const PER_CORE: [(&str, &str); 18] = [
    ("pairs, W=1", "throughput pairs -c 64 -s 64 -W 1"),
    ("pairs, W=8", "throughput pairs -c 64 -s 64 -W 8"),
    ("pairs, batch 16", "throughput pairs -c 64 -s 64 -b 16"),
    ("pairs, batch 64", "throughput pairs -c 64 -s 64 -b 64"),
    ("50 pairs, W=200, 16 B", "throughput pairs -c 50 -s 16 -W 200"),
    ("50 pairs, W=200, 256 B", "throughput pairs -c 50 -s 256 -W 200"),
    ("50 pairs, W=200, 4 KiB", "throughput pairs -c 50 -s 4096 -W 200"),
    ("fan-in 64 to 1, W=1", "throughput fan-in -c 64 -s 64 -W 1"),
    ("fan-in 64 to 1, batch 16", "throughput fan-in -c 64 -s 64 -b 16"),
    ("fan-in 100 to 1, W=200", "throughput fan-in -c 100 -s 64 -W 200"),
    ("fan-out 1 to 100, W=200", "throughput fan-out -c 100 -s 64 -W 200"),
    ("fan-out 1 to 1,000", "throughput fan-out -c 1000 -s 64 -W 1"),
    ("50 pairs, W=200, QoS 1, 16 B", "throughput pairs -c 50 -s 16 -W 200 -q 1"),
    ("50 pairs, W=200, QoS 1, 256 B", "throughput pairs -c 50 -s 256 -W 200 -q 1"),
    ("50 pairs, W=200, QoS 2, 16 B", "throughput pairs -c 50 -s 16 -W 200 -q 2"),
    ("50 pairs, W=200, QoS 2, 256 B", "throughput pairs -c 50 -s 256 -W 200 -q 2"),
    ("pairs, W=8, QoS 1", "throughput pairs -c 64 -s 64 -W 8 -q 1"),
    ("pairs, W=8, QoS 2", "throughput pairs -c 64 -s 64 -W 8 -q 2"),
];

/// Latency from the intended send time, at rates that every broker here sustains.
const LATENCY: [(&str, &str); 4] = [
    ("10,000/s, QoS 0", "end-to-end pairs -c 64 -s 64 --rate 10000"),
    ("50,000/s, QoS 0", "end-to-end pairs -c 64 -s 64 --rate 50000"),
    ("10,000/s, QoS 1", "end-to-end pairs -c 64 -s 64 --rate 10000 -q 1"),
    ("50,000/s, QoS 1", "end-to-end pairs -c 64 -s 64 --rate 50000 -q 1"),
];

/// What a replicated message costs, and how long its publisher waits.
const REPLICATE: [(&str, &str); 3] = [
    ("64 publishers, W=8, QoS 1", "publish-ack -c 64 -s 256 -W 8 -q 1"),
    ("64 publishers, W=64, QoS 1", "publish-ack -c 64 -s 256 -W 64 -q 1"),
    ("1,000/s, QoS 1", "publish-ack -c 64 -s 256 --rate 1000 -q 1"),
];

/// A first impression within a minute.
const QUICK: [(&str, &str); 3] = [
    ("pairs, W=8", "throughput pairs -c 64 -s 64 -W 8"),
    ("fan-in 64 to 1, batch 16", "throughput fan-in -c 64 -s 64 -b 16"),
    ("pairs, W=8, QoS 1", "throughput pairs -c 64 -s 64 -W 8 -q 1"),
];

impl WorkloadPlan {
    /// A workload from its name and a line of suite and flags.
    fn of_line(name: &str, line: &str) -> Self {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let suite_words =
            words.iter().position(|word| word.starts_with('-')).unwrap_or(words.len());
        let (suite, flags) = words.split_at(suite_words);
        Self {
            name: name.to_owned(),
            suite: suite.join(" "),
            flags: flags.to_vec(),
            unbatched_floor: false,
        }
    }

    /// The words of the command line, without those that say which broker is measured.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        self.suite.split_whitespace().map(str::to_owned).chain(self.flags.iter().cloned()).collect()
    }

    /// The quality of service that its flags ask for.
    #[must_use]
    pub fn qos(&self) -> u8 {
        self.value(&["-q", "--qos"]).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Whether the suite runs for a time that flags can set.
    #[must_use]
    pub fn is_timed(&self) -> bool {
        self.suite.split(' ').next().is_some_and(|command| TIMED.contains(&command))
            && self.value(&["-n", "--messages"]).is_none()
    }

    /// Whether its own flags have one of these.
    #[must_use]
    pub fn has(&self, names: &[&str]) -> bool {
        self.value(names).is_some()
    }

    /// What follows one of these flags, as a word of its own or after `=`.
    fn value(&self, names: &[&str]) -> Option<&str> {
        for (index, flag) in self.flags.iter().enumerate() {
            let (name, value) = flag.split_once('=').unzip();
            if names.contains(&name.unwrap_or(flag)) {
                return value.or(self.flags.get(index + 1).map(String::as_str)).or(Some(""));
            }
        }
        None
    }
}

impl WorkloadSet {
    /// The names of the built-in sets.
    pub const NAMES: [&str; 4] = ["per-core", "latency", "quick", "replicate"];

    /// A built-in set.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn built_in(name: &str) -> Result<Self> {
        let (lines, rounds, seconds): (&[(&str, &str)], _, _) = match name {
            "per-core" => (&PER_CORE, 5, 3.0),
            "latency" => (&LATENCY, 5, 5.0),
            "quick" => (&QUICK, 2, 2.0),
            "replicate" => (&REPLICATE, 3, 4.0),
            _ => bail!("no set {name:?}: there are {}", Self::NAMES.join(", ")),
        };
        let mut workloads: Vec<WorkloadPlan> =
            lines.iter().map(|(name, line)| WorkloadPlan::of_line(name, line)).collect();
        for workload in &mut workloads {
            workload.unbatched_floor = workload.name == "fan-out 1 to 1,000";
        }
        Ok(Self { workloads, rounds, seconds })
    }

    /// The workloads of a file.
    ///
    /// # Errors
    /// If it cannot be read, or is not a list of workloads.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let File { workload: workloads } = toml::from_str(text)?;
        Ok(Self { workloads, rounds: 5, seconds: 3.0 })
    }

    /// One workload, from the words after `--`.
    #[must_use]
    pub fn of_words(words: &[String]) -> Self {
        let line = words.join(" ");
        Self { workloads: vec![WorkloadPlan::of_line(&line, &line)], rounds: 5, seconds: 3.0 }
    }

    /// Only the workloads whose name contains one of these texts.
    ///
    /// # Errors
    /// If a text is in no name.
    pub fn only(mut self, texts: &[String]) -> Result<Self> {
        for text in texts {
            let known = self.workloads.iter().any(|workload| workload.name.contains(text));
            ensure!(known, "--only {text:?}: no workload has that in its name");
        }
        self.workloads.retain(|workload| {
            texts.is_empty() || texts.iter().any(|text| workload.name.contains(text))
        });
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sets_are_whole() {
        for name in WorkloadSet::NAMES {
            let set = WorkloadSet::built_in(name).unwrap();
            assert!(!set.workloads.is_empty() && set.rounds >= 2 && set.seconds >= 1.0, "{name}");
            for workload in &set.workloads {
                assert!(workload.is_timed(), "{}", workload.name);
                assert_eq!(
                    workload.qos() > 0,
                    workload.name.contains("QoS") && !workload.name.contains("QoS 0")
                );
            }
        }
        let per_core = WorkloadSet::built_in("per-core").unwrap();
        assert_eq!(
            per_core.workloads.iter().filter(|workload| workload.unbatched_floor).count(),
            1
        );
        assert!(WorkloadSet::built_in("issue").is_err());
    }

    #[test]
    fn a_file_lists_workloads() {
        let set = WorkloadSet::parse(
            "[[workload]]\nname = \"a\"\nsuite = \"throughput fan-in\"\nflags = [\"-c\", \"3\", \"--qos=1\"]\n",
        )
        .unwrap();
        assert_eq!(set.workloads[0].arguments(), ["throughput", "fan-in", "-c", "3", "--qos=1"]);
        assert_eq!(set.workloads[0].qos(), 1);
        let error = WorkloadSet::parse("[[workload]]\nname = \"a\"\nsuit = \"x\"\n").unwrap_err();
        assert!(format!("{error:#}").contains("suit"), "{error:#}");
    }

    #[test]
    fn words_after_the_dashes_are_one_workload() {
        let words = ["throughput", "pairs", "-W", "8", "-n", "100"].map(str::to_owned);
        let set = WorkloadSet::of_words(&words);
        assert_eq!(set.workloads[0].arguments(), words);
        assert!(!set.workloads[0].is_timed());
        assert!(set.workloads[0].has(&["--window", "-W"]));
    }

    #[test]
    fn workloads_are_chosen_by_a_part_of_their_name() {
        let set = WorkloadSet::built_in("per-core").unwrap();
        assert_eq!(set.clone().only(&["fan-in".into()]).unwrap().workloads.len(), 3);
        assert_eq!(set.clone().only(&[]).unwrap(), set);
        assert!(set.only(&["nothing".into()]).is_err());
    }
}
