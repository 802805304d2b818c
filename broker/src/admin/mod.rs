//! What an operator asks of a core: to list what it owns, a bounded page at a time, and to delete it.
//!
//! Questions come as mails of the control thread, and each brings the channel of its answer. A
//! deletion is answered once it is durable.

mod groups;
mod logs;
mod retained;
mod sessions;
mod subscriptions;

use crate::ctl::rows::{
    GroupRow, Outcome, PartitionRow, RetainedRow, SessionChoice, SessionRow, SubscriptionChoice,
    SubscriptionRow,
};
use crate::service::{Broker, Turn};
use ringlane_dataplane::ids::PartitionId;
use ringlane_dataplane::log::writer::Admission;
use ringlane_dataplane::message::Message;
pub(crate) use subscriptions::SubscriptionPlace;
use tokio::sync::oneshot;

/// A question of the control thread.
#[derive(Debug)]
pub struct Ask(pub(crate) Question);

/// Where an answer goes. If nobody waits for it any more it is dropped.
pub(crate) type Reply<T> = oneshot::Sender<T>;

/// Names that one question may ask to be deleted.
pub(crate) const DELETED_PER_MAIL: usize = 64;

/// What is asked.
#[derive(Debug)]
pub(crate) enum Question {
    /// Sessions from a slot on.
    Sessions { from: u32, choose: SessionChoice, reply: Reply<Page<SessionRow, u32>> },
    /// The session of one client.
    Session { client_id: String, reply: Reply<Option<SessionRow>> },
    /// Shared-subscription groups from a slot on.
    Groups { from: u32, reply: Reply<Page<GroupRow, u32>> },
    /// Subscriptions from a place on.
    Subscriptions {
        from: SubscriptionPlace,
        choose: SubscriptionChoice,
        reply: Reply<Page<SubscriptionRow, SubscriptionPlace>>,
    },
    /// Retained messages strictly after a topic.
    Retained {
        filter: String,
        after: Option<Box<str>>,
        reply: Reply<Page<(RetainedRow, Message), Box<str>>>,
    },
    /// The logs of the core's partitions.
    Logs { reply: Reply<Vec<LogView>> },
    /// Ends sessions of one partition, at most [`DELETED_PER_MAIL`].
    EndSessions {
        partition: PartitionId,
        clients: Vec<String>,
        choose: SessionChoice,
        reply: Reply<Vec<Outcome>>,
    },
    /// Clears retained messages of topics of one partition, at most [`DELETED_PER_MAIL`].
    ClearRetained { partition: PartitionId, topics: Vec<String>, reply: Reply<Vec<Outcome>> },
}

/// A part of a list.
#[derive(Debug)]
pub(crate) struct Page<T, P> {
    pub(crate) rows: Vec<T>,
    /// Where the next page begins, if there is more.
    pub(crate) next: Option<P>,
}

/// A log, and how far the partition has matched the logs of all.
#[derive(Debug)]
pub(crate) struct LogView {
    pub(crate) row: PartitionRow,
    /// The first offset of each partition's log that this one has still to match.
    pub(crate) matched: Vec<(u32, u64)>,
}

/// What is told once it is durable.
#[derive(Debug)]
pub(crate) struct Deleted {
    outcomes: Vec<Outcome>,
    reply: Reply<Vec<Outcome>>,
}

impl Deleted {
    pub(crate) fn tell(self) {
        // Whoever asked may have given up.
        let _ = self.reply.send(self.outcomes);
    }
}

impl Broker {
    pub(crate) fn on_ask(&mut self, turn: &mut Turn<'_>, Ask(question): Ask) {
        // Whoever asked may have given up; then the answer is dropped.
        match question {
            Question::Sessions { from, choose, reply } => {
                drop(reply.send(self.list_sessions(turn, from, &choose)));
            }
            Question::Session { client_id, reply } => {
                drop(reply.send(self.show_session(turn, &client_id)));
            }
            Question::Groups { from, reply } => {
                drop(reply.send(self.list_groups(turn, from)));
            }
            Question::Subscriptions { from, choose, reply } => {
                drop(reply.send(self.list_subscriptions(from, &choose)));
            }
            Question::Retained { filter, after, reply } => {
                drop(reply.send(self.list_retained(turn, &filter, after.as_deref())));
            }
            Question::Logs { reply } => drop(reply.send(self.list_logs())),
            Question::EndSessions { partition, clients, choose, reply } => {
                let outcomes = self.end_sessions(turn, partition, &clients, &choose);
                self.tell_once_durable(partition, Deleted { outcomes, reply });
            }
            Question::ClearRetained { partition, topics, reply } => {
                let outcomes = self.clear_retained(turn, partition, &topics);
                self.tell_once_durable(partition, Deleted { outcomes, reply });
            }
        }
    }

    /// Why a partition's log does not take the end of a session now, if it does not.
    fn refuses_end(&self, partition: PartitionId, client_id: &str) -> Option<Outcome> {
        match self.end_admission(self.partition_index(partition), client_id) {
            Admission::Open => None,
            Admission::Busy => Some(Outcome::Busy),
            Admission::Full => Some(Outcome::Full),
            Admission::Poisoned => Some(Outcome::Failed),
        }
    }

    fn tell_once_durable(&mut self, partition: PartitionId, deleted: Deleted) {
        let index = self.durable_index(partition);
        match index.filter(|_| deleted.outcomes.contains(&Outcome::Deleted)) {
            Some(index) => self.tell_flushed(index, deleted),
            None => deleted.tell(),
        }
    }
}
