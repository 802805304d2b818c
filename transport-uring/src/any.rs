//! One type for both drivers, so that the core loop is compiled once.

use crate::config::{TransportConfig, TransportError, TransportKind};
use crate::driver::SocketDriver;
use crate::epoll::EpollEngine;
use crate::file::Files;
use crate::link::TcpLinks;
use crate::listen::ListenSocket;
use crate::uring::UringEngine;
use crate::wake::Wakers;
use ringlane_dataplane::disk::{Disk, DiskEvent, FileDriver};
use ringlane_dataplane::ids::{CoreId, ListenerId};
use ringlane_dataplane::link::{LinkCounters, LinkDriver, LinkEvent, Links};
use ringlane_dataplane::net::{Driver, DriverCounters, NetEvent, Sockets, Wait};
use ringlane_dataplane::runtime::ThreadUsage;
use ringlane_dataplane::time::Nanos;
use std::io;
use std::os::fd::OwnedFd;

/// The driver on epoll.
#[derive(Debug)]
pub struct EpollDriver(Box<SocketDriver<EpollEngine>>);

/// The driver on io_uring.
#[derive(Debug)]
pub struct UringDriver(Box<SocketDriver<UringEngine>>);

/// Either driver. It stays on the thread that opened it.
#[derive(Debug)]
pub enum AnyDriver {
    /// io_uring.
    Uring(UringDriver),
    /// epoll.
    Epoll(EpollDriver),
}

/// Opens the driver of one core. To be called on the core's own thread, which is the only one
/// that may use the driver afterwards.
///
/// # Errors
/// [`TransportError::Config`] for settings out of bounds, [`TransportError::System`] for what the
/// kernel refuses.
pub fn open(
    kind: TransportKind,
    core: CoreId,
    config: &TransportConfig,
    listeners: Vec<(ListenerId, ListenSocket)>,
    wakers: Wakers,
) -> Result<AnyDriver, TransportError> {
    config.validate()?;
    let failed = |error: io::Error| TransportError::system(format!("cannot open {kind}"), error);
    for (_, socket) in &listeners {
        socket.set_nonblocking(kind == TransportKind::Epoll).map_err(failed)?;
    }
    let links = TcpLinks::new(core, config.links.clone());
    let refused = |errno| failed(io::Error::from_raw_os_error(errno));
    match kind {
        TransportKind::Uring => {
            let files = config.files.as_ref();
            let files = Files::open::<UringEngine>(core, files, wakers.clone()).map_err(failed)?;
            let engine = UringEngine::open(core, config, wakers).map_err(failed)?;
            let driver = SocketDriver::new(engine, files, links, config.clone(), listeners)
                .map_err(refused)?;
            Ok(AnyDriver::Uring(UringDriver(Box::new(driver))))
        }
        TransportKind::Epoll => {
            let files = config.files.as_ref();
            let files = Files::open::<EpollEngine>(core, files, wakers.clone()).map_err(failed)?;
            let engine = EpollEngine::open(core, wakers).map_err(failed)?;
            let driver = SocketDriver::new(engine, files, links, config.clone(), listeners)
                .map_err(refused)?;
            Ok(AnyDriver::Epoll(EpollDriver(Box::new(driver))))
        }
    }
}

impl AnyDriver {
    /// Ends waits of this core whenever the descriptor becomes readable from now on, for another driver
    /// on the same core. That driver sees to it that the core does not sleep while it is readable.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn wake_on(&mut self, fd: OwnedFd) -> io::Result<()> {
        let done = match self {
            Self::Uring(driver) => driver.0.wake_on(fd),
            Self::Epoll(driver) => driver.0.wake_on(fd),
        };
        done.map_err(io::Error::from_raw_os_error)
    }

    fn inner(&self) -> &dyn Driver {
        match self {
            Self::Uring(driver) => &*driver.0,
            Self::Epoll(driver) => &*driver.0,
        }
    }

    fn inner_mut(&mut self) -> &mut dyn Driver {
        match self {
            Self::Uring(driver) => &mut *driver.0,
            Self::Epoll(driver) => &mut *driver.0,
        }
    }
}

impl Driver for AnyDriver {
    fn now(&self) -> Nanos {
        self.inner().now()
    }

    fn apply(&mut self, sockets: &mut Sockets, now: Nanos) {
        self.inner_mut().apply(sockets, now);
    }

    fn poll(
        &mut self,
        sockets: &mut Sockets,
        wait: Wait,
        events_max: usize,
        on_event: &mut dyn FnMut(&mut Sockets, NetEvent<'_>),
    ) -> io::Result<usize> {
        self.inner_mut().poll(sockets, wait, events_max, on_event)
    }

    fn wake(&mut self, target: CoreId) {
        self.inner_mut().wake(target);
    }

    fn stop_accepting(&mut self) {
        self.inner_mut().stop_accepting();
    }

    fn counters(&self) -> DriverCounters {
        self.inner().counters()
    }

    fn usage(&self) -> Option<ThreadUsage> {
        self.inner().usage()
    }
}

impl AnyDriver {
    fn files(&self) -> &dyn FileDriver {
        match self {
            Self::Uring(driver) => &*driver.0,
            Self::Epoll(driver) => &*driver.0,
        }
    }

    fn files_mut(&mut self) -> &mut dyn FileDriver {
        match self {
            Self::Uring(driver) => &mut *driver.0,
            Self::Epoll(driver) => &mut *driver.0,
        }
    }
}

impl FileDriver for AnyDriver {
    fn submit(&mut self, disk: &mut Disk) {
        self.files_mut().submit(disk);
    }

    fn complete(
        &mut self,
        disk: &mut Disk,
        events_max: usize,
        on_event: &mut dyn FnMut(&mut Disk, DiskEvent),
    ) -> usize {
        self.files_mut().complete(disk, events_max, on_event)
    }

    fn in_flight(&self) -> usize {
        self.files().in_flight()
    }
}

impl AnyDriver {
    fn links(&self) -> &dyn LinkDriver {
        match self {
            Self::Uring(driver) => &*driver.0,
            Self::Epoll(driver) => &*driver.0,
        }
    }

    fn links_mut(&mut self) -> &mut dyn LinkDriver {
        match self {
            Self::Uring(driver) => &mut *driver.0,
            Self::Epoll(driver) => &mut *driver.0,
        }
    }
}

impl LinkDriver for AnyDriver {
    fn carry_out(&mut self, links: &mut Links) {
        self.links_mut().carry_out(links);
    }

    fn deliver(
        &mut self,
        links: &mut Links,
        events_max: usize,
        on_event: &mut dyn FnMut(&mut Links, LinkEvent<'_>),
    ) -> usize {
        self.links_mut().deliver(links, events_max, on_event)
    }

    fn link_counters(&self) -> LinkCounters {
        self.links().link_counters()
    }
}
