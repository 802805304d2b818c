//! The turn of a core: clock, sockets, links, mails, files, timers, the service's end of turn, what it asks
//! of the disk, messages on links, sends, wake-ups.
//!
//! Every phase is bounded by [`TurnLimits`], so that no source of work starves another. The core
//! sleeps only after a turn in which nothing happened, and only between
//! [`Endpoint::prepare_sleep`] and [`Endpoint::end_sleep`], so that no mail is slept through.

use super::idle::Idle;
use super::long_turns::LongTurns;
use super::mesh::Endpoint;
use super::service::{After, Service, Turn};
use super::stats::CoreStats;
use super::timer::TimerWheel;
use crate::disk::{Disk, FileDriver};
use crate::ids::CoreId;
use crate::link::{LinkDriver, Links};
use crate::net::{Driver, Sockets, Wait};
use crate::time::Nanos;
use core::time::Duration;
use std::io;
use std::sync::Arc;

/// How much a turn takes from each source before it goes on to the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TurnLimits {
    /// Socket events.
    pub net_events_max: usize,
    /// Events of links.
    pub link_events_max: usize,
    /// Mails from each peer.
    pub mails_max_per_peer: usize,
    /// Commands to the disk that ended.
    pub disk_events_max: usize,
    /// Timers fired or moved within the wheel.
    pub timers_max: usize,
}

impl Default for TurnLimits {
    fn default() -> Self {
        Self {
            net_events_max: 256,
            link_events_max: 256,
            mails_max_per_peer: 256,
            disk_events_max: 256,
            timers_max: 256,
        }
    }
}

/// One core: a driver below, a service above, and what lies between them.
#[derive(Debug)]
pub struct CoreLoop<D: Driver + FileDriver + LinkDriver, S: Service> {
    driver: D,
    service: S,
    sockets: Sockets,
    links: Links,
    disk: Disk,
    timers: TimerWheel<S::Timer>,
    endpoint: Endpoint<S::Mail>,
    idle: Idle,
    limits: TurnLimits,
    stats: Arc<CoreStats>,
    /// Keys on their way from the wheel to the service; empty between turns.
    fired: Vec<S::Timer>,
    /// The peer whose mails come first in this turn.
    first_peer: usize,
    /// Since when nothing has happened; `None` if something did in the last turn, or was left over.
    idle_since: Option<Nanos>,
    /// Until when the service expects something.
    awake_until: Nanos,
    /// When the work of the last turn began, to account for it when the next begins.
    worked_since: Nanos,
    long_turns: LongTurns,
}

impl<D: Driver + FileDriver + LinkDriver, S: Service> CoreLoop<D, S> {
    /// A core that has not turned yet. Its first turn does not wait.
    pub fn new(
        driver: D,
        service: S,
        sockets: Sockets,
        endpoint: Endpoint<S::Mail>,
        idle: Idle,
        limits: TurnLimits,
        stats: Arc<CoreStats>,
    ) -> Self {
        let now = driver.now();
        let timers = TimerWheel::new(now);
        Self {
            driver,
            service,
            sockets,
            links: Links::new(0),
            disk: Disk::new(),
            timers,
            endpoint,
            idle,
            limits,
            stats,
            fired: Vec::new(),
            first_peer: 0,
            idle_since: None,
            awake_until: Nanos(0),
            worked_since: now,
            long_turns: LongTurns::default(),
        }
    }

    /// The same with these links, on which nothing has happened yet; without them, as on a node by
    /// itself, none of them takes more than one message at a time.
    #[must_use]
    pub fn with_links(self, links: Links) -> Self {
        Self { links, ..self }
    }

    /// The service, for those who drive turns one by one.
    pub fn service_mut(&mut self) -> &mut S {
        &mut self.service
    }

    /// Turns until the service stops the core.
    ///
    /// # Errors
    /// What made the driver unusable.
    pub fn run(&mut self) -> io::Result<()> {
        while self.turn()? != After::Stop {}
        Ok(())
    }

    /// One turn.
    ///
    /// # Errors
    /// What made the driver unusable.
    pub fn turn(&mut self) -> io::Result<After> {
        let started = self.driver.now();
        self.account(started);
        let sleep_until = self.sleep_until(started);
        let polled = self.poll(started, sleep_until);
        // Time does not go back between the events of a turn and the rest of it.
        let now = self.wake_up(started, sleep_until.is_some()).max(self.sockets.now());
        let events = polled?;
        debug_assert!(
            events == 0 || now == started || self.sockets.now() != started,
            "the driver waited and did not call Sockets::set_now before its events"
        );
        let links = self.take_link_events(now);
        let mails = self.take_mails(now);
        let files = self.take_disk_events(now);
        let (timers, timers_left) = self.fire_timers(now);
        let after = self.end_turn(now);
        self.driver.submit(&mut self.disk);
        self.driver.carry_out(&mut self.links);
        self.driver.apply(&mut self.sockets, now);
        self.publish();
        let has_left = matches!(after, After::MoreWork | After::Stop);
        let busy = events + links + mails + files + timers > 0 || timers_left || has_left;
        self.awake_until = if let After::Soon(until) = after { until } else { Nanos(0) };
        self.idle_since = if busy { None } else { self.idle_since.or(Some(now)) };
        self.stats.net_events.add(events as u64);
        self.stats.link_events.add(links as u64);
        self.stats.mails_received.add(mails as u64);
        self.stats.disk_events.add(files as u64);
        self.stats.timers_fired.add(timers as u64);
        Ok(after)
    }

    /// Counts the turn that ended at `ended`.
    fn account(&mut self, ended: Nanos) {
        let spent = ended.0.saturating_sub(self.worked_since.0);
        self.worked_since = ended;
        if self.idle_since.is_some() {
            self.stats.idle_ns.add(spent);
        } else if self.stats.turns.get() > 0 {
            self.stats.busy_turns.add(1);
            self.stats.busy_ns.add(spent);
            self.stats.turn_ns.record(spent);
            let took = Duration::from_nanos(spent);
            if let Some(used) = self.long_turns.end(took, || self.driver.usage()) {
                self.stats.long_turn_cpu_ns.record(used.cpu.as_nanos() as u64);
                self.stats.long_turn_sleeps.add(used.sleeps);
            }
        }
        self.stats.turns.add(1);
        self.long_turns.begin(ended, || self.driver.usage());
    }

    /// Until when this turn sleeps, having advertised it; `None` if it does not.
    fn sleep_until(&mut self, now: Nanos) -> Option<Nanos> {
        let idle_since = self.idle_since?;
        if !self.idle.may_park(idle_since, now, self.awake_until) {
            return None;
        }
        let deadline = self.timers.next_deadline();
        (deadline > now && self.endpoint.prepare_sleep()).then_some(deadline)
    }

    /// Submits, waits if told to, and hands events to the service.
    fn poll(&mut self, started: Nanos, sleep_until: Option<Nanos>) -> io::Result<usize> {
        let Self { driver, service, sockets, links, disk, timers, endpoint, limits, .. } = self;
        let wait = sleep_until.map_or(Wait::Poll, Wait::Until);
        sockets.set_now(started);
        driver.poll(sockets, wait, limits.net_events_max, &mut |sockets, event| {
            let now = sockets.now();
            service.on_net(&mut Turn { now, sockets, disk, timers, mesh: endpoint, links }, event);
        })
    }

    /// Hands what happened to links to the service.
    fn take_link_events(&mut self, now: Nanos) -> usize {
        let Self { driver, service, sockets, links, disk, timers, endpoint, limits, .. } = self;
        driver.deliver(links, limits.link_events_max, &mut |links, event| {
            service.on_link(&mut Turn { now, sockets, disk, timers, mesh: endpoint, links }, event);
        })
    }

    /// Ends the sleep, if there was one. Returns the time that the rest of the turn goes by.
    fn wake_up(&mut self, started: Nanos, slept: bool) -> Nanos {
        if !slept {
            return started;
        }
        self.endpoint.end_sleep();
        let now = self.driver.now();
        self.stats.parks.add(1);
        self.long_turns.on_park();
        self.long_turns.begin(now, || self.driver.usage());
        self.stats.idle_ns.add(now.0.saturating_sub(started.0));
        self.worked_since = now;
        now
    }

    /// Hands mails to the service: a bounded number from each peer, starting with another
    /// one each turn so that none is always the last.
    fn take_mails(&mut self, now: Nanos) -> usize {
        let Self { service, sockets, links, disk, timers, endpoint, limits, .. } = self;
        let peers = endpoint.endpoints();
        let mut turn = Turn { now, sockets, disk, timers, mesh: endpoint, links };
        let mut taken = 0;
        for peer in (self.first_peer..peers).chain(0..self.first_peer) {
            let from = CoreId(peer as u16);
            for _ in 0..limits.mails_max_per_peer {
                let Some(mail) = turn.mesh.receive(from) else { break };
                service.on_mail(&mut turn, from, mail);
                taken += 1;
            }
        }
        self.first_peer = (self.first_peer + 1) % peers;
        taken
    }

    /// Hands what came of commands to the disk to the service.
    fn take_disk_events(&mut self, now: Nanos) -> usize {
        let Self { driver, service, sockets, links, disk, timers, endpoint, limits, .. } = self;
        driver.complete(disk, limits.disk_events_max, &mut |disk, event| {
            service.on_disk(&mut Turn { now, sockets, disk, timers, mesh: endpoint, links }, event);
        })
    }

    /// Fires timers one by one, so that a handler can still cancel the next one. Returns how many
    /// fired, and whether some are left.
    fn fire_timers(&mut self, now: Nanos) -> (usize, bool) {
        let Self { service, sockets, links, disk, timers, endpoint, limits, fired, .. } = self;
        let mut turn = Turn { now, sockets, disk, timers, mesh: endpoint, links };
        let mut count = 0;
        for _ in 0..limits.timers_max {
            let more = turn.timers.expire(now, 1, fired);
            if let Some(key) = fired.pop() {
                service.on_timer(&mut turn, key);
                count += 1;
            } else if !more {
                return (count, false);
            }
        }
        (count, turn.timers.next_deadline() <= now)
    }

    fn end_turn(&mut self, now: Nanos) -> After {
        let Self { service, sockets, links, disk, timers, endpoint, .. } = self;
        service.end_turn(&mut Turn { now, sockets, disk, timers, mesh: endpoint, links })
    }

    /// Shows the peers their mails and wakes those that sleep.
    fn publish(&mut self) {
        let Self { driver, endpoint, stats, .. } = self;
        endpoint.publish(&mut |peer| {
            driver.wake(peer);
            stats.wakes_sent.add(1);
        });
        stats.mails_sent.set(endpoint.sent_count());
    }
}
