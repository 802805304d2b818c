//! What a host needs of whoever runs it.

use crate::batch::BatchPool;
use crate::disk::Disk;
use crate::ids::{NodeId, Offset};
use crate::link::{Body, Unsent};
use crate::log::reader::ReadError;
use crate::log::record::Record;
use crate::partition::Partition;
use crate::replication::command::Errand;
use crate::replication::message::CheckpointStart;
use crate::time::Nanos;

/// What a call has to work with. `A` is what somebody waits with for a record.
#[derive(Debug)]
pub struct Turn<'a, A> {
    /// The time.
    pub now: Nanos,
    /// The time of day, in milliseconds since 1970.
    pub unix_ms: u64,
    /// The batches of the core.
    pub pool: &'a mut BatchPool,
    /// Its disk.
    pub disk: &'a mut Disk,
    /// The partition with its log.
    pub partition: &'a mut Partition<A>,
}

/// Around a host: links, the control plane, and the state that its records make.
pub trait Outside {
    /// Puts a message on the link to a node, as [`Links::send`](crate::link::Links::send).
    ///
    /// # Errors
    /// [`Unsent`]; nothing was taken. After [`Unsent::NoRoom`] `on_room` of the replica is called when
    /// there is some.
    fn send(&mut self, to: NodeId, head: &[u8], body: Option<Body>) -> Result<(), Unsent>;

    /// Asks for something, or says what is new. It is done after the call that this is part of.
    fn ask(&mut self, ask: Ask);

    /// The next record below the high watermark, each once: what all nodes agree on for ever. None comes from where this
    /// node's own epoch begins on, until it follows again.
    fn apply(&mut self, record: &Record<'_>);

    /// As `apply` of so many records of one epoch from an offset on, which are messages and nothing else
    /// ([`RecordHead::is_plain`](crate::log::record::RecordHead::is_plain)). `false`: it is each of them that is
    /// wanted.
    fn pass(&mut self, first: Offset, records: u64, epoch: u64) -> bool {
        let _ = (first, records, epoch);
        false
    }
}

/// What a host asks for, and what it says.
#[derive(Debug)]
pub enum Ask {
    /// What the replica asks for and a host cannot do.
    Errand(Errand),
    /// The log is closed. It is to lose its records from here on
    /// ([`truncate`](crate::log::truncate::truncate)), then
    /// [`Host::on_truncated`](super::Host::on_truncated).
    Truncate {
        /// Offset of the first to go.
        to: Offset,
    },
    /// The log is closed, and a checkpoint is whole in its directory. They are to take the place of what was here
    /// ([`reset`](crate::log::reset::reset())), then [`Host::on_reset`](super::Host::on_reset).
    Replace {
        /// What it is.
        start: CheckpointStart,
    },
    /// Clients may be answered. All below `start` was applied.
    Lead {
        /// The epoch.
        epoch: u64,
        /// Offset of its first record.
        start: Offset,
    },
    /// No client is answered any more. Those who waited for a record are never told.
    Follow {
        /// Who leads, as far as is known.
        leader: Option<NodeId>,
    },
    /// The marks of the cluster.
    Marks {
        /// In the logs of a majority.
        quorum_accepted: Offset,
        /// Durable on a majority.
        high_watermark: Offset,
    },
    /// Records that the log cannot be read for: the state lacks them now, or another node that needs them.
    Lost(ReadError),
}
