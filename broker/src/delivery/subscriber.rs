//! What the subscription tree holds for each filter.

use core::ops::{Deref, DerefMut};
use ringlane_mqtt::QoS;

/// Who gets the message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Target {
    /// The session in this slot.
    Session(u32),
    /// The group in this slot.
    Group(u32),
}

/// One subscription as the fan-out needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subscriber {
    pub(crate) target: Target,
    /// The subscription identifier, 0 for none.
    pub(crate) subscription_id: u32,
    pub(crate) qos: QoS,
    /// No Local [MQTT-3.8.3-3].
    pub(crate) no_local: bool,
    /// Retain As Published [MQTT-3.3.1-12], [MQTT-3.3.1-13].
    pub(crate) retain_as_published: bool,
    /// Retained messages of this subscription are on their way: live ones queue behind them.
    pub(crate) priming: bool,
}

impl Subscriber {
    /// A group in the tree: its members' options apply later.
    pub(crate) fn group(slot: u32) -> Self {
        Self {
            target: Target::Group(slot),
            subscription_id: 0,
            qos: QoS::ExactlyOnce,
            no_local: false,
            retain_as_published: true,
            priming: false,
        }
    }
}

/// All that subscribed to one filter. Most filters have one subscriber, which lies here and not
/// behind a pointer.
#[derive(Debug)]
pub(crate) enum Subscribers {
    One(Subscriber),
    /// None, or two and more; or fewer again.
    Several(Vec<Subscriber>),
}

impl Subscribers {
    pub(crate) const fn new() -> Self {
        Self::Several(Vec::new())
    }

    pub(crate) fn push(&mut self, subscriber: Subscriber) {
        match self {
            Self::One(first) => *self = Self::Several(vec![*first, subscriber]),
            Self::Several(list) if list.capacity() == 0 => *self = Self::One(subscriber),
            Self::Several(list) => list.push(subscriber),
        }
    }

    /// Takes one out; the last one takes its place.
    ///
    /// # Panics
    /// If there is none at this position.
    pub(crate) fn swap_remove(&mut self, position: usize) {
        match self {
            Self::One(_) => {
                assert_eq!(position, 0, "there is one subscriber");
                *self = Self::new();
            }
            Self::Several(list) => {
                list.swap_remove(position);
            }
        }
    }
}

impl Deref for Subscribers {
    type Target = [Subscriber];

    fn deref(&self) -> &[Subscriber] {
        match self {
            Self::One(one) => core::slice::from_ref(one),
            Self::Several(list) => list,
        }
    }
}

impl DerefMut for Subscribers {
    fn deref_mut(&mut self) -> &mut [Subscriber] {
        match self {
            Self::One(one) => core::slice::from_mut(one),
            Self::Several(list) => list,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(subscribers: &Subscribers) -> Vec<Target> {
        subscribers.iter().map(|subscriber| subscriber.target).collect()
    }

    #[test]
    fn a_list_is_the_same_however_many_are_in_it() {
        let group = Target::Group;
        let mut list = Subscribers::new();
        assert!(list.is_empty());
        for slot in 0..3 {
            list.push(Subscriber::group(slot));
        }
        assert_eq!(slots(&list), [group(0), group(1), group(2)]);
        list.swap_remove(0);
        assert_eq!(slots(&list), [group(2), group(1)]);
        list.swap_remove(0);
        list.swap_remove(0);
        assert!(list.is_empty());
        list.push(Subscriber::group(7));
        list[0].priming = true;
        assert!(list[0].priming);
    }

    #[test]
    fn one_subscriber_takes_no_memory_of_its_own() {
        let mut list = Subscribers::new();
        list.push(Subscriber::group(1));
        assert!(matches!(list, Subscribers::One(_)));
        list.swap_remove(0);
        assert!(list.is_empty());
        assert_eq!(size_of::<Subscribers>(), 24);
    }
}
