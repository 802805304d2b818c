//! Who may lead and who counts as lost, by what etcd and the nodes say.

use super::super::keys::{ClusterIdentity, Leader, NodeRecord, Present, ProxiedAt};
use super::super::metadata::LeaseId;
use super::super::status::tests::leader_of_two_partitions;
use super::super::status::{ClusterStatus, FollowerStatus, NodeRole};
use super::*;

fn running(nodes: &[u16]) -> View {
    let present = |&node: &u16| Present {
        record: NodeRecord {
            node,
            name: format!("n{node}"),
            instance: Id16([node as u8; 16]),
            address: String::new(),
            advertised_address: None,
            version: String::new(),
            proxied: ProxiedAt::default(),
            control: None,
            streams: None,
        },
        lease: Some(LeaseId(u64::from(node))),
    };
    let identity = ClusterIdentity {
        id: Id16([5; 16]),
        hash_key: Id16([6; 16]),
        partitions: 2,
        nodes: vec![1, 2, 3],
    };
    View {
        identity: Some(identity),
        leader: Some(Leader { node: NodeId(1), epoch: 7, claim: Id16([0; 16]) }),
        nodes: nodes.iter().map(present).collect(),
        ..View::default()
    }
}

fn follower(node: u16) -> ClusterStatus {
    ClusterStatus { node, role: NodeRole::Follower, ..leader_of_two_partitions() }
}

#[test]
fn who_cannot_lead_is_refused_by_name() {
    let (all, leader) = (running(&[1, 2, 3]), NodeId(1));
    let refused = |view: &View, to, answer: Answer| {
        may_take_over(view, leader, to, &[(to, answer)]).unwrap_err()
    };
    assert!(refused(&all, 4, Ok(follower(4))).contains("no node 4"));
    assert!(refused(&all, 1, Ok(follower(1))).contains("leads already"));
    assert!(refused(&running(&[1, 2]), 3, Ok(follower(3))).contains("does not run"));
    let learner = ClusterStatus { is_learner: true, ..follower(2) };
    assert!(refused(&all, 2, Ok(learner)).contains("being filled"));
    let unfit = ClusterStatus { cannot_lead: Some("a record".to_owned()), ..follower(2) };
    assert!(refused(&all, 2, Ok(unfit)).contains("cannot lead: a record"));
    let mut damaged = follower(2);
    damaged.partitions[1].is_damaged = true;
    assert!(refused(&all, 2, Ok(damaged)).contains("damaged in 1"));
    let mut failed = follower(2);
    failed.partitions[0].has_failed = true;
    assert!(refused(&all, 2, Ok(failed)).contains("has failed in 1"));
    assert_eq!(may_take_over(&all, leader, 2, &[(2, Ok(follower(2)))]), Ok(()));
    let unreached = Err("asleep".to_owned());
    assert_eq!(may_take_over(&all, leader, 2, &[(2, unreached)]), Ok(()), "the leader looks");
}

#[test]
fn a_node_that_lives_or_is_needed_is_not_lost() {
    let unreached = || Err("asleep".to_owned());
    let leading = |in_step: bool| {
        let mut status = leader_of_two_partitions();
        for partition in &mut status.partitions {
            let flushed = in_step.then_some(100);
            partition.followers =
                vec![FollowerStatus { node: 3, accepted: flushed, flushed, lag: 0 }];
        }
        Ok(status)
    };
    let all = running(&[1, 2, 3]);
    let refused =
        |view: &View, node, answers: &[(u16, Answer)]| is_lost(view, node, answers).unwrap_err();
    assert!(refused(&all, 9, &[]).contains("no node 9"));
    assert!(refused(&all, 3, &[(3, Ok(follower(3)))]).contains("it answers"));
    assert!(refused(&all, 3, &[(1, leading(true)), (3, unreached())]).contains("hears of it"));
    assert!(refused(&all, 3, &[(1, unreached()), (3, unreached())]).contains("may run"));
    assert!(refused(&running(&[1]), 3, &[(1, leading(false))]).contains("only 1 other"));
    assert_eq!(is_lost(&all, 3, &[(1, leading(false)), (3, unreached())]), Ok(()));
    assert_eq!(is_lost(&running(&[1, 2]), 3, &[]), Ok(()), "its lease has ended");
}
