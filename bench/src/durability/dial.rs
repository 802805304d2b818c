//! The life of one client's connections: dialled again and again, with one session behind them.

use crate::login::Login;
use crate::swarm::{LinkId, Swarm};
use crate::{fleet::Target, link::LinkOptions};
use ringlane_mqtt::{Connack, ReasonCode};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long a client waits before it dials again.
const RETRY: Duration = Duration::from_millis(10);

/// Whether the broker has the session, as far as the client can know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Belief {
    No,
    /// A CONNECT went out that was not answered.
    Perhaps,
    Yes,
}

/// What a CONNACK says of the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// There was none, rightly.
    Fresh,
    /// It is there.
    Resumed,
    /// It is gone, and should not be.
    Lost,
    /// It is there, and should not be.
    Ghost,
    /// The CONNECT was refused.
    Refused(ReasonCode),
}

/// A client's connections.
#[derive(Debug)]
pub(super) struct Dial {
    pub(super) login: Login,
    pub(super) link: Option<LinkId>,
    /// Whether the CONNECT was accepted.
    pub(super) is_online: bool,
    /// Whether it is to be connected.
    pub(super) is_wanted: bool,
    /// Connections so far.
    pub(super) connection: u32,
    /// QoS 1 and 2 messages that the broker takes at once.
    pub(super) receive_maximum: u16,
    /// Clients begin at different ones.
    first_node: u8,
    retry_at: Instant,
    belief: Belief,
}

impl Dial {
    pub(super) fn new(login: Login) -> Self {
        let first_node = login.client_id.bytes().fold(0, u8::wrapping_add);
        Self {
            login,
            first_node,
            link: None,
            is_online: false,
            is_wanted: true,
            connection: 0,
            receive_maximum: u16::MAX,
            retry_at: Instant::now(),
            belief: Belief::No,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.login.client_id
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.is_wanted && self.link.is_none() && now >= self.retry_at
    }

    /// Opens a socket and says CONNECT, to each of the nodes in turn if there are any.
    ///
    /// # Errors
    /// If there is no descriptor or no port.
    pub(super) fn open(
        &mut self,
        swarm: &mut Swarm,
        target: &Target,
        nodes: &[SocketAddr],
    ) -> io::Result<LinkId> {
        let turn = self.connection as usize + usize::from(self.first_node);
        let node = turn.checked_rem(nodes.len()).and_then(|node| nodes.get(node));
        let address = *node.unwrap_or(&target.address);
        let options =
            LinkOptions { acknowledge: false, ..LinkOptions::mqtt(address, target.version) };
        let link = swarm.open(&options)?;
        if let Some(out) = swarm.out(link) {
            self.login.encode(target.version, out);
        }
        self.link = Some(link);
        self.connection += 1;
        Ok(link)
    }

    /// The TCP connection stands, and CONNECT goes out.
    pub(super) fn on_opened(&mut self) {
        if self.belief == Belief::No && !self.login.clean {
            self.belief = Belief::Perhaps;
        }
    }

    pub(super) fn on_connack(&mut self, connack: &Connack<'_>) -> Standing {
        if connack.reason != ReasonCode::SUCCESS {
            return Standing::Refused(connack.reason);
        }
        self.is_online = true;
        self.receive_maximum = connack.properties.receive_maximum.unwrap_or(u16::MAX);
        let before = self.belief;
        if !self.login.clean {
            self.belief = Belief::Yes;
        }
        match (before, connack.session_present) {
            (Belief::No, true) => Standing::Ghost,
            (Belief::Yes, false) => Standing::Lost,
            (_, true) => Standing::Resumed,
            (_, false) => Standing::Fresh,
        }
    }

    /// The connection is over.
    pub(super) fn on_closed(&mut self) {
        self.link = None;
        self.is_online = false;
        self.retry_at = Instant::now() + RETRY;
    }
}
