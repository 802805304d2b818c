//! What the cores of a node are told of the others while they run: where they are, and which data directories count.
//!
//! Addresses that are names are looked up again and again, on a thread of its own: a node may move. Which
//! directory counts for a number etcd says.

use super::keys::{Directory, View};
use crate::config::ClusterConfig;
use ringlane_dataplane::ids::NodeId;
use ringlane_dataplane::replication::hello::DirectoryTag;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How often names are looked up.
const LOOK_UP_EVERY: Duration = Duration::from_secs(5);

/// What is known of another node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerFacts {
    /// Which one.
    pub node: NodeId,
    /// Where its replication listener is, if that was looked up since the cores began.
    pub address: Option<SocketAddr>,
    /// Which data directory counts for it; `None` is any, zeros are none.
    pub directory: Option<DirectoryTag>,
}

/// The other nodes.
#[derive(Debug)]
pub(crate) struct Peers {
    /// Those whose addresses are names.
    names: Vec<(NodeId, String)>,
    facts: Vec<PeerFacts>,
    /// What the cores were told.
    told: Vec<PeerFacts>,
    /// When to look up; none while that is under way.
    due: Option<Instant>,
}

/// What names stand for; those that could not be found are left out.
pub(crate) type Addresses = Vec<(NodeId, SocketAddr)>;

/// Names to be looked up.
#[derive(Debug)]
pub(crate) struct Names(Vec<(NodeId, String)>);

impl Names {
    /// Looks them up, which may take as long as the system's resolver likes.
    pub(crate) fn addresses(self) -> Addresses {
        let found = |(node, name): (NodeId, String)| {
            let address = name.to_socket_addrs().ok()?.next()?;
            Some((node, address))
        };
        self.0.into_iter().filter_map(found).collect()
    }
}

impl Peers {
    /// The other nodes of a configuration, whose addresses the cores were given as they are now.
    pub(crate) fn new(config: &ClusterConfig) -> Self {
        let others = || config.members.iter().filter(|member| member.node != config.node);
        let is_name = |address: &str| address.parse::<SocketAddr>().is_err();
        let names = others().filter(|member| is_name(&member.address));
        let names: Vec<_> =
            names.map(|member| (NodeId(member.node), member.address.clone())).collect();
        let facts = others().map(|member| PeerFacts {
            node: NodeId(member.node),
            address: None,
            directory: None,
        });
        let facts: Vec<PeerFacts> = facts.collect();
        let due = (!names.is_empty()).then(|| Instant::now() + LOOK_UP_EVERY);
        Self { names, told: facts.clone(), facts, due }
    }

    /// Comes back when names are to be looked up.
    pub(crate) async fn due(&self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// What is to be looked up now; [`Peers::on_addresses`] follows.
    pub(crate) fn look_up(&mut self) -> Option<Names> {
        self.due.take().map(|_| Names(self.names.clone()))
    }

    /// Names were looked up.
    pub(crate) fn on_addresses(&mut self, addresses: Addresses) {
        self.due = Some(Instant::now() + LOOK_UP_EVERY);
        for (node, address) in addresses {
            if let Some(facts) = self.facts.iter_mut().find(|facts| facts.node == node) {
                facts.address = Some(address);
            }
        }
    }

    /// What etcd says.
    pub(crate) fn on_view(&mut self, view: &View) {
        for facts in &mut self.facts {
            // What is not there any more was there: etcd was put back in time, or its keys deleted.
            let counts = view.directory(facts.node).map(Directory::tag);
            facts.directory = counts.or(facts.directory);
        }
    }

    /// What the cores do not know yet.
    pub(crate) fn take_news(&mut self) -> Vec<PeerFacts> {
        let news = self.facts.iter().zip(&self.told).filter(|(now, told)| now != told);
        let news = news.map(|(now, _)| *now).collect();
        self.told.clone_from(&self.facts);
        news
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::Id16;
    use super::super::metadata::{KeyValue, Snapshot};
    use super::*;
    use crate::config::MemberConfig;

    fn config() -> ClusterConfig {
        let member = |node, address: &str| MemberConfig {
            node,
            address: address.to_owned(),
            ..MemberConfig::default()
        };
        let members =
            vec![member(1, "10.0.0.1:7883"), member(2, "localhost:7883"), member(3, "[::1]:7")];
        ClusterConfig { node: 1, members, ..ClusterConfig::default() }
    }

    #[test]
    fn names_are_looked_up_and_told_when_they_change() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let mut peers = Peers::new(&config());
        let names = peers.look_up().unwrap();
        assert!(peers.look_up().is_none(), "one look-up at a time");
        peers.on_addresses(names.addresses());
        let news = peers.take_news();
        assert_eq!(news.len(), 1, "the others are addresses");
        assert!(news[0].node == NodeId(2) && news[0].address.unwrap().ip().is_loopback());
        peers.on_addresses(vec![(NodeId(2), news[0].address.unwrap())]);
        assert!(peers.take_news().is_empty(), "no news");
        let mut literal = config();
        literal.members.remove(1);
        assert!(Peers::new(&literal).look_up().is_none());
    }

    #[test]
    fn which_directory_counts_is_told_and_not_forgotten() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let view = |instance: Option<[u8; 16]>| {
            let value = super::super::keys::directory_value(instance.map(Id16));
            let key = "directories/3".to_owned();
            let entry = KeyValue { key, value, modified: 4, lease: None };
            View::of(&Snapshot { revision: 9, entries: vec![entry] }).unwrap()
        };
        let mut peers = Peers::new(&config());
        let told = |peers: &mut Peers| {
            peers
                .take_news()
                .iter()
                .map(|facts| (facts.node.0, facts.directory))
                .collect::<Vec<_>>()
        };
        peers.on_view(&view(Some([7; 16])));
        assert_eq!(told(&mut peers), [(3, Some(DirectoryTag([7; 6])))]);
        peers.on_view(&View::default());
        assert_eq!(told(&mut peers), []);
        peers.on_view(&view(None));
        assert_eq!(told(&mut peers), [(3, Some(DirectoryTag::default()))], "replaced");
    }
}
