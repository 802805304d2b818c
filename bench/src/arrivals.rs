//! Clients that come one after the other: at a rate, or as fast as a bound of pending ones allows.
//! Only the pending ones have any state here, so that a million may stand.

use crate::fleet::{self, Target};
use crate::limits;
use crate::login::Login;
use crate::report::latency_histogram;
use crate::swarm::{Closure, Event, Leave, LinkId, Swarm};
use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use ringlane_mqtt::{Packet, QoS, ReasonCode};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// How clients come.
#[derive(Clone, Debug)]
pub struct ArrivalOptions {
    /// What client identifiers begin with; the client's number follows.
    pub prefix: String,
    /// New connections per second, or none but the bound of pending ones.
    pub rate: Option<f64>,
    /// Clients that have been started and do not stand yet, at most.
    pub pending_max: usize,
    /// Keep alive in seconds; 0 is off.
    pub keep_alive_secs: u16,
    /// Topic prefix of the one subscription (QoS 1) that each client makes; none without it.
    pub subscribe: Option<String>,
    /// How long a client may take until it stands.
    pub patience: Duration,
}

/// A client that stands: connected, and subscribed if it was to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Its socket.
    pub link: LinkId,
    /// Its number, from 0 in the order of arrival.
    pub number: u32,
}

/// How it went.
#[derive(Clone, Debug)]
pub struct ArrivalFigures {
    /// Clients that stand, or stood.
    pub standing: u64,
    /// Clients that failed, by cause.
    pub failures: BTreeMap<String, u64>,
    /// From the moment that a client was meant to start (with a rate: on schedule) until its TCP
    /// connection stood, in nanoseconds.
    pub tcp: Histogram<u64>,
    /// From there, which is when CONNECT goes out, to CONNACK.
    pub connect: Histogram<u64>,
    /// Both together.
    pub whole: Histogram<u64>,
    /// The longest time that a client started behind its schedule, in nanoseconds; 0 without a rate.
    pub late_ns_max: u64,
}

impl ArrivalFigures {
    fn new() -> Self {
        Self {
            standing: 0,
            failures: BTreeMap::new(),
            tcp: latency_histogram(),
            connect: latency_histogram(),
            whole: latency_histogram(),
            late_ns_max: 0,
        }
    }

    /// Clients that failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

#[derive(Clone, Copy)]
enum Stage {
    Opening,
    Connecting { opened_ns: u64 },
    Subscribing,
}

struct Pending {
    number: u32,
    started_ns: u64,
    stage: Stage,
}

/// The arrivals of one run.
pub struct Arrivals<'a> {
    target: &'a Target,
    options: &'a ArrivalOptions,
    /// How many have been started.
    started: u64,
    /// How many had been started when the schedule began, and when that was.
    schedule: (u64, u64),
    pending: HashMap<LinkId, Pending>,
    swept_ns: u64,
    figures: ArrivalFigures,
}

/// How often clients that take too long are looked for.
const SWEEP_NS: u64 = 200_000_000;
/// How long a poll waits if nothing is due.
const GLANCE: Duration = Duration::from_millis(10);

impl<'a> Arrivals<'a> {
    /// Nobody has come yet.
    ///
    /// # Errors
    /// If the rate or the bound of pending clients lets nobody come.
    pub fn new(target: &'a Target, options: &'a ArrivalOptions) -> Result<Self> {
        ensure!(options.pending_max > 0, "at least one client must be allowed to be pending");
        ensure!(options.rate.is_none_or(|rate| rate > 0.0), "the rate must be above 0");
        Ok(Self {
            target,
            options,
            started: 0,
            schedule: (0, 0),
            pending: HashMap::new(),
            swept_ns: 0,
            figures: ArrivalFigures::new(),
        })
    }

    /// Begins the schedule of the clients that have not been started: the next is due now.
    pub fn start_schedule(&mut self, swarm: &mut Swarm) {
        self.schedule = (self.started, swarm.read_clock());
    }

    /// Starts the clients that are due, as long as their number stays below `goal`, and gives up
    /// those that take too long.
    pub fn start_due(&mut self, swarm: &mut Swarm, goal: u64) {
        let now_ns = swarm.read_clock();
        while self.started < goal && self.pending.len() < self.options.pending_max {
            let due_ns = self.due_ns(now_ns);
            if due_ns > now_ns {
                break;
            }
            self.figures.late_ns_max = self.figures.late_ns_max.max(now_ns - due_ns);
            self.start(swarm, due_ns);
        }
        if now_ns.saturating_sub(self.swept_ns) > SWEEP_NS {
            self.swept_ns = now_ns;
            self.sweep(swarm, now_ns);
        }
    }

    /// When the next client is to start; now, without a rate.
    fn due_ns(&self, now_ns: u64) -> u64 {
        let (first, start_ns) = self.schedule;
        self.options
            .rate
            .map_or(now_ns, |rate| start_ns + ((self.started - first) as f64 * 1e9 / rate) as u64)
    }

    fn start(&mut self, swarm: &mut Swarm, started_ns: u64) {
        let number = self.started;
        self.started += 1;
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        match (swarm.open(&self.target.link_options(index)), u32::try_from(number)) {
            (Ok(link), Ok(number)) => {
                self.pending.insert(link, Pending { number, started_ns, stage: Stage::Opening });
            }
            (Err(error), _) => {
                self.fail(format!("no socket: {error} ({})", limits::advice(&error)))
            }
            (_, Err(_)) => self.fail("client numbers end at 2^32".to_owned()),
        }
    }

    fn fail(&mut self, cause: String) {
        *self.figures.failures.entry(cause).or_insert(0) += 1;
    }

    fn sweep(&mut self, swarm: &mut Swarm, now_ns: u64) {
        let patience_ns = nanos(self.options.patience);
        let is_late = |pending: &Pending| now_ns.saturating_sub(pending.started_ns) > patience_ns;
        let late: Vec<LinkId> =
            self.pending.iter().filter(|(_, it)| is_late(it)).map(|(link, _)| *link).collect();
        for link in late {
            let Some(pending) = self.pending.remove(&link) else { continue };
            swarm.close(link, Leave::Reset);
            self.fail(format!("{} after {:?}", pending.stage.missing(), self.options.patience));
        }
    }

    /// How long a poll may wait before the next client is due.
    #[must_use]
    pub fn timeout(&self, swarm: &Swarm, goal: u64) -> Duration {
        if self.started >= goal || self.pending.len() >= self.options.pending_max {
            return GLANCE;
        }
        let now_ns = swarm.now_ns();
        Duration::from_nanos(self.due_ns(now_ns).saturating_sub(now_ns)).min(GLANCE)
    }

    /// Whether all below `goal` have been started and none is pending.
    #[must_use]
    pub fn is_done(&self, goal: u64) -> bool {
        self.started >= goal && self.pending.is_empty()
    }

    /// What has been seen so far.
    #[must_use]
    pub fn figures(&self) -> &ArrivalFigures {
        &self.figures
    }

    /// Whether a socket is that of a client that does not stand yet.
    #[must_use]
    pub fn is_pending(&self, link: LinkId) -> bool {
        self.pending.contains_key(&link)
    }

    /// Takes an event of a pending client; returns the client once it stands. Events of others
    /// mean nothing here.
    pub fn on_event(
        &mut self,
        swarm: &mut Swarm,
        link: LinkId,
        event: &Event<'_>,
    ) -> Option<Standing> {
        let number = self.pending.get(&link)?.number;
        match event {
            Event::Opened => self.on_opened(swarm, link),
            Event::Packet(Packet::Connack(connack)) if connack.reason == ReasonCode::SUCCESS => {
                return self.on_connack(swarm, link);
            }
            Event::Packet(Packet::Connack(connack)) => {
                swarm.close(link, Leave::Finish);
                self.give_up(link, format!("refused with {:?}", connack.reason));
            }
            Event::Packet(Packet::Suback(suback)) => {
                if suback.reasons.iter().all(|reason| *reason < 0x80) {
                    return Some(self.stand(link, number));
                }
                swarm.close(link, Leave::Finish);
                self.give_up(link, format!("filter refused with {:02x?}", suback.reasons));
            }
            Event::Malformed(error) => self.give_up(link, format!("malformed answer: {error}")),
            Event::Closed(closure) => self.on_closed(link, *closure),
            _ => {}
        }
        None
    }

    fn on_opened(&mut self, swarm: &mut Swarm, link: LinkId) {
        let opened_ns = swarm.now_ns();
        let Some(pending) = self.pending.get_mut(&link) else { return };
        record(&mut self.figures.tcp, opened_ns.saturating_sub(pending.started_ns));
        pending.stage = Stage::Connecting { opened_ns };
        let login = Login {
            keep_alive_secs: self.options.keep_alive_secs,
            ..Login::clean(format!("{}-{}", self.options.prefix, pending.number))
        };
        if let Some(out) = swarm.out(link) {
            login.encode(self.target.version, out);
        }
    }

    fn on_connack(&mut self, swarm: &mut Swarm, link: LinkId) -> Option<Standing> {
        let now_ns = swarm.now_ns();
        let pending = self.pending.get_mut(&link)?;
        let Stage::Connecting { opened_ns } = pending.stage else { return None };
        let number = pending.number;
        record(&mut self.figures.connect, now_ns.saturating_sub(opened_ns));
        record(&mut self.figures.whole, now_ns.saturating_sub(pending.started_ns));
        let Some(prefix) = &self.options.subscribe else { return Some(self.stand(link, number)) };
        pending.stage = Stage::Subscribing;
        let filter = topic(prefix, number);
        if let Some(out) = swarm.out(link) {
            fleet::write_subscribe(out, self.target.version, 1, &[(&filter, QoS::AtLeastOnce)]);
        }
        None
    }

    fn stand(&mut self, link: LinkId, number: u32) -> Standing {
        self.pending.remove(&link);
        self.figures.standing += 1;
        Standing { link, number }
    }

    fn on_closed(&mut self, link: LinkId, closure: Closure) {
        let Some(pending) = self.pending.get(&link) else { return };
        let how = match closure {
            Closure::Finished => "closed by the broker".to_owned(),
            Closure::Failed(errno) => std::io::Error::from_raw_os_error(errno).to_string(),
        };
        let cause = format!("{}: {how}", pending.stage.missing());
        self.give_up(link, cause);
    }

    fn give_up(&mut self, link: LinkId, cause: String) {
        self.pending.remove(&link);
        self.fail(cause);
    }
}

impl Stage {
    fn missing(self) -> &'static str {
        match self {
            Self::Opening => "no TCP connection",
            Self::Connecting { .. } => "no CONNACK",
            Self::Subscribing => "no SUBACK",
        }
    }
}

/// The topic of a client: 7 digits behind the prefix, so that all filters are of one length.
#[must_use]
pub fn topic(prefix: &str, number: u32) -> String {
    format!("{prefix}/{number:07}")
}

fn record(histogram: &mut Histogram<u64>, nanos: u64) {
    histogram.saturating_record(nanos.max(1));
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
