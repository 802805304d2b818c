//! The control thread's half of a node of a cluster, with the test as its cores, on the metadata in
//! memory and a data directory of its own.

use super::super::keys::{ClusterIdentity, Id16, NodeRecord, ProxiedAt};
use super::super::membership::{Joined, Membership};
use super::super::memory::Memory;
use super::super::status::NodeRole;
use super::*;
use crate::config::{Config, MemberConfig};
use crate::durable::PartitionState;
use crate::replicated::control_mail::{Given, Others, PartitionProgress};
use crate::startup::logs::LogFacts;
use ringlane_dataplane::log::format::DirectoryId;
use ringlane_dataplane::replication::reign::Reign;
use ringlane_dataplane::replication::replica::RoleKind;
use ringlane_dataplane::routing::Placement;
use rustix::io::Errno;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

const PARTITIONS: u32 = 3;
const CORES: u16 = 2;

/// The longest that a test waits for a job.
const JOB_LIMIT: Duration = Duration::from_secs(20);

struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A node, and its cores.
struct Rig {
    running: Running<Memory>,
    to_control: mpsc::Sender<ToControl>,
    directory: Directory,
    store: Memory,
}

fn config() -> Config {
    let member = |node: u16| MemberConfig {
        node,
        name: format!("n{node}"),
        address: format!("127.0.0.1:{}", 7000 + node),
        advertised_address: Some(format!("n{node}.example:1883")),
    };
    let mut config = Config::default();
    config.cluster.node = 1;
    config.cluster.members = (1..=3).map(member).collect();
    config
}

fn record(node: u16) -> NodeRecord {
    NodeRecord {
        node,
        name: format!("n{node}"),
        instance: Id16([9; 16]),
        address: format!("127.0.0.1:{}", 7000 + node),
        advertised_address: None,
        version: "0.1.0".to_owned(),
        proxied: ProxiedAt::default(),
        control: None,
        streams: None,
    }
}

impl Rig {
    async fn new(is_learner: bool) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringlane-running-{}-{number}", std::process::id());
        let directory = Directory(std::env::temp_dir().join(name));
        let config = Arc::new(config());
        let identity = ClusterIdentity {
            id: Id16([1; 16]),
            hash_key: Id16([2; 16]),
            partitions: PARTITIONS,
            nodes: vec![1, 2, 3],
        };
        let mut data = DataDirectory::open_member(&directory.0, NodeId(1), PARTITIONS).unwrap();
        data.adopt(&Joined { identity, is_learner }, NodeId(1)).unwrap();
        let store = Memory::new();
        let membership = Membership::new(store.clone(), record(1));
        membership.join(&data.standing(&config)).await.expect_err("a member of nothing");
        let standing = Standing { is_member: false, is_empty: true, ..data.standing(&config) };
        membership.join(&standing).await.unwrap();
        let standing = data.standing(&config);
        let keeper = Keeper::start(membership, Duration::from_secs(3)).await.unwrap();
        let (to_control, from_cores) = mpsc::channel(64);
        let logs = LogPlaces {
            id: DirectoryId(data.manifest.id),
            facts: LogFacts::new(&config, &data).unwrap(),
            logs: (0..PARTITIONS)
                .map(|partition| super::super::files::LogPlace {
                    directory: directory.0.join(partition.to_string()),
                    tag: partition,
                })
                .collect(),
            placement: Placement::new(data.manifest.key, PARTITIONS, CORES),
            config: Arc::clone(&config),
        };
        let running = Running::new(Parts {
            cores: CORES,
            keeper: Arc::new(keeper),
            from_cores,
            data,
            logs,
            reporting: Reporting::new(Arc::clone(&config), Vec::new()),
            hand_over: Duration::from_secs(5),
            standing,
            peers: Peers::new(&config.cluster),
        });
        Self { running, to_control, directory, store }
    }

    async fn tell(&mut self, told: ToControl) {
        self.to_control.send(told).await.unwrap();
    }

    /// Goes on until it is so; the mails on the way.
    async fn until(
        &mut self,
        mut is_so: impl FnMut(&Running<Memory>, &[(CoreId, ControlMail)]) -> bool,
    ) -> Vec<(CoreId, ControlMail)> {
        let mut mails = Vec::new();
        let found = async {
            loop {
                mails.extend(self.running.take_mails());
                if is_so(&self.running, &mails) {
                    return;
                }
                let step = self.running.next().await;
                self.running.on_step(step);
            }
        };
        tokio::time::timeout(JOB_LIMIT, found).await.expect("in time");
        mails
    }

    /// Goes on until there is a mail like this; all of them.
    async fn mails(&mut self, is_like: impl Fn(&ToCore) -> bool) -> Vec<(CoreId, ControlMail)> {
        let fits = |mail: &ControlMail| cluster(mail).is_some_and(&is_like);
        self.until(|_, mails| mails.iter().any(|(_, mail)| fits(mail))).await
    }

    /// Goes on until all that the cores said was taken in.
    async fn settle(&mut self) -> Vec<(CoreId, ControlMail)> {
        let to_control = self.to_control.clone();
        self.until(|_, _| to_control.capacity() == to_control.max_capacity()).await
    }

    /// An operator wants somebody else to lead in place of the leader of `epoch`.
    async fn wish(&self, epoch: u64, to: Option<u16>) -> Id16 {
        let id = Id16([epoch as u8; 16]);
        let lease = super::super::metadata::LeaseId(77);
        self.store.grant(lease, Duration::from_secs(9)).await.unwrap();
        self.store.commit(&Transfer { id, epoch, to }.put(lease)).await.unwrap();
        id
    }

    async fn answer(&self) -> Option<super::super::orders::Transferred> {
        self.running.keeper.membership().view().await.unwrap().transferred
    }

    async fn give_states(&mut self, epoch: u64, partitions: impl IntoIterator<Item = u32>) {
        for partition in partitions {
            let state = Box::new(PartitionState::new(PARTITIONS));
            let (partition, start) = (PartitionId(partition), Offset(0));
            let given = Given { start, state, posted: None };
            self.tell(ToControl::State { partition, epoch, given }).await;
        }
    }

    /// All partitions lead in an epoch. What cores hear with it of the lease.
    async fn lead(&mut self, epoch: u64) -> Vec<(u16, Nanos)> {
        self.give_states(epoch, 0..PARTITIONS).await;
        let mails = self.until(|running, _| running.is_leading()).await;
        let begun = mails.iter().filter_map(|(core, mail)| match cluster(mail)? {
            ToCore::Begin { epoch, .. } => Some((core.0, *epoch)),
            _ => None,
        });
        assert_eq!(begun.collect::<Vec<_>>(), [(0, epoch), (1, epoch)]);
        leases(&mails)
    }

    /// A follower has so much of the log of this leader.
    async fn acknowledge(&mut self, follower: u16, flushed: Option<u64>) {
        self.progress(follower, &[(follower, flushed)]).await;
    }

    /// The same for several, all of which could lead at once.
    async fn progress(&mut self, partition: u16, followers: &[(u16, Option<u64>)]) {
        let ready: Vec<u16> = followers.iter().map(|(follower, _)| *follower).collect();
        self.progress_with(partition, followers, &ready).await;
    }

    /// The clients of all cores have left.
    async fn drained(&mut self) {
        for core in 0..CORES {
            self.tell(ToControl::Drained { core: CoreId(core) }).await;
        }
    }

    /// A node that leads in epoch 8, and followers of which these could lead at once.
    async fn leading(followers: &[(u16, Option<u64>)], ready: &[u16]) -> Self {
        let mut rig = Self::new(false).await;
        rig.lead(8).await;
        rig.progress_with(0, followers, ready).await;
        rig.settle().await;
        rig
    }

    /// A partition of this leader, as its followers have it, and who of them could lead at once.
    async fn progress_with(
        &mut self,
        partition: u16,
        followers: &[(u16, Option<u64>)],
        ready: &[u16],
    ) {
        let next = Offset(100);
        let followers = followers.iter().map(|(follower, flushed)| {
            (NodeId(*follower), flushed.map(|flushed| (next, Offset(flushed))))
        });
        let partition = PartitionProgress {
            partition: PartitionId(u32::from(partition)),
            role: RoleKind::Leader,
            is_leading: true,
            epoch: 9,
            leader: Some(NodeId(1)),
            start: Offset(0),
            next,
            flushed: next,
            quorum_accepted: next,
            high_watermark: next,
            applied: next,
            followers: followers.collect(),
            is_damaged: false,
            has_failed: false,
        };
        let ready: Vec<NodeId> = ready.iter().copied().map(NodeId).collect();
        let others = Some(Others { heard: ready.clone(), ready });
        self.tell(ToControl::Progress { partitions: vec![partition], others }).await;
    }
}

fn cluster(mail: &ControlMail) -> Option<&ToCore> {
    match mail {
        ControlMail::Cluster(mail) => Some(mail),
        ControlMail::Publish { .. } | ControlMail::Drain | ControlMail::Ask(_) => None,
    }
}

fn leases(mails: &[(CoreId, ControlMail)]) -> Vec<(u16, Nanos)> {
    let leases = mails.iter().filter_map(|(core, mail)| match cluster(mail)? {
        ToCore::Lease { until } => Some((core.0, *until)),
        _ => None,
    });
    leases.collect()
}

fn moved_to(mails: &[(CoreId, ControlMail)]) -> Vec<Option<&str>> {
    let ends = mails.iter().filter_map(|(_, mail)| match cluster(mail)? {
        ToCore::End { moved_to } => Some(moved_to.as_deref()),
        _ => None,
    });
    ends.collect()
}

fn test(run: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(run());
}

#[test]
fn an_epoch_comes_from_etcd_and_is_durable_before_it_is_answered() {
    test(async || {
        let mut rig = Rig::new(false).await;
        rig.tell(ToControl::AskForEpoch { observed: 0 }).await;
        // A second question meanwhile is answered with the first one.
        rig.tell(ToControl::AskForEpoch { observed: 0 }).await;
        let mails = rig.mails(|mail| matches!(mail, ToCore::EpochGiven { .. })).await;
        let given = mails.iter().find_map(|(core, mail)| match cluster(mail)? {
            ToCore::EpochGiven { epoch } => Some((core.0, *epoch)),
            _ => None,
        });
        let (core, epoch) = given.unwrap();
        assert_eq!(core, 0, "core 0 elects");
        for core in [1, 0] {
            let reign = Reign { epoch, leader: Some(NodeId(2)), memory_epoch: 0 };
            rig.tell(ToControl::PersistEpoch { core: CoreId(core), reign }).await;
            let mails = rig.mails(|mail| matches!(mail, ToCore::EpochDurable { .. })).await;
            let manifest = crate::startup::manifest::peek(&rig.directory.0).unwrap();
            assert_eq!((manifest.epoch, manifest.member.map(|m| m.leader)), (epoch, Some(2)));
            let (to, _) = mails.last().unwrap();
            assert_eq!(to.0, core);
        }
        // etcd says so, too, and an older one is no news.
        let reign = Reign { epoch: epoch - 1, ..Reign::default() };
        rig.tell(ToControl::PersistEpoch { core: CoreId(1), reign }).await;
        let mails = rig.settle().await;
        assert!(matches!(cluster(&mails.last().unwrap().1), Some(ToCore::EpochDurable { .. })));
    });
}

#[test]
fn cores_hear_until_when_the_lease_counts() {
    test(async || {
        let mut rig = Rig::new(false).await;
        assert!(rig.lead(1).await.is_empty(), "etcd has not given this epoch");
        let mut rig = Rig::new(false).await;
        let epoch = rig.running.keeper.acquire(0).await.unwrap();
        rig.until(|running, _| running.known.borrow().view.epoch() == epoch).await;
        let told = rig.lead(epoch).await;
        let [(0, one), (1, two)] = told[..] else { panic!("{told:?}") };
        assert!(one == two && Nanos(0) < one);
        // Another node is given an epoch: it does not count from then on.
        let memory = rig.running.keeper.membership().store().clone();
        let other = Membership::new(memory.clone(), record(2));
        let lease = super::super::metadata::LeaseId(2);
        memory.grant(lease, Duration::from_secs(3)).await.unwrap();
        other.acquire(&other.view().await.unwrap(), epoch, lease).await.unwrap();
        let ended = |(_, until): &(u16, Nanos)| *until == Nanos(0);
        let mails = rig.until(|_, mails| leases(mails).iter().filter(|it| ended(it)).count() == 2);
        assert_eq!(leases(&mails.await).last(), Some(&(1, Nanos(0))));
    });
}

#[test]
fn cores_begin_when_all_partitions_lead() {
    test(async || {
        let mut rig = Rig::new(false).await;
        let status = rig.running.reporting.status();
        // An epoch that came to nothing in one partition is forgotten with the next.
        rig.give_states(7, [0, 2]).await;
        rig.settle().await;
        assert!(!rig.running.is_leading());
        rig.lead(8).await;
        let (role, leader) = (status.borrow().role, status.borrow().leader);
        assert_eq!((role, leader), (NodeRole::Leader, Some(1)));
    });
}

#[test]
fn a_node_that_is_deposed_ends_its_cores_and_begins_again() {
    test(async || {
        let mut rig = Rig::new(false).await;
        rig.lead(8).await;
        rig.tell(ToControl::Leader { epoch: 9, leader: Some(NodeId(3)) }).await;
        let why = "another node leads".to_owned();
        rig.tell(ToControl::Ended { core: CoreId(1), epoch: 9, why }).await;
        let mails = rig.settle().await;
        assert_eq!(moved_to(&mails), [Some("n3.example:1883"); 2], "to every core");
        assert!(rig.running.is_ending());
        let why = "so does the other core".to_owned();
        rig.tell(ToControl::Ended { core: CoreId(0), epoch: 9, why }).await;
        assert!(moved_to(&rig.settle().await).is_empty(), "once");
        let ended = rig.running.end().await.unwrap();
        assert!(ended.again.unwrap().contains("core 1, epoch 9: another node leads"));
        assert_eq!(ended.data.path(), rig.directory.0.canonicalize().unwrap());
    });
}

#[test]
fn a_leader_that_is_to_stop_hands_over_to_who_has_most() {
    test(async || {
        let mut rig = Rig::new(false).await;
        rig.lead(8).await;
        rig.progress(0, &[(2, Some(90)), (3, Some(99))]).await;
        rig.settle().await;
        rig.running.begin_stop();
        let mails = rig.running.take_mails();
        assert_eq!(mails.len(), 2);
        assert!(mails.iter().all(|(_, mail)| matches!(mail, ControlMail::Drain)));
        rig.tell(ToControl::Drained { core: CoreId(0) }).await;
        assert!(rig.settle().await.is_empty(), "the other core has clients");
        rig.tell(ToControl::Drained { core: CoreId(1) }).await;
        let mails = rig.settle().await;
        let [(core, mail)] = &mails[..] else { panic!("{mails:?}") };
        assert_eq!(core.0, 0);
        assert!(matches!(cluster(mail), Some(ToCore::TransferTo(NodeId(3)))), "{mail:?}");
        rig.tell(ToControl::Leader { epoch: 9, leader: Some(NodeId(3)) }).await;
        assert_eq!(moved_to(&rig.settle().await).len(), 2);
        assert_eq!(rig.running.end().await.unwrap().again, None);
    });
}

/// Who drains no clients serves them.
fn drains(mails: &[(CoreId, ControlMail)]) -> usize {
    mails.iter().filter(|(_, mail)| matches!(mail, ControlMail::Drain)).count()
}

/// Whom cores were told to hand over to.
fn targets(mails: &[(CoreId, ControlMail)]) -> Vec<u16> {
    let targets = mails.iter().filter_map(|(_, mail)| match cluster(mail)? {
        ToCore::TransferTo(node) => Some(node.0),
        _ => None,
    });
    targets.collect()
}

#[test]
fn a_leader_that_is_to_stop_serves_until_a_follower_could_lead_at_once() {
    test(async || {
        // Node 3 has more, and was started a moment ago.
        let followers = [(2, Some(90)), (3, Some(99))];
        let mut rig = Rig::leading(&followers, &[]).await;
        rig.running.begin_stop();
        assert_eq!(drains(&rig.settle().await), 0);
        assert!(rig.running.is_leading());
        rig.progress_with(0, &followers, &[2]).await;
        assert_eq!(drains(&rig.settle().await), usize::from(CORES));
        rig.drained().await;
        assert_eq!(targets(&rig.settle().await), [2]);
    });
}

#[test]
fn a_leader_that_is_to_stop_waits_for_a_successor_no_longer_than_it_may() {
    test(async || {
        let mut rig = Rig::leading(&[(2, Some(90))], &[]).await;
        rig.running.hand_over = Duration::from_millis(1);
        rig.running.begin_stop();
        rig.until(|running, _| !running.is_leading()).await;
        rig.drained().await;
        let mails = rig.until(|running, _| running.is_ending()).await;
        assert_eq!(targets(&mails), [2], "better than nobody");
    });
}

#[test]
fn a_leader_that_waits_to_stop_and_is_deposed_does_not_begin_again() {
    test(async || {
        let mut rig = Rig::leading(&[(2, Some(90))], &[]).await;
        rig.running.begin_stop();
        let why = "another node leads".to_owned();
        rig.tell(ToControl::Ended { core: CoreId(0), epoch: 9, why }).await;
        rig.settle().await;
        assert!(rig.running.is_ending());
        assert_eq!(rig.running.end().await.unwrap().again, None);
    });
}

#[test]
fn a_leader_that_waits_to_stop_stops_whatever_an_operator_wants() {
    test(async || {
        for to in [None, Some(2)] {
            let followers = [(2, Some(90)), (3, Some(99))];
            let mut rig = Rig::leading(&followers, &[]).await;
            rig.running.begin_stop();
            rig.wish(8, to).await;
            rig.until(|running, _| running.known.borrow().view.transferred.is_some()).await;
            let refused = rig.answer().await.unwrap().refused.unwrap();
            assert!(refused.contains("about to stop"), "{refused}");
            rig.progress_with(0, &followers, &[2]).await;
            assert_eq!(drains(&rig.settle().await), usize::from(CORES));
            rig.drained().await;
            assert_eq!(targets(&rig.settle().await), [2]);
            assert_eq!(rig.running.again, None, "it does not begin again");
        }
    });
}

#[test]
fn an_operator_who_names_nobody_waits_for_who_could_lead_at_once() {
    test(async || {
        let mut rig = Rig::leading(&[(2, Some(90)), (3, Some(99))], &[]).await;
        rig.wish(8, None).await;
        rig.until(|running, _| running.leaving.is_some()).await;
        assert!(rig.running.is_leading());
        rig.progress_with(0, &[(2, Some(90)), (3, Some(99))], &[2]).await;
        let mails = rig.until(|running, _| !running.is_leading()).await;
        assert_eq!(drains(&mails), usize::from(CORES));
    });
}

#[test]
fn an_operator_who_waits_in_vain_is_told_so() {
    test(async || {
        let mut rig = Rig::leading(&[(2, Some(90)), (3, Some(99))], &[]).await;
        rig.running.hand_over = Duration::from_millis(1);
        rig.wish(8, None).await;
        rig.until(|running, _| running.known.borrow().view.transferred.is_some()).await;
        let refused = rig.answer().await.unwrap().refused.unwrap();
        assert!(refused.contains("no follower could lead at once"), "{refused}");
        assert!(rig.running.is_leading(), "it serves on");
    });
}

#[test]
fn a_node_that_could_not_lead_at_once_is_refused_by_name() {
    test(async || {
        let mut rig = Rig::leading(&[(2, Some(90)), (3, Some(99))], &[2]).await;
        rig.wish(8, Some(3)).await;
        rig.until(|running, _| running.known.borrow().view.transferred.is_some()).await;
        let refused = rig.answer().await.unwrap().refused.unwrap();
        assert!(refused.contains("node 3 could not lead at once"), "{refused}");
        assert!(rig.running.is_leading());
    });
}

#[test]
fn a_hand_over_that_takes_too_long_is_left() {
    test(async || {
        let mut rig = Rig::new(false).await;
        rig.running.hand_over = Duration::from_millis(1);
        rig.lead(8).await;
        rig.progress(0, &[(2, Some(90))]).await;
        rig.settle().await;
        rig.running.begin_stop();
        rig.drained().await;
        let mails = rig.until(|running, _| running.is_ending()).await;
        assert_eq!(moved_to(&mails), [None, None], "nobody else is known to lead");
    });
}

#[test]
fn a_leader_without_followers_and_a_follower_just_end() {
    test(async || {
        let mut rig = Rig::new(false).await;
        rig.lead(8).await;
        rig.acknowledge(2, None).await;
        rig.settle().await;
        rig.running.begin_stop();
        rig.drained().await;
        assert_eq!(moved_to(&rig.settle().await).len(), 2);
        let mut rig = Rig::new(false).await;
        rig.running.begin_stop();
        assert_eq!(moved_to(&rig.running.take_mails()).len(), 2);
        assert!(rig.running.is_ending());
    });
}

#[test]
fn the_note_that_a_node_has_to_be_filled_goes_with_its_last_partition() {
    test(async || {
        let mut rig = Rig::new(true).await;
        let status = rig.running.reporting.status();
        assert!(status.borrow().is_learner);
        for partition in [2, 0] {
            let (core, partition) = (CoreId(0), PartitionId(partition));
            rig.tell(ToControl::ClearDamage { core, partition }).await;
        }
        assert!(rig.settle().await.is_empty(), "one is still to be filled");
        let (core, partition) = (CoreId(1), PartitionId(1));
        rig.tell(ToControl::ClearDamage { core, partition }).await;
        let mails = rig.mails(|mail| matches!(mail, ToCore::DamageCleared { .. })).await;
        let cleared = mails.iter().filter_map(|(core, mail)| match cluster(mail)? {
            ToCore::DamageCleared { partition } => Some((core.0, partition.0)),
            _ => None,
        });
        assert_eq!(cleared.collect::<Vec<_>>(), [(0, 0), (1, 1), (0, 2)]);
        let manifest = crate::startup::manifest::peek(&rig.directory.0).unwrap();
        assert!(!manifest.member.unwrap().is_learner && !status.borrow().is_learner);
    });
}

#[test]
fn a_log_that_cannot_be_truncated_has_the_node_begin_again() {
    test(async || {
        let mut rig = Rig::new(false).await;
        let (core, partition, to) = (CoreId(0), PartitionId(0), Offset(3));
        rig.tell(ToControl::Truncate { core, partition, to, from: None }).await;
        let mails = rig.until(|running, _| running.is_ending()).await;
        assert_eq!(moved_to(&mails).len(), 2);
        let again = rig.running.end().await.unwrap().again.unwrap();
        assert!(again.contains("partition 0"), "{again}");
    });
}

#[test]
fn an_operator_names_the_next_leader_and_this_one_goes_on_as_a_follower() {
    test(async || {
        let mut rig = Rig::new(false).await;
        rig.lead(8).await;
        rig.progress(0, &[(2, Some(90)), (3, Some(99))]).await;
        rig.settle().await;
        rig.wish(7, Some(2)).await;
        rig.until(|running, _| running.known.borrow().view.transfer.is_some()).await;
        assert!(rig.running.is_leading(), "another leader was meant");
        rig.wish(8, Some(2)).await;
        let mails = rig.until(|running, _| !running.is_leading()).await;
        assert_eq!(drains(&mails), usize::from(CORES));
        rig.drained().await;
        assert_eq!(targets(&rig.settle().await), [2], "not who has most");
        rig.tell(ToControl::Leader { epoch: 9, leader: Some(NodeId(2)) }).await;
        rig.settle().await;
        assert!(rig.running.is_ending());
        assert_eq!(rig.answer().await, None, "the next leader answers");
        let again = rig.running.end().await.unwrap().again.unwrap();
        assert!(again.contains("hand over to node 2"), "{again}");
    });
}

#[test]
fn a_leader_says_why_it_does_not_hand_over() {
    test(async || {
        let mut rig = Rig::new(false).await;
        rig.lead(8).await;
        rig.acknowledge(2, None).await;
        rig.settle().await;
        let id = rig.wish(8, Some(2)).await;
        rig.until(|running, _| running.known.borrow().view.transferred.is_some()).await;
        let answer = rig.answer().await.unwrap();
        assert_eq!((answer.id, answer.leader, answer.epoch), (id, 1, 8));
        assert!(answer.refused.unwrap().contains("node 2 is in step in 0 of"));
        assert!(rig.running.is_leading());
    });
}

#[test]
fn the_next_leader_answers_what_the_last_one_was_asked() {
    test(async || {
        let mut rig = Rig::new(false).await;
        let id = rig.wish(7, None).await;
        rig.until(|running, _| running.known.borrow().view.transfer.is_some()).await;
        rig.lead(8).await;
        rig.until(|running, _| running.known.borrow().view.transferred.is_some()).await;
        let answer = rig.answer().await.unwrap();
        assert_eq!((answer.id, answer.leader, answer.epoch, answer.refused), (id, 1, 8, None));
    });
}

#[test]
fn a_node_whose_directory_was_replaced_ends_for_good() {
    test(async || {
        let mut rig = Rig::new(false).await;
        rig.lead(8).await;
        let put = super::super::metadata::Put {
            key: super::super::keys::directory_key(NodeId(1)),
            value: super::super::keys::directory_value(None),
            lease: None,
        };
        let transaction =
            super::super::metadata::Transaction { puts: vec![put], ..Default::default() };
        rig.store.commit(&transaction).await.unwrap();
        rig.until(|running, _| running.is_ending()).await;
        let ended = rig.running.end().await.unwrap();
        assert_eq!(ended.failed, Some(ClusterError::Replaced { node: 1 }));
        assert_eq!(ended.again, None);
    });
}

#[test]
fn a_record_that_cannot_be_read_is_said_once_and_the_node_only_follows() {
    test(async || {
        let mut rig = Rig::new(false).await;
        let status = rig.running.reporting.status();
        for _ in 0..2 {
            let why = "partition 0: offset 9: kind 77".to_owned();
            rig.tell(ToControl::CannotLead { why }).await;
            rig.settle().await;
        }
        assert!(status.borrow().cannot_lead.as_ref().is_some_and(|why| why.contains("offset 9")));
        assert!(!rig.running.reporting.can_lead());
    });
}

#[test]
fn a_leader_that_cannot_read_what_it_is_to_lead_with_begins_again_and_only_follows() {
    test(async || {
        let mut rig = Rig::new(false).await;
        let path = rig.directory.0.join("0");
        let message = "offset 9 is damaged".to_owned();
        let error = StartError::Reread { partition: 0, path, message, errno: None };
        rig.running.on_step(Step::Done(Ok(Done::TookOver(8, Err(error)))));
        assert!(rig.running.is_ending() && !rig.running.reporting.can_lead());
        let ended = rig.running.end().await.unwrap();
        assert!(ended.again.is_some_and(|why| why.contains("offset 9")));
    });
}

#[test]
fn a_leader_whose_host_was_short_of_something_begins_again_and_may_lead() {
    test(async || {
        let mut rig = Rig::new(false).await;
        let (path, message) = (rig.directory.0.join("0"), "too many open files".to_owned());
        let errno = Some(Errno::MFILE.raw_os_error());
        let error = StartError::Reread { partition: 0, path, message, errno };
        rig.running.on_step(Step::Done(Ok(Done::TookOver(8, Err(error)))));
        assert!(rig.running.is_ending() && rig.running.reporting.can_lead());
    });
}

#[test]
fn a_deposed_leader_begins_again_with_the_promise_that_deposed_it() {
    test(async || {
        let mut rig = Rig::new(false).await;
        rig.lead(8).await;
        let promises =
            [9, 12].map(|epoch| Reign { epoch, leader: Some(NodeId(3)), memory_epoch: 0 });
        let why = "node 3 leads".to_owned();
        rig.tell(ToControl::Ended { core: CoreId(0), epoch: 12, why }).await;
        for reign in promises {
            rig.tell(ToControl::PersistEpoch { core: CoreId(0), reign }).await;
        }
        // All that the cores say before they end is taken in, and what it leads to is waited for.
        rig.settle().await;
        let ended = rig.running.end().await.unwrap();
        assert!(ended.again.is_some());
        assert_eq!(ended.data.reign(), promises[1]);
    });
}
