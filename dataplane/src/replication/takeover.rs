//! What a candidate does: it fences a majority, finds the most complete log among them, makes its own
//! equal to it, and begins its epoch.

use super::command::{Command, Errand, Refusal};
use super::epochs::Common;
use super::leader::Leader;
use super::message::{Claim, Envelope, Fetch, Fetched, Message, Report, WHOLE_NODE};
use super::quorum::majority;
use super::replica::{READ_BYTES_MAX, Replica, Role};
use crate::batch::{Arrived, BatchPool};
use crate::ids::{NodeId, Offset};
use crate::planted::{self, Bug};

/// A takeover.
#[derive(Debug, Default)]
pub(super) struct Takeover {
    /// Of those that have promised to obey no older epoch.
    reports: Vec<(NodeId, Report)>,
    winner: Option<Winner>,
    /// They were asked for records, and had none to give: none is asked twice in one takeover.
    mute: Vec<NodeId>,
}

impl Takeover {
    /// Whose log is as good as the best one, to take from it what is missing here. Logs that are equally complete are equal.
    fn giver(&self, best: &Report) -> Option<(NodeId, Report)> {
        let gives = |(node, report): &&(NodeId, Report)| {
            let is_whole = report.damage.is_none() && !self.mute.contains(node);
            is_whole && completeness(report) == completeness(best)
        };
        self.reports.iter().find(gives).cloned()
    }
}

/// Whose log is more complete.
#[derive(Debug)]
struct Winner {
    node: NodeId,
    /// Where that log ends.
    next: Offset,
    /// What was asked for last.
    asked: Option<Offset>,
}

/// What is told apart when logs are compared: the later in this order is more complete.
fn completeness(report: &Report) -> Claim {
    Claim { epoch: report.epochs.last_epoch(), watermark: report.next }
}

fn is_more_complete(one: &Report, other: &Report) -> bool {
    let (one, other) = (completeness(one), completeness(other));
    if planted::is(Bug::LeastComplete) { one < other } else { other < one }
}

/// What a replica may have helped a quorum to hold and cannot show: what a damaged log once had, or has
/// been given since.
fn in_doubt(report: &Report) -> Option<Claim> {
    report.damage.map(|claim| claim.max(completeness(report)))
}

/// Whose log to go on with, by the reports of a majority. `None`: too few of them are whole.
///
/// A damaged replica has promised, and is never chosen. It may have held, and helped a quorum to
/// hold, what nobody else among those here has: only a majority without it, or a log at least as long
/// as it ever was, shows that nothing is missing.
///
/// The same holds for what only the memory of a majority had, and a replica that was started anew: only a majority
/// without it, all members, or a log of a newer epoch, whose leader had it all, shows that (docs/adr/0009).
fn choose<'a>(
    own: (NodeId, &'a Report),
    others: &'a [(NodeId, Report)],
    members: usize,
) -> Option<(NodeId, &'a Report)> {
    let all = || core::iter::once(own).chain(others.iter().map(|(node, report)| (*node, report)));
    if all().count() < majority(members) && !planted::is(Bug::NoFence) {
        return None;
    }
    let whole = || all().filter(|(_, report)| report.damage.is_none());
    let (node, best) =
        whole().reduce(|best, one| if is_more_complete(one.1, best.1) { one } else { best })?;
    let best_has = |claim: Claim| claim <= completeness(best);
    let is_enough = whole().count() >= majority(members)
        || all().filter_map(|(_, report)| in_doubt(report)).all(best_has);
    let is_sure = |report: &Report| {
        let newest = completeness(best).epoch;
        let has_memory = report.memory_lost == 0 || report.memory_lost < newest;
        has_memory && in_doubt(report).is_none_or(best_has)
    };
    let sure = all().filter(|(_, report)| is_sure(report)).count();
    let has_all_memory = sure >= majority(members)
        || all().count() == members
        || planted::is(Bug::MemoryKept)
        || planted::is(Bug::NoFence);
    (is_enough && has_all_memory).then_some((node, best))
}

impl Replica {
    fn takeover(&mut self) -> Option<&mut Takeover> {
        match &mut self.role {
            Role::Candidate(takeover) => Some(takeover),
            Role::Follower(_) | Role::Leader(_) => None,
        }
    }

    /// The own epoch is durable.
    pub(super) fn begin_collecting(&mut self) {
        for index in 0..self.up.len() {
            self.fence(self.up[index]);
        }
        self.decide();
    }

    pub(super) fn on_candidate_report(&mut self, from: NodeId, report: &Report) {
        let found = report.epochs.last_epoch();
        if found >= self.reign.epoch {
            let why = Refusal::OldEpoch { given: self.reign.epoch, found };
            return self.give_up(why);
        }
        let Some(takeover) = self.takeover() else { return };
        takeover.reports.retain(|(node, _)| *node != from);
        takeover.reports.push((from, report.clone()));
        self.decide();
    }

    pub(super) fn lose_candidate_link(&mut self, peer: NodeId) {
        let Some(takeover) = self.takeover() else { return };
        takeover.winner.take_if(|winner| winner.node == peer);
        // It has promised all the same, but its log may have lost its end since.
        takeover.reports.retain(|(node, _)| *node != peer);
    }

    fn give_up(&mut self, why: Refusal) {
        self.commands.push(Command::Errand(Errand::Refuse { peer: None, why }));
        self.follow(None);
    }

    fn decide(&mut self) {
        let is_settled = self.is_settled();
        let (own, node, members) = (self.report(), self.setup.node, self.setup.members.len());
        let up = self.up.clone();
        let Some(takeover) = self.takeover() else { return };
        if !is_settled || takeover.winner.is_some() {
            return;
        }
        let Some((best, report)) = choose((node, &own), &takeover.reports, members) else {
            return;
        };
        if best == node {
            return self.begin_leading();
        }
        if let Some((winner, report)) = takeover.giver(report) {
            let next = report.next;
            takeover.winner = Some(Winner { node: winner, next, asked: None });
            return self.become_equal(winner, &report);
        }
        let has_reported = |node: &NodeId| takeover.reports.iter().any(|(other, _)| other == node);
        // Else whoever has yet to report may have them.
        if up.iter().all(has_reported) {
            let from = self.log.next;
            self.hand_over(best, Refusal::Withheld { from, node: best });
        }
    }

    /// Gives up what the winner's log has not, so that all that is left is in it, too.
    fn become_equal(&mut self, winner: NodeId, report: &Report) {
        let common = self.log.epochs.common(self.log.next, report.epochs.starts(), report.next);
        let Common::Below(to) = common else {
            return self.hand_over(winner, Refusal::Behind(winner));
        };
        if to < report.log_start || to < self.log.start {
            return self.hand_over(winner, Refusal::Behind(winner));
        }
        let high_watermark = self.high_watermark;
        if to < high_watermark {
            return self.give_up(Refusal::BelowHighWatermark { to, high_watermark });
        }
        if to < self.log.next { self.truncate(to) } else { self.fetch_more() }
    }

    /// The winner has to lead: what this log lacks, the other cannot send.
    fn hand_over(&mut self, winner: NodeId, why: Refusal) {
        let message = Message::TakeOver;
        let message = Envelope { partition: WHOLE_NODE, epoch: self.reign.epoch, message };
        self.commands.push(Command::Send { to: winner, message, body: None });
        self.give_up(why);
    }

    pub(super) fn on_candidate_truncated(&mut self) {
        self.decide();
        self.fetch_more();
    }

    /// Asks the winner for what is missing, a piece at a time.
    pub(super) fn fetch_more(&mut self) {
        let (from, credit, is_settled) = (self.log.next, self.room.credit(), self.is_settled());
        let Some(winner) = self.takeover().and_then(|takeover| takeover.winner.as_mut()) else {
            return;
        };
        if !is_settled || winner.asked == Some(from) {
            return;
        }
        if winner.next <= from {
            return self.begin_leading();
        }
        let node = winner.node;
        if credit > 0 {
            winner.asked = Some(from);
            let bytes_max = credit.min(u64::from(READ_BYTES_MAX)) as u32;
            self.send(node, Message::Fetch(Fetch { from, bytes_max }));
        }
    }

    pub(super) fn on_fetched(
        &mut self,
        from: NodeId,
        fetched: &Fetched,
        body: Arrived<'_>,
        pool: &mut BatchPool,
    ) {
        let (run, next) = (&fetched.run, self.log.next);
        let Some(winner) = self.takeover().and_then(|takeover| takeover.winner.as_mut()) else {
            return;
        };
        if winner.node != from || winner.asked != Some(run.base) || run.base != next {
            return;
        }
        let end = winner.next;
        winner.asked = None;
        if run.records == 0 {
            return self.ask_another(from);
        }
        let follows = self.log.epoch_before(next) == Some(run.previous_epoch);
        if !follows || run.epoch >= self.reign.epoch || end < run.end() {
            self.refuse(from, Refusal::Protocol("records that were fetched do not follow"));
        } else if let Err(why) = self.accept(run, body, pool) {
            self.refuse(from, why);
        } else {
            self.fetch_more();
        }
    }

    /// A node has none of the records that are missing here, or cannot read them: another one may.
    fn ask_another(&mut self, mute: NodeId) {
        if let Some(takeover) = self.takeover() {
            takeover.winner = None;
            takeover.mute.push(mute);
        }
        self.decide();
    }

    /// What was asked and not answered is asked again.
    pub(super) fn ask_again(&mut self) {
        let up = self.up.clone();
        let Some(takeover) = self.takeover() else { return };
        if let Some(winner) = &mut takeover.winner {
            winner.asked = None;
        }
        let reported: Vec<_> = takeover.reports.iter().map(|(node, _)| *node).collect();
        for node in up.into_iter().filter(|node| !reported.contains(node)) {
            self.fence(node);
        }
        self.decide();
        self.fetch_more();
    }

    /// The log holds all that any of the majority held: the epoch begins.
    fn begin_leading(&mut self) {
        let Role::Candidate(takeover) = &mut self.role else { return };
        let reports = core::mem::take(&mut takeover.reports);
        let leader = Leader::new(self.other_nodes());
        self.role = Role::Leader(Box::new(leader));
        self.room.clear();
        self.commands.push(Command::StartEpoch { epoch: self.reign.epoch });
        for (node, report) in &reports {
            self.compare(*node, report);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::epochs::EpochTable;
    use super::super::message::Run;
    use super::super::reign::Reign;
    use super::super::replica::{Opened, RoleKind, Setup};
    use super::*;
    use crate::ids::PartitionId;
    use crate::log::format::DirectoryId;
    use crate::log::record::RecordSeed;
    use crate::message::MessageMeter;

    const PARTITION: PartitionId = PartitionId(0);
    const EPOCH: u64 = 5;

    /// A candidate of three, with three records of an epoch of which the others have more.
    struct Candidate {
        replica: Replica,
        pool: BatchPool,
    }

    impl Candidate {
        fn new() -> Self {
            let setup = Setup {
                node: NodeId(1),
                partition: PARTITION,
                members: vec![NodeId(1), NodeId(2), NodeId(3)],
                seed: RecordSeed::new(&DirectoryId([1; 16]), PARTITION),
                record_bytes_max: 1000,
                counts_memory: false,
                window_bytes: 1 << 20,
            };
            let reign = Reign { epoch: 1, ..Reign::default() };
            let epochs = report(1, 3, None).epochs;
            let opened = Opened { reign, next: Offset(3), epochs, ..Opened::default() };
            let mut replica = Replica::new(setup, opened);
            (2..=3).for_each(|node| replica.on_link_up(NodeId(node)));
            replica.campaign(EPOCH);
            replica.on_revoked();
            replica.on_epoch_durable(EPOCH);
            let mut candidate = Self { replica, pool: BatchPool::new(MessageMeter::leaked()) };
            candidate.sends();
            candidate
        }

        /// What it has sent since this was asked.
        fn sends(&mut self) -> Vec<(u16, Message)> {
            let mut commands = Vec::new();
            self.replica.take_commands(&mut commands);
            let sent = |command| match command {
                Command::Send { to, message, .. } => Some((to.0, message.message)),
                _ => None,
            };
            commands.into_iter().filter_map(sent).collect()
        }

        fn hears(&mut self, from: u16, message: Message) -> Vec<(u16, Message)> {
            let envelope = Envelope { partition: PARTITION, epoch: EPOCH, message };
            self.replica.on_message(NodeId(from), &envelope, [][..].into(), &mut self.pool);
            self.sends()
        }

        fn hears_report(&mut self, from: u16, report: Report) -> Vec<(u16, Message)> {
            self.hears(from, Message::Fenced(Box::new(report)))
        }

        fn hears_nothing(&mut self, from: u16) -> Vec<(u16, Message)> {
            let run = Run { base: Offset(3), ..Run::default() };
            self.hears(from, Message::Fetched(Fetched { run, next: Offset(6) }))
        }
    }

    fn asks(sent: &[(u16, Message)]) -> Vec<u16> {
        let fetches = |message: &Message| matches!(message, Message::Fetch(f) if f.from.0 == 3);
        sent.iter().filter(|(_, message)| fetches(message)).map(|(to, _)| *to).collect()
    }

    #[test]
    fn who_had_nothing_to_give_is_not_asked_again_while_another_one_has_the_same() {
        let mut candidate = Candidate::new();
        assert_eq!(asks(&candidate.hears_report(2, report(1, 6, None))), [2]);
        assert_eq!(asks(&candidate.hears_report(3, report(1, 6, None))), [], "one is asked");
        assert_eq!(asks(&candidate.hears_nothing(2)), [3]);
        assert_eq!(asks(&candidate.hears_nothing(2)), [], "that came twice");
        assert_eq!(asks(&candidate.hears_report(2, report(1, 6, None))), []);
        candidate.replica.end_turn(crate::time::Nanos(1_000_000_000));
        assert_eq!(asks(&candidate.sends()), [3], "the question may be lost");
        assert_eq!(candidate.replica.role(), RoleKind::Candidate);
        // Now nobody is left, and it ends.
        assert!(matches!(candidate.hears_nothing(3)[..], [(_, Message::TakeOver)]));
        assert_eq!(candidate.replica.role(), RoleKind::Follower);
    }

    #[test]
    fn whoever_has_yet_to_report_is_waited_for_and_less_is_never_made_do_with() {
        let mut candidate = Candidate::new();
        assert_eq!(asks(&candidate.hears_report(2, report(1, 6, None))), [2]);
        assert_eq!(candidate.hears_nothing(2), [], "the third may have them");
        assert_eq!(candidate.replica.role(), RoleKind::Candidate);
        assert_eq!(asks(&candidate.hears_report(3, report(1, 6, None))), [3]);

        let mut candidate = Candidate::new();
        candidate.hears_report(2, report(1, 6, None));
        candidate.hears_nothing(2);
        let less = candidate.hears_report(3, report(1, 5, None));
        assert!(matches!(less[..], [(2, Message::TakeOver)]), "{less:?}");
        assert_eq!(candidate.replica.role(), RoleKind::Follower);

        let mut candidate = Candidate::new();
        candidate.hears_report(2, report(1, 6, None));
        candidate.hears_report(3, report(1, 6, Some((1, 9))));
        let damaged = candidate.hears_nothing(2);
        assert!(matches!(damaged[..], [(2, Message::TakeOver)]), "{damaged:?}");
    }

    fn report(epoch: u64, next: u64, damage: Option<(u64, u64)>) -> Report {
        let mut epochs = EpochTable::new();
        epochs.push(epoch, Offset(0));
        let damage = damage.map(|(epoch, watermark)| Claim { epoch, watermark: Offset(watermark) });
        Report { next: Offset(next), damage, epochs, ..Report::default() }
    }

    fn chosen(own: Report, others: &[Report], members: usize) -> Option<u16> {
        let numbered: Vec<_> =
            others.iter().zip(2..).map(|(report, node)| (NodeId(node), report.clone())).collect();
        choose((NodeId(1), &own), &numbered, members).map(|(node, _)| node.0)
    }

    #[test]
    fn the_most_complete_log_of_a_majority_wins() {
        let whole = |epoch, next| report(epoch, next, None);
        assert_eq!(chosen(whole(1, 5), &[], 1), Some(1));
        assert_eq!(chosen(whole(1, 5), &[], 3), None, "one of three");
        assert_eq!(chosen(whole(1, 5), &[whole(1, 5)], 3), Some(1), "its own, if both are equal");
        assert_eq!(chosen(whole(1, 5), &[whole(1, 6)], 3), Some(2));
        assert_eq!(chosen(whole(1, 9), &[whole(2, 6)], 3), Some(2), "the epoch counts first");
        assert_eq!(chosen(whole(1, 9), &[whole(2, 6), whole(2, 7)], 5), Some(3));
    }

    #[test]
    fn who_was_started_anew_does_not_show_what_was_in_memory() {
        let whole = |epoch, next| report(epoch, next, None);
        let anew = |epoch, next, memory_lost| Report { memory_lost, ..whole(epoch, next) };
        assert_eq!(chosen(whole(3, 5), &[anew(3, 5, 3)], 3), None, "the third may have more");
        assert_eq!(chosen(anew(3, 5, 3), &[whole(3, 5)], 3), None);
        assert_eq!(chosen(whole(3, 5), &[anew(3, 5, 3), whole(3, 6)], 3), Some(3));
        assert_eq!(chosen(anew(3, 9, 3), &[anew(3, 5, 3), anew(2, 9, 3)], 3), Some(1), "all");
        assert_eq!(chosen(whole(4, 5), &[anew(3, 5, 3)], 3), Some(1), "epoch 4 began with all");
        assert_eq!(chosen(anew(4, 5, 3), &[anew(4, 5, 4)], 3), None);
        assert_eq!(chosen(whole(2, 9), &[anew(3, 6, 2), whole(2, 7)], 5), Some(2));
        let damaged = Report { memory_lost: 3, ..report(3, 2, Some((3, 5))) };
        assert_eq!(
            chosen(whole(3, 5), core::slice::from_ref(&damaged), 3),
            None,
            "nor does a damaged one that was"
        );
        assert_eq!(chosen(whole(3, 5), &[damaged, anew(3, 4, 3)], 3), Some(1), "all");
    }

    #[test]
    fn a_damaged_log_counts_and_is_never_chosen() {
        let whole = |epoch, next| report(epoch, next, None);
        let damaged = |claim| report(1, 2, Some(claim));
        assert_eq!(chosen(whole(1, 5), &[damaged((1, 5))], 3), Some(1), "it had no more");
        assert_eq!(chosen(whole(1, 5), &[damaged((1, 6))], 3), None, "it may have had more");
        assert_eq!(chosen(whole(1, 5), &[damaged((2, 1))], 3), None);
        let filled = Report { next: Offset(6), ..damaged((1, 3)) };
        assert_eq!(chosen(whole(1, 5), &[filled], 3), None, "it has got more since");
        assert_eq!(chosen(whole(2, 5), &[damaged((1, 60))], 3), Some(1));
        assert_eq!(chosen(whole(1, 5), &[damaged((9, 9)), whole(1, 4)], 3), Some(1));
        let gone = report(0, 0, Some((u64::MAX, u64::MAX)));
        assert_eq!(chosen(whole(1, 5), &[gone.clone(), gone], 3), None);
    }
}
