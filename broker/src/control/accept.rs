//! The control plane's listener: a bounded number of connections, each for a bounded time.
//!
//! Whoever reaches the port could otherwise take all descriptors, which are the clients', by
//! connecting and saying nothing.

use axum::serve::Listener;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// Connections at once; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 32;

/// After this time a connection is cut at its next read; a scraper connects again.
const LIFETIME: Duration = Duration::from_secs(30);

/// How long accepting rests after it failed, for lack of descriptors mostly.
const ACCEPT_REST: Duration = Duration::from_millis(200);

/// A listener with those bounds.
pub(super) struct BoundedListener {
    listener: TcpListener,
    permits: Arc<Semaphore>,
}

impl BoundedListener {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }
}

/// The next connection once there is a place for it. After a failure accepting rests.
pub(super) async fn accept_bounded<T, F>(
    permits: &Arc<Semaphore>,
    who: &str,
    accept: impl Fn() -> F,
) -> (T, OwnedSemaphorePermit)
where
    F: Future<Output = io::Result<T>>,
{
    let permit = match Arc::clone(permits).acquire_owned().await {
        Ok(permit) => permit,
        // The semaphore is never closed.
        Err(_) => std::future::pending().await,
    };
    loop {
        match accept().await {
            Ok(accepted) => return (accepted, permit),
            Err(error) => {
                tracing::warn!(%error, "{who} cannot accept a connection");
                sleep(ACCEPT_REST).await;
            }
        }
    }
}

impl Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (listener, permits) = (&self.listener, &self.permits);
        let accept = || listener.accept();
        let ((stream, peer), permit) = accept_bounded(permits, "the control plane", accept).await;
        let lifetime = Box::pin(sleep(LIFETIME));
        (BoundedStream { stream, lifetime, _permit: permit }, peer)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that counts while it lives, and does not live for ever.
pub(super) struct BoundedStream {
    stream: TcpStream,
    lifetime: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl BoundedStream {
    fn check_lifetime(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.lifetime.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_lifetime(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_lifetime(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
