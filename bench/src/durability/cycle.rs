//! A run: cycles of load, fault, restart and drain, and the reckoning at the end.

use super::engine::Engine;
use super::findings::Check;
use super::host::{Fault, Host};
use super::retained;
use super::session::Habit;
use super::{Options, Outcome};
use crate::report::latency_histogram;
use crate::swarm::{Leave, Swarm};
use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use serde_json::json;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long the broker's last bytes are read after its end.
const LAST_BYTES: Duration = Duration::from_secs(5);
/// The fault comes at most so long after the answer that was drawn.
const JITTER_US: u64 = 3000;
/// Answers to each publisher that must come between a restart and the drain.
const ANSWERS_AFTER: u64 = 6;

/// How often a start is struck, and how many times in a row at most.
const STUMBLE_ONE_IN: u64 = 4;
const STUMBLES_MAX: u32 = 5;

/// How long clients go on without power, or on a full disk.
const WEAK_TIME: Duration = Duration::from_millis(150);

/// The latest visit of a failpoint that is meant, and how long it may take until it is met.
const VISITS_MAX: u64 = 60;
const TRIP_MAX: Duration = Duration::from_millis(500);

/// Everything of a run.
pub(super) struct Run<'a> {
    options: &'a Options,
    host: &'a mut dyn Host,
    engine: Engine,
    swarm: Swarm,
    restarts: Histogram<u64>,
    cycles: u32,
    tripped: u32,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        options: &'a Options,
        host: &'a mut dyn Host,
        engine: Engine,
    ) -> Result<Self> {
        let (swarm, restarts) = (Swarm::new()?, latency_histogram());
        Ok(Self { options, host, engine, swarm, restarts, cycles: 0, tripped: 0 })
    }

    /// Runs all cycles.
    ///
    /// # Errors
    /// If nothing can be said of the broker: it does not start the first time, or this machine has
    /// no sockets.
    pub(super) fn run(mut self) -> Result<Outcome> {
        let started = Instant::now();
        let address = self.host.start()?;
        self.arrive(address);
        self.engine.journal.life = 1;
        let patience = self.options.patience;
        let is_there =
            self.engine.until(&mut self.swarm, patience, |engine| engine.is_everybody_there())?;
        ensure!(is_there, "the clients do not get in: {}", self.host.output());
        let mut is_alive = true;
        for cycle in 1..=self.options.cycles {
            self.engine.journal.cycle = cycle;
            self.cycles = cycle;
            is_alive = self.cycle()?;
            let has_failed = self.engine.journal.findings.total() > 0;
            if !is_alive || (has_failed && !self.options.keep_going) {
                break;
            }
        }
        // Of a broker that is stuck nobody knows what it has lost.
        if is_alive && self.finish()? {
            for session in &self.engine.sessions {
                session.report_lost(&mut self.engine.journal);
            }
        }
        self.engine.journal.history.flush()?;
        Ok(self.outcome(started.elapsed()))
    }

    /// One cycle; says whether the broker is still there.
    fn cycle(&mut self) -> Result<bool> {
        if !self.prepare()? || !self.load()? || !self.strike()? || !self.resume()? {
            return Ok(false);
        }
        let is_published = self.drain(self.options.silence)?;
        if is_published {
            self.confirm()?;
        }
        Ok(is_published)
    }

    /// Who is to be away goes, leavers leave, the client with the will comes.
    fn prepare(&mut self) -> Result<bool> {
        for index in 0..self.engine.sessions.len() {
            let session = &self.engine.sessions[index];
            if session.habit == Habit::Away
                && session.dial.is_wanted
                && self.engine.choice.one_in(2)
            {
                let how = if self.engine.choice.one_in(2) { Leave::Reset } else { Leave::Finish };
                self.engine.sessions[index].dial.is_wanted = false;
                self.engine.hang_up(&mut self.swarm, index, how);
            }
        }
        self.engine.renew_leavers(&mut self.swarm);
        if !self.options.will_wait.is_zero() {
            self.engine.begin_will(&mut self.swarm)?;
        }
        self.expect("before the load", |engine| {
            engine.is_everybody_there() && engine.wills.is_ready()
        })
    }

    /// Publishes until the broker has answered as often as was drawn.
    fn load(&mut self) -> Result<bool> {
        let (least, most) = self.options.answers;
        let target =
            self.engine.journal.answers + self.engine.choice.between(least, most.max(least));
        let half_way = (self.engine.journal.answers + target) / 2;
        self.engine.is_publishing = true;
        if !self.expect("under load", |engine| engine.journal.answers >= half_way)? {
            return Ok(false);
        }
        self.engine.cut_will(&mut self.swarm);
        if !self.expect("under load", |engine| engine.journal.answers >= target)? {
            return Ok(false);
        }
        if self.engine.choice.one_in(2) {
            let moment = Duration::from_micros(self.engine.choice.below(JITTER_US));
            self.engine.until(&mut self.swarm, moment, |_| false)?;
        }
        Ok(true)
    }

    /// The fault; says whether the broker is there again.
    fn strike(&mut self) -> Result<bool> {
        let fault = self.options.fault;
        self.note(fault.name());
        if fault == Fault::None {
            self.engine.reset_all(&mut self.swarm);
            return Ok(true);
        }
        if let Err(error) = self.host.weaken(fault) {
            return self.stuck(&format!("the fault {} did not come: {error:#}", fault.name()));
        }
        self.engine.is_weak = true;
        if fault == Fault::Command {
            return self.endure();
        }
        let goes_on = match fault {
            Fault::FullDisk | Fault::WriteError => true,
            Fault::PowerLoss => self.engine.choice.one_in(2),
            Fault::Kill | Fault::Term | Fault::Command | Fault::None => false,
        };
        if goes_on {
            // What is acknowledged now is acknowledged without a disk that takes it.
            self.engine.until(&mut self.swarm, WEAK_TIME, |_| false)?;
        }
        if fault == Fault::FullDisk {
            self.host.strike(fault)?;
            self.engine.is_weak = false;
            return Ok(true);
        }
        self.engine.is_publishing = false;
        self.engine.is_dialling = false;
        if let Err(error) = self.host.strike(fault) {
            return self.stuck(&format!("the fault {} met no broker: {error:#}", fault.name()));
        }
        self.engine.until(&mut self.swarm, LAST_BYTES, |engine| engine.is_silent())?;
        self.engine.reset_all(&mut self.swarm);
        self.engine.is_weak = false;
        if let Err(error) = self.stumble().and_then(|()| self.trip()) {
            return self.stuck(&format!("it does not start again: {error:#}"));
        }
        self.begin_again()
    }

    /// Goes on while the fault lasts, until some more was answered or nothing is any more; then it is made
    /// good.
    fn endure(&mut self) -> Result<bool> {
        let target = self.engine.journal.answers + self.answers_after();
        let silence = self.options.silence;
        self.engine.until(&mut self.swarm, silence, |engine| engine.journal.answers >= target)?;
        self.engine.is_publishing = false;
        self.engine.is_dialling = false;
        self.engine.reset_all(&mut self.swarm);
        self.engine.is_weak = false;
        self.begin_again()
    }

    /// The broker is started again; says whether it is there.
    fn begin_again(&mut self) -> Result<bool> {
        let started = Instant::now();
        match self.host.start() {
            Ok(address) => self.arrive(address),
            Err(error) => return self.stuck(&format!("it does not start again: {error:#}")),
        }
        self.restarts.saturating_record(started.elapsed().as_nanos() as u64);
        self.engine.journal.life += 1;
        self.engine.is_dialling = true;
        self.note("started again");
        Ok(true)
    }

    /// The broker is there again.
    fn arrive(&mut self, address: SocketAddr) {
        self.engine.target.address = address;
        self.engine.nodes = self.host.addresses();
        self.engine.journal.is_cluster = !self.engine.nodes.is_empty();
    }

    /// Now and then the fault comes again while the broker starts.
    fn stumble(&mut self) -> Result<()> {
        let fault = self.options.fault;
        let most = self.options.stumble.as_micros() as u64;
        let is_abrupt = matches!(fault, Fault::Kill | Fault::PowerLoss);
        for _ in 0..STUMBLES_MAX {
            if most == 0 || !is_abrupt || !self.engine.choice.one_in(STUMBLE_ONE_IN) {
                break;
            }
            let after = Duration::from_micros(self.engine.choice.below(most));
            self.note("stumble");
            self.engine.journal.life += 1;
            self.host.stumble(fault, after)?;
        }
        Ok(())
    }

    /// Starts the broker with a failpoint, and lets it run into it under load. One that is not met
    /// in time ends as a kill.
    fn trip(&mut self) -> Result<()> {
        let points = &self.options.failpoints;
        let Some(point) = points.get(self.engine.choice.below(points.len() as u64) as usize) else {
            return Ok(());
        };
        let most = if self.engine.choice.one_in(2) { 3 } else { VISITS_MAX };
        let point = format!("{point}:{}", self.engine.choice.between(1, most));
        self.note(&point);
        self.host.arm(Some(point));
        self.engine.journal.life += 1;
        if let Ok(address) = self.host.start() {
            self.arrive(address);
            (self.engine.is_dialling, self.engine.is_publishing) = (true, true);
            let host = &mut *self.host;
            let has_met = self.engine.until(&mut self.swarm, TRIP_MAX, |_| host.has_ended())?;
            self.tripped += u32::from(has_met);
            (self.engine.is_dialling, self.engine.is_publishing) = (false, false);
        } else {
            self.tripped += 1;
        }
        self.host.weaken(self.options.fault)?;
        self.host.strike(self.options.fault)?;
        self.host.arm(None);
        self.engine.until(&mut self.swarm, LAST_BYTES, |engine| engine.is_silent())?;
        self.engine.reset_all(&mut self.swarm);
        Ok(())
    }

    /// Answers that must come after a fault.
    fn answers_after(&self) -> u64 {
        self.engine.publishers.len() as u64 * ANSWERS_AFTER
    }

    /// Everybody comes back and resumes, and more is published.
    fn resume(&mut self) -> Result<bool> {
        for session in &mut self.engine.sessions {
            session.came_since_start = 0;
            session.dial.is_wanted |= self.engine.choice.one_in(2);
        }
        let target = self.engine.journal.answers + self.answers_after();
        self.engine.is_publishing = true;
        self.expect("after the fault", |engine| {
            engine.is_everybody_there() && engine.journal.answers >= target
        })
    }

    /// Nothing new is published, and everybody gets what is owed. What does not come within
    /// `silence` is given up.
    fn drain(&mut self, silence: Duration) -> Result<bool> {
        self.engine.is_publishing = false;
        self.engine.is_draining = true;
        if !self.expect("in the drain", |engine| engine.is_published())? {
            return Ok(false);
        }
        let mut seen = (self.engine.journal.deliveries, Instant::now());
        self.engine.until(&mut self.swarm, self.options.patience.max(silence) * 6, |engine| {
            if engine.journal.deliveries != seen.0 {
                seen = (engine.journal.deliveries, Instant::now());
            }
            engine.unsettled().next().is_none() || seen.1.elapsed() >= silence
        })?;
        let journal = &mut self.engine.journal;
        for session in self.engine.sessions.iter_mut().filter(|session| session.dial.is_wanted) {
            if session.is_settled() {
                continue;
            }
            if session.was_resumed && session.came_since_start == 0 && session.owed > 0 {
                let what = "Session Present is 1, and nothing comes";
                journal.violate(Check::SessionLie, session.dial.name(), what);
            }
            session.give_up(journal);
        }
        Ok(true)
    }

    /// Asks the broker whether it has read every acknowledgement, and looks at what is retained.
    fn confirm(&mut self) -> Result<()> {
        self.note("confirm");
        self.engine.ping_sessions(&mut self.swarm);
        self.engine.until(&mut self.swarm, self.options.patience, |engine| {
            let mut there = engine.sessions.iter().filter(|session| session.dial.is_online);
            there.all(|session| session.is_fenced)
        })?;
        self.engine.is_draining = false;
        if self.engine.choice.one_in(self.options.rest_one_in) {
            self.note("rest");
            // Counted before it begins: what comes meanwhile has not rested.
            for session in self.engine.sessions.iter_mut().filter(|session| session.is_fenced) {
                session.rests += u32::from(session.is_settled());
            }
            self.engine.until(&mut self.swarm, self.options.rest, |_| false)?;
        }
        self.note("retained");
        let journal = &mut self.engine.journal;
        if let Err(error) = retained::check(&self.engine.target, journal) {
            self.stuck(&format!("a new subscriber is not served: {error:#}"))?;
        }
        Ok(())
    }

    /// All come back and get all, wills included; says whether the broker is still there.
    fn finish(&mut self) -> Result<bool> {
        for session in &mut self.engine.sessions {
            session.dial.is_wanted = true;
        }
        if !self.expect("at the end", |engine| engine.is_everybody_there())? {
            return Ok(false);
        }
        self.engine.call_in_wills();
        let silence = self.options.final_silence.max(self.options.will_wait);
        let is_drained = self.drain(silence)?;
        if is_drained {
            self.confirm()?;
        }
        Ok(is_drained)
    }

    /// Turns until something is so; if that takes too long, the broker is stuck.
    fn expect(&mut self, when: &str, is_done: impl Fn(&Engine) -> bool) -> Result<bool> {
        self.note(when);
        let patience = self.options.patience;
        if self.engine.until(&mut self.swarm, patience, |engine| is_done(engine))? {
            return Ok(true);
        }
        self.stuck(&format!("no progress {when} within {patience:?}"))
    }

    /// Enters where the run is.
    fn note(&mut self, phase: &str) {
        let cycle = self.engine.journal.cycle;
        self.engine.journal.history.add("run", "info", phase, || json!({"cycle": cycle}));
    }

    fn stuck(&mut self, what: &str) -> Result<bool> {
        let output = self.host.output();
        let last = output.lines().last().unwrap_or_default();
        let what = if last.is_empty() { what.to_owned() } else { format!("{what} ({last})") };
        self.engine.journal.violate(Check::Stuck, "the broker", &what);
        Ok(false)
    }

    fn outcome(self, length: Duration) -> Outcome {
        let journal = self.engine.journal;
        Outcome {
            cycles: self.cycles,
            tripped: self.tripped,
            acknowledged: journal.book.kept(),
            deliveries: journal.deliveries,
            repeats: journal.repeats,
            owed: self.engine.sessions.iter().map(|session| session.all_owed(&journal.book)).sum(),
            restarts: self.restarts,
            length,
            findings: journal.findings,
        }
    }
}
