//! Every order of the mailbox's and the mesh's atomic operations, explored by loom.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p ringlane-dataplane --test loom_mailbox --release`
#![cfg(loom)]

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::runtime::mailbox::{Receiver, mailbox};
use ringlane_dataplane::runtime::{Endpoint, Mesh};

/// Explores every order with at most this many forced switches between threads. Loom's authors find
/// that two or three reveal nearly all mistakes; without a bound the larger models do not end.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(model);
}

/// Takes items until `count` of them came, giving the sender a chance whenever there is none.
fn take(receiver: &mut Receiver<u32>, count: u32) -> Vec<u32> {
    let mut items = Vec::new();
    while items.len() < count as usize {
        match receiver.pop() {
            Some(item) => items.push(item),
            None => thread::yield_now(),
        }
    }
    items
}

#[test]
fn nothing_is_lost_doubled_or_reordered_across_the_wrap() {
    explore(|| {
        let (mut sender, mut receiver) = mailbox(2);
        let sending = thread::spawn(move || {
            for number in 0..4 {
                while sender.push(number).is_err() {
                    thread::yield_now();
                }
                sender.publish();
            }
        });
        assert_eq!(take(&mut receiver, 4), [0, 1, 2, 3]);
        assert_eq!(receiver.pop(), None);
        sending.join().unwrap();
    });
}

#[test]
fn a_batch_becomes_visible_as_a_whole() {
    explore(|| {
        let (mut sender, mut receiver) = mailbox(4);
        let sending = thread::spawn(move || {
            sender.push(0).unwrap();
            sender.push(1).unwrap();
            sender.publish();
        });
        if let Some(first) = receiver.pop() {
            assert_eq!((first, receiver.pop()), (0, Some(1)));
        }
        sending.join().unwrap();
    });
}

/// An item whose drops loom sees: dropped twice or never fails the model.
struct Tracked(Arc<Mutex<u32>>);

impl Drop for Tracked {
    fn drop(&mut self) {
        *self.0.lock().unwrap() += 1;
    }
}

#[test]
fn whoever_goes_last_drops_each_item_once() {
    explore(|| {
        let drops = Arc::new(Mutex::new(0));
        let (mut sender, mut receiver) = mailbox(2);
        let tracked = Arc::clone(&drops);
        let sending = thread::spawn(move || {
            assert!(sender.push(Tracked(Arc::clone(&tracked))).is_ok());
            sender.publish();
            assert!(sender.push(Tracked(tracked)).is_ok());
        });
        drop(receiver.pop());
        drop(receiver);
        sending.join().unwrap();
        assert_eq!(*drops.lock().unwrap(), 2);
    });
}

/// What a driver's wake-up is: an eventfd that stays readable until it is read.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }

    /// Sleeps until it was rung. If nobody ever rings, loom reports a deadlock.
    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// Receives as a core does: look, advertise, look again, sleep.
fn receive_all(end: &mut Endpoint<u32>, bell: &Bell, peers: &[CoreId], count: usize) -> Vec<u32> {
    let mut mails = Vec::new();
    loop {
        for peer in peers {
            while let Some(mail) = end.receive(*peer) {
                mails.push(mail);
            }
        }
        if mails.len() >= count {
            return mails;
        }
        if end.prepare_sleep() {
            bell.wait();
            end.end_sleep();
        }
    }
}

#[test]
fn a_sleeper_is_never_left_asleep_with_mail() {
    explore(|| {
        let mut ends = Mesh::build::<u32>(2, 2);
        let mut second = ends.pop().unwrap();
        let mut first = ends.pop().unwrap();
        let bell = Arc::new(Bell::default());
        let theirs = Arc::clone(&bell);
        let sending = thread::spawn(move || {
            for mail in 0..2 {
                first.send(CoreId(1), mail).unwrap();
                first.publish(&mut |peer| {
                    assert_eq!(peer, CoreId(1));
                    theirs.ring();
                });
            }
        });
        assert_eq!(receive_all(&mut second, &bell, &[CoreId(0)], 2), [0, 1]);
        sending.join().unwrap();
    });
}

#[test]
fn of_two_senders_that_meet_a_sleeper_one_wakes_it_and_both_arrive() {
    explore(|| {
        let mut ends = Mesh::build::<u32>(3, 2);
        let mut sleeper = ends.pop().unwrap();
        let bell = Arc::new(Bell::default());
        let senders: Vec<_> = ends
            .into_iter()
            .map(|mut end| {
                let bell = Arc::clone(&bell);
                thread::spawn(move || {
                    let mail = u32::from(end.id().0);
                    end.send(CoreId(2), mail).unwrap();
                    end.publish(&mut |_| bell.ring());
                })
            })
            .collect();
        let mut mails = receive_all(&mut sleeper, &bell, &[CoreId(0), CoreId(1)], 2);
        mails.sort_unstable();
        assert_eq!(mails, [0, 1]);
        for sender in senders {
            sender.join().unwrap();
        }
    });
}

#[test]
fn two_cores_that_answer_each_other_never_both_sleep() {
    explore(|| {
        let mut ends = Mesh::build::<u32>(2, 2);
        let mut second = ends.pop().unwrap();
        let mut first = ends.pop().unwrap();
        let bells = Arc::new([Bell::default(), Bell::default()]);
        let theirs = Arc::clone(&bells);
        let answering = thread::spawn(move || {
            let mails = receive_all(&mut second, &theirs[1], &[CoreId(0)], 1);
            second.send(CoreId(0), mails[0] + 1).unwrap();
            second.publish(&mut |peer| theirs[peer.index()].ring());
        });
        first.send(CoreId(1), 1).unwrap();
        first.publish(&mut |peer| bells[peer.index()].ring());
        assert_eq!(receive_all(&mut first, &bells[0], &[CoreId(1)], 1), [2]);
        answering.join().unwrap();
    });
}
