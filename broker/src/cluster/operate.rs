//! `ringlane cluster transfer-leader | replace`: what an operator wants of a cluster, by way of its etcd.

use super::ask_nodes::{Answer, ask_nodes};
use super::etcd::Etcd;
use super::keeper::new_lease;
use super::keys::{Id16, View, directory_key, directory_value, node_key};
use super::membership::{members, random, revision, view};
use super::metadata::{Condition, Metadata, Outcome, Put, Transaction};
use super::orders::{Transfer, Transferred};
use ringlane_dataplane::ids::NodeId;
use ringlane_dataplane::replication::quorum::majority;
use serde::Serialize;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// A wish that is not answered within this time is taken back.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often the answer is looked for.
const GLANCE: Duration = Duration::from_millis(10);
/// A new leader that does not say so, but is written down as one, is believed after this time.
const SILENCE: Duration = Duration::from_secs(5);

/// Another node leads.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Handed {
    /// Who led.
    pub(super) from: u16,
    /// Who leads now.
    pub(super) leader: u16,
    /// In which epoch.
    pub(super) epoch: u64,
    /// From the wish until clients were served again.
    pub(super) took_ms: u64,
}

/// A number is free for an empty node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Freed {
    /// The number.
    pub(super) node: u16,
    /// The directory that counts no more; `None` if none did.
    pub(super) directory: Option<String>,
}

/// Has the leader hand over, to `to` or to a follower that could lead at once, and waits until another node leads.
///
/// # Errors
/// Why not, for people.
pub(super) async fn transfer(etcd: &Etcd, to: Option<u16>) -> Result<Handed, String> {
    let found = read(etcd).await?;
    let Some(leader) = found.leader.filter(|leader| found.node(leader.node).is_some()) else {
        return Err("nobody leads: see `ringlane cluster status`".to_owned());
    };
    if let Some(to) = to {
        may_take_over(&found, leader.node, to, &ask_nodes(&found).await)?;
    }
    let wish = Transfer { id: Id16(random().map_err(text)?), epoch: leader.epoch, to };
    let lease = new_lease().map_err(text)?;
    let begun = Instant::now();
    etcd.grant(lease, PATIENCE + SILENCE).await.map_err(text)?;
    etcd.commit(&wish.put(lease)).await.map_err(text)?;
    let answered = await_answer(etcd, &wish, begun).await;
    // Nobody waits for it any more; if this fails it is gone with its lease.
    let _gone = etcd.revoke(lease).await;
    let Transferred { leader: now, epoch, refused, .. } = answered?;
    if let Some(why) = refused {
        return Err(format!("node {now} leads and refuses: {why}"));
    }
    let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let handed = Handed { from: leader.node.0, leader: now, epoch, took_ms };
    if let Some(to) = to.filter(|to| *to != now) {
        return Err(format!(
            "node {to} did not take over; node {now} leads in epoch {epoch}, after {took_ms} ms"
        ));
    }
    Ok(handed)
}

/// Whether a node can lead, as far as etcd and the node itself say. The leader looks at what the node lacks.
fn may_take_over(
    found: &View,
    leader: NodeId,
    to: u16,
    answers: &[(u16, Answer)],
) -> Result<(), String> {
    if !members(found).any(|node| node.0 == to) {
        return Err(format!("the cluster has no node {to}"));
    }
    if leader.0 == to {
        return Err(format!("node {to} leads already"));
    }
    if found.node(NodeId(to)).is_none() {
        return Err(format!("node {to} does not run"));
    }
    let said = answers.iter().find(|(node, _)| *node == to);
    let Some((_, Ok(status))) = said else { return Ok(()) };
    let (damaged, failed) = status.ill();
    match status {
        status if status.is_learner => Err(format!("node {to} is being filled from the others")),
        status if status.cannot_lead.is_some() => {
            Err(format!("node {to} cannot lead: {}", status.cannot_lead.as_deref().unwrap_or("")))
        }
        _ if 0 < damaged => Err(format!("node {to} is damaged in {damaged} partitions")),
        _ if 0 < failed => Err(format!("the log of node {to} has failed in {failed} partitions")),
        _ => Ok(()),
    }
}

async fn await_answer(etcd: &Etcd, wish: &Transfer, begun: Instant) -> Result<Transferred, String> {
    let mut seen: Option<Instant> = None;
    loop {
        sleep(GLANCE).await;
        let found = read(etcd).await?;
        if let Some(answer) = found.transferred.filter(|answer| answer.id == wish.id) {
            return Ok(answer);
        }
        let next = found.leader.filter(|leader| wish.epoch < leader.epoch);
        if let Some(leader) = next
            && SILENCE <= seen.get_or_insert_with(Instant::now).elapsed()
        {
            let (leader, epoch) = (leader.node.0, leader.epoch);
            return Ok(Transferred { id: wish.id, leader, epoch, refused: None });
        }
        if PATIENCE <= begun.elapsed() {
            return Err(format!(
                "no answer within {PATIENCE:?}: the leader does not hear of etcd, or is about to end; \
                 see `ringlane cluster status`"
            ));
        }
    }
}

/// Frees the number of a node that is lost, so that an empty one may take its place at once. Its directory counts
/// no more from then on, wherever it turns up.
///
/// # Errors
/// Why not, for people.
pub(super) async fn replace(etcd: &Etcd, node: u16) -> Result<Freed, String> {
    let found = read(etcd).await?;
    let answers = ask_nodes(&found).await;
    is_lost(&found, node, &answers)?;
    let node = NodeId(node);
    let counts = found.directory(node).and_then(|directory| directory.instance);
    let key = directory_key(node);
    let presence = found.node(node);
    let mut conditions =
        vec![Condition::Modified { key: key.clone(), revision: revision(&found, node) }];
    if presence.is_none() {
        conditions.push(Condition::Modified { key: node_key(node), revision: 0 });
    }
    let puts = vec![Put { key, value: directory_value(None), lease: None }];
    match etcd.commit(&Transaction { conditions, puts }).await.map_err(text)? {
        Outcome::Done(_) => {}
        Outcome::Refused(_) => {
            return Err(format!("something has changed about node {node} meanwhile: try again"));
        }
    }
    // From now on the old directory is refused: what is left of its lease may go.
    if let Some(lease) = presence.and_then(|present| present.lease) {
        etcd.revoke(lease).await.map_err(text)?;
    }
    Ok(Freed { node: node.0, directory: counts.map(|instance| instance.to_string()) })
}

/// Whether a node does not run, as far as anybody knows, and the others have what it had.
fn is_lost(found: &View, node: u16, answers: &[(u16, Answer)]) -> Result<(), String> {
    let nodes: Vec<u16> = members(found).map(|node| node.0).collect();
    if !nodes.contains(&node) {
        return Err(format!("the cluster has no node {node}"));
    }
    let others = found.nodes.iter().filter(|present| present.record.node != node).count();
    let enough = majority(nodes.len());
    if others < enough {
        return Err(format!(
            "only {others} other nodes run, and {enough} are a majority: what was acknowledged may be \
             on node {node} and not on them. Start them first"
        ));
    }
    let said = |number: u16| answers.iter().find(|(from, _)| *from == number);
    if let Some((_, Ok(_))) = said(node) {
        return Err(format!("node {node} runs, it answers: stop it first"));
    }
    let statuses = || answers.iter().filter_map(|(_, answer)| answer.as_ref().ok());
    let leader = statuses().filter(|status| status.is_leading()).max_by_key(|status| status.epoch);
    let follows = leader
        .and_then(|status| status.followers().into_iter().find(|follower| follower.node == node));
    if follows.is_some_and(|follower| 0 < follower.in_step) {
        return Err(format!("node {node} runs, the leader hears of it: stop it first"));
    }
    if found.node(NodeId(node)).is_some() && leader.is_none() {
        return Err(format!(
            "node {node} may run: it has a lease, and no leader could be asked. Wait until the lease \
             has ended (see `ringlane cluster members`)"
        ));
    }
    Ok(())
}

async fn read(etcd: &Etcd) -> Result<View, String> {
    view(etcd).await.map_err(text)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
#[path = "operate_tests.rs"]
mod tests;
