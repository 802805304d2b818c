//! What an operator wants of the node that leads, by way of etcd: any host with the configuration of a node can
//! ask, who may write to etcd may, and the answer comes the same way.
//!
//! `transfer` is the wish, under a lease of whoever asks, so that one that nobody waits for any more is gone. The leader
//! of the epoch that it names either refuses or hands over; in both cases `transferred` says so under the number
//! of the wish: the old leader says why not, the next one that it leads.

use super::keys::{Id16, TRANSFER, TRANSFERRED, View, text};
use super::metadata::{LeaseId, Put, Transaction};
use serde::{Deserialize, Serialize};

/// The leader is to hand over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Transfer {
    /// Which wish this is; random.
    pub id: Id16,
    /// The epoch of the leader that is meant: a later one is not.
    pub epoch: u64,
    /// To whom; `None` is a follower that could lead at once.
    pub to: Option<u16>,
}

/// What came of a wish.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Transferred {
    /// Which one.
    pub id: Id16,
    /// Who leads now.
    pub leader: u16,
    /// In which epoch.
    pub epoch: u64,
    /// Why it was refused, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl Transfer {
    /// Writes the wish down.
    pub(super) fn put(&self, lease: LeaseId) -> Transaction {
        let put = Put { key: TRANSFER.to_owned(), value: text(self), lease: Some(lease) };
        Transaction { conditions: Vec::new(), puts: vec![put] }
    }
}

impl Transferred {
    /// Writes the answer down.
    pub(super) fn put(&self) -> Transaction {
        let put = Put { key: TRANSFERRED.to_owned(), value: text(self), lease: None };
        Transaction { conditions: Vec::new(), puts: vec![put] }
    }
}

/// The wish that nobody has answered yet, if there is one.
pub(super) fn open_wish(view: &View) -> Option<Transfer> {
    let answered = view.transferred.as_ref().map(|answer| answer.id);
    view.transfer.filter(|wish| answered != Some(wish.id))
}
