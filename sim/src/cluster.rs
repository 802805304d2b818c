//! A cluster: its nodes, the network between them, etcd, and the one queue of what happens when.

use crate::core::{Core, Output, PARTITIONS, Publish, Time, Weather, address_of, publish_of};
use crate::counters::{Counter, Counters};
use crate::etcd::{Answer, Etcd};
use crate::ledger::{Ledger, Violation};
use crate::node::Node;
use crate::trace::Trace;
use crate::wires::Wires;
use core::time::Duration;
use ringlane_dataplane::batch::Level;
use ringlane_dataplane::ids::{CoreId, NodeId};
use ringlane_dataplane::link::memory::{Network, Way, WayId};
use ringlane_dataplane::link::{LinkDown, LinkEvent};
use ringlane_dataplane::random::Random;
use ringlane_dataplane::time::Nanos;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes that wait on a way, at most; what is beyond waits in the sender.
const WAY_BYTES: usize = 64 * 1024;
/// Clients that publish, one message at a time each.
const PUBLISHERS: usize = 4;
/// Messages that one of them publishes at once, at most.
const BURST_MAX: u64 = 12;
/// A publisher that is not answered tries another node.
const PATIENCE: Duration = Duration::from_millis(300);
/// A link on which nothing arrives in one direction is given up.
const SILENCE_MAX: Duration = Duration::from_millis(900);
/// `ETIMEDOUT`, `ECONNRESET` (errno(3)).
const ETIMEDOUT: i32 = 110;
const ECONNRESET: i32 = 104;

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// A node's turn, because something is due.
    Wake(usize, u32),
    /// The disk of a node has had time.
    Disk(usize, u32),
    /// What is next on a way arrives.
    Arrive(WayId),
    /// Etcd's answer.
    Epoch(usize, u32, Answer),
    /// A publisher goes on.
    Publisher(usize),
    /// A link that was cut is given up, if it still is.
    GiveUp(usize, usize),
    /// A fault begins, or ends; see [`crate::faults`].
    Fault(crate::faults::Fault),
}

#[derive(Clone, Debug)]
struct Publisher {
    waits_for: Option<u64>,
    target: usize,
    asked_at: Nanos,
}

/// Everything.
#[derive(Debug)]
pub struct Cluster {
    /// The time of the run.
    pub now: Nanos,
    queue: BTreeMap<(Nanos, u64), Event>,
    queued: u64,
    /// The nodes; the first is number 1.
    pub nodes: Vec<Node>,
    members: Vec<NodeId>,
    wires: Wires,
    arriving: BTreeSet<WayId>,
    /// When each node's next turn is queued for.
    wakes: Vec<Nanos>,
    disks: Vec<bool>,
    /// From a node to another nothing arrives.
    pub cuts: BTreeSet<(usize, usize)>,
    /// How messages fare.
    pub weather: Weather,
    /// What a message takes more than usual, at most (microseconds).
    pub delay_micros: u64,
    /// Etcd.
    pub etcd: Etcd,
    publishers: Vec<Publisher>,
    /// Whether some publishes are at `quorum_memory`.
    counts_memory: bool,
    /// What waits to be acknowledged, and its epoch.
    published: BTreeMap<u64, (Publish, u64)>,
    numbers: u64,
    /// Whether publishers go on.
    pub publishes: bool,
    ledger: Ledger,
    marks: BTreeMap<(usize, u32, usize), u64>,
    /// What took place.
    pub counters: Counters,
    /// All of it.
    pub trace: Trace,
    /// Choices of the cluster.
    pub random: Random,
    steps: u64,
}

impl Cluster {
    /// Nodes that have just been started.
    ///
    /// # Errors
    /// One cannot be.
    pub fn new(seed: u64, nodes: usize) -> Result<Self, Violation> {
        let mut random = Random::new(seed);
        let mut network = Network::new(WAY_BYTES);
        let members: Vec<_> = (1..=nodes as u16).map(NodeId).collect();
        let counts_memory = random.one_in(2);
        let ring_bytes = random.one_in(2).then(|| 4096 << random.below(4));
        let made = members.iter().map(|&id| {
            let host = network.add(address_of(id), CoreId(0));
            Node::new(id, host, counts_memory, random.fork())
        });
        let made = made.collect();
        let publisher = Publisher { waits_for: None, target: 0, asked_at: Nanos(0) };
        let mut cluster = Self {
            now: Nanos(0),
            queue: BTreeMap::new(),
            queued: 0,
            nodes: made,
            members,
            wires: Wires::new(network, ring_bytes),
            arriving: BTreeSet::new(),
            wakes: vec![Nanos::NEVER; nodes],
            disks: vec![false; nodes],
            cuts: BTreeSet::new(),
            weather: Weather::default(),
            delay_micros: 0,
            etcd: Etcd::default(),
            publishers: vec![publisher; PUBLISHERS],
            counts_memory,
            published: BTreeMap::new(),
            numbers: 0,
            publishes: true,
            ledger: Ledger::new(PARTITIONS),
            marks: BTreeMap::new(),
            counters: Counters::default(),
            trace: Trace::default(),
            random,
            steps: 0,
        };
        (0..nodes).try_for_each(|node| cluster.start(node))?;
        for publisher in 0..PUBLISHERS {
            cluster.queue(Nanos::from_millis(500), Event::Publisher(publisher));
        }
        Ok(cluster)
    }

    /// Has something happen.
    pub fn queue(&mut self, at: Nanos, event: Event) {
        self.queued += 1;
        self.queue.insert((at.max(self.now), self.queued), event);
    }

    fn queue_in(&mut self, after: Duration, event: Event) {
        self.queue(self.now + after, event);
    }

    /// Goes on until `end`.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn run_until(&mut self, end: Nanos) -> Result<(), Violation> {
        while let Some(first) = self.queue.first_entry()
            && first.key().0 <= end
        {
            let ((now, _), event) = first.remove_entry();
            self.now = now;
            self.steps += 1;
            self.happen(event)?;
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Wake(node, start) => self.wake(node, start),
            Event::Disk(node, start) => self.on_disk(node, start),
            Event::Arrive(way) => self.arrive(way),
            Event::Epoch(node, start, answer) => self.on_epoch(node, start, answer),
            Event::Publisher(publisher) => self.publish(publisher),
            Event::GiveUp(from, to) => self.give_up(from, to),
            Event::Fault(fault) => crate::faults::happen(self, fault),
        }
    }

    fn time(&self, node: usize) -> Time {
        let clock = &self.nodes[node].clock;
        Time { now: clock.at(self.now), unix_ms: clock.unix_ms(self.now) }
    }

    /// Whether a node runs; one that stands still has the event later.
    fn takes(&mut self, node: usize, start: u32, event: &Event) -> bool {
        let it = &self.nodes[node];
        if it.core.is_none() || it.starts != start {
            return false;
        }
        let until = it.paused_until;
        if self.now < until {
            self.queue(until, event.clone());
            return false;
        }
        true
    }

    // ---- turns ----

    fn wake(&mut self, node: usize, start: u32) -> Result<(), Violation> {
        if self.wakes[node] <= self.now {
            self.wakes[node] = Nanos::NEVER;
        }
        if self.takes(node, start, &Event::Wake(node, start)) { self.turn(node, 0) } else { Ok(()) }
    }

    fn on_disk(&mut self, node: usize, start: u32) -> Result<(), Violation> {
        if !self.takes(node, start, &Event::Disk(node, start)) {
            return Ok(());
        }
        self.disks[node] = false;
        let events = 1 + self.random.below(6) as usize;
        self.turn(node, events)
    }

    /// A turn of a node, with so many completions of its disk at most.
    pub fn turn(&mut self, node: usize, disk_events: usize) -> Result<(), Violation> {
        let (time, weather) = (self.time(node), self.weather);
        let Node { core, links, host, .. } = &mut self.nodes[node];
        let Some(core) = core else { return Ok(()) };
        if disk_events > 0 {
            core.complete(links, time, disk_events);
        }
        self.wires.network.deliver(*host, links, &mut |links, event| {
            core.on_link(links, event, time, weather);
        });
        core.end_turn(links, time);
        self.wires.carry_out(*host, links)?;
        self.after_turn(node)
    }

    fn after_turn(&mut self, node: usize) -> Result<(), Violation> {
        self.take_outputs(node)?;
        let has_more = self.wires.network.has_own_events(self.nodes[node].host);
        let it = &self.nodes[node];
        let Some(core) = &it.core else { return Ok(()) };
        let (start, delay) = (it.starts, it.disk_delay);
        let due = if has_more { self.now } else { it.clock.when(core.next_deadline()) };
        let uses_disk = core.uses_disk();
        if due < self.wakes[node] {
            let at = due.max(self.now + Duration::from_nanos(1));
            self.wakes[node] = at;
            self.queue(at, Event::Wake(node, start));
        }
        if uses_disk && !self.disks[node] {
            self.disks[node] = true;
            let after = delay + self.random.micros(20, 800);
            self.queue_in(after, Event::Disk(node, start));
        }
        self.queue_arrivals();
        Ok(())
    }

    // ---- the network ----

    fn queue_arrivals(&mut self) {
        let Self { wires, arriving, random, queue, queued, now, .. } = self;
        let ways = wires.network.ways().map(|way: Way| way.id);
        for way in ways.filter(|way| arriving.insert(*way)) {
            let after = random.micros(30, 400 + self.delay_micros);
            *queued += 1;
            queue.insert((*now + after, *queued), Event::Arrive(way));
        }
    }

    fn arrive(&mut self, id: WayId) -> Result<(), Violation> {
        self.arriving.remove(&id);
        let Some(way) = self.wires.network.way(id) else { return Ok(()) };
        let (from, to) = (way.from.0, way.to.0);
        let paused = self.nodes[to].paused_until;
        if self.cuts.contains(&(from, to)) || self.now < paused {
            self.arriving.insert(id);
            let at = paused.max(self.now + Duration::from_millis(20));
            self.queue(at, Event::Arrive(id));
            return Ok(());
        }
        // What came in one segment arrives in one turn.
        let many = 1 + self.random.below(4).min(way.waiting as u64);
        for _ in 0..many {
            self.arrive_at(id, to)?;
        }
        let Node { links, host, .. } = &mut self.nodes[from];
        self.wires.refill(id, *host, links)?;
        if self.wires.network.has_own_events(self.nodes[from].host) {
            self.wake_now(from);
        }
        self.turn(to, 0)
    }

    fn arrive_at(&mut self, id: WayId, to: usize) -> Result<(), Violation> {
        let (time, weather) = (self.time(to), self.weather);
        let Node { core, links, .. } = &mut self.nodes[to];
        let Some(core) = core else { return Ok(()) };
        let trace = &mut self.trace;
        self.wires.arrive(id, links, &mut |links, event| {
            match &event {
                LinkEvent::Received { message, .. } => {
                    trace.note(&[time.now.0, to as u64]);
                    trace.bytes(message);
                }
                LinkEvent::Records { head, body, .. } => {
                    trace.note(&[time.now.0, to as u64]);
                    trace.bytes(&body.behind(head));
                }
                _ => {}
            }
            core.on_link(links, event, time, weather);
        })
    }

    fn wake_now(&mut self, node: usize) {
        let (start, at) = (self.nodes[node].starts, self.now + Duration::from_nanos(1));
        if at < self.wakes[node] {
            self.wakes[node] = at;
            self.queue(at, Event::Wake(node, start));
        }
    }

    /// Nothing arrives any more from one node at another; both learn it late.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cuts.insert((from, to));
        self.queue_in(SILENCE_MAX, Event::GiveUp(from, to));
    }

    fn give_up(&mut self, from: usize, to: usize) -> Result<(), Violation> {
        if self.cuts.contains(&(from, to)) { self.end_links(from, to, ETIMEDOUT) } else { Ok(()) }
    }

    /// The links between two nodes are reset.
    ///
    /// # Errors
    /// As [`Cluster::run_until`].
    pub fn reset(&mut self, one: usize, other: usize) -> Result<(), Violation> {
        self.end_links(one, other, ECONNRESET)
    }

    fn end_links(&mut self, one: usize, other: usize, errno: i32) -> Result<(), Violation> {
        let hosts = [self.nodes[one].host, self.nodes[other].host];
        let ways: Vec<_> = self.wires.network.between(hosts[0], hosts[1]).collect();
        for id in ways {
            self.wires.network.end(id, LinkDown::Error(errno));
            if let Some(way) = self.wires.network.way(id) {
                self.arrive_at(id, way.to.0)?;
            }
        }
        self.turn(one, 0)?;
        self.turn(other, 0)
    }

    // ---- nodes ----

    /// Starts a node.
    ///
    /// # Errors
    /// Its logs cannot be opened.
    pub fn start(&mut self, node: usize) -> Result<(), Violation> {
        let (members, now) = (self.members.clone(), self.now);
        let it = &mut self.nodes[node];
        let found = it.start(&members, now).map_err(Violation)?;
        let host = it.host;
        self.wires.network.restart(host);
        (0..found.torn).for_each(|_| self.counters.count(Counter::TornTail));
        (0..found.damaged).for_each(|_| self.counters.count(Counter::Damage));
        if found.damaged > 0 {
            self.note_lost();
        }
        (self.wakes[node], self.disks[node]) = (Nanos::NEVER, false);
        self.trace.note(&[self.now.0, 1, node as u64]);
        self.wake_now(node);
        Ok(())
    }

    /// A node loses its power.
    pub fn crash(&mut self, node: usize) {
        self.end_process(node);
        self.counters.count(Counter::Crash);
        self.trace.note(&[self.now.0, 2, node as u64]);
    }

    fn end_process(&mut self, node: usize) {
        self.nodes[node].crash();
        self.wires.network.crash(self.nodes[node].host);
        self.note_lost();
        self.queue_arrivals();
    }

    /// What only memory had may be nowhere any more.
    fn note_lost(&mut self) {
        let nodes = &self.nodes;
        self.ledger.on_crash(|partition, offset, epoch| {
            nodes.iter().any(|node| node.holds(partition, offset, epoch))
        });
    }

    /// A process that has led ends and begins again.
    fn begin_again(&mut self, node: usize) -> Result<(), Violation> {
        self.counters.count(Counter::BeganAgain);
        self.trace.note(&[self.now.0, 5, node as u64]);
        self.nodes[node].end_disk_work();
        self.end_process(node);
        self.start(node)
    }

    fn on_epoch(&mut self, node: usize, start: u32, answer: Answer) -> Result<(), Violation> {
        if !self.takes(node, start, &Event::Epoch(node, start, answer)) {
            return Ok(());
        }
        let time = self.time(node);
        if let Some(core) = &mut self.nodes[node].core {
            match answer {
                Answer::Given(epoch) => core.on_epoch_given(epoch, time),
                Answer::Newer(epoch, leader) => core.on_epoch_refused(Some((epoch, leader)), time),
                Answer::Silence => core.on_epoch_refused(None, time),
            }
        }
        self.turn(node, 0)
    }

    fn take_outputs(&mut self, node: usize) -> Result<(), Violation> {
        let outputs = self.nodes[node].core.as_mut().map(|core| core::mem::take(&mut core.outputs));
        let outputs = outputs.unwrap_or_default();
        let begins_again = outputs.iter().any(|output| matches!(output, Output::BeginsAgain));
        outputs.into_iter().try_for_each(|output| self.take_output(node, output))?;
        if begins_again { self.begin_again(node) } else { Ok(()) }
    }

    fn take_output(&mut self, node: usize, output: Output) -> Result<(), Violation> {
        let (id, start) = (self.nodes[node].id, self.nodes[node].starts);
        match output {
            Output::Applied(partition, offset, mark) => {
                self.ledger.on_apply(partition, id, offset, mark)?;
            }
            Output::Acknowledged(partition, offset, publish) => {
                self.on_acknowledged(partition, offset, publish)?;
            }
            Output::Leads(partition, epoch, start) => {
                self.trace.note(&[self.now.0, 3, node as u64, partition as u64, epoch, start]);
                self.ledger.on_lead(partition, id, epoch, start, &mut self.counters)?;
            }
            Output::AskForEpoch(observed) => self.on_asked(node, start, observed),
            Output::Count(counter) => self.counters.count(counter),
            Output::Marks(partition, high_watermark) => {
                let mark = self.marks.entry((node, start, partition)).or_default();
                if high_watermark < *mark {
                    let what = format!("the high watermark of node {id} goes back");
                    return Err(Violation(what));
                }
                *mark = high_watermark;
            }
            // The process ends when all that it has done is known.
            Output::BeginsAgain => {}
            Output::Failed(what) => return Err(Violation(what)),
        }
        Ok(())
    }

    fn on_asked(&mut self, node: usize, start: u32, observed: u64) {
        self.etcd.skip(self.random.below(3));
        let answer = self.etcd.ask(self.nodes[node].id, observed);
        let is_lost = self.random.one_in(20);
        if !is_lost {
            let after = self.random.millis(1, 40);
            self.queue_in(after, Event::Epoch(node, start, answer));
        }
    }

    // ---- clients ----

    fn on_acknowledged(
        &mut self,
        partition: usize,
        offset: u64,
        number: u64,
    ) -> Result<(), Violation> {
        let Some((publish, epoch)) = self.published.remove(&number) else {
            return Err(Violation(format!("publish {number} is acknowledged twice")));
        };
        self.counters.count(Counter::Acknowledged);
        self.trace.note(&[self.now.0, 4, partition as u64, offset, number]);
        let is_durable = publish.promise.level == Level::LocalDisk;
        let mark = (epoch, crate::core::mark_of(1, &publish.payload));
        let waiting = self.publishers.iter_mut().find(|p| p.waits_for == Some(number));
        if let Some(publisher) = waiting {
            publisher.waits_for = None;
        }
        self.ledger.on_ack(partition, offset, mark, is_durable)
    }

    fn publish(&mut self, index: usize) -> Result<(), Violation> {
        let after = self.random.micros(2_000, 140_000);
        self.queue_in(after, Event::Publisher(index));
        let Publisher { waits_for, target, asked_at } = self.publishers[index];
        let is_patient = self.now.since(asked_at) < PATIENCE;
        if !self.publishes || (waits_for.is_some() && is_patient) {
            return Ok(());
        }
        let target = if waits_for.is_some() { (target + 1) % self.nodes.len() } else { target };
        let burst = if self.random.one_in(8) { 2 + self.random.below(BURST_MAX - 1) } else { 1 };
        let mut last = None;
        for _ in 0..burst {
            last = self.publish_one(target).or(last);
        }
        let publisher = &mut self.publishers[index];
        if last.is_none() {
            publisher.target = (target + 1) % self.nodes.len();
            publisher.waits_for = None;
            return Ok(());
        }
        *publisher = Publisher { waits_for: last, target, asked_at: self.now };
        self.turn(target, 0)
    }

    /// A message for a node; its number if it takes it.
    fn publish_one(&mut self, target: usize) -> Option<u64> {
        let publish = publish_of(self.numbers, self.counts_memory, &mut self.random);
        let number = publish.number;
        self.numbers += 1;
        let (time, now) = (self.time(target), self.now);
        let it = &mut self.nodes[target];
        let runs = it.paused_until <= now;
        let epoch = it.core.as_mut().filter(|_| runs)?.publish(&publish, time)?;
        self.published.insert(number, (publish, epoch));
        Some(number)
    }

    // ---- the end ----

    /// Whether a node leads all partitions, and all nodes have applied what it has.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let cores: Vec<&Core> = self.nodes.iter().filter_map(|node| node.core.as_ref()).collect();
        cores.len() == self.nodes.len()
            && (0..PARTITIONS).all(|partition| {
                let leads = |core: &&&Core| core.hosts[partition].is_leading();
                let Some(leader) = cores.iter().find(leads) else { return false };
                let next = leader.hosts[partition].replica().next_offset();
                let followers = cores.iter().filter(|core| !leads(core));
                followers.into_iter().all(|core| core.hosts[partition].applied() == next)
            })
    }

    /// How many records nodes have agreed on.
    #[must_use]
    pub fn agreed(&self, partition: usize) -> u64 {
        self.ledger.agreed(partition)
    }

    /// How each node stands, for a failing run.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            let Some(core) = &node.core else {
                text += &format!("  node {}: down\n", node.id);
                continue;
            };
            for (partition, host) in core.hosts.iter().enumerate() {
                let (replica, marks) = (host.replica(), core.partitions[partition].marks());
                text += &format!(
                    "  node {} partition {partition}: {:?} epoch {} of {:?}, serving {}, next {}, \
                     flushed {}, high watermark {}, applied {}, damage {:?}, lost memory {}\n",
                    node.id,
                    replica.role(),
                    replica.epoch(),
                    replica.leader().map(|n| n.0),
                    host.is_leading(),
                    replica.next_offset().0,
                    marks.flushed.0,
                    replica.high_watermark().0,
                    host.applied().0,
                    replica.damage(),
                    replica.has_lost_memory(),
                );
            }
        }
        text
    }

    /// What took place, also what nobody has counted yet.
    pub fn counters(&mut self) -> Counters {
        let [wraps, exhausted] = self.wires.take_counts();
        self.counters.count_many(Counter::RingWrap, wraps);
        self.counters.count_many(Counter::CreditsExhausted, exhausted);
        self.counters
    }

    /// Events so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }
}
