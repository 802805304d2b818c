//! What the proxy counts.

use crate::metrics::MetricKind;
use ringlane_dataplane::runtime::Counter;

macro_rules! proxy_metrics {
    ($($field:ident, $kind:ident, $name:literal, $help:literal;)*) => {
        /// What the proxy counts; see the help texts. Written by the thread that it runs on alone.
        #[derive(Default, Debug)]
        pub(crate) struct ProxyMetrics {
            $(#[doc = $help] pub(crate) $field: Counter,)*
        }

        impl ProxyMetrics {
            /// Calls `each` with name (without prefix), kind, help text and value of every metric.
            pub(crate) fn each(
                &self,
                mut each: impl FnMut(&'static str, MetricKind, &'static str, u64),
            ) {
                $(each($name, MetricKind::$kind, $help, self.$field.get());)*
            }
        }
    };
}

proxy_metrics! {
    clients, Gauge, "proxy_clients", "Clients that are passed on to the leader, or wait for one.";
    waiting, Gauge, "proxy_clients_waiting", "Of these, clients that wait for a leader that can be reached.";
    taken, Counter, "proxy_clients_total", "Clients that were taken to be passed on.";
    refused, Counter, "proxy_clients_refused_total", "Clients closed because replication.proxy_connections was reached.";
    sent_away, Counter, "proxy_clients_redirected_total", "Clients of MQTT 5 that were told where the leader is (cluster.redirect).";
    given_up, Counter, "proxy_clients_given_up_total", "Clients closed because no leader could be reached in time.";
    ended_by_change, Counter, "proxy_clients_ended_by_change_total", "Clients closed because somebody else leads.";
    tried_again, Counter, "proxy_clients_tried_again_total", "Times that a client was passed on again because the leader ended before it had answered.";
    bytes_to_leader, Counter, "proxy_to_leader_bytes_total", "Bytes of clients that were passed on.";
    bytes_to_clients, Counter, "proxy_to_clients_bytes_total", "Bytes of the leader that were passed on.";
}

/// Counts in a gauge for as long as it lives.
pub(super) struct Held<'a>(&'a Counter);

impl<'a> Held<'a> {
    pub(super) fn new(gauge: &'a Counter) -> Self {
        gauge.add(1);
        Self(gauge)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.sub(1);
    }
}
