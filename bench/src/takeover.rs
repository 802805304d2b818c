//! One client identifier that connects again and again from several sockets at once, while QoS 1
//! messages fan out to it: exactly one connection may survive, and its session may lose, reorder
//! or repeat after acknowledgement nothing.

use crate::fleet::{self, Target};
use crate::ledger::{Arrival, Ledger};
use crate::login::Login;
use crate::payload::{PublishTemplate, Stamp};
use crate::report::latency_histogram;
use crate::swarm::{Event, Leave, LinkId, Swarm};
use anyhow::{Result, bail, ensure};
use hdrhistogram::Histogram;
use ringlane_mqtt::{Packet, QoS, ReasonCode, encode};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The contest.
#[derive(Clone, Debug)]
pub struct TakeoverOptions {
    /// The client identifier that is fought over.
    pub client_id: String,
    /// Rounds.
    pub rounds: u64,
    /// New sockets per round.
    pub sockets: usize,
    /// Client identifiers of the publishers.
    pub publishers: Vec<String>,
    /// Client identifiers of other subscribers of the same messages.
    pub bystanders: Vec<String>,
    /// Topic prefix.
    pub topic: String,
    /// Unfinished messages per publisher.
    pub window: u64,
    /// How long a round may take.
    pub patience: Duration,
}

/// What happened.
#[derive(Clone, Debug)]
pub struct TakeoverOutcome {
    /// Rounds that ended with exactly one survivor.
    pub rounds: u64,
    /// Connections made under the identifier.
    pub connections: u64,
    /// CONNECTs that were answered with an error.
    pub refused: u64,
    /// CONNACKs without Session Present, though the session was there.
    pub forgotten: u64,
    /// Accepted connections that ended without DISCONNECT 0x8E; counted with MQTT 5 only.
    pub untold: u64,
    /// Messages published.
    pub sent: u64,
    /// Messages that the session never received.
    pub lost: u64,
    /// Messages that did not follow their predecessor on the same connection.
    pub reordered: u64,
    /// Messages that came again though their acknowledgement had been handled.
    pub repeated: u64,
    /// Messages that came again, as they may.
    pub redelivered: u64,
    /// Faults (loss, duplicates, disorder) at the bystanders.
    pub bystander_faults: u64,
    /// From the CONNECTs of a round to the end of all but one connection, in nanoseconds.
    pub latency: Histogram<u64>,
}

impl TakeoverOutcome {
    /// Whether all went as it must.
    #[must_use]
    pub fn is_perfect(&self, rounds: u64) -> bool {
        let faults = [
            self.refused,
            self.forgotten,
            self.untold,
            self.lost,
            self.reordered,
            self.repeated,
            self.bystander_faults,
        ];
        self.rounds == rounds && faults.iter().all(|count| *count == 0)
    }
}

/// A connection under the identifier.
#[derive(Debug)]
struct Contender {
    accepted: bool,
    told: bool,
    /// Per stream: first of this round, and one past the last.
    runs: Vec<Run>,
}

#[derive(Clone, Copy, Default, Debug)]
struct Run {
    first: Option<u64>,
    next: Option<u64>,
}

struct Stream {
    link: LinkId,
    template: PublishTemplate,
    sent: u64,
    acknowledged: u64,
    /// One past the highest message that the session received, at any connection.
    seen: u64,
    /// Everything below was received, as far as whole rounds tell.
    covered: u64,
    /// Everything below was received, and its acknowledgement handled.
    settled: u64,
}

struct Contest<'a> {
    target: &'a Target,
    options: &'a TakeoverOptions,
    login: Login,
    streams: Vec<Stream>,
    bystanders: Vec<(LinkId, Vec<Ledger>)>,
    contenders: HashMap<LinkId, Contender>,
    ended: Vec<Contender>,
    pong: bool,
    publishing: bool,
    failure: Option<String>,
    outcome: TakeoverOutcome,
}

const CONNECT_PATIENCE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(5);

/// Runs the contest.
///
/// # Errors
/// If the set-up fails, or a round does not end with one survivor in time.
pub fn run(target: &Target, options: &TakeoverOptions) -> Result<TakeoverOutcome> {
    let mut swarm = Swarm::new()?;
    let mut contest = Contest::set_up(&mut swarm, target, options)?;
    for round in 0..options.rounds {
        contest.round(&mut swarm, round)?;
    }
    contest.finish(&mut swarm)?;
    Ok(contest.outcome)
}

impl<'a> Contest<'a> {
    fn set_up(swarm: &mut Swarm, target: &'a Target, options: &'a TakeoverOptions) -> Result<Self> {
        let login = Login::persistent(&options.client_id);
        let first =
            fleet::connect_all(swarm, target, std::slice::from_ref(&login), CONNECT_PATIENCE)?[0];
        ensure!(!first.session_present, "there is a session of {:?} already", options.client_id);
        let filter = format!("{}/#", options.topic);
        let logins: Vec<Login> = options.bystanders.iter().map(Login::clean).collect();
        let bystanders = fleet::connect_all(swarm, target, &logins, CONNECT_PATIENCE)?;
        let mut requests = vec![(first.link, filter.as_str(), QoS::AtLeastOnce)];
        requests.extend(
            bystanders.iter().map(|member| (member.link, filter.as_str(), QoS::AtLeastOnce)),
        );
        fleet::subscribe_all(swarm, target.version, &requests, CONNECT_PATIENCE)?;
        let logins: Vec<Login> = options.publishers.iter().map(Login::clean).collect();
        let publishers = fleet::connect_all(swarm, target, &logins, CONNECT_PATIENCE)?;
        let streams: Vec<Stream> = publishers
            .iter()
            .enumerate()
            .map(|(index, member)| Stream {
                link: member.link,
                template: PublishTemplate::new(
                    target.version,
                    QoS::AtLeastOnce,
                    &format!("{}/{index}", options.topic),
                    32,
                ),
                sent: 0,
                acknowledged: 0,
                seen: 0,
                covered: 0,
                settled: 0,
            })
            .collect();
        let count = streams.len();
        let mut contest = Self {
            target,
            options,
            login,
            streams,
            bystanders: bystanders
                .iter()
                .map(|member| (member.link, vec![Ledger::default(); count]))
                .collect(),
            contenders: HashMap::new(),
            ended: Vec::new(),
            pong: false,
            publishing: true,
            failure: None,
            outcome: empty_outcome(),
        };
        contest.contenders.insert(first.link, Contender::new(count, true));
        Ok(contest)
    }

    /// Opens the sockets of a round, waits until one connection is left, and checks what the
    /// session received meanwhile.
    fn round(&mut self, swarm: &mut Swarm, round: u64) -> Result<()> {
        let start_ns = swarm.read_clock();
        let holder = self.contenders.keys().next().copied();
        for index in 0..self.options.sockets {
            let number = usize::try_from(round).unwrap_or_default() + index;
            let link = swarm.open(&self.target.link_options(number))?;
            if let Some(out) = swarm.out(link) {
                self.login.encode(self.target.version, out);
            }
            self.contenders.insert(link, Contender::new(self.streams.len(), false));
            self.outcome.connections += 1;
        }
        self.poll_until(swarm, round, |contest| {
            contest.contenders.len() <= 1
                && contest.contenders.values().all(|contender| contender.accepted)
        })?;
        self.outcome.latency.saturating_record(swarm.now_ns() - start_ns);
        let Some(survivor) = self.contenders.keys().next().copied() else {
            bail!("round {round}: no connection survived");
        };
        ensure!(
            Some(survivor) != holder,
            "round {round}: the old connection outlived the new ones"
        );
        let settled = self.survivor_marks(survivor);
        self.pong = false;
        if let Some(out) = swarm.out(survivor) {
            encode::pingreq(out);
        }
        self.poll_until(swarm, round, |contest| contest.pong)?;
        self.judge(survivor, &settled);
        self.outcome.rounds += 1;
        Ok(())
    }

    /// Per stream, one past the last message that the survivor has received and acknowledged.
    fn survivor_marks(&self, survivor: LinkId) -> Vec<u64> {
        let runs = &self.contenders[&survivor].runs;
        runs.iter().map(|run| run.next.unwrap_or_default()).collect()
    }

    /// Joins the runs of all connections of the round.
    fn judge(&mut self, survivor: LinkId, settled: &[u64]) {
        let mut ended = std::mem::take(&mut self.ended);
        for (index, stream) in self.streams.iter_mut().enumerate() {
            let runs = ended.iter().map(|contender| contender.runs[index]);
            let mut runs: Vec<(u64, u64)> = runs
                .chain([self.contenders[&survivor].runs[index]])
                .filter_map(|run| run.first.zip(run.next))
                .collect();
            runs.sort_unstable();
            for (first, next) in runs {
                self.outcome.lost += first.saturating_sub(stream.covered);
                self.outcome.repeated += stream.settled.saturating_sub(first);
                self.outcome.redelivered += stream.covered.min(next).saturating_sub(first);
                stream.covered = stream.covered.max(next);
            }
            stream.settled = stream.settled.max(settled[index]);
        }
        if self.target.version.is_v5() {
            let untold = ended.iter().filter(|contender| contender.accepted && !contender.told);
            self.outcome.untold += untold.count() as u64;
        }
        ended.clear();
        self.ended = ended;
        if let Some(contender) = self.contenders.get_mut(&survivor) {
            contender.runs.iter_mut().for_each(|run| run.first = None);
        }
    }

    /// Stops publishing, waits for the rest, and counts what is missing.
    fn finish(&mut self, swarm: &mut Swarm) -> Result<()> {
        self.publishing = false;
        let deadline = Instant::now() + self.options.patience;
        while Instant::now() < deadline && !self.is_settled() {
            self.turn(swarm)?;
        }
        if let Some(survivor) = self.contenders.keys().next().copied() {
            let settled = self.survivor_marks(survivor);
            self.judge(survivor, &settled);
        }
        for (index, stream) in self.streams.iter().enumerate() {
            self.outcome.sent += stream.sent;
            self.outcome.lost += stream.sent.saturating_sub(stream.covered);
            for (_, ledgers) in &self.bystanders {
                let ledger = &ledgers[index];
                self.outcome.bystander_faults +=
                    ledger.lost(stream.sent) + ledger.duplicated() + ledger.reordered();
            }
        }
        let links: Vec<LinkId> = self
            .streams
            .iter()
            .map(|stream| stream.link)
            .chain(self.bystanders.iter().map(|(link, _)| *link))
            .collect();
        fleet::leave_all(swarm, self.target.version, &links)?;
        self.forget_session(swarm)
    }

    fn is_settled(&self) -> bool {
        self.streams.iter().enumerate().all(|(index, stream)| {
            let bystanders =
                self.bystanders.iter().all(|(_, ledgers)| ledgers[index].next() >= stream.sent);
            bystanders && stream.acknowledged >= stream.sent && stream.seen >= stream.sent
        })
    }

    /// Leaves nothing behind: a clean session under the same identifier ends the old one.
    fn forget_session(&mut self, swarm: &mut Swarm) -> Result<()> {
        let login = [Login::clean(&self.options.client_id)];
        let last = fleet::connect_all(swarm, self.target, &login, CONNECT_PATIENCE)?;
        fleet::leave_all(swarm, self.target.version, &[last[0].link])
    }

    fn poll_until(
        &mut self,
        swarm: &mut Swarm,
        round: u64,
        is_done: impl Fn(&Self) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + self.options.patience;
        while !is_done(self) {
            self.turn(swarm)?;
            ensure!(
                Instant::now() < deadline || is_done(self),
                "round {round}: {} connections are left after {:?} ({} of them accepted)",
                self.contenders.len(),
                self.options.patience,
                self.contenders.values().filter(|contender| contender.accepted).count(),
            );
        }
        Ok(())
    }

    fn turn(&mut self, swarm: &mut Swarm) -> Result<()> {
        self.pump(swarm);
        swarm.poll(GLANCE, &mut |swarm, id, event| self.on_event(swarm, id, &event))?;
        self.failure.take().map_or(Ok(()), |failure| bail!(failure))
    }

    fn pump(&mut self, swarm: &mut Swarm) {
        if !self.publishing {
            return;
        }
        let now_ns = swarm.now_ns();
        for (index, stream) in self.streams.iter_mut().enumerate() {
            let slowest = self.bystanders.iter().map(|(_, ledgers)| ledgers[index].next()).min();
            let finished = stream.acknowledged.min(stream.seen).min(slowest.unwrap_or(u64::MAX));
            while stream.sent - finished < self.options.window {
                let packet_id = swarm.link_mut(stream.link).map_or(0, |link| link.take_packet_id());
                let Some(out) = swarm.out(stream.link) else { break };
                let stamp = Stamp { stream: index as u32, sequence: stream.sent, sent_ns: now_ns };
                stream.template.write(out, packet_id, stamp);
                stream.sent += 1;
            }
        }
    }

    fn on_event(&mut self, swarm: &mut Swarm, id: LinkId, event: &Event<'_>) {
        if self.contenders.contains_key(&id) {
            self.on_contender(swarm, id, event);
        } else if let Some(index) = self.streams.iter().position(|stream| stream.link == id) {
            match event {
                Event::Packet(Packet::Puback(_)) => self.streams[index].acknowledged += 1,
                Event::Closed(_) | Event::Malformed(_) => {
                    self.failure = Some(format!("publisher {index} lost its connection"));
                }
                _ => {}
            }
        } else if let Some(index) = self.bystanders.iter().position(|(link, _)| *link == id) {
            self.on_bystander(index, event);
        }
    }

    fn on_bystander(&mut self, index: usize, event: &Event<'_>) {
        match event {
            Event::Packet(Packet::Publish(publish)) => {
                let Some(stamp) = Stamp::read(publish.payload) else { return };
                let ledgers = &mut self.bystanders[index].1;
                if let Some(ledger) = ledgers.get_mut(stamp.stream as usize) {
                    let _: Arrival = ledger.on(stamp.sequence);
                }
            }
            Event::Closed(_) | Event::Malformed(_) => {
                self.failure = Some(format!("bystander {index} lost its connection"));
            }
            _ => {}
        }
    }

    fn on_contender(&mut self, swarm: &mut Swarm, id: LinkId, event: &Event<'_>) {
        let Some(contender) = self.contenders.get_mut(&id) else { return };
        match event {
            Event::Packet(Packet::Connack(connack)) => {
                contender.accepted = connack.reason == ReasonCode::SUCCESS;
                self.outcome.refused += u64::from(!contender.accepted);
                self.outcome.forgotten += u64::from(contender.accepted && !connack.session_present);
            }
            Event::Packet(Packet::Publish(publish)) => {
                let Some(stamp) = Stamp::read(publish.payload) else { return };
                let Some(stream) = self.streams.get_mut(stamp.stream as usize) else { return };
                stream.seen = stream.seen.max(stamp.sequence + 1);
                let run = &mut contender.runs[stamp.stream as usize];
                if !run.enter(stamp.sequence) {
                    self.outcome.reordered += 1;
                }
            }
            Event::Packet(Packet::Pingresp) => self.pong = true,
            Event::Packet(Packet::Disconnect(disconnect)) => {
                contender.told |= disconnect.reason == ReasonCode::SESSION_TAKEN_OVER;
                // The rest, up to the broker's FIN, still counts.
            }
            Event::Closed(_) => {
                if let Some(contender) = self.contenders.remove(&id) {
                    self.ended.push(contender);
                }
            }
            Event::Malformed(error) => {
                self.failure = Some(format!("the broker sent what is not MQTT: {error}"));
                swarm.close(id, Leave::Reset);
            }
            Event::Opened | Event::Bytes(_) | Event::Packets(_) | Event::Packet(_) => {}
        }
    }
}

impl Contender {
    fn new(streams: usize, accepted: bool) -> Self {
        Self { accepted, told: false, runs: vec![Run::default(); streams] }
    }
}

impl Run {
    /// Enters a message; says whether it followed the last one of this connection.
    fn enter(&mut self, sequence: u64) -> bool {
        let follows = self.next.is_none_or(|next| next == sequence);
        self.first = Some(self.first.map_or(sequence, |first| first.min(sequence)));
        self.next = Some(self.next.map_or(sequence + 1, |next| next.max(sequence + 1)));
        follows
    }
}

fn empty_outcome() -> TakeoverOutcome {
    TakeoverOutcome {
        rounds: 0,
        connections: 0,
        refused: 0,
        forgotten: 0,
        untold: 0,
        sent: 0,
        lost: 0,
        reordered: 0,
        repeated: 0,
        redelivered: 0,
        bystander_faults: 0,
        latency: latency_histogram(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_consecutive() {
        let mut run = Run::default();
        assert!(run.enter(5));
        assert!(run.enter(6));
        assert!(!run.enter(8));
        assert_eq!((run.first, run.next), (Some(5), Some(9)));
    }
}
