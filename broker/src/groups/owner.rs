//! The owner's side of a group, within the broker.

use super::{Dispatch, Errand, GroupId, GroupKey, Member, MemberKey, Offered, Seq, Ticket};
use crate::config::WhenFull;
use crate::delivery::{Subscriber, View};
use crate::mail::{GroupMail, Mail};
use crate::service::{Broker, Turn};
use crate::session::SessionId;
use ringlane_dataplane::ids::CoreId;

impl Broker {
    pub(crate) fn on_group_mail(&mut self, turn: &mut Turn<'_>, from: CoreId, mail: GroupMail) {
        match mail {
            GroupMail::Join { key, member, suback } => {
                self.on_join(turn, from, &key, member, suback);
            }
            GroupMail::Joined { suback, .. } => {
                self.announcer.on_joined(suback);
                self.settle_announcements(turn);
            }
            GroupMail::Leave { key, member } => self.on_leave(turn, &key, member),
            GroupMail::Presence { key, member, window } => {
                if let Some(id) = self.groups.find(&key)
                    && let Some(group) = self.groups.get_mut(id)
                {
                    group.set_window(member, window);
                    self.pump_group(turn, id);
                    self.leave_group_to_log(turn, id);
                }
            }
            GroupMail::Return { group, member, seq, place, message } => {
                if let Some(held) = self.groups.get_mut(group) {
                    held.on_return(member, seq, place, message);
                    self.metrics.shared_pending.add(1);
                    self.metrics.shared_redispatched.add(1);
                    self.pump_group(turn, group);
                    self.leave_group_to_log(turn, group);
                }
            }
            GroupMail::Taken { group, member, seq, place } => {
                self.on_taken(turn, group, member, seq, place);
            }
            GroupMail::Kept { session, group, places } => {
                self.on_kept(turn, session, group, places);
            }
        }
    }

    fn on_join(
        &mut self,
        turn: &mut Turn<'_>,
        from: CoreId,
        key: &GroupKey,
        member: Member,
        suback: u64,
    ) {
        let session = member.key.session;
        let id = match self.groups.find(key) {
            Some(id) => id,
            None => self.create_group(turn, key),
        };
        if let Some(group) = self.groups.get_mut(id) {
            group.join(member);
        }
        self.pump_group(turn, id);
        self.answer_join(turn, from, suback, (session, id));
    }

    /// A new group subscribes to its filter like a session does.
    fn create_group(&mut self, turn: &mut Turn<'_>, key: &GroupKey) -> GroupId {
        let (id, is_first) = self.install_group(key);
        if is_first {
            self.announce_filter(turn, &key.filter);
        }
        id
    }

    /// Puts a group into this core's tree. Whether its filter was not there before.
    pub(super) fn install_group(&mut self, key: &GroupKey) -> (GroupId, bool) {
        let id = self.groups.create(key, self.placement.group_hash(&key.name, &key.filter));
        let list = self.routes.entry(&key.filter);
        let position = list.len() as u32;
        list.push(Subscriber::group(id.slot));
        self.groups.set_position(id.slot, position);
        self.metrics.shared_groups.set(self.groups.len() as u64);
        (id, position == 0)
    }

    fn on_leave(&mut self, turn: &mut Turn<'_>, key: &GroupKey, member: MemberKey) {
        let Some(id) = self.groups.find(key) else { return };
        let Some(group) = self.groups.get_mut(id) else { return };
        group.leave(member);
        if group.is_empty() && self.groups.is_settled() {
            return self.end_group(turn, id);
        }
        self.pump_group(turn, id);
        self.leave_group_to_log(turn, id);
    }

    /// Ends a group without members.
    pub(crate) fn end_group(&mut self, turn: &mut Turn<'_>, id: GroupId) {
        self.close_group_window(id);
        let Some(group) = self.groups.remove(id) else { return };
        self.record_group_end(turn, &group);
        self.metrics.shared_pending.sub(group.waiting_len() as u64);
        self.metrics.shared_groups.set(self.groups.len() as u64);
        if group.backlog_full {
            self.announce_backlog(turn, &group.key.filter, false);
        }
        self.remove_from_tree(turn, &group.key.filter, group.position);
    }

    /// A message matched the group's filter.
    pub(crate) fn offer_to_group(&mut self, turn: &mut Turn<'_>, slot: u32, view: &mut View<'_>) {
        let Some(id) = self.groups.id_at(slot) else { return };
        let posted = self.posted_for_group(id, view);
        let Some(group) = self.groups.get_mut(id) else { return };
        let message = view.lasting(&mut self.maker);
        match group.offer(message, posted) {
            Offered::Waiting => self.metrics.shared_pending.add(1),
            Offered::Dropped => self.metrics.dropped_slow.add(1),
            Offered::Left => return self.on_group_left_to_log(turn, id),
        }
        self.pump_group(turn, id);
        self.check_group_backlog(turn, id);
    }

    /// Gives waiting messages to members with a free window.
    pub(crate) fn pump_group(&mut self, turn: &mut Turn<'_>, id: GroupId) {
        loop {
            let mut expired = 0;
            let Some(group) = self.groups.get_mut(id) else { return };
            let next = group.next_dispatch(turn.now, &mut expired);
            self.metrics.dropped_expired.add(expired);
            self.metrics.shared_pending.sub(expired);
            let Some(dispatch) = next else { break };
            self.metrics.shared_pending.sub(1);
            self.dispatch(turn, id, dispatch);
        }
        self.read_for_group(turn, id);
        self.check_group_backlog(turn, id);
    }

    fn dispatch(&mut self, turn: &mut Turn<'_>, id: GroupId, dispatch: Dispatch) {
        let Dispatch { member, qos, subscription_id, retain, seq, place, message } = dispatch;
        let (owner, group) = (self.core, id);
        let hash = self.groups.get(id).map_or(0, |group| group.hash);
        let ticket = Ticket { owner, group, hash, seq, place, subscription_id, retain };
        let errand = Box::new(Errand::Group(ticket));
        let mail = Mail::GroupDeliver { session: member.session, message, qos, errand };
        self.send_mail(turn, member.core, mail);
    }

    /// The same bound and policy as for a session's backlog.
    pub(super) fn check_group_backlog(&mut self, turn: &mut Turn<'_>, id: GroupId) {
        let bound = self.sizes.backlog_bytes_max;
        let Some(group) = self.groups.get_mut(id) else { return };
        while group.waiting_bytes() > bound
            && let Some(topic) = group.oldest_topic()
            && self.streams.of(topic).when_full == WhenFull::DropOldest
            && group.drop_oldest()
        {
            self.metrics.dropped_backlog.add(1);
            self.metrics.shared_pending.sub(1);
        }
        let full = group.backlog_full;
        let mut bytes = group.waiting_bytes();
        if full {
            bytes = bytes.max(self.group_log_bytes(id));
        }
        let Some(group) = self.groups.get_mut(id) else { return };
        let now_full = if full { bytes >= bound / 10 * 9 } else { bytes > bound };
        if now_full != full {
            group.backlog_full = now_full;
            let filter = group.key.filter.clone();
            self.announce_backlog(turn, &filter, now_full);
        }
    }

    pub(crate) fn on_group_done(
        &mut self,
        turn: &mut Turn<'_>,
        group: GroupId,
        member: MemberKey,
        seq: Seq,
    ) {
        if let Some(held) = self.groups.get_mut(group) {
            held.on_done(member, seq);
            self.pump_group(turn, group);
        }
    }

    pub(crate) fn send_joined(
        &mut self,
        turn: &mut Turn<'_>,
        to: CoreId,
        suback: u64,
        session: SessionId,
    ) {
        self.send_mail(turn, to, Mail::Group(Box::new(GroupMail::Joined { suback, session })));
    }
}
