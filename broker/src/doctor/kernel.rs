//! The kernel and what io_uring it gives.

use super::{Facts, Report, Severity};

const AREA: &str = "Kernel and io_uring";

pub(super) fn check(facts: &Facts, report: &mut Report) {
    report.ok(AREA, "kernel", facts.capabilities.kernel.clone());
    switch(facts, report);
    driver(facts, report);
    if facts.capabilities.uring.is_ok() {
        features(facts, report);
    }
    seccomp(facts, report);
}

/// `kernel.io_uring_disabled` (Documentation/admin-guide/sysctl/kernel.rst, since 6.6).
fn switch(facts: &Facts, report: &mut Report) {
    let name = "kernel.io_uring_disabled";
    let advice = "sysctl -w kernel.io_uring_disabled=0, and the same in /etc/sysctl.d";
    match facts.text("proc/sys/kernel/io_uring_disabled").as_deref() {
        None => report.ok(AREA, name, "this kernel has no such switch"),
        Some("0") => report.ok(AREA, name, "0 (allowed)"),
        Some("1") => {
            let found = "1 (only for members of kernel.io_uring_group and CAP_SYS_ADMIN)";
            report.add(AREA, name, Severity::Warn, found, advice);
        }
        Some(other) => {
            let found = format!("{other} (forbidden)");
            report.add(AREA, name, Severity::Warn, found, advice);
        }
    }
}

/// Which driver would run.
fn driver(facts: &Facts, report: &mut Report) {
    let severity = if facts.wants_uring() { Severity::Fail } else { Severity::Warn };
    let name = "io_uring driver";
    match &facts.capabilities.uring {
        Err(refusal) => {
            let found = format!("not usable: {}; epoll is used instead", refusal.reason);
            report.add(AREA, name, severity, found, refusal.remedy.clone());
        }
        Ok(_) => {
            let missing = facts.capabilities.missing_for_uring();
            if missing.is_empty() {
                report.ok(AREA, name, "usable");
            } else {
                let found = format!("lacks {}; epoll is used instead", missing.join(", "));
                report.add(AREA, name, severity, found, "run kernel 6.1 or later");
            }
        }
    }
}

fn features(facts: &Facts, report: &mut Report) {
    for (name, since, present) in facts.capabilities.features() {
        if present {
            report.ok(AREA, name, format!("yes (kernel {since})"));
        } else {
            let advice = format!("{}: kernel {since} or later has it", effect(name));
            report.add(AREA, name, Severity::Ok, format!("no (kernel {since})"), advice);
        }
    }
}

/// What the lack of a feature means.
pub(super) fn effect(feature: &str) -> &'static str {
    let feature = feature.to_ascii_lowercase();
    let effects = [
        ("multishot accept", "the epoll driver runs"),
        ("multishot receive", "the epoll driver runs"),
        ("buffer rings", "the epoll driver runs"),
        ("single_issuer", "the epoll driver runs"),
        ("defer_taskrun", "the epoll driver runs"),
        ("timeouts in the wait call", "the epoll driver runs"),
        ("ring messages", "cores wake each other by eventfd, one system call each"),
        ("cancel by descriptor", "operations are cancelled one by one"),
        ("send_zc", "large sends are copied into the kernel"),
        ("sendmsg_zc", "large sends of several pieces are copied into the kernel"),
        ("no_sqarray", "one more cache line per submission"),
        ("napi busy poll", "the network card is not polled from the core"),
        ("bundles", "one completion per receive buffer"),
        ("incremental buffers", "small receives take whole buffers"),
        ("min-wait", "a waking core takes fewer completions at once"),
        ("zero-copy receive", "received bytes are copied by the kernel"),
    ];
    let found = effects.iter().find(|(name, _)| *name == feature);
    found.map_or("plain operations are used", |(_, effect)| effect)
}

/// Container runtimes filter io_uring in their default profile (design notes of Docker and
/// containerd since 2023), which shows as EPERM.
fn seccomp(facts: &Facts, report: &mut Report) {
    let status = facts.text("proc/self/status").unwrap_or_default();
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim);
    match (mode, &facts.capabilities.uring) {
        (Some("2"), Err(_)) => {
            let advice = "if this is a container, allow io_uring_setup, io_uring_enter and \
                          io_uring_register in its seccomp profile";
            report.add(AREA, "seccomp", Severity::Warn, "a filter is installed", advice);
        }
        (Some("2"), Ok(_)) => {
            report.ok(AREA, "seccomp", "a filter is installed; it lets io_uring be")
        }
        (Some(_) | None, _) => report.ok(AREA, "seccomp", "no filter"),
    }
}
