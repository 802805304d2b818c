//! The threads of the cores: pinned, opened, released together, joined at the end.

use super::StartError;
use super::affinity::pin_current_thread;
use super::carriers::RdmaPlan;
use super::core_driver::CoreDriver;
use super::metered::MeteredDriver;
use crate::control::CoreEnd;
use crate::mail::Mail;
use crate::replicated::node_core::NodeCore;
use crate::service::CoreSetup;
use core::hint::black_box;
use ringlane_dataplane::ids::{CoreId, ListenerId};
use ringlane_dataplane::link::Links;
use ringlane_dataplane::net::{Driver, Sockets};
use ringlane_dataplane::runtime::{CoreLoop, CoreStats, Endpoint, Idle, TurnLimits};
use ringlane_transport_uring::{ListenSocket, TransportConfig, TransportKind, Wakers, open};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use tokio::sync::mpsc;
use tracing::{error, info};

/// Everything that a core's thread takes with it.
pub(super) struct CoreThread {
    pub(super) cpu: u32,
    pub(super) kind: TransportKind,
    pub(super) config: TransportConfig,
    pub(super) listeners: Vec<(ListenerId, ListenSocket)>,
    pub(super) wakers: Wakers,
    pub(super) endpoint: Endpoint<Mail>,
    pub(super) idle: Idle,
    pub(super) stats: Arc<CoreStats>,
    pub(super) setup: CoreSetup,
    pub(super) stop_accepting: Arc<AtomicBool>,
    pub(super) rdma: Option<RdmaPlan>,
}

type Loop = CoreLoop<MeteredDriver, NodeCore>;

impl CoreThread {
    /// Pins the thread and opens the core: on its own thread, because a ring belongs to the
    /// thread that made it (IORING_SETUP_SINGLE_ISSUER, io_uring_setup(2)), and because memory
    /// comes from the NUMA node of the CPU that touches it first.
    fn open(self) -> Result<Loop, String> {
        pin_current_thread(&[self.cpu])
            .map_err(|error| format!("cannot pin its thread to CPU {}: {error}", self.cpu))?;
        widen_heap();
        let core = self.setup.core;
        let driver = open(self.kind, core, &self.config, self.listeners, self.wakers)
            .map_err(|error| format!("cannot open the {} driver: {error}", self.kind))?;
        let driver = CoreDriver::new(driver, core, self.rdma.as_ref())?;
        let metrics = Arc::clone(&self.setup.metrics);
        let driver = MeteredDriver::new(driver, metrics, self.stop_accepting);
        let sockets = Sockets::new(self.setup.connections_max);
        let room_bytes = self.setup.cluster.as_ref().map_or(0, |cluster| cluster.room_bytes);
        let service = NodeCore::new(self.setup, driver.now());
        let (limits, stats) = (TurnLimits::default(), self.stats);
        let core = CoreLoop::new(driver, service, sockets, self.endpoint, self.idle, limits, stats);
        Ok(core.with_links(Links::new(room_bytes)))
    }
}

/// How far the heap of a core's thread is widened when it begins.
const HEAP_BYTES: usize = 32 << 20;
/// In pieces that the allocator takes from the heap of the thread and not from the system.
const HEAP_PIECE_BYTES: usize = 64 << 10;

/// Lets the allocator get addresses for what the core is going to need: glibc's gets them page by
/// page where a heap grows, each time by an mprotect(2), which waits for every thread of the
/// process that is in a page fault of its own, and so for the CPU that this one has lost. The
/// memory itself is given back at once; with `vm.overcommit_memory = 2` the addresses are, too, and
/// nothing is gained. Where there is no more to be had the heap stays as it is.
fn widen_heap() {
    let piece = |_| {
        let mut piece = Vec::<u8>::new();
        piece.try_reserve_exact(HEAP_PIECE_BYTES).is_ok().then(|| black_box(piece))
    };
    let pieces: Vec<_> = (0..HEAP_BYTES / HEAP_PIECE_BYTES).map_while(piece).collect();
    drop(pieces);
}

/// The running cores.
#[derive(Debug)]
pub struct CoreThreads {
    handles: Vec<JoinHandle<()>>,
    releases: Vec<SyncSender<()>>,
    opened_sender: SyncSender<(CoreId, Result<(), String>)>,
    opened: Receiver<(CoreId, Result<(), String>)>,
    ended_sender: mpsc::Sender<CoreEnd>,
    ended: mpsc::Receiver<CoreEnd>,
}

impl CoreThreads {
    pub(super) fn new(cores: usize) -> Self {
        let (opened_sender, opened) = sync_channel(cores.max(1));
        let (ended_sender, ended) = mpsc::channel(cores.max(1));
        let (handles, releases) = (Vec::new(), Vec::new());
        Self { handles, releases, opened_sender, opened, ended_sender, ended }
    }

    /// Starts the thread of a core; it opens the core and waits to be released.
    pub(super) fn spawn(&mut self, core: CoreThread) -> Result<(), StartError> {
        let id = core.setup.core;
        let (release, released) = sync_channel(1);
        let (opened, ended) = (self.opened_sender.clone(), self.ended_sender.clone());
        let main = move || {
            let result = catch_unwind(AssertUnwindSafe(|| run(core, &opened, &released)));
            let result = result.unwrap_or_else(|_| {
                // Whoever waits for this core to open must not wait for ever; if it was open,
                // the channel is full or nobody listens any more.
                let _ = opened.try_send((id, Err("it panicked".to_owned())));
                Err("it panicked".to_owned())
            });
            if let Err(message) = &result {
                error!(core = id.0, message, "core failed");
            }
            // The control thread is gone if a core failed at start: then nobody wants to know.
            let _ = ended.blocking_send(CoreEnd { core: id, result });
        };
        let handle = thread::Builder::new()
            .name(format!("ringlane-core-{id}"))
            .spawn(main)
            .map_err(|error| StartError::system("start a core's thread", error))?;
        self.handles.push(handle);
        self.releases.push(release);
        Ok(())
    }

    /// Waits until every core is open, then lets them run.
    ///
    /// # Errors
    /// The first core that could not be opened; none has run then.
    pub(super) fn release(&mut self) -> Result<(), StartError> {
        for _ in 0..self.handles.len() {
            // This struct holds a sender, so that the receiver can't be disconnected.
            let Ok((core, result)) = self.opened.recv() else { break };
            result.map_err(|message| StartError::Core { core, message })?;
        }
        for release in self.releases.drain(..) {
            // A core that is open waits for this.
            let _ = release.send(());
        }
        Ok(())
    }

    /// The next core that ends.
    pub async fn next_end(&mut self) -> Option<CoreEnd> {
        self.ended.recv().await
    }

    /// Waits for all threads, after all cores have ended.
    pub fn join(self) {
        for handle in self.handles {
            // A panic was caught and reported on the thread.
            let _ = handle.join();
        }
    }
}

fn run(
    core: CoreThread,
    opened: &SyncSender<(CoreId, Result<(), String>)>,
    released: &Receiver<()>,
) -> Result<(), String> {
    let id = core.setup.core;
    match core.open() {
        Ok(mut core_loop) => {
            let _ = opened.send((id, Ok(())));
            // Not released: another core could not be opened.
            if released.recv().is_err() {
                return Ok(());
            }
            let ran = core_loop.run();
            let begun = Instant::now();
            drop(core_loop);
            info!(core = id.0, took = ?begun.elapsed(), "the core has let go of what it held");
            ran.map_err(|error| format!("the socket driver failed: {error}"))
        }
        Err(message) => {
            let _ = opened.send((id, Err(message)));
            Ok(())
        }
    }
}
