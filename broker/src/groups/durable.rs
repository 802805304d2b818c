//! A group in the log of its partition: recorded with the first member whose session outlives the
//! broker, and there again after a start, before anybody can be given anything.

use super::{Group, GroupId, GroupKey, GroupLog, MemberKey, Seq};
use crate::durable::{
    KeptByMembers as Kept, PartitionState, Place, SessionState, StateRecord, SubscriptionOptions,
};
use crate::mail::{GroupMail, Mail};
use crate::service::{Broker, Turn};
use crate::session::{IN_STEP, NEVER_EXPIRES, SessionId};
use hashbrown::{HashMap, HashSet};
use ringlane_dataplane::ids::CoreId;

/// The first character of the name of a group among sessions, which no client identifier has
/// [MQTT-1.5.4-2].
const MARK: char = '\0';
/// A group matches with every QoS, and its members' options apply later.
const OPTIONS: SubscriptionOptions =
    SubscriptionOptions { qos: 2, no_local: false, retain_as_published: true, id: 0 };

/// Whether a session of the log is a group.
pub(crate) fn is_group(client_id: &str) -> bool {
    client_id.starts_with(MARK)
}

impl GroupKey {
    /// Its name among the sessions of the log.
    pub(super) fn session_name(&self) -> String {
        format!("{MARK}{}/{}", self.name, self.filter)
    }

    fn of_session(client_id: &str) -> Option<Self> {
        let (name, filter) = client_id.strip_prefix(MARK)?.split_once('/')?;
        Some(Self { name: name.into(), filter: filter.into() })
    }
}

/// What members of groups have of them, in the sessions of all partitions, before a start.
#[derive(Debug, Default)]
pub(crate) struct GroupsAtStart {
    /// QoS 2 messages that members have, or had, and that their groups may not know of.
    held: HashMap<u64, HashSet<Place>>,
}

impl GroupsAtStart {
    /// Takes in the sessions of a partition.
    pub(crate) fn add(&mut self, state: &PartitionState) {
        let sessions = state.sessions().map(|(_, session)| session);
        for session in sessions.filter(|session| session.is_busy()) {
            for (group, place) in session.held() {
                self.held.entry(group).or_default().insert(place);
            }
        }
    }
}

impl Broker {
    /// A group of the log, without its members, which join as they are settled. Its name, if it cannot be one.
    pub(crate) fn restore_group(
        &mut self,
        turn: &mut Turn<'_>,
        index: usize,
        (slot, session): (u32, &SessionState),
        state: &PartitionState,
        start: &GroupsAtStart,
    ) -> Option<Box<str>> {
        let Some(key) = GroupKey::of_session(&session.client_id) else {
            return Some(session.client_id.clone());
        };
        let hash = self.placement.group_hash(&key.name, &key.filter);
        let (id, _) = self.install_group(&key);
        self.announce_filter(turn, &key.filter);
        let mut log = GroupLog::new(index, session.position, session.position);
        if let Some(held) = start.held.get(&hash) {
            state.numbers_of(slot, held).into_iter().for_each(|posting| log.pass_over(posting));
        }
        if let Some(group) = self.groups.get_mut(id) {
            group.log = Some(log);
        }
        None
    }

    /// Ends what has the name of a group and can be none.
    pub(crate) fn end_restored_groups(
        &mut self,
        turn: &Turn<'_>,
        index: usize,
        ended: Vec<Box<str>>,
    ) {
        for name in ended {
            self.append_group_end(turn, index, &name);
        }
    }

    /// A group whose filter every core has is recorded, if a member's session is in a log. Where its
    /// partition stands, if it is recorded.
    pub(crate) fn ensure_recorded(&mut self, turn: &mut Turn<'_>, id: GroupId) -> Option<usize> {
        let group = self.groups.get(id)?;
        if let Some(log) = &group.log {
            return Some(log.index);
        }
        if !group.has_durable_member() {
            return None;
        }
        let partition = self.placement.partition_of(group.hash);
        let (name, filter) = (group.key.session_name(), group.key.filter.clone());
        let index = self.durable_index(partition)?;
        if !self.takes_state(index) || self.is_overdue(partition, &name) {
            return None;
        }
        self.advance_own_cursors();
        let (client_id, expiry_secs) = (&*name, NEVER_EXPIRES);
        let open = StateRecord::SessionOpen { client_id, clean: true, expiry_secs, will: None };
        self.record(turn, index, &open);
        let since = self.next_posting(index);
        let (filter, options) = (&*filter, OPTIONS);
        let subscribe = StateRecord::Subscribe { client_id, filter, options, since };
        self.record(turn, index, &subscribe);
        self.record(turn, index, &StateRecord::Positions { positions: vec![(client_id, since)] });
        self.sync_posted(index, filter);
        let group = self.groups.get_mut(id)?;
        group.log = Some(GroupLog::new(index, since, IN_STEP));
        Some(index)
    }

    fn next_posting(&self, index: usize) -> u64 {
        let durable = self.durable.as_ref();
        durable.map_or(0, |durable| durable.partitions[index].state.next_posting())
    }

    /// The last member of a group has left it.
    pub(super) fn record_group_end(&mut self, turn: &mut Turn<'_>, group: &Group) {
        let Some(log) = &group.log else { return };
        let name = group.key.session_name();
        match self.takes_end(log.index, &name) {
            true => self.append_group_end(turn, log.index, &name),
            false => self.put_off_end(turn, log.index, &name),
        }
    }

    /// Once a second: what groups are done with goes to the logs, which take as many bytes of it.
    pub(crate) fn record_groups(&mut self, turn: &mut Turn<'_>, room: &mut [Option<usize>]) {
        for id in self.groups.ids() {
            if let Some(index) = self.ensure_recorded(turn, id)
                && let Some(room) = &mut room[index]
                && let Some(bytes) = self.groups.get(id).map(Group::progress_bytes)
                && bytes <= *room
            {
                *room -= bytes;
                self.record_group(turn, index, id);
                // Members that had too much that was not noted may be given more.
                self.pump_group(turn, id);
            }
        }
    }

    fn record_group(&mut self, turn: &Turn<'_>, index: usize, id: GroupId) {
        let next = self.next_posting(index);
        let Some(group) = self.groups.get_mut(id) else { return };
        let (hash, name) = (group.hash, group.key.session_name());
        let progress = group.log.as_mut().and_then(|log| log.take_progress(next));
        let Some(progress) = progress else { return };
        let client_id = &*name;
        let positions = vec![(client_id, progress.position)];
        self.record(turn, index, &StateRecord::Positions { positions });
        for ranges in progress.done.chunks(RANGES_PER_RECORD) {
            let ranges = ranges.to_vec();
            self.record(turn, index, &StateRecord::DeliveredRanges { client_id, ranges });
        }
        if !progress.kept.is_empty() {
            self.tell_kept_when_flushed(index, Box::new(Kept { group: hash, kept: progress.kept }));
        }
    }

    /// A group's log says that members have messages: they need not remember them any more.
    pub(crate) fn tell_kept(&mut self, turn: &mut Turn<'_>, kept: Kept) {
        let Kept { group, mut kept } = kept;
        kept.sort_unstable_by_key(|(member, _)| (member.core.0, member.session.slot));
        for of_one in kept.chunk_by(|(one, _), (other, _)| one == other) {
            let MemberKey { core, session } = of_one[0].0;
            let places = of_one.iter().map(|(_, place)| *place).collect();
            let mail = GroupMail::Kept { session, group, places };
            self.send_mail(turn, core, Mail::Group(Box::new(mail)));
        }
    }

    pub(super) fn on_taken(
        &mut self,
        turn: &mut Turn<'_>,
        hash: u64,
        member: MemberKey,
        seq: Option<Seq>,
        place: Place,
    ) {
        let found = self.groups.find_by_hash(hash).and_then(|id| self.groups.get_mut(id));
        match found.and_then(|group| group.log.as_mut()) {
            Some(log) => log.on_taken(member, seq, place),
            // Nobody could give it to another member.
            None => self.tell_kept(turn, Kept { group: hash, kept: vec![(member, place)] }),
        }
    }

    /// A group was joined and every core has its filter: the member is told once that is in the log.
    pub(crate) fn finish_join(
        &mut self,
        turn: &mut Turn<'_>,
        to: CoreId,
        suback: u64,
        (session, group): (SessionId, GroupId),
    ) {
        match self.ensure_recorded(turn, group) {
            Some(index) => self.send_joined_when_flushed(index, to, suback, session),
            None => self.send_joined(turn, to, suback, session),
        }
    }
}

/// Ranges in one record: 32 KiB.
const RANGES_PER_RECORD: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_its_name_in_the_log() {
        for (name, filter) in [("g", "a/+/b"), ("g", "/"), ("all", "#")] {
            let key = GroupKey { name: name.into(), filter: filter.into() };
            let session = key.session_name();
            assert!(is_group(&session) && !is_group(&session[1..]));
            assert_eq!(GroupKey::of_session(&session), Some(key));
        }
    }
}
