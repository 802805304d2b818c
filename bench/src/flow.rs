//! The engine of `pairs`, `fan-in` and `fan-out`: streams of stamped messages from publishers to
//! listeners, in a closed loop, every one of them checked for loss, duplicates and order.

use crate::fleet::{self, Member, Target};
use crate::ledger::{Arrival, Ledger};
use crate::login::Login;
use crate::meter::{Meter, Spent};
use crate::payload::{PublishTemplate, Stamp, is_intact};
use crate::report::latency_histogram;
use crate::swarm::{Event, Leave, LinkId, Swarm};
use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use ringlane_mqtt::{Packet, QoS};
use std::ops::Range;
use std::time::Duration;

/// A publisher: one stream.
#[derive(Clone, Debug)]
pub struct PublisherPlan {
    /// Client identifier.
    pub client_id: String,
    /// Topic name.
    pub topic: String,
}

/// A subscriber, and the streams that it must receive in full.
#[derive(Clone, Debug)]
pub struct ListenerPlan {
    /// Client identifier.
    pub client_id: String,
    /// Topic filter.
    pub filter: String,
    /// Publishers, by position, whose messages match the filter.
    pub streams: Range<usize>,
}

/// Who talks to whom.
#[derive(Clone, Debug, Default)]
pub struct FlowPlan {
    /// The publishers.
    pub publishers: Vec<PublisherPlan>,
    /// The subscribers.
    pub listeners: Vec<ListenerPlan>,
}

/// When publishing stops.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// After this many messages of each publisher; all of them are measured.
    Messages(u64),
    /// After a time; the warm-up before it is not measured.
    Time {
        /// Not measured.
        warm_up: Duration,
        /// Measured.
        run: Duration,
    },
}

/// How the load is made.
#[derive(Clone, Debug)]
pub struct FlowOptions {
    /// Quality of service of publishes and subscriptions.
    pub qos: QoS,
    /// Bytes of a payload.
    pub payload_bytes: usize,
    /// Messages of a publisher that are not yet with every listener (and, with QoS 1 and 2, not yet
    /// acknowledged). 0 sends as fast as the socket takes it.
    pub window: u64,
    /// Messages that are sent together, in one write.
    pub batch: u64,
    /// When publishing stops.
    pub limit: Limit,
    /// How long nothing may arrive before the run is over, whatever is missing.
    pub patience: Duration,
    /// What is read of the broker.
    pub meter: Meter,
}

impl Default for FlowOptions {
    fn default() -> Self {
        Self {
            qos: QoS::AtMostOnce,
            payload_bytes: 64,
            window: 1,
            batch: 1,
            limit: Limit::Messages(1000),
            patience: Duration::from_secs(10),
            meter: Meter::default(),
        }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub struct FlowOutcome {
    /// Messages published.
    pub sent: u64,
    /// Messages acknowledged to the publishers; 0 with QoS 0.
    pub acknowledged: u64,
    /// Publishes answered with an error reason code.
    pub rejected: u64,
    /// Messages that should have arrived: each as often as it has listeners.
    pub expected: u64,
    /// Distinct messages that arrived.
    pub delivered: u64,
    /// Messages that never arrived.
    pub lost: u64,
    /// Messages that came more than once.
    pub duplicated: u64,
    /// Messages that came after a later one of their stream.
    pub reordered: u64,
    /// Messages whose bytes were not those that were sent.
    pub damaged: u64,
    /// Connections that the broker ended.
    pub ended: u64,
    /// Times that nothing of a stream arrived for 200 ms and the credit of its lost QoS 0 messages
    /// was given back.
    pub rescues: u64,
    /// The longest time in seconds in which nothing arrived while something was on its way.
    pub silence_seconds_max: f64,
    /// Messages that arrived within the measured time.
    pub measured: u64,
    /// What the measured time cost.
    pub spent: Spent,
    /// Publish to delivery in nanoseconds, of the measured time.
    pub latency: Histogram<u64>,
    /// The window that was used, after the broker's Receive Maximum.
    pub window: u64,
    /// Messages delivered per listener, in the order of the plan.
    pub per_listener: Vec<u64>,
}

impl FlowOutcome {
    /// Whether every message arrived exactly once, whole and in order.
    #[must_use]
    pub fn is_perfect(&self) -> bool {
        let faults = [self.lost, self.duplicated, self.reordered, self.damaged, self.ended];
        faults.iter().all(|count| *count == 0) && self.rejected == 0
    }
}

/// Connects everybody, runs the load, takes everybody down.
///
/// # Errors
/// If the plan is empty, a client cannot connect or subscribe, or the broker cannot be read.
pub fn run(target: &Target, plan: &FlowPlan, options: &FlowOptions) -> Result<FlowOutcome> {
    let mut swarm = Swarm::new()?;
    let mut flow = Flow::set_up(&mut swarm, target, plan, options)?;
    flow.load(&mut swarm)?;
    let outcome = flow.outcome();
    let links: Vec<LinkId> = flow.links();
    fleet::leave_all(&mut swarm, target.version, &links)?;
    Ok(outcome)
}

#[derive(Clone, Copy)]
enum Role {
    Publisher(usize),
    Listener(usize),
}

struct Stream {
    link: LinkId,
    template: PublishTemplate,
    sent: u64,
    acknowledged: u64,
    /// One past the last message that is with every listener, or given up as lost.
    completed: u64,
    copies: u32,
    /// How many listeners have message n, at n modulo the length; empty with one listener.
    seen: Vec<u32>,
    /// When one of its messages last arrived or was sent after a pause.
    moved_ns: u64,
    queued: bool,
}

struct Listener {
    link: LinkId,
    first: usize,
    ledgers: Vec<Ledger>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Measured,
    Draining,
}

struct Flow<'a> {
    options: &'a FlowOptions,
    window: u64,
    in_flight_max: u64,
    streams: Vec<Stream>,
    listeners: Vec<Listener>,
    roles: Vec<Option<Role>>,
    ready: Vec<usize>,
    phase: Phase,
    rejected: u64,
    damaged: u64,
    ended: u64,
    rescues: u64,
    rescued_ns: u64,
    measured: u64,
    silence_ns_max: u64,
    arrived_ns: u64,
    latency: Histogram<u64>,
    spent: Spent,
}

/// How long QoS 0 messages may be missing before their credit is given back.
const RESCUE_NS: u64 = 200_000_000;
/// Unsent bytes up to which an unlimited publisher goes on.
const UNSENT_BYTES_MAX: usize = 64 * 1024;
/// How many unacknowledged publishes an unlimited publisher keeps.
const UNLIMITED_IN_FLIGHT: u64 = 1024;
const CONNECT_PATIENCE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(10);

impl<'a> Flow<'a> {
    fn set_up(
        swarm: &mut Swarm,
        target: &Target,
        plan: &FlowPlan,
        options: &'a FlowOptions,
    ) -> Result<Self> {
        ensure!(!plan.publishers.is_empty() && !plan.listeners.is_empty(), "the plan is empty");
        ensure!(
            options.window == 0 || options.batch <= options.window,
            "a batch of {} does not fit a window of {}",
            options.batch,
            options.window
        );
        let listener_logins: Vec<Login> =
            plan.listeners.iter().map(|plan| Login::clean(&plan.client_id)).collect();
        let publisher_logins: Vec<Login> =
            plan.publishers.iter().map(|plan| Login::clean(&plan.client_id)).collect();
        let listeners = fleet::connect_all(swarm, target, &listener_logins, CONNECT_PATIENCE)?;
        let requests: Vec<(LinkId, &str, QoS)> = listeners
            .iter()
            .zip(&plan.listeners)
            .map(|(member, plan)| (member.link, plan.filter.as_str(), options.qos))
            .collect();
        fleet::subscribe_all(swarm, target.version, &requests, CONNECT_PATIENCE)?;
        let publishers = fleet::connect_all(swarm, target, &publisher_logins, CONNECT_PATIENCE)?;
        let receive_maximum =
            publishers.iter().map(|member| u64::from(member.receive_maximum)).min().unwrap_or(1);
        let limited = options.qos != QoS::AtMostOnce && options.window > receive_maximum;
        let window = if limited { receive_maximum } else { options.window };
        let streams = streams(target, plan, options, &publishers, window);
        let listeners = listeners.iter().zip(&plan.listeners).map(|(member, plan)| Listener {
            link: member.link,
            first: plan.streams.start,
            ledgers: vec![Ledger::default(); plan.streams.len()],
        });
        let mut flow = Self {
            options,
            window,
            in_flight_max: receive_maximum.min(UNLIMITED_IN_FLIGHT),
            streams,
            listeners: listeners.collect(),
            roles: vec![None; swarm.slots()],
            ready: Vec::new(),
            phase: Phase::WarmUp,
            rejected: 0,
            damaged: 0,
            ended: 0,
            rescues: 0,
            rescued_ns: 0,
            measured: 0,
            silence_ns_max: 0,
            arrived_ns: 0,
            latency: latency_histogram(),
            spent: Spent::default(),
        };
        flow.assign_roles();
        Ok(flow)
    }

    fn assign_roles(&mut self) {
        for (index, stream) in self.streams.iter().enumerate() {
            self.roles[stream.link.index()] = Some(Role::Publisher(index));
        }
        for (index, listener) in self.listeners.iter().enumerate() {
            self.roles[listener.link.index()] = Some(Role::Listener(index));
        }
    }

    fn links(&self) -> Vec<LinkId> {
        let streams = self.streams.iter().map(|stream| stream.link);
        streams.chain(self.listeners.iter().map(|listener| listener.link)).collect()
    }

    /// Warm-up, measured time, and the wait for what is still on its way.
    fn load(&mut self, swarm: &mut Swarm) -> Result<()> {
        self.arrived_ns = swarm.read_clock();
        if let Limit::Time { warm_up, .. } = self.options.limit
            && !warm_up.is_zero()
        {
            self.turns(swarm, Some(warm_up))?;
        }
        let before = self.options.meter.read()?;
        self.arrived_ns = swarm.read_clock();
        self.phase = Phase::Measured;
        match self.options.limit {
            Limit::Time { run, .. } => self.turns(swarm, Some(run))?,
            Limit::Messages(_) => self.turns(swarm, None)?,
        }
        self.spent = self.options.meter.read()?.since(&before);
        self.phase = Phase::Draining;
        self.arrived_ns = swarm.read_clock();
        self.drain(swarm)
    }

    /// Runs for a time, or until every message of every publisher is sent and complete.
    fn turns(&mut self, swarm: &mut Swarm, time: Option<Duration>) -> Result<()> {
        let start_ns = swarm.read_clock();
        let end_ns = time.map(|time| start_ns + nanos(time));
        self.ready = (0..self.streams.len()).collect();
        self.streams.iter_mut().for_each(|stream| stream.queued = true);
        loop {
            let idle = self.pump(swarm);
            let timeout = if idle { GLANCE } else { Duration::ZERO };
            swarm.poll(timeout, &mut |swarm, id, event| self.on_event(swarm, id, &event))?;
            if end_ns.is_some_and(|end_ns| swarm.now_ns() >= end_ns) {
                return Ok(());
            }
            if time.is_none() && self.all_sent() && self.is_complete() {
                return Ok(());
            }
            if self.ended > 0 || self.is_silent(swarm) {
                return Ok(());
            }
        }
    }

    fn drain(&mut self, swarm: &mut Swarm) -> Result<()> {
        while !self.is_complete() && self.ended == 0 {
            swarm.poll(GLANCE, &mut |swarm, id, event| self.on_event(swarm, id, &event))?;
            if swarm.now_ns().saturating_sub(self.arrived_ns) > nanos(self.options.patience) {
                break;
            }
        }
        Ok(())
    }

    fn limit(&self) -> u64 {
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
        let acknowledged = |stream: &Stream| {
            self.options.qos == QoS::AtMostOnce || stream.acknowledged >= stream.sent
        };
        let delivered = self.listeners.iter().all(|listener| {
            let streams = &self.streams[listener.first..][..listener.ledgers.len()];
            listener
                .ledgers
                .iter()
                .zip(streams)
                .all(|(ledger, stream)| ledger.next() >= stream.sent)
        });
        delivered && self.streams.iter().all(acknowledged)
    }

    /// Gives back the credit of lost QoS 0 messages; says whether to give up.
    fn is_silent(&mut self, swarm: &Swarm) -> bool {
        let now_ns = swarm.now_ns();
        let silence_ns = now_ns.saturating_sub(self.arrived_ns);
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
                stream.completed = stream.sent;
                stream.seen.fill(0);
                self.make_ready(index);
            }
        }
    }

    /// Sends what the windows allow. Returns whether nothing more can be sent now.
    fn pump(&mut self, swarm: &mut Swarm) -> bool {
        if self.window == 0 {
            return self.pump_unlimited(swarm);
        }
        if self.ready.is_empty() {
            return true;
        }
        let now_ns = swarm.read_clock();
        let limit = self.limit();
        let mut ready = std::mem::take(&mut self.ready);
        for index in ready.drain(..) {
            let stream = &mut self.streams[index];
            stream.queued = false;
            let credit = self.window.saturating_sub(stream.outstanding(self.options.qos));
            let left = limit - stream.sent.min(limit);
            let batch = self.options.batch.min(left);
            if batch > 0 && credit >= batch {
                let count = (credit - credit % batch).min(left);
                stream.publish(swarm, index, count, now_ns);
            }
        }
        self.ready = ready;
        true
    }

    fn pump_unlimited(&mut self, swarm: &mut Swarm) -> bool {
        let now_ns = swarm.read_clock();
        let limit = self.limit();
        let mut idle = true;
        for (index, stream) in self.streams.iter_mut().enumerate() {
            let unsent = swarm.link(stream.link).map_or(usize::MAX, |link| link.unsent_bytes());
            let in_flight = match self.options.qos {
                QoS::AtMostOnce => 0,
                _ => stream.sent - stream.acknowledged,
            };
            let room = self.in_flight_max.saturating_sub(in_flight);
            let count = self.options.batch.max(64).min(room).min(limit - stream.sent.min(limit));
            if unsent < UNSENT_BYTES_MAX && count > 0 {
                stream.publish(swarm, index, count, now_ns);
                idle = false;
            }
        }
        idle
    }

    fn make_ready(&mut self, index: usize) {
        let stream = &mut self.streams[index];
        if !stream.queued && self.phase != Phase::Draining {
            stream.queued = true;
            self.ready.push(index);
        }
    }

    fn on_event(&mut self, swarm: &mut Swarm, id: LinkId, event: &Event<'_>) {
        let Some(role) = self.roles.get(id.index()).copied().flatten() else { return };
        match (event, role) {
            (Event::Packet(Packet::Publish(publish)), Role::Listener(listener)) => {
                self.on_publish(listener, publish.payload, swarm.now_ns());
            }
            (Event::Packet(Packet::Puback(ack) | Packet::Pubcomp(ack)), Role::Publisher(index)) => {
                self.rejected += u64::from(ack.reason.is_error());
                self.on_acknowledged(index, swarm.now_ns());
            }
            (Event::Packet(Packet::Pubrec(ack)), Role::Publisher(index))
                if ack.reason.is_error() =>
            {
                self.rejected += 1;
                self.on_acknowledged(index, swarm.now_ns());
            }
            (Event::Closed(_) | Event::Malformed(_), _) => self.ended += 1,
            (Event::Packet(Packet::Disconnect(_)), _) => {
                self.ended += 1;
                swarm.close(id, Leave::Finish);
            }
            _ => {}
        }
    }

    fn on_acknowledged(&mut self, index: usize, now_ns: u64) {
        self.streams[index].acknowledged += 1;
        self.arrived_ns = now_ns;
        self.make_ready(index);
    }

    fn on_publish(&mut self, listener: usize, payload: &[u8], now_ns: u64) {
        let listener = &mut self.listeners[listener];
        let stamp = Stamp::read(payload).filter(|_| is_intact(payload, self.options.payload_bytes));
        let position = stamp.and_then(|stamp| (stamp.stream as usize).checked_sub(listener.first));
        let (Some(stamp), Some(position)) = (stamp, position) else {
            self.damaged += 1;
            return;
        };
        let Some(ledger) = listener.ledgers.get_mut(position) else {
            self.damaged += 1;
            return;
        };
        let first_missing = ledger.next();
        let arrival = ledger.on(stamp.sequence);
        self.silence_ns_max = self.silence_ns_max.max(now_ns.saturating_sub(self.arrived_ns));
        self.arrived_ns = now_ns;
        if self.phase == Phase::Measured {
            self.measured += 1;
            self.latency.saturating_record(now_ns.saturating_sub(stamp.sent_ns));
        }
        let index = stamp.stream as usize;
        self.streams[index].moved_ns = now_ns;
        match arrival {
            Arrival::InOrder => self.streams[index].complete(stamp.sequence, stamp.sequence),
            Arrival::Gap(_) => self.streams[index].complete(first_missing, stamp.sequence),
            Arrival::Late | Arrival::Duplicate => return,
        }
        self.make_ready(index);
    }

    fn outcome(&self) -> FlowOutcome {
        let mut lost = 0;
        let mut expected = 0;
        let mut per_listener = Vec::with_capacity(self.listeners.len());
        for listener in &self.listeners {
            let streams = &self.streams[listener.first..][..listener.ledgers.len()];
            for (ledger, stream) in listener.ledgers.iter().zip(streams) {
                lost += ledger.lost(stream.sent);
                expected += stream.sent;
            }
            per_listener.push(listener.ledgers.iter().map(Ledger::received).sum());
        }
        let ledgers = || self.listeners.iter().flat_map(|listener| &listener.ledgers);
        FlowOutcome {
            sent: self.streams.iter().map(|stream| stream.sent).sum(),
            acknowledged: self.streams.iter().map(|stream| stream.acknowledged).sum(),
            rejected: self.rejected,
            expected,
            delivered: ledgers().map(Ledger::received).sum(),
            lost,
            duplicated: ledgers().map(Ledger::duplicated).sum(),
            reordered: ledgers().map(Ledger::reordered).sum(),
            damaged: self.damaged,
            ended: self.ended,
            rescues: self.rescues,
            silence_seconds_max: self.silence_ns_max as f64 / 1e9,
            measured: self.measured,
            spent: self.spent,
            latency: self.latency.clone(),
            window: self.window,
            per_listener,
        }
    }
}

fn streams(
    target: &Target,
    plan: &FlowPlan,
    options: &FlowOptions,
    publishers: &[Member],
    window: u64,
) -> Vec<Stream> {
    let mut copies = vec![0u32; plan.publishers.len()];
    for listener in &plan.listeners {
        for stream in listener.streams.clone() {
            copies[stream] += 1;
        }
    }
    let members = publishers.iter().zip(&plan.publishers).zip(&copies);
    let stream = |((member, plan), copies): ((&Member, &PublisherPlan), &u32)| {
        let ring = if *copies > 1 && window > 0 { window.next_power_of_two() } else { 0 };
        let bytes = options.payload_bytes;
        Stream {
            link: member.link,
            template: PublishTemplate::new(target.version, options.qos, &plan.topic, bytes),
            sent: 0,
            acknowledged: 0,
            completed: 0,
            copies: *copies,
            seen: vec![0; usize::try_from(ring).unwrap_or_default()],
            moved_ns: 0,
            queued: false,
        }
    };
    members.map(stream).collect()
}

impl Stream {
    /// Messages on their way to a listener, or, with QoS 1 and 2, not yet acknowledged.
    fn outstanding(&self, qos: QoS) -> u64 {
        let undelivered = self.sent - self.completed;
        match qos {
            QoS::AtMostOnce => undelivered,
            _ => undelivered.max(self.sent - self.acknowledged),
        }
    }

    fn publish(&mut self, swarm: &mut Swarm, index: usize, count: u64, now_ns: u64) {
        if self.completed == self.sent {
            self.moved_ns = now_ns;
        }
        for _ in 0..count {
            let packet_id = swarm.link_mut(self.link).map_or(0, |link| link.take_packet_id());
            let Some(out) = swarm.out(self.link) else { return };
            let stamp = Stamp { stream: index as u32, sequence: self.sent, sent_ns: now_ns };
            self.template.write(out, packet_id, stamp);
            self.sent += 1;
        }
    }

    /// One listener has, or will never have, the messages `first..=last`.
    fn complete(&mut self, first: u64, last: u64) {
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
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
