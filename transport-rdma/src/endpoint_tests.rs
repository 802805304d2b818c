//! Links over queues in memory: order, credits, memory that is used again, and peers that lie.

use super::*;
use crate::error::{DownCause, WorkStatus};
use crate::fake::{FakeQueue, Wire};
use crate::ring::RingError;
use proptest::prelude::*;
use ringlane_dataplane::batch::{BatchPool, Foreign};
use ringlane_dataplane::ids::PartitionId;
use ringlane_dataplane::message::MessageMeter;
use ringlane_dataplane::replication::message::{Append, Envelope, Message, Run};
use ringlane_dataplane::replication::wire::decode_records;

const RING_BYTES: u32 = 4096;
const STAGE_BYTES: u32 = 4096;
const WRITES_MAX: u16 = 8;

type Link = Endpoint<FakeQueue>;

/// Where bodies come from.
fn pool() -> BatchPool {
    BatchPool::new(MessageMeter::leaked())
}

/// A body of so many bytes, a multiple of 8, that begin with `first` and go up.
fn body(pool: &mut BatchPool, bytes: usize, first: usize) -> Body {
    let bytes: Vec<u8> = (first..first + bytes).map(|n| (n % 251) as u8).collect();
    Body::new(pool.copy_records(&bytes, 1))
}

/// All bytes of a message that was received.
fn whole<Q: Queue>(received: &Received<'_, Q>) -> Vec<u8> {
    match received {
        Received::Whole(message) => message.to_vec(),
        Received::Records(head, body) => body.behind(head),
    }
}

/// The head of records with a body of so many bytes.
fn records_head(body_bytes: usize) -> Vec<u8> {
    let run = Run { records: 1, body_bytes: body_bytes as u32, epoch: 1, ..Run::default() };
    let message = Message::Append(Append { run, ..Append::default() });
    let mut head = Vec::new();
    Envelope { partition: PartitionId(0), epoch: 1, message }.encode(&mut head);
    head
}

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
        messages.push(whole(&message));
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
fn bodies_in_arenas_are_not_copied_and_kept_until_they_are_sent() {
    let (wire, mut first, mut second) = pair();
    let mut pool = pool();
    let body = body(&mut pool, 1000, 3);
    let batch = body.batch().clone();
    first.push(&head(24 + 1000, 1), Some(body.clone()));
    first.flush().expect("up");
    assert_eq!(triomphe::Arc::count(&batch), 3, "test, body and the write under way");
    let counters = first.counters();
    assert_eq!((counters.staged_body_bytes, counters.staged_head_bytes), (0, 24));
    carry_all(&wire);
    assert_eq!(turn(&mut second).expect("up")[0][24..], *body.bytes());
    turn(&mut first).expect("up");
    assert_eq!(triomphe::Arc::count(&batch), 2, "the device has done with it");
}

#[test]
fn a_batch_is_not_used_again_while_the_device_may_read_it() {
    let (wire, mut first, mut second) = pair();
    let mut pool = pool();
    let sent = body(&mut pool, 2000, 5);
    let (bytes, batch) = (sent.bytes().to_vec(), sent.batch().clone());
    first.push(&head(2024, 1), Some(sent));
    first.flush().expect("up");
    pool.give_out(batch);
    for first in 0..100 {
        let other = body(&mut pool, 2000, first).batch().clone();
        pool.give_out(other);
    }
    carry_all(&wire);
    assert_eq!(turn(&mut second).expect("up")[0][24..], bytes);
    assert_eq!(pool.read_count(), 1);
    turn(&mut first).expect("up");
    pool.look(8);
    assert_eq!(pool.read_count(), 0);
}

#[test]
fn a_link_that_ends_lets_go_of_what_was_under_way() {
    let (_wire, mut first, _second) = pair();
    let mut pool = pool();
    let body = body(&mut pool, 2000, 5);
    let batch = body.batch().clone();
    first.push(&head(2024, 1), Some(body.clone()));
    first.push(&head(2024, 2), Some(body));
    first.flush().expect("up");
    assert_eq!(triomphe::Arc::count(&batch), 3);
    first.revoke().expect("revoked");
    assert_eq!(triomphe::Arc::count(&batch), 1);
}

#[test]
fn other_bodies_are_copied_and_counted() {
    let (wire, mut first, mut second) = pair();
    wire.limit_arenas(0, 1);
    let mut pool = pool();
    let [small, large] = [1000, 3000].map(|bytes| body(&mut pool, bytes, 0));
    let batch = large.batch().clone();
    first.push(&head(1024, 1), Some(small));
    first.push(&head(3024, 2), Some(large));
    first.flush().expect("up");
    assert_eq!(triomphe::Arc::count(&batch), 1, "copied, and let go of");
    assert_eq!(first.counters().staged_body_bytes, 3000);
    assert!(wire.take_refusal(0).is_some() && wire.take_refusal(0).is_none());
    carry_all(&wire);
    let messages = turn(&mut second).expect("up");
    assert_eq!((messages[0].len(), &messages[1][24..]), (1024, batch.body()));
}

#[test]
fn short_heads_go_with_their_request_and_bodies_never() {
    let (wire, mut first, _second) = pair();
    let mut pool = pool();
    first.push(&head(24, 1), None);
    first.flush().expect("up");
    assert_eq!(first.counters().inlined_bytes, 24);
    first.push(&head(24 + 16, 1), Some(body(&mut pool, 16, 0)));
    first.flush().expect("up");
    first.push(&head(24, 2), None);
    first.push(&head(48, 3), Some(body(&mut pool, 24, 0)));
    first.flush().expect("up");
    assert_eq!((first.counters().inlined_bytes, wire.posted(0)), (24, 3));
}

#[test]
fn several_bodies_go_with_one_write_and_many_with_several() {
    let (wire, mut first, mut second) = pair();
    let mut pool = pool();
    for number in 0..4 {
        first.push(&head(24 + 400, number), Some(body(&mut pool, 400, number as usize)));
    }
    first.flush().expect("up");
    let counters = first.counters();
    assert_eq!((counters.writes, counters.doorbells), (2, 1), "two heads and bodies a write");
    carry_all(&wire);
    let messages = turn(&mut second).expect("up");
    assert!(messages.iter().zip(0..).all(|(message, number)| message[24] == number));
    turn(&mut first).expect("up");
    assert_eq!(first.counters().completions, 1);
    assert!(first.held.is_empty());
}

#[test]
fn records_are_copied_once_out_of_the_ring() {
    let (wire, mut first, mut second) = pair();
    let mut pool = pool();
    let mut sent = Vec::new();
    for number in 0..40 {
        let body = body(&mut pool, 512, number);
        let head = records_head(512);
        sent.push([&head, body.bytes()].concat());
        first.push(&head, Some(body));
        first.flush().expect("up");
        carry_all(&wire);
        assert_eq!(turn(&mut second).expect("up"), sent[number..]);
        carry_all(&wire);
        turn(&mut first).expect("up");
    }
    assert!(4 < first.counters().wraps, "bodies have gone around the end");
    let bytes: usize = sent.iter().map(Vec::len).sum();
    let counters = second.counters();
    assert_eq!((counters.received_bytes, counters.assembled_bytes), (bytes as u64, 0));
    assert_eq!(first.counters().staged_body_bytes, 0);
}

#[test]
fn records_that_nobody_keeps_are_not_copied() {
    let (wire, mut first, mut second) = pair();
    first.push(&records_head(1024), Some(body(&mut pool(), 1024, 0)));
    first.flush().expect("up");
    carry_all(&wire);
    second.poll().expect("up");
    let received = second.next_message().expect("up").expect("a message");
    assert!(matches!(received, Received::Records(_, ref body) if body.len() == 1024));
    assert_eq!(second.counters().received_bytes, 80);
    assert!(matches!(second.next_message(), Ok(None)));
}

#[test]
fn records_of_several_writes_wait_in_the_ring_until_they_are_whole() {
    let (wire, mut first, mut second) = pair();
    let mut pool = pool();
    first.push(&records_head(1904), Some(body(&mut pool, 1904, 7)));
    first.flush().expect("up");
    assert_eq!(wire.posted(0), 2, "a quarter of the ring at a time");
    wire.carry(0);
    second.poll().expect("up");
    assert!(matches!(second.next_message(), Ok(None)));
    wire.carry(0);
    let messages = turn(&mut second).expect("up");
    assert_eq!(messages[0][80..], *body(&mut pool, 1904, 7).bytes());
    assert_eq!(second.counters().assembled_bytes, 0);
}

#[test]
fn records_too_long_to_wait_for_are_put_together_and_counted() {
    let (wire, mut first, mut second) = pair();
    let mut pool = pool();
    first.push(&records_head(2048), Some(body(&mut pool, 2048, 7)));
    first.push(&records_head(8), Some(body(&mut pool, 8, 1)));
    first.flush().expect("up");
    let mut messages = Vec::new();
    while wire.carry(0) {
        messages.extend(turn(&mut second).expect("up"));
    }
    assert_eq!(messages[0][80..], *body(&mut pool, 2048, 7).bytes());
    assert_eq!(messages[1][80..], *body(&mut pool, 8, 1).bytes());
    assert_eq!(second.counters().assembled_bytes, 2048);
}

#[test]
fn records_of_many_small_writes_do_not_stop_their_sender() {
    let (wire, _first, mut second) = pair();
    let message = [records_head(64), vec![9; 64]].concat();
    for (piece, at) in message.chunks(24).zip((0..).step_by(24)) {
        wire.scribble(1, at, piece);
        let end = Notice::Landed((at + piece.len()) as u32);
        wire.report(1, Completion::Landed { imm: end.to_imm() });
        let messages = turn(&mut second).expect("up");
        assert_eq!(messages.len(), usize::from(at + piece.len() == message.len()));
    }
    assert_eq!(
        second.counters().assembled_bytes,
        64,
        "six of eight writes are too many to wait for"
    );
    assert!(0 < second.counters().credits);
}

#[test]
fn a_body_that_the_peer_changes_is_copied_as_it_is_then_and_a_head_is_not() {
    let (wire, mut first, mut second) = pair();
    first.push(&records_head(64), Some(body(&mut pool(), 64, 0)));
    first.flush().expect("up");
    carry_all(&wire);
    second.poll().expect("up");
    let wire_too = wire.clone();
    let received = second.next_message().expect("up").expect("a message");
    wire_too.scribble(1, 0, &[0xff; 144]);
    let Received::Records(head, body) = received else { panic!("records") };
    assert_eq!(head, records_head(64));
    let (_, arrived) = decode_records(head, &body).expect("its head is good");
    let copy = pool().copy_arrived(arrived, 1);
    wire_too.scribble(1, 80, &[0; 64]);
    assert_eq!(copy.body(), [0xff; 64]);
}

#[test]
fn a_message_longer_than_the_ring_comes_through() {
    let (wire, mut first, mut second) = pair();
    let body = body(&mut pool(), 100_000, 0);
    first.push(&head(24 + 100_000, 1), Some(body.clone()));
    first.push(&head(24, 2), None);
    let mut messages = Vec::new();
    for _ in 0..1000 {
        assert!(turn(&mut first).expect("up").is_empty());
        carry_all(&wire);
        messages.extend(turn(&mut second).expect("up"));
        carry_all(&wire);
    }
    assert_eq!(messages.len(), 2);
    assert_eq!(messages[0][24..], *body.bytes());
    assert!(20 < first.counters().wraps);
    assert_eq!(first.counters().staged_body_bytes, 100_000, "it has memory of its own");
}

#[test]
fn without_credit_nothing_is_written_and_it_goes_on_with_it() {
    let (wire, mut first, mut second) = pair();
    first.push(&head(6024, 1), Some(body(&mut pool(), 6000, 0)));
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
    let received = second.next_message().expect("up").expect("a message");
    wire_too.scribble(1, 0, &[0xff; 24]);
    assert!(matches!(received, Received::Whole(message) if message == head(24, 0x0101)));
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
    /// A side sends a message with a body of that many words: records or another, from registered memory or not.
    Push(usize, usize, bool, bool),
    /// A side takes its turn.
    Turn(usize),
    /// So many writes of a side happen.
    Carry(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let side = 0..2_usize;
    prop_oneof![
        3 => (side.clone(), prop_oneof![0..40_usize, 0..900_usize], any::<(bool, bool)>()).prop_map(
            |(side, words, (records, registered))| Step::Push(side, words, records, registered)
        ),
        4 => side.clone().prop_map(Step::Turn),
        4 => (side, 1..6_usize).prop_map(|(side, count)| Step::Carry(side, count)),
    ]
}

/// An exchange: both links, what each has sent and has received.
struct Exchange {
    wire: Wire,
    links: [Link; 2],
    /// Those whose arenas are registered, and others.
    pools: [BatchPool; 2],
    sent: [Vec<Vec<u8>>; 2],
    received: [usize; 2],
}

impl Exchange {
    fn new() -> Self {
        let (wire, mut first, mut second) = pair();
        let mut pools = [pool(), pool()];
        for (side, link) in [&mut first, &mut second].into_iter().enumerate() {
            wire.limit_arenas(side, 2);
            for bytes in [8, 4000] {
                let body = body(&mut pools[0], bytes, 0);
                link.queue_mut().slice_of(body.bytes(), body.arena()).expect("registered");
            }
        }
        Self {
            wire,
            links: [first, second],
            pools,
            sent: [Vec::new(), Vec::new()],
            received: [0; 2],
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Push(side, words, records, registered) => {
                self.push(side, 8 * words, records, registered);
            }
            Step::Turn(side) => self.turn(side),
            Step::Carry(side, count) => {
                for _ in 0..count {
                    self.wire.carry(side);
                }
            }
        }
    }

    fn push(&mut self, side: usize, bytes: usize, records: bool, registered: bool) {
        let number = self.sent[side].len();
        let head = match records && bytes != 0 {
            true => records_head(bytes),
            false => head(24 + bytes, number as u32),
        };
        let pool = &mut self.pools[usize::from(!registered)];
        let body = body(pool, bytes, number);
        pool.give_out(body.batch().clone());
        pool.look(100);
        self.sent[side].push([&head, body.bytes()].concat());
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
        let mut run = Exchange::new();
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
