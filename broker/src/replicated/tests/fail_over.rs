//! What a client was told holds on the next node that leads.

use super::client::Client;
use super::{Cluster, id, placement};
use crate::mail::ControlMail;
use crate::replicated::control_mail::ToCore;
use ringlane_mqtt::{QoS, ReasonCode};
use std::collections::BTreeSet;
use std::time::Duration;

/// More than a core takes in in one turn.
const FILTERS: usize = 1000;

/// A client of the last core of a node of several.
fn client_of(core: u16, cores: u16) -> Client {
    let placement = placement(cores);
    let ids = (0..).map(|number| format!("client-{number}"));
    let name = ids.into_iter().find(|id| placement.client_owner(id).0 == core);
    Client::new(&name.expect("there are many names"))
}

fn payloads(range: std::ops::Range<u32>) -> Vec<Vec<u8>> {
    range.map(|number| number.to_be_bytes().to_vec()).collect()
}

fn publish_many(cluster: &mut Cluster, client: &mut Client, range: std::ops::Range<u32>) {
    let mut sent = BTreeSet::new();
    for payload in payloads(range) {
        sent.insert(client.publish(&cluster.outer, ("t/a", &payload), QoS::AtLeastOnce, false));
    }
    cluster.until("not acknowledged", &mut [client], |_, clients| {
        sent.iter().all(|packet_id| clients[0].acknowledged.contains(packet_id))
    });
}

/// The leader vanishes: on the next one everything is as it was acknowledged.
fn leader_vanishes(cores: [u16; 3]) {
    let (mut cluster, leader) = Cluster::serving(cores);
    let last = cores[leader] - 1;
    let mut absent = Client::new("absent");
    let mut publisher = client_of(last, cores[leader]);
    cluster.connect(&mut absent, leader, 0);
    absent.subscribe(&cluster.outer, "t/#", QoS::ExactlyOnce);
    cluster.until("no SUBACK", &mut [&mut absent], |_, clients| clients[0].subacks == 1);
    cluster.connect(&mut publisher, leader, usize::from(last));
    publish_many(&mut cluster, &mut publisher, 0..20);
    cluster.until("not delivered", &mut [&mut absent], |_, c| c[0].received.len() == 20);
    let retained = publisher.publish(&cluster.outer, ("r", b"kept"), QoS::AtLeastOnce, true);
    publisher.releases = false;
    let exactly = publisher.publish(&cluster.outer, ("t/q", b"once"), QoS::ExactlyOnce, false);
    cluster.until("no PUBREC", &mut [&mut publisher], |_, clients| {
        clients[0].acknowledged.contains(&retained) && clients[0].acknowledged.contains(&exactly)
    });
    cluster.until("not delivered", &mut [&mut absent], |_, c| c[0].received.len() == 21);
    // Its answers are on their way and recorded when this has passed.
    cluster.pass(Duration::from_secs(3), &mut [&mut absent, &mut publisher]);

    cluster.kill(leader);
    let next = cluster.wait_for_leader();
    assert_ne!(next, leader);
    assert!(cluster.nodes[next].ends.is_empty(), "it leads in place");

    cluster.connect(&mut publisher, next, 0);
    assert!(publisher.session_present);
    // The message whose PUBREC came is not taken twice.
    let again = ("t/q", &b"once"[..]);
    publisher.acknowledged.remove(&exactly);
    publisher.publish_as(&cluster.outer, exactly, again, QoS::ExactlyOnce, (false, true));
    cluster.until("no PUBREC", &mut [&mut publisher], |_, clients| {
        clients[0].acknowledged.contains(&exactly)
    });
    publisher.release(&cluster.outer, exactly);
    cluster.until("no PUBCOMP", &mut [&mut publisher], |_, clients| {
        clients[0].completed.contains(&exactly)
    });
    publish_many(&mut cluster, &mut publisher, 20..30);

    let seen = absent.received.len();
    cluster.connect(&mut absent, next, 0);
    assert!(absent.session_present);
    cluster.until("not delivered", &mut [&mut absent], |_, clients| {
        payloads(20..30).iter().all(|payload| clients[0].received.contains(payload))
    });
    cluster.pass(Duration::from_secs(1), &mut [&mut absent]);
    let once = absent.received.iter().filter(|payload| **payload == b"once").count();
    assert_eq!(once, 1, "exactly once, over both leaders");
    assert_eq!(absent.received.len(), seen + 10, "nothing that was answered comes again");

    let mut late = Client::new("late");
    cluster.connect(&mut late, next, 0);
    late.subscribe(&cluster.outer, "r", QoS::AtLeastOnce);
    cluster.until("not delivered", &mut [&mut late], |_, c| !c[0].received.is_empty());
    assert_eq!(late.received, [b"kept"]);
}

#[test]
fn what_was_acknowledged_is_there_on_the_next_leader() {
    leader_vanishes([1, 1, 1]);
}

#[test]
fn what_was_acknowledged_is_there_with_two_cores() {
    leader_vanishes([2, 2, 2]);
}

#[test]
fn nodes_may_have_different_numbers_of_cores() {
    leader_vanishes([1, 2, 2]);
    leader_vanishes([2, 1, 2]);
}

/// Clients with subscriptions of every kind, and what each of them gets of ten messages to `t/a`.
const KINDS: [(&str, &[&str], usize); 7] = [
    ("exact", &["t/a"], 10),
    ("overlapping", &["t/+", "t/a", "#"], 10),
    ("member-1", &["$share/g/t/+"], 0),
    ("member-2", &["$share/g/t/+"], 0),
    ("member-left", &["$share/h/t/a"], 0),
    ("unsubscribed", &["t/a", "other/#"], 0),
    ("cleaned", &["t/a", "t/#"], 0),
];

/// Subscribes all of them, and lets some subscriptions end again.
fn subscribe_kinds(cluster: &mut Cluster, clients: &mut [Client], leader: usize) {
    let outer = cluster.outer.clone();
    for (client, (_, filters, _)) in clients.iter_mut().zip(KINDS) {
        cluster.connect(client, leader, 0);
        for filter in filters {
            client.subscribe(&outer, filter, QoS::AtLeastOnce);
        }
        cluster.until("no SUBACK", &mut [client], |_, c| c[0].subacks == filters.len());
    }
    let [_, _, _, _, left, unsubscribed, cleaned] = clients else { unreachable!("one of each") };
    left.unsubscribe(&outer, "$share/h/t/a");
    unsubscribed.unsubscribe(&outer, "t/a");
    cluster.until("no UNSUBACK", &mut [left, unsubscribed], |_, clients| {
        clients.iter().all(|client| client.unsubacks == 1)
    });
    cleaned.hang_up(&outer);
    cleaned.is_clean = true;
    cluster.connect(cleaned, leader, 0);
    cleaned.is_clean = false;
    clients.iter_mut().for_each(|client| client.hang_up(&outer));
}

/// What is subscribed is kept by followers: each kind is served by the next leader, and by the one after
/// it.
fn subscriptions_go_on(cores: [u16; 3]) {
    let (mut cluster, leader) = Cluster::serving(cores);
    let outer = cluster.outer.clone();
    let mut clients: Vec<Client> = KINDS.iter().map(|(id, ..)| Client::new(id)).collect();
    subscribe_kinds(&mut cluster, &mut clients, leader);
    let mut own = Client::new("own");
    cluster.connect(&mut own, leader, 0);
    own.subscribe_as(&outer, "t/#", QoS::AtLeastOnce, (true, Some(7)));
    cluster.until("no SUBACK", &mut [&mut own], |_, clients| clients[0].subacks == 1);
    cluster.pass(Duration::from_secs(2), &mut [&mut own]);

    let mut before = leader;
    for round in 1..3 {
        cluster.kill(before);
        let next = cluster.wait_for_leader();
        let core = cores[next] - 1;
        let mut publisher = client_of(core, cores[next]);
        cluster.connect(&mut publisher, next, usize::from(core));
        publish_many(&mut cluster, &mut publisher, 0..10);
        // Nobody gets his own.
        cluster.connect(&mut own, next, 0);
        publish_many(&mut cluster, &mut own, 0..1);
        clients.iter_mut().for_each(|client| cluster.connect(client, next, 0));
        let all: Vec<&mut Client> = clients.iter_mut().chain([&mut own]).collect();
        cluster.pass(Duration::from_secs(3), &mut { all });
        for (client, (id, _, count)) in clients.iter().zip(KINDS) {
            let expected = if count > 0 { (count + 1) * round } else { 0 };
            let found = client.received.iter().filter(|payload| !payload.is_empty()).count();
            assert!(id.starts_with("member-") || found == expected, "{id} has {found}");
        }
        let shared = clients[2].received.len() + clients[3].received.len();
        assert_eq!((shared, clients[4].received.len()), (11 * round, 0));
        assert_eq!((own.received.len(), own.subscription_ids.len()), (10 * round, 1));

        // The cores know of each other what they want, and no more.
        let mails = cluster.nodes[next].fanout_mails();
        publisher.publish(&outer, ("nobody/wants/it", b""), QoS::AtLeastOnce, false);
        clients.iter_mut().for_each(|client| client.hang_up(&outer));
        cluster.pass(Duration::from_secs(2), &mut [&mut publisher, &mut own]);
        // But for the one with a filter for all.
        let expected = u64::from(placement(cores[next]).client_owner("overlapping").0 != core);
        assert_eq!(cluster.nodes[next].fanout_mails() - mails, expected);
        own.hang_up(&outer);
        publisher.hang_up(&outer);
        cluster.start(before);
        cluster.wait_for_followers();
        before = next;
    }
    assert_eq!(cluster.dropped_postings(), 0);
}

#[test]
fn subscriptions_of_every_kind_go_on_with_the_next_leader() {
    subscriptions_go_on([1, 1, 1]);
    subscriptions_go_on([2, 2, 2]);
}

#[test]
fn a_leader_that_is_cut_off_acknowledges_nothing_and_begins_again() {
    let (mut cluster, leader) = Cluster::serving([2, 2, 2]);
    let mut publisher = client_of(1, 2);
    cluster.connect(&mut publisher, leader, 1);
    publish_many(&mut cluster, &mut publisher, 0..10);
    cluster.cut_off(leader);
    let lost = publisher.publish(&cluster.outer, ("t/a", b"lost"), QoS::AtLeastOnce, false);
    cluster.until("it goes on", &mut [&mut publisher], |c, _| !c.nodes[leader].ends.is_empty());
    cluster.pass(Duration::from_secs(1), &mut [&mut publisher]);
    assert!(!publisher.acknowledged.contains(&lost), "nobody else has it");
    assert_eq!(publisher.disconnect_reason, Some(ReasonCode::SERVER_SHUTTING_DOWN));
    let next = cluster.wait_for_leader();
    assert_ne!(next, leader);
    cluster.connect(&mut publisher, next, 0);
    publish_many(&mut cluster, &mut publisher, 10..20);
    cluster.join();
    cluster.wait_for_followers();
    assert!(cluster.nodes[leader].truncations > 0, "what it alone had is given up");
    assert_eq!(cluster.nodes[leader].leader, Some(id(next)));

    // It has all that the others have: it can lead.
    cluster.kill(next);
    cluster.pass(Duration::from_secs(1), &mut []);
    let third = cluster.wait_for_leader();
    cluster.connect(&mut publisher, third, 0);
    assert!(publisher.session_present);
    publish_many(&mut cluster, &mut publisher, 20..25);
}

/// Clients that are out of reach do not keep a deposed leader from following again.
#[test]
fn a_leader_that_is_cut_off_waits_for_no_client_out_of_reach() {
    let (mut cluster, leader) = Cluster::serving([1, 1, 1]);
    let mut publisher = Client::new("p");
    cluster.connect(&mut publisher, leader, 0);
    cluster.outer.wires.borrow_mut().iter_mut().for_each(|wire| wire.is_out_of_reach = true);
    cluster.cut_off(leader);
    let starts = cluster.nodes[leader].starts;
    cluster.until("it goes on", &mut [], |c, _| !c.nodes[leader].ends.is_empty());
    assert_eq!(cluster.nodes[leader].starts, starts, "its clients are told");
    cluster.pass(Duration::from_millis(1500), &mut []);
    assert!(starts < cluster.nodes[leader].starts, "it follows");
}

#[test]
fn a_node_that_was_away_catches_up() {
    let (mut cluster, leader) = Cluster::serving([1, 2, 1]);
    // With the third one, too: the leader needs it at once.
    cluster.wait_for_followers();
    let away = (leader + 1) % 3;
    cluster.kill(away);
    let mut publisher = Client::new("p");
    cluster.connect(&mut publisher, leader, 0);
    publish_many(&mut cluster, &mut publisher, 0..200);
    cluster.start(away);
    cluster.wait_for_followers();
    assert!(cluster.nodes[away].is_running() && cluster.nodes[away].ends.is_empty());

    // With the third one gone it is needed, and with the leader gone it leads.
    let third = (leader + 2) % 3;
    cluster.kill(third);
    publish_many(&mut cluster, &mut publisher, 200..210);
    cluster.start(third);
    cluster.wait_for_followers();
    cluster.kill(leader);
    let next = cluster.wait_for_leader();
    cluster.connect(&mut publisher, next, 0);
    assert!(publisher.session_present);
}

#[test]
fn below_a_majority_nothing_is_acknowledged_and_it_heals() {
    let (mut cluster, leader) = Cluster::serving([1, 1, 1]);
    let mut publisher = Client::new("p");
    cluster.connect(&mut publisher, leader, 0);
    publish_many(&mut cluster, &mut publisher, 0..5);
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    others.iter().for_each(|node| cluster.kill(*node));
    let waits = publisher.publish(&cluster.outer, ("t/a", b"waits"), QoS::AtLeastOnce, false);
    cluster.pass(Duration::from_secs(5), &mut [&mut publisher]);
    assert!(!publisher.acknowledged.contains(&waits));
    assert_eq!(cluster.leader(), None, "it has said that it does not lead");
    cluster.start(others[0]);
    let next = cluster.wait_for_leader();
    cluster.connect(&mut publisher, next, 0);
    assert!(publisher.session_present);
    publish_many(&mut cluster, &mut publisher, 5..10);
}

#[test]
fn a_follower_hands_its_clients_over_with_their_bytes() {
    let (mut cluster, leader) = Cluster::serving([1, 1, 1]);
    let follower = (leader + 1) % 3;
    let mut client = Client::new("c");
    cluster.dial(&mut client, follower, 0);
    cluster.until("kept", &mut [], |cluster, _| !cluster.nodes[follower].passed_on.is_empty());
    let passed = cluster.nodes[follower].passed_on.pop().expect("one");
    let wire = cluster.outer.wire_of(&passed.socket).expect("its socket");
    let wires = cluster.outer.wires.borrow();
    assert!(wires[wire].from_broker.is_empty() && !wires[wire].closed, "nothing was answered");
    let mut bytes = passed.bytes;
    bytes.extend_from_slice(&wires[wire].to_broker);
    assert_eq!(bytes.first(), Some(&0x10), "its CONNECT");
}

#[test]
fn a_node_says_that_it_could_lead_once_it_has_taken_in_its_state() {
    let (mut cluster, leader) = Cluster::serving([1, 2, 2]);
    cluster.wait_for_followers();
    let mut many = Client::new("many");
    cluster.connect(&mut many, leader, 0);
    for filter in 0..FILTERS {
        many.subscribe(&cluster.outer, &format!("f/{filter}"), QoS::AtLeastOnce);
    }
    cluster.until("no SUBACK", &mut [&mut many], |_, clients| clients[0].subacks == FILTERS);
    let (away, third) = ((leader + 1) % 3, (leader + 2) % 3);
    let is_ready = |cluster: &Cluster, node| cluster.nodes[leader].ready.contains(&id(node));
    cluster.until("not ready", &mut [&mut many], |c, _| is_ready(c, away) && is_ready(c, third));
    cluster.kill(away);
    cluster.until("it is away", &mut [&mut many], |c, _| !is_ready(c, away) && is_ready(c, third));
    cluster.start(away);
    cluster.until("not ready", &mut [&mut many], |c, _| is_ready(c, away));

    cluster.nodes[leader].say(ControlMail::Drain);
    let drained = cluster.nodes[leader].drained + usize::from(cluster.nodes[leader].cores);
    cluster.until("not drained", &mut [], |c, _| c.nodes[leader].drained == drained);
    cluster.nodes[leader].tell(0, ToCore::TransferTo(id(away)));
    cluster.until("not handed over", &mut [], |cluster, _| cluster.leader() == Some(away));
    cluster.connect(&mut many, away, 0);
    assert!(many.session_present);
}

#[test]
fn a_leader_that_is_told_to_end_hands_over_first() {
    let (mut cluster, leader) = Cluster::serving([2, 2, 2]);
    let mut publisher = client_of(1, 2);
    cluster.connect(&mut publisher, leader, 1);
    publish_many(&mut cluster, &mut publisher, 0..10);
    cluster.nodes[leader].say(ControlMail::Drain);
    cluster.until("not drained", &mut [&mut publisher], |c, _| c.nodes[leader].drained == 2);
    assert_eq!(publisher.disconnect_reason, Some(ReasonCode::SERVER_SHUTTING_DOWN));
    let to = (leader + 2) % 3;
    cluster.nodes[leader].tell(0, ToCore::TransferTo(id(to)));
    cluster.until("not handed over", &mut [], |cluster, _| cluster.leader() == Some(to));
    cluster.connect(&mut publisher, to, 0);
    assert!(publisher.session_present);
}
