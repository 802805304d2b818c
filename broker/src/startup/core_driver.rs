//! The driver of one core: sockets, files and links over TCP, and beside it, where the node uses
//! verbs, the driver of links over those.
//!
//! Both have the core's one table of links, each with its own part of it (`ringlane_dataplane::link`). A core that
//! sleeps does so in the wait of its sockets, which the descriptor of the other driver ends as well.

use super::carriers::RdmaPlan;
use crate::connection::LogBudget;
use ringlane_dataplane::disk::{Disk, DiskEvent, FileDriver};
use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::link::{LinkCounters, LinkDriver, LinkEvent, Links};
use ringlane_dataplane::net::{Driver, DriverCounters, NetEvent, Sockets, Wait};
use ringlane_dataplane::runtime::ThreadUsage;
use ringlane_dataplane::time::Nanos;
use ringlane_transport_rdma::{Device, EndpointCounters, RdmaLinks};
use ringlane_transport_uring::AnyDriver;
use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

/// Links over verbs, and what is said of them.
#[derive(Debug)]
struct Rdma {
    links: RdmaLinks,
    core: CoreId,
    /// There is no TCP to go on with.
    is_demanded: bool,
    lines: LogBudget,
}

/// What a core runs on.
#[derive(Debug)]
pub(super) struct CoreDriver {
    sockets: AnyDriver,
    rdma: Option<Box<Rdma>>,
}

impl CoreDriver {
    /// Adds links over verbs, if the node uses them.
    ///
    /// # Errors
    /// The device cannot be had.
    pub(super) fn new(
        mut sockets: AnyDriver,
        core: CoreId,
        plan: Option<&RdmaPlan>,
    ) -> Result<Self, String> {
        let Some(plan) = plan else { return Ok(Self { sockets, rdma: None }) };
        let links = Device::open(&plan.place)
            .and_then(|device| RdmaLinks::new(device, plan.config(core)))
            .map_err(|error| format!("cannot use RDMA device {}: {error}", plan.place.device))?;
        let descriptor = links.as_fd().try_clone_to_owned();
        descriptor.and_then(|descriptor| sockets.wake_on(descriptor)).map_err(|error| {
            format!("cannot wait for RDMA device {}: {error}", plan.place.device)
        })?;
        let (is_demanded, lines) = (plan.is_demanded, LogBudget::default());
        Ok(Self { sockets, rdma: Some(Box::new(Rdma { links, core, is_demanded, lines })) })
    }

    /// What its links over verbs have counted; none where it has no such links.
    pub(super) fn rdma_counters(&self) -> Option<EndpointCounters> {
        self.rdma.as_ref().map(|rdma| rdma.links.endpoint_counters())
    }
}

impl Rdma {
    /// How long the core may sleep, of what it wants to.
    fn wait(&mut self, now: Nanos, until: Nanos) -> Wait {
        if !self.links.prepare_sleep() {
            return Wait::Poll;
        }
        match self.links.opening_due() {
            Some(due) => {
                Wait::Until(until.min(now + due.saturating_duration_since(Instant::now())))
            }
            None => Wait::Until(until),
        }
    }

    /// Says what has become of links, and ends the core if it can have none any more.
    fn look(&mut self, now: Nanos) -> io::Result<()> {
        let core = self.core.0;
        for (_, cause) in self.links.take_causes() {
            if let Some(suppressed) = self.lines.take(now) {
                tracing::info!(core, %cause, suppressed, "a link over RDMA is over");
            }
        }
        if let Some(error) = self.links.take_unregistered() {
            tracing::warn!(
                core, %error,
                "the memory of batches cannot be registered with the RDMA device: records are copied before they \
                 are sent. Check the limit of locked memory (ringlane doctor)"
            );
        }
        for peer in self.links.take_fallen() {
            let next = match self.is_demanded {
                true => "it is tried again, for replication.transport demands RDMA",
                false => "TCP for a while, unless that node demands RDMA",
            };
            tracing::warn!(
                core, %peer,
                "nothing gets through to a node over RDMA, although both ends offer it: {next}. Check \
                 that the RDMA addresses of the nodes reach each other (ringlane doctor), and the limit \
                 of locked memory"
            );
        }
        if self.is_demanded && self.links.is_device_lost() {
            return Err(io::Error::other(
                "the RDMA device has failed, and replication.transport demands it",
            ));
        }
        Ok(())
    }
}

impl Driver for CoreDriver {
    fn now(&self) -> Nanos {
        self.sockets.now()
    }

    fn apply(&mut self, sockets: &mut Sockets, now: Nanos) {
        self.sockets.apply(sockets, now);
    }

    fn poll(
        &mut self,
        sockets: &mut Sockets,
        wait: Wait,
        events_max: usize,
        on_event: &mut dyn FnMut(&mut Sockets, NetEvent<'_>),
    ) -> io::Result<usize> {
        if let Some(rdma) = self.rdma.as_mut().filter(|rdma| rdma.links.has_news()) {
            rdma.look(self.sockets.now())?;
        }
        let wait = match (&mut self.rdma, wait) {
            (Some(rdma), Wait::Until(until)) => rdma.wait(self.sockets.now(), until),
            (_, wait) => wait,
        };
        self.sockets.poll(sockets, wait, events_max, on_event)
    }

    fn wake(&mut self, target: CoreId) {
        self.sockets.wake(target);
    }

    fn stop_accepting(&mut self) {
        self.sockets.stop_accepting();
    }

    fn counters(&self) -> DriverCounters {
        self.sockets.counters()
    }

    fn usage(&self) -> Option<ThreadUsage> {
        self.sockets.usage()
    }
}

impl FileDriver for CoreDriver {
    fn submit(&mut self, disk: &mut Disk) {
        self.sockets.submit(disk);
    }

    fn complete(
        &mut self,
        disk: &mut Disk,
        events_max: usize,
        on_event: &mut dyn FnMut(&mut Disk, DiskEvent),
    ) -> usize {
        self.sockets.complete(disk, events_max, on_event)
    }

    fn in_flight(&self) -> usize {
        self.sockets.in_flight()
    }
}

impl LinkDriver for CoreDriver {
    /// Verbs first: what it leaves to TCP is begun with in the same turn.
    fn carry_out(&mut self, links: &mut Links) {
        if let Some(rdma) = &mut self.rdma {
            rdma.links.carry_out(links);
        }
        self.sockets.carry_out(links);
    }

    fn deliver(
        &mut self,
        links: &mut Links,
        events_max: usize,
        on_event: &mut dyn FnMut(&mut Links, LinkEvent<'_>),
    ) -> usize {
        let count = match &mut self.rdma {
            // Half of them at most: neither driver keeps the other one waiting.
            Some(rdma) => rdma.links.deliver(links, events_max.div_ceil(2), on_event),
            None => 0,
        };
        count + self.sockets.deliver(links, events_max - count, on_event)
    }

    fn link_counters(&self) -> LinkCounters {
        let rdma = self.rdma.as_ref().map(|rdma| rdma.links.link_counters());
        self.sockets.link_counters() + rdma.unwrap_or_default()
    }
}
