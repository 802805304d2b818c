//! Listening sockets: one per core on the same port, so that the kernel spreads connections.

use crate::config::TransportError;
use core::net::SocketAddr;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// A socket that listens for one core.
#[derive(Debug)]
pub struct ListenSocket {
    socket: Socket,
    address: SocketAddr,
}

impl ListenSocket {
    /// The address it listens on, with the port the kernel chose if 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Whether accept may wait; epoll wants it not to, io_uring waits on its own.
    pub(crate) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket.set_nonblocking(nonblocking)
    }
}

impl AsFd for ListenSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Opens one listening socket per core on `address`; port 0 lets the kernel choose one for all.
///
/// Accepted sockets inherit `TCP_NODELAY` (tcp(7)). The unspecified IPv6 address takes IPv4 too.
/// With `SO_REUSEPORT` alone a second broker of the same user would silently share the port, so
/// the address is first bound without it.
///
/// # Errors
/// [`TransportError::AddressInUse`] if anybody listens there, [`TransportError::System`] else.
///
/// # Panics
/// If `cores` is 0.
pub fn bind(
    address: SocketAddr,
    cores: usize,
    backlog: u32,
) -> Result<Vec<ListenSocket>, TransportError> {
    assert!(cores > 0, "a broker has at least one core");
    if address.port() != 0 {
        // Dropped at once; only the question whether it can be bound matters.
        bound(address, false)?;
    }
    let shared = cores > 1;
    let mut sockets = Vec::with_capacity(cores);
    let mut address = address;
    for _ in 0..cores {
        let socket = listening(address, shared, backlog)?;
        address = socket.address;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn listening(
    address: SocketAddr,
    shared: bool,
    backlog: u32,
) -> Result<ListenSocket, TransportError> {
    let socket = bound(address, shared)?;
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    socket.listen(backlog).map_err(|error| refused(address, error))?;
    let address = socket
        .local_addr()
        .and_then(|found| found.as_socket().ok_or_else(|| io::Error::other("not an IP socket")))
        .map_err(|error| refused(address, error))?;
    Ok(ListenSocket { socket, address })
}

fn bound(address: SocketAddr, shared: bool) -> Result<Socket, TransportError> {
    let open = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(shared)?;
        socket.set_tcp_nodelay(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        socket.bind(&address.into())?;
        Ok(socket)
    };
    open().map_err(|error| refused(address, error))
}

fn refused(address: SocketAddr, error: io::Error) -> TransportError {
    if error.kind() == io::ErrorKind::AddrInUse {
        return TransportError::AddressInUse { address };
    }
    TransportError::system(format!("cannot listen on {address}"), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn all_sockets_share_the_port_that_the_first_one_got() {
        let sockets = bind(loopback(), 3, 16).unwrap();
        assert_eq!(sockets.len(), 3);
        assert_ne!(sockets[0].local_addr().port(), 0);
        assert!(sockets.iter().all(|socket| socket.local_addr() == sockets[0].local_addr()));
    }

    #[test]
    fn a_second_broker_is_refused_whatever_its_number_of_cores() {
        for (first, second) in [(2, 2), (1, 2), (2, 1), (1, 1)] {
            let sockets = bind(loopback(), first, 16).unwrap();
            let error = bind(sockets[0].local_addr(), second, 16).unwrap_err();
            assert!(matches!(error, TransportError::AddressInUse { .. }), "{error}");
            assert!(error.to_string().contains("already in use"));
        }
    }

    #[test]
    fn an_address_of_another_host_is_an_error_that_names_it() {
        let error = bind(SocketAddr::from(([192, 0, 2, 1], 0)), 1, 16).unwrap_err();
        assert!(error.to_string().contains("192.0.2.1"), "{error}");
    }
}
