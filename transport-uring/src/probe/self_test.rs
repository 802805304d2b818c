//! Features that a kernel may claim and get wrong are tried with real bytes.

use super::{ENTRIES, UringCapabilities};
use crate::engine::Block;
use crate::uring::buffers::{BufferGroup, BufferRing};
use crate::uring::ring::{BUFFER_GROUP, Ring, RingCompletion};
use crate::uring::token::Token;
use core::time::Duration;
use io_uring::types::{CancelBuilder, Fd};
use io_uring::{cqueue, types};
use ringlane_dataplane::ids::{ConnectionId, CoreId};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

/// How long the kernel may take for what it does at once.
const PATIENCE: Duration = Duration::from_secs(1);
const BUFFERS: BufferGroup =
    BufferGroup { group: BUFFER_GROUP, first: 0, entries: 8, buffer_bytes: 64 };
const CONNECTION: ConnectionId = ConnectionId { slot: 1, generation: 1 };

/// Fills in what only a try can tell.
pub(super) fn run(found: &mut UringCapabilities) {
    if let Ok(mut ring) = Ring::open(ENTRIES, Duration::ZERO) {
        found.incremental_buffers = registers_incremental(&mut ring);
    }
    if let Ok(mut ring) = Ring::open(ENTRIES, Duration::ZERO)
        && let Ok(mut buffers) = register(&mut ring, 0)
    {
        found.buffer_rings = true;
        found.multishot_receive = receives_in_order(&mut ring, &mut buffers).unwrap_or(false);
        found.cancel_fd = cancels_by_descriptor(&mut ring).unwrap_or(false);
        if !(found.multishot_receive && found.cancel_fd) {
            // A receive may not have ended: the kernel keeps what it was given.
            buffers.leak();
        }
        // The kernel knows the buffers as long as the ring is open.
        drop(ring);
    }
    found.multishot_accept = accepts_many().unwrap_or(false);
    found.msg_ring &= passes_messages().unwrap_or(false);
}

fn register(ring: &mut Ring, flags: u16) -> std::io::Result<BufferRing> {
    BufferRing::register(ring.uring(), BUFFERS, flags)
}

fn registers_incremental(ring: &mut Ring) -> bool {
    let registered = register(ring, types::IOU_PBUF_RING_INC as u16);
    let works = registered.is_ok();
    if works {
        // Before the memory is freed at the end of this function.
        let unregistered = ring.uring().submitter().unregister_buf_ring(0);
        return unregistered.is_ok();
    }
    works
}

fn next(ring: &mut Ring) -> Option<RingCompletion> {
    if !ring.has_completions() {
        ring.turn(Block::For(PATIENCE)).ok()?;
    }
    ring.next_completion()
}

/// One multishot receive takes several writes, in order, and ends when cancelled.
fn receives_in_order(ring: &mut Ring, buffers: &mut BufferRing) -> Option<bool> {
    let (reader, mut writer) = UnixStream::pair().ok()?;
    let token = Token::Receive(CONNECTION);
    ring.receive_many(reader.as_fd(), BUFFER_GROUP, token);
    let mut right = true;
    for text in ["one", "two", "three"] {
        ring.turn(Block::No).ok()?;
        writer.write_all(text.as_bytes()).ok()?;
        let completion = next(ring)?;
        let bytes = usize::try_from(completion.result).ok()?;
        let index = cqueue::buffer_select(completion.flags)?;
        right &= Token::unpack(completion.token) == token
            && cqueue::more(completion.flags)
            && buffers.bytes(index, bytes) == text.as_bytes();
        buffers.give_back(index);
    }
    ring.cancel(token);
    let end = next(ring)?;
    Some(right && end.result == -libc::ECANCELED && !cqueue::more(end.flags))
}

/// A receive is found by its descriptor.
fn cancels_by_descriptor(ring: &mut Ring) -> Option<bool> {
    let (reader, _writer) = UnixStream::pair().ok()?;
    ring.receive_once(reader.as_fd(), BUFFER_GROUP, Token::Receive(CONNECTION));
    ring.turn(Block::No).ok()?;
    let criteria = CancelBuilder::fd(Fd(reader.as_raw_fd())).all();
    let cancelled = ring.uring().submitter().register_sync_cancel(None, criteria).is_ok();
    if !cancelled {
        ring.cancel(Token::Receive(CONNECTION));
    }
    Some(next(ring)?.result == -libc::ECANCELED && cancelled)
}

/// A multishot accept is not refused, and ends when cancelled.
fn accepts_many() -> Option<bool> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    let mut ring = Ring::open(ENTRIES, Duration::ZERO).ok()?;
    let token = Token::Accept { listener: 0 };
    ring.accept_many(listener.as_fd(), token);
    ring.cancel(token);
    Some(next(&mut ring)?.result == -libc::ECANCELED)
}

/// A message from one ring arrives in another.
fn passes_messages() -> Option<bool> {
    let mut from = Ring::open(ENTRIES, Duration::ZERO).ok()?;
    let mut to = Ring::open(ENTRIES, Duration::ZERO).ok()?;
    from.message(to.descriptor(), Token::Message { target: CoreId(0) });
    from.turn(Block::No).ok()?;
    let arrived = next(&mut to)?;
    Some(Token::unpack(arrived.token) == Token::Woken && !from.has_completions())
}
