//! Probes: has a publisher's core mailed everything that it had committed?
//!
//! A retained message and the live messages before it reach a subscriber's core on different
//! mailboxes. The answer to a probe travels behind what was mailed before, so whoever has it knows
//! all of that: the subscriber's core the live messages, a topic's owner the retained ones.

use crate::mail::{Mail, RetainedMail};
use crate::service::{Broker, Turn};

impl Broker {
    /// Answers the probes of those cores whose cursors do not lag.
    pub(crate) fn answer_probes(&mut self, turn: &mut Turn<'_>) {
        if self.retained_tasks.probes.is_empty() {
            return;
        }
        for (to, waiter) in core::mem::take(&mut self.retained_tasks.probes) {
            if self.has_mailed_all(to) {
                let done = RetainedMail::ProbeDone(waiter);
                self.send_mail(turn, to, Mail::Retained(Box::new(done)));
            } else {
                self.retained_tasks.probes.push((to, waiter));
            }
        }
    }
}
