//! What a client knows of QoS 2, beyond its connections.

use super::{Client, Kind, Packet};
use std::collections::HashSet;

/// Identifiers of messages that were taken and not released [MQTT-4.3.3-10].
#[derive(Default)]
pub struct Held(HashSet<u16>);

impl Held {
    /// Takes a packet as a client does, and answers it unless it forgets to. The text of a message
    /// that is no repetition.
    pub fn take(&mut self, client: &mut Client, packet: &Packet, answers: bool) -> Option<String> {
        let (text, id, answer) = match packet.kind() {
            Kind::Publish => {
                let received = packet.publish();
                assert_eq!(received.qos, 2);
                let is_new = self.0.insert(received.id);
                (is_new.then(|| received.text()), received.id, Kind::Pubrec)
            }
            Kind::Pubrel => {
                self.0.remove(&packet.id());
                (None, packet.id(), Kind::Pubcomp)
            }
            kind => panic!("{kind:?}"),
        };
        if answers {
            client.acknowledge(answer, id);
        }
        text
    }

    /// Whether all were released.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
