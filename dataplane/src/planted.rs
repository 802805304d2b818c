//! Bugs on purpose: the simulator has to find each of them, or its rules are worth nothing.
//!
//! Only with the feature `planted`, which nothing but the simulator's tests turns on, and only on the thread that asks
//! for one. Without the feature [`is`] is always false and nothing of it is left in the program.

/// A bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// A candidate goes on with the least complete log.
    LeastComplete,
    /// A leader takes for held by a majority what it has itself.
    AckBeforeQuorum,
    /// A candidate goes on before a majority has promised to obey nobody older.
    NoFence,
    /// The high watermark follows whatever a leader says.
    WatermarkBack,
    /// A follower believes records without their checksums.
    ChecksumUnchecked,
    /// A follower is told to keep a record that its leader does not have.
    TruncateTooFew,
    /// A leader sends more than a follower has room for.
    CreditOverrun,
    /// The best follower counts for two.
    AckTwice,
    /// Who was started anew is taken for one that has kept what it had in memory.
    MemoryKept,
    /// A write into a ring goes one byte beyond the ring's end.
    RingWrap,
    /// Who follows does not keep the packet identifiers of messages of QoS 2.
    ExactlyOnceUnkept,
    /// Messages are matched, posted and delivered before a majority has them; only their acknowledgement waits.
    PostingEarly,
    /// A lease that has ended is taken for one that counts.
    StaleLease,
    /// A checkpoint leaves out a subscription of each session.
    SubscriptionSkipped,
}

/// Whether a bug was planted on this thread.
#[cfg(feature = "planted")]
#[must_use]
pub fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether a bug was planted: none is.
#[cfg(not(feature = "planted"))]
#[inline]
#[must_use]
pub const fn is(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted")]
thread_local! {
    static PLANTED: core::cell::Cell<Option<Bug>> = const { core::cell::Cell::new(None) };
}

/// Plants a bug on this thread, or none.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}
