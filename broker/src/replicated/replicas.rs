//! The replicas of one core: what they hear of links, disk, cores and the control thread, and what is
//! done about what they ask for.
//!
//! The partitions are the caller's, who follows or leads with them: the n-th replica is that of the n-th
//! partition of the core's table.

use super::around::{Around, PeerLinks};
use super::control_mail::{Given, ToControl, ToCore};
use super::elect::Elect;
use super::lease::HeldLease;
use super::mail::{CoreMail, Order, Standing, View};
use super::setup::{ClusterSetup, ReplicaSetup};
use crate::cluster::peers::PeerFacts;
use crate::connection::LogBudget;
use crate::durable::{Checkpoints, Recovery, Standby};
use crate::mail::Mail;
use crate::service::{AckToken, Turn};
use ringlane_dataplane::batch::{Arrived, BatchPool};
use ringlane_dataplane::disk::{Disk, DiskEvent};
use ringlane_dataplane::ids::{CoreId, NodeId, Offset, PartitionId};
use ringlane_dataplane::link::lanes::{LaneEvent, Lanes};
use ringlane_dataplane::link::{Arrival, LinkEvent, LinkId, Links};
use ringlane_dataplane::log::writer::{Flushed, Writer};
use ringlane_dataplane::partition::Partition;
use ringlane_dataplane::replication::host::{self, Ask, HOST_TAGS, Host};
use ringlane_dataplane::replication::message::{Envelope, WHOLE_NODE};
use ringlane_dataplane::replication::replica::{self, Replica};
use ringlane_dataplane::replication::wire::{self, WireError};
use ringlane_dataplane::runtime::Endpoint;
use ringlane_dataplane::time::Nanos;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::mpsc;

/// How often the control thread hears of the replicas, and postings are swept.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// One replica of this core.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) partition: PartitionId,
    pub(super) host: Host,
    pub(super) peers: PeerLinks,
    /// What the committed records add up to, until that is given away.
    pub(super) recovery: Option<Recovery>,
    pub(super) checkpoints: Option<Checkpoints>,
    /// Links whose end is waited for: nodes that have to lose their right to write here. None if nobody has to.
    pub(super) revoking: Option<Vec<LinkId>>,
    /// An epoch that is on its way into the manifest for it.
    pub(super) asked_epoch: Option<u64>,
    /// It leads in this epoch, which begins there.
    pub(super) leads: Option<(u64, Offset)>,
    /// There are records that the log could not be read for.
    pub(super) has_lost: bool,
    /// Its log has failed.
    pub(super) has_failed: bool,
}

/// The replicas of one core.
#[derive(Debug)]
pub(crate) struct Replicas {
    node: NodeId,
    pub(super) core: CoreId,
    pub(super) cores: u16,
    pub(super) own: Vec<Own>,
    /// What the states of all of them are made into, to lead with at once.
    pub(super) standby: Box<Standby>,
    /// Something of the states is not in it yet.
    pub(super) is_filling: bool,
    /// All of the states were in it once.
    pub(super) is_warm: bool,
    /// Since when they are taken in.
    pub(super) fills_since: Nanos,
    /// It was said that this core could lead.
    pub(super) has_said_ready: bool,
    lanes: Lanes,
    pub(super) lease: HeldLease,
    /// On core 0.
    pub(super) elect: Option<Box<Elect>>,
    /// Whether the node may lead, as far as what it read before goes.
    pub(super) may_lead: bool,
    pub(super) to_control: mpsc::Sender<ToControl>,
    /// Bytes of log behind which the next checkpoint of a follower comes.
    pub(super) checkpoint_size: u64,
    /// Segments that followers have trimmed.
    pub(super) trimmed: usize,
    pub(super) asks: VecDeque<(usize, Ask)>,
    /// The last order to campaign, while it holds.
    pub(super) campaign: Option<u64>,
    /// Something of this core cannot campaign with it.
    pub(super) gave_up: bool,
    pub(super) told: Option<View>,
    /// Links for other cores, on their way there: dropping one ends it, and its peer dials again.
    pub(super) arrivals: Vec<(CoreId, Arrival)>,
    /// Places of partitions whose high watermark has risen since this was asked.
    pub(super) risen: Vec<usize>,
    /// Places of partitions, and nodes that need a checkpoint of them.
    pub(super) lacking: Vec<(usize, NodeId)>,
    pub(super) sends: Vec<(NodeId, Envelope)>,
    pub(super) tells: Vec<ToControl>,
    pub(super) head: Vec<u8>,
    pub(super) progress_at: Nanos,
    /// A checkpoint of a follower is gone on with then.
    pub(super) checkpoints_at: Nanos,
    /// The state of this core's partitions was given away: from now on it leads, or ends.
    pub(super) gave_state: bool,
    /// It takes part in nothing any more: what its logs have is all that goes on.
    pub(super) has_ended: bool,
    /// The control thread has said that the core is to end.
    pub(super) has_ceased: bool,
    /// The control thread hears nothing of it any more.
    pub(super) is_cut_off: bool,
    /// Whether the control thread knows that the clients have left.
    pub(super) has_said_drained: bool,
    /// Dials that a peer has refused, since the last link.
    pub(super) refusals: u32,
    pub(super) lines: LogBudget,
}

/// What a call has to work with: parts of a core.
pub(crate) struct Ground<'a> {
    pub(crate) now: Nanos,
    pub(crate) unix_ms: u64,
    pub(crate) pool: &'a mut BatchPool,
    pub(crate) disk: &'a mut Disk,
    pub(crate) links: &'a mut Links,
    pub(crate) mesh: &'a mut Endpoint<Mail>,
    pub(crate) partitions: &'a mut [Partition<AckToken>],
}

impl<'a> Ground<'a> {
    pub(crate) fn new<'t: 'a>(
        turn: &'a mut Turn<'t>,
        unix_ms: u64,
        pool: &'a mut BatchPool,
        partitions: &'a mut [Partition<AckToken>],
    ) -> Self {
        let Turn { now, disk, links, mesh, .. } = turn;
        Self { now: *now, unix_ms, pool, disk, links, mesh, partitions }
    }
}

impl Replicas {
    /// Followers of nobody, and their partitions in the same order.
    pub(super) fn new(
        core: CoreId,
        cores: u16,
        (setup, standby): (ClusterSetup, Standby),
        logs: Vec<Writer>,
        now: Nanos,
    ) -> (Self, Vec<Partition<AckToken>>) {
        assert_eq!(setup.replicas.len(), logs.len(), "each replica has its log");
        let lanes = Lanes::new(setup.hello, &setup.peers, setup.retry);
        let elect = (core == CoreId(0))
            .then(|| Box::new(Elect::new(setup.election.clone(), cores, setup.epoch, now)));
        let node = setup.election.node;
        let mut own = Vec::new();
        let mut partitions = Vec::new();
        let common = Common {
            election: setup.election,
            peers: setup.peers,
            window_bytes: setup.window_bytes,
            counts_memory: setup.counts_memory,
        };
        for (replica, log) in setup.replicas.into_iter().zip(logs) {
            own.push(Own::new(&common, replica, &log));
            partitions.push(Partition::with_log(log.segments().owner().partition, log));
        }
        let replicas = Self {
            node,
            core,
            cores,
            own,
            standby: Box::new(standby),
            is_filling: false,
            is_warm: false,
            fills_since: now,
            has_said_ready: false,
            lanes,
            lease: HeldLease::new(setup.boottime),
            elect,
            may_lead: setup.may_lead,
            to_control: setup.to_control,
            checkpoint_size: setup.checkpoint_size,
            trimmed: 0,
            asks: VecDeque::new(),
            campaign: None,
            gave_up: false,
            told: None,
            arrivals: Vec::new(),
            risen: Vec::new(),
            lacking: Vec::new(),
            sends: Vec::new(),
            tells: Vec::new(),
            head: Vec::new(),
            progress_at: now,
            checkpoints_at: Nanos::NEVER,
            gave_state: false,
            has_ended: false,
            has_ceased: false,
            is_cut_off: false,
            has_said_drained: false,
            refusals: 0,
            lines: LogBudget::default(),
        };
        (replicas, partitions)
    }

    /// Each partition with its replica.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn hosts(&self) -> impl Iterator<Item = (PartitionId, &Host)> {
        self.own.iter().map(|own| (own.partition, &own.host))
    }

    /// Whether other nodes have these partitions, too.
    pub(crate) fn has_others(&self) -> bool {
        self.own.iter().any(|own| own.peers.nodes().next().is_some())
    }

    pub(super) fn place_of(&self, partition: PartitionId) -> Option<usize> {
        let index = (partition.0 / u32::from(self.cores)) as usize;
        self.own.get(index).filter(|own| own.partition == partition).map(|_| index)
    }

    pub(super) fn with_host<R>(
        &mut self,
        index: usize,
        ground: &mut Ground<'_>,
        act: impl FnOnce(&mut Host, &mut host::Turn<'_, AckToken>, &mut Around<'_>) -> R,
    ) -> R {
        let Self { own, asks, standby, .. } = self;
        let Own { host, peers, recovery, partition, .. } = &mut own[index];
        let mut turn = host::Turn {
            now: ground.now,
            unix_ms: ground.unix_ms,
            pool: ground.pool,
            disk: ground.disk,
            partition: &mut ground.partitions[index],
        };
        let (partition, recovery) = (*partition, recovery.as_mut());
        let links = &mut *ground.links;
        let mut around = Around { links, peers, asks, index, partition, recovery, standby };
        act(host, &mut turn, &mut around)
    }

    pub(super) fn with_replica(
        &mut self,
        index: usize,
        ground: &mut Ground<'_>,
        input: impl FnOnce(&mut Replica),
    ) {
        self.with_host(index, ground, |host, turn, around| host.with_replica(turn, around, input));
    }

    fn with_all(&mut self, ground: &mut Ground<'_>, input: impl Fn(&mut Replica)) {
        for index in 0..self.own.len() {
            self.with_replica(index, ground, &input);
        }
    }

    // ---- links ----

    /// Something happened to a link.
    pub(crate) fn on_link(&mut self, ground: &mut Ground<'_>, event: LinkEvent<'_>) {
        let lane = self.lanes.on_event(ground.links, &event);
        if let Some(LaneEvent::Up(lane) | LaneEvent::Down(lane)) = lane {
            self.look_at_lanes(lane.peer, ground);
        }
        match event {
            LinkEvent::Received { link, message } => {
                let decoded = wire::decode(message);
                let decoded = decoded.map(|(envelope, body)| (envelope, body.into()));
                self.on_received(ground, link, decoded);
            }
            LinkEvent::Records { link, head, body } => {
                self.on_received(ground, link, wire::decode_records(head, body));
            }
            LinkEvent::Room { link } => self.on_room(ground, link),
            LinkEvent::Elsewhere { core, arrival } if core.0 < self.cores => {
                self.arrivals.push((core, arrival));
            }
            LinkEvent::TurnedAway { peer, cause } => {
                if let Some(suppressed) = self.lines.take(ground.now) {
                    tracing::warn!(%peer, %cause, suppressed, "a caller of the replication port was turned away");
                }
            }
            LinkEvent::Up { link, hello } => self.say_up(ground, link, hello),
            LinkEvent::Down { link, cause } => {
                self.say_down(ground, cause);
                self.on_revoked(ground, link);
            }
            LinkEvent::Elsewhere { .. } | LinkEvent::Greeted { .. } => {}
        }
        self.do_asks(ground);
    }

    /// The links of each replica to a node, after a lane to it came or went.
    fn look_at_lanes(&mut self, peer: NodeId, ground: &mut Ground<'_>) {
        for index in 0..self.own.len() {
            let link = self.lanes.link_of(peer, self.own[index].partition);
            let before = self.own[index].peers.set(peer, link);
            if before == link {
                continue;
            }
            tracing::debug!(
                partition = self.own[index].partition.0,
                node = peer.0,
                is_up = link.is_some(),
                "link of a replica"
            );
            self.with_replica(index, ground, |replica| {
                if before.is_some() {
                    replica.on_link_down(peer);
                }
                if link.is_some() {
                    replica.on_link_up(peer);
                }
            });
            // Partition 0 is of core 0 on every node: its link is the one that nodes as wholes use.
            if let Some(elect) = self.elect.as_mut().filter(|_| index == 0) {
                if before.is_some() {
                    elect.election.on_link_down(peer, ground.now);
                }
                if link.is_some() {
                    elect.election.on_link_up(peer, ground.now);
                }
            }
        }
    }

    fn on_received(
        &mut self,
        ground: &mut Ground<'_>,
        link: LinkId,
        decoded: Result<(Envelope, Arrived<'_>), WireError>,
    ) {
        let Some(lane) = self.lanes.lane_of(link) else { return };
        let (envelope, body) = match decoded {
            Ok(decoded) => decoded,
            Err(error) => {
                if let Some(suppressed) = self.lines.take(ground.now) {
                    tracing::warn!(node = lane.peer.0, %error, suppressed, "a node says what is no message");
                }
                return ground.links.revoke(link);
            }
        };
        if envelope.partition == WHOLE_NODE {
            if let Some(elect) = &mut self.elect {
                elect.election.on_message(lane.peer, &envelope, ground.now);
            }
            return;
        }
        let index = self.place_of(envelope.partition);
        // A lane carries the partitions that both of its cores own, and no others.
        let index = index.filter(|index| self.own[*index].peers.get(lane.peer) == Some(link));
        if let Some(index) = index.filter(|_| !self.has_ended) {
            self.with_host(index, ground, |host, turn, around| {
                host.on_message(lane.peer, &envelope, body, turn, around);
            });
        }
    }

    fn on_room(&mut self, ground: &mut Ground<'_>, link: LinkId) {
        for index in 0..self.own.len() {
            if let Some(peer) = self.own[index].peers.node_of(link) {
                self.with_replica(index, ground, |replica| replica.on_room(peer));
            }
        }
    }

    // ---- disk ----

    /// Something that a replica asked of the disk has ended: the place of its partition, and what became durable.
    pub(crate) fn on_disk(
        &mut self,
        ground: &mut Ground<'_>,
        number: u32,
        event: DiskEvent,
    ) -> (usize, Option<Flushed>) {
        let index = (number / HOST_TAGS) as usize;
        let flushed =
            self.with_host(index, ground, |host, turn, around| host.on_disk(event, turn, around));
        self.do_asks(ground);
        (index, flushed)
    }

    // ---- cores and the control thread ----

    /// Another core of this node says something.
    pub(crate) fn on_core_mail(&mut self, ground: &mut Ground<'_>, from: CoreId, mail: CoreMail) {
        match mail {
            CoreMail::Arrival(arrival) => ground.links.adopt(arrival),
            CoreMail::Order(order) => self.on_order(ground, order),
            CoreMail::View(view) => {
                if let Some(elect) = &mut self.elect {
                    elect.on_view(from, view, ground.now);
                }
            }
        }
        self.do_asks(ground);
    }

    pub(super) fn on_order(&mut self, ground: &mut Ground<'_>, order: Order) {
        match order {
            _ if self.has_ended => {}
            Order::Campaign(epoch) => {
                (self.campaign, self.gave_up) = (Some(epoch), false);
                self.with_all(ground, |replica| replica.campaign(epoch));
            }
            Order::StepDown => {
                self.campaign = None;
                self.with_all(ground, Replica::step_down);
                if self.gave_state {
                    self.end("this node does not lead any more".to_owned());
                }
            }
            Order::GiveState(epoch) => self.give_state(ground, epoch),
        }
    }

    /// All replicas of the node lead: their state goes to the control thread, which makes the state of the
    /// node of it.
    fn give_state(&mut self, ground: &mut Ground<'_>, epoch: u64) {
        if self.standing() != Standing::Leads(epoch) || self.gave_state {
            return;
        }
        self.gave_state = true;
        let mut posted = Some(Box::new(self.take_posted()));
        for index in 0..self.own.len() {
            let own = &mut self.own[index];
            let (partition, Some((_, start))) = (own.partition, own.leads) else { continue };
            let Some(recovery) = own.recovery.take() else { continue };
            if let Some(checkpoints) = &mut own.checkpoints {
                checkpoints.give_up_as_follower(index, ground.disk);
            }
            match recovery.finish() {
                Ok(state) => {
                    let given = Given { start, state: Box::new(state), posted: posted.take() };
                    self.tell(ToControl::State { partition, epoch, given });
                }
                Err((offset, error)) => {
                    let why = format!("partition {}: offset {offset}: {error}", partition.0);
                    let of_later = format!("{why}; a later release wrote it: upgrade this node");
                    self.tell(ToControl::CannotLead { why: of_later });
                    self.end(why);
                }
            }
        }
    }

    /// The control thread says something that is the replicas' own.
    pub(crate) fn on_control(&mut self, ground: &mut Ground<'_>, mail: ToCore) {
        match mail {
            ToCore::EpochGiven { epoch } => {
                self.elected(|elect| elect.election.on_epoch_given(epoch, ground.now))
            }
            ToCore::EpochRefused => {
                self.elected(|elect| elect.election.on_epoch_refused(ground.now))
            }
            // That its own has been given to it is said by the answer, which may come later.
            ToCore::EpochSeen { leader, .. } if leader == Some(self.node) => {}
            ToCore::EpochSeen { epoch, leader } => {
                self.elected(|elect| elect.election.on_epoch_seen(epoch, leader, ground.now));
            }
            ToCore::Lease { until } => self.lease.set(until),
            ToCore::Peers(facts) => self.on_peers(ground, &facts),
            ToCore::TransferTo(node) => self.elected(|elect| elect.election.transfer(node)),
            ToCore::EpochDurable { epoch } => self.on_epoch_durable(ground, epoch),
            ToCore::Truncated { partition, writer } => {
                self.on_truncated(ground, partition, *writer)
            }
            ToCore::Replaced { partition, learned } => {
                self.on_replaced(ground, partition, *learned)
            }
            ToCore::DamageCleared { partition } => {
                if let Some(index) = self.place_of(partition) {
                    self.with_replica(index, ground, Replica::on_damage_cleared);
                }
            }
            // Those are the core's.
            ToCore::Begin { .. } | ToCore::End { .. } => {}
        }
        self.do_asks(ground);
    }

    fn on_peers(&mut self, ground: &mut Ground<'_>, facts: &[PeerFacts]) {
        for PeerFacts { node, address, directory } in facts.iter().copied() {
            if let Some(address) = address {
                self.lanes.set_address(node, address);
            }
            self.lanes.set_directory(node, directory, ground.links);
        }
    }

    fn elected(&mut self, input: impl FnOnce(&mut Elect)) {
        if let Some(elect) = &mut self.elect {
            input(elect);
        }
    }

    /// Only those are told that have asked: the epoch of others is not theirs yet.
    fn on_epoch_durable(&mut self, ground: &mut Ground<'_>, durable: u64) {
        for index in 0..self.own.len() {
            let asked = self.own[index].asked_epoch.take_if(|asked| *asked <= durable);
            if let Some(epoch) = asked {
                self.with_replica(index, ground, |replica| replica.on_epoch_durable(epoch));
            }
        }
    }

    fn on_truncated(&mut self, ground: &mut Ground<'_>, partition: PartitionId, log: Writer) {
        let Some(index) = self.place_of(partition).filter(|_| !self.has_ended) else { return };
        self.with_host(index, ground, |host, turn, around| host.on_truncated(log, turn, around));
    }

    // ---- the end of a turn ----

    /// End of turn, after everything that can be has been committed.
    pub(crate) fn end_turn(&mut self, ground: &mut Ground<'_>) {
        if self.lanes.next_tick() <= ground.now && !self.has_ended {
            self.lanes.tick(ground.now, ground.links);
        }
        for index in 0..self.own.len() {
            self.with_host(index, ground, |host, turn, around| host.end_turn(turn, around));
        }
        self.do_asks(ground);
        self.fill_standby(ground.now);
        self.keep_checkpoints(ground);
        self.elect(ground);
        self.do_asks(ground);
        self.send_known_checkpoints(ground);
        self.send_arrivals(ground);
        if self.progress_at <= ground.now {
            self.progress_at = ground.now + PROGRESS_EVERY;
            self.tell_progress(ground);
            self.own.iter_mut().filter_map(|own| own.recovery.as_mut()).for_each(Recovery::sweep);
        }
    }

    /// When the end of a turn has something to do although nothing happens.
    pub(crate) fn next_deadline(&self, partitions: &[Partition<AckToken>]) -> Nanos {
        let hosts = self.own.iter().zip(partitions);
        let hosts = hosts.map(|(own, partition)| own.host.next_deadline(partition));
        let elect = self.elect.iter().map(|elect| elect.election.next_deadline());
        let lanes = Some(self.lanes.next_tick()).filter(|_| !self.has_ended);
        let all = hosts.chain(elect).chain(lanes).chain([self.progress_at, self.checkpoints_at]);
        all.min().unwrap_or(Nanos::NEVER)
    }
}

/// What the replicas of a core have in common.
struct Common {
    election: ringlane_dataplane::replication::election::Setup,
    peers: Vec<(NodeId, std::net::SocketAddr)>,
    window_bytes: u64,
    counts_memory: bool,
}

impl Own {
    fn new(common: &Common, replica: ReplicaSetup, log: &Writer) -> Self {
        let setup = log.segments().setup();
        let (partition, tag) = (setup.partition, setup.tag);
        let host_setup = replica::Setup {
            node: common.election.node,
            partition,
            members: common.election.members.clone(),
            seed: log.segments().owner().seed(),
            record_bytes_max: setup.record_bytes_max,
            counts_memory: common.counts_memory,
            window_bytes: common.window_bytes,
        };
        let ReplicaSetup { opened, recovery, checkpoints } = replica;
        let applied = recovery.applied().unwrap_or(opened.start);
        Self {
            partition,
            host: Host::new(host_setup, opened, applied, tag),
            peers: PeerLinks::new(common.peers.iter().map(|(node, _)| *node)),
            recovery: Some(recovery),
            checkpoints: Some(checkpoints),
            revoking: None,
            asked_epoch: None,
            leads: None,
            has_lost: false,
            has_failed: false,
        }
    }

    /// Whether it can lead.
    pub(super) fn is_sound(&self) -> bool {
        let has_state = self.recovery.as_ref().is_none_or(|recovery| !recovery.has_failed());
        has_state
            && !self.host.is_replacing()
            && !self.has_lost
            && !self.has_failed
            && self.host.replica().damage().is_none()
    }
}
