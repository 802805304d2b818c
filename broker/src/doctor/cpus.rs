//! CPUs: what there is, what is allowed, what is isolated, how they run.

use super::{Facts, Report, Severity};
use crate::startup::affinity::render_cpus;

const AREA: &str = "CPUs";

pub(super) fn check(facts: &Facts, report: &mut Report) {
    available(facts, report);
    cores(facts, report);
    quota(facts, report);
    isolation(facts, report);
    nodes(facts, report);
    governor(facts, report);
    clock(facts, report);
}

fn available(facts: &Facts, report: &mut Report) {
    let online = facts.cpus("sys/devices/system/cpu/online");
    report.ok(AREA, "online", render_cpus(&online));
    let allowed = render_cpus(&facts.allowed);
    if facts.allowed.len() < online.len() {
        let advice = "fewer than are online: see taskset(1), AllowedCPUs= of the unit, or the \
                      container's cpuset if that is not wanted";
        report.add(AREA, "allowed", Severity::Ok, allowed, advice);
    } else {
        report.ok(AREA, "allowed", allowed);
    }
    if let Some(cpuset) = cpuset(facts) {
        report.ok(AREA, "cpuset", cpuset);
    }
}

/// The effective CPUs of this process's control group (cgroup v2, cpuset controller).
fn cpuset(facts: &Facts) -> Option<String> {
    group_file(facts, "cpuset.cpus.effective").filter(|cpus| !cpus.is_empty())
}

/// A file of this process's control group (cgroup v2), as it is named here or at the root of a
/// container's own namespace.
fn group_file(facts: &Facts, name: &str) -> Option<String> {
    let groups = facts.text("proc/self/cgroup")?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let own = own.trim_matches('/');
    let paths = [format!("sys/fs/cgroup/{own}/{name}"), format!("sys/fs/cgroup/{name}")];
    paths.iter().find_map(|path| facts.text(path))
}

/// A quota stops all threads of the group for the rest of a period once it is used up
/// (Documentation/admin-guide/cgroup-v2.rst, cpu.max): a latency that no core can see coming.
fn quota(facts: &Facts, report: &mut Report) {
    let text = group_file(facts, "cpu.max").unwrap_or_default();
    let mut words = text.split_whitespace().map(str::parse::<f64>);
    let (Some(Ok(quota)), Some(Ok(period))) = (words.next(), words.next()) else {
        report.ok(AREA, "CPU quota", "none");
        return;
    };
    let cpus = quota / period.max(1.0);
    let cores = facts.cores.as_deref().unwrap_or_default().len();
    let found = format!("{cpus:.1} CPUs for {cores} cores");
    if cpus < cores as f64 {
        let advice = "name at most as many runtime.cores as the quota has CPUs, or lift it \
                      (CPUQuota= of the unit, limits of the container): cores would be stopped";
        report.add(AREA, "CPU quota", Severity::Warn, found, advice);
    } else {
        report.ok(AREA, "CPU quota", found);
    }
}

fn cores(facts: &Facts, report: &mut Report) {
    match &facts.cores {
        Ok(cpus) => report.ok(AREA, "runtime.cores", render_cpus(cpus)),
        Err(error) => {
            let advice = "name CPUs that are allowed, or \"auto\"";
            report.add(AREA, "runtime.cores", Severity::Fail, error.clone(), advice);
        }
    }
}

/// Isolated CPUs have no other work; `nohz_full` stops their tick
/// (Documentation/admin-guide/kernel-parameters.txt).
fn isolation(facts: &Facts, report: &mut Report) {
    let isolated = facts.cpus("sys/devices/system/cpu/isolated");
    let tickless = facts.cpus("sys/devices/system/cpu/nohz_full");
    let cores = facts.cores.as_deref().unwrap_or_default();
    let shared: Vec<u32> = cores.iter().copied().filter(|cpu| !isolated.contains(cpu)).collect();
    if isolated.is_empty() {
        let advice = "for the steadiest latency boot with isolcpus=LIST nohz_full=LIST \
                      rcu_nocbs=LIST and set runtime.cores to that list";
        report.add(AREA, "isolated", Severity::Ok, "none", advice);
    } else if shared.is_empty() {
        report.ok(AREA, "isolated", render_cpus(&isolated));
    } else {
        let found =
            format!("{}; cores on other CPUs: {}", render_cpus(&isolated), render_cpus(&shared));
        let advice = format!("set runtime.cores to {:?}", isolated);
        report.add(AREA, "isolated", Severity::Warn, found, advice);
    }
    report.ok(AREA, "nohz_full", render_cpus(&tickless));
}

fn nodes(facts: &Facts, report: &mut Report) {
    let nodes = facts.cpus("sys/devices/system/node/online");
    let cores = facts.cores.as_deref().unwrap_or_default();
    let used = nodes.iter().filter(|node| {
        let cpus = facts.cpus(&format!("sys/devices/system/node/node{node}/cpulist"));
        cores.iter().any(|core| cpus.contains(core))
    });
    let used: Vec<u32> = used.copied().collect();
    let found = format!("{} online, cores on node {}", nodes.len(), render_cpus(&used));
    if 1 < used.len() {
        let advice = "messages between nodes cost more: name the cores of one node if they suffice \
                      (the network card's)";
        report.add(AREA, "NUMA nodes", Severity::Ok, found, advice);
    } else {
        report.ok(AREA, "NUMA nodes", found);
    }
}

fn governor(facts: &Facts, report: &mut Report) {
    let first = facts.cores.as_ref().ok().and_then(|cores| cores.first()).unwrap_or(&0);
    let path = format!("sys/devices/system/cpu/cpu{first}/cpufreq/scaling_governor");
    match facts.text(&path).as_deref() {
        None => report.ok(AREA, "governor", "none (the host or the hypervisor decides)"),
        Some("performance") => report.ok(AREA, "governor", "performance"),
        Some(other) => {
            let advice = "cpupower frequency-set -g performance keeps the clock from dropping";
            report.add(AREA, "governor", Severity::Warn, other, advice);
        }
    }
}

/// Other clock sources than the CPU's own counter cost a system call or a trap per reading.
fn clock(facts: &Facts, report: &mut Report) {
    let path = "sys/devices/system/clocksource/clocksource0/current_clocksource";
    let fast = ["tsc", "arch_sys_counter", "kvm-clock", "hyperv_clocksource_tsc_page"];
    match facts.text(path) {
        None => report.ok(AREA, "clock source", "unknown"),
        Some(source) if fast.contains(&source.as_str()) => report.ok(AREA, "clock source", source),
        Some(source) => {
            let advice = "reading this clock is slow; boot with clocksource=tsc tsc=reliable if \
                          the hardware's TSC is sound";
            report.add(AREA, "clock source", Severity::Warn, source, advice);
        }
    }
}
