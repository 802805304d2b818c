//! The way of a link until it is up: dial or accept, hellos, the move to another core.

use super::config::LinkConfig;
use super::peer::{Dial, Peer, Phase};
use super::table::{Ready, TcpLinks};
use crate::engine::{ConnectStart, Engine};
use crate::sys;
use core::net::SocketAddr;
use core::time::Duration;
use ringlane_dataplane::ids::{ConnectionId, Lane};
use ringlane_dataplane::link::{Arrival, Carrier, Dialed, LinkDown, LinkId};
use ringlane_dataplane::net::Output;
use ringlane_dataplane::replication::hello::{
    Expected, HELLO_BYTES, Hello, HelloError, Refused, Transports,
};
use ringlane_dataplane::time::Nanos;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

impl TcpLinks {
    // ---- accepting ----

    /// A listener for links accepted a socket.
    pub(crate) fn accept<E: Engine>(
        &mut self,
        engine: &mut E,
        socket: OwnedFd,
        address: SocketAddr,
    ) {
        let Some(config) = &self.config else { return };
        let deadline = self.now + config.hello_timeout;
        if self.greeting_count() >= usize::from(config.greetings_max)
            && let Some(silent) = self.longest_greeting()
        {
            // A node says who it is at once: who has said nothing for longest makes room.
            self.finish(engine, silent, LinkDown::Crowded);
        }
        if !self.has_room() {
            return self.turned_away(address, LinkDown::Crowded);
        }
        if let Some(id) = self.take_in(engine, socket, address, Phase::Greeting) {
            self.set_deadline(id, deadline);
            self.receive(engine, id);
        }
    }

    /// A socket that another core accepted, whose hello was checked there.
    pub(super) fn adopt<E: Engine>(&mut self, engine: &mut E, arrival: Arrival) {
        let Arrival { socket, peer: address, hello, carrier: _ } = arrival;
        let Some(config) = &self.config else { return };
        let deadline = self.now + config.hello_timeout;
        if !self.has_room() {
            return self.turned_away(address, LinkDown::Crowded);
        }
        if hello.to_core != self.core {
            let refused = LinkDown::Refused(Refused::Core(hello.to_core));
            return self.turned_away(address, refused);
        }
        if let Some(id) = self.take_in(engine, socket, address, Phase::Greeted) {
            if let Some(peer) = self.peer(id) {
                peer.theirs = Some(Box::new(hello));
            }
            self.set_deadline(id, deadline);
            self.ready.push_back(Ready::Greeted(id));
        }
    }

    fn take_in<E: Engine>(
        &mut self,
        engine: &mut E,
        socket: OwnedFd,
        address: SocketAddr,
        phase: Phase,
    ) -> Option<ConnectionId> {
        let config = self.config.as_ref()?;
        if let Err(error) = set_options(socket.as_fd(), config) {
            self.turned_away(address, LinkDown::Error(sys::errno_of(&error)));
            return None;
        }
        let id = self.insert(address, phase);
        if let Err(errno) = engine.add(id, socket.as_fd()) {
            self.remove(id);
            self.turned_away(address, LinkDown::Error(errno));
            return None;
        }
        if let Some(peer) = self.peer(id) {
            peer.socket = Some(socket);
        }
        Some(id)
    }

    // ---- dialing ----

    pub(super) fn dial(&mut self, link: LinkId, address: SocketAddr, hello: Box<Hello>) {
        if self.config.is_none() {
            let nothing = LinkDown::Unreachable(libc::EOPNOTSUPP);
            return self.ready.push_back(Ready::Down(link, nothing));
        }
        let id = self.insert(address, Phase::Resting);
        self.bind(id, link);
        if let Some(peer) = self.peer(id) {
            peer.own = Some(hello);
            let target = Box::new(address.into());
            peer.dial = Some(Dial { target, gives_up_at: Nanos::NEVER, is_late: false });
        }
        self.rest(id);
    }

    /// Waits for the time of the next try.
    fn rest(&mut self, id: ConnectionId) {
        let Some(config) = &self.config else { return };
        let limits = (config.backoff_min, config.backoff_max);
        let Some(Peer { address, own: Some(own), .. }) = self.peer(id) else { return };
        let target = (*address, own.to_core);
        let at = self.backoffs.next(target, self.now, limits);
        if let Some(peer) = self.peer(id) {
            peer.phase = Phase::Resting;
        }
        self.set_deadline(id, at);
    }

    fn connect<E: Engine>(&mut self, engine: &mut E, id: ConnectionId) {
        let Some(config) = &self.config else { return };
        let (deadline, gives_up_at) =
            (self.now + config.connect_timeout, self.now + config.dial_timeout);
        let Some(peer) = self.peer(id) else { return };
        let address = peer.address;
        if let Some(dial) = &mut peer.dial {
            dial.gives_up_at = dial.gives_up_at.min(gives_up_at);
            dial.is_late = false;
        }
        peer.phase = Phase::Connecting;
        self.counters.dials += 1;
        let Some(config) = &self.config else { return };
        let socket = match open(address, config) {
            Ok(socket) => socket,
            Err(error) => return self.on_try_failed(engine, id, sys::errno_of(&error)),
        };
        self.set_deadline(id, deadline);
        let Some(peer) = self.peer(id) else { return };
        let Some(dial) = &peer.dial else { return };
        let started = engine.start_connect(id, socket.as_fd(), &dial.target);
        peer.socket = Some(socket);
        peer.connecting = started == ConnectStart::InFlight;
        if let ConnectStart::Ended(result) = started {
            self.on_connected(engine, id, result);
        }
    }

    /// A try to connect has ended.
    pub(crate) fn on_connected<E: Engine>(
        &mut self,
        engine: &mut E,
        id: ConnectionId,
        result: Result<(), i32>,
    ) {
        let Some(peer) = self.peer(id) else { return };
        peer.connecting = false;
        if peer.closing.is_some() {
            return self.settle(engine, id);
        }
        let is_late = peer.dial.as_ref().is_some_and(|dial| dial.is_late);
        let result = result.and_then(|()| match &peer.socket {
            Some(socket) => pending_error(socket.as_fd()),
            None => Err(libc::EBADF),
        });
        match result {
            Ok(()) => {
                peer.phase = Phase::Greeting;
                let hello = peer.own.as_ref().map(|own| own.encode());
                let timeout = self.config.as_ref().map_or(Duration::ZERO, |it| it.hello_timeout);
                self.set_deadline(id, self.now + timeout);
                if let Some(hello) = hello {
                    self.say(engine, id, &hello);
                }
                self.receive(engine, id);
            }
            Err(_) if is_late => self.on_try_failed(engine, id, libc::ETIMEDOUT),
            Err(errno) => self.on_try_failed(engine, id, errno),
        }
    }

    fn on_try_failed<E: Engine>(&mut self, engine: &mut E, id: ConnectionId, errno: i32) {
        let now = self.now;
        let Some(peer) = self.peer(id) else { return };
        if let Some(socket) = peer.socket.take() {
            engine.remove(id, socket.as_fd());
        }
        let gives_up = peer.dial.as_ref().is_none_or(|dial| dial.gives_up_at <= now);
        if gives_up {
            self.finish(engine, id, LinkDown::Unreachable(errno));
        } else {
            self.rest(id);
        }
    }

    /// A link that another driver of this core has dialed, after both hellos.
    pub(super) fn go_on<E: Engine>(&mut self, engine: &mut E, dialed: Dialed) {
        let Dialed { link, socket, peer: address, own, theirs } = dialed;
        let Some(config) = &self.config else {
            let nothing = LinkDown::Error(libc::EOPNOTSUPP);
            return self.ready.push_back(Ready::Down(link, nothing));
        };
        let options = set_options(socket.as_fd(), config).map_err(|error| sys::errno_of(&error));
        let id = self.insert(address, Phase::Greeting);
        self.bind(id, link);
        let added = options.and_then(|()| engine.add(id, socket.as_fd()));
        if let Some(peer) = self.peer(id) {
            peer.socket = added.is_ok().then_some(socket);
            (peer.own, peer.theirs) = (Some(own), Some(theirs));
        }
        match added {
            Ok(()) => self.rise(engine, id),
            Err(errno) => self.finish(engine, id, LinkDown::Error(errno)),
        }
    }

    // ---- hellos ----

    /// Sends a hello: the first bytes of a link in this direction.
    fn say<E: Engine>(&mut self, engine: &mut E, id: ConnectionId, hello: &[u8; HELLO_BYTES]) {
        let Some(peer) = self.peer(id) else { return };
        let mut output = Output::default();
        output.bytes.extend_from_slice(hello);
        let _nothing_before = peer.sending.restart(output);
        peer.says_hello = true;
        self.send_rest(engine, id);
    }

    /// Bytes of a hello came, or its connection has ended.
    pub(super) fn greet<E: Engine>(&mut self, engine: &mut E, id: ConnectionId) {
        let Some(config) = &self.config else { return };
        let (expected, transports) = (config.expected, config.transports);
        let core = self.core;
        let Some(peer) = self.peer(id) else { return };
        let hello = match Hello::decode(peer.assembly.received()) {
            Ok(hello) => hello,
            Err(HelloError::Short) if peer.end.is_none() => return self.receive(engine, id),
            Err(error) => {
                let cause = if peer.dial.is_some() && error == HelloError::Short {
                    LinkDown::TurnedAway
                } else {
                    LinkDown::NoHello(error)
                };
                return self.finish(engine, id, cause);
            }
        };
        peer.assembly.skip(HELLO_BYTES);
        let checked = match (&peer.dial, &peer.own) {
            (Some(_), Some(own)) => check_answer(&expected, &hello, own),
            _ => expected.check(&hello, transports),
        };
        peer.theirs = Some(Box::new(hello));
        let is_dialer = peer.dial.is_some();
        let carrier = transports.choose(hello.transports).map_or(Carrier::Tcp, Carrier::of);
        match checked {
            Err(refused) => self.finish(engine, id, LinkDown::Refused(refused)),
            Ok(()) if is_dialer => self.rise(engine, id),
            Ok(()) if hello.to_core != core || carrier != Carrier::Tcp => {
                // Nothing is in flight: it stays as it is until it has gone.
                peer.phase = Phase::Greeted;
                peer.deadline = Nanos::NEVER;
                self.ready.push_back(Ready::Elsewhere(id));
            }
            Ok(()) => {
                peer.phase = Phase::Greeted;
                self.ready.push_back(Ready::Greeted(id));
            }
        }
    }

    /// Messages may come from now on; the core hears of it before the first.
    fn rise<E: Engine>(&mut self, engine: &mut E, id: ConnectionId) {
        let now = self.now;
        let Some(peer) = self.peer(id) else { return };
        peer.phase = Phase::Up;
        peer.up_since = now;
        peer.deadline = Nanos::NEVER;
        self.ready.push_back(Ready::Up(id));
        self.receive(engine, id);
    }

    pub(super) fn answer<E: Engine>(
        &mut self,
        engine: &mut E,
        link: LinkId,
        mut hello: Box<Hello>,
    ) {
        // What was chosen, not what this node could do besides.
        hello.transports = Transports::TCP;
        let Some(peer) = self.of_link(link) else { return };
        if peer.phase != Phase::Greeted || peer.closing.is_some() {
            return;
        }
        let id = peer.id;
        let bytes = hello.encode();
        peer.own = Some(hello);
        self.say(engine, id, &bytes);
        self.rise(engine, id);
    }

    // ---- time ----

    pub(super) fn on_deadline<E: Engine>(&mut self, engine: &mut E, id: ConnectionId) {
        let Some(peer) = self.peer(id) else { return };
        peer.deadline = Nanos::NEVER;
        if peer.closing.is_some() {
            return;
        }
        match peer.phase {
            Phase::Resting => self.connect(engine, id),
            Phase::Connecting => {
                if let Some(dial) = &mut peer.dial {
                    dial.is_late = true;
                }
                peer.connecting = !engine.stop_connect(id);
                if !peer.connecting {
                    self.on_try_failed(engine, id, libc::ETIMEDOUT);
                }
            }
            Phase::Greeting | Phase::Greeted => self.finish(engine, id, LinkDown::Silent),
            Phase::Up => {}
        }
    }
}

/// Whether the hello of a peer that was dialed is the one that was to be expected.
fn check_answer(expected: &Expected, theirs: &Hello, own: &Hello) -> Result<(), Refused> {
    let lane = Lane { core: own.from_core, peer: own.to, peer_core: own.to_core };
    expected.check_answer(theirs, own.transports, lane)
}

fn open(address: SocketAddr, config: &LinkConfig) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    set_options(socket.as_fd(), config)?;
    Ok(socket.into())
}

/// What makes a silent peer an error of its socket, tcp(7).
fn set_options(socket: BorrowedFd<'_>, config: &LinkConfig) -> io::Result<()> {
    let socket = SockRef::from(&socket);
    let second = Duration::from_secs(1);
    // How often the kernel probes is for TCP_USER_TIMEOUT to say, which overrides the number of probes.
    let probes = TcpKeepalive::new().with_time(second).with_interval(second);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(Some(config.silence))
}

fn pending_error(socket: BorrowedFd<'_>) -> Result<(), i32> {
    match SockRef::from(&socket).take_error() {
        Ok(None) => Ok(()),
        Ok(Some(error)) | Err(error) => Err(sys::errno_of(&error)),
    }
}
