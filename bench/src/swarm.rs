//! Many client sockets on one thread: one epoll wait per turn, one read per ready socket, one write
//! per socket that has something to say, so that the load costs less than the broker it loads.

use crate::link::{Flushed, Lane, Link, LinkOptions, Protocol};
use ringlane_mqtt::{DecodeError, Frame, Packet, Version, decode, frame};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// A socket of a [`Swarm`]: a slot and how often it was used before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LinkId {
    slot: u32,
    generation: u32,
}

impl LinkId {
    /// Position in a table of the caller's; below [`Swarm::slots`].
    #[must_use]
    pub fn index(self) -> usize {
        self.slot as usize
    }
}

/// Something that happened to a socket.
#[derive(Debug)]
pub enum Event<'a> {
    /// The TCP connection stands.
    Opened,
    /// A packet came; where the link acknowledges, that is already queued.
    Packet(&'a Packet<'a>),
    /// Bytes came on a raw link.
    Bytes(&'a [u8]),
    /// Whole packets came on a link that is [`Link::lean`], as they are: at least one. Nothing is
    /// acknowledged.
    Packets(&'a [u8]),
    /// What came is not MQTT as the specification has it. The link is gone.
    Malformed(DecodeError),
    /// The connection is over, by the peer. The link is gone.
    Closed(Closure),
}

/// How a peer ended a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closure {
    /// FIN.
    Finished,
    /// An error of the kernel (`errno`): a reset, a refused connection.
    Failed(i32),
}

/// How to end a connection oneself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leave {
    /// FIN, after what is queued was offered to the kernel once.
    Finish,
    /// RST.
    Reset,
}

/// What the caller does with an event.
pub type OnEvent<'f> = dyn FnMut(&mut Swarm, LinkId, Event<'_>) + 'f;

/// Reads and writes of some links.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Traffic {
    /// Reads that brought bytes.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

impl Traffic {
    /// What came since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self { reads: self.reads - earlier.reads, writes: self.writes - earlier.writes }
    }
}

/// The largest packet that is accepted; brokers send what they were sent, so this is the format's.
const PACKET_BYTES_MAX: usize = 268_435_460;
/// Bytes read at once.
const SCRATCH_BYTES: usize = 256 * 1024;
/// Readiness events taken at once.
const READY_MAX: usize = 1024;

/// The sockets.
pub struct Swarm {
    epoll: OwnedFd,
    links: Vec<Option<Link>>,
    generations: Vec<u32>,
    free: Vec<u32>,
    dirty: Vec<LinkId>,
    resumed: Vec<LinkId>,
    ready: Vec<epoll::Event>,
    scratch: Vec<u8>,
    started: Instant,
    now_ns: u64,
    traffic: [Traffic; 2],
}

impl std::fmt::Debug for Swarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let open = self.links.iter().flatten().count();
        f.debug_struct("Swarm").field("open", &open).finish_non_exhaustive()
    }
}

impl Swarm {
    /// No sockets yet.
    ///
    /// # Errors
    /// If the kernel gives no epoll descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            links: Vec::new(),
            generations: Vec::new(),
            free: Vec::new(),
            dirty: Vec::new(),
            resumed: Vec::new(),
            ready: Vec::with_capacity(READY_MAX),
            scratch: vec![0; SCRATCH_BYTES],
            started: Instant::now(),
            now_ns: 0,
            traffic: [Traffic::default(); 2],
        })
    }

    /// Starts a TCP connection. What is put into [`Swarm::out`] from now on goes out once it
    /// stands.
    ///
    /// # Errors
    /// If there is no descriptor, no port, or no route.
    pub fn open(&mut self, options: &LinkOptions) -> io::Result<LinkId> {
        let link = Link::open(options)?;
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.links.push(None);
                self.generations.push(0);
                u32::try_from(self.links.len() - 1).map_err(io::Error::other)?
            }
        };
        let id = LinkId { slot, generation: self.generations[slot as usize] };
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        let data = epoll::EventData::new_u64((u64::from(id.generation) << 32) | u64::from(slot));
        if let Err(error) = epoll::add(&self.epoll, &link.socket, data, flags) {
            self.free.push(slot);
            return Err(error.into());
        }
        self.links[slot as usize] = Some(link);
        Ok(id)
    }

    /// One past the largest [`LinkId::index`] in use.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.links.len()
    }

    /// The link, or `None` once it is gone.
    #[must_use]
    pub fn link(&self, id: LinkId) -> Option<&Link> {
        if self.generations.get(id.index()) != Some(&id.generation) {
            return None;
        }
        self.links[id.index()].as_ref()
    }

    /// The link, or `None` once it is gone.
    pub fn link_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        if self.generations.get(id.index()) != Some(&id.generation) {
            return None;
        }
        self.links[id.index()].as_mut()
    }

    /// Where to put bytes for a link; they go out with the next [`Swarm::poll`]. `None` once it
    /// is gone.
    pub fn out(&mut self, id: LinkId) -> Option<&mut Vec<u8>> {
        self.mark_dirty(id);
        self.link_mut(id).map(Link::out)
    }

    /// Appends bytes for a link; nothing happens once it is gone.
    pub fn send(&mut self, id: LinkId, bytes: &[u8]) {
        if let Some(out) = self.out(id) {
            out.extend_from_slice(bytes);
        }
    }

    /// Stops or resumes reading: a client that reads nothing. What was already read still comes.
    pub fn pause(&mut self, id: LinkId, paused: bool) {
        let Some(link) = self.link_mut(id) else { return };
        link.paused = paused;
        if !paused && link.readable {
            self.resumed.push(id);
        }
    }

    /// Ends a connection; no event follows.
    pub fn close(&mut self, id: LinkId, how: Leave) {
        if let Some(link) = self.link_mut(id) {
            match how {
                Leave::Finish => {
                    if !link.connecting {
                        link.flush();
                    }
                }
                Leave::Reset => link.arm_reset(),
            }
            self.remove(id);
        }
    }

    /// Nanoseconds since this swarm was made, as of the last poll or read.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Reads the clock.
    pub fn read_clock(&mut self) -> u64 {
        self.now_ns = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.now_ns
    }

    /// Reads and writes made so far on links with that [`Link::lane`].
    #[must_use]
    pub fn traffic(&self, lane: Lane) -> Traffic {
        self.traffic[lane as usize]
    }

    /// One turn: writes what is queued, waits up to `timeout`, and reports what happened.
    /// Returns how many sockets were ready.
    ///
    /// # Errors
    /// Only what leaves the swarm unusable.
    pub fn poll(&mut self, timeout: Duration, on_event: &mut OnEvent<'_>) -> io::Result<usize> {
        self.flush();
        self.read_resumed(on_event);
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        let mut ready = mem::take(&mut self.ready);
        ready.clear();
        let spare = rustix::buffer::spare_capacity(&mut ready);
        match epoll::wait(&self.epoll, spare, Some(&timeout)) {
            // Before Linux 5.11 there is no wait of less than a millisecond: look and go on.
            Ok(_) | Err(Errno::INTR | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        self.read_clock();
        let mut scratch = mem::take(&mut self.scratch);
        for event in &ready {
            let data = event.data.u64();
            let id = LinkId { slot: data as u32, generation: (data >> 32) as u32 };
            self.on_ready(id, event.flags, &mut scratch, on_event);
        }
        self.scratch = scratch;
        let count = ready.len();
        self.ready = ready;
        self.flush();
        Ok(count)
    }

    /// Writes what is queued, once per socket.
    fn flush(&mut self) {
        let mut dirty = mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            let Some(link) = self.link_mut(id) else { continue };
            link.dirty = false;
            if link.connecting || link.blocked || link.unsent_bytes() == 0 {
                continue;
            }
            let _: Flushed = link.flush();
            let lane = link.lane;
            self.traffic[lane as usize].writes += 1;
        }
        self.dirty = dirty;
    }

    fn read_resumed(&mut self, on_event: &mut OnEvent<'_>) {
        if self.resumed.is_empty() {
            return;
        }
        let mut scratch = mem::take(&mut self.scratch);
        for id in mem::take(&mut self.resumed) {
            self.read(id, true, &mut scratch, on_event);
        }
        self.scratch = scratch;
    }

    fn on_ready(
        &mut self,
        id: LinkId,
        flags: epoll::EventFlags,
        scratch: &mut [u8],
        on_event: &mut OnEvent<'_>,
    ) {
        let Some(link) = self.link_mut(id) else { return };
        if link.connecting {
            if let Err(error) = link.finish_connect() {
                let errno = error.raw_os_error().unwrap_or_default();
                self.remove(id);
                on_event(self, id, Event::Closed(Closure::Failed(errno)));
                return;
            }
            if !flags.intersects(epoll::EventFlags::OUT) {
                link.connecting = true;
                return;
            }
            self.mark_dirty(id);
            on_event(self, id, Event::Opened);
        } else if flags.intersects(epoll::EventFlags::OUT) && link.blocked {
            link.blocked = false;
            self.mark_dirty(id);
        }
        let input = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        let ended = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        if flags.intersects(input | ended) {
            self.read(id, flags.intersects(ended), scratch, on_event);
        }
    }

    /// Reads until the socket is empty. A short read means empty, unless the end has come too.
    fn read(&mut self, id: LinkId, to_end: bool, scratch: &mut [u8], on_event: &mut OnEvent<'_>) {
        loop {
            let Some(link) = self.link_mut(id) else { return };
            if link.paused {
                link.readable = true;
                return;
            }
            link.readable = false;
            let lane = link.lane;
            match rustix::io::read(&link.socket, &mut *scratch) {
                Ok(0) => return self.end(id, Closure::Finished, on_event),
                Ok(bytes) => {
                    self.traffic[lane as usize].reads += 1;
                    self.read_clock();
                    self.deliver(id, &scratch[..bytes], on_event);
                    if bytes < scratch.len() && !to_end {
                        return;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(error) => {
                    return self.end(id, Closure::Failed(error.raw_os_error()), on_event);
                }
            }
        }
    }

    fn end(&mut self, id: LinkId, closure: Closure, on_event: &mut OnEvent<'_>) {
        self.remove(id);
        on_event(self, id, Event::Closed(closure));
    }

    fn deliver(&mut self, id: LinkId, bytes: &[u8], on_event: &mut OnEvent<'_>) {
        let Some(link) = self.link_mut(id) else { return };
        link.received_bytes += bytes.len() as u64;
        let Protocol::Mqtt(version) = link.protocol else {
            on_event(self, id, Event::Bytes(bytes));
            return;
        };
        if link.partial.is_empty() {
            let consumed = self.packets(id, version, bytes, on_event);
            if let Some(link) = self.link_mut(id) {
                link.partial.extend_from_slice(&bytes[consumed..]);
            }
            return;
        }
        let mut partial = mem::take(&mut link.partial);
        partial.extend_from_slice(bytes);
        let consumed = self.packets(id, version, &partial, on_event);
        partial.drain(..consumed);
        if let Some(link) = self.link_mut(id)
            && !partial.is_empty()
        {
            link.partial = partial;
        }
    }

    /// Decodes whole packets and reports them; returns the bytes they took.
    fn packets(
        &mut self,
        id: LinkId,
        version: Version,
        bytes: &[u8],
        on_event: &mut OnEvent<'_>,
    ) -> usize {
        if self.link(id).is_some_and(|link| link.lean) {
            return self.whole_packets(id, bytes, on_event);
        }
        let mut consumed = 0;
        while consumed < bytes.len() {
            let packet = match frame(&bytes[consumed..], PACKET_BYTES_MAX) {
                Ok(Frame::Complete(raw)) => {
                    consumed += raw.total_bytes;
                    decode(version, raw)
                }
                Ok(Frame::Incomplete { .. }) => break,
                Err(error) => Err(error),
            };
            match packet {
                Ok(packet) => self.on_packet(id, &packet, on_event),
                Err(error) => {
                    self.remove(id);
                    on_event(self, id, Event::Malformed(error));
                }
            }
            if self.link(id).is_none() {
                return bytes.len();
            }
        }
        consumed
    }

    /// Reports whole packets in one piece; returns the bytes they took.
    fn whole_packets(&mut self, id: LinkId, bytes: &[u8], on_event: &mut OnEvent<'_>) -> usize {
        let mut consumed = 0;
        loop {
            match frame(&bytes[consumed..], PACKET_BYTES_MAX) {
                Ok(Frame::Complete(raw)) => consumed += raw.total_bytes,
                Ok(Frame::Incomplete { .. }) => break,
                Err(error) => {
                    self.remove(id);
                    on_event(self, id, Event::Malformed(error));
                    return bytes.len();
                }
            }
        }
        if consumed > 0 {
            on_event(self, id, Event::Packets(&bytes[..consumed]));
        }
        consumed
    }

    fn on_packet(&mut self, id: LinkId, packet: &Packet<'_>, on_event: &mut OnEvent<'_>) {
        if let Some(link) = self.link_mut(id)
            && link.acknowledge
        {
            link.answer(packet);
            if link.unsent_bytes() > 0 {
                self.mark_dirty(id);
            }
        }
        on_event(self, id, Event::Packet(packet));
    }

    fn mark_dirty(&mut self, id: LinkId) {
        if let Some(link) = self.link_mut(id)
            && !link.dirty
        {
            link.dirty = true;
            self.dirty.push(id);
        }
    }

    fn remove(&mut self, id: LinkId) {
        if self.link(id).is_some() {
            self.links[id.index()] = None;
            self.generations[id.index()] = id.generation.wrapping_add(1);
            self.free.push(id.slot);
        }
    }
}
