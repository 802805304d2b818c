//! Which CPUs the cores run on, and which ones are left for everything else.

use crate::config::Cores;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fmt;
use std::io;

/// What is wrong with `runtime.cores`, or with the host.
#[derive(Debug)]
pub enum AffinityError {
    /// A CPU was named that this process may not use.
    NotAllowed {
        /// The CPU.
        cpu: u32,
        /// Whether the host has it at all.
        exists: bool,
        /// The CPUs that may be used.
        allowed: Vec<u32>,
    },
    /// More cores than the node can have.
    TooMany {
        /// How many were asked for.
        asked: usize,
        /// How many there may be.
        most: usize,
    },
    /// The kernel refused.
    Kernel(io::Error),
}

impl fmt::Display for AffinityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllowed { cpu, exists, allowed } => {
                let why = if *exists {
                    "is not allowed to this process (affinity mask or cpuset)"
                } else {
                    "does not exist on this host"
                };
                let allowed = render_cpus(allowed);
                write!(f, "runtime.cores: CPU {cpu} {why}; these may be used: {allowed}")
            }
            Self::TooMany { asked, most } => {
                write!(f, "runtime.cores: {asked} cores; a node has at most {most}")
            }
            Self::Kernel(error) => write!(f, "cannot read or set the CPU affinity: {error}"),
        }
    }
}

impl std::error::Error for AffinityError {}

/// The CPUs that the calling thread may run on, in rising order (sched_getaffinity(2); a cpuset
/// cgroup is part of the answer).
///
/// # Errors
/// What the kernel says.
pub fn allowed_cpus() -> io::Result<Vec<u32>> {
    let set = sched_getaffinity(None)?;
    let cpus = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu));
    Ok(cpus.filter_map(|cpu| u32::try_from(cpu).ok()).collect())
}

/// The CPU of every core, by core number.
///
/// # Errors
/// If a named CPU is not in `allowed`, or there are more than `most`.
pub fn resolve(
    cores: &Cores,
    allowed: &[u32],
    online: &[u32],
    most: usize,
) -> Result<Vec<u32>, AffinityError> {
    let cpus = match cores {
        Cores::Auto => allowed.iter().copied().take(most).collect(),
        Cores::List(list) => list.clone(),
    };
    if most < cpus.len() {
        return Err(AffinityError::TooMany { asked: cpus.len(), most });
    }
    match cpus.iter().find(|cpu| !allowed.contains(cpu)) {
        Some(&cpu) => Err(AffinityError::NotAllowed {
            cpu,
            exists: online.contains(&cpu),
            allowed: allowed.to_vec(),
        }),
        None => Ok(cpus),
    }
}

/// The CPUs for every thread that is no core: those that no core is pinned to, or all allowed
/// ones if the cores take them all.
#[must_use]
pub fn housekeeping(allowed: &[u32], cores: &[u32]) -> Vec<u32> {
    let left: Vec<u32> = allowed.iter().copied().filter(|cpu| !cores.contains(cpu)).collect();
    if left.is_empty() { allowed.to_vec() } else { left }
}

/// Pins the calling thread to `cpus`; threads that it starts inherit that.
///
/// # Errors
/// What the kernel says (sched_setaffinity(2)).
pub fn pin_current_thread(cpus: &[u32]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu as usize);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// CPUs as the kernel writes them: `0-3,8`.
#[must_use]
pub fn render_cpus(cpus: &[u32]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut rest = cpus;
    while let Some(first) = rest.first() {
        let run = rest.iter().zip(*first..).take_while(|(cpu, next)| *cpu == next).count();
        parts.push(match run {
            1 => first.to_string(),
            _ => format!("{first}-{}", rest[run - 1]),
        });
        rest = &rest[run..];
    }
    if parts.is_empty() { "none".to_owned() } else { parts.join(",") }
}

/// Reads a CPU list of the kernel, such as `/sys/devices/system/cpu/online`; nothing if it is
/// empty or cannot be understood.
#[must_use]
pub fn parse_cpus(text: &str) -> Vec<u32> {
    match text.trim().parse() {
        Ok(Cores::List(list)) => list,
        Ok(Cores::Auto) | Err(_) => Vec::new(),
    }
}

/// The CPUs that are online; nothing where sysfs is missing.
#[must_use]
pub fn online_cpus() -> Vec<u32> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online");
    parse_cpus(&text.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_every_allowed_cpu_up_to_the_most() {
        let cpus = resolve(&Cores::Auto, &[1, 3, 5], &[0, 1, 2, 3, 4, 5], 128);
        assert_eq!(cpus.expect("allowed"), [1, 3, 5]);
        let cpus = resolve(&Cores::Auto, &[1, 3, 5], &[], 2);
        assert_eq!(cpus.expect("cut"), [1, 3]);
    }

    #[test]
    fn a_list_keeps_its_order() {
        let cores = Cores::List(vec![5, 1]);
        let cpus = resolve(&cores, &[1, 3, 5], &[1, 3, 5], 128);
        assert_eq!(cpus.expect("allowed"), [5, 1]);
    }

    #[test]
    fn a_cpu_that_cannot_be_used_is_an_error_that_names_the_others() {
        let cases = [
            (9, "CPU 9 does not exist on this host; these may be used: 0-1,4"),
            (2, "CPU 2 is not allowed to this process (affinity mask or cpuset); these may"),
        ];
        for (cpu, expected) in cases {
            let cores = Cores::List(vec![0, cpu]);
            let error = resolve(&cores, &[0, 1, 4], &[0, 1, 2, 3, 4], 128);
            let message = error.expect_err("not allowed").to_string();
            assert!(message.contains(expected), "{message}");
        }
        let error = resolve(&Cores::List(vec![0, 1]), &[0, 1], &[0, 1], 1);
        assert!(error.expect_err("too many").to_string().contains("at most 1"));
    }

    #[test]
    fn housekeeping_is_what_the_cores_leave() {
        assert_eq!(housekeeping(&[0, 1, 2, 3], &[1, 2]), [0, 3]);
        assert_eq!(housekeeping(&[0, 1], &[1, 0]), [0, 1]);
    }

    #[test]
    fn cpu_lists_have_the_kernels_form() {
        for text in ["0", "0-3", "0-1,4,6-8", "none"] {
            assert_eq!(render_cpus(&parse_cpus(text)), text);
        }
        assert_eq!(parse_cpus("\n"), [0_u32; 0]);
    }

    #[test]
    fn a_thread_can_be_pinned_to_a_cpu_it_is_allowed() {
        let first = *allowed_cpus().expect("affinity").first().expect("a CPU");
        let pinned = std::thread::spawn(move || {
            pin_current_thread(&[first]).expect("allowed");
            allowed_cpus().expect("affinity")
        });
        assert_eq!(pinned.join().expect("no panic"), [first]);
    }
}
