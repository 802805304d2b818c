//! The threads of a core's files: some that write and sync, as many that read, and one for jobs.
//! Reads stand in lines of their own, because a slow one would hold up a sync that publishers wait for.
//!
//! Queues in both directions are channels; what is in them is bounded by what the core has under
//! way, which `Files` counts. A thread
//! wakes the core when something has ended, once until the core looks.

use super::FileConfig;
use super::beside::Blocks;
use super::inbox::Inbox;
use super::jobs::{Jobs, Opened};
use super::line::Line;
use super::operation::{Ended, FileOperation, SLICES_MAX, Step};
use crate::sys;
use crate::wake::Wakers;
use ringlane_dataplane::disk::{DiskDone, DiskEvent, DiskToken, FileJob};
use ringlane_dataplane::ids::CoreId;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What a thread tells the core.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) ended: Ended,
    /// A file that a job opened.
    pub(super) opened: Option<Opened>,
}

/// A thread's way to the core.
#[derive(Clone, Debug)]
struct Reporter {
    reports: Sender<Report>,
    signalled: Arc<AtomicBool>,
    asleep: Arc<AtomicBool>,
    wakers: Wakers,
    core: CoreId,
}

impl Reporter {
    fn report(&self, report: Report) {
        // The core has gone: nobody wants to know.
        let Ok(()) = self.reports.send(report) else { return };
        // Sequentially consistent with `Threads::sleep`: either this sees that the core sleeps, or the
        // core sees the signal before it does.
        if !self.signalled.swap(true, Ordering::SeqCst) && self.asleep.load(Ordering::SeqCst) {
            self.wakers.wake(self.core);
        }
    }
}

/// The threads of one core.
#[derive(Debug)]
pub(super) struct Threads {
    /// Empty where the ring does it.
    workers: Vec<Sender<FileOperation>>,
    /// Of those that read; likewise.
    readers: Vec<Sender<FileOperation>>,
    jobs: Option<Sender<(DiskToken, FileJob)>>,
    reports: Receiver<Report>,
    /// Set by a thread behind its report, cleared by the core before it looks.
    signalled: Arc<AtomicBool>,
    /// Whether the core waits to be woken.
    asleep: Arc<AtomicBool>,
    /// The core left reports behind when it last looked.
    more: bool,
    stopped: Arc<AtomicBool>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Starts `workers` threads that write, as many that read, and the job thread.
    pub(super) fn start(
        core: CoreId,
        config: &FileConfig,
        workers: u16,
        wakers: Wakers,
    ) -> io::Result<Self> {
        let (sender, reports) = channel();
        let signalled: Arc<AtomicBool> = Arc::default();
        let (asleep, stopped): (Arc<AtomicBool>, _) = (Arc::default(), Arc::default());
        let reporter = Reporter {
            reports: sender,
            signalled: Arc::clone(&signalled),
            asleep: Arc::clone(&asleep),
            wakers,
            core,
        };
        let more = false;
        let (workers_made, handles) = (Vec::new(), Vec::new());
        let mut threads = Self {
            workers: workers_made,
            readers: Vec::new(),
            jobs: None,
            reports,
            signalled,
            asleep,
            more,
            stopped,
            handles,
        };
        for number in 0..workers {
            let name = format!("ringlane-io-{core}.{number}");
            let sender = threads.spawn_worker(name, config, config.spin, &reporter)?;
            threads.workers.push(sender);
            let name = format!("ringlane-rd-{core}.{number}");
            let sender = threads.spawn_worker(name, config, Duration::ZERO, &reporter)?;
            threads.readers.push(sender);
        }
        let (sender, jobs) = channel();
        let state = Jobs::new(Arc::clone(&threads.stopped));
        let stopped = Arc::clone(&threads.stopped);
        let name = format!("ringlane-job-{core}");
        threads.spawn(name, config, move || do_jobs(state, &jobs, &reporter, &stopped))?;
        threads.jobs = Some(sender);
        Ok(threads)
    }

    /// Starts a thread that carries out operations.
    fn spawn_worker(
        &mut self,
        name: String,
        config: &FileConfig,
        spin: Duration,
        reporter: &Reporter,
    ) -> io::Result<Sender<FileOperation>> {
        let (sender, operations) = channel();
        let (reporter, stopped) = (reporter.clone(), Arc::clone(&self.stopped));
        let operations = Inbox::new(operations, spin);
        self.spawn(name, config, move || work(operations, &reporter, &stopped))?;
        Ok(sender)
    }

    /// Starts a thread, and waits until it runs where it should.
    fn spawn(
        &mut self,
        name: String,
        config: &FileConfig,
        main: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let cpus = config.cpus.clone();
        let (started, start) = sync_channel(1);
        let main = move || {
            let pinned = pin(&cpus);
            let goes_on = pinned.is_ok();
            // The one who waits for this is still there.
            let _ = started.send(pinned);
            if goes_on {
                main();
            }
        };
        self.handles.push(thread::Builder::new().name(name).spawn(main)?);
        start.recv().map_err(io::Error::other)?
    }

    /// Whether there are I/O threads.
    pub(super) fn have_workers(&self) -> bool {
        !self.workers.is_empty()
    }

    /// Gives an operation to the thread of its file that does such.
    pub(super) fn operate(&self, operation: FileOperation) {
        let threads = if operation.is_read() { &self.readers } else { &self.workers };
        let sent = threads[operation.id.index() % threads.len()].send(operation);
        assert!(sent.is_ok(), "an I/O thread ends when the core does, not before");
    }

    /// Gives a job to the job thread.
    pub(super) fn job(&self, token: DiskToken, job: FileJob) {
        let sent = self.jobs.as_ref().map(|jobs| jobs.send((token, job)));
        assert!(matches!(sent, Some(Ok(()))), "the job thread ends when the core does");
    }

    /// Whether there may be reports of which no wake-up will tell any more: left behind, or told of
    /// while the core took what ended elsewhere.
    pub(super) fn have_more(&self) -> bool {
        self.more || self.signalled.load(Ordering::Acquire)
    }

    /// The core is about to sleep, and is woken when something ends. Whether it may: what has ended
    /// before nobody wakes it for.
    pub(super) fn sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        !self.more && !self.signalled.load(Ordering::SeqCst)
    }

    /// The core is awake again.
    pub(super) fn wake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// The next report.
    pub(super) fn next(&mut self) -> Option<Report> {
        if !self.more {
            if !self.signalled.load(Ordering::Acquire) {
                return None;
            }
            // A read-modify-write, so that all reports before the thread's own are seen.
            self.signalled.swap(false, Ordering::AcqRel);
            self.more = true;
        }
        let report = self.reports.try_recv().ok();
        self.more = report.is_some();
        report
    }
}

impl Drop for Threads {
    /// What is under way ends, what has not begun is dropped.
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.workers.clear();
        self.readers.clear();
        self.jobs = None;
        for handle in self.handles.drain(..) {
            // A panic was reported by the thread.
            let _ = handle.join();
        }
    }
}

fn pin(cpus: &[u32]) -> io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for cpu in cpus.iter().map(|cpu| *cpu as usize) {
        if CpuSet::MAX_CPU <= cpu {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        set.set(cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}

fn work(mut operations: Inbox, reporter: &Reporter, stopped: &AtomicBool) {
    let mut blocks = Blocks::default();
    while let Some(mut operation) = operations.next() {
        if stopped.load(Ordering::Relaxed) {
            continue;
        }
        let result = match operation.check() {
            Ok(()) => loop {
                let moved =
                    carry_out(&mut operation, &mut blocks).map_err(|error| sys::errno_of(&error));
                if let Some(end) = operation.on_result(moved) {
                    break end;
                }
            },
            Err(error) => Err(error),
        };
        reporter.report(Report { ended: operation.end(result), opened: None });
    }
}

fn carry_out(operation: &mut FileOperation, blocks: &mut Blocks) -> io::Result<usize> {
    let open = Arc::clone(&operation.open);
    match operation.step() {
        Step::Write { position } => {
            if let Some(written) = operation.write_beside(blocks) {
                return written;
            }
            let pieces = operation.pieces().take(SLICES_MAX);
            let slices: Vec<IoSlice<'_>> = pieces.map(IoSlice::new).collect();
            Ok(rustix::io::pwritev(&open.file, &slices, position)?)
        }
        Step::Sync => open.file.sync_data().map(|()| 0),
        Step::Read { position, into } => open.file.read_at(into, position),
    }
}

fn do_jobs(
    mut state: Jobs,
    jobs: &Receiver<(DiskToken, FileJob)>,
    reporter: &Reporter,
    stopped: &AtomicBool,
) {
    let mut line = Line::default();
    loop {
        // What was given meanwhile is in line, too, so that the next of all is chosen.
        jobs.try_iter().for_each(|given| line.push(given));
        let Some((token, job)) = line.pop() else {
            match jobs.recv() {
                Ok(given) => line.push(given),
                Err(_) => return,
            }
            continue;
        };
        if stopped.load(Ordering::Relaxed) {
            continue;
        }
        let (result, opened) = match state.carry_out(job) {
            Ok(opened) => (Ok(DiskDone::Done), opened),
            Err(error) => (Err(error), None),
        };
        let event = DiskEvent { token, result };
        reporter.report(Report { ended: Ended { event, file: None, batches: None }, opened });
    }
}
