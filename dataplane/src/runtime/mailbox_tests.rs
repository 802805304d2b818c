//! Tests of the mailbox against a plain queue, alone and with two threads.

use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc as StdArc;
use std::sync::atomic::{AtomicUsize as StdAtomicUsize, Ordering as StdOrdering};
use std::thread;

/// Counts how many of its kind are alive, through a heap allocation that leak checkers see.
#[derive(Debug)]
struct Counted {
    number: u64,
    _alive: StdArc<Alive>,
    _heap: Box<u64>,
}

#[derive(Debug, Default)]
struct Alive(StdAtomicUsize);

fn counted(alive: &StdArc<Alive>, number: u64) -> Counted {
    alive.0.fetch_add(1, StdOrdering::Relaxed);
    Counted { number, _alive: StdArc::clone(alive), _heap: Box::new(number) }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self._alive.0.fetch_sub(1, StdOrdering::Relaxed);
    }
}

impl Alive {
    fn count(&self) -> usize {
        self.0.load(StdOrdering::Relaxed)
    }
}

#[test]
fn capacity_is_a_power_of_two_and_at_least_two() {
    for (asked, got) in [(0, 2), (1, 2), (2, 2), (3, 4), (64, 64), (65, 128), (4096, 4096)] {
        let (mut sender, _receiver) = mailbox::<u8>(asked);
        assert_eq!(sender.capacity(), got, "{asked}");
        assert_eq!(sender.free(), got, "{asked}");
    }
}

#[test]
fn a_push_is_invisible_until_published() {
    let (mut sender, mut receiver) = mailbox(4);
    assert!(!sender.publish(), "nothing is new");
    sender.push(1).expect("room");
    assert!(receiver.is_empty());
    assert_eq!(receiver.pop(), None);
    assert!(sender.publish());
    assert!(!sender.publish(), "nothing is new any more");
    assert!(receiver.has_mail());
    assert_eq!(receiver.pop(), Some(1));
    assert_eq!(receiver.pop(), None);
}

#[test]
fn a_full_mailbox_returns_the_item() {
    let (mut sender, mut receiver) = mailbox(2);
    assert_eq!(sender.push(1), Ok(()));
    assert_eq!(sender.push(2), Ok(()));
    assert_eq!(sender.push(3), Err(3), "unpublished items take room");
    sender.publish();
    assert_eq!(sender.push(3), Err(3));
    assert_eq!(receiver.pop(), Some(1));
    assert_eq!(sender.push(3), Ok(()));
    assert_eq!(sender.push(4), Err(4));
}

#[test]
fn slots_come_back_at_the_latest_when_the_receiver_finds_nothing() {
    let (mut sender, mut receiver) = mailbox(64);
    for number in 0..3 {
        sender.push(number).expect("room");
    }
    sender.publish();
    while receiver.pop().is_some() {}
    assert_eq!(sender.free(), 64);
}

#[test]
fn whoever_goes_last_drops_the_rest() {
    for sender_first in [true, false] {
        let alive = StdArc::new(Alive::default());
        let (mut sender, mut receiver) = mailbox(8);
        for number in 0..5 {
            sender.push(counted(&alive, number)).expect("room");
        }
        sender.publish();
        for number in 5..8 {
            sender.push(counted(&alive, number)).expect("room");
        }
        let taken = receiver.pop().expect("published");
        assert_eq!((taken.number, alive.count()), (0, 8));
        if sender_first {
            drop(sender);
            assert_eq!(alive.count(), 5, "what was never published is gone");
            assert_eq!(receiver.pop().map(|item| item.number), Some(1), "the rest stays");
            drop(receiver);
        } else {
            drop(receiver);
            assert_eq!(alive.count(), 8);
            drop(sender);
        }
        assert_eq!(alive.count(), 1);
        drop(taken);
        assert_eq!(alive.count(), 0);
    }
}

#[test]
fn ends_move_to_other_threads() {
    fn assert_send<T: Send>(_: &T) {}
    let (sender, receiver) = mailbox::<Box<u8>>(2);
    assert_send(&sender);
    assert_send(&receiver);
}

#[test]
fn items_without_size_are_counted_too() {
    let (mut sender, mut receiver) = mailbox::<()>(2);
    sender.push(()).expect("room");
    sender.push(()).expect("room");
    assert_eq!(sender.push(()), Err(()));
    sender.publish();
    assert_eq!([receiver.pop(), receiver.pop(), receiver.pop()], [Some(()), Some(()), None]);
}

#[derive(Clone, Debug)]
enum Operation {
    Push,
    Publish,
    Pop,
    Free,
}

/// The mailbox as two plain queues: pushed and published.
#[derive(Default)]
struct Model {
    pushed: VecDeque<u32>,
    published: VecDeque<u32>,
}

impl Model {
    fn len(&self) -> usize {
        self.pushed.len() + self.published.len()
    }
}

fn apply(
    operation: &Operation,
    number: u32,
    (sender, receiver): (&mut Sender<u32>, &mut Receiver<u32>),
    model: &mut Model,
) -> Result<(), TestCaseError> {
    match operation {
        Operation::Push => {
            let pushed = sender.push(number).is_ok();
            // Slots come back in batches, so the sender may see less room than there is, but
            // it never sees more.
            prop_assert!(!pushed || model.len() < sender.capacity());
            prop_assert!(pushed || model.len() + sender.capacity() / 4 >= sender.capacity());
            if pushed {
                model.pushed.push_back(number);
            }
        }
        Operation::Publish => {
            prop_assert_eq!(sender.publish(), !model.pushed.is_empty());
            model.published.append(&mut model.pushed);
        }
        Operation::Pop => prop_assert_eq!(receiver.pop(), model.published.pop_front()),
        Operation::Free => {
            let room = sender.capacity() - model.len();
            let free = sender.free();
            prop_assert!(free <= room && free + sender.capacity() / 4 >= room);
        }
    }
    prop_assert_eq!(receiver.has_mail(), !model.published.is_empty());
    Ok(())
}

proptest! {
    #[test]
    fn it_behaves_like_a_queue(
        capacity in 0usize..20,
        operations in prop::collection::vec(
            prop_oneof![
                4 => Just(Operation::Push),
                2 => Just(Operation::Publish),
                4 => Just(Operation::Pop),
                1 => Just(Operation::Free),
            ],
            0..400,
        ),
    ) {
        let (mut sender, mut receiver) = mailbox(capacity);
        let mut model = Model::default();
        for (number, operation) in operations.iter().enumerate() {
            apply(operation, number as u32, (&mut sender, &mut receiver), &mut model)?;
        }
    }
}

/// Items of the stress test; fewer where every access is instrumented.
fn stress_items() -> u64 {
    std::env::var("RINGLANE_STRESS_ITEMS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000)
}

#[test]
fn two_threads_lose_nothing_and_keep_the_order() {
    let items = stress_items();
    for capacity in [2, 64, 1024] {
        let alive = StdArc::new(Alive::default());
        let (mut sender, mut receiver) = mailbox(capacity);
        let sent = StdArc::clone(&alive);
        let thread = thread::spawn(move || {
            for number in 0..items {
                let mut item = counted(&sent, number);
                while let Err(back) = sender.push(item) {
                    item = back;
                    sender.publish();
                    thread::yield_now();
                }
                if number % 7 == 0 {
                    sender.publish();
                }
            }
            sender.publish();
        });
        for number in 0..items {
            let item = loop {
                match receiver.pop() {
                    Some(item) => break item,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(item.number, number);
        }
        assert!(receiver.pop().is_none());
        thread.join().expect("the sender's thread ends well");
        assert_eq!(alive.count(), 0);
    }
}

#[test]
fn ends_dropped_on_different_threads_leak_nothing() {
    for round in 0..200 {
        let alive = StdArc::new(Alive::default());
        let (mut sender, mut receiver) = mailbox(16);
        let sent = StdArc::clone(&alive);
        let thread = thread::spawn(move || {
            for number in 0..round {
                if sender.push(counted(&sent, number)).is_err() {
                    break;
                }
                if number % 3 == 0 {
                    sender.publish();
                }
            }
        });
        for _ in 0..round / 2 {
            drop(receiver.pop());
        }
        drop(receiver);
        thread.join().expect("the sender's thread ends well");
        assert_eq!(alive.count(), 0, "round {round}");
    }
}

#[test]
fn values_that_are_dropped_by_a_panic_are_not_dropped_twice() {
    // The queue holds no borrow of an item while the caller handles it.
    let (mut sender, mut receiver) = mailbox::<Box<u8>>(2);
    sender.push(Box::new(1)).expect("room");
    sender.publish();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _item = receiver.pop();
        std::panic::resume_unwind(Box::new("a handler failed"));
    }));
    assert!(outcome.is_err());
    assert_eq!(receiver.pop(), None);
    drop(sender);
}
