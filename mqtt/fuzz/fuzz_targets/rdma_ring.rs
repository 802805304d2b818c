//! Any bytes in a ring and any completions: a link reads messages of lengths that may be, each within
//! what the peer had credit for, or it ends; it never panics.
//!
//! The input is a list of (immediate data, place, 8 bytes); the bytes are written into the ring
//! before the completion is seen, as a peer that follows no rule could do it.

#![no_main]

use ringlane_dataplane::batch::{Arena, BatchPool, Foreign};
use ringlane_dataplane::link::Body;
use ringlane_dataplane::message::MessageMeter;
use ringlane_transport_rdma::{Completion, DownCause, Endpoint, Queue, Received, Slice, Write};

const RING_BYTES: usize = 4096;
const MESSAGE_BYTES_MAX: u32 = 2048;

struct Hostile {
    ring: Vec<u8>,
    told: Option<u32>,
}

impl Queue for Hostile {
    fn ring_bytes(&self) -> u32 {
        RING_BYTES as u32
    }

    fn stage_bytes(&self) -> u32 {
        4096
    }

    fn slices_max(&self) -> u16 {
        4
    }

    fn stage(&mut self, at: u32, bytes: &[u8]) {
        assert!(at as usize + bytes.len() <= 4096);
    }

    fn inline_max(&self) -> u32 {
        0
    }

    fn slice_of(&mut self, _bytes: &[u8], _arena: &Arena) -> Option<Slice> {
        None
    }

    fn post(&mut self, chain: &[Write], _slices: &[Slice]) -> Result<(), DownCause> {
        assert!(chain.iter().all(|write| (write.at + write.bytes) as usize <= RING_BYTES));
        Ok(())
    }

    fn post_receives(&mut self, _count: u32) -> Result<(), DownCause> {
        Ok(())
    }

    fn poll(&mut self, into: &mut Vec<Completion>) -> Result<(), DownCause> {
        into.extend(self.told.take().map(|imm| Completion::Landed { imm }));
        Ok(())
    }

    fn copy_ring(&self, at: u32, into: &mut [u8]) {
        into.copy_from_slice(&self.ring[at as usize..][..into.len()]);
    }

    fn arm(&mut self) -> Result<(), DownCause> {
        Ok(())
    }

    fn revoke(&mut self) -> Result<(), DownCause> {
        Ok(())
    }
}

/// One turn: false once the link is over.
fn turn(link: &mut Endpoint<Hostile>, body: &Body) -> bool {
    if link.poll().is_err() {
        return false;
    }
    loop {
        match link.next_message() {
            Ok(Some(Received::Whole(message))) => {
                assert!((24..=MESSAGE_BYTES_MAX as usize).contains(&message.len()));
            }
            Ok(Some(Received::Records(head, body))) => {
                assert!(head.len() + body.len() <= MESSAGE_BYTES_MAX as usize);
                body.copy_to(0, &mut vec![0; body.len()]);
            }
            Ok(None) => break,
            Err(_) => return false,
        }
    }
    link.push(&[24, 0, 0, 0, 0, 0, 0, 0], Some(body.clone()));
    link.flush().is_ok()
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let body = Body::new(BatchPool::new(MessageMeter::leaked()).copy_records(&[0; 16], 1));
    let queue = Hostile { ring: vec![0; RING_BYTES], told: None };
    let mut link = Endpoint::new(queue, RING_BYTES as u32, 8, MESSAGE_BYTES_MAX);
    for step in input.as_chunks::<14>().0 {
        let imm = u32::from_le_bytes([step[0], step[1], step[2], step[3]]);
        let at = usize::from(u16::from_le_bytes([step[4], step[5]])) % (RING_BYTES - 8);
        let queue = link.queue_mut();
        queue.ring[at..at + 8].copy_from_slice(&step[6..]);
        queue.told = Some(imm);
        if !turn(&mut link, &body) {
            break;
        }
    }
});
