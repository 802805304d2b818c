//! The mailboxes between all endpoints of a node: every core, and the control thread as the last.
//!
//! A sender wakes a peer only if that peer advertises that it sleeps. The order that makes this
//! safe: a core that goes to sleep raises its flag, then fences, then looks into its inboxes a last
//! time; a sender publishes, then fences, then looks at the flag. The two fences are totally
//! ordered, so either the sleeper sees the mail or the sender sees the flag (or both, which costs
//! one wake-up too many). `tests/loom_mailbox.rs` explores this.

use super::mailbox::{Receiver, Sender, mailbox};
use super::sync::{Arc, AtomicBool, Ordering, fence};
use crate::ids::{CoreId, ENDPOINTS_MAX};
use crate::routing::CoreSet;
use crossbeam_utils::CachePadded;

/// Builds the endpoints before the cores start.
#[derive(Debug)]
pub struct Mesh;

/// One core's (or the control thread's) end of all its mailboxes.
#[derive(Debug)]
pub struct Endpoint<M> {
    id: CoreId,
    /// By peer; `None` at the own place.
    outboxes: Vec<Option<Sender<M>>>,
    /// By peer; `None` at the own place.
    inboxes: Vec<Option<Receiver<M>>>,
    /// Peers that have mail which is not published.
    unpublished: CoreSet,
    /// By endpoint; shared by all of them.
    sleeping: Arc<Vec<CachePadded<AtomicBool>>>,
    sent_count: u64,
}

impl Mesh {
    /// Builds `endpoints` ends, all connected with mailboxes of `capacity` mails per direction
    /// (rounded up to a power of two, at least 2). Endpoint `i` has the id `CoreId(i)`.
    ///
    /// # Panics
    /// If there are more than [`ENDPOINTS_MAX`] endpoints.
    #[must_use]
    pub fn build<M: Send>(endpoints: usize, capacity: usize) -> Vec<Endpoint<M>> {
        assert!(endpoints <= ENDPOINTS_MAX, "more endpoints than the bitmaps have bits");
        let flags = (0..endpoints).map(|_| CachePadded::new(AtomicBool::new(false)));
        let sleeping = Arc::new(flags.collect::<Vec<_>>());
        let mut ends: Vec<Endpoint<M>> = (0..endpoints)
            .map(|index| Endpoint {
                id: CoreId(index as u16),
                outboxes: (0..endpoints).map(|_| None).collect(),
                inboxes: (0..endpoints).map(|_| None).collect(),
                unpublished: CoreSet::default(),
                sleeping: Arc::clone(&sleeping),
                sent_count: 0,
            })
            .collect();
        for source in 0..endpoints {
            for target in (0..endpoints).filter(|target| *target != source) {
                let (sender, receiver) = mailbox(capacity);
                ends[source].outboxes[target] = Some(sender);
                ends[target].inboxes[source] = Some(receiver);
            }
        }
        ends
    }
}

impl<M: Send> Endpoint<M> {
    /// Who this is.
    #[must_use]
    pub fn id(&self) -> CoreId {
        self.id
    }

    /// How many endpoints there are, this one included.
    #[must_use]
    pub fn endpoints(&self) -> usize {
        self.outboxes.len()
    }

    /// Mails put into outboxes since the start.
    #[must_use]
    pub fn sent_count(&self) -> u64 {
        self.sent_count
    }

    /// Puts a mail for `to` into its outbox; it leaves with [`Endpoint::publish`].
    ///
    /// # Errors
    /// The mail, if the mailbox is full, or if `to` is this endpoint or none at all.
    pub fn send(&mut self, to: CoreId, mail: M) -> Result<(), M> {
        debug_assert!(to != self.id, "a core does not mail itself");
        let Some(Some(outbox)) = self.outboxes.get_mut(to.index()) else { return Err(mail) };
        outbox.push(mail)?;
        self.unpublished.insert(to);
        self.sent_count += 1;
        Ok(())
    }

    /// How many mails can be sent to `to` for sure; 0 to oneself.
    pub fn free(&mut self, to: CoreId) -> usize {
        match self.outboxes.get_mut(to.index()) {
            Some(Some(outbox)) => outbox.free(),
            _ => 0,
        }
    }

    /// Shows every peer what was sent to it, and calls `wake` for each of those that sleeps. Its
    /// flag is taken down, so of several senders one wakes it.
    pub fn publish(&mut self, wake: &mut dyn FnMut(CoreId)) {
        if self.unpublished.is_empty() {
            return;
        }
        let targets = core::mem::take(&mut self.unpublished);
        for target in targets.iter() {
            if let Some(outbox) = &mut self.outboxes[target.index()] {
                outbox.publish();
            }
        }
        // Pairs with the fence of `prepare_sleep`.
        fence(Ordering::SeqCst);
        for target in targets.iter() {
            if self.take_flag(target) {
                wake(target);
            }
        }
    }

    /// Takes the flag of a sleeper down; `false` if it is down already.
    fn take_flag(&self, target: CoreId) -> bool {
        let flag = &self.sleeping[target.index()];
        // The load keeps the line shared while the peer is awake. The exchange decides who of
        // several wakes, and writes nothing if it comes too late: so a flag that is down was taken
        // down by its owner or by someone who then wakes it.
        flag.load(Ordering::Relaxed)
            && flag.compare_exchange(true, false, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Takes the oldest mail that `from` has published.
    pub fn receive(&mut self, from: CoreId) -> Option<M> {
        self.inboxes.get_mut(from.index())?.as_mut()?.pop()
    }

    /// Whether any peer has published mail that was not received yet.
    pub fn has_mail(&mut self) -> bool {
        self.inboxes.iter().flatten().any(Receiver::has_mail)
    }

    /// Advertises that this endpoint goes to sleep. `false` means that there is mail after all: do
    /// not sleep, the flag is down again. After `true`, sleep and then call
    /// [`Endpoint::end_sleep`].
    pub fn prepare_sleep(&mut self) -> bool {
        self.sleeping[self.id.index()].store(true, Ordering::Relaxed);
        // Pairs with the fence of `publish`.
        fence(Ordering::SeqCst);
        if self.has_mail() {
            self.end_sleep();
            return false;
        }
        true
    }

    /// Says that this endpoint is awake: nobody needs to wake it until the next
    /// [`Endpoint::prepare_sleep`]. A wake-up that is already under way may still arrive.
    pub fn end_sleep(&mut self) {
        self.sleeping[self.id.index()].store(false, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn pair() -> (Endpoint<u32>, Endpoint<u32>) {
        let mut ends = Mesh::build(2, 4);
        let second = ends.pop().expect("two were built");
        (ends.pop().expect("two were built"), second)
    }

    fn publish(end: &mut Endpoint<u32>) -> Vec<CoreId> {
        let mut woken = Vec::new();
        end.publish(&mut |peer| woken.push(peer));
        woken
    }

    #[test]
    fn ids_follow_the_order_and_every_pair_is_connected() {
        let mut ends = Mesh::build::<(usize, usize)>(4, 2);
        for (source, end) in ends.iter_mut().enumerate() {
            assert_eq!(end.id().index(), source);
            assert_eq!(end.endpoints(), 4);
            for target in (0..4).filter(|target| *target != source) {
                end.send(CoreId(target as u16), (source, target)).expect("room for one");
            }
            end.publish(&mut |peer| panic!("{peer} was woken without sleeping"));
        }
        for (target, end) in ends.iter_mut().enumerate() {
            for source in (0..4).filter(|source| *source != target) {
                assert_eq!(end.receive(CoreId(source as u16)), Some((source, target)));
                assert_eq!(end.receive(CoreId(source as u16)), None);
            }
        }
    }

    #[test]
    fn mail_is_invisible_until_published() {
        let (mut first, mut second) = pair();
        first.send(CoreId(1), 7).expect("room");
        assert!(!second.has_mail());
        assert_eq!(second.receive(CoreId(0)), None);
        publish(&mut first);
        assert!(second.has_mail());
        assert_eq!(second.receive(CoreId(0)), Some(7));
    }

    #[test]
    fn only_a_sleeper_is_woken_and_only_once() {
        let (mut first, mut second) = pair();
        first.send(CoreId(1), 1).expect("room");
        assert_eq!(publish(&mut first), [], "awake peers are not woken");
        assert!(!second.prepare_sleep(), "there is mail");
        assert_eq!(second.receive(CoreId(0)), Some(1));
        assert!(second.prepare_sleep());
        first.send(CoreId(1), 2).expect("room");
        assert_eq!(publish(&mut first), [CoreId(1)]);
        first.send(CoreId(1), 3).expect("room");
        assert_eq!(publish(&mut first), [], "it has been woken already");
        second.end_sleep();
    }

    #[test]
    fn a_peer_without_new_mail_is_left_asleep() {
        let mut ends = Mesh::build::<u32>(3, 4);
        assert!(ends[1].prepare_sleep());
        assert!(ends[2].prepare_sleep());
        ends[0].send(CoreId(2), 1).expect("room");
        assert_eq!(publish(&mut ends[0]), [CoreId(2)]);
    }

    #[test]
    fn an_awake_core_is_not_woken_after_it_changed_its_mind() {
        let (mut first, mut second) = pair();
        assert!(second.prepare_sleep());
        second.end_sleep();
        first.send(CoreId(1), 1).expect("room");
        assert_eq!(publish(&mut first), []);
    }

    #[test]
    fn a_full_mailbox_gives_the_mail_back() {
        let (mut first, mut second) = pair();
        assert_eq!(first.free(CoreId(1)), 4);
        for mail in 0..4 {
            first.send(CoreId(1), mail).expect("room");
        }
        assert_eq!(first.free(CoreId(1)), 0);
        assert_eq!(first.send(CoreId(1), 4), Err(4));
        assert_eq!(first.sent_count(), 4);
        publish(&mut first);
        assert_eq!(second.receive(CoreId(0)), Some(0));
        assert_eq!(first.free(CoreId(1)), 1);
        assert_eq!(first.send(CoreId(1), 4), Ok(()));
    }

    #[test]
    fn an_unknown_peer_gets_nothing() {
        let (mut first, _second) = pair();
        assert_eq!(first.send(CoreId(9), 1), Err(1));
        assert_eq!(first.free(CoreId(9)), 0);
        assert_eq!(first.free(CoreId(0)), 0, "nothing goes to oneself");
        assert_eq!(first.receive(CoreId(9)), None);
    }
}
