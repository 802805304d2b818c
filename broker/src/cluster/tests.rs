//! What nodes do with the metadata, on the store in memory; `broker/tests/etcd.rs` does the same on a
//! real etcd.

use super::keeper::{Keeper, Known};
use super::keys::{ClusterIdentity, Id16, NodeRecord, ProxiedAt, View};
use super::membership::{ClusterError, Membership, Standing};
use super::memory::Memory;
use super::metadata::{Changes, LeaseId, Metadata, MetadataError};
use ringlane_dataplane::ids::NodeId;
use std::time::Duration;
use tokio::sync::watch;

const TTL: Duration = Duration::from_secs(3);

/// The longest that a test waits for an event.
const EVENT_LIMIT: Duration = Duration::from_secs(20);

fn record(node: u16) -> NodeRecord {
    NodeRecord {
        node,
        name: format!("n{node}"),
        instance: Id16([node as u8; 16]),
        address: format!("127.0.0.1:{}", 7000 + node),
        advertised_address: None,
        version: "0.1.0".to_owned(),
        proxied: ProxiedAt::default(),
        control: None,
        streams: None,
    }
}

fn standing(seed: u8) -> Standing {
    Standing {
        identity: ClusterIdentity {
            id: Id16([seed; 16]),
            hash_key: Id16([seed + 100; 16]),
            partitions: 8,
            nodes: vec![1, 2, 3],
        },
        partitions_wanted: 0,
        is_member: false,
        is_empty: true,
    }
}

fn member(memory: &Memory, node: u16) -> Membership<Memory> {
    Membership::new(memory.clone(), record(node))
}

async fn with_lease(memory: &Memory, node: u16) -> (Membership<Memory>, LeaseId) {
    let member = member(memory, node);
    let lease = LeaseId(u64::from(node));
    memory.grant(lease, TTL).await.unwrap();
    member.register(lease).await.unwrap();
    (member, lease)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(future)
}

async fn until(known: &mut watch::Receiver<Known>, what: impl FnMut(&Known) -> bool) -> Known {
    let found = tokio::time::timeout(EVENT_LIMIT, known.wait_for(what)).await;
    found.expect("in time").expect("a keeper").clone()
}

#[test]
fn the_first_node_makes_the_cluster_and_the_others_find_it() {
    block_on(async {
        let memory = Memory::new();
        let first = member(&memory, 1).join(&standing(1)).await.unwrap();
        assert_eq!((first.identity.id, first.is_learner), (Id16([1; 16]), false));
        let second = member(&memory, 2).join(&standing(2)).await.unwrap();
        assert_eq!(second, first, "no leader yet: nothing was acknowledged that it might lack");
        let again = Standing { identity: first.identity.clone(), is_member: true, ..standing(1) };
        assert_eq!(member(&memory, 1).join(&again).await.unwrap(), first);
    });
}

#[test]
fn a_node_that_comes_empty_to_a_cluster_that_was_led_is_a_learner() {
    block_on(async {
        let memory = Memory::new();
        let (one, lease) = with_lease(&memory, 1).await;
        let identity = one.join(&standing(1)).await.unwrap().identity;
        let epoch = one.acquire(&one.view().await.unwrap(), 0, lease).await.unwrap();
        let wiped = member(&memory, 2).join(&standing(2)).await.unwrap();
        assert!(wiped.is_learner);
        let kept = Standing { identity, is_member: true, is_empty: false, ..standing(2) };
        assert!(!member(&memory, 2).join(&kept).await.unwrap().is_learner);
        assert!(0 < epoch);
    });
}

#[test]
fn what_does_not_go_together_is_refused_with_its_remedy() {
    block_on(async {
        let memory = Memory::new();
        let wiped = Standing { is_member: true, is_empty: false, ..standing(1) };
        let error = member(&memory, 1).join(&wiped).await.unwrap_err();
        assert!(matches!(error, ClusterError::Wiped { .. }), "{error}");
        assert!(memory.read().await.unwrap().entries.is_empty(), "it made a cluster");
        member(&memory, 1).join(&standing(1)).await.unwrap();
        let with = |change: fn(&mut Standing)| {
            let mut own = standing(1);
            change(&mut own);
            own
        };
        let cases = [
            (with(|own| own.is_empty = false), "a node that was alone"),
            (with(|own| own.identity.nodes = vec![1, 2]), "make cluster.members the same"),
            (with(|own| own.partitions_wanted = 4), "set runtime.partitions = 8"),
            (
                with(|own| {
                    own.is_member = true;
                    own.identity.id = Id16([9; 16]);
                }),
                "start this node with an empty data_dir",
            ),
            (
                with(|own| {
                    own.is_member = true;
                    own.identity.partitions = 4;
                }),
                "partitions = 8, this node 4",
            ),
            (
                with(|own| {
                    own.is_member = true;
                    own.identity.hash_key = Id16([9; 16]);
                }),
                "hash_key",
            ),
        ];
        for (own, expected) in cases {
            let message = member(&memory, 2).join(&own).await.unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    });
}

#[test]
fn a_number_is_one_node_s_until_its_lease_ends() {
    block_on(async {
        let memory = Memory::new();
        let (one, lease) = with_lease(&memory, 1).await;
        let other = NodeRecord { instance: Id16([77; 16]), ..record(1) };
        let other = Membership::new(memory.clone(), other).with_new_directory();
        memory.grant(LeaseId(50), TTL).await.unwrap();
        let error = other.register(LeaseId(50)).await.unwrap_err();
        assert!(error.to_string().contains("node 1 runs already"), "{error}");
        one.register(lease).await.unwrap();
        // The same data directory, started again before its old lease ends.
        memory.grant(LeaseId(51), TTL).await.unwrap();
        one.register(LeaseId(51)).await.unwrap();
        assert_eq!(one.view().await.unwrap().node(NodeId(1)).unwrap().lease, Some(LeaseId(51)));
        memory.advance(TTL);
        memory.grant(LeaseId(52), TTL).await.unwrap();
        other.register(LeaseId(52)).await.unwrap();
    });
}

#[test]
fn a_directory_that_was_replaced_is_refused_for_good() {
    block_on(async {
        let memory = Memory::new();
        let (old, lease) = with_lease(&memory, 1).await;
        old.join(&standing(1)).await.unwrap();
        let seen = old.view().await.unwrap();
        memory.advance(TTL);
        let newer = NodeRecord { instance: Id16([77; 16]), ..record(1) };
        let newer = Membership::new(memory.clone(), newer);
        let empty = standing(9);
        assert!(
            newer.join(&empty).await.unwrap().is_learner,
            "the old one may still run somewhere"
        );
        memory.grant(LeaseId(60), TTL).await.unwrap();
        let error = newer.register(LeaseId(60)).await.unwrap_err();
        assert_eq!(error, ClusterError::Replaced { node: 1 }, "it was that of a node before");
        let newer = newer.with_new_directory();
        newer.register(LeaseId(60)).await.unwrap();
        let counts = newer.view().await.unwrap().directory(NodeId(1)).unwrap().instance;
        assert_eq!(counts, Some(Id16([77; 16])));
        // The old one comes back, first at once, then after the other one has gone.
        memory.grant(lease, TTL).await.unwrap();
        let error = old.register(lease).await.unwrap_err();
        assert!(matches!(error, ClusterError::InUse { .. }), "{error}");
        assert!(old.acquire(&seen, 0, lease).await.is_err(), "it knew another directory");
        let seen = old.view().await.unwrap();
        let error = old.acquire(&seen, 0, lease).await.unwrap_err();
        assert_eq!(error, ClusterError::Replaced { node: 1 });
        newer.store().revoke(LeaseId(60)).await.unwrap();
        let error = old.register(lease).await.unwrap_err();
        assert_eq!(error, ClusterError::Replaced { node: 1 });
        // Once it was the node's, it is no new one any more.
        memory.grant(LeaseId(61), TTL).await.unwrap();
        newer.register(LeaseId(61)).await.unwrap();
    });
}

#[test]
fn who_leads_knows_which_directories_count() {
    block_on(async {
        let memory = Memory::new();
        let (one, lease) = with_lease(&memory, 1).await;
        one.join(&standing(1)).await.unwrap();
        let seen = one.view().await.unwrap();
        with_lease(&memory, 3).await;
        let error = one.acquire(&seen, 0, lease).await.unwrap_err();
        let ClusterError::Superseded { view } = error else { panic!("{error}") };
        assert!(view.directory(NodeId(3)).is_some());
        one.acquire(&view, 0, lease).await.unwrap();
    });
}

#[test]
fn a_node_begins_without_the_store_and_is_there_once_it_answers() {
    block_on(async {
        let memory = Memory::new();
        let first = member(&memory, 1);
        first.join(&standing(1)).await.unwrap();
        memory.set_down(true);
        let ttl = Duration::from_millis(300);
        let keeper = Keeper::start_alone(first, ttl, "no answer".to_owned());
        let mut known = keeper.known();
        let early = known.borrow().clone();
        assert!(early.lease.is_none() && early.view.identity.is_none());
        assert!(keeper.acquire(0).await.is_err(), "it cannot lead");
        memory.set_down(false);
        let told =
            until(&mut known, |known| known.lease.is_some() && known.trouble.is_none()).await;
        assert!(told.view.node(NodeId(1)).is_some() && told.view.identity.is_some());
    });
}

#[test]
fn of_two_candidates_one_wins_and_epochs_grow() {
    block_on(async {
        let memory = Memory::new();
        let (one, lease_one) = with_lease(&memory, 1).await;
        let (two, lease_two) = with_lease(&memory, 2).await;
        one.join(&standing(1)).await.unwrap();
        let mut newest = 0;
        for _ in 0..5 {
            let seen = one.view().await.unwrap();
            let won = one.acquire(&seen, newest, lease_one).await.unwrap();
            assert!(newest < won);
            let error = two.acquire(&seen, newest, lease_two).await.unwrap_err();
            let ClusterError::Superseded { view } = error else { panic!("{error}") };
            assert_eq!((view.epoch(), view.leader.unwrap().node), (won, NodeId(1)));
            let taken = two.acquire(&view, won, lease_two).await.unwrap();
            assert!(won < taken, "it waits for nobody's lease");
            newest = taken;
        }
    });
}

#[test]
fn a_leadership_whose_answer_was_lost_is_found_again() {
    block_on(async {
        let memory = Memory::new();
        let (one, lease) = with_lease(&memory, 1).await;
        one.join(&standing(1)).await.unwrap();
        memory.lose_answers(1);
        let epoch = one.acquire(&one.view().await.unwrap(), 0, lease).await.unwrap();
        assert_eq!(one.view().await.unwrap().epoch(), epoch);
    });
}

#[test]
fn who_has_no_lease_does_not_lead() {
    block_on(async {
        let memory = Memory::new();
        let (one, lease) = with_lease(&memory, 1).await;
        one.join(&standing(1)).await.unwrap();
        memory.advance(TTL);
        let error = one.acquire(&one.view().await.unwrap(), 0, lease).await.unwrap_err();
        assert_eq!(error, MetadataError::LeaseLost { lease }.into());
        assert_eq!(one.view().await.unwrap().leader, None);
    });
}

#[test]
fn an_epoch_that_a_log_has_already_is_refused() {
    block_on(async {
        let memory = Memory::new();
        let (one, lease) = with_lease(&memory, 1).await;
        one.join(&standing(1)).await.unwrap();
        let backup = memory.backup();
        let mut newest = 0;
        for _ in 0..3 {
            newest = one.acquire(&one.view().await.unwrap(), newest, lease).await.unwrap();
        }
        memory.restore(backup);
        let seen = one.view().await.unwrap();
        let error = one.acquire(&seen, newest, lease).await.unwrap_err();
        assert!(matches!(error, ClusterError::Restored { .. }), "{error}");
        assert!(error.to_string().contains("raise its revision above"), "{error}");
        assert_eq!(one.view().await.unwrap(), seen, "nothing was written");
        // The remedy.
        while memory.read().await.unwrap().revision < newest {
            one.store().grant(LeaseId(99), TTL).await.unwrap();
            one.register(LeaseId(99)).await.unwrap();
            one.register(lease).await.unwrap();
        }
        let epoch = one.acquire(&one.view().await.unwrap(), newest, lease).await.unwrap();
        assert!(newest < epoch);
    });
}

#[test]
fn a_view_of_another_cluster_is_no_reason_to_lead() {
    block_on(async {
        let memory = Memory::new();
        let empty = memory.backup();
        let (one, lease) = with_lease(&memory, 1).await;
        one.join(&standing(1)).await.unwrap();
        let seen = one.view().await.unwrap();
        memory.restore(empty);
        memory.grant(LeaseId(8), TTL).await.unwrap();
        let (two, _) = with_lease(&memory, 2).await;
        two.join(&standing(2)).await.unwrap();
        let error = one.acquire(&seen, 0, lease).await.unwrap_err();
        assert!(matches!(error, ClusterError::Superseded { .. }), "{error}");
    });
}

#[test]
fn a_watch_tells_each_change_until_it_was_compacted() {
    block_on(async {
        let memory = Memory::new();
        let (one, _) = with_lease(&memory, 1).await;
        let from = memory.read().await.unwrap().revision + 1;
        let mut changes = memory.watch(from).await.unwrap();
        one.join(&standing(1)).await.unwrap();
        assert_eq!(changes.next().await.unwrap(), from);
        memory.advance(TTL);
        assert_eq!(changes.next().await.unwrap(), from + 1);
        let mut late = memory.watch(from).await.unwrap();
        memory.compact();
        let error = late.next().await.unwrap_err();
        assert!(matches!(error, MetadataError::Compacted { .. }), "{error}");
    });
}

#[test]
fn a_keeper_hears_of_leaders_and_knows_until_when_it_leads() {
    block_on(async {
        let memory = Memory::new();
        let keeper = Keeper::start(member(&memory, 1), TTL).await.unwrap();
        keeper.membership().join(&standing(1)).await.unwrap();
        let mut known = keeper.known();
        until(&mut known, |known| known.view.identity.is_some()).await;
        let epoch = keeper.acquire(0).await.unwrap();
        let told = until(&mut known, |known| known.view.epoch() == epoch).await;
        assert_eq!(told.leads_until(NodeId(1), epoch), Some(memory.now() + TTL));
        assert_eq!(told.leads_until(NodeId(1), epoch - 1), None, "that was another leadership");
        assert_eq!(told.leads_until(NodeId(2), epoch), None);
        let (two, lease) = with_lease(&memory, 2).await;
        let newer = two.acquire(&two.view().await.unwrap(), epoch, lease).await.unwrap();
        let told = until(&mut known, |known| known.view.epoch() == newer).await;
        assert_eq!(told.leads_until(NodeId(1), epoch), None);
    });
}

#[test]
fn a_keeper_takes_a_new_lease_when_its_own_has_ended() {
    block_on(async {
        let memory = Memory::new();
        let ttl = Duration::from_millis(300);
        let keeper = Keeper::start(member(&memory, 1), ttl).await.unwrap();
        let mut known = keeper.known();
        let first = known.borrow().lease.unwrap().id;
        memory.set_down(true);
        let ill = until(&mut known, |known| known.trouble.is_some()).await;
        assert!(ill.trouble.unwrap().contains("etcd does not answer"));
        memory.advance(ttl);
        memory.set_down(false);
        let well = until(&mut known, |known| {
            known.lease.is_some_and(|lease| lease.id != first) && known.trouble.is_none()
        })
        .await;
        assert_eq!(well.view.node(NodeId(1)).unwrap().lease, well.lease.map(|lease| lease.id));
    });
}

#[test]
fn a_keeper_follows_a_store_that_has_gone_back() {
    block_on(async {
        let memory = Memory::new();
        let ttl = Duration::from_millis(300);
        let keeper = Keeper::start(member(&memory, 1), ttl).await.unwrap();
        let backup = memory.backup();
        keeper.membership().join(&standing(1)).await.unwrap();
        let mut known = keeper.known();
        until(&mut known, |known| known.view.identity.is_some()).await;
        let epoch = keeper.acquire(0).await.unwrap();
        until(&mut known, |known| known.view.epoch() == epoch).await;
        memory.restore(backup);
        let told = until(&mut known, |known| known.view.leader.is_none()).await;
        assert_eq!(told.leads_until(NodeId(1), epoch), None);
        let error = keeper.acquire(epoch).await.unwrap_err();
        assert!(matches!(error, ClusterError::Restored { .. }), "{error}");
    });
}

#[test]
fn who_leaves_is_gone_at_once() {
    block_on(async {
        let memory = Memory::new();
        let keeper = Keeper::start(member(&memory, 1), TTL).await.unwrap();
        assert!(view_of(&memory).await.node(NodeId(1)).is_some());
        keeper.leave().await.unwrap();
        assert!(view_of(&memory).await.node(NodeId(1)).is_none());
    });
}

async fn view_of(memory: &Memory) -> View {
    super::membership::view(memory).await.unwrap()
}
