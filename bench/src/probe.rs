//! A steady flow through a broker whose surroundings change: messages go round-robin over a set of
//! topics and publishers to a few listeners, in windows that are measured one by one. What the
//! flow costs then shows what the surroundings cost.

use crate::fleet::{self, Target};
use crate::login::Login;
use crate::meter::{Meter, Spent};
use crate::payload::{PublishTemplate, Stamp, is_intact};
use crate::report::latency_histogram;
use crate::swarm::{Event, LinkId, Swarm};
use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use ringlane_mqtt::{Packet, QoS};
use std::process::Command;
use std::time::Duration;

/// Who talks to whom.
#[derive(Clone, Debug)]
pub struct ProbePlan {
    /// What client identifiers begin with.
    pub prefix: String,
    /// The topics; the publisher of topic n is n modulo the publishers.
    pub topics: Vec<String>,
    /// Publishers.
    pub publishers: usize,
    /// What the listeners subscribe to; every topic must match.
    pub filter: String,
    /// Listeners, each of which gets every message.
    pub listeners: usize,
}

/// How the messages flow.
#[derive(Clone, Debug)]
pub struct ProbeOptions {
    /// Bytes of a payload.
    pub payload_bytes: usize,
    /// Messages, of all publishers together, that are not yet with every listener.
    pub window: u64,
    /// Whether a new window starts only when the one before is complete: so many messages come
    /// to the broker at once, and always as many.
    pub lockstep: bool,
    /// Messages per second of all publishers together, on a schedule.
    pub rate: Option<f64>,
    /// How long a window is measured.
    pub run: Run,
    /// How long nothing may arrive before a message is called lost.
    pub patience: Duration,
    /// What is read of the broker.
    pub meter: Meter,
    /// A program that is told of each window: `PROGRAM start NAME`, `PROGRAM end NAME`.
    pub hook: Option<String>,
}

/// How long a window is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Run {
    /// A time.
    Time(Duration),
    /// A number of messages.
    Messages(u64),
}

/// What a window was like.
#[derive(Clone, Debug)]
pub struct Window {
    /// Messages published.
    pub messages: u64,
    /// What the broker spent, until the last delivery.
    pub spent: Spent,
    /// From the moment that a message was meant to be sent to its delivery, in nanoseconds.
    pub latency: Histogram<u64>,
}

impl Window {
    /// CPU time of the broker per message in microseconds.
    #[must_use]
    pub fn cpu_us_per_message(&self) -> Option<f64> {
        self.spent.cpu_seconds.map(|seconds| seconds * 1e6 / self.messages.max(1) as f64)
    }
}

/// Faults since the flow began; 0 in a sound broker.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Faults {
    /// Messages that did not follow their predecessor of the same topic: lost, late or double.
    pub out_of_sequence: u64,
    /// Messages whose bytes were not those that were sent.
    pub damaged: u64,
}

struct Topic {
    template: PublishTemplate,
    publisher: usize,
}

struct Listener {
    link: LinkId,
    /// Per topic: the sequence that comes next.
    next: Vec<u64>,
}

/// The flow.
pub struct Probe<'a> {
    options: &'a ProbeOptions,
    publishers: Vec<LinkId>,
    topics: Vec<Topic>,
    listeners: Vec<Listener>,
    /// The listener of a socket, by the position of the link; `u32::MAX` for others.
    roles: Vec<u32>,
    /// Messages sent since the flow began: message n is on topic n modulo the topics.
    sent: u64,
    /// Deliveries since the flow began.
    delivered: u64,
    arrived_ns: u64,
    faults: Faults,
    ended: bool,
    latency: Histogram<u64>,
}

const GLANCE: Duration = Duration::from_millis(10);
const CONNECT_PATIENCE: Duration = Duration::from_secs(60);

impl<'a> Probe<'a> {
    /// Connects everybody and subscribes the listeners.
    ///
    /// # Errors
    /// If the plan has nobody, or a client cannot connect or subscribe.
    pub fn set_up(
        swarm: &mut Swarm,
        target: &Target,
        plan: &ProbePlan,
        options: &'a ProbeOptions,
    ) -> Result<Self> {
        ensure!(plan.publishers > 0 && plan.listeners > 0, "a probe needs both ends");
        ensure!(plan.topics.len() >= plan.publishers, "each publisher needs a topic");
        ensure!(options.window > 0, "the window must be at least 1");
        let logins = |role: &str, count: usize| -> Vec<Login> {
            (0..count).map(|n| Login::clean(format!("{}-{role}-{n}", plan.prefix))).collect()
        };
        let connect = |swarm: &mut Swarm, logins: &[Login]| {
            fleet::connect_all(swarm, target, logins, CONNECT_PATIENCE)
        };
        let listeners = connect(swarm, &logins("sub", plan.listeners))?;
        let requests: Vec<(LinkId, &str, QoS)> = listeners
            .iter()
            .map(|member| (member.link, plan.filter.as_str(), QoS::AtMostOnce))
            .collect();
        fleet::subscribe_all(swarm, target.version, &requests, CONNECT_PATIENCE)?;
        let publishers = connect(swarm, &logins("pub", plan.publishers))?;
        let template = |topic: &String| {
            PublishTemplate::new(target.version, QoS::AtMostOnce, topic, options.payload_bytes)
        };
        let topics = plan.topics.iter().enumerate();
        let mut probe = Self {
            options,
            publishers: publishers.iter().map(|member| member.link).collect(),
            topics: topics
                .map(|(n, topic)| Topic {
                    template: template(topic),
                    publisher: n % plan.publishers,
                })
                .collect(),
            listeners: listeners
                .iter()
                .map(|member| Listener { link: member.link, next: vec![0; plan.topics.len()] })
                .collect(),
            roles: vec![u32::MAX; swarm.slots()],
            sent: 0,
            delivered: 0,
            arrived_ns: 0,
            faults: Faults::default(),
            ended: false,
            latency: latency_histogram(),
        };
        for (index, listener) in (0u32..).zip(&probe.listeners) {
            probe.roles[listener.link.index()] = index;
        }
        Ok(probe)
    }

    /// All sockets of the flow.
    #[must_use]
    pub fn links(&self) -> Vec<LinkId> {
        let publishers = self.publishers.iter().copied();
        publishers.chain(self.listeners.iter().map(|listener| listener.link)).collect()
    }

    /// What went wrong so far.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// Runs and measures one window, to the last delivery. `name` is for the hook.
    ///
    /// # Errors
    /// If a message does not come, a connection ends, or the broker or the hook fails.
    pub fn measure(&mut self, swarm: &mut Swarm, name: &str) -> Result<Window> {
        self.latency.reset();
        self.call_hook("start", name)?;
        let before = self.options.meter.read()?;
        let first = self.sent;
        self.flow(swarm, self.options.run)?;
        let spent = self.options.meter.read()?.since(&before);
        self.call_hook("end", name)?;
        Ok(Window { messages: self.sent - first, spent, latency: self.latency.clone() })
    }

    /// Runs without measuring.
    ///
    /// # Errors
    /// If a message does not come, or a connection ends.
    pub fn flow(&mut self, swarm: &mut Swarm, run: Run) -> Result<()> {
        let start_ns = swarm.read_clock();
        let first = self.sent;
        self.arrived_ns = start_ns;
        loop {
            let now_ns = swarm.read_clock();
            let is_over = match run {
                Run::Time(time) => u128::from(now_ns - start_ns) >= time.as_nanos(),
                Run::Messages(count) => self.sent - first >= count,
            };
            if is_over && self.in_flight() == 0 {
                return Ok(());
            }
            let mut timeout = GLANCE;
            if !is_over {
                let left = match run {
                    Run::Time(_) => u64::MAX,
                    Run::Messages(count) => count - (self.sent - first),
                };
                timeout = self.send_due(swarm, first, start_ns, left);
            }
            swarm.poll(timeout, &mut |swarm, link, event| {
                self.on_event(link, swarm.now_ns(), &event);
            })?;
            self.check(swarm)?;
        }
    }

    fn call_hook(&self, what: &str, name: &str) -> Result<()> {
        let Some(hook) = &self.options.hook else { return Ok(()) };
        let status = Command::new(hook).args([what, name]).status();
        let status = status.with_context(|| format!("hook {hook:?}"))?;
        ensure!(status.success(), "hook {hook:?} {what} {name} ended with {status}");
        Ok(())
    }

    fn check(&self, swarm: &Swarm) -> Result<()> {
        ensure!(!self.ended, "a connection of the probe ended");
        let silence_ns = swarm.now_ns().saturating_sub(self.arrived_ns);
        let is_lost = self.in_flight() > 0 && u128::from(silence_ns) > self.patience_ns();
        ensure!(!is_lost, "{} messages did not come", self.in_flight());
        Ok(())
    }

    fn patience_ns(&self) -> u128 {
        self.options.patience.as_nanos()
    }

    /// Messages that are not with every listener.
    fn in_flight(&self) -> u64 {
        self.sent - self.delivered / self.listeners.len() as u64
    }

    /// Sends what the window and the schedule allow; returns how long a poll may wait.
    fn send_due(&mut self, swarm: &mut Swarm, first: u64, start_ns: u64, left: u64) -> Duration {
        let now_ns = swarm.now_ns();
        if self.options.lockstep && self.in_flight() > 0 {
            return GLANCE;
        }
        let room = self.options.window.saturating_sub(self.in_flight());
        for _ in 0..room.min(left) {
            let due_ns = match self.options.rate {
                None => now_ns,
                Some(rate) => start_ns + ((self.sent - first) as f64 * 1e9 / rate) as u64,
            };
            if due_ns > now_ns {
                return Duration::from_nanos(due_ns - now_ns).min(GLANCE);
            }
            self.send(swarm, due_ns);
        }
        GLANCE
    }

    fn send(&mut self, swarm: &mut Swarm, due_ns: u64) {
        if self.in_flight() == 0 {
            self.arrived_ns = swarm.now_ns();
        }
        let topics = self.topics.len() as u64;
        let number = (self.sent % topics) as usize;
        let topic = &self.topics[number];
        let stamp = Stamp { stream: number as u32, sequence: self.sent / topics, sent_ns: due_ns };
        self.sent += 1;
        match swarm.out(self.publishers[topic.publisher]) {
            Some(out) => topic.template.write(out, 0, stamp),
            None => self.ended = true,
        }
    }

    fn on_event(&mut self, link: LinkId, now_ns: u64, event: &Event<'_>) {
        match event {
            Event::Packet(Packet::Publish(publish)) => {
                let role = self.roles.get(link.index()).copied().unwrap_or(u32::MAX);
                self.on_publish(role, now_ns, publish.payload);
            }
            Event::Closed(_) | Event::Malformed(_) => {
                self.ended = true;
            }
            _ => {}
        }
    }

    fn on_publish(&mut self, role: u32, now_ns: u64, payload: &[u8]) {
        let Some(listener) = self.listeners.get_mut(role as usize) else { return };
        if !is_intact(payload, self.options.payload_bytes) {
            self.faults.damaged += 1;
            return;
        }
        let Some(stamp) = Stamp::read(payload) else { return };
        let Some(next) = listener.next.get_mut(stamp.stream as usize) else { return };
        self.faults.out_of_sequence += u64::from(*next != stamp.sequence);
        *next = stamp.sequence + 1;
        self.delivered += 1;
        self.arrived_ns = now_ns;
        self.latency.saturating_record(now_ns.saturating_sub(stamp.sent_ns).max(1));
    }
}
