//! Mails to cores that wait for room in their mailboxes.

use crate::mail::{ControlMail, Mail};
use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::runtime::Endpoint;
use std::collections::VecDeque;

/// Mails in the order in which they were asked for. Whoever fills it does so only when it is
/// empty, so that it holds one round of `$SYS` topics or one order to stop at most; besides it the
/// questions of operators, of which each connection has one, and in a cluster the answers to what
/// cores have asked, of which each partition has a few.
#[derive(Debug, Default)]
pub(super) struct Outbox(VecDeque<(CoreId, ControlMail)>);

impl Outbox {
    pub(super) fn push(&mut self, core: CoreId, mail: ControlMail) {
        self.0.push_back((core, mail));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Drops what nobody waits for any more once the node stops. What cores of a cluster wait for
    /// stays: an answer less, and a log would never be whole.
    pub(super) fn drop_answers(&mut self) {
        self.0.retain(|(_, mail)| matches!(mail, ControlMail::Cluster(_)));
    }

    /// Sends what there is room for; a full mailbox does not hold up those of other cores.
    pub(super) fn send(&mut self, endpoint: &mut Endpoint<Mail>) {
        let mut full: Vec<CoreId> = Vec::new();
        for _ in 0..self.0.len() {
            let Some((core, mail)) = self.0.pop_front() else { return };
            if full.contains(&core) || endpoint.free(core) == 0 {
                full.push(core);
                self.0.push_back((core, mail));
            } else if let Err(Mail::Control(mail)) =
                endpoint.send(core, Mail::Control(Box::new(mail)))
            {
                self.0.push_back((core, *mail));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringlane_dataplane::runtime::Mesh;

    fn publish(number: u8) -> ControlMail {
        ControlMail::Publish { topic: "t".to_owned(), payload: vec![number], retain: false }
    }

    fn take(endpoint: &mut Endpoint<Mail>) -> Vec<u8> {
        let mut numbers = Vec::new();
        while let Some(mail) = endpoint.receive(CoreId(2)) {
            match mail {
                Mail::Control(mail) => match *mail {
                    ControlMail::Publish { payload, .. } => numbers.extend(payload),
                    ControlMail::Drain => numbers.push(0),
                    ControlMail::Ask(_) | ControlMail::Cluster(_) => panic!("nothing was asked"),
                },
                other => panic!("{other:?}"),
            }
        }
        numbers
    }

    #[test]
    fn a_full_mailbox_delays_its_own_mails_only_and_keeps_their_order() {
        let mut endpoints = Mesh::build::<Mail>(3, 2);
        let mut outbox = Outbox::default();
        for number in 1..=5 {
            outbox.push(CoreId(0), publish(number));
        }
        outbox.push(CoreId(1), ControlMail::Drain);
        let mut got = Vec::new();
        let mut rounds = 0;
        while !outbox.is_empty() {
            rounds += 1;
            assert!(rounds < 10, "the outbox does not empty");
            outbox.send(&mut endpoints[2]);
            endpoints[2].publish(&mut |_| {});
            if rounds == 1 {
                assert_eq!(take(&mut endpoints[1]), [0]);
            }
            got.extend(take(&mut endpoints[0]));
        }
        assert_eq!(got, [1, 2, 3, 4, 5]);
    }
}
