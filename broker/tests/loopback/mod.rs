//! A broker of one core without a kernel: bytes of a client go in, and what it would have sent
//! comes out at the end of the turn. Nothing but the broker is counted or measured.

#![allow(dead_code, unreachable_pub, reason = "each user takes a part of this module")]

pub mod full;

use ringlane::clock::WallClock;
use ringlane::config::Config;
use ringlane::mail::{ControlMail, Mail};
use ringlane::metrics::CoreMetrics;
use ringlane::service::{Broker, CoreSetup, ListenerKind, RestoredState, Timer};
use ringlane_dataplane::disk::memory::MemoryDisk;
use ringlane_dataplane::disk::{Disk, DiskCommand, DiskDone, DiskEvent, FileDriver, FileJob};
use ringlane_dataplane::ids::{ConnectionId, CoreId, ListenerId, PartitionId};
use ringlane_dataplane::link::Links;
use ringlane_dataplane::log::format::DirectoryId;
use ringlane_dataplane::log::segments::{LogEnd, LogSetup};
use ringlane_dataplane::log::writer::Writer;
use ringlane_dataplane::net::{Closure, NetEvent, Sockets};
use ringlane_dataplane::routing::Placement;
use ringlane_dataplane::runtime::{After, Endpoint, Mesh, Service, TimerWheel, Turn};
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::encode::{self, PublishHead};
use ringlane_mqtt::{
    Connect, ConnectProperties, PublishProperties, QoS, SubscribeFilter, Version, Will,
};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The data directory that the logs name.
pub const DIRECTORY_ID: DirectoryId = DirectoryId([3; 16]);

/// Where the log of a partition is.
pub fn log_directory(partition: u32) -> PathBuf {
    PathBuf::from(format!("/d/{partition}"))
}

/// A log that has nothing in it, with segments for records of this size.
pub fn new_log(partition: u32, record_bytes_max: u64) -> Writer {
    let setup = LogSetup {
        partition: PartitionId(partition),
        directory: log_directory(partition),
        directory_id: DIRECTORY_ID,
        epoch: 1,
        secret: [5; 16],
        segment_bytes: 1 << 20,
        record_bytes_max,
        tag: partition,
    };
    Writer::new(setup, LogEnd::default())
}

/// A broker and the two ends of its sockets.
pub struct Loopback {
    broker: Broker,
    sockets: Sockets,
    disk: Disk,
    files: MemoryDisk,
    answers: Vec<DiskEvent>,
    /// The broker has ended.
    pub stopped: bool,
    /// The last turn left nothing to be done.
    pub idle: bool,
    timers: TimerWheel<Timer>,
    endpoint: Endpoint<Mail>,
    links: Links,
    dirty: Vec<ConnectionId>,
    commands: Vec<ringlane_dataplane::net::SocketCommand>,
    pub now: Nanos,
    /// Clients that read nothing: what is for them stays in their output.
    pub stalled: Vec<ConnectionId>,
    pub metrics: Arc<CoreMetrics>,
    /// Bytes that the broker has sent, to all clients.
    pub sent_bytes: u64,
    /// Reads that the disk was asked for.
    pub reads: usize,
    /// Bytes of the largest piece of a file that the disk was asked to append.
    pub appended_max: usize,
    /// What it sent, in order of the connections' turns, if that is wanted.
    pub sent: Option<Vec<(ConnectionId, Vec<u8>)>>,
}

impl Loopback {
    /// A broker without a log.
    pub fn new(config: &Config) -> Self {
        Self::with_logs(config, MemoryDisk::new(), Vec::new())
    }

    /// A broker whose four partitions go on in these logs.
    pub fn with_logs(config: &Config, files: MemoryDisk, logs: Vec<Writer>) -> Self {
        Self::with_state(config, files, logs, None)
    }

    /// The same, that keeps sessions in its logs, too.
    pub fn with_sessions(config: &Config, files: MemoryDisk, logs: Vec<Writer>) -> Self {
        Self::with_state(config, files, logs, Some(RestoredState::of_empty_logs(4, 1)))
    }

    fn with_state(
        config: &Config,
        files: MemoryDisk,
        logs: Vec<Writer>,
        state: Option<RestoredState>,
    ) -> Self {
        let mut endpoints = Mesh::build(2, 64);
        let endpoint = endpoints.swap_remove(0);
        let now = Nanos::from_secs(1);
        let metrics = Arc::new(CoreMetrics::new(1));
        let setup = CoreSetup {
            core: CoreId(0),
            cores: 1,
            placement: Placement::new([7; 16], 4, 1),
            config: Arc::new(config.clone()),
            metrics: metrics.clone(),
            listeners: vec![ListenerKind::Tcp],
            seed: 1,
            memory_bytes: 1 << 30,
            connections_max: 20_000,
            waits_awake: false,
            readings_max: 64,
            clock: WallClock::default(),
            logs,
            state,
            cluster: None,
        };
        Self {
            broker: Broker::new(setup, now),
            sockets: Sockets::new(20_000),
            disk: Disk::new(),
            files,
            answers: Vec::new(),
            stopped: false,
            idle: false,
            timers: TimerWheel::new(now),
            endpoint,
            links: Links::new(0),
            dirty: Vec::new(),
            commands: Vec::new(),
            now,
            stalled: Vec::new(),
            metrics,
            sent_bytes: 0,
            reads: 0,
            appended_max: 0,
            sent: None,
        }
    }

    /// A connected client.
    pub fn client(&mut self, client_id: &str, version: Version) -> ConnectionId {
        self.connect(client_id, version, true, 0, None)
    }

    /// A connected client whose session outlives its connection for so long.
    pub fn connect_for(&mut self, client_id: &str, expiry_secs: u32) -> ConnectionId {
        self.connect(client_id, Version::V5, false, expiry_secs, None)
    }

    /// A connected client that takes up the session it had.
    pub fn returning_client(&mut self, client_id: &str, version: Version) -> ConnectionId {
        self.connect(client_id, version, false, 3600, None)
    }

    /// The same, with a will of QoS 1.
    pub fn client_with_will(
        &mut self,
        client_id: &str,
        version: Version,
        topic: &str,
    ) -> ConnectionId {
        let will = Will {
            topic,
            payload: b"gone",
            qos: QoS::AtLeastOnce,
            retain: false,
            delay_secs: 0,
            properties: PublishProperties::default(),
        };
        self.connect(client_id, version, false, 3600, Some(will))
    }

    /// The connection of a client is lost.
    pub fn lose(&mut self, connection: ConnectionId) {
        self.net(NetEvent::Closed { connection, cause: Closure::Peer });
        self.end_turn();
    }

    fn connect(
        &mut self,
        client_id: &str,
        version: Version,
        clean_start: bool,
        expiry_secs: u32,
        will: Option<Will<'_>>,
    ) -> ConnectionId {
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let listener = ListenerId(0);
        let connection = self.sockets.open(listener, peer).expect("the table has room");
        self.net(NetEvent::Accepted { connection, listener, peer });
        let mut bytes = Vec::new();
        let connect = Connect {
            version,
            clean_start,
            keep_alive_secs: 0,
            client_id,
            will,
            user_name: None,
            password: None,
            properties: ConnectProperties {
                session_expiry_secs: (!clean_start && version.is_v5()).then_some(expiry_secs),
                ..ConnectProperties::default()
            },
        };
        encode::connect(&mut bytes, &connect);
        self.receive(connection, &bytes);
        self.end_turn();
        connection
    }

    /// The client subscribes to a filter.
    pub fn subscribe(&mut self, id: ConnectionId, version: Version, filter: &str, qos: QoS) {
        let filter = SubscribeFilter {
            filter,
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: if version.is_v5() { 2 } else { 0 },
        };
        let mut bytes = Vec::new();
        encode::subscribe(&mut bytes, version, 1, None, &[filter]);
        self.receive(id, &bytes);
        // SUBACK first, then the retained messages that there are not.
        for _ in 0..4 {
            self.end_turn();
        }
    }

    /// Bytes of a client reach the broker.
    pub fn receive(&mut self, connection: ConnectionId, bytes: &[u8]) {
        self.net(NetEvent::Received { connection, bytes });
    }

    /// The end of a turn: everything is sent at once.
    pub fn end_turn(&mut self) {
        let Self { broker, sockets, disk, timers, endpoint, links, now, .. } = self;
        let mut turn = Turn { now: *now, sockets, disk, timers, mesh: endpoint, links };
        let after = broker.end_turn(&mut turn);
        self.stopped |= after == After::Stop;
        self.idle = after == After::Idle;
        self.commands.clear();
        self.sockets.take_commands(&mut self.commands);
        let mut dirty = core::mem::take(&mut self.dirty);
        self.sockets.take_dirty(&mut dirty);
        for connection in dirty.drain(..) {
            if self.stalled.contains(&connection) {
                continue;
            }
            let Some(output) = self.sockets.begin_send(connection) else { continue };
            self.sent_bytes += output.len() as u64;
            if let Some(sent) = &mut self.sent {
                sent.push((connection, output.bytes.clone()));
            }
            self.sockets.end_send(connection, output);
            self.net(NetEvent::Drained { connection });
        }
        self.dirty = dirty;
    }

    /// The disk does what it was asked for, and the broker hears of it; then a turn ends. How many
    /// commands ended.
    pub fn disk_turn(&mut self) -> usize {
        self.watch_disk();
        self.files.submit(&mut self.disk);
        let mut events = Vec::new();
        self.files.complete(&mut self.disk, 64, &mut |_, event| events.push(event));
        let count = events.len();
        for event in events {
            let Self { broker, sockets, disk, timers, endpoint, links, now, .. } = self;
            broker.on_disk(
                &mut Turn { now: *now, sockets, disk, timers, mesh: endpoint, links },
                event,
            );
        }
        self.end_turn();
        count
    }

    /// Counts what the disk is asked for.
    fn watch_disk(&mut self) {
        for command in self.disk.commands() {
            match command {
                DiskCommand::Read { .. } => self.reads += 1,
                DiskCommand::Job { job: FileJob::Append { bytes, .. }, .. } => {
                    self.appended_max = self.appended_max.max(bytes.len());
                }
                DiskCommand::Write { .. } | DiskCommand::Job { .. } => {}
            }
        }
    }

    /// The broker is told to end, as by SIGTERM.
    pub fn drain(&mut self) {
        let Self { broker, sockets, disk, timers, endpoint, links, now, .. } = self;
        let mut turn = Turn { now: *now, sockets, disk, timers, mesh: endpoint, links };
        broker.on_mail(&mut turn, CoreId(1), Mail::Control(Box::new(ControlMail::Drain)));
        self.end_turn();
    }

    /// A disk that keeps nothing says that it has done what it was asked for; then a turn ends.
    pub fn answer_disk(&mut self) {
        while let Some(command) = self.disk.take() {
            let token = command.token();
            if let DiskCommand::Write { batches, .. } = command {
                self.disk.give_back(batches);
            }
            self.answers.push(DiskEvent { token, result: Ok(DiskDone::Done) });
        }
        while let Some(event) = self.answers.pop() {
            let Self { broker, sockets, disk, timers, endpoint, links, now, .. } = self;
            broker.on_disk(
                &mut Turn { now: *now, sockets, disk, timers, mesh: endpoint, links },
                event,
            );
        }
        self.end_turn();
    }

    /// The disk does all that it was asked for, and what follows from that.
    pub fn settle_disk(&mut self) {
        while self.disk_turn() > 0 {}
    }

    /// What was sent to a client since this was asked last.
    pub fn take_sent(&mut self, to: ConnectionId) -> Vec<u8> {
        let sent = self.sent.get_or_insert_default();
        let (own, others) = core::mem::take(sent).into_iter().partition(|(id, _)| *id == to);
        *sent = others;
        let own: Vec<(ConnectionId, Vec<u8>)> = own;
        own.into_iter().flat_map(|(_, bytes)| bytes).collect()
    }

    /// A client reads again: it gets what has waited.
    pub fn read_again(&mut self, connection: ConnectionId) {
        self.stalled.retain(|held| *held != connection);
        if let Some(output) = self.sockets.begin_send(connection) {
            self.sent_bytes += output.len() as u64;
            self.sockets.end_send(connection, output);
            self.net(NetEvent::Drained { connection });
        }
    }

    /// Whether the broker does not read from a client.
    pub fn is_paused(&self, connection: ConnectionId) -> bool {
        self.sockets.is_paused(connection)
    }

    /// Time passes, a tenth of a second at a time; what is due happens.
    pub fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds * 10 {
            self.now = self.now + Duration::from_millis(100);
            let mut fired = Vec::new();
            while self.timers.expire(self.now, 64, &mut fired) {}
            for timer in fired {
                let Self { broker, sockets, disk, timers, endpoint, links, now, .. } = self;
                broker.on_timer(
                    &mut Turn { now: *now, sockets, disk, timers, mesh: endpoint, links },
                    timer,
                );
            }
            self.end_turn();
        }
    }

    fn net(&mut self, event: NetEvent<'_>) {
        let Self { broker, sockets, disk, timers, endpoint, links, now, .. } = self;
        broker.on_net(&mut Turn { now: *now, sockets, disk, timers, mesh: endpoint, links }, event);
    }
}

/// A PUBLISH without properties.
pub fn publish(version: Version, topic: &str, qos: QoS, packet_id: u16, payload: &[u8]) -> Vec<u8> {
    publish_for(version, topic, qos, packet_id, payload, None)
}

/// The same of a message that expires.
pub fn publish_for(
    version: Version,
    topic: &str,
    qos: QoS,
    packet_id: u16,
    payload: &[u8],
    message_expiry_secs: Option<u32>,
) -> Vec<u8> {
    let head = PublishHead {
        version,
        dup: false,
        qos,
        retain: false,
        topic,
        topic_alias: None,
        packet_id,
        message_expiry_secs,
        subscription_ids: &[],
        forwarded: &[],
        payload_bytes: payload.len(),
    };
    let mut bytes = Vec::new();
    encode::publish_head(&mut bytes, &head);
    bytes.extend_from_slice(payload);
    bytes
}
