//! One group: who its members are, and who gets the next message. Pure.

use super::{GroupKey, GroupLog, MEMBER_WINDOW, Member, MemberKey, Seq};
use crate::durable::{Place, QUEUE_BYTES_MAX, QUEUE_MESSAGES_MAX};
use crate::session::IN_STEP;
use ringlane_dataplane::message::Message;
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::QoS;
use std::collections::VecDeque;

/// QoS 0 messages wait for a free window only up to this many bytes, and only while a member is
/// connected.
const QOS0_PENDING_BYTES_MAX: usize = 1 << 20;

/// With no more than this waiting, more is read from the log.
const REFILL: usize = 64;

/// What the records of a group's progress take beside names and ranges, in bytes.
const PROGRESS_BYTES: usize = 200;

#[derive(Debug)]
struct MemberState {
    member: Member,
    /// Messages given and not answered.
    held: u16,
    /// What its answers have added to its window.
    earned: u16,
}

impl MemberState {
    /// A member begins with the window of its client, and every answer adds one: it may then have
    /// messages queued while the hop to it takes its time, and one that never answers has none.
    fn has_room(&self) -> bool {
        let own = self.member.window;
        let most = MEMBER_WINDOW.max(own);
        own > 0 && self.held < own.saturating_add(self.earned).min(most)
    }
}

#[derive(Debug)]
struct Waiting {
    seq: Seq,
    place: Option<Place>,
    message: Message,
}

/// A message for a member.
#[derive(Debug)]
pub(crate) struct Dispatch {
    pub(crate) member: MemberKey,
    pub(crate) qos: QoS,
    pub(crate) subscription_id: u32,
    pub(crate) retain: bool,
    pub(crate) seq: Seq,
    pub(crate) place: Option<Place>,
    pub(crate) message: Message,
}

/// What became of an offered message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Offered {
    /// It waits for [`Group::next_dispatch`].
    Waiting,
    /// QoS 0 and nobody could take it soon.
    Dropped,
    /// It is in the log, and is read from there.
    Left,
}

/// A shared-subscription group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) key: GroupKey,
    /// The keyed hash of its key.
    pub(crate) hash: u64,
    /// What it has in the log, if it is there.
    pub(crate) log: Option<GroupLog>,
    members: Vec<MemberState>,
    /// Where the search for the next member begins.
    turn: usize,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// The last message that came.
    last_seq: Seq,
    /// Place in its filter's list of the subscription tree.
    pub(crate) position: u32,
    /// Whether the cores were told that this group's backlog is full.
    pub(crate) backlog_full: bool,
}

impl Group {
    pub(crate) fn new(key: GroupKey, hash: u64) -> Self {
        Self {
            key,
            hash,
            log: None,
            members: Vec::new(),
            turn: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            last_seq: Seq::posted(0),
            position: 0,
            backlog_full: false,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(crate) fn member_count(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn connected_count(&self) -> usize {
        self.members.iter().filter(|state| state.member.window > 0).count()
    }

    /// Messages that members have and have not answered.
    pub(crate) fn held(&self) -> u64 {
        self.members.iter().map(|state| u64::from(state.held)).sum()
    }

    /// Whether some member may take messages.
    pub(crate) fn is_connected(&self) -> bool {
        self.members.iter().any(|state| state.member.window > 0)
    }

    /// Whether some member's session outlives the broker.
    pub(crate) fn has_durable_member(&self) -> bool {
        self.members.iter().any(|state| state.member.is_durable)
    }

    pub(crate) fn waiting_len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Adds a member, or replaces its subscription.
    pub(crate) fn join(&mut self, member: Member) {
        match self.members.iter_mut().find(|state| state.member.key == member.key) {
            Some(state) => state.member = member,
            None => self.members.push(MemberState { member, held: 0, earned: 0 }),
        }
    }

    pub(crate) fn leave(&mut self, key: MemberKey) {
        if let Some(index) = self.members.iter().position(|state| state.member.key == key) {
            self.members.remove(index);
            if self.turn > index {
                self.turn -= 1;
            }
        }
    }

    /// A member's connection came (`window` above 0) or went.
    pub(crate) fn set_window(&mut self, key: MemberKey, window: u16) {
        if let Some(state) = self.members.iter_mut().find(|state| state.member.key == key) {
            state.member.window = window;
            state.earned = 0;
        }
    }

    /// Nobody is there: what the log has goes out of memory. How many messages went.
    pub(crate) fn leave_to_log(&mut self) -> usize {
        let before = self.waiting.len();
        let Some(log) = self.log.as_mut().filter(|_| before > 0) else { return 0 };
        for waiting in core::mem::take(&mut self.waiting) {
            match waiting.seq.posting().filter(|_| waiting.place.is_some()) {
                Some(posting) => {
                    self.waiting_bytes -= waiting.message.memory_bytes();
                    log.leave(posting);
                }
                None => self.waiting.push_back(waiting),
            }
        }
        before - self.waiting.len()
    }

    /// A member answered for one message.
    pub(crate) fn on_done(&mut self, key: MemberKey, seq: Seq) {
        if let Some(log) = &mut self.log {
            log.on_done(seq);
        }
        if let Some(state) = self.members.iter_mut().find(|state| state.member.key == key) {
            state.held = state.held.saturating_sub(1);
            state.earned = state.earned.saturating_add(1).min(MEMBER_WINDOW);
        }
    }

    /// A member gave a message back: it goes out again in its old place.
    pub(crate) fn on_return(
        &mut self,
        key: MemberKey,
        seq: Seq,
        place: Option<Place>,
        message: Message,
    ) {
        if let Some(state) = self.members.iter_mut().find(|state| state.member.key == key) {
            state.held = state.held.saturating_sub(1);
        }
        let before = self.waiting.partition_point(|waiting| waiting.seq < seq);
        self.waiting_bytes += message.memory_bytes();
        self.waiting.insert(before, Waiting { seq, place, message });
    }

    /// What the records of [`GroupLog::take_progress`] take in the log, in bytes, about and not less.
    pub(crate) fn progress_bytes(&self) -> usize {
        let done = self.log.as_ref().map_or(0, GroupLog::done_bytes);
        done + 2 * (self.key.name.len() + self.key.filter.len()) + PROGRESS_BYTES
    }

    /// Takes a message in, behind those that wait; `posted` says where the log has it.
    pub(crate) fn offer(&mut self, message: Message, posted: Option<(u64, Place)>) -> Offered {
        if message.head().qos == 0 {
            let full = self.waiting_bytes >= QOS0_PENDING_BYTES_MAX;
            if !self.is_connected() || full {
                return Offered::Dropped;
            }
        }
        if let Some((posting, _)) = posted
            && self.leaves_to_log(posting)
        {
            return Offered::Left;
        }
        let seq = match posted {
            Some((posting, _)) => Seq::posted(posting),
            None => Seq { beside: self.last_seq.beside + 1, ..self.last_seq },
        };
        self.last_seq = seq;
        self.push(seq, posted.map(|(_, place)| place), message);
        Offered::Waiting
    }

    /// Takes in what was read from the log.
    pub(crate) fn take_in(&mut self, posting: u64, place: Place, message: Message) {
        self.push(Seq::posted(posting), Some(place), message);
    }

    fn push(&mut self, seq: Seq, place: Option<Place>, message: Message) {
        if let (Some(log), Some(posting)) =
            (&mut self.log, seq.posting().filter(|_| place.is_some()))
        {
            log.begin(posting);
        }
        self.waiting_bytes += message.memory_bytes();
        self.waiting.push_back(Waiting { seq, place, message });
    }

    /// Whether a posted message is read from the log later: nobody is there, or too much waits.
    fn leaves_to_log(&mut self, posting: u64) -> bool {
        let is_connected = self.is_connected();
        let Some(log) = &mut self.log else { return false };
        if log.frontier() == IN_STEP {
            let many = QUEUE_MESSAGES_MAX <= self.waiting.len();
            if is_connected && !many && self.waiting_bytes < QUEUE_BYTES_MAX {
                return false;
            }
            log.set_frontier(posting);
        }
        log.frontier() <= posting
    }

    /// Whether more is to be read from the log: it has some, few messages wait, and somebody is there.
    pub(crate) fn wants_more(&self) -> bool {
        let log = self.log.as_ref();
        let behind = log.is_some_and(|log| log.frontier() != IN_STEP && log.window.is_none());
        behind && self.waiting.len() <= REFILL && self.is_connected()
    }

    /// The topic of the message that has waited longest.
    pub(crate) fn oldest_topic(&self) -> Option<&str> {
        self.waiting.front().map(|waiting| waiting.message.topic())
    }

    /// When the message came that has waited longest in memory.
    pub(crate) fn oldest_accepted_at(&self) -> Option<Nanos> {
        self.waiting.front().map(|waiting| waiting.message.head().accepted_at)
    }

    /// Drops what has expired in memory; how many messages.
    pub(crate) fn drop_expired(&mut self, now: Nanos) -> u64 {
        let Self { waiting, waiting_bytes, log, .. } = self;
        let before = waiting.len();
        waiting.retain(|one| {
            let is_alive = now < one.message.head().expires_at;
            if !is_alive {
                *waiting_bytes -= one.message.memory_bytes();
                log.iter_mut().for_each(|log| log.on_done(one.seq));
            }
            is_alive
        });
        (before - waiting.len()) as u64
    }

    /// Drops the oldest waiting message; false if there is none.
    pub(crate) fn drop_oldest(&mut self) -> bool {
        let dropped = self.pop_waiting();
        if let (Some(waiting), Some(log)) = (&dropped, &mut self.log) {
            log.on_done(waiting.seq);
        }
        dropped.is_some()
    }

    /// The next message and the member that gets it. Expired messages are counted into `expired`.
    pub(crate) fn next_dispatch(&mut self, now: Nanos, expired: &mut u64) -> Option<Dispatch> {
        loop {
            if self.waiting.is_empty() {
                return None;
            }
            let index = self.free_member()?;
            let Waiting { seq, place, message } = self.pop_waiting()?;
            if message.head().expires_at <= now {
                *expired += 1;
                self.log.iter_mut().for_each(|log| log.on_done(seq));
                continue;
            }
            self.turn = index + 1;
            let state = &mut self.members[index];
            state.held += 1;
            let qos = QoS::from_u8(message.head().qos).unwrap_or(QoS::AtMostOnce);
            return Some(Dispatch {
                member: state.member.key,
                qos: qos.min(state.member.qos),
                subscription_id: state.member.subscription_id,
                retain: state.member.retain_as_published && message.head().retain,
                seq,
                place,
                message,
            });
        }
    }

    fn pop_waiting(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.pop_front()?;
        self.waiting_bytes -= waiting.message.memory_bytes();
        Some(waiting)
    }

    /// In turn, so that all members with a free window get the same share.
    fn free_member(&self) -> Option<usize> {
        if self.log.as_ref().is_some_and(GroupLog::is_behind) {
            return None;
        }
        let count = self.members.len();
        (0..count)
            .map(|step| (self.turn + step) % count)
            .find(|index| self.members[*index].has_room())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionId;
    use ringlane_dataplane::ids::CoreId;
    use ringlane_dataplane::message::MessageHead;

    const ANY: Seq = Seq { at: 0, beside: 1 };

    fn member(slot: u32, window: u16) -> Member {
        let session = SessionId { slot, generation: 0 };
        Member {
            key: MemberKey { core: CoreId(0), session },
            qos: QoS::AtLeastOnce,
            subscription_id: 0,
            retain_as_published: false,
            window,
            is_durable: false,
        }
    }

    fn message(qos: u8, expires_at: Nanos) -> Message {
        let head = MessageHead {
            publisher: 0,
            accepted_at: Nanos(0),
            expires_at,
            topic_bytes: 0,
            properties_bytes: 0,
            qos,
            retain: false,
        };
        Message::new(head, "t", &[], b"x", &mut Vec::new())
    }

    fn group(members: &[Member]) -> Group {
        let mut group = Group::new(GroupKey { name: "g".into(), filter: "t".into() }, 7);
        for member in members {
            group.join(member.clone());
        }
        group
    }

    fn next(group: &mut Group) -> Option<(u32, u64)> {
        let dispatch = group.next_dispatch(Nanos(10), &mut 0)?;
        Some((dispatch.member.session.slot, dispatch.seq.beside - 1))
    }

    #[test]
    fn members_take_turns_and_a_full_one_is_passed_over() {
        let mut group = group(&[member(1, 1), member(2, 10)]);
        for _ in 0..4 {
            assert_eq!(group.offer(message(1, Nanos::NEVER), None), Offered::Waiting);
        }
        assert_eq!(next(&mut group), Some((1, 0)));
        assert_eq!(next(&mut group), Some((2, 1)));
        assert_eq!(next(&mut group), Some((2, 2)));
        group.on_done(member(1, 0).key, ANY);
        assert_eq!(next(&mut group), Some((1, 3)));
        assert_eq!(group.waiting_len(), 0);
        assert_eq!(group.waiting_bytes(), 0);
    }

    #[test]
    fn a_returned_message_goes_out_again_in_its_old_place() {
        let mut group = group(&[member(1, 1), member(2, 1)]);
        for _ in 0..3 {
            group.offer(message(1, Nanos::NEVER), None);
        }
        let first = group.next_dispatch(Nanos(0), &mut 0).expect("a free member");
        assert_eq!(next(&mut group), Some((2, 1)));
        group.set_window(first.member, 0);
        group.on_return(first.member, first.seq, None, first.message);
        assert_eq!(next(&mut group), None, "one is away, the other one full");
        group.on_done(member(2, 0).key, ANY);
        assert_eq!(next(&mut group), Some((2, 0)), "before number 2, which waited longer");
    }

    #[test]
    fn qos0_is_not_kept_for_members_that_are_away() {
        let mut group = group(&[member(1, 0)]);
        assert_eq!(group.offer(message(0, Nanos::NEVER), None), Offered::Dropped);
        assert_eq!(group.offer(message(1, Nanos::NEVER), None), Offered::Waiting);
        assert_eq!(next(&mut group), None);
        group.set_window(member(1, 0).key, 5);
        assert_eq!(next(&mut group), Some((1, 0)));
    }

    #[test]
    fn expired_messages_are_counted_and_skipped() {
        let mut group = group(&[member(1, 5)]);
        group.offer(message(1, Nanos(5)), None);
        group.offer(message(1, Nanos::NEVER), None);
        let mut expired = 0;
        let dispatch = group.next_dispatch(Nanos(10), &mut expired).expect("the second");
        assert_eq!((dispatch.seq.beside, expired), (2, 1));
    }

    #[test]
    fn answers_earn_a_larger_window_and_a_new_connection_begins_again() {
        let mut group = group(&[member(1, 1)]);
        for _ in 0..5 {
            group.offer(message(1, Nanos::NEVER), None);
        }
        assert_eq!(next(&mut group), Some((1, 0)));
        assert_eq!(next(&mut group), None, "it has not answered yet");
        group.on_done(member(1, 0).key, ANY);
        assert_eq!(next(&mut group), Some((1, 1)));
        assert_eq!(next(&mut group), Some((1, 2)));
        assert_eq!(next(&mut group), None);
        group.on_done(member(1, 0).key, ANY);
        group.on_done(member(1, 0).key, ANY);
        group.set_window(member(1, 0).key, 1);
        assert_eq!(next(&mut group), Some((1, 3)));
        assert_eq!(next(&mut group), None);
    }

    #[test]
    fn leaving_keeps_the_turn_and_empties_the_group() {
        let mut group = group(&[member(1, 5), member(2, 5), member(3, 5)]);
        for _ in 0..3 {
            group.offer(message(1, Nanos::NEVER), None);
        }
        assert_eq!(next(&mut group), Some((1, 0)));
        group.leave(member(1, 0).key);
        assert_eq!(next(&mut group), Some((2, 1)));
        group.leave(member(2, 0).key);
        group.leave(member(3, 0).key);
        assert!(group.is_empty());
        assert_eq!(next(&mut group), None);
    }

    fn place(offset: u64) -> Place {
        Place { partition: 1, epoch: 1, offset }
    }

    /// Memory does not grow while nobody is there, and every message is found again once.
    #[test]
    fn what_the_log_has_goes_out_of_memory() {
        let mut group = group(&[member(1, 1)]);
        group.log = Some(GroupLog::new(0, 0, IN_STEP));
        let offer = |group: &mut Group, posting| {
            group.offer(message(1, Nanos::NEVER), Some((posting, place(posting))))
        };
        for posting in 0..3 {
            assert_eq!(offer(&mut group, posting), Offered::Waiting);
        }
        let given = group.next_dispatch(Nanos(0), &mut 0).expect("a free member");
        group.set_window(given.member, 0);
        assert_eq!((group.leave_to_log(), group.waiting_len(), group.waiting_bytes()), (2, 0, 0));
        assert_eq!(offer(&mut group, 3), Offered::Left);
        group.on_return(given.member, given.seq, given.place, given.message);
        assert_eq!(group.leave_to_log(), 1);
        let log = group.log.as_ref().expect("it has one");
        assert!((0..4).all(|posting| !log.has(posting)) && log.frontier() == 0);
        assert!(!group.wants_more());
        group.set_window(given.member, 5);
        assert!(group.wants_more());
        group.take_in(0, place(0), message(1, Nanos::NEVER));
        assert_eq!(group.next_dispatch(Nanos(0), &mut 0).map(|d| d.seq), Some(Seq::posted(0)));
        assert_eq!(offer(&mut group, 4), Offered::Left, "it comes behind what is read");
    }

    #[test]
    fn a_group_that_is_slow_leaves_later_messages_to_the_log() {
        let mut group = group(&[member(1, 1)]);
        group.log = Some(GroupLog::new(0, 0, IN_STEP));
        let last = QUEUE_MESSAGES_MAX as u64;
        for posting in 0..=last {
            let offered = group.offer(message(1, Nanos::NEVER), Some((posting, place(posting))));
            assert_eq!(offered == Offered::Left, posting == last);
        }
        assert_eq!(group.log.map(|log| log.frontier()), Some(last));
    }
}
