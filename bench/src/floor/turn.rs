//! One pass of the relay: the ready list, reads, and one write per output.

use super::cut::{Cut, cut, first};
use super::{ARENA_BYTES, Floor, LISTENER, PACKET_BYTES_MAX, READ_BYTES};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use std::io::Write;
use std::mem;
use std::ops::Range;

/// Reads of one input in one turn, so that others get theirs.
const READS_MAX: usize = 4;
const INPUT: epoll::EventFlags = epoll::EventFlags::IN;
const END: epoll::EventFlags =
    epoll::EventFlags::RDHUP.union(epoll::EventFlags::HUP).union(epoll::EventFlags::ERR);
/// Do not wait.
pub(super) const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

impl Floor {
    pub(super) fn turn(&mut self, ready: &[epoll::Event], log: &mut dyn Write) {
        let again = mem::take(&mut self.again);
        for event in ready {
            self.on_event(event, log);
        }
        for slot in again {
            self.read(slot, log);
        }
        self.write_segments();
    }

    fn on_event(&mut self, event: &epoll::Event, log: &mut dyn Write) {
        let (data, flags) = (event.data.u64(), event.flags);
        if data == LISTENER {
            return self.accept();
        }
        let (slot, generation) = ((data & u64::from(u32::MAX)) as usize, (data >> 32) as u32);
        if self.generations[slot] != generation {
            return;
        }
        let Some(peer) = &mut self.peers[slot] else { return };
        peer.readable |= flags.intersects(INPUT | END);
        peer.ending |= flags.intersects(END);
        if flags.contains(epoll::EventFlags::OUT) && peer.write_pending() {
            self.release_inputs(slot);
        }
        self.read(slot, log);
    }

    fn release_inputs(&mut self, output: usize) {
        let inputs = self.peers[output].as_ref().map_or(0, |peer| peer.inputs.len());
        for index in 0..inputs {
            if let Some(input) = self.peers[output].as_ref().map(|peer| peer.inputs[index]) {
                self.release(input);
            }
        }
    }

    /// Reads an input until it is empty, has had its share, or one of its outputs is full.
    fn read(&mut self, slot: usize, log: &mut dyn Write) {
        for _ in 0..READS_MAX {
            if self.arena.used + PACKET_BYTES_MAX + READ_BYTES > ARENA_BYTES {
                self.write_segments();
            }
            let Some(peer) = &mut self.peers[slot] else { return };
            if peer.blocked_by > 0 || !peer.readable {
                return;
            }
            let start = self.arena.used;
            let kept = peer.partial.len();
            self.arena.bytes[start..start + kept].copy_from_slice(&peer.partial);
            let room = &mut self.arena.bytes[start + kept..start + kept + READ_BYTES];
            match rustix::io::read(&peer.socket, room) {
                Ok(0) => return self.remove(slot),
                Ok(bytes) => {
                    peer.readable = peer.ending || bytes == READ_BYTES;
                    self.relay(slot, start..start + kept + bytes, log);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    peer.readable = false;
                    return;
                }
                Err(_) => return self.remove(slot),
            }
        }
        self.again.push(slot);
    }

    /// Forwards the whole packets of what was read and keeps the beginning of one more.
    fn relay(&mut self, slot: usize, read: Range<usize>, log: &mut dyn Write) {
        if let Err(reason) = self.relay_all(slot, read) {
            self.refuse(slot, &reason, log);
        }
    }

    fn relay_all(&mut self, slot: usize, read: Range<usize>) -> Result<(), String> {
        let mut start = read.start;
        while self.peers[slot].is_some() {
            match cut(&self.arena.bytes[start..read.end]) {
                Cut::Whole(length) => {
                    self.forward(slot, start..start + length)?;
                    self.keep(slot, start + length..read.end);
                    return Ok(());
                }
                Cut::Other { at, end } => {
                    self.forward(slot, start..start + at)?;
                    self.on_other(slot, start + at..start + end)?;
                    start += end;
                }
                Cut::Refused => return Err("a packet above 1 MiB".to_owned()),
            }
        }
        Ok(())
    }

    fn keep(&mut self, slot: usize, rest: Range<usize>) {
        if let Some(peer) = &mut self.peers[slot] {
            peer.partial.clear();
            peer.partial.extend_from_slice(&self.arena.bytes[rest]);
        }
    }

    /// Sends whole packets to the outputs: at once if nobody else feeds them, otherwise at the end
    /// of the turn, together with what others send.
    fn forward(&mut self, slot: usize, place: Range<usize>) -> Result<(), String> {
        if place.is_empty() {
            return Ok(());
        }
        if self.peers[slot].as_ref().is_some_and(|peer| peer.topic.is_none()) {
            self.on_first_publish(slot, place.clone())?;
        }
        let Some(peer) = &mut self.peers[slot] else { return Ok(()) };
        let outputs = mem::take(&mut peer.outputs);
        match (self.unbatched, peer.direct) {
            (true, _) => self.forward_each(&outputs, place),
            (false, true) => self.forward_now(&outputs, place),
            (false, false) => self.forward_later(&outputs, place),
        }
        if let Some(peer) = &mut self.peers[slot] {
            peer.outputs = outputs;
        }
        Ok(())
    }

    fn forward_now(&mut self, outputs: &[usize], place: Range<usize>) {
        for output in outputs {
            let Some(peer) = &mut self.peers[*output] else { continue };
            if peer.write(&self.arena.bytes[place.clone()]) {
                self.block_inputs(*output);
            }
        }
    }

    fn forward_each(&mut self, outputs: &[usize], place: Range<usize>) {
        let mut start = place.start;
        while start < place.end {
            let length = first(&self.arena.bytes[start..place.end]);
            self.forward_now(outputs, start..start + length);
            start += length;
        }
    }

    fn forward_later(&mut self, outputs: &[usize], place: Range<usize>) {
        for output in outputs {
            let Some(peer) = &mut self.peers[*output] else { continue };
            if peer.segments.is_empty() {
                self.dirty.push(*output);
            }
            peer.add_segment(place.clone());
        }
        self.arena.used = place.end;
    }

    /// Writes what the inputs of this turn left for their outputs.
    pub(super) fn write_segments(&mut self) {
        let mut dirty = mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            let Some(peer) = &mut self.peers[slot] else { continue };
            if !peer.segments.is_empty() && peer.write_segments(&self.arena.bytes) {
                self.block_inputs(slot);
            }
        }
        self.dirty = dirty;
        self.arena.used = 0;
    }

    /// An output is full: what feeds it is not read until it has room again.
    pub(super) fn block_inputs(&mut self, output: usize) {
        let inputs = self.peers[output].as_ref().map_or(0, |peer| peer.inputs.len());
        for index in 0..inputs {
            let input = self.peers[output].as_ref().map(|peer| peer.inputs[index]);
            if let Some(peer) = input.and_then(|input| self.peers[input].as_mut()) {
                peer.blocked_by += 1;
            }
        }
    }
}
