//! Wake-ups between the cores and the control thread.
//!
//! Every endpoint has an eventfd. A core on io_uring also registers its ring here, so that
//! another ring can wake it with a ring message and without a system call of its own.

use crate::sys;
use core::sync::atomic::{AtomicI32, Ordering};
use core::time::Duration;
use ringlane_dataplane::ids::CoreId;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

const NO_RING: RawFd = -1;

#[derive(Debug)]
struct Waker {
    event: OwnedFd,
    /// The ring's descriptor while its driver lives, else [`NO_RING`]. A message sent to a stale
    /// number is harmless: it is refused, or it is one spurious wake-up of another ring.
    ring: AtomicI32,
}

/// The wake-ups of all endpoints of a node; clones share them.
#[derive(Clone, Debug)]
pub struct Wakers(Arc<[Waker]>);

impl Wakers {
    /// One per endpoint: the cores, and the control thread as the last.
    ///
    /// # Errors
    /// If descriptors run out.
    pub fn new(endpoints: usize) -> io::Result<Self> {
        let wakers: io::Result<Vec<Waker>> = (0..endpoints)
            .map(|_| Ok(Waker { event: sys::eventfd()?, ring: AtomicI32::new(NO_RING) }))
            .collect();
        Ok(Self(wakers?.into()))
    }

    /// How many endpoints there are.
    #[must_use]
    pub fn endpoints(&self) -> usize {
        self.0.len()
    }

    /// Wakes an endpoint: its wait, or its next one, ends. One system call.
    pub fn wake(&self, target: CoreId) {
        if let Some(waker) = self.0.get(target.index()) {
            sys::eventfd_signal(waker.event.as_fd());
        }
    }

    /// Waits until the endpoint is woken (true) or the time is over (false), and clears it.
    #[must_use]
    pub fn wait(&self, own: CoreId, timeout: Duration) -> bool {
        let Some(waker) = self.0.get(own.index()) else { return false };
        let woken = sys::wait_readable(waker.event.as_fd(), timeout);
        if woken {
            sys::eventfd_clear(waker.event.as_fd());
        }
        woken
    }

    /// The endpoint's event counter as something to poll for readability: an owner may put it
    /// into another event loop and call [`WakeEvent::clear`] when it became readable.
    #[must_use]
    pub fn event(&self, own: CoreId) -> Option<WakeEvent> {
        (own.index() < self.0.len()).then(|| WakeEvent { wakers: self.clone(), own })
    }

    pub(crate) fn event_fd(&self, own: CoreId) -> BorrowedFd<'_> {
        self.0[own.index()].event.as_fd()
    }

    pub(crate) fn ring_of(&self, target: CoreId) -> Option<RawFd> {
        let ring = self.0.get(target.index())?.ring.load(Ordering::Relaxed);
        (ring != NO_RING).then_some(ring)
    }

    pub(crate) fn register_ring(&self, own: CoreId, ring: RawFd) {
        self.0[own.index()].ring.store(ring, Ordering::Relaxed);
    }

    pub(crate) fn unregister_ring(&self, own: CoreId) {
        self.0[own.index()].ring.store(NO_RING, Ordering::Relaxed);
    }
}

/// One endpoint's event counter, readable while a wake-up waits.
#[derive(Clone, Debug)]
pub struct WakeEvent {
    wakers: Wakers,
    own: CoreId,
}

impl WakeEvent {
    /// Takes all wake-ups that wait. One system call.
    pub fn clear(&self) {
        sys::eventfd_clear(self.wakers.event_fd(self.own));
    }
}

impl AsRawFd for WakeEvent {
    fn as_raw_fd(&self) -> RawFd {
        self.wakers.event_fd(self.own).as_raw_fd()
    }
}

impl AsFd for WakeEvent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wakers.event_fd(self.own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_up_ends_the_wait_and_is_taken_by_it() {
        let wakers = Wakers::new(2).unwrap();
        assert!(!wakers.wait(CoreId(1), Duration::ZERO));
        wakers.wake(CoreId(1));
        wakers.wake(CoreId(1));
        assert!(!wakers.wait(CoreId(0), Duration::ZERO));
        assert!(wakers.wait(CoreId(1), Duration::ZERO));
        assert!(!wakers.wait(CoreId(1), Duration::ZERO));
    }

    #[test]
    fn a_wake_up_reaches_another_thread() {
        let wakers = Wakers::new(1).unwrap();
        let other = wakers.clone();
        let waiter = std::thread::spawn(move || other.wait(CoreId(0), Duration::from_secs(60)));
        wakers.wake(CoreId(0));
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn the_event_can_be_polled_elsewhere() {
        let wakers = Wakers::new(1).unwrap();
        let event = wakers.event(CoreId(0)).unwrap();
        assert!(wakers.event(CoreId(1)).is_none());
        wakers.wake(CoreId(0));
        assert!(sys::wait_readable(event.as_fd(), Duration::ZERO));
        event.clear();
        assert!(!sys::wait_readable(event.as_fd(), Duration::ZERO));
    }
}
