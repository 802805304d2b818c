//! What the kernel spends on connections: its slab caches, by purpose. The figures are of the whole
//! machine, so that both ends are in them when both are on it.

use std::collections::BTreeMap;
use std::fs;
use std::io;

/// What a cache is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Purpose {
    /// TCP sockets and their inodes.
    Sockets,
    /// Open files.
    Files,
    /// Directory entries; a socket has one.
    Dentries,
    /// Registrations with epoll.
    Epoll,
    /// Requests of `io_uring` that are under way.
    IoUring,
    /// Allocations of a size class: of many users, sockets, epoll and `io_uring` among them.
    General,
    /// All other caches.
    Other,
}

impl Purpose {
    /// In the order of a report.
    pub const ALL: [Self; 7] = [
        Self::Sockets,
        Self::Files,
        Self::Dentries,
        Self::Epoll,
        Self::IoUring,
        Self::General,
        Self::Other,
    ];

    /// Its name in a report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sockets => "sockets",
            Self::Files => "files",
            Self::Dentries => "dentries",
            Self::Epoll => "epoll",
            Self::IoUring => "io_uring",
            Self::General => "general",
            Self::Other => "other",
        }
    }

    fn of(cache: &str) -> Self {
        match cache {
            "TCP" | "TCPv6" | "sock_inode_cache" | "request_sock_TCP" | "request_sock_TCPv6"
            | "tw_sock_TCP" | "tw_sock_TCPv6" | "tcp_bind_bucket" | "tcp_bind2_bucket" => {
                Self::Sockets
            }
            "filp" | "bfilp" | "lsm_file_cache" => Self::Files,
            "dentry" => Self::Dentries,
            _ if cache.starts_with("eventpoll") || cache == "ep_head" => Self::Epoll,
            _ if cache.starts_with("io_") => Self::IoUring,
            _ if cache.starts_with("kmalloc") => Self::General,
            _ => Self::Other,
        }
    }
}

/// A reading.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct KernelMemory {
    /// All slabs, in bytes.
    pub slab_bytes: u64,
    /// Bytes of the slabs by purpose; empty if `/proc/slabinfo` may not be read (root may).
    pub by_purpose: BTreeMap<Purpose, u64>,
}

impl KernelMemory {
    /// Reads `/proc/meminfo` and, where it is allowed, `/proc/slabinfo`.
    ///
    /// # Errors
    /// If `/proc/meminfo` has no figure for slabs.
    pub fn read() -> io::Result<Self> {
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let slab_bytes = slab_bytes(&meminfo)
            .ok_or_else(|| io::Error::other("/proc/meminfo has no line for Slab"))?;
        let slabinfo = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
        Ok(Self { slab_bytes, by_purpose: by_purpose(&slabinfo) })
    }

    /// Bytes by which each figure is larger than in `earlier`; 0 where it shrank.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let growth = |(purpose, bytes): (&Purpose, &u64)| {
            let before = earlier.by_purpose.get(purpose).copied().unwrap_or(0);
            (*purpose, bytes.saturating_sub(before))
        };
        Self {
            slab_bytes: self.slab_bytes.saturating_sub(earlier.slab_bytes),
            by_purpose: self.by_purpose.iter().map(growth).collect(),
        }
    }
}

fn slab_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("Slab:"))?;
    Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Sums `num_slabs * pagesperslab` of `/proc/slabinfo`, version 2.1 (slabinfo(5)).
fn by_purpose(slabinfo: &str) -> BTreeMap<Purpose, u64> {
    let mut sums = BTreeMap::new();
    for line in slabinfo.lines() {
        if let Some((name, bytes)) = cache_bytes(line) {
            *sums.entry(Purpose::of(name)).or_insert(0) += bytes;
        }
    }
    sums
}

fn cache_bytes(line: &str) -> Option<(&str, u64)> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let pages_per_slab: u64 = words.get(5)?.parse().ok()?;
    let slab_data = words.iter().position(|word| *word == "slabdata")?;
    let slabs: u64 = words.get(slab_data + 2)?.parse().ok()?;
    Some((words.first()?, slabs * pages_per_slab * page_bytes()))
}

fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLABINFO: &str = "slabinfo - version: 2.1\n\
        # name <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit>\n\
        TCP   8  24  2688 12 8 : tunables 0 0 0 : slabdata 2 2 0\n\
        sock_inode_cache 10 38 832 19 4 : tunables 0 0 0 : slabdata 2 2 0\n\
        io_kiocb 0 0 256 16 1 : tunables 0 0 0 : slabdata 5 5 0\n\
        kmalloc-cg-512 0 0 512 16 2 : tunables 0 0 0 : slabdata 3 3 0\n\
        ext4_inode_cache 0 0 1 16 2 : tunables 0 0 0 : slabdata 3 4 0\n";

    #[test]
    fn caches_are_summed_by_purpose() {
        let sums = by_purpose(SLABINFO);
        let pages = |purpose| sums.get(&purpose).map(|bytes| bytes / page_bytes());
        assert_eq!(pages(Purpose::Sockets), Some(24));
        assert_eq!(pages(Purpose::IoUring), Some(5));
        assert_eq!(pages(Purpose::General), Some(6));
        assert_eq!(pages(Purpose::Other), Some(8));
        assert_eq!(pages(Purpose::Dentries), None);
    }

    #[test]
    fn growth_is_never_negative() {
        let reading = |bytes| KernelMemory {
            slab_bytes: bytes,
            by_purpose: BTreeMap::from([(Purpose::Files, bytes)]),
        };
        assert_eq!(reading(30).since(&reading(10)), reading(20));
        assert_eq!(reading(10).since(&reading(30)), reading(0));
    }

    #[test]
    fn this_host_has_slabs() {
        assert!(KernelMemory::read().unwrap().slab_bytes > 0);
    }
}
