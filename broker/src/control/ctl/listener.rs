//! The operator's socket itself: made for the broker's user alone, and removed at the end.

use super::super::accept::accept_bounded;
use axum::serve::Listener;
use rustix::fs::Mode;
use rustix::process::umask;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net;
use tokio::net::unix::SocketAddr;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// Connections at once; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8;

/// How long a connection may take to ask: others wait for it.
const UNASKED_MAX: Duration = Duration::from_secs(2);

/// How long an answer may wait for whoever asked to read on: others wait for the connection.
const UNREAD_MAX: Duration = Duration::from_secs(30);

/// Bytes of a path that a Unix socket's address holds, with its final zero (unix(7)).
const ADDRESS_BYTES: usize = 108;

/// The operator's socket; its file goes with it.
#[derive(Debug)]
pub struct CtlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl CtlSocket {
    /// Makes the socket. A file that a predecessor left is replaced; one that is somebody's is not.
    ///
    /// # Errors
    /// What the system said.
    pub fn open(path: &Path) -> io::Result<Self> {
        with_address(path, |address| match UnixStream::connect(address) {
            Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
            Err(_) => Ok(()),
        })?;
        if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            fs::remove_file(path)?;
        }
        // Nobody else makes files now: no core runs yet.
        let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
        let listener = with_address(path, |address| UnixListener::bind(address));
        umask(before);
        let listener = listener?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same socket, for a runtime.
    pub(super) fn listener(&self) -> io::Result<BoundedListener> {
        let listener = net::UnixListener::from_std(self.listener.try_clone()?)?;
        Ok(BoundedListener { listener, permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)) })
    }
}

impl Drop for CtlSocket {
    fn drop(&mut self) {
        // The next start replaces what is left.
        let _ = fs::remove_file(&self.path);
    }
}

/// Calls `with` with a path that fits into an address, by way of the directory if it must be.
pub(crate) fn with_address<T>(
    path: &Path,
    with: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    if path.as_os_str().len() < ADDRESS_BYTES {
        return with(path);
    }
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = fs::File::open(parent.unwrap_or(Path::new(".")))?;
    with(&Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name))
}

/// A listener that serves a few at a time.
pub(super) struct BoundedListener {
    listener: net::UnixListener,
    permits: Arc<Semaphore>,
}

impl Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (listener, permits) = (&self.listener, &self.permits);
        let accept = || listener.accept();
        let who = "the operator's socket";
        let ((stream, peer), permit) = accept_bounded(permits, who, accept).await;
        (BoundedStream::new(stream, permit), peer)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that counts while it lives, and ends if it asks nothing for [`UNASKED_MAX`], or takes
/// nothing for [`UNREAD_MAX`].
pub(super) struct BoundedStream {
    stream: net::UnixStream,
    _permit: OwnedSemaphorePermit,
    /// Set until an answer begins.
    unasked: Option<Pin<Box<Sleep>>>,
    /// Set while it takes nothing.
    patience: Option<Pin<Box<Sleep>>>,
}

impl BoundedStream {
    fn new(stream: net::UnixStream, permit: OwnedSemaphorePermit) -> Self {
        let unasked = Some(Box::pin(sleep(UNASKED_MAX)));
        Self { stream, _permit: permit, unasked, patience: None }
    }

    fn check_asked(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.unasked.as_mut().map(|unasked| unasked.as_mut().poll(context)) {
            Some(Poll::Ready(())) => Err(io::ErrorKind::TimedOut.into()),
            Some(Poll::Pending) | None => Ok(()),
        }
    }

    /// What came of writing, or an error if nothing has for too long.
    fn patiently(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.patience = None;
            return written;
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(UNREAD_MAX)));
        patience.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_asked(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.unasked = None;
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.patiently(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
