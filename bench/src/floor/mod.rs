//! The floor: a relay that frames MQTT and forwards the bytes, and does nothing else. What it
//! spends on a message is what the kernel's sockets cost, so a broker's own part is the difference.
//!
//! It answers what a client needs to get going (CONNECT, SUBSCRIBE, UNSUBSCRIBE, PINGREQ). The
//! topic of a connection's first PUBLISH decides once and for all where its packets go: to each
//! connection with a filter that matches. From then on nothing but the fixed header and the length
//! of a packet is looked at, and what came in goes out byte by byte:
//!
//! - the ready list of an edge-triggered epoll is worked off in one turn; a read takes all there is;
//! - whole packets leave straight from the read buffer, one write per output and turn. Inputs of
//!   the same output are read behind each other, so that they are mostly one contiguous piece;
//! - an output that the kernel does not take in full stops the inputs that feed it, so nothing is
//!   lost and little is held.
//!
//! QoS 0 without retain only; anything else ends the connection with a line that says why.

mod cut;
mod peer;
mod setup;
mod turn;

use peer::Peer;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{self, SocketFlags, sockopt};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

/// The largest packet that is relayed, in bytes.
pub const PACKET_BYTES_MAX: usize = 1 << 20;
/// Bytes taken from a socket at once.
const READ_BYTES: usize = 256 * 1024;
/// The read buffer: what the inputs of a turn may add up to before their outputs are written.
const ARENA_BYTES: usize = 4 << 20;
/// Readiness events taken at once.
const READY_MAX: usize = 1024;
/// The listener's mark among the events; no slot has it.
const LISTENER: u64 = u64::MAX;

/// The relay.
pub struct Floor {
    epoll: OwnedFd,
    listener: TcpListener,
    peers: Vec<Option<Peer>>,
    generations: Vec<u32>,
    free: Vec<usize>,
    arena: Arena,
    /// Inputs with more to read than they were given in their turn, or that may go on.
    again: Vec<usize>,
    /// Outputs with segments of this turn.
    dirty: Vec<usize>,
    unbatched: bool,
}

/// The read buffer and how much of it waits to be written at the end of the turn.
struct Arena {
    bytes: Vec<u8>,
    used: usize,
}

impl std::fmt::Debug for Floor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let open = self.peers.iter().flatten().count();
        f.debug_struct("Floor").field("open", &open).finish_non_exhaustive()
    }
}

impl Floor {
    /// Listens on an address; port 0 is the kernel's choice. With `unbatched`, each packet is a
    /// write of its own.
    ///
    /// # Errors
    /// If the address is taken or there is no descriptor left.
    pub fn bind(address: SocketAddr, unbatched: bool) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(LISTENER);
        epoll::add(&epoll, &listener, data, epoll::EventFlags::IN)?;
        Ok(Self {
            epoll,
            listener,
            peers: Vec::new(),
            generations: Vec::new(),
            free: Vec::new(),
            arena: Arena { bytes: vec![0; ARENA_BYTES], used: 0 },
            again: Vec::new(),
            dirty: Vec::new(),
            unbatched,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Relays until the process ends. What it refuses is a line in `log`.
    ///
    /// # Errors
    /// Only what leaves it unable to go on.
    pub fn run(&mut self, log: &mut dyn Write) -> io::Result<()> {
        let mut ready: Vec<epoll::Event> = Vec::with_capacity(READY_MAX);
        loop {
            ready.clear();
            let timeout = if self.again.is_empty() { None } else { Some(&turn::AT_ONCE) };
            let spare = rustix::buffer::spare_capacity(&mut ready);
            match epoll::wait(&self.epoll, spare, timeout) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.turn(&ready, log);
        }
    }

    fn accept(&mut self) {
        while let Ok(socket) =
            net::accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)
        {
            // A peer that is gone already is met at the first read.
            let _ = sockopt::set_tcp_nodelay(&socket, true);
            let slot = self.free.pop().unwrap_or(self.peers.len());
            if slot == self.peers.len() {
                self.peers.push(None);
                self.generations.push(0);
            }
            let data = (u64::from(self.generations[slot]) << 32) | slot as u64;
            let flags = epoll::EventFlags::IN
                | epoll::EventFlags::OUT
                | epoll::EventFlags::RDHUP
                | epoll::EventFlags::ET;
            match epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(data), flags) {
                Ok(()) => self.peers[slot] = Some(Peer::new(socket)),
                Err(_) => self.free.push(slot),
            }
        }
    }

    /// Forgets a connection and its wires; the inputs that waited for it go on.
    fn remove(&mut self, slot: usize) {
        // Before a wire goes: what waits on it may not be overtaken.
        self.write_segments();
        let Some(peer) = self.peers[slot].take() else { return };
        self.generations[slot] = self.generations[slot].wrapping_add(1);
        self.free.push(slot);
        for input in peer.inputs.iter().copied().filter(|input| *input != slot) {
            let Some(other) = self.peers[input].as_mut() else { continue };
            other.outputs.retain(|output| *output != slot);
            if peer.is_full() {
                self.release(input);
            }
            self.settle_input(input);
        }
        for output in peer.outputs.iter().copied().filter(|output| *output != slot) {
            let Some(other) = self.peers[output].as_mut() else { continue };
            other.inputs.retain(|input| *input != slot);
            self.settle_output(output);
        }
    }

    /// Whether an input's packets can be written as they are read: nobody else feeds its outputs.
    fn settle_input(&mut self, slot: usize) {
        let fed_by_one =
            |output: &usize| self.peers[*output].as_ref().is_none_or(|peer| peer.inputs.len() == 1);
        let Some(peer) = &self.peers[slot] else { return };
        let direct = peer.outputs.iter().all(fed_by_one);
        if let Some(peer) = &mut self.peers[slot] {
            peer.direct = direct;
        }
    }

    /// One of an input's outputs has room again, or is gone.
    fn release(&mut self, slot: usize) {
        let Some(peer) = &mut self.peers[slot] else { return };
        peer.blocked_by -= 1;
        if peer.blocked_by == 0 && peer.readable {
            self.again.push(slot);
        }
    }
}
