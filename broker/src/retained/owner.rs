//! The owner of a topic: keeps its retained message and answers queries batch by batch.

use crate::mail::{Mail, ProbeFor, RetainedMail};
use crate::service::sizes::RETAINED_BATCH;
use crate::service::{Broker, Timer, Turn};
use crate::session::SessionId;
use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::message::Message;
use ringlane_dataplane::routing::{QueryProgress, RecordId, SetOutcome};
use ringlane_dataplane::time::Nanos;
use std::time::Duration;

/// How often expired retained messages are looked for, and how many topics at once.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
const SWEEP_BATCH: usize = 1024;
/// Between two batches of one sweep.
const SWEEP_PAUSE: Duration = Duration::from_millis(5);

/// The owner's unfinished work.
#[derive(Debug, Default)]
pub(crate) struct RetainedTasks {
    sweep_armed: bool,
    sweep_from: Option<Box<str>>,
    queries: Vec<WaitingQuery>,
    next_token: u32,
    /// Probes that wait until a mailbox has taken everything committed before them.
    pub(super) probes: Vec<(CoreId, ProbeFor)>,
}

/// A query whose answer must know everything that was committed before it was asked.
#[derive(Debug)]
struct WaitingQuery {
    token: u32,
    probes_left: u16,
    from: CoreId,
    session: SessionId,
    query: u32,
    filter: Box<str>,
}

impl Broker {
    /// Keeps, replaces or clears a retained message. False if the store is at its bound, or too many
    /// wait for the log.
    pub(crate) fn apply_retained(
        &mut self,
        turn: &mut Turn<'_>,
        message: &Message,
        record: RecordId,
    ) -> bool {
        if self.refuses_retained(message.topic()) {
            self.metrics.retained_refused.add(1);
            return false;
        }
        let message = self.maker.lasting(message);
        let stored = self.keep_retained(turn, &message, record);
        if stored {
            self.record_retained(turn, &message, record);
        }
        stored
    }

    /// The same for one that is in the log of its topic's partition.
    pub(crate) fn keep_retained(
        &mut self,
        turn: &mut Turn<'_>,
        message: &Message,
        record: RecordId,
    ) -> bool {
        if message.head().expires_at != Nanos::NEVER {
            self.arm_retained_sweep(turn);
        }
        let outcome = self.retained.set(self.maker.lasting(message), record);
        self.metrics.retained_messages.set(self.retained.count() as u64);
        self.metrics.retained_bytes.set(self.retained.bytes() as u64);
        if outcome == SetOutcome::Refused {
            self.metrics.retained_refused.add(1);
        }
        outcome != SetOutcome::Refused
    }

    /// Arms the sweep with the first message that can expire.
    fn arm_retained_sweep(&mut self, turn: &mut Turn<'_>) {
        if !self.retained_tasks.sweep_armed {
            self.retained_tasks.sweep_armed = true;
            turn.timers.schedule(turn.now + SWEEP_EVERY, Timer::RetainedSweep);
        }
    }

    pub(crate) fn on_retained_sweep(&mut self, turn: &mut Turn<'_>) {
        let from = self.retained_tasks.sweep_from.take();
        let next = self.retained.sweep_expired(turn.now, from, SWEEP_BATCH);
        let pause = if next.is_some() { SWEEP_PAUSE } else { SWEEP_EVERY };
        self.retained_tasks.sweep_from = next;
        turn.timers.schedule(turn.now + pause, Timer::RetainedSweep);
        self.metrics.retained_messages.set(self.retained.count() as u64);
        self.metrics.retained_bytes.set(self.retained.bytes() as u64);
    }

    pub(crate) fn on_retained_mail(
        &mut self,
        turn: &mut Turn<'_>,
        from: CoreId,
        mail: RetainedMail,
    ) {
        match mail {
            RetainedMail::Query { session, query, filter, after: None } => {
                self.begin_query(turn, from, session, query, filter);
            }
            RetainedMail::Query { session, query, filter, after } => {
                self.answer_query(turn, from, session, query, &filter, after.as_deref());
            }
            RetainedMail::Answer { session, query, messages, after } => {
                self.on_answer(turn, from, session, query, messages, after);
            }
            RetainedMail::Probe(waiter) => {
                self.retained_tasks.probes.push((from, waiter));
                self.answer_probes(turn);
            }
            RetainedMail::ProbeDone(ProbeFor::Subscriber { session, query }) => {
                self.on_probe_done(turn, session, query);
            }
            RetainedMail::ProbeDone(ProbeFor::Owner { token }) => {
                self.on_owner_probe_done(turn, token);
            }
        }
    }

    /// The first batch: a retained message that another core committed before the subscriber's
    /// filter came to it may still be on its way here, and would be missed. Every core says that
    /// there is none.
    fn begin_query(
        &mut self,
        turn: &mut Turn<'_>,
        from: CoreId,
        session: SessionId,
        query: u32,
        filter: Box<str>,
    ) {
        let probes_left = self.cores() - 1;
        if probes_left == 0 {
            return self.answer_query(turn, from, session, query, &filter, None);
        }
        let token = self.retained_tasks.next_token;
        self.retained_tasks.next_token = token.wrapping_add(1);
        let waiting = WaitingQuery { token, probes_left, from, session, query, filter };
        self.retained_tasks.queries.push(waiting);
        self.broadcast(turn, || {
            Mail::Retained(Box::new(RetainedMail::Probe(ProbeFor::Owner { token })))
        });
    }

    fn on_owner_probe_done(&mut self, turn: &mut Turn<'_>, token: u32) {
        let queries = &mut self.retained_tasks.queries;
        let Some(index) = queries.iter().position(|waiting| waiting.token == token) else { return };
        queries[index].probes_left -= 1;
        if queries[index].probes_left == 0 {
            let WaitingQuery { from, session, query, filter, .. } = queries.swap_remove(index);
            self.answer_query(turn, from, session, query, &filter, None);
        }
    }

    fn answer_query(
        &mut self,
        turn: &mut Turn<'_>,
        to: CoreId,
        session: SessionId,
        query: u32,
        filter: &str,
        after: Option<&str>,
    ) {
        let mut messages = Vec::new();
        let mut keep = |message: &Message, record| messages.push((message.clone(), record));
        let progress = self.retained.query(filter, after, RETAINED_BATCH, turn.now, &mut keep);
        let after = match progress {
            QueryProgress::Done => None,
            QueryProgress::More { after } => Some(after),
        };
        let answer = RetainedMail::Answer { session, query, messages, after };
        self.send_mail(turn, to, Mail::Retained(Box::new(answer)));
    }
}
