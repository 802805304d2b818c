//! Sums of counters that several places show.

use crate::metrics::CoreMetrics;

impl CoreMetrics {
    /// PUBLISH packets received, of any QoS.
    #[must_use]
    pub fn publishes_received(&self) -> u64 {
        let counters = [
            &self.publishes_received_qos0,
            &self.publishes_received_qos1,
            &self.publishes_received_qos2,
        ];
        counters.iter().map(|counter| counter.get()).fold(0, u64::saturating_add)
    }

    /// PUBLISH packets sent, of any QoS.
    #[must_use]
    pub fn publishes_sent(&self) -> u64 {
        let counters =
            [&self.publishes_sent_qos0, &self.publishes_sent_qos1, &self.publishes_sent_qos2];
        counters.iter().map(|counter| counter.get()).fold(0, u64::saturating_add)
    }

    /// Messages dropped for any reason.
    #[must_use]
    pub fn messages_dropped(&self) -> u64 {
        let counters = [
            &self.dropped_slow,
            &self.dropped_mailbox,
            &self.dropped_lease,
            &self.dropped_backlog,
            &self.dropped_expired,
            &self.dropped_too_large,
            &self.dropped_memory,
        ];
        counters.iter().map(|counter| counter.get()).fold(0, u64::saturating_add)
    }
}
