//! One publisher of a flow: what it sent, and what of it is still on its way.

use super::acks::Acks;
use super::plan::{FlowOptions, FlowPlan, Pace, PublisherPlan};
use crate::fleet::{Member, Target};
use crate::payload::{PublishTemplate, Stamp};
use crate::swarm::{LinkId, Swarm};
use ringlane_mqtt::QoS;

/// A publisher.
pub(super) struct Stream {
    pub(super) link: LinkId,
    template: PublishTemplate,
    pub(super) qos: QoS,
    pub(super) sent: u64,
    /// Open loop: one past the last message that is due.
    pub(super) due: u64,
    /// Open loop: messages that became due since it was last looked at.
    pub(super) fresh: u64,
    pub(super) acks: Acks,
    /// One past the last message that is with every listener, or given up as lost.
    pub(super) completed: u64,
    copies: u32,
    /// How many listeners have message n, at n modulo the length; empty with one listener.
    seen: Vec<u32>,
    /// When one of its messages last arrived or was sent after a pause.
    pub(super) moved_ns: u64,
    pub(super) queued: bool,
}

impl Stream {
    fn new(
        target: &Target,
        options: &FlowOptions,
        member: &Member,
        plan: &PublisherPlan,
        copies: u32,
        window: u64,
    ) -> Self {
        let is_counted = copies > 1 && options.pace == Pace::Window;
        let ring = if is_counted && window > 0 { window.next_power_of_two() } else { 0 };
        Self {
            link: member.link,
            template: PublishTemplate::new(
                target.version,
                options.qos,
                &plan.topic,
                options.payload_bytes,
            ),
            qos: options.qos,
            sent: 0,
            due: 0,
            fresh: 0,
            acks: Acks::default(),
            completed: 0,
            copies,
            seen: vec![0; usize::try_from(ring).unwrap_or_default()],
            moved_ns: 0,
            queued: false,
        }
    }

    /// Messages that were sent and not acknowledged; 0 with QoS 0.
    pub(super) fn in_flight(&self) -> u64 {
        if self.qos == QoS::AtMostOnce { 0 } else { self.sent - self.acks.done() }
    }

    /// Messages on their way to a listener, or, with QoS 1 and 2, not yet acknowledged.
    pub(super) fn outstanding(&self) -> u64 {
        let undelivered = if self.copies == 0 { 0 } else { self.sent - self.completed };
        undelivered.max(self.in_flight())
    }

    pub(super) fn packet_bytes(&self) -> usize {
        self.template.packet_bytes()
    }

    /// Queues messages; `sent_ns` says from when the latency of one counts.
    pub(super) fn publish(
        &mut self,
        swarm: &mut Swarm,
        index: usize,
        count: u64,
        now_ns: u64,
        sent_ns: impl Fn(u64) -> u64,
    ) {
        if self.completed == self.sent {
            self.moved_ns = now_ns;
        }
        let Some(out) = swarm.out(self.link) else { return };
        let stream = u32::try_from(index).unwrap_or(u32::MAX);
        let acknowledged = self.qos != QoS::AtMostOnce;
        for sequence in self.sent..self.sent + count {
            let stamp = Stamp { stream, sequence, sent_ns: sent_ns(sequence) };
            let mut packet_id = 0;
            if acknowledged {
                packet_id = Acks::packet_id(sequence);
                self.acks.push(stamp.sent_ns);
            }
            self.template.write(out, packet_id, stamp);
        }
        self.sent += count;
    }

    /// One listener has, or will never have, the messages `first..=last`.
    pub(super) fn complete(&mut self, first: u64, last: u64) {
        if self.copies == 1 {
            self.completed = self.completed.max(last + 1).min(self.sent);
            return;
        }
        if self.seen.is_empty() {
            return;
        }
        let mask = self.seen.len() as u64 - 1;
        for sequence in first.max(self.completed)..=last {
            self.seen[(sequence & mask) as usize] += 1;
        }
        while self.completed < self.sent
            && self.seen[(self.completed & mask) as usize] >= self.copies
        {
            self.seen[(self.completed & mask) as usize] = 0;
            self.completed += 1;
        }
    }

    /// Gives up what has not arrived.
    pub(super) fn forget_missing(&mut self) {
        self.completed = self.sent;
        self.seen.fill(0);
    }
}

/// A stream per publisher of the plan.
pub(super) fn streams(
    target: &Target,
    plan: &FlowPlan,
    options: &FlowOptions,
    publishers: &[Member],
    window: u64,
) -> Vec<Stream> {
    let mut copies = vec![0u32; plan.publishers.len()];
    let receivers = if plan.shared { 1 } else { plan.listeners.len() };
    for listener in &plan.listeners[..receivers.min(plan.listeners.len())] {
        for stream in listener.streams.clone() {
            copies[stream] += 1;
        }
    }
    let members = publishers.iter().zip(&plan.publishers).zip(&copies);
    members
        .map(|((member, plan), copies)| Stream::new(target, options, member, plan, *copies, window))
        .collect()
}
