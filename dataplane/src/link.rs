//! The link seam: messages between the cores of two nodes, in the manner of [`crate::net`] and
//! [`crate::disk`].
//!
//! A link joins one core of this node with one core of another. A core writes into its [`Links`]
//! during a turn; a [`LinkDriver`] (TCP, RDMA, or [`memory`]) carries it out at the end of the turn and
//! answers with [`LinkEvent`]s. What is sent on a link arrives in order, each message once, until
//! [`LinkEvent::Down`]; what was not delivered by then is lost, and the sender is not told how much
//! that is.
//!
//! One node dials ([`Links::connect`]), the other one accepts. The dialer speaks first; the accepting
//! core sees [`LinkEvent::Greeted`] and answers with a hello of its own ([`Links::answer`]), and both are
//! up. A link that was accepted by another core than the one that the hello names comes as
//! [`LinkEvent::Elsewhere`] and goes on there with [`Links::adopt`].
//!
//! Where a core has two drivers, each link belongs to one of them, its [`Carrier`]: each takes what is
//! its own out of the table, and hands over what the hellos of both ends have left to the other one
//! ([`Links::pass`]).
//!
//! A message begins with its length in bytes ([`bytes_of`]). That is all that a driver reads of it: a message that it
//! delivers is whole and within its bound, and everything else about it is unchecked.

mod body;
pub mod lanes;
pub mod memory;
mod outbox;

pub use body::Body;
pub use outbox::Outbox;

use crate::batch::Foreign;
use crate::ids::CoreId;
use crate::replication::hello::{Hello, HelloError, Refused, Transports};
use crate::replication::wire::bytes_of;
use core::fmt;
use core::net::SocketAddr;
use std::os::fd::OwnedFd;

/// A link of one core: a slot and the generation that tells its users apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct LinkId {
    /// Position in the core's table of links.
    pub slot: u32,
    /// How often the slot was used before; guards against late completions.
    pub generation: u32,
}

impl LinkId {
    /// The position in the core's tables of links.
    #[must_use]
    pub fn index(self) -> usize {
        self.slot as usize
    }
}

/// What carries a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Carrier {
    /// The connection that the hellos came by.
    #[default]
    Tcp,
    /// RDMA writes.
    Rdma,
}

impl Carrier {
    /// What carries a link between nodes that can both talk so.
    #[must_use]
    pub fn of(transports: Transports) -> Self {
        if transports.has(Transports::RDMA) { Self::Rdma } else { Self::Tcp }
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Rdma => "rdma",
        })
    }
}

/// Links of a core, at most: six other nodes with 128 cores each are far below it.
pub const LINKS_MAX: usize = 4096;

/// Something that happened to a link.
#[derive(Debug)]
pub enum LinkEvent<'a> {
    /// A peer dialed, and its hello fits this node and this core: [`Links::answer`] it, or
    /// [`Links::revoke`] the link.
    Greeted {
        /// The new link.
        link: LinkId,
        /// What the peer said.
        hello: &'a Hello,
        /// Where it comes from.
        peer: SocketAddr,
    },
    /// A peer dialed, and its hello names another core of this node: to be mailed there.
    Elsewhere {
        /// The core that the hello names, which this node may not have.
        core: CoreId,
        /// What it needs for [`Links::adopt`]; dropping it ends the link.
        arrival: Arrival,
    },
    /// A peer dialed and was turned away. No link has come of it; this is for the log.
    TurnedAway {
        /// Where it came from.
        peer: SocketAddr,
        /// Why.
        cause: LinkDown,
    },
    /// Both hellos fit: messages may go either way.
    Up {
        /// The link.
        link: LinkId,
        /// What the peer said.
        hello: &'a Hello,
    },
    /// A whole message, borrowed from the driver.
    Received {
        /// The link.
        link: LinkId,
        /// It begins with its length; nothing else of it was checked.
        message: &'a [u8],
    },
    /// A message whose body is records that a log takes as they are ([`wire::records_head_bytes`]), left
    /// where it has come to: the peer may still write there, so that who wants the body copies it first.
    ///
    /// [`wire::records_head_bytes`]: crate::replication::wire::records_head_bytes
    Records {
        /// The link.
        link: LinkId,
        /// Its head, a copy.
        head: &'a [u8],
        /// What is behind its head. Head and body are as long as the message says; nothing else was checked.
        body: &'a dyn Foreign,
    },
    /// A send found no room, and there is some now.
    Room {
        /// The link.
        link: LinkId,
    },
    /// The link is over and its id is dead. Exactly one per link, the last that is heard of it. The
    /// peer can write nothing any more that this core would see.
    Down {
        /// The link.
        link: LinkId,
        /// Why.
        cause: LinkDown,
    },
}

/// Why a link ended, or never was one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkDown {
    /// [`Links::revoke`].
    Revoked,
    /// The peer ended it.
    Ended,
    /// The kernel or the device reported an error (an `errno` value): a reset, or a peer that has
    /// been silent for too long.
    Error(i32),
    /// The peer was not reached in the time that dialing may take; the last `errno` value.
    Unreachable(i32),
    /// No hello came in time.
    Silent,
    /// The peer ended it before it had answered.
    TurnedAway,
    /// What the peer said first is no hello.
    NoHello(HelloError),
    /// The peer's hello is not for this node.
    Refused(Refused),
    /// A message said that it has this many bytes, which none may have.
    Length(u32),
    /// Too many that have not said hello yet, or too many links.
    Crowded,
}

impl fmt::Display for LinkDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errno = |errno: &i32| std::io::Error::from_raw_os_error(*errno);
        match self {
            Self::Revoked => f.write_str("ended by this node"),
            Self::Ended => f.write_str("ended by the peer"),
            Self::Error(number) => write!(f, "{}", errno(number)),
            Self::Unreachable(number) => write!(f, "not reached: {}", errno(number)),
            Self::Silent => f.write_str("no hello in time"),
            Self::TurnedAway => f.write_str("turned away by the peer, whose log says why"),
            Self::NoHello(error) => write!(f, "{error}"),
            Self::Refused(refused) => write!(f, "{refused}"),
            Self::Length(bytes) => write!(f, "a message of {bytes} bytes, which none may have"),
            Self::Crowded => f.write_str("too many links"),
        }
    }
}

/// A link between its acceptance and the core that it belongs to; nothing is in flight on it.
#[derive(Debug)]
pub struct Arrival {
    /// The socket.
    pub socket: OwnedFd,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// What the peer said.
    pub hello: Hello,
    /// What will carry it.
    pub carrier: Carrier,
}

/// A link that was dialed with more than TCP on offer, and that the answer leaves to TCP: both hellos
/// were said, and nothing else was read or sent.
#[derive(Debug)]
pub struct Dialed {
    /// The link.
    pub link: LinkId,
    /// The socket, which blocks.
    pub socket: OwnedFd,
    /// Whom it reaches.
    pub peer: SocketAddr,
    /// What this node said.
    pub own: Box<Hello>,
    /// What the peer answered.
    pub theirs: Box<Hello>,
}

/// Why a message was not taken. It is still the caller's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unsent {
    /// As much waits as may: [`LinkEvent::Room`] follows.
    NoRoom,
    /// The link is not up.
    NotUp,
}

/// What a core asks of the driver, besides sending.
#[derive(Debug)]
pub enum LinkCommand {
    /// Dial.
    Connect {
        /// The link, to be.
        link: LinkId,
        /// Where the peer accepts.
        address: SocketAddr,
        /// What to say.
        hello: Box<Hello>,
    },
    /// Say this and be up.
    Answer {
        /// A link that was greeted.
        link: LinkId,
        /// What to say.
        hello: Box<Hello>,
    },
    /// End it now.
    Revoke(LinkId),
    /// Take in what another core, or another driver of this one, accepted.
    Adopt(Box<Arrival>),
    /// Be up with what another driver of this core dialed.
    GoOn(Box<Dialed>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free,
    /// Dialing, or greeted and not answered.
    Opening,
    Up,
    /// Revoked; `Down` has not been delivered.
    Ending,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    state: State,
    carrier: Carrier,
    dirty: bool,
    wants_room: bool,
    sending_bytes: usize,
    outbox: Outbox,
}

/// The links of one core: the core's side and the driver's side of the same table.
#[derive(Debug)]
pub struct Links {
    slots: Vec<Slot>,
    free: Vec<u32>,
    dirty: Vec<LinkId>,
    commands: Vec<LinkCommand>,
    room_bytes: usize,
}

impl Links {
    /// No link yet; each takes messages while fewer than `room_bytes` bytes wait for the driver or
    /// in it. A link on which nothing waits takes one message of any length.
    #[must_use]
    pub fn new(room_bytes: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            dirty: Vec::new(),
            commands: Vec::new(),
            room_bytes,
        }
    }

    // ---- the core's side ----

    /// Dials, by what the hello offers. [`LinkEvent::Up`] follows, or [`LinkEvent::Down`] after the driver's bounded tries, which are never closer
    /// together than its back-off, also over several calls. `None` at [`LINKS_MAX`].
    pub fn connect(&mut self, address: SocketAddr, hello: Hello) -> Option<LinkId> {
        let link = self.open(Carrier::of(hello.transports))?;
        self.commands.push(LinkCommand::Connect { link, address, hello: Box::new(hello) });
        Some(link)
    }

    /// Answers a [`LinkEvent::Greeted`]; [`LinkEvent::Up`] follows.
    pub fn answer(&mut self, link: LinkId, hello: Hello) {
        if self.slot(link).is_some_and(|slot| slot.state == State::Opening) {
            self.commands.push(LinkCommand::Answer { link, hello: Box::new(hello) });
        }
    }

    /// Goes on with a link that another core, or another driver of this one, accepted;
    /// [`LinkEvent::Greeted`] follows.
    pub fn adopt(&mut self, arrival: Arrival) {
        self.commands.push(LinkCommand::Adopt(Box::new(arrival)));
    }

    /// Takes a message to send at the end of the turn: `head`, and the bytes of `body` behind it,
    /// which are not copied.
    ///
    /// # Errors
    /// [`Unsent`]; nothing was taken.
    ///
    /// # Panics
    /// If the head does not begin with the length of the whole message. That this is no more than the peer's
    /// [`Hello::message_bytes_max`] is for the caller to see to: the peer would end the link.
    pub fn send(&mut self, link: LinkId, head: &[u8], body: Option<Body>) -> Result<(), Unsent> {
        let bytes = head.len() + body.as_ref().map_or(0, Body::len);
        let length = u32::try_from(bytes).ok();
        assert_eq!(bytes_of(head, u32::MAX), Ok(length), "a message begins with its length");
        let room_bytes = self.room_bytes;
        let Some(slot) = self.slot_mut(link) else { return Err(Unsent::NotUp) };
        if slot.state != State::Up {
            return Err(Unsent::NotUp);
        }
        let unsent = slot.outbox.len() + slot.sending_bytes;
        if unsent > 0 && unsent + bytes > room_bytes {
            slot.wants_room = true;
            return Err(Unsent::NoRoom);
        }
        slot.outbox.push(head, body);
        if !slot.dirty {
            slot.dirty = true;
            self.dirty.push(link);
        }
        Ok(())
    }

    /// Ends a link now. Nothing that the peer has sent, or will send, is delivered any more;
    /// [`LinkEvent::Down`] follows, and once it has come the peer has lost its right to write.
    pub fn revoke(&mut self, link: LinkId) {
        if let Some(slot) = self.slot_mut(link)
            && slot.state != State::Ending
        {
            slot.state = State::Ending;
            self.commands.push(LinkCommand::Revoke(link));
        }
    }

    /// Whether messages can be sent.
    #[must_use]
    pub fn is_up(&self, link: LinkId) -> bool {
        self.slot(link).is_some_and(|slot| slot.state == State::Up)
    }

    /// Bytes that were taken and that the driver has not handed on yet.
    #[must_use]
    pub fn unsent_bytes(&self, link: LinkId) -> usize {
        self.slot(link).map_or(0, |slot| slot.outbox.len() + slot.sending_bytes)
    }

    /// What carries a link; `None` if it is over.
    #[must_use]
    pub fn carrier(&self, link: LinkId) -> Option<Carrier> {
        self.slot(link).map(|slot| slot.carrier)
    }

    /// How many links are up that this carries.
    #[must_use]
    pub fn up_count(&self, carrier: Carrier) -> usize {
        let is_up = |slot: &&Slot| slot.state == State::Up && slot.carrier == carrier;
        self.slots.iter().filter(is_up).count()
    }

    // ---- the driver's side ----

    /// A slot for a link; `None` at [`LINKS_MAX`].
    pub fn open(&mut self, carrier: Carrier) -> Option<LinkId> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < LINKS_MAX => {
                self.slots.push(Slot {
                    generation: 0,
                    state: State::Free,
                    carrier,
                    dirty: false,
                    wants_room: false,
                    sending_bytes: 0,
                    outbox: Outbox::default(),
                });
                self.slots.len() as u32 - 1
            }
            None => return None,
        };
        let entry = &mut self.slots[slot as usize];
        entry.state = State::Opening;
        entry.carrier = carrier;
        Some(LinkId { slot, generation: entry.generation })
    }

    /// Messages may be sent from now on. False if the link was revoked meanwhile.
    pub fn set_up(&mut self, link: LinkId) -> bool {
        let Some(slot) = self.slot_mut(link) else { return false };
        if slot.state == State::Opening {
            slot.state = State::Up;
        }
        slot.state == State::Up
    }

    /// Whether events of the link, [`LinkEvent::Down`] aside, are still due: it was not revoked.
    #[must_use]
    pub fn is_heard(&self, link: LinkId) -> bool {
        self.slot(link).is_some_and(|slot| slot.state != State::Ending)
    }

    /// Whether the core has left work for the driver.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.dirty.is_empty() || !self.commands.is_empty()
    }

    /// Moves the links that have something to send into `into`; those that ended are left out.
    pub fn take_dirty(&mut self, into: &mut Vec<LinkId>) {
        for link in self.dirty.drain(..) {
            let Some(slot) = self.slots.get_mut(link.index()) else { continue };
            if slot.generation == link.generation {
                slot.dirty = false;
                into.push(link);
            }
        }
    }

    /// As [`Links::take_dirty`], those of one carrier.
    pub fn take_dirty_of(&mut self, carrier: Carrier, into: &mut Vec<LinkId>) {
        let Self { dirty, slots, .. } = self;
        dirty.retain(|link| {
            let slot = &mut slots[link.index()];
            let is_current = slot.generation == link.generation;
            if is_current && slot.carrier == carrier {
                slot.dirty = false;
                into.push(*link);
            }
            is_current && slot.carrier != carrier
        });
    }

    /// Moves the commands of this turn into `into`, in the order in which they were given. The driver
    /// carries them out before it takes what is to be sent.
    pub fn take_commands(&mut self, into: &mut Vec<LinkCommand>) {
        into.append(&mut self.commands);
    }

    /// As [`Links::take_commands`], those of one carrier.
    pub fn take_commands_of(&mut self, carrier: Carrier, into: &mut Vec<LinkCommand>) {
        let Self { commands, slots, .. } = self;
        into.extend(commands.extract_if(.., |command| carrier_of(slots, command) == carrier));
    }

    /// Leaves a link, and what is to be done with it, to the driver of another carrier, which finds it
    /// when it next carries out commands.
    pub fn pass(&mut self, link: LinkId, carrier: Carrier, command: LinkCommand) {
        if let Some(slot) = self.slot_mut(link) {
            slot.carrier = carrier;
            self.commands.push(command);
        }
    }

    /// Takes what is to be sent, and leaves `empty` in its place.
    ///
    /// # Errors
    /// `empty`, if there is nothing.
    pub fn begin_send(&mut self, link: LinkId, empty: Outbox) -> Result<Outbox, Outbox> {
        debug_assert!(empty.is_empty());
        let Some(slot) = self.slot_mut(link) else { return Err(empty) };
        if slot.outbox.is_empty() {
            return Err(empty);
        }
        let outbox = core::mem::replace(&mut slot.outbox, empty);
        slot.sending_bytes += outbox.len();
        Ok(outbox)
    }

    /// Counts bytes that have been handed on of what [`Links::begin_send`] gave. True if the core
    /// waits for room and there is some now, so that [`LinkEvent::Room`] is due: half of the room is
    /// free again.
    pub fn sent(&mut self, link: LinkId, bytes: usize) -> bool {
        let half = self.room_bytes / 2;
        let Some(slot) = self.slot_mut(link) else { return false };
        slot.sending_bytes = slot.sending_bytes.saturating_sub(bytes);
        let has_room = slot.outbox.len() + slot.sending_bytes <= half;
        has_room && core::mem::take(&mut slot.wants_room)
    }

    /// Ends the id after [`LinkEvent::Down`] was handled.
    pub fn release(&mut self, link: LinkId) {
        let Some(slot) = self.slot_mut(link) else { return };
        slot.state = State::Free;
        slot.generation = slot.generation.wrapping_add(1);
        slot.dirty = false;
        slot.wants_room = false;
        slot.sending_bytes = 0;
        slot.outbox = Outbox::default();
        self.free.push(link.slot);
    }

    fn slot(&self, link: LinkId) -> Option<&Slot> {
        let slot = self.slots.get(link.index())?;
        (slot.generation == link.generation && slot.state != State::Free).then_some(slot)
    }

    fn slot_mut(&mut self, link: LinkId) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(link.index())?;
        (slot.generation == link.generation && slot.state != State::Free).then_some(slot)
    }
}

/// Whose command it is.
fn carrier_of(slots: &[Slot], command: &LinkCommand) -> Carrier {
    let link = match command {
        LinkCommand::Connect { link, .. } | LinkCommand::Answer { link, .. } => *link,
        LinkCommand::Revoke(link) => *link,
        LinkCommand::Adopt(arrival) => return arrival.carrier,
        LinkCommand::GoOn(dialed) => dialed.link,
    };
    slots.get(link.index()).map_or(Carrier::Tcp, |slot| slot.carrier)
}

/// Carries out what a core asks of its links. Beside [`net::Driver`](crate::net::Driver), and like it
/// on the core's own thread: nothing blocks.
pub trait LinkDriver {
    /// Takes the messages and commands of this turn and begins with them.
    fn carry_out(&mut self, links: &mut Links);

    /// Reports at most `events_max` events; how many there were. A core that sleeps is woken when
    /// there is one.
    fn deliver(
        &mut self,
        links: &mut Links,
        events_max: usize,
        on_event: &mut dyn FnMut(&mut Links, LinkEvent<'_>),
    ) -> usize;

    /// What was counted so far.
    fn link_counters(&self) -> LinkCounters;
}

/// What a link driver counts; all only grow.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct LinkCounters {
    /// Messages delivered.
    pub received_messages: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Bytes of messages that were moved once more, because they did not fit, or could not stay, where they
    /// had begun.
    pub moved_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Operations that sent them.
    pub sends: u64,
    /// Dials begun.
    pub dials: u64,
    /// Peers turned away before there was a link.
    pub turned_away: u64,
}

impl core::ops::Add for LinkCounters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            received_messages: self.received_messages + other.received_messages,
            received_bytes: self.received_bytes + other.received_bytes,
            moved_bytes: self.moved_bytes + other.moved_bytes,
            sent_bytes: self.sent_bytes + other.sent_bytes,
            sends: self.sends + other.sends,
            dials: self.dials + other.dials,
            turned_away: self.turned_away + other.turned_away,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: u32) -> Vec<u8> {
        let mut message = bytes.to_le_bytes().to_vec();
        message.resize(bytes as usize, 7);
        message
    }

    fn up(links: &mut Links) -> LinkId {
        let link = links.open(Carrier::Tcp).unwrap();
        assert!(links.set_up(link));
        link
    }

    #[test]
    fn what_does_not_fit_stays_with_the_caller_until_half_is_free() {
        let mut links = Links::new(1000);
        let link = up(&mut links);
        for _ in 0..10 {
            assert_eq!(links.send(link, &message(96), None), Ok(()));
        }
        assert_eq!(links.send(link, &message(48), None), Err(Unsent::NoRoom));
        let outbox = links.begin_send(link, Outbox::default()).unwrap();
        assert_eq!((outbox.len(), outbox.messages().count()), (960, 10));
        assert_eq!(
            links.send(link, &message(48), None),
            Err(Unsent::NoRoom),
            "it is in the driver"
        );
        assert!(!links.sent(link, 459));
        assert!(links.sent(link, 1), "once");
        assert!(!links.sent(link, 100), "nobody has asked since");
        assert_eq!(links.send(link, &message(600), None), Ok(()));
        assert_eq!(links.unsent_bytes(link), 1000);
    }

    #[test]
    fn one_long_message_goes_where_nothing_waits() {
        let mut links = Links::new(1000);
        let link = up(&mut links);
        assert_eq!(links.send(link, &message(5000), None), Ok(()));
        assert_eq!(links.send(link, &message(24), None), Err(Unsent::NoRoom));
    }

    #[test]
    fn nothing_is_sent_before_it_is_up_or_after_it_was_revoked() {
        let mut links = Links::new(1000);
        let link = links.open(Carrier::Tcp).unwrap();
        assert_eq!(links.send(link, &message(24), None), Err(Unsent::NotUp));
        assert!(links.set_up(link) && links.is_up(link) && links.is_heard(link));
        links.revoke(link);
        links.revoke(link);
        assert!(!links.is_up(link) && !links.is_heard(link) && !links.set_up(link));
        assert_eq!(links.send(link, &message(24), None), Err(Unsent::NotUp));
        let mut commands = Vec::new();
        links.take_commands(&mut commands);
        assert_eq!(commands.len(), 1, "once is enough");
        links.release(link);
        let next = up(&mut links);
        assert_eq!((next.slot, next.generation), (link.slot, link.generation + 1));
        assert_eq!(
            links.send(link, &message(24), None),
            Err(Unsent::NotUp),
            "another has the slot"
        );
        assert_eq!(links.send(next, &message(24), None), Ok(()));
    }

    #[test]
    #[should_panic(expected = "begins with its length")]
    fn a_message_that_lies_about_its_length_is_not_sent() {
        let mut links = Links::new(1000);
        let link = up(&mut links);
        let _sent = links.send(link, &message(24)[..16], None);
    }

    #[test]
    fn the_table_has_a_bound() {
        let mut links = Links::new(1000);
        let all: Vec<_> = core::iter::from_fn(|| links.open(Carrier::Tcp)).collect();
        assert_eq!(all.len(), LINKS_MAX);
        links.release(all[17]);
        assert_eq!(links.open(Carrier::Tcp).map(|link| link.slot), Some(17));
    }
}
