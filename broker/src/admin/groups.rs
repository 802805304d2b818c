//! Shared-subscription groups: listed, with what they are owed.

use super::Page;
use super::sessions::RANGES_PER_SESSION;
use crate::ctl::rows::{GroupRow, OldestRow};
use crate::groups::{Group, GroupId};
use crate::service::{Broker, Turn};

/// Groups that are looked at for one page, and about how many ranges of postings.
const GROUPS_PER_PAGE: u32 = 256;
const RANGES_PER_PAGE: usize = 16 * 1024;

impl Broker {
    pub(super) fn list_groups(&self, turn: &Turn<'_>, from: u32) -> Page<GroupRow, u32> {
        let (mut rows, mut ranges) = (Vec::new(), 0);
        let slots = self.groups.slots();
        let end = from.saturating_add(GROUPS_PER_PAGE).min(slots);
        let mut slot = from;
        while slot < end && ranges < RANGES_PER_PAGE {
            if let Some(id) = self.groups.id_at(slot)
                && let Some(group) = self.groups.get(id)
            {
                let (row, looked_at) = self.group_row(turn, id, group);
                ranges += looked_at;
                rows.push(row);
            }
            slot += 1;
        }
        Page { rows, next: (slot < slots).then_some(slot) }
    }

    /// With how many ranges of postings were looked at.
    fn group_row(&self, turn: &Turn<'_>, id: GroupId, group: &Group) -> (GroupRow, usize) {
        let accepted_at = group.oldest_accepted_at();
        let age_ms = accepted_at.map(|at| turn.now.since(at).as_millis() as u64);
        let (owed, oldest, ranges) = self.owed_to_group(id, group);
        let with_members = group.held();
        let oldest = match oldest {
            Some(oldest) => Some(OldestRow { age_ms, ..oldest }),
            None => age_ms.map(|age_ms| OldestRow { age_ms: Some(age_ms), ..OldestRow::default() }),
        };
        let row = GroupRow {
            name: group.key.name.to_string(),
            filter: group.key.filter.to_string(),
            partition: self.placement.partition_of(group.hash).0,
            core: self.core.0,
            members: group.member_count() as u64,
            connected: group.connected_count() as u64,
            durable: group.log.is_some(),
            in_flight: with_members,
            pending: owed.saturating_sub(with_members).max(group.waiting_len() as u64),
            pending_bytes: (group.waiting_bytes() + self.group_log_bytes(id)) as u64,
            oldest,
        };
        (row, ranges)
    }

    /// What the log says that a group is owed, those with members included; the oldest of it, and how
    /// many ranges of postings were looked at.
    fn owed_to_group(&self, id: GroupId, group: &Group) -> (u64, Option<OldestRow>, usize) {
        let nothing = (0, None, 1);
        let (Some(log), Some(durable)) = (&group.log, &self.durable) else { return nothing };
        let state = &durable.partitions[log.index].state;
        let Some(slot) = self.group_slot(id) else { return nothing };
        let from = log.position(state.next_posting());
        let backlog = state.backlog(slot, from, RANGES_PER_SESSION);
        let oldest = backlog.oldest.map(|(place, matched)| OldestRow {
            age_ms: None,
            partition: Some(place.partition),
            offset: Some(place.offset),
            behind: Some(matched.saturating_sub(place.offset)),
        });
        (backlog.messages.saturating_sub(log.done_from(from)), oldest, backlog.ranges + 1)
    }
}
