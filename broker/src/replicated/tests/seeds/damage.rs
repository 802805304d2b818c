//! Bits that turn on the disk of a node that is down, where its start has to see it: in a checkpoint, or in records that
//! the log itself says were flushed. At the very end of a log nothing tells damage from a torn tail.

use super::super::node::{Node, PARTITIONS};
use ringlane_dataplane::random::Random;
use std::path::PathBuf;

/// Turns a bit of a checkpoint or of a log, if there is one to be turned.
pub(super) fn flip(node: &Node, random: &mut Random) -> bool {
    let partition = random.below(u64::from(PARTITIONS)) as u32;
    let place = if random.one_in(3) {
        let checkpoints = node.checkpoints(partition);
        pick(&checkpoints, random).map(|(path, bytes)| (path, random.below(bytes)))
    } else {
        let batches = node.flushed_batches(partition);
        pick(&batches, random)
            .map(|(path, batch)| (path, random.between(batch.start, batch.end - 1)))
    };
    let Some((path, position)) = place else { return false };
    let bit = random.below(8);
    node.files_of(partition).damage(&path, |content| content[position as usize] ^= 1 << bit);
    true
}

fn pick<T: Clone>(places: &[(PathBuf, T)], random: &mut Random) -> Option<(PathBuf, T)> {
    if places.is_empty() { None } else { Some(places[random.index(places.len())].clone()) }
}
