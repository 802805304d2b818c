//! Everybody on one thread: publishers, subscribers and clients with a will, and what each packet
//! means to them.

use super::book::{Fate, Kind};
use super::choice::Choice;
use super::dial::{Dial, Standing};
use super::findings::Check;
use super::journal::Journal;
use super::publisher::{Publisher, Settled};
use super::session::{Habit, Session};
use super::wills::Wills;
use crate::fleet::Target;
use crate::swarm::{Event, Leave, LinkId, Swarm};
use anyhow::Result;
use ringlane_mqtt::{Connack, Packet, ReasonCode, encode};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long a turn waits for something to happen.
const GLANCE: Duration = Duration::from_millis(1);
/// Answers that a slow subscriber gives per turn while there is load.
const SLOW_ANSWERS: usize = 1;

/// Whose connection it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Publisher(usize),
    Session(usize),
    Will,
}

/// The clients of a run.
pub(super) struct Engine {
    pub(super) target: Target,
    /// Of a cluster: all its nodes, which clients try in turn.
    pub(super) nodes: Vec<SocketAddr>,
    pub(super) choice: Choice,
    pub(super) journal: Journal,
    pub(super) publishers: Vec<Publisher>,
    pub(super) sessions: Vec<Session>,
    pub(super) wills: Wills,
    /// Whether publishers send new messages.
    pub(super) is_publishing: bool,
    /// Whether clients that lost their connection dial again.
    pub(super) is_dialling: bool,
    /// Whether the broker has no disk, so that it may refuse a CONNECT.
    pub(super) is_weak: bool,
    /// Whether slow subscribers stop being slow.
    pub(super) is_draining: bool,
    roles: HashMap<LinkId, Role>,
}

impl Engine {
    pub(super) fn new(
        target: Target,
        choice: Choice,
        journal: Journal,
        publishers: Vec<Publisher>,
        sessions: Vec<Session>,
        wills: Wills,
    ) -> Self {
        Self {
            target,
            nodes: Vec::new(),
            choice,
            journal,
            publishers,
            sessions,
            wills,
            is_publishing: false,
            is_dialling: true,
            is_weak: false,
            is_draining: false,
            roles: HashMap::new(),
        }
    }

    /// Turns until something is so; says whether it came to be in time.
    ///
    /// # Errors
    /// If there are no sockets to be had.
    pub(super) fn until(
        &mut self,
        swarm: &mut Swarm,
        patience: Duration,
        mut is_done: impl FnMut(&mut Self) -> bool,
    ) -> Result<bool> {
        let deadline = Instant::now() + patience;
        loop {
            if is_done(self) {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            self.turn(swarm)?;
        }
    }

    /// Dials, publishes, answers, and takes what came.
    fn turn(&mut self, swarm: &mut Swarm) -> Result<()> {
        if self.is_dialling {
            self.dial_all(swarm)?;
        }
        self.pump(swarm);
        swarm.poll(GLANCE, &mut |swarm, id, event| self.on_event(swarm, id, &event))?;
        Ok(())
    }

    fn dial_all(&mut self, swarm: &mut Swarm) -> Result<()> {
        let now = Instant::now();
        for (index, publisher) in self.publishers.iter_mut().enumerate() {
            if publisher.dial.is_due(now) {
                let link = publisher.dial.open(swarm, &self.target, &self.nodes)?;
                self.roles.insert(link, Role::Publisher(index));
            }
        }
        for (index, session) in self.sessions.iter_mut().enumerate() {
            if session.dial.is_due(now) {
                let link = session.dial.open(swarm, &self.target, &self.nodes)?;
                self.roles.insert(link, Role::Session(index));
            }
        }
        Ok(())
    }

    fn pump(&mut self, swarm: &mut Swarm) {
        let version = self.journal.version;
        for publisher in self.publishers.iter_mut().filter(|_| self.is_publishing) {
            if !publisher.dial.is_online {
                continue;
            }
            if let Some(out) = publisher.dial.link.and_then(|link| swarm.out(link)) {
                publisher.pump(version, &mut self.choice, &mut self.journal, out);
            }
        }
        let count = if self.is_draining { usize::MAX } else { SLOW_ANSWERS };
        for session in self.sessions.iter_mut().filter(|session| session.has_answers()) {
            if let Some(out) = session.dial.link.and_then(|link| swarm.out(link)) {
                session.catch_up(version, count, out);
            }
        }
    }

    /// Connects the client with the will of this cycle.
    pub(super) fn begin_will(&mut self, swarm: &mut Swarm) -> Result<()> {
        let journal = &mut self.journal;
        if let Some(link) = self.wills.begin(swarm, &self.target, &mut self.choice, journal)? {
            self.roles.insert(link, Role::Will);
        }
        Ok(())
    }

    /// Cuts off the client with the will, if that is its fate.
    pub(super) fn cut_will(&mut self, swarm: &mut Swarm) {
        if let Some(link) = self.wills.on_half_way(swarm, &mut self.journal) {
            self.roles.remove(&link);
        }
    }

    /// Everybody asks whether the broker has handled what was sent before.
    pub(super) fn ping_sessions(&mut self, swarm: &mut Swarm) {
        for session in &mut self.sessions {
            session.is_fenced = false;
            if let Some(out) = session.dial.link.and_then(|link| swarm.out(link)) {
                encode::pingreq(out);
            }
        }
    }

    /// Ends a session's connection, with a reset or in order.
    pub(super) fn hang_up(&mut self, swarm: &mut Swarm, index: usize, how: Leave) {
        let session = &mut self.sessions[index];
        let Some(link) = session.dial.link else { return };
        if how == Leave::Finish
            && session.dial.is_online
            && let Some(out) = swarm.out(link)
        {
            let normal = ReasonCode::NORMAL_DISCONNECTION;
            encode::disconnect(out, self.journal.version, normal, None, None, None);
        }
        swarm.close(link, how);
        self.roles.remove(&link);
        session.on_closed();
    }

    /// Resets every connection.
    pub(super) fn reset_all(&mut self, swarm: &mut Swarm) {
        for (link, role) in std::mem::take(&mut self.roles) {
            swarm.close(link, Leave::Reset);
            self.on_closed(role);
        }
    }

    /// Whether nobody is connected.
    pub(super) fn is_silent(&self) -> bool {
        self.roles.is_empty()
    }

    fn on_event(&mut self, swarm: &mut Swarm, id: LinkId, event: &Event<'_>) {
        let Some(role) = self.roles.get(&id).copied() else { return };
        match event {
            Event::Packet(packet) => self.on_packet(swarm, id, role, packet),
            Event::Closed(_) => {
                self.roles.remove(&id);
                self.on_closed(role);
            }
            Event::Malformed(error) => {
                self.roles.remove(&id);
                self.journal.violate(Check::Phantom, "a client", &format!("not MQTT: {error}"));
                self.on_closed(role);
            }
            Event::Opened => {
                if let Some(dial) = self.dial_mut(role) {
                    dial.on_opened();
                }
            }
            Event::Bytes(_) | Event::Packets(_) => {}
        }
    }

    fn on_closed(&mut self, role: Role) {
        match role {
            Role::Publisher(index) => self.publishers[index].dial.on_closed(),
            Role::Session(index) => self.sessions[index].on_closed(),
            Role::Will => self.wills.on_closed(&mut self.journal),
        }
    }

    fn dial_mut(&mut self, role: Role) -> Option<&mut Dial> {
        match role {
            Role::Publisher(index) => Some(&mut self.publishers[index].dial),
            Role::Session(index) => Some(&mut self.sessions[index].dial),
            Role::Will => None,
        }
    }

    fn on_packet(&mut self, swarm: &mut Swarm, id: LinkId, role: Role, packet: &Packet<'_>) {
        let Some(out) = swarm.out(id) else { return };
        match (role, packet) {
            (Role::Will, Packet::Connack(connack)) if connack.reason.is_error() => {
                self.wills.on_refused(connack.reason, &mut self.journal);
            }
            (Role::Will, Packet::Connack(_)) => self.wills.on_connack(&mut self.journal, out),
            (Role::Will, _) => {}
            (_, Packet::Connack(connack)) => self.on_connack(role, connack, out),
            (Role::Publisher(index), packet) => self.on_publisher(index, packet, out),
            (Role::Session(index), packet) => self.on_session(index, packet, out),
        }
    }

    fn on_connack(&mut self, role: Role, connack: &Connack<'_>, out: &mut Vec<u8>) {
        let Some(dial) = self.dial_mut(role) else { return };
        let standing = dial.on_connack(connack);
        let name = dial.name().to_owned();
        let what = match standing {
            Standing::Fresh | Standing::Resumed => None,
            Standing::Lost => {
                Some("Session Present is 0 although the session was confirmed".into())
            }
            Standing::Ghost => Some("Session Present is 1 although there was no session".into()),
            Standing::Refused(_) if self.is_weak => None,
            Standing::Refused(reason) => Some(format!("CONNECT was refused: {:#04x}", reason.0)),
        };
        if let Some(what) = what {
            self.journal.violate(Check::SessionLie, &name, &what);
        }
        if matches!(standing, Standing::Refused(_)) {
            return;
        }
        let is_there = matches!(standing, Standing::Resumed | Standing::Ghost);
        match role {
            Role::Publisher(index) => self.resume_publisher(index, is_there, out),
            Role::Session(index) => self.resume_session(index, is_there, out),
            Role::Will => {}
        }
    }

    fn resume_publisher(&mut self, index: usize, is_there: bool, out: &mut Vec<u8>) {
        let publisher = &mut self.publishers[index];
        if !is_there {
            publisher.forget(&mut self.journal);
        }
        publisher.resume(self.journal.version, &mut self.journal, out);
    }

    fn resume_session(&mut self, index: usize, is_there: bool, out: &mut Vec<u8>) {
        let session = &mut self.sessions[index];
        session.was_resumed = is_there;
        if !is_there {
            session.forget();
        }
        if !session.is_ready {
            session.subscribe(self.journal.version, out);
        }
    }

    fn on_publisher(&mut self, index: usize, packet: &Packet<'_>, out: &mut Vec<u8>) {
        let (publisher, journal) = (&mut self.publishers[index], &mut self.journal);
        let settled = match packet {
            Packet::Puback(ack) => publisher.on_puback(ack, journal),
            Packet::Pubrec(ack) => publisher.on_pubrec(journal.version, ack, journal, out),
            Packet::Pubcomp(ack) => {
                publisher.on_pubcomp(ack, journal);
                None
            }
            _ => None,
        };
        if let Some(Settled { id, fate: Fate::Kept }) = settled {
            self.sessions.iter_mut().for_each(|session| session.on_kept(id, &self.journal));
        }
    }

    fn on_session(&mut self, index: usize, packet: &Packet<'_>, out: &mut Vec<u8>) {
        let (session, journal) = (&mut self.sessions[index], &mut self.journal);
        let version = journal.version;
        match packet {
            Packet::Publish(publish) => session.on_publish(version, publish, journal, out),
            Packet::Pubrel(ack) => session.on_pubrel(version, ack.packet_id, journal, out),
            Packet::Suback(suback) => {
                if suback.reasons.iter().any(|reason| *reason >= 0x80) {
                    let what = format!("a filter was refused: {:02x?}", suback.reasons);
                    journal.violate(Check::SessionLie, session.dial.name(), &what);
                }
                session.on_suback(version, out);
            }
            Packet::Unsuback(_) => session.on_unsuback(),
            Packet::Pingresp => session.is_fenced = true,
            _ => {}
        }
    }

    /// Whether everybody who is to be there is, with a subscription.
    pub(super) fn is_everybody_there(&self) -> bool {
        let sessions = self.sessions.iter().filter(|session| session.dial.is_wanted);
        let mut publishers = self.publishers.iter();
        publishers.all(|publisher| publisher.dial.is_online)
            && sessions.into_iter().all(|session| session.dial.is_online && session.is_ready)
    }

    /// Whether every publish is answered.
    pub(super) fn is_published(&self) -> bool {
        self.publishers.iter().all(Publisher::is_idle)
    }

    /// Sessions that are to be there and have not all that they must have.
    pub(super) fn unsettled(&self) -> impl Iterator<Item = &Session> {
        let is_there = |session: &&Session| session.dial.is_wanted;
        self.sessions.iter().filter(is_there).filter(|session| !session.is_settled())
    }

    /// Lets leavers take and end their subscription again.
    pub(super) fn renew_leavers(&mut self, swarm: &mut Swarm) {
        let version = self.journal.version;
        for session in self.sessions.iter_mut().filter(|session| session.habit == Habit::Leaver) {
            session.is_ready = false;
            session.is_left_in_peace = true;
            if session.dial.is_online
                && let Some(out) = session.dial.link.and_then(|link| swarm.out(link))
            {
                session.subscribe(version, out);
            }
        }
    }

    /// Wills that must have come by now are owed like any message.
    pub(super) fn call_in_wills(&mut self) {
        for id in self.wills.call_in(&mut self.journal) {
            debug_assert_eq!(self.journal.book.stream(id).kind, Kind::Will);
            self.sessions.iter_mut().for_each(|session| session.on_kept(id, &self.journal));
        }
    }
}
