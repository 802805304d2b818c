//! CPUs: what there is, what is allowed, what is isolated, how they run.

use super::{Facts, Report, Severity};
use crate::startup::affinity::render_cpus;

const AREA: &str = "CPUs";

pub(super) fn check(facts: &Facts, report: &mut Report) {
    available(facts, report);
    cores(facts, report);
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
    let groups = facts.text("proc/self/cgroup")?;
    let own =
        groups.lines().find_map(|line| line.strip_prefix("0::"))?.trim_matches('/').to_owned();
    let paths = [
        format!("sys/fs/cgroup/{own}/cpuset.cpus.effective"),
        "sys/fs/cgroup/cpuset.cpus.effective".to_owned(),
    ];
    paths.iter().find_map(|path| facts.text(path)).filter(|cpus| !cpus.is_empty())
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
        let advice = "messages between nodes cost more: name the cores of one node if they suffice, \
                      the one of the network card";
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
            let advice = "reading this clock is slow; boot with clocksource=tsc tsc=reliable if the \
                          hardware's TSC is sound";
            report.add(AREA, "clock source", Severity::Warn, source, advice);
        }
    }
}
