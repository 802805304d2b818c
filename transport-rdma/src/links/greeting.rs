//! The connection that a link over verbs is agreed on: hellos both ways, then one byte with which the
//! dialer says that it is ready. It stays open for as long as the link: that it ends tells of the end
//! of the peer's process at once, where a queue pair would notice only after its retries.

use core::net::SocketAddr;
use ringlane_dataplane::link::LinkDown;
use ringlane_dataplane::replication::hello::{HELLO_BYTES, Hello, HelloError};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What the dialer says behind its hello once its queue pair is ready.
const READY: u8 = 1;

/// A connection without an operation that blocks.
#[derive(Debug)]
pub(super) struct Greeting {
    stream: TcpStream,
    unsent: Vec<u8>,
    heard: Vec<u8>,
}

/// What a look at a connection found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Heard<T> {
    /// All of it.
    Whole(T),
    /// More has to come.
    Partial,
    /// The peer has closed it.
    End,
}

impl Greeting {
    /// Takes in a connection that was accepted.
    pub(super) fn accepted(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, unsent: Vec::new(), heard: Vec::new() })
    }

    /// Takes in one that another driver accepted, with nothing behind its hello.
    pub(super) fn adopted(socket: OwnedFd) -> io::Result<Self> {
        Self::accepted(TcpStream::from(socket))
    }

    /// Begins to connect.
    pub(super) fn dial(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(Self { stream: socket.into(), unsent: Vec::new(), heard: Vec::new() }),
        }
    }

    /// Whether the connection stands, once it is writable.
    pub(super) fn outcome(&self) -> io::Result<()> {
        match self.stream.take_error()? {
            Some(error) => Err(error),
            None => self.stream.peer_addr().map(|_| ()),
        }
    }

    /// Sends a hello; what does not fit goes with the next call of `push_on`.
    pub(super) fn say(&mut self, hello: &Hello) -> io::Result<()> {
        self.unsent.extend(hello.encode());
        self.push_on()
    }

    /// Says that this end is ready.
    pub(super) fn say_ready(&mut self) -> io::Result<()> {
        self.unsent.push(READY);
        self.push_on()
    }

    /// Sends what is left.
    pub(super) fn push_on(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(bytes) => drop(self.unsent.drain(..bytes)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The peer's hello. No more is read than that.
    pub(super) fn hello(&mut self) -> Result<Heard<Hello>, LinkDown> {
        let is_open = self.read(HELLO_BYTES).map_err(|error| LinkDown::Error(errno(&error)))?;
        match Hello::decode(&self.heard) {
            Ok(hello) => {
                self.heard.clear();
                Ok(Heard::Whole(hello))
            }
            Err(HelloError::Short) if is_open => Ok(Heard::Partial),
            Err(HelloError::Short) if self.heard.is_empty() => Ok(Heard::End),
            Err(error) => Err(LinkDown::NoHello(error)),
        }
    }

    /// Whether the peer has said that it is ready.
    pub(super) fn ready(&mut self) -> Result<Heard<()>, LinkDown> {
        let is_open = self.read(1).map_err(|error| LinkDown::Error(errno(&error)))?;
        match self.heard.as_slice() {
            [READY] => Ok(Heard::Whole(())),
            [] if is_open => Ok(Heard::Partial),
            [] => Ok(Heard::End),
            _ => Err(LinkDown::NoHello(HelloError::Value)),
        }
    }

    /// Whether the connection of a link that is up has ended. Nothing may be said on it.
    pub(super) fn has_ended(&mut self) -> bool {
        self.heard.clear();
        !matches!(self.read(1), Ok(true)) || !self.heard.is_empty()
    }

    /// Reads until that much was heard or nothing is there; false once the peer has closed.
    fn read(&mut self, bytes_max: usize) -> io::Result<bool> {
        let mut buffer = [0; HELLO_BYTES];
        while self.heard.len() < bytes_max {
            let room = bytes_max - self.heard.len();
            match self.stream.read(&mut buffer[..room]) {
                Ok(0) => return Ok(false),
                Ok(bytes) => self.heard.extend(&buffer[..bytes]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The socket, to hand it over: as others take it, so that it blocks.
    pub(super) fn into_socket(self) -> io::Result<OwnedFd> {
        self.stream.set_nonblocking(false)?;
        Ok(self.stream.into())
    }
}

/// The `errno` value of an error.
pub(super) fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

impl AsFd for Greeting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringlane_dataplane::ids::{CoreId, NodeId};
    use ringlane_dataplane::log::format::DirectoryId;
    use ringlane_dataplane::replication::hello::{DirectoryTag, RdmaEnd, Transports};
    use std::net::TcpListener;

    fn hello() -> Hello {
        Hello {
            cluster: DirectoryId([1; 16]),
            from: NodeId(1),
            to: NodeId(2),
            from_core: CoreId(0),
            to_core: CoreId(0),
            cores: 1,
            partitions: 4,
            message_bytes_max: 1 << 20,
            transports: Transports::TCP,
            directory: DirectoryTag::default(),
            rdma: RdmaEnd::default(),
        }
    }

    fn pair() -> (TcpStream, Greeting) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let dialer = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (accepted, _) = listener.accept().expect("accepted");
        (dialer, Greeting::accepted(accepted).expect("a connection"))
    }

    /// Looks until there is something: loopback delivers within the call, mostly.
    fn settle<T>(
        mut look: impl FnMut() -> Result<Heard<T>, LinkDown>,
    ) -> Result<Heard<T>, LinkDown> {
        for _ in 0..10_000 {
            match look() {
                Ok(Heard::Partial) => std::thread::yield_now(),
                other => return other,
            }
        }
        Ok(Heard::Partial)
    }

    #[test]
    fn a_hello_and_the_ready_byte_come_apart() {
        let (mut dialer, mut accepted) = pair();
        let mut bytes = hello().encode().to_vec();
        bytes.push(READY);
        dialer.write_all(&bytes).expect("sent");
        assert_eq!(settle(|| accepted.hello()), Ok(Heard::Whole(hello())));
        assert_eq!(settle(|| accepted.ready()), Ok(Heard::Whole(())));
        assert!(!accepted.has_ended());
        drop(dialer);
        let ended = settle(|| match accepted.has_ended() {
            true => Ok(Heard::Whole(())),
            false => Ok(Heard::Partial),
        });
        assert_eq!(ended, Ok(Heard::Whole(())));
    }

    #[test]
    fn who_is_no_node_is_refused_at_once() {
        let (mut dialer, mut accepted) = pair();
        dialer.write_all(b"GET / HTTP/1.1\r\n").expect("sent");
        assert_eq!(settle(|| accepted.hello()), Err(LinkDown::NoHello(HelloError::Magic)));
    }

    #[test]
    fn an_end_before_the_hello_is_one() {
        let (dialer, mut accepted) = pair();
        drop(dialer);
        assert_eq!(settle(|| accepted.hello()), Ok(Heard::End));
    }
}
