//! What was published, and what the broker said of each message.

use super::proof::Proof;
use ringlane_mqtt::QoS;
use std::collections::HashMap;

/// What a stream is there for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Messages like any.
    Live,
    /// Messages that are retained; some clear the topic.
    Retained,
    /// Will messages.
    Will,
}

/// What became of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// Sent, or perhaps sent: it may come or not.
    Unknown,
    /// Acknowledged: it must come.
    Kept,
    /// Refused, or withdrawn: it must not come.
    Refused,
}

/// One message of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) fate: Fate,
    /// An empty retained message, which clears its topic.
    pub(super) clears: bool,
    /// How often it was sent; with QoS 1 each may become a message of its own.
    pub(super) sends: u32,
    /// The cycle in which it was published.
    pub(super) cycle: u32,
}

/// Messages that must keep their order: one publisher, topic and QoS.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) kind: Kind,
    publisher: u32,
    number: u32,
    pub(super) topic: String,
    pub(super) qos: QoS,
    pub(super) entries: Vec<Entry>,
}

impl Stream {
    /// Acknowledged messages that can be told apart: not those that clear a topic.
    pub(super) fn kept(&self) -> u64 {
        let is_kept = |entry: &&Entry| entry.fate == Fate::Kept && !entry.clears;
        self.entries.iter().filter(is_kept).count() as u64
    }
}

/// A message: its stream and its place in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct MessageId {
    pub(super) stream: usize,
    pub(super) sequence: u64,
}

/// All streams of a run.
#[derive(Debug)]
pub(super) struct Book {
    run: u64,
    pub(super) streams: Vec<Stream>,
    by_place: HashMap<(u32, u32, u8), usize>,
    by_topic: HashMap<String, Kind>,
}

impl Book {
    pub(super) fn new(run: u64) -> Self {
        Self { run, streams: Vec::new(), by_place: HashMap::new(), by_topic: HashMap::new() }
    }

    /// Adds a stream and returns its index.
    pub(super) fn add_stream(
        &mut self,
        kind: Kind,
        publisher: u32,
        number: u32,
        topic: String,
        qos: QoS,
    ) -> usize {
        let index = self.streams.len();
        self.by_place.insert((publisher, number, qos as u8), index);
        self.by_topic.insert(topic.clone(), kind);
        self.streams.push(Stream { kind, publisher, number, topic, qos, entries: Vec::new() });
        index
    }

    /// Enters a message that is about to be sent.
    pub(super) fn invoke(&mut self, stream: usize, clears: bool, cycle: u32) -> MessageId {
        let entries = &mut self.streams[stream].entries;
        entries.push(Entry { fate: Fate::Unknown, clears, sends: 0, cycle });
        MessageId { stream, sequence: entries.len() as u64 - 1 }
    }

    pub(super) fn entry(&self, id: MessageId) -> Entry {
        self.streams[id.stream].entries[id.sequence as usize]
    }

    pub(super) fn settle(&mut self, id: MessageId, fate: Fate) {
        self.streams[id.stream].entries[id.sequence as usize].fate = fate;
    }

    /// Enters that a message is sent, for the first time or again.
    pub(super) fn on_send(&mut self, id: MessageId) {
        self.streams[id.stream].entries[id.sequence as usize].sends += 1;
    }

    /// How many messages the broker may make of one.
    pub(super) fn copies_max(&self, id: MessageId) -> u32 {
        if self.stream(id).qos == QoS::AtLeastOnce { self.entry(id).sends.max(1) } else { 1 }
    }

    pub(super) fn stream(&self, id: MessageId) -> &Stream {
        &self.streams[id.stream]
    }

    /// The payload of a message.
    pub(super) fn payload(&self, id: MessageId, payload_bytes: usize) -> Vec<u8> {
        let mut payload = Vec::new();
        if !self.entry(id).clears {
            let stream = self.stream(id);
            let proof = Proof {
                run: self.run,
                publisher: stream.publisher,
                topic: stream.number,
                sequence: id.sequence,
                qos: stream.qos,
            };
            proof.write(&mut payload, payload_bytes);
        }
        payload
    }

    /// Whether an empty payload can come under a topic.
    pub(super) fn is_cleared_topic(&self, topic: &str) -> bool {
        self.by_topic.get(topic) == Some(&Kind::Retained)
    }

    /// Which message a delivery is.
    ///
    /// # Errors
    /// Why it is none of this run's, in words.
    pub(super) fn find(&self, topic: &str, payload: &[u8]) -> Result<MessageId, String> {
        let Some(proof) = Proof::read(payload) else {
            return Err(format!("{} bytes on {topic:?} prove nothing", payload.len()));
        };
        if proof.run != self.run {
            return Err(format!("a message of run {:x} on {topic:?}", proof.run));
        }
        let place = (proof.publisher, proof.topic, proof.qos as u8);
        let Some(stream) = self.by_place.get(&place).copied() else {
            return Err(format!("a message of a stream that there is not: {proof:?}"));
        };
        let id = MessageId { stream, sequence: proof.sequence };
        if proof.sequence >= self.streams[stream].entries.len() as u64 {
            return Err(format!("{}, which was never published", self.name(id)));
        }
        if self.streams[stream].topic != topic {
            return Err(format!("{} under the topic {topic:?}", self.name(id)));
        }
        Ok(id)
    }

    /// Acknowledged messages.
    pub(super) fn kept(&self) -> u64 {
        self.streams.iter().map(Stream::kept).sum()
    }

    /// A message in words.
    pub(super) fn name(&self, id: MessageId) -> String {
        let stream = self.stream(id);
        let cycle = stream.entries.get(id.sequence as usize).map(|entry| entry.cycle);
        let cycle = cycle.map(|cycle| format!(" of cycle {cycle}")).unwrap_or_default();
        format!("message {}{cycle} of {} with QoS {}", id.sequence, stream.topic, stream.qos as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_found_or_said_to_be_strange() {
        let mut book = Book::new(9);
        let stream = book.add_stream(Kind::Live, 1, 2, "a/b".into(), QoS::AtLeastOnce);
        let id = book.invoke(stream, false, 3);
        let payload = book.payload(id, 50);
        assert_eq!(book.find("a/b", &payload), Ok(id));
        assert!(book.find("a/c", &payload).unwrap_err().contains("under the topic"));
        assert!(book.find("a/b", &payload[1..]).unwrap_err().contains("prove nothing"));
        let mut other = Book::new(8);
        other.add_stream(Kind::Live, 1, 2, "a/b".into(), QoS::AtLeastOnce);
        assert!(other.find("a/b", &payload).unwrap_err().contains("run 9"));
        let mut empty = Book::new(9);
        assert!(empty.find("a/b", &payload).unwrap_err().contains("there is not"));
        empty.add_stream(Kind::Live, 1, 2, "a/b".into(), QoS::AtLeastOnce);
        assert!(empty.find("a/b", &payload).unwrap_err().contains("never published"));
    }

    #[test]
    fn what_clears_a_topic_is_empty() {
        let mut book = Book::new(9);
        let stream = book.add_stream(Kind::Retained, 1, 0, "r".into(), QoS::ExactlyOnce);
        let id = book.invoke(stream, true, 0);
        assert!(book.payload(id, 64).is_empty());
        assert!(book.is_cleared_topic("r") && !book.is_cleared_topic("q"));
        book.settle(id, Fate::Kept);
        assert_eq!(book.entry(id).fate, Fate::Kept);
    }
}
