//! The machine: kernel, processor, memory, limits. What cannot be read is left out.

use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

/// A machine, as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Release and architecture of the kernel.
    pub kernel: String,
    /// The distribution.
    pub system: String,
    /// Model name of the processor.
    pub cpu: String,
    /// CPUs that are online.
    pub cpus: usize,
    /// Frequency governors in use; "none" where the kernel does not scale frequencies, as in most
    /// virtual machines.
    pub governor: String,
    /// Frequency of the first CPU in MHz, at the moment of reading.
    pub mhz: Option<f64>,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// The hypervisor, as far as it shows itself; "none seen" otherwise.
    pub virtualisation: String,
    /// Load average over one, five and fifteen minutes.
    pub load_average: Vec<f64>,
    /// Soft and hard limit on descriptors of this process; `None` is unlimited.
    pub descriptors_max: (Option<u64>, Option<u64>),
}

impl Host {
    /// Reads it from `/proc`, `/sys` and `/etc/os-release`.
    #[must_use]
    pub fn read() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let release = read("/proc/sys/kernel/osrelease");
        let limit = getrlimit(Resource::Nofile);
        Self {
            kernel: format!("{} {}", release.trim(), std::env::consts::ARCH),
            system: os_name(&read("/etc/os-release")),
            cpu: cpu_model(&cpuinfo),
            cpus: online_cpus().len(),
            governor: governors(),
            mhz: field(&cpuinfo, "cpu MHz").and_then(|text| text.parse().ok()),
            memory_bytes: memory_bytes(&read("/proc/meminfo")),
            virtualisation: virtualisation(&cpuinfo),
            load_average: load_average(&read("/proc/loadavg")),
            descriptors_max: (limit.current, limit.maximum),
        }
    }
}

/// The CPUs that the kernel has online, ascending; empty if it does not say.
#[must_use]
pub fn online_cpus() -> Vec<usize> {
    cpu_list(read("/sys/devices/system/cpu/online").trim())
}

/// A list of CPUs as the kernel writes it: `0-3,8`.
#[must_use]
pub(super) fn cpu_list(text: &str) -> Vec<usize> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
            cpus.extend(first..=last);
        }
    }
    cpus
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The first value of a key in a file of `key : value` lines.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(name, value)| (name.trim() == key).then_some(value.trim()))
}

/// The model; on aarch64 `/proc/cpuinfo` has only numbers for implementer and part.
fn cpu_model(cpuinfo: &str) -> String {
    if let Some(model) = field(cpuinfo, "model name") {
        return model.to_owned();
    }
    let part = |key| field(cpuinfo, key).unwrap_or("unknown");
    format!("implementer {}, part {}", part("CPU implementer"), part("CPU part"))
}

fn os_name(os_release: &str) -> String {
    let name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("unknown").trim_matches('"').to_owned()
}

fn governors() -> String {
    let mut found: Vec<String> = online_cpus()
        .iter()
        .map(|cpu| read(format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor")))
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
        .collect();
    found.sort();
    found.dedup();
    if found.is_empty() { "none".to_owned() } else { found.join(", ") }
}

fn memory_bytes(meminfo: &str) -> u64 {
    let kib = field(meminfo, "MemTotal").and_then(|text| text.split(' ').next()?.parse().ok());
    kib.unwrap_or(0u64) * 1024
}

fn virtualisation(cpuinfo: &str) -> String {
    let names = ["/sys/class/dmi/id/sys_vendor", "/sys/class/dmi/id/product_name"];
    let product: Vec<String> =
        names.iter().map(|path| read(path).trim().to_owned()).filter(|s| !s.is_empty()).collect();
    let flags = field(cpuinfo, "flags").unwrap_or_default();
    let is_guest = flags.split(' ').any(|flag| flag == "hypervisor");
    match (is_guest, product.is_empty()) {
        (true, true) => "a virtual machine".to_owned(),
        (true, false) => format!("a virtual machine ({})", product.join(" ")),
        (false, true) => "none seen".to_owned(),
        (false, false) => format!("none seen ({})", product.join(" ")),
    }
}

fn load_average(text: &str) -> Vec<f64> {
    text.split(' ').take(3).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described() {
        let host = Host::read();
        assert!(!host.kernel.is_empty() && !host.cpu.is_empty());
        assert!(host.cpus >= 1 && host.cpus == online_cpus().len());
        assert!(host.memory_bytes > 1 << 20);
        assert_eq!(host.load_average.len(), 3);
    }

    #[test]
    fn lists_of_cpus_are_read_as_the_kernel_writes_them() {
        assert_eq!(cpu_list("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(cpu_list("7"), [7]);
        assert!(cpu_list("").is_empty());
    }

    #[test]
    fn a_processor_without_a_name_has_numbers() {
        let kunpeng = "processor\t: 0\nCPU implementer\t: 0x48\nCPU part\t: 0xd01\n";
        assert_eq!(cpu_model(kunpeng), "implementer 0x48, part 0xd01");
        assert_eq!(cpu_model("model name\t: AMD EPYC\n"), "AMD EPYC");
    }
}
