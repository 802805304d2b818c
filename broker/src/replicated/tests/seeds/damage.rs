//! Bits that turn on the disk of a node that is down. Where its start has to see it: in a checkpoint, or in records that
//! the log itself says were flushed. At the very end of a log nothing tells damage from a torn tail. And where no start
//! looks, in front of a checkpoint: whoever reads there later has to see it.

use super::super::node::{Flaw, Node, PARTITIONS};
use ringlane_dataplane::random::Random;
use std::path::PathBuf;

/// Turns a bit of a checkpoint or of a log, if there is one to be turned.
pub(super) fn flip(node: &Node, random: &mut Random) -> Option<Flaw> {
    let partition = random.below(u64::from(PARTITIONS)) as u32;
    let (path, position) = if random.one_in(3) {
        let checkpoints = node.checkpoints(partition);
        pick(&checkpoints, random).map(|(path, bytes)| (path, random.below(bytes)))?
    } else {
        let batches = node.flushed_batches(partition);
        let (path, batch) = pick(&batches, random)?;
        (path, random.between(batch.start, batch.end - 1))
    };
    turn(node, Flaw { partition, path, is_unread: false }, position, random)
}

/// Turns a bit in front of a checkpoint, if there is one.
pub(super) fn flip_unread(node: &Node, random: &mut Random) -> Option<Flaw> {
    let partition = random.below(u64::from(PARTITIONS)) as u32;
    let batches = node.unread_batches(partition);
    let (path, batch) = pick(&batches, random)?;
    let position = random.between(batch.start, batch.end - 1);
    turn(node, Flaw { partition, path, is_unread: true }, position, random)
}

fn turn(node: &Node, flaw: Flaw, position: u64, random: &mut Random) -> Option<Flaw> {
    let (files, bit) = (node.files_of(flaw.partition), random.below(8));
    files.damage(&flaw.path, |content| content[position as usize] ^= 1 << bit);
    Some(flaw)
}

fn pick<T: Clone>(places: &[(PathBuf, T)], random: &mut Random) -> Option<(PathBuf, T)> {
    if places.is_empty() { None } else { Some(places[random.index(places.len())].clone()) }
}
