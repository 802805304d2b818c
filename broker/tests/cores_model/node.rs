//! Several brokers in one thread: every turn of every core is chosen by the test, mailboxes are
//! tiny, and sockets are byte queues. Nothing is timed and nothing is left to chance but the seed.

use ringlane::clock::WallClock;
use ringlane::config::Config;
use ringlane::mail::{ControlMail, Mail};
use ringlane::metrics::CoreMetrics;
use ringlane::service::{Broker, CoreSetup, ListenerKind, Timer};
use ringlane_dataplane::disk::Disk;
use ringlane_dataplane::ids::{ConnectionId, CoreId, ListenerId};
use ringlane_dataplane::link::Links;
use ringlane_dataplane::net::{Close, Closure, NetEvent, SocketCommand, Sockets};
use ringlane_dataplane::routing::Placement;
use ringlane_dataplane::runtime::{Endpoint, Mesh, Service, TimerWheel, Turn};
use ringlane_dataplane::time::Nanos;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A client's socket, seen from the client.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    /// Bytes on their way to the broker.
    pub(crate) to_broker: VecDeque<u8>,
    /// Bytes that arrived from the broker.
    pub(crate) from_broker: Vec<u8>,
    /// The broker closed it.
    pub(crate) closed: bool,
    /// The client does not read: the broker's output stays where it is.
    pub(crate) stalled: bool,
}

struct Core {
    broker: Broker,
    sockets: Sockets,
    disk: Disk,
    timers: TimerWheel<Timer>,
    endpoint: Endpoint<Mail>,
    links: Links,
    wires: HashMap<ConnectionId, usize>,
    paused: Vec<ConnectionId>,
    pub(crate) metrics: Arc<CoreMetrics>,
}

/// A node of several cores.
pub(crate) struct Node {
    cores: Vec<Core>,
    control: Endpoint<Mail>,
    pub(crate) wires: Vec<Wire>,
    pub(crate) now: Nanos,
    /// Sockets on their way between cores: the descriptor stands for the wire.
    moving: HashMap<i32, usize>,
}

fn peer() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

impl Node {
    pub(crate) fn new(cores: u16, mailbox_slots: usize, config: &Config) -> Self {
        let placement = Placement::new([7; 16], 8, cores);
        let mut endpoints = Mesh::build(usize::from(cores) + 1, mailbox_slots);
        let control = endpoints.pop().expect("the control endpoint is the last");
        let now = Nanos::from_secs(1);
        let cores = endpoints
            .into_iter()
            .enumerate()
            .map(|(index, endpoint)| {
                let metrics = Arc::new(CoreMetrics::new(cores));
                let setup = CoreSetup {
                    core: CoreId(index as u16),
                    cores,
                    placement,
                    config: Arc::new(config.clone()),
                    metrics: metrics.clone(),
                    listeners: vec![ListenerKind::Tcp],
                    seed: index as u64,
                    memory_bytes: 1 << 30,
                    connections_max: 1000,
                    waits_awake: false,
                    readings_max: 64,
                    clock: WallClock::default(),
                    logs: Vec::new(),
                    state: None,
                    cluster: None,
                };
                Core {
                    broker: Broker::new(setup, now),
                    sockets: Sockets::new(1000),
                    disk: Disk::new(),
                    timers: TimerWheel::new(now),
                    endpoint,
                    links: Links::new(0),
                    wires: HashMap::new(),
                    paused: Vec::new(),
                    metrics,
                }
            })
            .collect();
        Self { cores, control, wires: Vec::new(), now, moving: HashMap::new() }
    }

    /// A client opens a socket that `core` accepts.
    pub(crate) fn connect(&mut self, core: usize) -> usize {
        let wire = self.wires.len();
        self.wires.push(Wire::default());
        let now = self.now;
        let core = &mut self.cores[core];
        let id = core.sockets.open(ListenerId(0), peer()).expect("the table has room");
        core.wires.insert(id, wire);
        let event = NetEvent::Accepted { connection: id, listener: ListenerId(0), peer: peer() };
        core.on_net(now, event);
        wire
    }

    /// The client's socket breaks, with no DISCONNECT.
    pub(crate) fn reset(&mut self, wire: usize) {
        self.wires[wire].closed = true;
        let now = self.now;
        for core in &mut self.cores {
            let found = core.wires.iter().find(|(_, held)| **held == wire).map(|(id, _)| *id);
            if let Some(id) = found {
                core.end(now, id, Closure::Error(104));
            }
        }
    }

    pub(crate) fn drain(&mut self) {
        for core in 0..self.cores.len() as u16 {
            let mail = Mail::Control(Box::new(ControlMail::Drain));
            self.control.send(CoreId(core), mail).expect("an empty mailbox");
        }
        self.control.publish(&mut |_| ());
    }

    /// One turn of one core. Takes at most `bytes_max` bytes from each client.
    pub(crate) fn turn(&mut self, core: usize, bytes_max: usize) {
        let now = self.now;
        let Self { cores, wires, moving, .. } = self;
        let core = &mut cores[core];
        core.receive(now, wires, bytes_max);
        core.take_mail(now);
        core.fire(now);
        core.with(now, |broker, turn| broker.end_turn(turn));
        core.send(now, wires);
        core.carry_out(now, wires, moving);
        core.endpoint.publish(&mut |_| ());
    }

    /// Turns of all cores until nothing moves any more.
    pub(crate) fn settle(&mut self) {
        for _ in 0..400 {
            for core in 0..self.cores.len() {
                self.turn(core, 1 << 20);
            }
            self.now = Nanos(self.now.0 + 1_000_000);
        }
    }

    pub(crate) fn metric(&self, read: impl Fn(&CoreMetrics) -> u64) -> u64 {
        self.cores.iter().map(|core| read(&core.metrics)).sum()
    }

    pub(crate) fn core_count(&self) -> usize {
        self.cores.len()
    }
}

impl Core {
    fn with<R>(
        &mut self,
        now: Nanos,
        act: impl FnOnce(&mut Broker, &mut Turn<'_, Mail, Timer>) -> R,
    ) -> R {
        let Self { broker, sockets, disk, timers, endpoint, links, .. } = self;
        act(broker, &mut Turn { now, sockets, disk, timers, mesh: endpoint, links })
    }

    fn on_net(&mut self, now: Nanos, event: NetEvent<'_>) {
        self.with(now, |broker, turn| broker.on_net(turn, event));
    }

    fn receive(&mut self, now: Nanos, wires: &mut [Wire], bytes_max: usize) {
        let held: Vec<_> = self.wires.iter().map(|(id, wire)| (*id, *wire)).collect();
        for (id, wire) in held {
            if self.paused.contains(&id) {
                continue;
            }
            let count = wires[wire].to_broker.len().min(bytes_max);
            let bytes: Vec<u8> = wires[wire].to_broker.drain(..count).collect();
            if !bytes.is_empty() {
                self.on_net(now, NetEvent::Received { connection: id, bytes: &bytes });
            }
        }
    }

    fn take_mail(&mut self, now: Nanos) {
        for from in 0..self.endpoint.endpoints() as u16 {
            let from = CoreId(from);
            if from == self.endpoint.id() {
                continue;
            }
            while let Some(mail) = self.endpoint.receive(from) {
                self.with(now, |broker, turn| broker.on_mail(turn, from, mail));
            }
        }
    }

    fn fire(&mut self, now: Nanos) {
        let mut fired = Vec::new();
        self.timers.expire(now, usize::MAX, &mut fired);
        for timer in fired {
            self.with(now, |broker, turn| broker.on_timer(turn, timer));
        }
    }

    fn send(&mut self, now: Nanos, wires: &mut [Wire]) {
        let mut dirty = Vec::new();
        self.sockets.take_dirty(&mut dirty);
        let held: Vec<_> = self.wires.keys().copied().collect();
        for id in held {
            let wire = &mut wires[self.wires[&id]];
            if wire.stalled {
                continue;
            }
            let Some(output) = self.sockets.begin_send(id) else { continue };
            let mut from = 0;
            for shared in output.shared() {
                wire.from_broker.extend_from_slice(&output.bytes[from..shared.at]);
                wire.from_broker.extend_from_slice(shared.bytes.as_slice());
                from = shared.at;
            }
            wire.from_broker.extend_from_slice(&output.bytes[from..]);
            self.sockets.end_send(id, output);
            self.on_net(now, NetEvent::Drained { connection: id });
        }
    }

    fn carry_out(&mut self, now: Nanos, wires: &mut [Wire], moving: &mut HashMap<i32, usize>) {
        use std::os::fd::AsRawFd;
        let mut commands = Vec::new();
        self.sockets.take_commands(&mut commands);
        for command in commands {
            match command {
                SocketCommand::Establish(_) => {}
                SocketCommand::Pause(id) => self.paused.push(id),
                SocketCommand::Resume(id) => self.paused.retain(|held| *held != id),
                SocketCommand::Close(id, how) => {
                    if let Some(wire) = self.wires.get(&id) {
                        wires[*wire].closed = true;
                        if how == Close::Flush {
                            self.send(now, wires);
                        }
                    }
                    self.end(now, id, Closure::Local);
                }
                SocketCommand::Detach(id) => {
                    let Some(wire) = self.wires.remove(&id) else { continue };
                    let socket: OwnedFd =
                        std::fs::File::open("/dev/null").expect("a descriptor").into();
                    moving.insert(socket.as_raw_fd(), wire);
                    let (listener, peer) = (ListenerId(0), peer());
                    let event = NetEvent::Detached { connection: id, socket, listener, peer };
                    self.on_net(now, event);
                    self.sockets.release(id);
                }
                SocketCommand::Adopt(id, socket) => {
                    let wire = moving.remove(&socket.as_raw_fd()).expect("it was detached");
                    self.wires.insert(id, wire);
                }
            }
        }
    }

    fn end(&mut self, now: Nanos, id: ConnectionId, cause: Closure) {
        if self.wires.remove(&id).is_some() {
            self.paused.retain(|held| *held != id);
            self.on_net(now, NetEvent::Closed { connection: id, cause });
            self.sockets.release(id);
        }
    }
}
