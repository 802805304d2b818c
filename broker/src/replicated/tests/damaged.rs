//! A log that is damaged where its node's start does not look: whoever meets it says so, and leads no more, and what
//! others have is not skipped.

use super::Cluster;
use super::client::Client;
use super::node::{Flaw, Node, PARTITIONS, directory};
use crate::replicated::control_mail::ToCore;
use crate::replicated::mail::Standing;
use ringlane_dataplane::ids::Offset;
use ringlane_dataplane::log::reader::{ReadError, ReadFailure};
use ringlane_mqtt::QoS;
use std::time::Duration;

const DAMAGED: &[u8] = b"the one that is damaged";

fn publish(cluster: &mut Cluster, publisher: &mut Client, payload: &[u8]) {
    let id = publisher.publish(&cluster.outer, ("t", payload), QoS::AtLeastOnce, false);
    cluster.until("not acknowledged", &mut [publisher], |_, clients| {
        clients[0].acknowledged.contains(&id)
    });
}

/// Turns a bit of a message in the log of a node.
fn damage(node: &mut Node) {
    for partition in 0..PARTITIONS {
        let (files, of) = (node.files_of(partition), directory(partition));
        for path in files.paths().into_iter().filter(|path| path.starts_with(&of)) {
            let content = files.content(&path).expect("it is listed");
            let found = content.windows(DAMAGED.len()).position(|bytes| bytes == DAMAGED);
            let Some(at) = found else { continue };
            files.damage(&path, |content| content[at] ^= 1);
            node.flaw = Some(Flaw { partition, path, is_unread: true });
            return;
        }
    }
    panic!("the message is in no log");
}

/// A cluster whose leader has a damaged message that it acknowledged, and nobody has read since.
fn damaged_leader(before: impl FnOnce(&mut Cluster, usize)) -> (Cluster, usize) {
    let (mut cluster, leader) = Cluster::serving([1, 1, 1]);
    before(&mut cluster, leader);
    let mut publisher = Client::new("p");
    cluster.connect(&mut publisher, leader, 0);
    for payload in [&b"before"[..], DAMAGED, b"after"] {
        publish(&mut cluster, &mut publisher, payload);
    }
    cluster.pass(Duration::from_millis(200), &mut [&mut publisher]);
    damage(&mut cluster.nodes[leader]);
    (cluster, leader)
}

fn leads_no_more(cluster: &mut Cluster, leader: usize, clients: &mut [&mut Client]) -> usize {
    cluster.until("it says nothing", clients, |c, _| c.nodes[leader].names.is_some());
    cluster.until("it goes on", clients, |c, _| !c.nodes[leader].ends.is_empty());
    cluster.kill(leader);
    cluster.wait_for_leader()
}

#[test]
fn a_leader_that_cannot_read_what_a_follower_lacks_makes_room_for_one_that_can() {
    let mut away = 0;
    let (mut cluster, leader) = damaged_leader(|cluster, leader| {
        away = (leader + 1) % 3;
        cluster.kill(away);
    });
    cluster.start(away);
    let next = leads_no_more(&mut cluster, leader, &mut []);
    assert_ne!(next, away, "it lacked something");
    cluster.wait_for_followers();
}

#[test]
fn a_leader_that_cannot_read_what_a_session_is_owed_skips_nothing() {
    let mut absent = Client::new("absent");
    let (mut cluster, leader) = damaged_leader(|cluster, leader| {
        cluster.connect(&mut absent, leader, 0);
        absent.subscribe(&cluster.outer, "t", QoS::ExactlyOnce);
        cluster.until("no SUBACK", &mut [&mut absent], |_, clients| clients[0].subacks == 1);
        absent.hang_up(&cluster.outer);
    });
    cluster.connect(&mut absent, leader, 0);
    let next = leads_no_more(&mut cluster, leader, &mut [&mut absent]);
    cluster.connect(&mut absent, next, 0);
    assert!(absent.session_present);
    cluster.until("not delivered", &mut [&mut absent], |_, clients| {
        clients[0].received.iter().any(|payload| payload == b"after")
    });
    assert!(absent.received.iter().any(|payload| payload == DAMAGED), "it is not skipped");
}

/// A node whose core 0 finds that records of a log of its own cannot be read.
pub(super) fn lose(node: &mut Node, index: usize) {
    let replicas = node.core(0).replicas_mut().expect("it is one of a cluster");
    let (partition, _) = replicas.hosts().nth(index).expect("it has that log");
    let path = directory(partition.0);
    let lost = Offset(0)..Offset(1);
    let error =
        ReadError { path: path.clone(), position: 0, lost, failure: ReadFailure::Misplaced };
    replicas.on_lost(index, &error);
    node.flaw = Some(Flaw { partition: partition.0, path, is_unread: true });
}

fn standing(node: &mut Node) -> Standing {
    node.core(0).replicas().map_or(Standing::Follows, |replicas| replicas.standing())
}

#[test]
fn a_candidate_that_cannot_read_its_log_gives_up() {
    let (mut cluster, leader) = Cluster::serving([1, 1, 1]);
    cluster.wait_for_followers();
    cluster.kill(leader);
    let followers = [(leader + 1) % 3, (leader + 2) % 3];
    let candidate = loop {
        cluster.turn(&mut []);
        let campaigns = |node: &mut Node| matches!(standing(node), Standing::Campaigns(_));
        if let Some(at) = followers.into_iter().find(|at| campaigns(&mut cluster.nodes[*at])) {
            break at;
        }
    };
    lose(&mut cluster.nodes[candidate], 0);
    assert!(matches!(standing(&mut cluster.nodes[candidate]), Standing::GaveUp(_)));
    let next = cluster.wait_for_leader();
    assert_ne!(next, candidate);
    assert!(cluster.nodes[candidate].ends.is_empty(), "it goes on as a follower");
    cluster.wait_for_followers();
}

#[test]
fn a_follower_that_could_not_read_its_log_does_not_lead_although_it_begins_again() {
    let (mut cluster, leader) = Cluster::serving([1, 1, 1]);
    cluster.wait_for_followers();
    // Of two that could lead the first does.
    let (lost, other) = match leader {
        0 => (1, 2),
        1 => (0, 2),
        _ => (0, 1),
    };
    lose(&mut cluster.nodes[lost], 0);
    cluster.until("it says nothing", &mut [], |c, _| c.nodes[lost].names.is_some());
    let starts = cluster.nodes[lost].processes;
    cluster.nodes[lost].tell(0, ToCore::End { moved_to: None });
    cluster.until("it does not begin again", &mut [], |c, _| starts < c.nodes[lost].processes);
    cluster.wait_for_followers();
    cluster.pass(Duration::from_millis(500), &mut []);
    cluster.kill(leader);
    assert_eq!(cluster.wait_for_leader(), other);
    // Its operator has started it anew.
    cluster.kill(lost);
    cluster.start(lost);
    cluster.kill(other);
    cluster.start(leader);
    cluster.wait_for_leader();
}
