//! What the control thread of a node of a cluster knows of it, and tells: operators through the control
//! plane, clients that are passed on to the leader, and those that are sent there.

use super::keeper::Known;
use super::keys::{NodeRecord, View};
use super::proxy::{self, Proxy, ProxyLimits, ProxyTarget};
use super::status::{ClusterStatus, FollowerLag, FollowerStatus, NodeRole, PartitionStatus};
use super::streams::{StreamsDiffer, StreamsRecord};
use crate::config::{Config, Redirect};
use crate::replicated::control_mail::{Others, PartitionProgress};
use crate::replicated::setup::AcceptedClient;
use crate::service::ListenerKind;
use ringlane_dataplane::ids::NodeId;
use ringlane_dataplane::replication::quorum::majority;
use ringlane_dataplane::replication::replica::RoleKind;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;
use tracing::{info, warn};

/// A client of a follower waits so many times the silence that is borne for somebody to lead.
const WAIT_SILENCES: u32 = 10;

/// A follower that lacks more than this would keep clients waiting when it is asked to lead.
const LAG_MAX: u64 = 10_000;

/// What is told.
pub(crate) struct Reporting {
    config: Arc<Config>,
    status: watch::Sender<ClusterStatus>,
    target: watch::Sender<Option<ProxyTarget>>,
    proxy: Proxy,
    streams: StreamsRecord,
    /// What the listeners speak, by number: those for clients alone.
    listeners: Vec<ListenerKind>,
    /// What each node has said of itself last; it may have gone.
    records: BTreeMap<u16, NodeRecord>,
    /// How often in a row fewer nodes were heard than make a majority.
    without_majority: u32,
}

impl Reporting {
    /// A node that knows nothing yet.
    pub(crate) fn new(config: Arc<Config>, listeners: Vec<ListenerKind>) -> Self {
        let (target, leader) = watch::channel(None);
        let limits = ProxyLimits {
            connections_max: config.replication.proxy_connections as usize,
            wait: config.replication.suspect_after * WAIT_SILENCES,
        };
        let proxy = Proxy::new(limits, leader);
        let own = config.cluster.own();
        let status = ClusterStatus {
            node: config.cluster.node,
            name: own.map(|own| own.name.clone()).unwrap_or_default(),
            ..ClusterStatus::default()
        };
        let (status, _) = watch::channel(status);
        let streams = StreamsRecord::of(&config);
        let records = BTreeMap::new();
        let without_majority = 0;
        Self { config, status, target, proxy, streams, listeners, records, without_majority }
    }

    /// What operators see.
    pub(crate) fn status(&self) -> watch::Receiver<ClusterStatus> {
        self.status.subscribe()
    }

    /// What passes clients on.
    pub(crate) fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// The cores begin again, as followers of nobody.
    pub(crate) fn on_begin_again(&mut self) {
        self.status.send_modify(|status| {
            status.begun_again += 1;
            status.partitions.clear();
        });
    }

    /// The node cannot lead as long as it runs. Whether that is news.
    pub(crate) fn on_cannot_lead(&mut self, why: String) -> bool {
        self.status.send_if_modified(|status| {
            let is_first = status.cannot_lead.is_none();
            status.cannot_lead.get_or_insert(why);
            is_first
        })
    }

    /// Whether the node can lead.
    pub(crate) fn can_lead(&self) -> bool {
        self.status.borrow().cannot_lead.is_none()
    }

    /// Whether the node has yet to be filled from the others.
    pub(crate) fn on_learner(&mut self, is_learner: bool) {
        self.status.send_if_modified(|status| {
            core::mem::replace(&mut status.is_learner, is_learner) != is_learner
        });
    }

    /// What etcd says.
    pub(crate) fn on_known(&mut self, known: &Known) {
        for present in &known.view.nodes {
            self.records.insert(present.record.node, present.record.clone());
        }
        self.compare_streams(&known.view);
        let trouble = &known.trouble;
        self.status.send_if_modified(|status| {
            let is_new = status.etcd_trouble != *trouble;
            if is_new {
                status.etcd_trouble.clone_from(trouble);
            }
            is_new
        });
        self.aim();
    }

    /// Says which nodes that run promise something else than this one, when that is news.
    fn compare_streams(&self, view: &View) {
        let own = self.config.cluster.node;
        let others = view.nodes.iter().map(|present| &present.record).filter(|r| r.node != own);
        let differ = others.filter_map(|record| {
            let what = self.streams.differ_from(record.streams.as_ref()?)?;
            Some(StreamsDiffer { node: record.node, what })
        });
        let differ: Vec<StreamsDiffer> = differ.collect();
        self.status.send_if_modified(|status| {
            let is_new = status.streams_differ != differ;
            if is_new {
                let news = differ.iter().filter(|one| !status.streams_differ.contains(one));
                news.for_each(warn_of_streams);
                status.streams_differ = differ;
            }
            is_new
        });
    }

    /// What the election knows.
    pub(crate) fn on_leader(&mut self, epoch: u64, leader: Option<NodeId>) {
        let name = leader.and_then(|leader| self.name(leader));
        self.status.send_modify(|status| {
            status.epoch = epoch;
            status.leader = leader.map(|leader| leader.0);
            status.leader_name = name;
        });
        self.aim();
    }

    /// Clients are served here.
    pub(crate) fn on_begun(&mut self, epoch: u64, own: NodeId) {
        self.status.send_modify(|status| status.role = NodeRole::Leader);
        self.on_leader(epoch, Some(own));
    }

    /// The cores end.
    pub(crate) fn on_ending(&mut self) {
        self.status.send_modify(|status| {
            status.role = NodeRole::Follower;
            if status.leader == Some(status.node) {
                (status.leader, status.leader_name) = (None, None);
            }
        });
        self.aim();
    }

    /// How the partitions of a core are, and the other nodes if it hears of them.
    pub(crate) fn on_progress(
        &mut self,
        partitions: Vec<PartitionProgress>,
        others: Option<Others>,
    ) {
        if let Some(others) = others {
            self.on_others(others);
        }
        self.status.send_modify(|status| {
            for progress in partitions {
                let row = partition_status(progress);
                let found = status.partitions.binary_search_by_key(&row.partition, |p| p.partition);
                match found {
                    Ok(at) => status.partitions[at] = row,
                    Err(at) => status.partitions.insert(at, row),
                }
            }
        });
    }

    /// Which other nodes are heard.
    fn on_others(&mut self, Others { heard, ready }: Others) {
        let members = self.config.cluster.members.len();
        let is_majority = majority(members) <= heard.len() + 1;
        // Who has just begun hears nobody yet.
        self.without_majority = if is_majority { 0 } else { self.without_majority + 1 };
        let no_majority = (2 <= self.without_majority).then(|| {
            format!(
                "{} of the {} other nodes are heard, with this one no majority: this node acknowledges nothing that needs one",
                heard.len(),
                members - 1
            )
        });
        let numbers = |nodes: Vec<NodeId>| nodes.into_iter().map(|node| node.0).collect();
        self.status.send_modify(|status| {
            match (&status.no_majority, &no_majority) {
                (None, Some(told)) => warn!("{told}"),
                (Some(_), None) => {
                    info!(heard = heard.len(), "a majority of the nodes is heard again")
                }
                _ => {}
            }
            (status.heard, status.ready) = (numbers(heard), numbers(ready));
            status.no_majority = no_majority;
        });
    }

    /// Passes a client on to the leader. Whom another node has passed on already is closed instead:
    /// that one is wrong about who leads.
    pub(crate) fn pass_on(&self, client: AcceptedClient) {
        let AcceptedClient { socket, listener, peer, bytes } = client;
        let Some(&kind) = self.listeners.get(usize::from(listener.0)) else { return };
        let listeners = &self.config.listeners;
        let is_behind_balancer = match kind {
            ListenerKind::Tcp => listeners.tcp.proxy_protocol,
            ListenerKind::WebSocket => listeners.websocket.proxy_protocol,
        };
        self.proxy.take(proxy::AcceptedClient { socket, kind, is_behind_balancer, peer, bytes });
    }

    /// Whether a node can lead in place of this one.
    ///
    /// # Errors
    /// Why not, for people.
    pub(crate) fn may_lead(&self, node: NodeId) -> Result<(), String> {
        let status = self.status.borrow();
        if node.0 == status.node {
            return Err(format!("node {node} leads already"));
        }
        let all = status.partitions.len() as u64;
        let followers = status.followers();
        let found = followers.iter().find(|follower| follower.node == node.0);
        let FollowerLag { in_step, lag, is_ready, .. } =
            found.ok_or_else(|| format!("node {node} is not known to the leader"))?;
        if *in_step < all {
            return Err(format!(
                "node {node} is in step in {in_step} of {all} partitions and lacks {lag} records"
            ));
        }
        if *lag > LAG_MAX {
            return Err(format!(
                "node {node} lacks {lag} records still: try again once it has them"
            ));
        }
        if !is_ready {
            return Err(format!(
                "node {node} could not lead at once: it has not taken in its state yet, or a replica of it is damaged \
                 (see `ringlane cluster status`); try again in some seconds"
            ));
        }
        Ok(())
    }

    /// The follower that lacks least, of those that could lead at once.
    pub(crate) fn successor(&self) -> Option<NodeId> {
        let followers = self.status.borrow().followers();
        let able = followers.into_iter().filter(|one| self.may_lead(NodeId(one.node)).is_ok());
        able.min_by_key(|follower| follower.lag).map(|follower| NodeId(follower.node))
    }

    /// The follower whose logs lack least, of those that are in step in most of them.
    pub(crate) fn most_complete(&self) -> Option<NodeId> {
        let status = self.status.borrow();
        let followers = status.followers().into_iter().filter(|follower| 0 < follower.in_step);
        let best = followers.max_by_key(|follower| (follower.in_step, u64::MAX - follower.lag));
        best.map(|follower| NodeId(follower.node))
    }

    /// Where clients of this node should go, if another one leads that says how it is reached.
    pub(crate) fn moved_to(&self) -> Option<String> {
        let status = self.status.borrow();
        let leader = status.leader.filter(|leader| *leader != status.node)?;
        self.advertised(leader)
    }

    fn advertised(&self, node: u16) -> Option<String> {
        let member = self.config.cluster.members.iter().find(|member| member.node == node)?;
        member.advertised_address.clone()
    }

    /// What clients of MQTT 5 are told of a leader, where they are to go there themselves.
    fn reference(&self, leader: u16) -> Option<String> {
        match self.config.cluster.redirect {
            Redirect::Proxy => None,
            Redirect::ServerReference => self.advertised(leader),
        }
    }

    fn name(&self, node: NodeId) -> Option<String> {
        let members = &self.config.cluster.members;
        members.iter().find(|member| member.node == node.0).map(|member| member.name.clone())
    }

    /// Aims the proxy at who leads.
    fn aim(&mut self) {
        let target = {
            let status = self.status.borrow();
            let leads_here = status.leader == Some(status.node) && !status.is_leading();
            let leader = status.leader.filter(|_| !leads_here);
            let record = leader.and_then(|leader| self.records.get(&leader));
            record.map(|record| ProxyTarget {
                node: NodeId(record.node),
                epoch: status.epoch,
                mqtt: record.proxied.mqtt.clone(),
                websocket: record.proxied.websocket.clone(),
                reference: self.reference(record.node),
            })
        };
        self.target.send_if_modified(|known| {
            let is_new = *known != target;
            if is_new {
                *known = target;
            }
            is_new
        });
    }
}

fn warn_of_streams(differ: &StreamsDiffer) {
    let StreamsDiffer { node, what } = differ;
    warn!(
        node,
        "another node has other streams, so that what is promised changes with the leader: {what}; \
         make [[stream]] the same on all nodes"
    );
}

fn partition_status(progress: PartitionProgress) -> PartitionStatus {
    let role = match progress.role {
        RoleKind::Follower => "follower",
        RoleKind::Candidate => "candidate",
        RoleKind::Leader => "leader",
    };
    let next = progress.next.0;
    let followers = progress.followers.into_iter().map(|(node, acknowledged)| {
        let (accepted, flushed) =
            acknowledged.map(|(accepted, flushed)| (accepted.0, flushed.0)).unzip();
        let lag = next.saturating_sub(flushed.unwrap_or(0));
        FollowerStatus { node: node.0, accepted, flushed, lag }
    });
    PartitionStatus {
        partition: progress.partition.0,
        role: role.to_owned(),
        epoch: progress.epoch,
        leader: progress.leader.map(|leader| leader.0),
        start: progress.start.0,
        next,
        flushed: progress.flushed.0,
        quorum_accepted: progress.quorum_accepted.0,
        high_watermark: progress.high_watermark.0,
        // The state of a leader is the live one.
        applied: if progress.is_leading { progress.high_watermark } else { progress.applied }.0,
        followers: followers.collect(),
        is_damaged: progress.is_damaged,
        has_failed: progress.has_failed,
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::{Id16, Present, ProxiedAt};
    use super::*;
    use crate::config::{MemberConfig, StreamConfig, StreamLevel};

    fn config(level: StreamLevel) -> Config {
        let member = |node| MemberConfig { node, ..MemberConfig::default() };
        let stream = StreamConfig { name: "a".to_owned(), level, ..StreamConfig::default() };
        let mut config = Config { stream: vec![stream], ..Config::default() };
        config.cluster.node = 1;
        config.cluster.members = (1..=3).map(member).collect();
        config
    }

    fn present(node: u16, streams: Option<StreamsRecord>) -> Present {
        let record = NodeRecord {
            node,
            name: format!("n{node}"),
            instance: Id16([9; 16]),
            address: String::new(),
            advertised_address: None,
            version: "0.1.0".to_owned(),
            proxied: ProxiedAt::default(),
            control: None,
            streams,
        };
        Present { record, lease: None }
    }

    #[test]
    fn a_majority_that_is_not_heard_is_told_of_until_it_is() {
        let mut reporting = Reporting::new(Arc::new(config(StreamLevel::QuorumDisk)), Vec::new());
        let status = reporting.status();
        let hears = |reporting: &mut Reporting, nodes: &[u16]| {
            let heard = nodes.iter().copied().map(NodeId).collect();
            reporting.on_progress(Vec::new(), Some(Others { heard, ready: Vec::new() }));
        };
        hears(&mut reporting, &[]);
        assert_eq!(status.borrow().no_majority, None, "it may have just begun");
        hears(&mut reporting, &[]);
        let told = status.borrow().no_majority.clone().expect("nobody is heard");
        assert!(told.starts_with("0 of the 2 other nodes are heard"), "{told}");
        // A core that is no part of the election knows nothing of others.
        reporting.on_progress(Vec::new(), None);
        assert_eq!(status.borrow().no_majority, Some(told));
        hears(&mut reporting, &[3]);
        assert_eq!(
            (status.borrow().no_majority.clone(), &*status.borrow().heard),
            (None, &[3][..])
        );
    }

    #[test]
    fn nodes_that_run_with_other_streams_are_named() {
        let own = config(StreamLevel::QuorumDisk);
        let mut reporting = Reporting::new(Arc::new(own.clone()), Vec::new());
        let status = reporting.status();
        let of = |config: &Config| Some(StreamsRecord::of(config));
        let other = of(&config(StreamLevel::Memory));
        let nodes = vec![present(1, other.clone()), present(2, other), present(3, of(&own))];
        let mut known = Known { view: View { nodes, ..View::default() }, ..Known::default() };
        reporting.on_known(&known);
        let differ = status.borrow().streams_differ.clone();
        let [two] = &differ[..] else { panic!("the node itself and its like: {differ:?}") };
        let told = "level of stream \"a\" is \"quorum_disk\" here and \"memory\" there";
        assert_eq!((two.node, &*two.what), (2, told));
        // One that says nothing of its streams is of an earlier release.
        known.view.nodes = vec![present(2, None)];
        reporting.on_known(&known);
        assert_eq!(status.borrow().streams_differ, []);
    }
}
