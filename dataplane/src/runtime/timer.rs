//! A hierarchical timer wheel: O(1) to schedule and to cancel, however far away the deadline is.
//!
//! Time advances in ticks of 1 ms. Eight levels of 64 slots reach further than 64-bit nanoseconds
//! do, so no deadline is special. A timer lies on the level of the highest group of six bits in
//! which its tick differs from the present one; when the present reaches a slot of a higher level,
//! the slot's timers move down. So a timer is moved at most seven times in its life.
//!
//! A timer never fires early: deadlines are rounded up to a tick, the present is rounded down.

use crate::time::Nanos;
use core::num::NonZeroU32;

const TICK_NANOS: u64 = 1_000_000;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 8;
/// List of timers whose tick has come and that have not fired yet.
const DUE: u16 = (LEVELS * SLOTS) as u16;
const LISTS: usize = LEVELS * SLOTS + 1;
/// No entry, and no list.
const NONE: u32 = u32::MAX;
const NO_LIST: u16 = u16::MAX;

const _: () = assert!(SLOT_BITS as usize * LEVELS >= 45, "a tick of u64 nanoseconds has 45 bits");

/// Names one scheduled timer; stale once it fired or was cancelled.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TimerId {
    index: u32,
    /// Not zero, so that an optional id is as small.
    generation: NonZeroU32,
}

#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
}

#[derive(Debug)]
struct Entry<K> {
    key: K,
    tick: u64,
    generation: NonZeroU32,
    next: u32,
    previous: u32,
    /// The list it lies in, or [`NO_LIST`] if the entry is free.
    list: u16,
}

/// The timers of one core. Memory is an entry per timer that was ever pending at the same time,
/// reused; the number of timers is bounded by those who schedule them.
#[derive(Debug)]
pub struct TimerWheel<K> {
    entries: Vec<Entry<K>>,
    free: Vec<u32>,
    lists: Box<[List; LISTS]>,
    /// A bit per slot that has timers, by level.
    occupied: [u64; LEVELS],
    /// The tick up to which slots have been emptied.
    present: u64,
    /// The slot that is being emptied, if the last call stopped in the middle.
    open_slot: Option<u16>,
    len: usize,
}

impl<K: Copy> TimerWheel<K> {
    /// An empty wheel that starts at `now`.
    #[must_use]
    pub fn new(now: Nanos) -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            lists: Box::new([List { first: NONE, last: NONE }; LISTS]),
            occupied: [0; LEVELS],
            present: now.0 / TICK_NANOS,
            open_slot: None,
            len: 0,
        }
    }

    /// Timers that are pending.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is pending.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fires `key` at `at` or up to one tick later; a time that has passed is due at once. A timer
    /// at [`Nanos::NEVER`] never fires, but is pending until it is cancelled.
    ///
    /// # Panics
    /// If `u32::MAX` timers are pending.
    pub fn schedule(&mut self, at: Nanos, key: K) -> TimerId {
        let index = self.allocate(key, at.0.div_ceil(TICK_NANOS));
        self.place(index);
        self.len += 1;
        TimerId { index, generation: self.entries[index as usize].generation }
    }

    /// Takes a timer back. Returns whether it was pending; a stale id does nothing.
    pub fn cancel(&mut self, timer: TimerId) -> bool {
        let Some(entry) = self.entries.get(timer.index as usize) else { return false };
        if entry.generation != timer.generation || entry.list == NO_LIST {
            return false;
        }
        self.unlink(timer.index);
        self.release(timer.index);
        true
    }

    /// When [`TimerWheel::expire`] has something to do next: never after a deadline's tick, perhaps
    /// before it (to move timers down a level). [`Nanos::NEVER`] if nothing is pending.
    #[must_use]
    pub fn next_deadline(&self) -> Nanos {
        if self.open_slot.is_some() || self.lists[usize::from(DUE)].first != NONE {
            return Nanos(self.present * TICK_NANOS);
        }
        self.next_slot().map_or(Nanos::NEVER, |(_, tick)| Nanos(tick.saturating_mul(TICK_NANOS)))
    }

    /// Appends the keys of timers that are due at `now` to `fired`, by rising deadline. Does at most
    /// `max` steps, where a step fires a timer or moves it down a level. Returns whether there
    /// is more to do at the same `now`.
    pub fn expire(&mut self, now: Nanos, max: usize, fired: &mut Vec<K>) -> bool {
        let target = now.0 / TICK_NANOS;
        for _ in 0..max {
            if let Some(index) = self.next_due() {
                fired.push(self.entries[index as usize].key);
                self.unlink(index);
                self.release(index);
            } else if !self.move_down(target) {
                return false;
            }
        }
        self.has_work(target)
    }

    fn has_work(&self, target: u64) -> bool {
        self.next_due().is_some()
            || self.open_slot.is_some()
            || self.next_slot().is_some_and(|(_, tick)| tick <= target)
    }

    fn next_due(&self) -> Option<u32> {
        let first = self.lists[usize::from(DUE)].first;
        (first != NONE).then_some(first)
    }

    /// Moves one timer from the slot that is being emptied, opening the next one that `target` has
    /// reached if there is none. Returns whether a timer was moved.
    fn move_down(&mut self, target: u64) -> bool {
        if self.open_slot.is_none() && !self.open_next_slot(target) {
            return false;
        }
        let Some(slot) = self.open_slot else { return false };
        let index = self.lists[usize::from(slot)].first;
        self.unlink(index);
        self.place(index);
        true
    }

    /// Advances the present to the next slot with timers, at most to `target`.
    fn open_next_slot(&mut self, target: u64) -> bool {
        match self.next_slot() {
            Some((slot, tick)) if tick <= target => {
                self.present = tick;
                self.open_slot = Some(slot);
                true
            }
            _ => {
                self.present = self.present.max(target);
                false
            }
        }
    }

    /// The first slot after the present that has timers, and the tick at which it begins. Slots
    /// of a lower level always come before those of a higher one.
    fn next_slot(&self) -> Option<(u16, u64)> {
        let level = self.occupied.iter().position(|slots| *slots != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        let shift = SLOT_BITS * level as u32;
        let above = self.present >> (shift + SLOT_BITS) << (shift + SLOT_BITS);
        let list = level * SLOTS + slot as usize;
        Some((list as u16, above | u64::from(slot) << shift))
    }

    /// Links an entry into the list that its tick belongs to, seen from the present.
    fn place(&mut self, index: u32) {
        let tick = self.entries[index as usize].tick;
        let list = if tick <= self.present {
            DUE
        } else {
            let highest_bit = 63 - (tick ^ self.present).leading_zeros();
            let level = highest_bit / SLOT_BITS;
            let slot = (tick >> (level * SLOT_BITS)) as usize % SLOTS;
            self.occupied[level as usize] |= 1 << slot;
            (level as usize * SLOTS + slot) as u16
        };
        self.append(index, list);
    }

    fn append(&mut self, index: u32, list: u16) {
        let ends = &mut self.lists[usize::from(list)];
        let last = core::mem::replace(&mut ends.last, index);
        if last == NONE {
            ends.first = index;
        } else {
            self.entries[last as usize].next = index;
        }
        let entry = &mut self.entries[index as usize];
        entry.list = list;
        entry.previous = last;
        entry.next = NONE;
    }

    fn unlink(&mut self, index: u32) {
        let Entry { list, next, previous, .. } = self.entries[index as usize];
        if next == NONE {
            self.lists[usize::from(list)].last = previous;
        } else {
            self.entries[next as usize].previous = previous;
        }
        if previous == NONE {
            self.lists[usize::from(list)].first = next;
        } else {
            self.entries[previous as usize].next = next;
        }
        if self.lists[usize::from(list)].first == NONE {
            self.close(list);
        }
    }

    /// Takes an emptied list out of the books.
    fn close(&mut self, list: u16) {
        if self.open_slot == Some(list) {
            self.open_slot = None;
        }
        if list != DUE {
            let (level, slot) = (usize::from(list) / SLOTS, usize::from(list) % SLOTS);
            self.occupied[level] &= !(1 << slot);
        }
    }

    fn allocate(&mut self, key: K, tick: u64) -> u32 {
        if let Some(index) = self.free.pop() {
            let entry = &mut self.entries[index as usize];
            entry.key = key;
            entry.tick = tick;
            return index;
        }
        let index = u32::try_from(self.entries.len()).expect("more timers than 32 bits count");
        assert!(index != NONE, "more timers than 32 bits count");
        let generation = NonZeroU32::MIN;
        let entry = Entry { key, tick, generation, next: NONE, previous: NONE, list: NO_LIST };
        self.entries.push(entry);
        index
    }

    fn release(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        entry.list = NO_LIST;
        entry.generation = entry.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        self.free.push(index);
        self.len -= 1;
    }
}

#[cfg(test)]
#[path = "timer_tests.rs"]
mod tests;
