//! Two queues in memory that write into each other's rings when the caller says so, and that hold a
//! link to what a device would hold it to: a receive for each write, no write beyond the ring, and
//! bytes that are read when the write happens and not when it was posted. For tests, and for simulation.

use crate::error::{DownCause, RdmaError, WorkStatus};
use crate::queue::{Completion, Queue, Slice, Write};
use crate::registry::Registry;
use crate::ring::work_requests;
use ringlane_dataplane::batch::Arena;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// What lies between two queues.
#[derive(Debug)]
struct Side {
    ring: Vec<u8>,
    stage: Vec<u8>,
    arenas: Registry<()>,
    /// How many arenas may be registered.
    arenas_max: usize,
    /// Posted and not carried out.
    posted: VecDeque<(Write, Vec<Slice>)>,
    completions: VecDeque<Completion>,
    receives: u32,
    sends_max: u32,
    /// Posted, and not yet known to be done by a signalled completion.
    sends: u32,
    is_revoked: bool,
}

/// Both sides, for whoever carries writes between them.
#[derive(Clone, Debug)]
pub struct Wire(Rc<RefCell<[Side; 2]>>);

/// One side's queue.
#[derive(Debug)]
pub struct FakeQueue {
    wire: Wire,
    side: usize,
}

const SLICES_MAX: u16 = 4;
const INLINE_BYTES: u32 = 64;

impl Wire {
    /// Two queues with rings and stages of these sizes, and receives posted.
    #[must_use]
    pub fn new(ring_bytes: u32, stage_bytes: u32, writes_max: u16) -> (Self, FakeQueue, FakeQueue) {
        let (sends_max, receives) = work_requests(writes_max);
        let side = || Side {
            ring: vec![0; ring_bytes as usize],
            stage: vec![0; stage_bytes as usize],
            arenas: Registry::new(),
            arenas_max: usize::MAX,
            posted: VecDeque::new(),
            completions: VecDeque::new(),
            receives,
            sends_max,
            sends: 0,
            is_revoked: false,
        };
        let wire = Self(Rc::new(RefCell::new([side(), side()])));
        let queue = |side| FakeQueue { wire: wire.clone(), side };
        let (first, second) = (queue(0), queue(1));
        (wire, first, second)
    }

    /// Carries out the oldest write of a side; false if there is none.
    ///
    /// # Panics
    /// If a device would have refused it: it goes beyond the ring, or finds no receive.
    pub fn carry(&self, side: usize) -> bool {
        let mut sides = self.0.borrow_mut();
        let Some((write, slices)) = sides[side].posted.pop_front() else { return false };
        let bytes = sides[side].read(&slices);
        assert_eq!(bytes.len(), write.bytes as usize, "the slices are the write");
        let target = &mut sides[1 - side];
        if target.is_revoked {
            sides[side].completions.push_back(Completion::Failed(WorkStatus::RETRY_EXC));
            return true;
        }
        let at = write.at as usize;
        assert!(at + bytes.len() <= target.ring.len(), "beyond the end of the ring");
        target.ring[at..at + bytes.len()].copy_from_slice(&bytes);
        assert_ne!(target.receives, 0, "no receive is posted");
        target.receives -= 1;
        target.completions.push_back(Completion::Landed { imm: write.imm });
        if write.signalled {
            sides[side].completions.push_back(Completion::Done { id: write.id });
        }
        true
    }

    /// Lets a side's queue see what the test wants it to see.
    pub fn report(&self, side: usize, completion: Completion) {
        self.0.borrow_mut()[side].completions.push_back(completion);
    }

    /// Writes into a side's ring as a peer that follows no rule.
    pub fn scribble(&self, side: usize, at: usize, bytes: &[u8]) {
        self.0.borrow_mut()[side].ring[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Lets a side register no more than so many arenas.
    pub fn limit_arenas(&self, side: usize, arenas_max: usize) {
        self.0.borrow_mut()[side].arenas_max = arenas_max;
    }

    /// Why a side has not registered an arena, once.
    #[must_use]
    pub fn take_refusal(&self, side: usize) -> Option<RdmaError> {
        self.0.borrow_mut()[side].arenas.take_refusal()
    }

    /// Writes that wait to be carried out, of a side.
    #[must_use]
    pub fn posted(&self, side: usize) -> usize {
        self.0.borrow()[side].posted.len()
    }
}

impl Side {
    fn read(&self, slices: &[Slice]) -> Vec<u8> {
        let memory = |slice: &Slice| {
            let (at, mut bytes) = (slice.at as usize, vec![0; slice.bytes as usize]);
            match slice.region {
                0 => bytes.copy_from_slice(&self.stage[at..][..slice.bytes as usize]),
                arena => {
                    let arena = self.arenas.arena(usize::from(arena) - 1);
                    // SAFETY: both sides, and whoever fills their batches, are on the thread of this value,
                    // which is not `Send`; it fills none during this call.
                    unsafe { arena.read(at, &mut bytes) };
                }
            }
            bytes
        };
        slices.iter().flat_map(memory).collect()
    }
}

impl Queue for FakeQueue {
    fn ring_bytes(&self) -> u32 {
        self.wire.0.borrow()[self.side].ring.len() as u32
    }

    fn stage_bytes(&self) -> u32 {
        self.wire.0.borrow()[self.side].stage.len() as u32
    }

    fn slices_max(&self) -> u16 {
        SLICES_MAX
    }

    fn stage(&mut self, at: u32, bytes: &[u8]) {
        let at = at as usize;
        self.wire.0.borrow_mut()[self.side].stage[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn inline_max(&self) -> u32 {
        INLINE_BYTES
    }

    fn slice_of(&mut self, bytes: &[u8], arena: &Arena) -> Option<Slice> {
        let Side { arenas, arenas_max, .. } = &mut self.wire.0.borrow_mut()[self.side];
        let is_full = arenas.len() == *arenas_max;
        let refusal = || RdmaError::Setting("no memory may be locked".to_owned());
        let register = |_: &Arena| if is_full { Err(refusal()) } else { Ok(()) };
        let (index, at) = arenas.place_of(bytes, arena, register)?;
        Some(Slice { region: index as u16 + 1, at: at as u32, bytes: bytes.len() as u32 })
    }

    fn post(&mut self, chain: &[Write], slices: &[Slice]) -> Result<(), DownCause> {
        let side = &mut self.wire.0.borrow_mut()[self.side];
        let mut rest = slices;
        for write in chain {
            let (own, others) = rest.split_at(usize::from(write.slices));
            assert!(own.len() <= usize::from(SLICES_MAX), "more slices than the device takes");
            rest = others;
            assert!(!write.inline || write.bytes <= INLINE_BYTES, "too long for its request");
            side.sends += 1;
            assert!(side.sends <= side.sends_max, "more work than the queue holds");
            side.posted.push_back((*write, own.to_vec()));
        }
        assert!(rest.is_empty(), "every slice belongs to a write");
        assert!(chain.last().is_none_or(|write| write.signalled), "the last one is reported");
        Ok(())
    }

    fn post_receives(&mut self, count: u32) -> Result<(), DownCause> {
        self.wire.0.borrow_mut()[self.side].receives += count;
        Ok(())
    }

    fn poll(&mut self, into: &mut Vec<Completion>) -> Result<(), DownCause> {
        let side = &mut self.wire.0.borrow_mut()[self.side];
        for _ in 0..crate::queue::COMPLETIONS_MAX {
            let Some(completion) = side.completions.pop_front() else { break };
            if let Completion::Done { id } = completion {
                let later = side.posted.back().map_or(id, |(write, _)| write.id);
                side.sends = (later - id) as u32;
            }
            into.push(completion);
        }
        Ok(())
    }

    fn copy_ring(&self, at: u32, into: &mut [u8]) {
        let sides = self.wire.0.borrow();
        into.copy_from_slice(&sides[self.side].ring[at as usize..][..into.len()]);
    }

    fn arm(&mut self) -> Result<(), DownCause> {
        Ok(())
    }

    fn revoke(&mut self) -> Result<(), DownCause> {
        self.wire.0.borrow_mut()[self.side].is_revoked = true;
        Ok(())
    }
}
