//! From a message to the clients of this core.
//!
//! A message is matched once; each session gets it once, with the highest QoS of its matching
//! subscriptions [MQTT-3.3.4-2]; and the bytes of a PUBLISH to many are encoded once per form, not
//! once per subscriber.

mod fan_out;
mod owed;
mod owed_forms;
mod posted;
mod pressure;
mod qos0;
mod routes;
mod run;
mod subscriber;
mod upkeep;
mod view;

pub(crate) use owed::{count_publish, write_pending};
pub(crate) use owed_forms::OwedForms;
pub(crate) use posted::{Posted, PostedFilters};
pub(crate) use pressure::{OUTPUT_WAIT, has_room_again};
pub(crate) use qos0::Forms;
pub(crate) use routes::{Routes, TakenOut};
pub(crate) use run::{Forwarded, Matched, RunDelivery};
pub(crate) use subscriber::{Subscriber, Subscribers, Target};
pub(crate) use upkeep::UpkeepList;
pub(crate) use view::{MessageMaker, View};

/// The posting number that a message has in one of this core's partitions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PostedAs {
    /// Where the partition stands in this core's table.
    pub(crate) partition: u16,
    pub(crate) posting: u64,
}

/// Buffers that are reused from message to message.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) matched: Vec<Subscriber>,
    /// The filters that the message in hand is posted for, and its posting numbers.
    pub(crate) posted: Vec<Posted>,
    pub(crate) postings: Vec<PostedAs>,
    pub(crate) forms: Forms,
    pub(crate) owed_forms: OwedForms,
    /// Subscription identifiers of one delivery.
    pub(crate) ids: Vec<u32>,
    /// Forwarded properties of one publish.
    pub(crate) properties: Vec<u8>,
    /// MQTT bytes out of WebSocket frames.
    pub(crate) frames: Vec<u8>,
    pub(crate) inboxes: SpareBuffers,
}

/// Buffers of connections that need none at the moment: an idle connection holds no buffer, and a
/// busy one does not allocate for each torn packet.
#[derive(Debug, Default)]
pub(crate) struct SpareBuffers(Vec<Vec<u8>>);

/// Buffers kept, and the largest one that is: 4 MiB per core at most.
const SPARE_BUFFERS_MAX: usize = 256;
const SPARE_BUFFER_BYTES_MAX: usize = 16 * 1024;

impl SpareBuffers {
    /// An empty buffer.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    /// Takes a buffer back that is not needed any more.
    pub(crate) fn give_back(&mut self, mut buffer: Vec<u8>) {
        let worth_it = 1..=SPARE_BUFFER_BYTES_MAX;
        if worth_it.contains(&buffer.capacity()) && self.0.len() < SPARE_BUFFERS_MAX {
            buffer.clear();
            self.0.push(buffer);
        }
    }
}
