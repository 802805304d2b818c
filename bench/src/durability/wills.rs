//! Clients with a will: one per cycle, which leaves in order, is cut off, or is there when the
//! broker ends.

use super::book::{Fate, MessageId};
use super::choice::Choice;
use super::findings::Check;
use super::journal::Journal;
use crate::fleet::Target;
use crate::link::LinkOptions;
use crate::login::{Login, WillPlan};
use crate::swarm::{Leave, LinkId, Swarm};
use anyhow::Result;
use ringlane_mqtt::{ReasonCode, encode};
use serde_json::json;

/// What the client of a cycle will do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Plan {
    /// DISCONNECT, before the load: its will must not come.
    Leave,
    /// A reset during the load: its will must come.
    Cut,
    /// It is there when the fault comes: its will must come.
    Stay,
}

/// How far the present client is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Nobody,
    Asked,
    Online,
    Left,
}

/// The clients with a will.
#[derive(Debug)]
pub(super) struct Wills {
    prefix: String,
    /// Streams of wills, one per QoS.
    streams: Vec<usize>,
    link: Option<LinkId>,
    step: Step,
    plan: Plan,
    message: MessageId,
    /// Wills that must come.
    promised: Vec<MessageId>,
}

impl Wills {
    pub(super) fn new(prefix: String, streams: Vec<usize>) -> Self {
        let message = MessageId { stream: 0, sequence: 0 };
        let promised = Vec::new();
        Self {
            prefix,
            streams,
            link: None,
            step: Step::Nobody,
            plan: Plan::Stay,
            message,
            promised,
        }
    }

    /// Connects the client of a cycle.
    ///
    /// # Errors
    /// If there is no socket.
    pub(super) fn begin(
        &mut self,
        swarm: &mut Swarm,
        target: &Target,
        choice: &mut Choice,
        journal: &mut Journal,
    ) -> Result<Option<LinkId>> {
        let Some(stream) = self.streams.get(choice.below(self.streams.len() as u64) as usize)
        else {
            return Ok(None);
        };
        self.plan = [Plan::Leave, Plan::Cut, Plan::Stay][choice.below(3) as usize];
        self.message = journal.book.invoke(*stream, false, journal.cycle);
        let name = format!("{}{}", self.prefix, journal.cycle);
        let plan = WillPlan {
            topic: journal.book.stream(self.message).topic.clone(),
            payload: journal.book.payload(self.message, journal.payload_bytes),
            qos: journal.book.stream(self.message).qos,
        };
        let is_clean = choice.one_in(2);
        let login = if is_clean { Login::clean(name) } else { Login::persistent(name) };
        let login = Login { will: Some(plan), ..login };
        let options =
            LinkOptions { acknowledge: false, ..LinkOptions::mqtt(target.address, target.version) };
        let link = swarm.open(&options)?;
        if let Some(out) = swarm.out(link) {
            login.encode(target.version, out);
        }
        self.note("invoke", journal);
        (self.link, self.step) = (Some(link), Step::Asked);
        Ok(self.link)
    }

    /// Whether the load may begin.
    pub(super) fn is_ready(&self) -> bool {
        match self.step {
            Step::Nobody => true,
            Step::Asked | Step::Left => false,
            Step::Online => self.plan != Plan::Leave,
        }
    }

    pub(super) fn on_connack(&mut self, journal: &mut Journal, out: &mut Vec<u8>) {
        self.step = Step::Online;
        if self.plan == Plan::Leave {
            let version = journal.version;
            journal.book.settle(self.message, Fate::Refused);
            self.note("fail", journal);
            let normal = ReasonCode::NORMAL_DISCONNECTION;
            encode::disconnect(out, version, normal, None, None, None);
            self.step = Step::Left;
        }
    }

    /// The broker, or its end, closed the connection.
    pub(super) fn on_closed(&mut self, journal: &mut Journal) {
        match self.step {
            // It had no will yet, or one that nobody confirmed, or it has withdrawn it. The load waits
            // until the broker has closed after a DISCONNECT, so that no fault meets that.
            Step::Nobody | Step::Asked | Step::Left => {}
            Step::Online => self.promise(journal),
        }
        (self.link, self.step) = (None, Step::Nobody);
    }

    /// Somewhere in the load: the moment for a reset. Returns the link that is gone.
    pub(super) fn on_half_way(
        &mut self,
        swarm: &mut Swarm,
        journal: &mut Journal,
    ) -> Option<LinkId> {
        let is_due = self.plan == Plan::Cut && self.step == Step::Online;
        let link = self.link.filter(|_| is_due)?;
        swarm.close(link, Leave::Reset);
        self.on_closed(journal);
        Some(link)
    }

    fn promise(&mut self, journal: &mut Journal) {
        self.promised.push(self.message);
        self.note("ok", journal);
    }

    fn note(&self, kind: &str, journal: &mut Journal) {
        let topic = &journal.book.stream(self.message).topic;
        let details = || json!({"topic": topic, "seq": self.message.sequence});
        journal.history.add(&self.prefix, kind, "will", details);
    }

    /// The end of the run: from now on every promised will must come.
    pub(super) fn call_in(&mut self, journal: &mut Journal) -> Vec<MessageId> {
        for id in &self.promised {
            journal.book.settle(*id, Fate::Kept);
        }
        std::mem::take(&mut self.promised)
    }

    /// A CONNECT that was refused is a finding.
    pub(super) fn on_refused(&mut self, reason: ReasonCode, journal: &mut Journal) {
        let what = format!("a CONNECT with a will was refused with {:#04x}", reason.0);
        journal.violate(Check::Will, &self.prefix, &what);
        self.step = Step::Nobody;
    }
}
