//! What was found wrong, by the name of the check that found it.

use std::fmt;
use std::io::{self, Write};

/// A rule that every run must keep.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Check {
    /// An acknowledged publish is missing from a session that must have it.
    LostAck,
    /// A delivery of what was never published, was refused, is damaged, or was not subscribed to.
    Phantom,
    /// First deliveries of one publisher, topic and QoS are not in the order of publication.
    Order,
    /// A second release of one QoS 2 message in one session.
    Qos2Dup,
    /// A repeat without DUP, or without a reconnection.
    Qos1DupUnmarked,
    /// A delivery after the session's acknowledgement was itself confirmed, or of a filter whose
    /// end was confirmed.
    Resurrection,
    /// The retained message is neither the last acknowledged nor a later one.
    Retained,
    /// A will that is missing, doubled, or sent after an orderly end.
    Will,
    /// Session Present, subscriptions and what is in flight do not agree.
    SessionLie,
    /// No publish is acknowledged within the bound although the broker was started again.
    Stuck,
}

impl Check {
    /// Every check, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::LostAck,
        Self::Phantom,
        Self::Order,
        Self::Qos2Dup,
        Self::Qos1DupUnmarked,
        Self::Resurrection,
        Self::Retained,
        Self::Will,
        Self::SessionLie,
        Self::Stuck,
    ];

    /// Its number and name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LostAck => "L1 lost-ack",
            Self::Phantom => "L2 phantom",
            Self::Order => "L3 order",
            Self::Qos2Dup => "L4 qos2-dup",
            Self::Qos1DupUnmarked => "L5 qos1-dup-unmarked",
            Self::Resurrection => "L6 resurrection",
            Self::Retained => "L7 retained",
            Self::Will => "L8 will",
            Self::SessionLie => "L12 session-lie",
            Self::Stuck => "L13 stuck",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Findings of one check that are kept and shown in words; the others are counted.
const SHOWN_MAX: usize = 10;

/// Everything that was found.
#[derive(Clone, Default, Debug)]
pub struct Findings {
    found: [Vec<String>; Check::ALL.len()],
    counts: [u64; Check::ALL.len()],
    is_quiet: bool,
}

impl Findings {
    pub(super) fn new(is_quiet: bool) -> Self {
        Self { is_quiet, ..Self::default() }
    }

    /// Enters a finding, and shows it on standard error while there are few of its kind.
    pub(super) fn add(&mut self, check: Check, text: String) {
        self.counts[check as usize] += 1;
        if self.found[check as usize].len() < SHOWN_MAX {
            if !self.is_quiet {
                // A closed standard error does not end a run.
                let _ = writeln!(io::stderr(), "{check}: {text}");
            }
            self.found[check as usize].push(text);
        }
    }

    /// How often a check failed.
    #[must_use]
    pub fn count(&self, check: Check) -> u64 {
        self.counts[check as usize]
    }

    /// The first findings of a check.
    #[must_use]
    pub fn texts(&self, check: Check) -> &[String] {
        &self.found[check as usize]
    }

    /// The checks that failed.
    #[must_use]
    pub fn failed(&self) -> Vec<Check> {
        Check::ALL.into_iter().filter(|check| self.count(*check) > 0).collect()
    }

    /// How many findings there are.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_findings_are_counted_and_few_kept() {
        let mut findings = Findings::new(true);
        for number in 0..25 {
            findings.add(Check::Order, number.to_string());
        }
        findings.add(Check::Stuck, "x".into());
        assert_eq!((findings.count(Check::Order), findings.total()), (25, 26));
        assert_eq!(findings.texts(Check::Order).len(), SHOWN_MAX);
        assert_eq!(findings.failed(), [Check::Order, Check::Stuck]);
    }

    #[test]
    fn checks_lie_in_the_order_of_their_numbers() {
        for (index, check) in Check::ALL.into_iter().enumerate() {
            assert_eq!(check as usize, index);
        }
    }
}
