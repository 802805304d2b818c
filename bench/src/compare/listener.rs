//! Which process of a group listens on a port: a start script is not the broker whose CPU time counts.

use crate::process::Process;
use std::collections::HashSet;
use std::fs;

/// State `TCP_LISTEN` in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// The process of a process group that listens on a TCP port; none if nobody does.
#[must_use]
pub(super) fn process_listening(group: u32, port: u16) -> Option<Process> {
    let mut inodes = HashSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        inodes.extend(listening_inodes(&fs::read_to_string(table).unwrap_or_default(), port));
    }
    members(group).into_iter().find(|process| holds(*process, &inodes))
}

/// Inodes of the sockets that listen on a port, as the kernel's table has them.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.len() > 9 && fields[1].ends_with(&suffix) && fields[3] == LISTENING)
        .filter_map(|fields| fields[9].parse().ok())
        .collect()
}

/// The processes of a group.
fn members(group: u32) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| group_of(*pid) == Some(group)).map(Process).collect()
}

/// The group of a process: the third field after its name, which stands in parentheses.
fn group_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(2)?.parse().ok()
}

fn holds(process: Process, inodes: &HashSet<u64>) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", process.0)) else { return false };
    entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()).any(|target| {
        let text = target.to_string_lossy();
        let inode = text.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        inode.and_then(|inode| inode.parse().ok()).is_some_and(|inode| inodes.contains(&inode))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn this_process_is_found_by_its_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let group = group_of(std::process::id()).unwrap();
        assert_eq!(process_listening(group, port), Some(Process(std::process::id())));
        drop(listener);
        assert_eq!(process_listening(group, port), None);
    }

    #[test]
    fn only_sockets_that_listen_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:075B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1\n\
            1: 0100007F:075B 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 78 1\n";
        assert_eq!(listening_inodes(table, 0x075B), [77]);
        assert!(listening_inodes(table, 0x075C).is_empty());
    }
}
