//! A driver whose counters other threads can read.

use super::core_driver::CoreDriver;
use crate::metrics::CoreMetrics;
use ringlane_dataplane::disk::{Disk, DiskEvent, FileDriver};
use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::link::{Carrier, LinkCounters, LinkDriver, LinkEvent, Links};
use ringlane_dataplane::net::{Driver, DriverCounters, NetEvent, Sockets, Wait};
use ringlane_dataplane::runtime::ThreadUsage;
use ringlane_dataplane::time::Nanos;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Copies the driver's counters into the core's metrics once a turn, and stops accepting when the
/// node stops: the driver knows nothing of metrics and nodes, the service nothing of the driver.
#[derive(Debug)]
pub(super) struct MeteredDriver {
    driver: CoreDriver,
    metrics: Arc<CoreMetrics>,
    /// Set by the control thread when the node stops.
    stop_accepting: Arc<AtomicBool>,
    stopped: bool,
}

impl MeteredDriver {
    pub(super) fn new(
        driver: CoreDriver,
        metrics: Arc<CoreMetrics>,
        stop_accepting: Arc<AtomicBool>,
    ) -> Self {
        Self { driver, metrics, stop_accepting, stopped: false }
    }

    /// A node that stops takes no more clients: their connections are refused, so that they try
    /// another node at once.
    fn check_stop(&mut self) {
        if !self.stopped && self.stop_accepting.load(Ordering::Relaxed) {
            self.stopped = true;
            self.driver.stop_accepting();
        }
    }

    fn show_rdma(&self) {
        let Some(counters) = self.driver.rdma_counters() else { return };
        let metrics = &self.metrics;
        metrics.rdma_requests.set(counters.writes + counters.credits + counters.receives);
        metrics.rdma_doorbells.set(counters.doorbells + counters.receive_doorbells);
        metrics.rdma_completions.set(counters.completions);
        metrics.rdma_sent_bytes.set(counters.sent_bytes);
        metrics.rdma_received_bytes.set(counters.received_bytes);
        metrics.rdma_assembled_bytes.set(counters.assembled_bytes);
        metrics.rdma_copied_heads_bytes.set(counters.staged_head_bytes + counters.inlined_bytes);
        metrics.rdma_copied_bodies_bytes.set(counters.staged_body_bytes);
        metrics.rdma_exhausted.set(counters.exhausted);
    }
}

impl Driver for MeteredDriver {
    fn now(&self) -> Nanos {
        self.driver.now()
    }

    /// Comes last in a turn, so that a core that sleeps afterwards has shown all that it did.
    fn apply(&mut self, sockets: &mut Sockets, now: Nanos) {
        self.check_stop();
        self.driver.apply(sockets, now);
        let counters = self.driver.counters();
        self.metrics.system_calls.set(counters.system_calls);
        self.metrics.completions.set(counters.completions);
        self.metrics.net_received_bytes.set(counters.received_bytes);
        self.metrics.net_sent_bytes.set(counters.sent_bytes);
        self.metrics.zero_copy_sends.set(counters.zero_copy_sends);
        self.metrics.buffer_shortages.set(counters.buffer_shortages);
        self.metrics.accepts_refused.set(counters.accepts_refused);
        self.show_rdma();
    }

    fn poll(
        &mut self,
        sockets: &mut Sockets,
        wait: Wait,
        events_max: usize,
        on_event: &mut dyn FnMut(&mut Sockets, NetEvent<'_>),
    ) -> io::Result<usize> {
        self.driver.poll(sockets, wait, events_max, on_event)
    }

    fn wake(&mut self, target: CoreId) {
        self.driver.wake(target);
    }

    fn stop_accepting(&mut self) {
        self.driver.stop_accepting();
    }

    fn counters(&self) -> DriverCounters {
        self.driver.counters()
    }

    fn usage(&self) -> Option<ThreadUsage> {
        self.driver.usage()
    }
}

impl FileDriver for MeteredDriver {
    fn submit(&mut self, disk: &mut Disk) {
        self.driver.submit(disk);
    }

    fn complete(
        &mut self,
        disk: &mut Disk,
        events_max: usize,
        on_event: &mut dyn FnMut(&mut Disk, DiskEvent),
    ) -> usize {
        self.driver.complete(disk, events_max, on_event)
    }

    fn in_flight(&self) -> usize {
        self.driver.in_flight()
    }
}

impl LinkDriver for MeteredDriver {
    fn carry_out(&mut self, links: &mut Links) {
        self.driver.carry_out(links);
        self.metrics.links_tcp.set(links.up_count(Carrier::Tcp) as u64);
        self.metrics.links_rdma.set(links.up_count(Carrier::Rdma) as u64);
        let counters = self.driver.link_counters();
        self.metrics.link_received_messages.set(counters.received_messages);
        self.metrics.link_received_bytes.set(counters.received_bytes);
        self.metrics.link_moved_bytes.set(counters.moved_bytes);
        self.metrics.link_sends.set(counters.sends);
        self.metrics.link_sent_bytes.set(counters.sent_bytes);
    }

    fn deliver(
        &mut self,
        links: &mut Links,
        events_max: usize,
        on_event: &mut dyn FnMut(&mut Links, LinkEvent<'_>),
    ) -> usize {
        self.driver.deliver(links, events_max, on_event)
    }

    fn link_counters(&self) -> LinkCounters {
        self.driver.link_counters()
    }
}
