//! What disturbs a measurement: time that the hypervisor took, other processes, switches, and CPUs
//! that broker and generator share. Each that is too much becomes a sentence.

use super::host::{cpu_list, online_cpus};
use crate::process::Process;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::time::Instant;

/// Share of the machine's CPU time that the hypervisor may take.
const STEAL_MAX: f64 = 0.02;
/// Share of the machine's CPU time that other processes may take.
const OTHERS_MAX: f64 = 0.05;
/// Involuntary context switches per second of a process that has its CPU for itself. The threads of
/// a broker on one CPU push off each other, which is no noise: switches count only beside others.
const SWITCHES_MAX: f64 = 200.0;
const OTHERS_WITH_SWITCHES: f64 = 0.02;
/// Below this time nothing is said of shares: the kernel counts CPU time in ticks of 10 ms.
const SECONDS_MIN: f64 = 0.5;

/// What went on during a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// Length of the run in seconds, set-up included.
    pub seconds: f64,
    /// Share of all CPU time that the hypervisor gave to others, 0 to 1.
    pub steal: f64,
    /// Share of all CPU time that neither broker nor generator used, 0 to 1; only if the broker's
    /// process is known.
    pub others: Option<f64>,
    /// Involuntary context switches per second of the broker's threads.
    pub broker_switches: Option<f64>,
    /// Involuntary context switches per second of this program.
    pub generator_switches: f64,
    /// CPUs that the broker may use.
    pub broker_cpus: Vec<usize>,
    /// CPUs that this program may use.
    pub generator_cpus: Vec<usize>,
}

impl Noise {
    /// What makes the figures doubtful, a sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let is_long = self.seconds >= SECONDS_MIN;
        if is_long && self.steal > STEAL_MAX {
            let steal = percent(self.steal);
            warnings.push(format!("The hypervisor took {steal} of the CPU time (steal)."));
        }
        if let Some(others) = self.others.filter(|share| is_long && *share > OTHERS_MAX) {
            let others = percent(others);
            warnings.push(format!("Other processes used {others} of the machine's CPU time."));
        }
        let are_others = self.others.is_none_or(|share| share > OTHERS_WITH_SWITCHES);
        let broker_switches = self.broker_switches.filter(|_| are_others);
        let processes = [("broker", broker_switches), ("generator", Some(self.generator_switches))];
        for (name, rate) in processes {
            if let Some(rate) = rate.filter(|rate| is_long && *rate > SWITCHES_MAX) {
                warnings
                    .push(format!("The {name} was pushed off its CPU {rate:.0} times a second."));
            }
        }
        warnings.extend(self.shared_cpus());
        warnings
    }

    fn shared_cpus(&self) -> Option<String> {
        let broker: BTreeSet<_> = self.broker_cpus.iter().collect();
        let shared: Vec<String> = self
            .generator_cpus
            .iter()
            .filter(|cpu| broker.contains(cpu))
            .map(usize::to_string)
            .collect();
        (!shared.is_empty()).then(|| {
            let shared = shared.join(", ");
            format!("Broker and generator may run on the same CPU ({shared}): pin them apart.")
        })
    }
}

/// Readings at the start of a run.
#[derive(Debug)]
pub struct NoiseMeter {
    broker: Vec<Process>,
    at: Instant,
    before: Reading,
}

impl NoiseMeter {
    /// Takes the first reading.
    #[must_use]
    pub fn start(broker: Vec<Process>) -> Self {
        Self { at: Instant::now(), before: Reading::take(&broker), broker }
    }

    /// The difference to now.
    #[must_use]
    pub fn finish(&self) -> Noise {
        let seconds = self.at.elapsed().as_secs_f64();
        let after = Reading::take(&self.broker);
        let ticks = after.machine.since(self.before.machine);
        let total = (ticks.busy + ticks.idle + ticks.steal).max(1) as f64;
        let own = after.own.since(self.before.own);
        let broker =
            after.broker.zip(self.before.broker).map(|(after, before)| after.since(before));
        let share = |cpu_seconds: f64| cpu_seconds / (seconds * online_cpus().len().max(1) as f64);
        let busy = ticks.busy as f64 / total;
        let others = |broker: Usage| (busy - share(broker.cpu_seconds + own.cpu_seconds)).max(0.0);
        Noise {
            seconds,
            steal: ticks.steal as f64 / total,
            others: broker.map(others),
            broker_switches: broker.map(|usage| usage.switches as f64 / seconds),
            generator_switches: own.switches as f64 / seconds,
            broker_cpus: self.broker_cpus(),
            generator_cpus: allowed_cpus(std::process::id()),
        }
    }
}

impl NoiseMeter {
    fn broker_cpus(&self) -> Vec<usize> {
        let all = self.broker.iter().flat_map(|process| allowed_cpus(process.0));
        let all: BTreeSet<usize> = all.collect();
        all.into_iter().collect()
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    machine: MachineTicks,
    broker: Option<Usage>,
    own: Usage,
}

impl Reading {
    fn take(broker: &[Process]) -> Self {
        let own = Process(std::process::id());
        Self {
            machine: MachineTicks::parse(&fs::read_to_string("/proc/stat").unwrap_or_default()),
            broker: broker.iter().map(|process| Usage::of(*process)).reduce(Usage::both).flatten(),
            own: Usage::of(own).unwrap_or_default(),
        }
    }
}

/// What a process used since it began.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    cpu_seconds: f64,
    switches: u64,
}

impl Usage {
    fn of(process: Process) -> Option<Self> {
        let cpu_seconds = process.cpu_time().ok()?.as_secs_f64();
        let switches = involuntary_switches(process.0);
        Some(Self { cpu_seconds, switches })
    }

    fn both(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        let ((one, other), sum) = (one.zip(other)?, |one: u64, other: u64| one + other);
        let cpu_seconds = one.cpu_seconds + other.cpu_seconds;
        Some(Self { cpu_seconds, switches: sum(one.switches, other.switches) })
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            cpu_seconds: (self.cpu_seconds - earlier.cpu_seconds).max(0.0),
            switches: self.switches.saturating_sub(earlier.switches),
        }
    }
}

/// Ticks of all CPUs since the machine started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct MachineTicks {
    busy: u64,
    idle: u64,
    steal: u64,
}

impl MachineTicks {
    /// Reads the first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal.
    /// The times of guests, which follow, are in user and nice already.
    fn parse(stat: &str) -> Self {
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u64> =
            line.split_ascii_whitespace().skip(1).filter_map(|part| part.parse().ok()).collect();
        let [user, nice, system, idle, iowait, irq, softirq, steal, ..] = ticks[..] else {
            return Self::default();
        };
        Self { busy: user + nice + system + irq + softirq, idle: idle + iowait, steal }
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            busy: self.busy.saturating_sub(earlier.busy),
            idle: self.idle.saturating_sub(earlier.idle),
            steal: self.steal.saturating_sub(earlier.steal),
        }
    }
}

/// The `status` of every living thread of a process.
fn thread_status(pid: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path().join("status"));
    paths.filter_map(|path| fs::read_to_string(path).ok()).collect()
}

fn involuntary_switches(pid: u32) -> u64 {
    let count = |status: &String| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"));
        line?.trim().parse().ok()
    };
    thread_status(pid).iter().filter_map(count).sum()
}

/// The CPUs that any thread of a process may run on.
fn allowed_cpus(pid: u32) -> Vec<usize> {
    let mut cpus = BTreeSet::new();
    for status in thread_status(pid) {
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        cpus.extend(cpu_list(list.unwrap_or_default().trim()));
    }
    cpus.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen_and_shares_a_cpu_with_itself() {
        let me = Process(std::process::id());
        let noise = NoiseMeter::start(vec![me]).finish();
        assert!(!noise.broker_cpus.is_empty());
        assert_eq!(noise.broker_cpus, noise.generator_cpus);
        let warnings = noise.warnings();
        assert!(warnings.iter().any(|text| text.contains("the same CPU")), "{warnings:?}");
    }

    #[test]
    fn the_first_line_of_stat_is_the_machine() {
        let stat = "cpu  10 1 20 300 4 0 5 7 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        let ticks = MachineTicks::parse(stat);
        assert_eq!(ticks, MachineTicks { busy: 36, idle: 304, steal: 7 });
        assert_eq!(MachineTicks::parse("cpu 1 2"), MachineTicks::default());
    }

    #[test]
    fn a_quiet_run_has_no_warning_and_a_loud_one_has_each() {
        let quiet = Noise {
            seconds: 10.0,
            steal: 0.01,
            others: Some(0.02),
            broker_switches: Some(3000.0),
            broker_cpus: vec![0],
            generator_cpus: vec![1],
            ..Noise::default()
        };
        assert!(quiet.warnings().is_empty(), "{:?}", quiet.warnings());
        let loud = Noise {
            steal: 0.1,
            others: Some(0.3),
            broker_switches: Some(900.0),
            generator_switches: 800.0,
            generator_cpus: vec![0],
            ..quiet
        };
        let said = loud.warnings().join("\n");
        for part in ["10.0 %", "30.0 %", "The broker", "The generator", "same CPU (0)"] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
    }
}
