//! A publisher that does not give up: it goes from node to node until its message is acknowledged.

use crate::support::cluster::Cluster;
use crate::support::{Client, Connect, Gone, Kind, PATIENCE, Packet, Publish, Version};
use std::time::{Duration, Instant};

/// How long an answer is waited for before the next node is tried.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// A client with a persistent session.
pub(crate) struct Sender {
    connect: Connect,
    client: Option<Client>,
    /// Where it connects next.
    node: usize,
    last_id: u16,
}

impl Sender {
    /// One that begins at a node.
    pub(crate) fn new(client_id: &str, node: usize) -> Self {
        let connect = Connect::new(Version::V5, client_id).durable();
        Self { connect, client: None, node, last_id: 0 }
    }

    /// Publishes with QoS 1 or 2, until that is acknowledged to the end.
    pub(crate) fn publish(&mut self, cluster: &Cluster, topic: &str, payload: &str, qos: u8) {
        self.last_id = self.last_id % 1000 + 1;
        let id = self.last_id;
        let mut publish = Publish::new(topic, payload).qos(qos, id);
        let first = if qos == 1 { Kind::Puback } else { Kind::Pubrec };
        self.until_answered(cluster, first, id, |client| {
            let bytes = publish.encode(Version::V5);
            publish.dup = true;
            client.try_send(&bytes)
        });
        if qos == 2 {
            self.until_answered(cluster, Kind::Pubcomp, id, |client| {
                client.try_send(&super::support::packets::acknowledge(Kind::Pubrel, id))
            });
        }
    }

    /// Says something to one node after another until this answer comes.
    fn until_answered(
        &mut self,
        cluster: &Cluster,
        kind: Kind,
        id: u16,
        mut say: impl FnMut(&mut Client) -> std::io::Result<()>,
    ) {
        let deadline = Instant::now() + 3 * PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "{} gets no {kind:?}", self.connect.client_id);
            let Some(client) = self.client(cluster) else { continue };
            let answered = say(client).is_ok() && answer(client, kind, id);
            if answered {
                return;
            }
            self.leave();
        }
    }

    /// The connection, or a new one to the next node.
    fn client(&mut self, cluster: &Cluster) -> Option<&mut Client> {
        if self.client.is_none() {
            let node = self.node % cluster.len();
            self.client = Client::try_connect(cluster[node].tcp, &self.connect);
            if self.client.is_none() {
                self.node += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.client.as_mut()
    }

    /// Ends the connection; the next one is to another node.
    pub(crate) fn leave(&mut self) {
        self.client = None;
        self.node += 1;
    }
}

/// Whether the answer comes before the connection ends or the time is over.
fn answer(client: &mut Client, kind: Kind, id: u16) -> bool {
    let is_it = |packet: &Packet| packet.kind() == kind && packet.id() == id;
    loop {
        match client.try_read(ANSWER_MAX) {
            // A packet identifier that is not known is that of an exchange that is complete.
            Ok(packet) if is_it(&packet) => {
                return packet.reason() < 0x80 || packet.reason() == 0x92;
            }
            Ok(packet) if packet.kind() == Kind::Disconnect => return false,
            Ok(_) => {}
            Err(Gone::Closed | Gone::TimedOut) => return false,
        }
    }
}
