//! Many connections that do nothing but live: what each costs the broker and the kernel, and whether
//! they still get their messages.

use crate::arrivals::{self, ArrivalFigures, ArrivalOptions, Arrivals, Standing};
use crate::fleet::{self, Target};
use crate::kernel_memory::KernelMemory;
use crate::limits;
use crate::login::Login;
use crate::payload::{PAYLOAD_BYTES_MIN, PublishTemplate, Stamp};
use crate::process::Process;
use crate::swarm::{Event, LinkId, Swarm};
use anyhow::{Context, Result, bail, ensure};
use ringlane_mqtt::{Packet, QoS, encode};
use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

/// The crowd.
#[derive(Clone, Debug)]
pub struct IdleOptions {
    /// How many connections stand at each measurement, ascending; the last is all of them.
    pub steps: Vec<u64>,
    /// How they come. Without a subscription, the sampled ones subscribe when they are sampled.
    pub arrival: ArrivalOptions,
    /// Topic prefix of the sampled messages; the same as that of the subscriptions.
    pub topic: String,
    /// Rest before each measurement.
    pub settle: Duration,
    /// How long all of them stand before they are sampled.
    pub hold: Duration,
    /// Connections that get a message at the end.
    pub sample: usize,
    /// The broker's process.
    pub process: Option<Process>,
}

/// What stood at one step, all of it as growth since before the first connection.
#[derive(Clone, Debug)]
pub struct StepFigures {
    /// Connections.
    pub connections: u64,
    /// Seconds that the new ones took to come.
    pub seconds: f64,
    /// CPU seconds that the broker spent on the new ones.
    pub cpu_seconds: Option<f64>,
    /// Resident memory of the broker in bytes.
    pub broker_bytes: Option<u64>,
    /// Resident memory of this process in bytes.
    pub own_bytes: u64,
    /// Slabs of the kernel, of both ends if both are on this host.
    pub kernel: KernelMemory,
}

/// What happened.
#[derive(Clone, Debug)]
pub struct IdleOutcome {
    /// The measurements.
    pub steps: Vec<StepFigures>,
    /// How the clients came.
    pub arrivals: ArrivalFigures,
    /// Connections that ended though nobody wanted it.
    pub ended: u64,
    /// PINGREQs sent, and PINGRESPs that came.
    pub pings: (u64, u64),
    /// CPU seconds of the broker while all stood, and how long that was.
    pub holding: Option<(f64, f64)>,
    /// Connections that were sampled, and those that got their message and no other.
    pub sampled: (u64, u64),
    /// Messages that came to the wrong connection, or twice.
    pub misdelivered: u64,
}

/// What is read before the first connection.
struct Baseline {
    broker_bytes: Option<u64>,
    own_bytes: u64,
    kernel: KernelMemory,
}

struct Sampled {
    number: u32,
    is_served: bool,
}

struct Idle<'a> {
    target: &'a Target,
    options: &'a IdleOptions,
    feeder: LinkId,
    arrivals: Arrivals<'a>,
    standing: Vec<Standing>,
    pinger: Pinger,
    sampled: HashMap<LinkId, Sampled>,
    subscribed: usize,
    served: usize,
    feeder_ended: bool,
    ended: u64,
    pongs: u64,
    misdelivered: u64,
}

const GLANCE: Duration = Duration::from_millis(10);
/// Sampled messages under way at once.
const SAMPLE_WINDOW: usize = 500;

/// Runs the whole: connections step by step, the hold, the sample.
///
/// # Errors
/// If a limit of this host is in the way, a sampled message does not come, or the process is gone.
pub fn run(target: &Target, options: &IdleOptions) -> Result<IdleOutcome> {
    let all = options.steps.last().copied().context("no step is given")?;
    ensure!(options.steps.is_sorted() && options.steps[0] > 0, "steps must ascend from above 0");
    limits::prepare(all, &target.sources, options.process)?;
    let mut swarm = Swarm::new()?;
    let feeder_login = [Login::clean(format!("{}-feeder", options.arrival.prefix))];
    let patience = options.arrival.patience;
    let feeder = fleet::connect_all(&mut swarm, target, &feeder_login, patience)?[0].link;
    let mut idle = Idle::new(target, options, feeder)?;
    idle.rest(&mut swarm, options.settle)?;
    let baseline = Baseline::read(options.process)?;
    let mut steps = Vec::with_capacity(options.steps.len());
    for goal in &options.steps {
        steps.push(idle.step(&mut swarm, *goal, &baseline)?);
    }
    let holding = idle.hold(&mut swarm)?;
    let sampled = idle.sample(&mut swarm)?;
    idle.pinger.stop();
    idle.wait_until(&mut swarm, |idle| idle.pongs >= idle.pinger.sent)?;
    let outcome = IdleOutcome {
        steps,
        arrivals: idle.arrivals.figures().clone(),
        ended: idle.ended,
        pings: (idle.pinger.sent, idle.pongs),
        holding,
        sampled,
        misdelivered: idle.misdelivered,
    };
    let mut links: Vec<LinkId> = idle.standing.iter().map(|client| client.link).collect();
    links.push(feeder);
    fleet::leave_all(&mut swarm, target.version, &links)?;
    Ok(outcome)
}

impl Baseline {
    fn read(process: Option<Process>) -> Result<Self> {
        Ok(Self {
            broker_bytes: broker_bytes(process)?,
            own_bytes: own_bytes()?,
            kernel: KernelMemory::read().context("slabs of the kernel")?,
        })
    }
}

fn broker_bytes(process: Option<Process>) -> Result<Option<u64>> {
    process.map(Process::resident_bytes).transpose().context("memory of the broker")
}

fn own_bytes() -> Result<u64> {
    Process(std::process::id()).resident_bytes().context("memory of this process")
}

fn cpu_seconds(process: Option<Process>) -> Result<Option<f64>> {
    let time = process.map(Process::cpu_time).transpose().context("CPU time of the broker")?;
    Ok(time.map(|time| time.as_secs_f64()))
}

impl<'a> Idle<'a> {
    fn new(target: &'a Target, options: &'a IdleOptions, feeder: LinkId) -> Result<Self> {
        Ok(Self {
            target,
            options,
            feeder,
            arrivals: Arrivals::new(target, &options.arrival)?,
            standing: Vec::new(),
            pinger: Pinger::new(options.arrival.keep_alive_secs),
            sampled: HashMap::new(),
            subscribed: 0,
            served: 0,
            feeder_ended: false,
            ended: 0,
            pongs: 0,
            misdelivered: 0,
        })
    }

    /// Lets clients come until `goal` have been started, rests, and measures.
    fn step(&mut self, swarm: &mut Swarm, goal: u64, baseline: &Baseline) -> Result<StepFigures> {
        let started = Instant::now();
        let cpu_before = cpu_seconds(self.options.process)?;
        self.arrivals.start_schedule(swarm);
        while !self.arrivals.is_done(goal) {
            self.arrivals.start_due(swarm, goal);
            let timeout = self.arrivals.timeout(swarm, goal);
            self.turn(swarm, timeout)?;
        }
        let cpu_after = cpu_seconds(self.options.process)?;
        let seconds = started.elapsed().as_secs_f64();
        self.rest(swarm, self.options.settle)?;
        let broker = broker_bytes(self.options.process)?;
        Ok(StepFigures {
            connections: self.standing.len() as u64 - self.ended.min(self.standing.len() as u64),
            seconds,
            cpu_seconds: cpu_after.zip(cpu_before).map(|(after, before)| after - before),
            broker_bytes: broker.zip(baseline.broker_bytes).map(|(now, then)| now - now.min(then)),
            own_bytes: own_bytes()?.saturating_sub(baseline.own_bytes),
            kernel: KernelMemory::read()?.since(&baseline.kernel),
        })
    }

    /// One turn: keep-alive, and whatever comes.
    fn turn(&mut self, swarm: &mut Swarm, timeout: Duration) -> Result<()> {
        self.pinger.ping_due(swarm, &self.standing);
        swarm.poll(timeout, &mut |swarm, link, event| self.on_event(swarm, link, &event))?;
        ensure!(!self.feeder_ended, "the publisher lost its connection");
        Ok(())
    }

    fn rest(&mut self, swarm: &mut Swarm, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn(swarm, GLANCE)?;
        }
        Ok(())
    }

    fn hold(&mut self, swarm: &mut Swarm) -> Result<Option<(f64, f64)>> {
        let (started, before) = (Instant::now(), cpu_seconds(self.options.process)?);
        self.rest(swarm, self.options.hold)?;
        let after = cpu_seconds(self.options.process)?;
        let seconds = started.elapsed().as_secs_f64();
        Ok(after.zip(before).map(|(after, before)| (after - before, seconds)))
    }

    fn on_event(&mut self, swarm: &mut Swarm, link: LinkId, event: &Event<'_>) {
        if self.arrivals.is_pending(link) {
            if let Some(client) = self.arrivals.on_event(swarm, link, event) {
                self.standing.push(client);
                shed(swarm, link);
            }
            return;
        }
        match event {
            Event::Packet(Packet::Pingresp) => {
                self.pongs += 1;
                shed(swarm, link);
            }
            Event::Packet(Packet::Suback(suback)) => {
                let is_granted = suback.reasons.iter().all(|reason| *reason < 0x80);
                self.subscribed += usize::from(is_granted && self.sampled.contains_key(&link));
            }
            Event::Packet(Packet::Publish(publish)) => self.on_publish(link, publish.payload),
            Event::Closed(_) | Event::Malformed(_) if link == self.feeder => {
                self.feeder_ended = true;
            }
            Event::Closed(_) | Event::Malformed(_) => self.ended += 1,
            _ => {}
        }
    }

    fn on_publish(&mut self, link: LinkId, payload: &[u8]) {
        let sequence = Stamp::read(payload).map(|stamp| stamp.sequence);
        match self.sampled.get_mut(&link) {
            Some(sampled) if !sampled.is_served && sequence == Some(sampled.number.into()) => {
                sampled.is_served = true;
                self.served += 1;
            }
            _ => self.misdelivered += 1,
        }
    }

    /// Sends one message to each of some connections, spread over all; returns how many there
    /// were, and how many got theirs.
    fn sample(&mut self, swarm: &mut Swarm) -> Result<(u64, u64)> {
        let picked = self.pick();
        for client in &picked {
            let sampled = Sampled { number: client.number, is_served: false };
            self.sampled.insert(client.link, sampled);
        }
        if self.options.arrival.subscribe.is_none() {
            self.subscribe(swarm, &picked)?;
        }
        for (sent, client) in picked.iter().enumerate() {
            self.publish(swarm, client.number)?;
            let due = (sent + 1).saturating_sub(SAMPLE_WINDOW);
            self.wait_until(swarm, |idle| idle.served >= due)?;
        }
        self.wait_until(swarm, |idle| idle.served >= picked.len())?;
        Ok((picked.len() as u64, self.served as u64))
    }

    fn subscribe(&mut self, swarm: &mut Swarm, clients: &[Standing]) -> Result<()> {
        for client in clients {
            let filter = arrivals::topic(&self.options.topic, client.number);
            if let Some(out) = swarm.out(client.link) {
                let filters = [(filter.as_str(), QoS::AtLeastOnce)];
                fleet::write_subscribe(out, self.target.version, 1, &filters);
            }
        }
        self.wait_until(swarm, |idle| idle.subscribed >= clients.len())
    }

    fn pick(&self) -> Vec<Standing> {
        let count = self.options.sample.min(self.standing.len());
        (0..count).map(|index| self.standing[index * self.standing.len() / count]).collect()
    }

    fn publish(&mut self, swarm: &mut Swarm, number: u32) -> Result<()> {
        let topic = arrivals::topic(&self.options.topic, number);
        let version = self.target.version;
        let template = PublishTemplate::new(version, QoS::AtLeastOnce, &topic, PAYLOAD_BYTES_MIN);
        let packet_id = swarm.link_mut(self.feeder).map_or(1, |link| link.take_packet_id());
        let Some(out) = swarm.out(self.feeder) else { bail!("the publisher lost its connection") };
        template.write(out, packet_id, Stamp { stream: 0, sequence: number.into(), sent_ns: 0 });
        Ok(())
    }

    /// Turns until a condition holds, or patience is over: what is missing then is a failed check,
    /// not an error, and the rest still counts.
    fn wait_until(&mut self, swarm: &mut Swarm, holds: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + self.options.arrival.patience;
        while !holds(self) && Instant::now() < deadline {
            self.turn(swarm, GLANCE)?;
        }
        Ok(())
    }
}

/// Gives back the buffers of a link that will be idle.
fn shed(swarm: &mut Swarm, link: LinkId) {
    if let Some(link) = swarm.link_mut(link) {
        link.shed();
    }
}

/// Spreads PINGREQs evenly over time: each connection gets one in each cycle of half a keep alive.
/// The cursor covers the same share of the connections as of the cycle, so that the time between
/// two pings of one connection is a cycle at most, also while more arrive.
struct Pinger {
    cycle_ns: Option<u64>,
    cycle_start_ns: u64,
    cursor: usize,
    sent: u64,
}

impl Pinger {
    fn new(keep_alive_secs: u16) -> Self {
        let cycle_ns = u64::from(keep_alive_secs) * 500_000_000;
        let cycle_ns = (cycle_ns > 0).then_some(cycle_ns);
        Self { cycle_ns, cycle_start_ns: 0, cursor: 0, sent: 0 }
    }

    fn stop(&mut self) {
        self.cycle_ns = None;
    }

    fn ping_due(&mut self, swarm: &mut Swarm, standing: &[Standing]) {
        for client in &standing[self.due(swarm.now_ns(), standing.len())] {
            if swarm.link(client.link).is_some()
                && let Some(out) = swarm.out(client.link)
            {
                encode::pingreq(out);
                self.sent += 1;
            }
        }
    }

    /// Which of `count` connections are to be pinged now.
    fn due(&mut self, now_ns: u64, count: usize) -> Range<usize> {
        let Some(cycle_ns) = self.cycle_ns else { return 0..0 };
        let share = now_ns.saturating_sub(self.cycle_start_ns) as f64 / cycle_ns as f64;
        let end = ((count as f64 * share.min(1.0)) as usize).max(self.cursor);
        let start = std::mem::replace(&mut self.cursor, end);
        if share >= 1.0 {
            (self.cycle_start_ns, self.cursor) = (now_ns, 0);
        }
        start..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of pings due for `count` connections at each of some moments.
    fn due(pinger: &mut Pinger, count: usize, moments: &[u64]) -> Vec<usize> {
        moments.iter().map(|now_ns| pinger.due(*now_ns, count).len()).collect()
    }

    #[test]
    fn a_cycle_reaches_everybody_once() {
        let mut pinger = Pinger::new(2);
        let second = 1_000_000_000;
        let counts = due(&mut pinger, 100, &[0, second / 4, second / 2, second]);
        assert_eq!(counts, [0, 25, 25, 50]);
        assert_eq!(due(&mut pinger, 100, &[second, second * 3]), [0, 100]);
    }

    #[test]
    fn newcomers_wait_no_longer_than_a_cycle() {
        let mut pinger = Pinger::new(2);
        assert_eq!(due(&mut pinger, 100, &[500_000_000]), [50]);
        assert_eq!(due(&mut pinger, 300, &[600_000_000, 1_000_000_000]), [130, 120]);
    }

    #[test]
    fn without_keep_alive_nobody_is_pinged() {
        assert_eq!(due(&mut Pinger::new(0), 10, &[u64::MAX]), [0]);
    }
}
