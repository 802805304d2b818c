//! The run of a flow: warm-up, measured time, and the wait for what is still on its way.

use super::arrivals::Listener;
use super::plan::{FlowOptions, FlowPlan, Limit, Pace};
use super::recorder::Recorder;
use super::schedule::Schedule;
use super::stream::{self, Stream};
use super::timeline::Timeline;
use crate::fleet::{self, Member, Target};
use crate::ledger::Ledger;
use crate::link::Lane;
use crate::login::Login;
use crate::meter::Spent;
use crate::report::Sample;
use crate::swarm::{LinkId, Swarm, Traffic};
use anyhow::{Result, ensure};
use ringlane_mqtt::{QoS, Version};
use std::time::Duration;

#[derive(Clone, Copy)]
pub(super) enum Role {
    Publisher(usize),
    Listener(usize),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    WarmUp,
    Measured,
    Draining,
}

/// A run.
pub(super) struct Flow<'a> {
    pub(super) options: &'a FlowOptions,
    pub(super) version: Version,
    pub(super) shared: bool,
    pub(super) window: u64,
    pub(super) in_flight_max: u64,
    pub(super) streams: Vec<Stream>,
    pub(super) listeners: Vec<Listener>,
    pub(super) roles: Vec<Option<Role>>,
    /// Streams that may be able to send.
    pub(super) ready: Vec<usize>,
    pub(super) schedule: Option<Schedule>,
    pub(super) phase: Phase,
    /// Open loop: what is due from `timed_from_ns` to before `timed_to_ns` is timed.
    pub(super) timed_from_ns: u64,
    pub(super) timed_to_ns: u64,
    pub(super) rejected: u64,
    pub(super) stray_acknowledgements: u64,
    pub(super) damaged: u64,
    pub(super) downgraded: u64,
    pub(super) reordered: u64,
    pub(super) ended: u64,
    pub(super) rescues: u64,
    rescued_ns: u64,
    pub(super) measured: u64,
    pub(super) measured_sent: u64,
    pub(super) silence_ns_max: u64,
    pub(super) arrived_ns: u64,
    pub(super) latency: Recorder,
    pub(super) acknowledged: Recorder,
    pub(super) received: Recorder,
    pub(super) lateness: Recorder,
    pub(super) held_back: u64,
    pub(super) unsent: u64,
    pub(super) timeline: Option<Timeline>,
    pub(super) samples: Vec<Sample>,
    pub(super) answers: Vec<u8>,
    /// Time that was spent waiting actively.
    pub(super) spun_ns: u64,
    /// How much of a wait for the schedule is spent so.
    pub(super) spin_ns: u64,
    pub(super) traffic: [Traffic; 2],
    pub(super) spent: Spent,
}

/// How long QoS 0 messages may be missing before their credit is given back.
const RESCUE_NS: u64 = 200_000_000;
/// How long after the measured time what was due within it may still be sent.
const SEND_PATIENCE_NS: u64 = 1_000_000_000;
/// How many unacknowledged publishes an unlimited publisher keeps.
const UNLIMITED_IN_FLIGHT: u64 = 1024;
/// How long the end of the measured time may be put off.
const SETTLE_NS: u64 = 20_000_000;
const SETTLE_GLANCE: Duration = Duration::from_millis(1);
const CONNECT_PATIENCE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(10);

impl<'a> Flow<'a> {
    /// Connects everybody.
    pub(super) fn set_up(
        swarm: &mut Swarm,
        target: &Target,
        plan: &FlowPlan,
        options: &'a FlowOptions,
    ) -> Result<Self> {
        check(plan, options)?;
        let (publishers, listeners) = connect(swarm, target, plan, options)?;
        let receive_maximum =
            publishers.iter().map(|member| u64::from(member.receive_maximum)).min().unwrap_or(1);
        let limited = options.qos != QoS::AtMostOnce && options.window > receive_maximum;
        let window = if limited { receive_maximum } else { options.window };
        let in_flight_max = match (options.pace, window) {
            (Pace::Window, _) => receive_maximum.min(UNLIMITED_IN_FLIGHT),
            (Pace::Rate(_), 0) => receive_maximum,
            (Pace::Rate(_), window) => window,
        };
        let mut flow = Self {
            options,
            version: target.version,
            shared: plan.shared,
            window,
            in_flight_max,
            streams: stream::streams(target, plan, options, &publishers, window),
            listeners,
            roles: vec![None; swarm.slots()],
            ready: Vec::new(),
            schedule: None,
            phase: Phase::WarmUp,
            timed_from_ns: u64::MAX,
            timed_to_ns: u64::MAX,
            rejected: 0,
            stray_acknowledgements: 0,
            damaged: 0,
            downgraded: 0,
            reordered: 0,
            ended: 0,
            rescues: 0,
            rescued_ns: 0,
            measured: 0,
            measured_sent: 0,
            silence_ns_max: 0,
            arrived_ns: 0,
            latency: Recorder::new(),
            acknowledged: Recorder::new(),
            received: Recorder::new(),
            lateness: Recorder::new(),
            held_back: 0,
            unsent: 0,
            timeline: None,
            samples: Vec::new(),
            answers: Vec::new(),
            spun_ns: 0,
            spin_ns: 0,
            traffic: [Traffic::default(); 2],
            spent: Spent::default(),
        };
        flow.assign_roles(swarm);
        Ok(flow)
    }

    fn assign_roles(&mut self, swarm: &mut Swarm) {
        let publishers = self.streams.iter().map(|stream| stream.link);
        let listeners = self.listeners.iter().map(|listener| listener.link);
        let roles = publishers
            .enumerate()
            .map(|(index, link)| (link, Role::Publisher(index), Lane::Publishers))
            .chain(
                listeners
                    .enumerate()
                    .map(|(index, link)| (link, Role::Listener(index), Lane::Listeners)),
            );
        for (id, role, lane) in roles {
            self.roles[id.index()] = Some(role);
            if let Some(link) = swarm.link_mut(id) {
                link.lean = true;
                link.lane = lane;
            }
        }
    }

    pub(super) fn links(&self) -> Vec<LinkId> {
        let streams = self.streams.iter().map(|stream| stream.link);
        streams.chain(self.listeners.iter().map(|listener| listener.link)).collect()
    }

    /// Runs the load.
    pub(super) fn load(&mut self, swarm: &mut Swarm) -> Result<()> {
        let start_ns = swarm.read_clock();
        self.arrived_ns = start_ns;
        if let Pace::Rate(rate) = self.options.pace {
            let (streams, batch) = (self.streams.len(), self.options.batch);
            self.schedule = Some(Schedule::new(start_ns, rate, streams, batch));
            super::pump::wake_precisely();
        }
        if let Limit::Time { warm_up, .. } = self.options.limit
            && !warm_up.is_zero()
        {
            self.turns(swarm, Some(start_ns + nanos(warm_up)))?;
        }
        self.measure(swarm)?;
        self.phase = Phase::Draining;
        self.arrived_ns = swarm.read_clock();
        self.drain(swarm)
    }

    fn measure(&mut self, swarm: &mut Swarm) -> Result<()> {
        let before = self.options.meter.read()?;
        let sampler = self.options.meter.sampler()?;
        let sent = self.sent();
        let traffic = [Lane::Publishers, Lane::Listeners].map(|lane| swarm.traffic(lane));
        self.spun_ns = 0;
        self.held_back = 0;
        let now_ns = swarm.read_clock();
        self.arrived_ns = now_ns;
        self.timeline = Some(Timeline::new(now_ns, sampler));
        self.phase = Phase::Measured;
        let end_ns = match self.options.limit {
            Limit::Time { run, .. } => Some(now_ns + nanos(run)),
            Limit::Messages(_) => None,
        };
        if let Some(schedule) = &mut self.schedule {
            schedule.skip_to(now_ns);
            self.timed_from_ns = now_ns;
            self.timed_to_ns = end_ns.unwrap_or(u64::MAX);
        }
        self.turns(swarm, end_ns)?;
        self.settle(swarm)?;
        self.spent = self.options.meter.read()?.since(&before);
        self.measured_sent = self.sent() - sent;
        self.traffic = [Lane::Publishers, Lane::Listeners]
            .map(|lane| swarm.traffic(lane).since(traffic[lane as usize]));
        if let Some(timeline) = self.timeline.take() {
            self.samples = timeline.finish(swarm.read_clock());
        }
        Ok(())
    }

    /// With a schedule, waits a moment for what is on its way, so that reading the broker's files
    /// does not add to the latency of the last messages.
    fn settle(&mut self, swarm: &mut Swarm) -> Result<()> {
        let end_ns = swarm.now_ns() + SETTLE_NS;
        while self.schedule.is_some() && swarm.now_ns() < end_ns && !self.is_complete() {
            swarm.poll(SETTLE_GLANCE, &mut |swarm, id, event| self.on_event(swarm, id, &event))?;
        }
        Ok(())
    }

    fn sent(&self) -> u64 {
        self.streams.iter().map(|stream| stream.sent).sum()
    }

    /// Runs up to a time, or until every message of every publisher is sent and complete.
    fn turns(&mut self, swarm: &mut Swarm, end_ns: Option<u64>) -> Result<()> {
        self.ready = (0..self.streams.len()).collect();
        self.streams.iter_mut().for_each(|stream| stream.queued = true);
        loop {
            let pumped_ns = swarm.read_clock();
            let timeout = self.pump(swarm, end_ns);
            let ready =
                swarm.poll(timeout, &mut |swarm, id, event| self.on_event(swarm, id, &event))?;
            let now_ns = swarm.now_ns();
            if ready == 0 && timeout.is_zero() {
                self.spun_ns += now_ns.saturating_sub(pumped_ns);
            } else if ready == 0 {
                self.on_woken(pumped_ns + nanos(timeout), now_ns);
            }
            if let Some(timeline) = &mut self.timeline {
                timeline.look(now_ns);
            }
            if end_ns.is_some_and(|end_ns| now_ns >= end_ns) {
                if self.schedule.is_some() {
                    // What became due while the last poll was away.
                    self.pump(swarm, end_ns);
                }
                return Ok(());
            }
            if end_ns.is_none() && self.all_sent() && self.is_complete() {
                return Ok(());
            }
            if self.ended > 0 || self.is_silent(swarm) {
                return Ok(());
            }
        }
    }

    fn drain(&mut self, swarm: &mut Swarm) -> Result<()> {
        let start_ns = swarm.now_ns();
        while !self.is_complete() && self.ended == 0 {
            if self.schedule.is_some() {
                self.send_due(swarm);
                if swarm.now_ns().saturating_sub(start_ns) > SEND_PATIENCE_NS {
                    self.give_up_due();
                }
            }
            swarm.poll(GLANCE, &mut |swarm, id, event| self.on_event(swarm, id, &event))?;
            if swarm.now_ns().saturating_sub(self.arrived_ns) > nanos(self.options.patience) {
                break;
            }
        }
        self.give_up_due();
        Ok(())
    }

    /// What is due and was not sent will not be.
    fn give_up_due(&mut self) {
        for stream in &mut self.streams {
            self.unsent += stream.due.saturating_sub(stream.sent);
            stream.due = stream.sent;
        }
    }

    pub(super) fn limit(&self) -> u64 {
        match self.options.limit {
            Limit::Messages(count) => count,
            Limit::Time { .. } => u64::MAX,
        }
    }

    fn all_sent(&self) -> bool {
        let limit = self.limit();
        self.streams.iter().all(|stream| stream.sent >= limit)
    }

    fn is_complete(&self) -> bool {
        let is_delivered = |listener: &Listener| {
            let streams = &self.streams[listener.first..][..listener.ledgers.len()];
            let mut pairs = listener.ledgers.iter().zip(streams);
            match self.shared {
                true => pairs.all(|(ledger, stream)| ledger.received() >= stream.sent),
                false => pairs.all(|(ledger, stream)| ledger.next() >= stream.sent),
            }
        };
        let is_through = |stream: &Stream| stream.in_flight() == 0 && stream.due <= stream.sent;
        self.streams.iter().all(is_through) && self.keepers().all(is_delivered)
    }

    /// The listeners whose ledgers count: all, or the first of a shared group.
    pub(super) fn keepers(&self) -> impl Iterator<Item = &Listener> {
        self.listeners.iter().take(if self.shared { 1 } else { usize::MAX })
    }

    /// Gives back the credit of lost QoS 0 messages; says whether to give up.
    fn is_silent(&mut self, swarm: &Swarm) -> bool {
        let now_ns = swarm.now_ns();
        let silence_ns = now_ns.saturating_sub(self.arrived_ns);
        if self.schedule.is_some() {
            return silence_ns > nanos(self.options.patience) && !self.is_idle();
        }
        self.silence_ns_max = self.silence_ns_max.max(silence_ns);
        let may_lose = self.options.qos == QoS::AtMostOnce && self.window > 0;
        if may_lose && now_ns.saturating_sub(self.rescued_ns) > RESCUE_NS / 2 {
            self.rescued_ns = now_ns;
            self.rescue(now_ns);
        }
        silence_ns > nanos(self.options.patience)
    }

    fn rescue(&mut self, now_ns: u64) {
        for index in 0..self.streams.len() {
            let stream = &mut self.streams[index];
            let is_stuck = stream.completed < stream.sent
                && now_ns.saturating_sub(stream.moved_ns) > RESCUE_NS;
            if is_stuck {
                self.rescues += 1;
                stream.moved_ns = now_ns;
                stream.forget_missing();
                self.make_ready(index);
            }
        }
    }

    /// Whether the latency of a message that counts from `since_ns` belongs to the result.
    #[inline]
    pub(super) fn is_timed(&self, since_ns: u64) -> bool {
        match self.schedule {
            None => self.phase == Phase::Measured,
            Some(_) => self.timed_from_ns <= since_ns && since_ns < self.timed_to_ns,
        }
    }

    #[inline]
    pub(super) fn make_ready(&mut self, index: usize) {
        let stream = &mut self.streams[index];
        if !stream.queued {
            stream.queued = true;
            self.ready.push(index);
        }
    }
}

fn check(plan: &FlowPlan, options: &FlowOptions) -> Result<()> {
    ensure!(!plan.publishers.is_empty(), "the plan is empty");
    ensure!(
        !plan.listeners.is_empty() || options.qos != QoS::AtMostOnce,
        "without subscribers nothing tells when a QoS 0 message has arrived"
    );
    ensure!(
        options.window == 0 || options.batch <= options.window,
        "a batch of {} does not fit a window of {}",
        options.batch,
        options.window
    );
    if let Pace::Rate(rate) = options.pace {
        ensure!(rate.is_finite() && rate > 0.0, "a rate of {rate} messages per second");
    }
    Ok(())
}

fn connect(
    swarm: &mut Swarm,
    target: &Target,
    plan: &FlowPlan,
    options: &FlowOptions,
) -> Result<(Vec<Member>, Vec<Listener>)> {
    let logins: Vec<Login> =
        plan.listeners.iter().map(|plan| Login::clean(&plan.client_id)).collect();
    let listeners = fleet::connect_all(swarm, target, &logins, CONNECT_PATIENCE)?;
    let requests: Vec<(LinkId, &str, QoS)> = listeners
        .iter()
        .zip(&plan.listeners)
        .map(|(member, plan)| (member.link, plan.filter.as_str(), options.qos))
        .collect();
    fleet::subscribe_all(swarm, target.version, &requests, CONNECT_PATIENCE)?;
    let logins: Vec<Login> =
        plan.publishers.iter().map(|plan| Login::clean(&plan.client_id)).collect();
    let publishers = fleet::connect_all(swarm, target, &logins, CONNECT_PATIENCE)?;
    let listeners = listeners.iter().zip(&plan.listeners).map(|(member, plan)| Listener {
        link: member.link,
        first: plan.streams.start,
        ledgers: vec![Ledger::default(); plan.streams.len()],
        own_next: vec![0; plan.streams.len()],
        received: 0,
    });
    Ok((publishers, listeners.collect()))
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
