//! The broker of one core: what it owns, and how the events of a turn reach their handlers.
//!
//! A message is appended to its publisher's partition; at the end of the turn it becomes
//! committed; and that one event causes both the acknowledgement and the fan-out (`commit`).
//! QoS 0 that nobody retains is in no log and is routed at once.

mod announce;
mod backlog;
mod commit;
mod disk_user;
mod drain;
mod fetch;
mod log;
mod post;
mod retained_order;
pub(crate) mod sizes;
mod stall;
mod streams;

pub(crate) use announce::{Announcer, PendingSuback};
pub(crate) use backlog::{FullFilters, LET_GO_MAX, low_mark};
pub(crate) use commit::AckToken;
pub(crate) use disk_user::{DISK_NUMBERS, DiskUser};
use fetch::Fetches;
pub(crate) use log::LogWatch;
pub use log::log_tag;
pub(crate) use post::{Post, VolatileSent};
use retained_order::RetainedOrder;
pub(crate) use sizes::Sizes;
pub(crate) use stall::{Admission, QUOTA_WAIT_MAX, Stalls};
pub(crate) use streams::Streams;

use crate::clock::WallClock;
use crate::config::Config;
use crate::connection::Connections;
use crate::delivery::{MessageMaker, PostedFilters, Routes, Scratch, UpkeepList};
use crate::durable::{CoreState, Durable, PartitionState, Settling, Standby};
use crate::groups::GroupStore;
use crate::mail::{ControlMail, Mail};
use crate::metrics::CoreMetrics;
use crate::replay::{Pace, Readings, Replays, Room};
use crate::replicated::Replicas;
use crate::replicated::setup::ClusterSetup;
use crate::retained::RetainedTasks;
use crate::session::{SessionId, SessionStore};
use ringlane_dataplane::batch::BatchPool;
use ringlane_dataplane::disk::DiskEvent;
use ringlane_dataplane::ids::{ConnectionId, CoreId, PartitionId};
use ringlane_dataplane::link::LinkEvent;
use ringlane_dataplane::log::record::checksum;
use ringlane_dataplane::log::writer::Writer;
use ringlane_dataplane::message::MessageMeter;
use ringlane_dataplane::net::NetEvent;
use ringlane_dataplane::partition::Partition;
use ringlane_dataplane::routing::{Placement, RetainedStore};
use ringlane_dataplane::runtime::{self, After, Service};
use ringlane_dataplane::time::Nanos;
use std::sync::Arc;

/// The turn as the broker's handlers see it.
pub(crate) type Turn<'a> = runtime::Turn<'a, Mail, Timer>;

/// What a listener speaks before MQTT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ListenerKind {
    /// MQTT over TCP.
    Tcp,
    /// MQTT over WebSocket [MQTT5 §6].
    WebSocket,
}

/// What one core is made of.
#[derive(Debug)]
pub struct CoreSetup {
    /// Which core this is.
    pub core: CoreId,
    /// Cores of this node.
    pub cores: u16,
    /// Who owns what.
    pub placement: Placement,
    /// The configuration.
    pub config: Arc<Config>,
    /// This core's counters.
    pub metrics: Arc<CoreMetrics>,
    /// What each listener speaks, by its number.
    pub listeners: Vec<ListenerKind>,
    /// A random number, different on each core.
    pub seed: u64,
    /// Bytes of messages that this core may hold.
    pub memory_bytes: u64,
    /// Connections that this core may hold.
    pub connections_max: usize,
    /// Whether this core waits awake for a sync that is about to end: somebody else's CPU makes it.
    pub waits_awake: bool,
    /// Partitions that this core may read at a time for replays of any core.
    pub readings_max: usize,
    /// The time of day.
    pub clock: WallClock,
    /// The logs of the partitions that this core owns, in rising order; none if nothing is logged.
    pub logs: Vec<Writer>,
    /// What those logs say; none if nothing is logged.
    pub state: Option<RestoredState>,
    /// What a core of a cluster needs besides; none on a node by itself.
    pub cluster: Option<ClusterSetup>,
}

/// What a core that followed goes on with when it leads.
#[derive(Debug)]
pub(crate) struct Handover {
    /// Of this core, in rising order.
    pub(crate) partitions: Vec<Partition<AckToken>>,
    /// The batches that are in their logs and on their way to other nodes, and who counts them.
    pub(crate) batches: BatchPool,
    pub(crate) meter: &'static MessageMeter,
    pub(crate) replicas: Box<Replicas>,
    /// The sessions of the partitions, and what they subscribe to.
    pub(crate) standby: Standby,
}

/// What a core takes over from before the start.
#[derive(Debug)]
pub struct RestoredState(pub(crate) CoreState);

impl RestoredState {
    /// What empty logs say, on a node of one core with this many partitions.
    #[must_use]
    pub fn of_empty_logs(partitions: u32, epoch: u64) -> Self {
        let states = (0..partitions).map(|_| PartitionState::new(partitions));
        let mut states: Vec<_> = states.collect();
        states.iter_mut().for_each(|state: &mut PartitionState| state.note_epoch(epoch, 0));
        let (checkpoints, groups) = (Vec::new(), Arc::default());
        let posted = PostedFilters::default();
        Self(CoreState { partitions: states, posted, checkpoints, groups, epoch })
    }
}

/// What a timer of the broker is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Timer {
    /// CONNECT has to be complete.
    ConnectDeadline(ConnectionId),
    /// 1.5 keep alive intervals may have passed.
    KeepAlive(ConnectionId),
    /// A session's expiry interval has passed.
    SessionExpiry(SessionId),
    /// A will's delay has passed.
    WillDelay(SessionId),
    /// Connections that were not read from may be ready.
    Retry,
    /// Expired retained messages are looked for.
    RetainedSweep,
    /// Full backlogs may hold nothing but expired messages.
    BacklogSweep,
    /// Sessions with something in flight are looked after.
    Upkeep,
    /// A log has something to do although nothing happens.
    Log,
    /// Positions and cursors go to the log.
    Durable,
    /// What partitions need of the logs is looked for.
    Walk,
    /// Logs are read again for which the host was short of something.
    Fetch,
    /// Replays have something to do although nothing happens.
    Replay,
    /// A checkpoint in the making goes on.
    Checkpoint,
    /// Clients have had their time to leave.
    DrainDeadline,
}

/// The broker of one core.
#[derive(Debug)]
pub struct Broker {
    pub(crate) core: CoreId,
    pub(crate) placement: Placement,
    pub(crate) config: Arc<Config>,
    pub(crate) sizes: Sizes,
    pub(crate) streams: Streams,
    pub(crate) metrics: Arc<CoreMetrics>,
    pub(crate) listeners: Vec<ListenerKind>,
    pub(crate) memory_bytes: u64,
    pub(crate) meter: &'static MessageMeter,
    pub(crate) connections: Connections,
    pub(crate) sessions: SessionStore,
    pub(crate) routes: Routes,
    pub(crate) announcer: Announcer,
    /// The partitions that this core owns, in rising order, and behind them one without a log for
    /// what the broker publishes itself.
    pub(crate) partitions: Vec<Partition<AckToken>>,
    pub(crate) has_logs: bool,
    /// In a cluster: what joins the partitions with their replicas on other nodes.
    pub(crate) replicas: Option<Box<Replicas>>,
    /// Places of partitions of which more is committed than those who read them know.
    pub(crate) risen: Vec<usize>,
    /// What the logs say of sessions, if there are logs.
    pub(crate) durable: Option<Durable>,
    /// What is taken over in the first turn.
    restoring: Option<Box<CoreState>>,
    /// Sessions that were taken over, until all of them are settled.
    pub(crate) settling: Option<Box<Settling>>,
    pub(crate) log_watch: LogWatch,
    pub(crate) waits_awake: bool,
    fetches: Fetches,
    pub(crate) clock: WallClock,
    pub(crate) batches: BatchPool,
    pub(crate) upkeep: UpkeepList,
    pub(crate) retained: RetainedStore,
    pub(crate) retained_tasks: RetainedTasks,
    pub(crate) retain_waits: commit::RetainWaits,
    retained_order: RetainedOrder,
    pub(crate) groups: GroupStore,
    /// Subscriptions of this core's sessions that read again.
    pub(crate) replays: Replays,
    /// What is read again of this core's partitions.
    pub(crate) readings: Readings,
    /// How much of a turn both take.
    pub(crate) pace: Pace,
    /// What the checksums of resume tokens begin with.
    pub(crate) replay_seed: u32,
    pub(crate) full_filters: FullFilters,
    /// Sessions of this core whose backlog is full.
    pub(crate) full_sessions: Vec<SessionId>,
    pub(crate) post: Post,
    pub(crate) stalls: Stalls,
    pub(crate) maker: MessageMaker,
    pub(crate) scratch: Scratch,
    /// Connections with acknowledgements to send at the end of this turn.
    pub(crate) ack_ready: Vec<ConnectionId>,
    /// Sessions whose window may have opened in this turn.
    pub(crate) pump_ready: Vec<SessionId>,
    pub(crate) next_assigned: u64,
    pub(crate) draining: bool,
    /// Or have had their time to.
    pub(crate) clients_have_left: bool,
    pub(crate) stopping: bool,
    pub(crate) bad_packet_logs: crate::connection::LogBudget,
}

impl Broker {
    /// A broker with no connection and no session.
    #[must_use]
    pub fn new(mut setup: CoreSetup, _now: Nanos) -> Self {
        let logs = core::mem::take(&mut setup.logs);
        let partitions = partitions(setup.placement.owned(setup.core), logs, setup.core);
        let meter = MessageMeter::leaked();
        let sessions_max = Sizes::new(&setup.config, setup.cores).sessions_max;
        let standby = Standby::new(setup.core, setup.placement, sessions_max);
        Self::with_partitions(setup, partitions, standby, BatchPool::new(meter), meter)
    }

    /// The broker of a core that has followed and leads now, with the logs that it has.
    pub(crate) fn leading(setup: CoreSetup, handover: Handover) -> Self {
        let Handover { mut partitions, meter, batches, replicas, standby } = handover;
        partitions.push(Partition::new(own_partition(setup.core)));
        let broker = Self::with_partitions(setup, partitions, standby, batches, meter);
        Self { replicas: Some(replicas), ..broker }
    }

    fn with_partitions(
        mut setup: CoreSetup,
        partitions: Vec<Partition<AckToken>>,
        mut standby: Standby,
        batches: BatchPool,
        meter: &'static MessageMeter,
    ) -> Self {
        let sizes = Sizes::new(&setup.config, setup.cores);
        let durable = setup.state.as_mut().map(|RestoredState(state)| {
            standby.begin(state);
            let others = (0..setup.cores).map(CoreId).filter(|core| *core != setup.core);
            standby.routes.set_untold(others.collect());
            let own = setup.placement.owned(setup.core);
            let partitions = setup.placement.partitions();
            let states = own.map(|_| PartitionState::new(partitions));
            Durable::new(states.collect(), &setup.config, partitions, state.epoch, setup.cores)
        });
        let Standby { sessions, routes, subscriptions, shared_subscriptions, .. } = standby;
        setup.metrics.subscriptions.add(subscriptions);
        setup.metrics.shared_subscriptions.add(shared_subscriptions);
        Self {
            core: setup.core,
            connections: Connections::default(),
            sessions,
            routes,
            announcer: Announcer::new(setup.core, setup.cores),
            log_watch: LogWatch::new(partitions.len()),
            waits_awake: setup.waits_awake,
            fetches: Fetches::new(partitions.len()),
            retained_order: RetainedOrder::new(partitions.len()),
            replays: Replays::new(Room::new(
                sizes.replays_max,
                setup.readings_max,
                setup.placement.partitions(),
                setup.cores,
            )),
            readings: Readings::new(partitions.len(), setup.readings_max),
            pace: Pace::default(),
            replay_seed: replay_seed(&partitions),
            has_logs: partitions.iter().any(|partition| partition.log().is_some()),
            partitions,
            replicas: None,
            risen: Vec::new(),
            durable,
            settling: None,
            restoring: setup.state.map(|state| Box::new(state.0)),
            clock: setup.clock,
            batches,
            upkeep: UpkeepList::default(),
            retained: RetainedStore::new(sizes.retained_messages_max, sizes.retained_bytes_max),
            retained_tasks: RetainedTasks::default(),
            retain_waits: commit::RetainWaits::default(),
            groups: GroupStore::default(),
            full_filters: FullFilters::default(),
            full_sessions: Vec::new(),
            post: Post::new(setup.core, setup.cores),
            stalls: Stalls::default(),
            maker: MessageMaker::new(meter),
            scratch: Scratch::default(),
            ack_ready: Vec::new(),
            pump_ready: Vec::new(),
            next_assigned: setup.seed,
            draining: false,
            clients_have_left: false,
            stopping: false,
            bad_packet_logs: crate::connection::LogBudget::default(),
            placement: setup.placement,
            streams: Streams::new(&setup.config),
            config: setup.config,
            sizes,
            metrics: setup.metrics,
            listeners: setup.listeners,
            memory_bytes: setup.memory_bytes,
            meter,
        }
    }

    /// The cores of this node, this one included.
    pub(crate) fn cores(&self) -> u16 {
        self.announcer.cores()
    }

    fn take_mail(&mut self, turn: &mut Turn<'_>, from: CoreId, mail: Mail) {
        match mail {
            Mail::Fanout { message, record, deliver, retain } => {
                self.on_fanout(turn, from, &message, record, deliver, retain);
            }
            Mail::Volatile(volatile) => self.on_volatile(turn, &volatile),
            Mail::RetainApplied { partition, offset, stored } => {
                self.on_retain_applied(partition, offset, stored);
            }
            Mail::FilterAdd { seq, filter } => self.on_filter_add(from, seq, &filter),
            Mail::Settled => self.on_settled(turn, from),
            Mail::FilterRemove { filter } => self.routes.remove_remote(from, &filter),
            Mail::LogMarks { marks } => self.on_log_marks(&marks),
            Mail::LogNeeds { partition, needs } => self.on_log_needs(partition, &needs),
            Mail::FilterAck { seq } => self.on_filter_ack(turn, from, seq),
            Mail::Adopt(adoption) => self.on_adopt(turn, *adoption),
            Mail::Retained(mail) => self.on_retained_mail(turn, from, *mail),
            Mail::GroupDeliver { session, message, qos, errand } => {
                self.on_group_deliver(turn, session, message, qos, errand);
            }
            Mail::GroupDone { group, member, seq } => self.on_group_done(turn, group, member, seq),
            Mail::Group(mail) => self.on_group_mail(turn, from, *mail),
            Mail::BacklogFull { filter } => self.full_filters.add(&filter),
            Mail::BacklogFree { filter } => self.full_filters.remove(&filter),
            Mail::Replay(mail) => self.on_replay_mail(turn, from, *mail),
            Mail::Fetch(fetch) => self.on_fetch(turn, from, *fetch),
            Mail::Fetched(fetched) => self.on_fetched(turn, *fetched),
            Mail::Unfetch(unfetch) => self.on_unfetch(from, &unfetch),
            Mail::Control(mail) => self.on_control(turn, *mail),
            Mail::Cluster(mail) => self.on_core_mail(turn, from, *mail),
        }
    }

    fn on_control(&mut self, turn: &mut Turn<'_>, mail: ControlMail) {
        match mail {
            ControlMail::Publish { topic, payload, retain } => {
                self.publish_own(turn, &topic, &payload, retain);
            }
            ControlMail::Drain => self.begin_drain(turn),
            ControlMail::Ask(ask) => self.on_ask(turn, ask),
            ControlMail::Cluster(mail) => self.on_cluster_mail(turn, *mail),
        }
    }

    /// Nothing happens on a core before its sessions are there.
    fn restore_first(&mut self, turn: &mut Turn<'_>) {
        if let Some(mut state) = self.restoring.take() {
            self.take_checkpoints(core::mem::take(&mut state.checkpoints));
            self.restore(turn, *state);
            self.arm_durable(turn);
        }
    }

    /// Mails to this core itself: bounded, what is left waits for the next turn.
    fn take_own_mail(&mut self, turn: &mut Turn<'_>) {
        for _ in 0..sizes::OWN_MAILS_PER_TURN {
            let Some(mail) = self.post.take_own() else { return };
            let own = self.core;
            self.take_mail(turn, own, mail);
        }
    }
}

/// What the checksums of resume tokens begin with: the same on every core of a data directory.
fn replay_seed(partitions: &[Partition<AckToken>]) -> u32 {
    let log = partitions.iter().find_map(Partition::log);
    log.map_or(0, |log| checksum(&log.segments().setup().directory_id.0))
}

/// The partition of a core's own publishes. None of a node has this number.
fn own_partition(core: CoreId) -> PartitionId {
    PartitionId(u32::MAX - u32::from(core.0))
}

fn partitions(
    owned: impl Iterator<Item = PartitionId>,
    logs: Vec<Writer>,
    core: CoreId,
) -> Vec<Partition<AckToken>> {
    let own = Partition::new(own_partition(core));
    if logs.is_empty() {
        return owned.map(Partition::new).chain([own]).collect();
    }
    let owned: Vec<PartitionId> = owned.collect();
    assert_eq!(owned.len(), logs.len(), "each partition has its log");
    let logged = owned.into_iter().zip(logs);
    logged.map(|(id, log)| Partition::with_log(id, log)).chain([own]).collect()
}

impl Service for Broker {
    type Mail = Mail;
    type Timer = Timer;

    fn on_net(&mut self, turn: &mut Turn<'_>, event: NetEvent<'_>) {
        self.restore_first(turn);
        match event {
            NetEvent::Received { connection, bytes } => self.on_received(turn, connection, bytes),
            NetEvent::Drained { connection } => self.on_drained(turn, connection),
            NetEvent::Accepted { connection, listener, .. } => {
                self.on_accepted(turn, connection, listener);
            }
            NetEvent::Detached { connection, socket, listener, peer } => {
                self.on_detached(turn, connection, socket, listener, peer);
            }
            NetEvent::Closed { connection, cause } => self.on_closed(turn, connection, cause),
        }
    }

    fn on_link(&mut self, turn: &mut Turn<'_>, event: LinkEvent<'_>) {
        self.restore_first(turn);
        self.on_link_event(turn, event);
    }

    fn on_mail(&mut self, turn: &mut Turn<'_>, from: CoreId, mail: Mail) {
        self.restore_first(turn);
        self.take_mail(turn, from, mail);
    }

    fn on_disk(&mut self, turn: &mut Turn<'_>, event: DiskEvent) {
        self.on_disk_event(turn, event);
    }

    fn on_timer(&mut self, turn: &mut Turn<'_>, key: Timer) {
        match key {
            Timer::ConnectDeadline(connection) => self.on_connect_deadline(turn, connection),
            Timer::KeepAlive(connection) => self.on_keep_alive(turn, connection),
            Timer::SessionExpiry(session) => self.on_session_expiry(turn, session),
            Timer::WillDelay(session) => self.on_will_delay(turn, session),
            Timer::Retry => self.on_retry(turn),
            Timer::RetainedSweep => self.on_retained_sweep(turn),
            Timer::BacklogSweep => self.on_backlog_sweep(turn),
            Timer::Upkeep => self.on_upkeep(turn),
            Timer::Log => self.on_log_timer(),
            Timer::Durable => self.on_durable_timer(turn),
            Timer::Walk => self.on_walk_timer(turn),
            Timer::Fetch => self.on_fetch_timer(turn),
            Timer::Replay => self.on_replay_timer(),
            Timer::Checkpoint => self.on_checkpoint_timer(turn),
            Timer::DrainDeadline => self.clients_have_left = true,
        }
    }

    fn end_turn(&mut self, turn: &mut Turn<'_>) -> After {
        self.restore_first(turn);
        self.settle_sessions(turn);
        self.take_own_mail(turn);
        self.commit_all(turn);
        self.settle_waits(turn);
        self.flush_post(turn);
        self.resume_output_stalls(turn);
        self.pump_sessions(turn);
        self.run_replays(turn);
        self.flush_acks(turn);
        self.acknowledge_filters(turn);
        self.metrics.sockets.set(turn.sockets.open_count() as u64);
        self.settle_retained_order();
        self.bound_unlogged(turn);
        self.go_on_fetching(turn);
        self.open_waiting(turn);
        self.write_logs(turn);
        self.check_drained(turn);
        self.take_back_batches(turn);
        self.metrics.message_bytes.set(self.meter.bytes());
        if self.stopping || self.is_cut_off() {
            After::Stop
        } else if self.post.has_work()
            || self.may_settle()
            || self.fetches.has_work()
            || !self.pump_ready.is_empty()
            || self.has_settled_waits()
            || self.readings.has_ready()
            || self.replays.has_ready()
            || self.partitions.iter().any(|p| p.cursors().has_lag() || p.has_committable())
        {
            After::MoreWork
        } else {
            self.expected(turn.now).map_or(After::Idle, After::Soon)
        }
    }
}
