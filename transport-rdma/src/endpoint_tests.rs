//! Links over queues in memory: order, credits, memory that is used again, and peers that lie.

use super::*;
use crate::error::{DownCause, WorkStatus};
use crate::fake::{FakeQueue, Wire};
use crate::ring::RingError;
use proptest::prelude::*;
use std::rc::Rc;

const RING_BYTES: u32 = 4096;
const STAGE_BYTES: u32 = 4096;
const WRITES_MAX: u16 = 8;

/// A body: a part of memory that may be registered.
#[derive(Clone, Debug)]
struct Part(Rc<Vec<u8>>, usize, usize);

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.0[self.1..self.1 + self.2]
    }
}

type Link = Endpoint<FakeQueue, Part>;

fn pair() -> (Wire, Link, Link) {
    let (wire, first, second) = Wire::new(RING_BYTES, STAGE_BYTES, WRITES_MAX);
    let link = |queue| Endpoint::new(queue, RING_BYTES, WRITES_MAX, 1 << 20);
    (wire, link(first), link(second))
}

/// A message's head: its length, then a number.
fn head(bytes: usize, number: u32) -> Vec<u8> {
    let mut head = (bytes as u32).to_le_bytes().to_vec();
    head.extend(number.to_le_bytes());
    head.resize(24, 0xee);
    head
}

/// One turn of a link; the messages that came.
fn turn(link: &mut Link) -> Result<Vec<Vec<u8>>, DownCause> {
    let mut messages = Vec::new();
    while link.poll()? == COMPLETIONS_MAX {}
    while let Some(message) = link.next_message()? {
        messages.push(message.to_vec());
    }
    link.flush()?;
    Ok(messages)
}

fn carry_all(wire: &Wire) {
    while wire.carry(0) | wire.carry(1) {}
}

#[test]
fn one_turn_is_one_call_and_one_completion() {
    let (wire, mut first, mut second) = pair();
    for number in 0..10 {
        first.push(&head(24, number), None);
    }
    first.flush().expect("up");
    let counters = first.counters();
    assert_eq!((counters.writes, counters.doorbells, wire.posted(0)), (1, 1, 1));
    carry_all(&wire);
    let messages = turn(&mut second).expect("up");
    let numbers: Vec<u8> = messages.iter().map(|message| message[4]).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(turn(&mut first), Ok(Vec::new()));
    assert_eq!(first.counters().completions, 1);
}

#[test]
fn registered_bodies_are_not_copied_and_kept_until_they_are_sent() {
    let (wire, mut first, mut second) = pair();
    let memory = Rc::new((0..=255).cycle().take(2048).collect::<Vec<u8>>());
    wire.register(0, Rc::clone(&memory));
    first.push(&head(24 + 1000, 1), Some(Part(Rc::clone(&memory), 8, 1000)));
    first.flush().expect("up");
    assert_eq!(Rc::strong_count(&memory), 3, "test, queue and the write under way");
    assert_eq!(first.counters().staged_body_bytes, 0);
    carry_all(&wire);
    assert_eq!(turn(&mut second).expect("up")[0][24..], memory[8..1008]);
    turn(&mut first).expect("up");
    assert_eq!(Rc::strong_count(&memory), 2, "the device has done with it");
}

#[test]
fn other_bodies_are_copied_and_counted() {
    let (wire, mut first, mut second) = pair();
    let memory = Rc::new(vec![7; 1000]);
    first.push(&head(1024, 1), Some(Part(Rc::clone(&memory), 0, 1000)));
    first.flush().expect("up");
    assert_eq!(Rc::strong_count(&memory), 1, "copied, and let go of");
    assert_eq!(first.counters().staged_body_bytes, 1000);
    carry_all(&wire);
    assert_eq!(turn(&mut second).expect("up")[0].len(), 1024);
}

#[test]
fn a_message_longer_than_the_ring_comes_through() {
    let (wire, mut first, mut second) = pair();
    let memory = Rc::new((0..100_000_u32).map(|n| (n % 251) as u8).collect::<Vec<u8>>());
    first.push(&head(24 + 100_000, 1), Some(Part(Rc::clone(&memory), 0, 100_000)));
    first.push(&head(24, 2), None);
    let mut messages = Vec::new();
    for _ in 0..1000 {
        assert!(turn(&mut first).expect("up").is_empty());
        carry_all(&wire);
        messages.extend(turn(&mut second).expect("up"));
        carry_all(&wire);
    }
    assert_eq!(messages.len(), 2);
    assert_eq!(messages[0][24..], memory[..]);
    assert!(20 < first.counters().wraps);
}

#[test]
fn without_credit_nothing_is_written_and_it_goes_on_with_it() {
    let (wire, mut first, mut second) = pair();
    let memory = Rc::new(vec![1; 6000]);
    first.push(&head(6024, 1), Some(Part(memory, 0, 6000)));
    for _ in 0..10 {
        turn(&mut first).expect("up");
        carry_all(&wire);
    }
    assert_eq!(first.counters().sent_bytes, 4096, "a whole ring");
    assert!(first.is_blocked() && 0 < first.counters().exhausted);
    assert!(turn(&mut second).expect("up").is_empty());
    assert_eq!(second.counters().credits, 1);
    carry_all(&wire);
    turn(&mut first).expect("up");
    carry_all(&wire);
    assert_eq!(turn(&mut second).expect("up").len(), 1);
}

#[test]
fn a_peer_that_claims_what_it_did_not_write_ends_the_link() {
    let landed = |position| Completion::Landed { imm: Notice::Landed(position).to_imm() };
    let credit = |position| Completion::Landed { imm: Notice::Credit(position).to_imm() };
    let cases = [
        (landed(0), RingError::Overrun),
        (landed(RING_BYTES + 1), RingError::Overrun),
        (landed(u32::MAX >> 1), RingError::Overrun),
        (credit(1), RingError::Credit),
    ];
    for (completion, error) in cases {
        let (wire, _first, mut second) = pair();
        wire.report(1, completion);
        assert_eq!(turn(&mut second), Err(DownCause::Protocol(error)), "{completion:?}");
    }
}

#[test]
fn a_length_that_no_message_has_ends_the_link() {
    let (wire, _first, mut second) = pair();
    wire.scribble(1, 0, &u32::MAX.to_le_bytes());
    wire.report(1, Completion::Landed { imm: Notice::Landed(8).to_imm() });
    let error = RingError::MessageBytes(u32::MAX);
    assert_eq!(turn(&mut second), Err(DownCause::Protocol(error)));
}

#[test]
fn a_message_is_a_copy_that_the_peer_cannot_change() {
    let (wire, mut first, mut second) = pair();
    first.push(&head(24, 0x0101), None);
    first.flush().expect("up");
    carry_all(&wire);
    second.poll().expect("up");
    let wire_too = wire.clone();
    let message = second.next_message().expect("up").expect("a message");
    wire_too.scribble(1, 0, &[0xff; 24]);
    assert_eq!(message, head(24, 0x0101));
}

#[test]
fn the_first_failure_is_the_cause() {
    for (status, cause) in [
        (12, DownCause::Silent),
        (10, DownCause::Refused(WorkStatus(10))),
        (13, DownCause::NotReady),
        (5, DownCause::Flushed),
        (4, DownCause::Work(WorkStatus(4))),
    ] {
        let (wire, mut first, _second) = pair();
        wire.report(0, Completion::Failed(WorkStatus(status)));
        wire.report(0, Completion::Failed(WorkStatus::WR_FLUSH));
        assert_eq!(turn(&mut first), Err(cause));
    }
}

#[test]
fn after_a_revocation_a_write_fails() {
    let (wire, mut first, second) = pair();
    second.revoke().expect("revoked");
    first.push(&head(24, 1), None);
    first.flush().expect("up");
    carry_all(&wire);
    assert_eq!(turn(&mut first), Err(DownCause::Silent));
}

/// What a run does next.
#[derive(Clone, Debug)]
enum Step {
    /// A side sends a message with a body of that many words, from registered memory or not.
    Push(usize, usize, bool),
    /// A side takes its turn.
    Turn(usize),
    /// So many writes of a side happen.
    Carry(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let side = 0..2_usize;
    prop_oneof![
        3 => (side.clone(), prop_oneof![0..40_usize, 0..900_usize], any::<bool>())
            .prop_map(|(side, words, registered)| Step::Push(side, words, registered)),
        4 => side.clone().prop_map(Step::Turn),
        4 => (side, 1..6_usize).prop_map(|(side, count)| Step::Carry(side, count)),
    ]
}

/// A run: both links, what each has sent and has received.
struct Run {
    wire: Wire,
    links: [Link; 2],
    memory: Rc<Vec<u8>>,
    sent: [Vec<Vec<u8>>; 2],
    received: [usize; 2],
}

impl Run {
    fn new() -> Self {
        let (wire, first, second) = pair();
        let memory = Rc::new((0..8192_u32).map(|n| (n % 249) as u8).collect::<Vec<u8>>());
        for side in 0..2 {
            wire.register(side, Rc::clone(&memory));
        }
        let links = [first, second];
        Self { wire, links, memory, sent: [Vec::new(), Vec::new()], received: [0; 2] }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Push(side, words, registered) => self.push(side, 8 * words, registered),
            Step::Turn(side) => self.turn(side),
            Step::Carry(side, count) => {
                for _ in 0..count {
                    self.wire.carry(side);
                }
            }
        }
    }

    fn push(&mut self, side: usize, bytes: usize, registered: bool) {
        let number = self.sent[side].len() as u32;
        let head = head(24 + bytes, number);
        let start = number as usize % 900;
        let shared = Part(Rc::clone(&self.memory), start, bytes);
        let body = match registered {
            true => shared,
            false => Part(Rc::new(shared.as_ref().to_vec()), 0, bytes),
        };
        self.sent[side].push([&head, body.as_ref()].concat());
        self.links[side].push(&head, Some(body));
    }

    /// What came is what the other side sent next, unchanged.
    fn turn(&mut self, side: usize) {
        for message in turn(&mut self.links[side]).expect("both keep the rules") {
            let expected = &self.sent[1 - side][self.received[side]];
            assert_eq!(&message, expected);
            self.received[side] += 1;
        }
    }

    /// Everything that was sent arrives once both go on.
    fn finish(mut self) {
        for _ in 0..4000 {
            for side in 0..2 {
                self.turn(side);
            }
            carry_all(&self.wire);
        }
        for side in 0..2 {
            assert_eq!(self.received[side], self.sent[1 - side].len(), "side {side}");
            assert_eq!(self.links[side].waiting_bytes(), 0);
            assert!(self.links[side].held.is_empty() && self.links[side].heads.is_empty());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the order of turns and writes: no message lost, doubled, changed or out of order, no
    /// write without a receive or beyond the ring (the queue checks), memory kept while it is read.
    #[test]
    fn all_messages_arrive_in_order_and_unchanged(steps in prop::collection::vec(step(), 1..200)) {
        let mut run = Run::new();
        for step in &steps {
            run.apply(step);
        }
        run.finish();
    }

    /// Completions that a peer makes up never panic, and never give a message of a length that none
    /// may have.
    #[test]
    fn made_up_completions_are_refused_or_harmless(
        told in prop::collection::vec((any::<u32>(), 0..4096_usize, any::<u64>()), 1..40),
    ) {
        let (wire, _first, mut second) = pair();
        for (imm, at, bytes) in told {
            let at = at.min(4096 - 8);
            wire.scribble(1, at, &bytes.to_le_bytes());
            let imm = if imm % 3 == 0 { imm } else { imm % 512 };
            wire.report(1, Completion::Landed { imm });
            if turn(&mut second).is_err() {
                return Ok(());
            }
        }
    }
}
