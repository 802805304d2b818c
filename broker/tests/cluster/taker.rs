//! A subscriber that does not give up: it takes what comes, through whatever node, as the protocol demands.

use crate::support::cluster::Cluster;
use crate::support::{Client, Connect, Gone, Kind, PATIENCE, Packet, Version};
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A client with a persistent session, and what it knows of QoS 2 beyond its connections.
pub(crate) struct Taker {
    connect: Connect,
    client: Option<Client>,
    node: usize,
    /// Identifiers of messages that were taken and not released [MQTT-4.3.3-10].
    held: HashSet<u16>,
    /// How often each payload was taken.
    pub(crate) taken: BTreeMap<String, usize>,
}

impl Taker {
    /// Subscribes through a node.
    pub(crate) fn subscribed(
        cluster: &Cluster,
        node: usize,
        client_id: &str,
        filter: &str,
    ) -> Self {
        let connect = Connect::new(Version::V5, client_id).durable();
        let mut client = cluster.connect(node, &connect);
        assert_eq!(client.subscribe(filter, 2), 2);
        let (held, taken) = (HashSet::new(), BTreeMap::new());
        Self { connect, client: Some(client), node, held, taken }
    }

    /// Goes away, with its session left.
    pub(crate) fn leave(&mut self) {
        self.client = None;
        self.node += 1;
    }

    /// Takes what comes until all of these have, and nothing more for a while.
    pub(crate) fn take(&mut self, cluster: &Cluster, expected: &[String]) {
        let deadline = Instant::now() + 3 * PATIENCE;
        let is_whole = |taker: &Self| {
            let has_all = expected.iter().all(|payload| taker.taken.contains_key(payload));
            has_all && taker.held.is_empty()
        };
        while self.step(cluster, Duration::from_millis(500)) || !is_whole(self) {
            if deadline < Instant::now() {
                let missing = expected.iter().filter(|payload| !self.taken.contains_key(*payload));
                panic!("{} misses {:?}", self.connect.client_id, missing.collect::<Vec<_>>());
            }
        }
    }

    /// Those that begin with `prefix` and came more than once.
    pub(crate) fn repeated(&self, prefix: &str) -> Vec<&String> {
        let repeated = self.taken.iter().filter(|(_, times)| 1 < **times);
        repeated.map(|(payload, _)| payload).filter(|payload| payload.starts_with(prefix)).collect()
    }

    /// Waits for one packet and answers it; `false` if nothing came while it was connected.
    fn step(&mut self, cluster: &Cluster, patience: Duration) -> bool {
        if self.client.is_none() {
            let client = Client::try_connect(self.address(cluster), &self.connect);
            let Some(client) = client else {
                self.node += 1;
                return true;
            };
            assert!(
                client.connack().session_present(),
                "{} has lost its session",
                self.connect.client_id
            );
            self.client = Some(client);
        }
        let Some(client) = &mut self.client else { return false };
        match client.try_read(patience) {
            Ok(packet) if packet.kind() == Kind::Disconnect => self.leave(),
            Ok(packet) => self.answer(&packet),
            Err(Gone::Closed) => self.leave(),
            Err(Gone::TimedOut) => return false,
        }
        true
    }

    fn address(&self, cluster: &Cluster) -> SocketAddr {
        cluster[self.node % cluster.len()].tcp
    }

    fn answer(&mut self, packet: &Packet) {
        let (kind, id) = match packet.kind() {
            Kind::Publish => {
                let received = packet.publish();
                let is_new = received.qos < 2 || self.held.insert(received.id);
                if is_new {
                    *self.taken.entry(received.text()).or_default() += 1;
                }
                let kind = if received.qos == 2 { Kind::Pubrec } else { Kind::Puback };
                (kind, received.id)
            }
            Kind::Pubrel => {
                self.held.remove(&packet.id());
                (Kind::Pubcomp, packet.id())
            }
            kind => panic!("{kind:?}"),
        };
        // Of a connection that has ended the next one repeats it.
        let bytes = super::support::packets::acknowledge(kind, id);
        let _ = self.client.as_mut().map(|client| client.try_send(&bytes));
    }
}
