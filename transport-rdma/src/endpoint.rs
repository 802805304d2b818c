//! One link over a queue: messages in, writes out; completions in, messages out. It decides all that
//! a link decides, and does nothing but through [`Queue`].
//!
//! A turn is: [`Endpoint::poll`], [`Endpoint::next_message`] until there is none,
//! [`Endpoint::push`] what is to be sent, [`Endpoint::flush`] once: one chain of writes and one call
//! of the device, whatever the number of messages. Heads of messages, and bodies that lie in memory
//! which is not registered, are copied into the stage; other bodies are sent from where they are and
//! kept until the device has done with them.
//!
//! What comes is copied once: heads here, and records by whoever keeps them, straight out of the ring
//! ([`Received`]). Credit for them is returned by the next flush, and so not before they were copied.

use crate::assembly::Assembly;
use crate::error::DownCause;
use crate::queue::{COMPLETIONS_MAX, Completion, Queue, Slice, Write};
use crate::received::{InRing, Received, copy_out};
use crate::ring::{CREDITS_MAX, Incoming, Notice, Outgoing, work_requests};
use core::cell::Cell;
use core::ops::Add;
use ringlane_dataplane::link::Body;
use ringlane_dataplane::replication::wire::{
    HEAD_BYTES_MAX, HEADER_BYTES, behind_head, records_head_bytes,
};
use std::collections::VecDeque;

/// What a link has counted since it began.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct EndpointCounters {
    /// Messages taken to be sent.
    pub sent_messages: u64,
    /// Messages handed on to the core.
    pub received_messages: u64,
    /// Writes posted that carry bytes.
    pub writes: u64,
    /// Writes posted that return credit.
    pub credits: u64,
    /// Receives posted.
    pub receives: u64,
    /// Calls that post writes: each rings the device's bell once.
    pub doorbells: u64,
    /// Calls that post receives.
    pub receive_doorbells: u64,
    /// Completions taken.
    pub completions: u64,
    /// Bytes written into the peer's ring.
    pub sent_bytes: u64,
    /// Bytes of heads that were copied into the stage.
    pub staged_head_bytes: u64,
    /// Bytes of bodies that were copied into the stage, because they are not in registered memory.
    pub staged_body_bytes: u64,
    /// Bytes copied into requests once more: writes of heads alone that are short.
    pub inlined_bytes: u64,
    /// Bytes copied out of the ring.
    pub received_bytes: u64,
    /// Bytes of bodies among them that were put together first, so that whoever keeps them copies them again.
    pub assembled_bytes: u64,
    /// Turns that ended with bytes left to send and no credit for them.
    pub exhausted: u64,
    /// Times that this node's writes came to the end of the peer's ring.
    pub wraps: u64,
}

impl Add for EndpointCounters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            sent_messages: self.sent_messages + other.sent_messages,
            received_messages: self.received_messages + other.received_messages,
            writes: self.writes + other.writes,
            credits: self.credits + other.credits,
            receives: self.receives + other.receives,
            doorbells: self.doorbells + other.doorbells,
            receive_doorbells: self.receive_doorbells + other.receive_doorbells,
            completions: self.completions + other.completions,
            sent_bytes: self.sent_bytes + other.sent_bytes,
            staged_head_bytes: self.staged_head_bytes + other.staged_head_bytes,
            staged_body_bytes: self.staged_body_bytes + other.staged_body_bytes,
            inlined_bytes: self.inlined_bytes + other.inlined_bytes,
            received_bytes: self.received_bytes + other.received_bytes,
            assembled_bytes: self.assembled_bytes + other.assembled_bytes,
            exhausted: self.exhausted + other.exhausted,
            wraps: self.wraps + other.wraps,
        }
    }
}

/// A message of which something is left to post.
#[derive(Debug)]
struct Waiting {
    /// Bytes of its head that are still in `heads`.
    head_bytes: usize,
    body: Option<Body>,
    /// Bytes of the body that are posted.
    body_posted: usize,
    /// Whether a part of the body is sent from where it is.
    is_borrowed: bool,
}

/// What a chain of writes holds until the device has done with it.
#[derive(Debug)]
struct Chain {
    /// Of its last write.
    id: u64,
    stage_end: u64,
    bodies: usize,
}

/// What a write was made of.
#[derive(Clone, Copy, Default, Debug)]
struct Gathered {
    bytes: u32,
    has_body: bool,
}

/// What to do with what has landed.
enum Look {
    /// It is whole, and records: the bytes of its head, and all of it.
    Records(usize, usize),
    /// Not enough has landed.
    Later,
    /// Copy as much as there is.
    Copy,
}

/// The stage as positions that only grow.
#[derive(Debug)]
struct Stage {
    bytes: u64,
    free_from: u64,
    used_from: u64,
}

impl Stage {
    /// Where the next bytes go, and how many fit there in one piece.
    fn room(&self) -> (u32, usize) {
        let at = self.free_from % self.bytes;
        let free = self.bytes - (self.free_from - self.used_from);
        (at as u32, free.min(self.bytes - at) as usize)
    }
}

/// One link.
#[derive(Debug)]
pub struct Endpoint<Q> {
    /// The first field, so that the queue has ended before what it reads is let go of.
    queue: Q,
    outgoing: Outgoing,
    incoming: Incoming,
    assembly: Assembly,
    /// The head of the message that is given out.
    head: [u8; HEAD_BYTES_MAX],
    /// Bytes of bodies that were copied out of the ring by those who keep them.
    lent_copied: Cell<u64>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    heads: VecDeque<u8>,
    stage: Stage,
    under_way: VecDeque<Chain>,
    /// Bodies that the device reads, in the order of the chains.
    held: VecDeque<Body>,
    /// Writes posted, and those that are known to be done.
    posted: u64,
    done: u64,
    sends_max: u64,
    peer_ring_bytes: u32,
    chain: Vec<Write>,
    slices: Vec<Slice>,
    completions: Vec<Completion>,
    counters: EndpointCounters,
}

impl<Q: Queue> Endpoint<Q> {
    /// A link over `queue`, which has its receives posted, to a ring of that many bytes.
    ///
    /// # Panics
    ///
    /// If a ring's size is out of bounds.
    pub fn new(queue: Q, peer_ring_bytes: u32, writes_max: u16, message_bytes_max: u32) -> Self {
        let stage = Stage { bytes: u64::from(queue.stage_bytes()), free_from: 0, used_from: 0 };
        let (sends, _) = work_requests(writes_max);
        Self {
            outgoing: Outgoing::new(peer_ring_bytes, writes_max),
            incoming: Incoming::new(queue.ring_bytes(), writes_max),
            assembly: Assembly::new(message_bytes_max),
            head: [0; HEAD_BYTES_MAX],
            lent_copied: Cell::new(0),
            queue,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            heads: VecDeque::new(),
            stage,
            under_way: VecDeque::new(),
            held: VecDeque::new(),
            posted: 0,
            done: 0,
            sends_max: u64::from(sends),
            peer_ring_bytes,
            chain: Vec::with_capacity(sends as usize),
            slices: Vec::new(),
            completions: Vec::with_capacity(COMPLETIONS_MAX),
            counters: EndpointCounters::default(),
        }
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> EndpointCounters {
        let received_bytes = self.counters.received_bytes + self.lent_copied.get();
        EndpointCounters { received_bytes, ..self.counters }
    }

    /// Bytes that were pushed and are not posted. The caller bounds them.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Whether a write of this node was reported as done, or one of the peer has landed: there is a way.
    #[must_use]
    pub fn has_worked(&self) -> bool {
        self.done != 0 || self.incoming.has_landed()
    }

    /// Takes a message: `head`, and the bytes of `body` behind it.
    pub fn push(&mut self, head: &[u8], body: Option<Body>) {
        self.waiting_bytes += head.len() + body.as_ref().map_or(0, Body::len);
        self.heads.extend(head);
        let head_bytes = head.len();
        self.waiting.push_back(Waiting { head_bytes, body, body_posted: 0, is_borrowed: false });
        self.counters.sent_messages += 1;
    }

    /// Takes completions and posts as many receives as were used up; how many completions there
    /// were. If it is [`COMPLETIONS_MAX`], there may be more.
    ///
    /// # Errors
    ///
    /// The link is over.
    pub fn poll(&mut self) -> Result<usize, DownCause> {
        let mut completions = core::mem::take(&mut self.completions);
        completions.clear();
        let mut result = self.queue.poll(&mut completions);
        let mut receives = 0;
        for completion in &completions {
            if result.is_err() {
                break;
            }
            self.counters.completions += 1;
            receives += u32::from(matches!(completion, Completion::Landed { .. }));
            result = self.on_completion(*completion);
        }
        let count = completions.len();
        self.completions = completions;
        result?;
        self.post_receives(receives)?;
        Ok(count)
    }

    fn post_receives(&mut self, count: u32) -> Result<(), DownCause> {
        if count != 0 {
            self.counters.receives += u64::from(count);
            self.counters.receive_doorbells += 1;
            self.queue.post_receives(count)?;
        }
        Ok(())
    }

    fn on_completion(&mut self, completion: Completion) -> Result<(), DownCause> {
        match completion {
            Completion::Done { id } => self.on_done(id),
            Completion::Landed { imm } => match Notice::from_imm(imm) {
                Notice::Landed(position) => self.incoming.on_landed(position)?,
                Notice::Credit(position) => self.outgoing.on_credit(position)?,
            },
            Completion::Failed(status) => return Err(status.cause()),
        }
        Ok(())
    }

    /// Lets go of what the writes up to this one held.
    fn on_done(&mut self, id: u64) {
        while let Some(chain) = self.under_way.pop_front_if(|chain| chain.id <= id) {
            self.done = chain.id;
            self.stage.used_from = chain.stage_end;
            self.held.drain(..chain.bodies);
        }
    }

    /// The next message of the peer; `None` if none is whole.
    ///
    /// # Errors
    ///
    /// What the peer wrote is no message: the link is over.
    pub fn next_message(&mut self) -> Result<Option<Received<'_, Q>>, DownCause> {
        if self.assembly.is_empty() {
            match self.look()? {
                Look::Records(head_bytes, bytes) => return Ok(Some(self.lend(head_bytes, bytes))),
                Look::Later => return Ok(None),
                Look::Copy => {}
            }
        }
        while self.assembly.lacks()? != 0 {
            let room = self.assembly.room()?;
            let bytes = (room.len() as u64).min(self.incoming.waiting_bytes());
            if bytes == 0 {
                return Ok(None);
            }
            copy_out(&self.queue, self.incoming.taken(), &mut room[..bytes as usize]);
            self.assembly.fill(bytes as usize);
            self.incoming.take(bytes);
            self.counters.received_bytes += bytes;
        }
        let message = self.assembly.take();
        self.counters.received_messages += 1;
        self.counters.assembled_bytes += behind_head(message) as u64;
        Ok(Some(Received::Whole(message)))
    }

    /// Looks at the header of the message that is next, in a copy of it.
    fn look(&mut self) -> Result<Look, DownCause> {
        let landed = self.incoming.waiting_bytes();
        let header = &mut self.head[..HEADER_BYTES.min(landed as usize)];
        if header.is_empty() {
            return Ok(Look::Later);
        }
        copy_out(&self.queue, self.incoming.taken(), header);
        self.counters.received_bytes += header.len() as u64;
        let bytes = self.assembly.length_of(header)?.unwrap_or(HEADER_BYTES);
        let head_bytes = records_head_bytes(header).filter(|head_bytes| *head_bytes < bytes);
        let is_whole = bytes as u64 <= landed;
        let has_header = header.len() == HEADER_BYTES;
        Ok(match head_bytes {
            Some(head_bytes) if is_whole => Look::Records(head_bytes, bytes),
            None if has_header => Look::Copy,
            _ if self.incoming.may_wait(bytes as u64) => Look::Later,
            _ => Look::Copy,
        })
    }

    /// Gives out records whose header was just copied: the rest of their head is copied, too, and their body is left where it is.
    fn lend(&mut self, head_bytes: usize, bytes: usize) -> Received<'_, Q> {
        let position = self.incoming.taken();
        let rest = &mut self.head[HEADER_BYTES..head_bytes];
        copy_out(&self.queue, position + HEADER_BYTES as u64, rest);
        self.incoming.take(bytes as u64);
        self.counters.received_bytes += (head_bytes - HEADER_BYTES) as u64;
        self.counters.received_messages += 1;
        let (start, bytes) = (position + head_bytes as u64, bytes - head_bytes);
        let body = InRing::new(&self.queue, start, bytes, &self.lent_copied);
        Received::Records(&self.head[..head_bytes], body)
    }

    /// Posts what may be posted, and credit if it is due, with one call.
    ///
    /// # Errors
    ///
    /// The link is over.
    pub fn flush(&mut self) -> Result<(), DownCause> {
        self.chain.clear();
        self.slices.clear();
        if self.may_post(0)
            && let Some(credit) = self.incoming.credit()
        {
            self.counters.credits += 1;
            self.add_write(0, 0, Gathered::default(), credit);
        }
        let mut bodies = 0;
        while self.waiting_bytes != 0 && self.may_post(CREDITS_MAX) {
            let Some(room) = self.outgoing.room(self.waiting_bytes as u64) else {
                self.counters.exhausted += 1;
                break;
            };
            let first = self.slices.len();
            let gathered = self.gather(room.bytes as usize, &mut bodies);
            if gathered.bytes == 0 {
                break;
            }
            let notice = self.outgoing.write(gathered.bytes);
            self.count_write(room.at, gathered.bytes);
            self.add_write(room.at, self.slices.len() - first, gathered, notice);
        }
        self.post(bodies)
    }

    /// Whether the device takes one more write, with `reserved` left over.
    fn may_post(&self, reserved: u32) -> bool {
        self.posted - self.done + u64::from(reserved) < self.sends_max
    }

    fn add_write(&mut self, at: u32, slices: usize, gathered: Gathered, notice: Notice) {
        self.posted += 1;
        let Gathered { bytes, has_body } = gathered;
        // A short head goes with its request. A body is never copied for that.
        let inline = 0 < bytes && bytes <= self.queue.inline_max() && !has_body;
        self.counters.inlined_bytes += if inline { u64::from(bytes) } else { 0 };
        let (id, slices, imm) = (self.posted, slices as u16, notice.to_imm());
        self.chain.push(Write { id, at, bytes, slices, imm, inline, signalled: false });
    }

    fn count_write(&mut self, at: u32, bytes: u32) {
        self.waiting_bytes -= bytes as usize;
        self.counters.writes += 1;
        self.counters.sent_bytes += u64::from(bytes);
        self.counters.wraps += u64::from(at + bytes == self.peer_ring_bytes);
    }

    fn post(&mut self, bodies: usize) -> Result<(), DownCause> {
        let Some(last) = self.chain.last_mut() else { return Ok(()) };
        // One completion for all of them: a later one vouches for those before it.
        last.signalled = true;
        let (id, stage_end) = (last.id, self.stage.free_from);
        self.under_way.push_back(Chain { id, stage_end, bodies });
        self.counters.doorbells += 1;
        self.queue.post(&self.chain, &self.slices)
    }

    /// Collects up to `bytes_max` bytes of what waits as slices of one write.
    fn gather(&mut self, bytes_max: usize, bodies: &mut usize) -> Gathered {
        let (first, most) = (self.slices.len(), usize::from(self.queue.slices_max()));
        let (mut gathered, mut has_body) = (0, false);
        while gathered < bytes_max && self.slices.len() - first < most {
            let Some(front) = self.waiting.front() else { break };
            let left = bytes_max - gathered;
            let is_body = front.head_bytes == 0;
            let bytes = match is_body {
                true => self.gather_body(left, first),
                false => self.gather_head(left, first),
            };
            if bytes == 0 {
                break;
            }
            gathered += bytes;
            has_body |= is_body;
            *bodies += self.end_message();
        }
        Gathered { bytes: gathered as u32, has_body }
    }

    fn gather_head(&mut self, bytes_max: usize, first: usize) -> usize {
        let Some(front) = self.waiting.front_mut() else { return 0 };
        let (at, room) = self.stage.room();
        let head = self.heads.as_slices().0;
        let bytes = front.head_bytes.min(bytes_max).min(room).min(head.len());
        self.queue.stage(at, &head[..bytes]);
        self.heads.drain(..bytes);
        front.head_bytes -= bytes;
        self.counters.staged_head_bytes += bytes as u64;
        self.add_staged(at, bytes, first);
        bytes
    }

    fn gather_body(&mut self, bytes_max: usize, first: usize) -> usize {
        let Some(front) = self.waiting.front_mut() else { return 0 };
        let Some(body) = &front.body else { return 0 };
        let rest = &body.bytes()[front.body_posted..];
        let piece = &rest[..rest.len().min(bytes_max)];
        if let Some(slice) = self.queue.slice_of(piece, body.arena()) {
            front.body_posted += piece.len();
            front.is_borrowed = true;
            self.slices.push(slice);
            return slice.bytes as usize;
        }
        let (at, room) = self.stage.room();
        let bytes = piece.len().min(room);
        self.queue.stage(at, &piece[..bytes]);
        front.body_posted += bytes;
        self.counters.staged_body_bytes += bytes as u64;
        self.add_staged(at, bytes, first);
        bytes
    }

    /// Adds bytes of the stage to the write that began with slice `first`.
    fn add_staged(&mut self, at: u32, bytes: usize, first: usize) {
        self.stage.free_from += bytes as u64;
        let bytes = bytes as u32;
        match self.slices[first..].last_mut() {
            _ if bytes == 0 => {}
            Some(last) if last.region == 0 && last.at + last.bytes == at => last.bytes += bytes,
            _ => self.slices.push(Slice { region: 0, at, bytes }),
        }
    }

    /// Takes the first message out if nothing of it is left to post; 1 if its body has to be held.
    fn end_message(&mut self) -> usize {
        let is_over = |front: &mut Waiting| {
            let body = front.body.as_ref().map_or(0, Body::len);
            front.head_bytes == 0 && front.body_posted == body
        };
        let Some(front) = self.waiting.pop_front_if(is_over) else { return 0 };
        let Some(body) = front.body.filter(|_| front.is_borrowed) else { return 0 };
        self.held.push_back(body);
        1
    }

    /// Asks for one notice at the next completion. Completions that came before give none, so that
    /// [`Endpoint::poll`] has to be called once after it.
    ///
    /// # Errors
    ///
    /// The link is over.
    pub fn arm(&mut self) -> Result<(), DownCause> {
        self.queue.arm()
    }

    /// Whether something waits that only credit or completions of earlier writes can move.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.waiting_bytes != 0
    }

    /// Takes the peer's right to write. When it returns, no byte of the ring changes any more, and
    /// what had landed and was not read is gone.
    ///
    /// # Errors
    ///
    /// The device did not do it: the peer may still write.
    pub fn revoke(mut self) -> Result<EndpointCounters, DownCause> {
        self.queue.revoke()?;
        Ok(self.counters())
    }

    /// The queue: to ask what it is about; and for tests.
    pub fn queue_mut(&mut self) -> &mut Q {
        &mut self.queue
    }
}

#[cfg(test)]
#[path = "endpoint_tests.rs"]
mod tests;
