//! What every part of a run writes into: the book, the findings and the history.

use super::book::{Book, Kind, MessageId};
use super::findings::{Check, Findings};
use super::history::History;
use ringlane_mqtt::Version;

/// The common memory of a run.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) book: Book,
    pub(super) findings: Findings,
    pub(super) history: History,
    /// The cycle that runs.
    pub(super) cycle: u32,
    /// How often the broker was started.
    pub(super) life: u32,
    /// Another node may take over at any time, which is for clients as a start.
    pub(super) is_cluster: bool,
    /// What every client speaks.
    pub(super) version: Version,
    /// Bytes of a payload.
    pub(super) payload_bytes: usize,
    /// Answers of the broker to publishers so far.
    pub(super) answers: u64,
    /// Deliveries so far.
    pub(super) deliveries: u64,
    /// Repeats that the protocol allows.
    pub(super) repeats: u64,
}

impl Journal {
    /// Enters a finding of a client.
    pub(super) fn violate(&mut self, check: Check, who: &str, what: &str) {
        let text = format!("cycle {}, {who}: {what}", self.cycle);
        self.history.add(
            who,
            "info",
            "violation",
            || serde_json::json!({"check": check.name(), "text": text, "cycle": self.cycle}),
        );
        self.findings.add(check, text);
    }

    /// Enters a finding about a message: about a will, whatever it is, it is the will's check.
    pub(super) fn violate_message(&mut self, check: Check, who: &str, id: MessageId, what: &str) {
        let is_will = self.book.stream(id).kind == Kind::Will;
        let check = if is_will { Check::Will } else { check };
        let text = format!("{}: {what}", self.book.name(id));
        self.violate(check, who, &text);
    }
}
