//! A log that is damaged where its node's start does not look: whoever meets it says so, and leads no more, and what
//! others have is not skipped.

use super::Cluster;
use super::client::Client;
use super::node::{Flaw, Node, PARTITIONS, directory};
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
