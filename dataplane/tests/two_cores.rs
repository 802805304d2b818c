//! Two real cores on two threads that answer each other's mails, sleeping in between.
#![cfg(not(loom))]

use ringlane_dataplane::disk::{Disk, DiskEvent, FileDriver};
use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::link::{LinkCounters, LinkDriver, LinkEvent, Links};
use ringlane_dataplane::net::{Driver, DriverCounters, NetEvent, Sockets, Wait};
use ringlane_dataplane::runtime::{
    After, CoreLoop, CoreStats, Endpoint, Idle, Mesh, Service, Turn, TurnLimits,
};
use ringlane_dataplane::time::Nanos;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// What wakes a core: stays rung until its core waits.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

/// A driver without sockets: it waits for its bell and for the clock.
struct BellDriver {
    own: CoreId,
    bells: Arc<Vec<Bell>>,
    start: Instant,
}

impl Driver for BellDriver {
    fn now(&self) -> Nanos {
        Nanos::default() + self.start.elapsed()
    }

    fn apply(&mut self, _sockets: &mut Sockets, _now: Nanos) {}

    fn poll(
        &mut self,
        sockets: &mut Sockets,
        wait: Wait,
        _events_max: usize,
        _on_event: &mut dyn FnMut(&mut Sockets, NetEvent<'_>),
    ) -> io::Result<usize> {
        if let Wait::Until(deadline) = wait {
            let bell = &self.bells[self.own.index()];
            // A lost wake-up shows as a core that waits this long: the test's last resort.
            let span = deadline.since(self.now()).min(Duration::from_secs(30));
            let rung = bell.rung.lock().expect("no thread panicked");
            let (mut rung, timeout) =
                bell.changed.wait_timeout_while(rung, span, |rung| !*rung).expect("no panic");
            assert!(!timeout.timed_out() || deadline != Nanos::NEVER, "a wake-up was lost");
            *rung = false;
            sockets.set_now(self.now());
        }
        Ok(0)
    }

    fn wake(&mut self, target: CoreId) {
        let bell = &self.bells[target.index()];
        *bell.rung.lock().expect("no thread panicked") = true;
        bell.changed.notify_one();
    }

    fn stop_accepting(&mut self) {}

    fn counters(&self) -> DriverCounters {
        DriverCounters::default()
    }
}

impl FileDriver for BellDriver {
    fn submit(&mut self, _disk: &mut Disk) {}

    fn complete(
        &mut self,
        _disk: &mut Disk,
        _events_max: usize,
        _on_event: &mut dyn FnMut(&mut Disk, DiskEvent),
    ) -> usize {
        0
    }

    fn in_flight(&self) -> usize {
        0
    }
}

/// These are cores of one node.
impl LinkDriver for BellDriver {
    fn carry_out(&mut self, links: &mut Links) {
        assert!(!links.has_work(), "nobody asks for a link");
    }

    fn deliver(
        &mut self,
        _links: &mut Links,
        _events_max: usize,
        _on_event: &mut dyn FnMut(&mut Links, LinkEvent<'_>),
    ) -> usize {
        0
    }

    fn link_counters(&self) -> LinkCounters {
        LinkCounters::default()
    }
}

/// Sends numbers to the other core and answers what it gets; keeps `window` numbers under way.
struct Answering {
    own: CoreId,
    next: u32,
    answered: u32,
    seen: u32,
    window: u32,
    count: u32,
}

#[derive(Clone, Copy)]
enum Mail {
    Question(u32),
    Answer(u32),
}

impl Service for Answering {
    type Mail = Mail;
    type Timer = u8;

    fn on_net(&mut self, _turn: &mut Turn<'_, Mail, u8>, _event: NetEvent<'_>) {}

    fn on_mail(&mut self, turn: &mut Turn<'_, Mail, u8>, from: CoreId, mail: Mail) {
        match mail {
            Mail::Question(number) => {
                assert_eq!(number, self.seen, "questions come in order, each once");
                self.seen += 1;
                assert!(turn.mesh.send(from, Mail::Answer(number)).is_ok(), "windows fit");
            }
            Mail::Answer(number) => {
                assert_eq!(number, self.answered, "answers come in order, each once");
                self.answered += 1;
            }
        }
    }

    fn on_disk(&mut self, _turn: &mut Turn<'_, Mail, u8>, _event: DiskEvent) {}

    fn on_timer(&mut self, _turn: &mut Turn<'_, Mail, u8>, _key: u8) {}

    fn end_turn(&mut self, turn: &mut Turn<'_, Mail, u8>) -> After {
        let other = CoreId(1 - self.own.0);
        while self.next < self.count && self.next - self.answered < self.window {
            assert!(turn.mesh.send(other, Mail::Question(self.next)).is_ok(), "windows fit");
            self.next += 1;
        }
        if self.answered == self.count && self.seen == self.count {
            return After::Stop;
        }
        After::Idle
    }
}

fn spawn(
    end: Endpoint<Mail>,
    bells: &Arc<Vec<Bell>>,
    idle: Idle,
    window: u32,
    count: u32,
) -> (thread::JoinHandle<()>, Arc<CoreStats>) {
    let stats = Arc::new(CoreStats::default());
    let (own, bells, shared) = (end.id(), Arc::clone(bells), Arc::clone(&stats));
    let thread = thread::spawn(move || {
        let driver = BellDriver { own, bells, start: Instant::now() };
        let service = Answering { own, next: 0, answered: 0, seen: 0, window, count };
        let limits = TurnLimits::default();
        let mut core = CoreLoop::new(driver, service, Sockets::new(0), end, idle, limits, shared);
        core.run().expect("this driver does not fail");
    });
    (thread, stats)
}

fn talk(idle: Idle, window: u32, count: u32) -> Vec<Arc<CoreStats>> {
    let bells = Arc::new(vec![Bell::default(), Bell::default()]);
    // Questions and answers of a window must fit, since nobody here waits for room.
    let capacity = 2 * window as usize;
    let cores: Vec<_> = Mesh::build(2, capacity.max(8))
        .into_iter()
        .map(|end| spawn(end, &bells, idle, window, count))
        .collect();
    cores
        .into_iter()
        .map(|(thread, stats)| {
            thread.join().expect("the core ends well");
            stats
        })
        .collect()
}

#[test]
fn cores_that_park_lose_no_mail_and_no_wake_up() {
    for stats in talk(Idle::Park, 1, 20_000) {
        assert_eq!(stats.mails_received.get(), 40_000);
        assert_eq!(stats.mails_sent.get(), 40_000);
    }
}

#[test]
fn cores_that_park_with_many_mails_under_way_lose_none() {
    for stats in talk(Idle::Park, 64, 200_000) {
        assert_eq!(stats.mails_received.get(), 400_000);
    }
}

#[test]
fn cores_that_spin_first_lose_none_either() {
    let spin = Duration::from_micros(5);
    for stats in talk(Idle::SpinThenPark { spin }, 4, 20_000) {
        assert_eq!(stats.mails_received.get(), 40_000);
    }
}
