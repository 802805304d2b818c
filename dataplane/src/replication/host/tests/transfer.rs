//! Nodes that lack what their leader does not keep any more.

use super::*;
use crate::disk::memory::Operation;
use crate::log::reset::{LEARNED_NAME, received};
use crate::replication::message::Claim;
use crate::replication::reign::Reign;
use std::path::Path;

/// Longer than a window.
const BYTES: usize = (2 << 20) + 77;

fn content() -> Vec<u8> {
    (0..BYTES as u32).map(|at| (at * 7) as u8 ^ (at >> 8) as u8).collect()
}

/// A node leads whose log does not begin at 0 any more, and has a checkpoint; another one is away.
fn trimmed() -> (Cluster, Offset) {
    let mut cluster = Cluster::new(3);
    cluster.campaign(1, 7);
    cluster.leave(3);
    cluster.publish(1, 0..300, 900);
    let start = give_checkpoint(&mut cluster, 1);
    (cluster, start)
}

/// A node trims its log as far as it can, and has a checkpoint of all that is committed.
fn give_checkpoint(cluster: &mut Cluster, id: u16) -> Offset {
    let node = &mut cluster.nodes[usize::from(id) - 1];
    let next = node.partition.marks().high_watermark;
    let path = PathBuf::from("/data/0/sent.checkpoint");
    node.files.put(&path, &content());
    node.checkpoint = Some(Source { path, bytes: BYTES as u64, next });
    node.partition.log_mut().unwrap().trim(Offset(next.0 / 2));
    let start = node.partition.marks().start;
    assert!(start.0 > 50, "{start:?}");
    cluster.run();
    start
}

fn join_and_wait(cluster: &mut Cluster, id: u16) {
    cluster.join(id);
    (0..20).for_each(|_| cluster.run());
}

fn has_all(cluster: &Cluster, id: u16, start: Offset) {
    let (node, leader) = (&cluster.nodes[usize::from(id) - 1], &cluster.nodes[0]);
    let (own, led) = (node.partition.marks(), leader.partition.marks());
    assert_eq!((own.start, own.flushed), (start, led.flushed));
    assert_eq!(own.high_watermark, led.high_watermark);
    let applied: Vec<u64> = node.around.applied.iter().map(|(offset, ..)| *offset).collect();
    assert_eq!(applied, (0..own.high_watermark.0).collect::<Vec<_>>(), "each once");
}

fn learned(cluster: &Cluster, id: u16) -> Option<Vec<u8>> {
    cluster.nodes[usize::from(id) - 1].files.content(&Path::new("/data/0").join(LEARNED_NAME))
}

#[test]
fn who_lacks_what_is_not_kept_gets_a_checkpoint_and_the_log_from_its_start() {
    let (mut cluster, start) = trimmed();
    join_and_wait(&mut cluster, 3);
    assert_eq!(cluster.nodes[2].around.log, [format!("begins at {}", start.0)]);
    assert_eq!(learned(&cluster, 3), Some(content()));
    cluster.publish(1, 300..320, 100);
    has_all(&cluster, 3, start);
    assert_eq!(cluster.nodes[0].host.sends_checkpoints().count(), 0);

    // It counts: with it the leader has a majority, and it leads with all of it.
    cluster.leave(2);
    cluster.publish(1, 320..330, 100);
    assert_eq!(cluster.nodes[0].acks.len(), 330);
    cluster.join(2);
    (0..5).for_each(|_| cluster.run());
    cluster.leave(1);
    cluster.campaign(3, 9);
    assert!(cluster.nodes[2].host.is_leading());
}

#[test]
fn a_wiped_node_counts_only_once_it_has_all() {
    let (mut cluster, start) = trimmed();
    let reign = Reign { epoch: 7, ..Reign::default() };
    let wiped = Opened { damage: Some(Claim::ALL), reign, ..Opened::default() };
    cluster.nodes[2] = Node::opened(3, 3, wiped);
    cluster.nodes[2].files.hold(true);
    cluster.join(3);
    cluster.run();
    cluster.leave(2);
    cluster.publish(1, 300..310, 100);
    assert_eq!(cluster.nodes[0].acks.len(), 300, "it has nothing yet");
    cluster.nodes[2].files.hold(false);
    (0..20).for_each(|_| cluster.run());
    assert_eq!(cluster.nodes[0].acks.len(), 310);
    assert_eq!(cluster.nodes[2].host.replica().damage(), None);
    has_all(&cluster, 3, start);
}

#[test]
fn a_leader_that_goes_in_the_middle_is_begun_anew_with_the_next() {
    let (mut cluster, _) = trimmed();
    cluster.nodes[2].files.hold(true);
    cluster.join(3);
    cluster.run();
    cluster.leave(1);
    cluster.nodes[2].files.hold(false);
    cluster.run();
    let path = Path::new("/data/0");
    assert_eq!(received(&cluster.nodes[2].files, path).ok().flatten(), None);
    // The next one keeps its whole log: nothing has to be replaced.
    cluster.campaign(2, 9);
    (0..20).for_each(|_| cluster.run());
    assert_eq!(learned(&cluster, 3), None);
    let mark = cluster.nodes[1].partition.marks().high_watermark;
    assert_eq!(cluster.nodes[2].partition.marks().high_watermark, mark);
    assert_eq!(cluster.applied(3).len() as u64, mark.0);
    let names = cluster.nodes[2].files.paths();
    assert!(names.iter().all(|path| !path.ends_with(".tmp")), "{names:?}");
}

#[test]
fn a_checkpoint_that_cannot_be_written_or_read_is_asked_for_again() {
    let (mut cluster, start) = trimmed();
    cluster.nodes[2].files.fail(Operation::Append, "received", crate::disk::ENOSPC);
    cluster.nodes[0].files.fail(Operation::Open, "sent", crate::disk::EIO);
    join_and_wait(&mut cluster, 3);
    (0..20).for_each(|_| cluster.run());
    has_all(&cluster, 3, start);
    assert!(learned(&cluster, 3).is_some());
}

#[test]
fn a_leader_says_what_its_followers_lack_and_what_they_may_trim() {
    let (mut cluster, start) = trimmed();
    let lacks = |cluster: &Cluster, id| cluster.nodes[0].host.replica().lacks(NodeId(id));
    let (from, is_in_touch) = lacks(&cluster, 3).unwrap();
    assert!(from < start && !is_in_touch);
    let end = cluster.nodes[0].partition.marks().flushed;
    assert_eq!(lacks(&cluster, 2), Some((end, true)));
    assert_eq!(cluster.nodes[1].host.replica().trimmed_by_leader(), start, "told while idle");
    cluster.nodes[2].files.hold(true);
    cluster.join(3);
    cluster.run();
    assert_eq!(lacks(&cluster, 3), Some((start, true)), "what goes with the checkpoint");
    cluster.nodes[2].files.hold(false);
    (0..20).for_each(|_| cluster.run());
    assert_eq!(lacks(&cluster, 3), Some((end, true)));
    assert_eq!(cluster.nodes[1].host.replica().lacks(NodeId(3)), None, "no leader");
}
