//! A driver and a service that write down what the core loop does with them.

use ringlane_dataplane::disk::memory::MemoryDisk;
use ringlane_dataplane::disk::{
    Disk, DiskCommand, DiskError, DiskEvent, DiskToken, FileDriver, FileId,
};
use ringlane_dataplane::ids::{ConnectionId, CoreId};
use ringlane_dataplane::link::{
    Carrier, LinkCommand, LinkCounters, LinkDriver, LinkEvent, LinkId, Links,
};
use ringlane_dataplane::net::{Driver, DriverCounters, NetEvent, Sockets, Wait};
use ringlane_dataplane::runtime::{After, Service, Turn};
use ringlane_dataplane::time::Nanos;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

/// What driver and service did, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// The driver was polled.
    Poll(Wait),
    /// The service got bytes, at this time.
    Net(Vec<u8>, Nanos),
    /// The service got a message on a link, at this time.
    Link(Vec<u8>, Nanos),
    /// The service got a mail.
    Mail(CoreId, u32),
    /// The service got an answer of the disk, at this time.
    Disk(u64, Nanos),
    /// The driver took what was asked of the disk.
    Submit,
    /// The service got a timer, at this time.
    Timer(u32, Nanos),
    /// The service ended its turn.
    EndTurn,
    /// The driver took what was asked of links.
    CarryOut,
    /// The driver applied.
    Apply,
    /// The driver woke a peer.
    Wake(CoreId),
}

/// Shared by the test, the driver and the service.
#[derive(Default, Debug)]
pub(crate) struct World {
    /// The clock.
    pub(crate) now: u64,
    /// What was done.
    pub(crate) steps: Vec<Step>,
    /// Receptions that wait to be reported.
    pub(crate) arriving: VecDeque<Vec<u8>>,
    /// Messages that wait to be reported by a link.
    pub(crate) linked: VecDeque<Vec<u8>>,
    /// The service ends a link at the end of its next turn.
    pub(crate) revokes: bool,
    /// Where a wait ends, if not at its deadline.
    pub(crate) wait_ends: Option<u64>,
    /// What the service answers at the end of its turns; idle if empty.
    pub(crate) answers: VecDeque<After>,
    /// Mails that the service sends at the end of its next turn.
    pub(crate) outgoing: Vec<(CoreId, u32)>,
    /// Tokens of the commands that the service gives to the disk at the end of its next turn.
    pub(crate) commands: Vec<u64>,
    /// The disk, which refuses all of them: no file is open.
    pub(crate) memory: MemoryDisk,
    /// Timers that the service schedules at the end of its next turn.
    pub(crate) timers: Vec<(Nanos, u32)>,
    /// The next poll fails.
    pub(crate) broken: bool,
    /// The driver forgets to say how long it waited.
    pub(crate) forgetful: bool,
}

/// The world's handle.
pub(crate) type Shared = Rc<RefCell<World>>;

/// Takes the steps done since the last call.
pub(crate) fn steps(world: &Shared) -> Vec<Step> {
    std::mem::take(&mut world.borrow_mut().steps)
}

/// Reports what the world says is arriving.
#[derive(Debug)]
pub(crate) struct FakeDriver(pub(crate) Shared);

impl Driver for FakeDriver {
    fn now(&self) -> Nanos {
        Nanos(self.0.borrow().now)
    }

    fn apply(&mut self, _sockets: &mut Sockets, _now: Nanos) {
        self.0.borrow_mut().steps.push(Step::Apply);
    }

    fn poll(
        &mut self,
        sockets: &mut Sockets,
        wait: Wait,
        events_max: usize,
        on_event: &mut dyn FnMut(&mut Sockets, NetEvent<'_>),
    ) -> io::Result<usize> {
        self.begin(sockets, wait)?;
        let mut count = 0;
        while count < events_max {
            let Some(bytes) = self.0.borrow_mut().arriving.pop_front() else { break };
            let connection = ConnectionId { slot: 0, generation: 0 };
            on_event(sockets, NetEvent::Received { connection, bytes: &bytes });
            count += 1;
        }
        Ok(count)
    }

    fn wake(&mut self, target: CoreId) {
        self.0.borrow_mut().steps.push(Step::Wake(target));
    }

    fn stop_accepting(&mut self) {}

    fn counters(&self) -> DriverCounters {
        DriverCounters::default()
    }
}

impl FileDriver for FakeDriver {
    fn submit(&mut self, disk: &mut Disk) {
        let mut world = self.0.borrow_mut();
        if disk.has_work() {
            world.steps.push(Step::Submit);
        }
        world.memory.submit(disk);
    }

    fn complete(
        &mut self,
        disk: &mut Disk,
        events_max: usize,
        on_event: &mut dyn FnMut(&mut Disk, DiskEvent),
    ) -> usize {
        let mut memory = self.0.borrow().memory.clone();
        memory.complete(disk, events_max, on_event)
    }

    fn in_flight(&self) -> usize {
        self.0.borrow().memory.in_flight()
    }
}

impl LinkDriver for FakeDriver {
    fn carry_out(&mut self, links: &mut Links) {
        if links.has_work() {
            self.0.borrow_mut().steps.push(Step::CarryOut);
        }
        let mut commands = Vec::new();
        links.take_commands(&mut commands);
        assert!(commands.iter().all(|command| matches!(command, LinkCommand::Revoke(_))));
    }

    fn deliver(
        &mut self,
        links: &mut Links,
        events_max: usize,
        on_event: &mut dyn FnMut(&mut Links, LinkEvent<'_>),
    ) -> usize {
        let mut count = 0;
        while count < events_max {
            let Some(message) = self.0.borrow_mut().linked.pop_front() else { break };
            let link = LinkId { slot: 0, generation: 0 };
            on_event(links, LinkEvent::Received { link, message: &message });
            count += 1;
        }
        count
    }

    fn link_counters(&self) -> LinkCounters {
        LinkCounters::default()
    }
}

impl FakeDriver {
    fn begin(&mut self, sockets: &mut Sockets, wait: Wait) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        world.steps.push(Step::Poll(wait));
        if world.broken {
            return Err(io::Error::other("the ring is gone"));
        }
        if let Wait::Until(deadline) = wait {
            world.now = world.wait_ends.take().unwrap_or(deadline.0);
            if !world.forgetful {
                sockets.set_now(Nanos(world.now));
            }
        }
        Ok(())
    }
}

/// Writes down what it gets and does what the world says.
#[derive(Debug)]
pub(crate) struct FakeService(pub(crate) Shared);

type FakeTurn<'a> = Turn<'a, u32, u32>;

impl Service for FakeService {
    type Mail = u32;
    type Timer = u32;

    fn on_net(&mut self, turn: &mut FakeTurn<'_>, event: NetEvent<'_>) {
        if let NetEvent::Received { bytes, .. } = event {
            self.0.borrow_mut().steps.push(Step::Net(bytes.to_vec(), turn.now));
        }
    }

    fn on_link(&mut self, turn: &mut FakeTurn<'_>, event: LinkEvent<'_>) {
        if let LinkEvent::Received { message, .. } = event {
            self.0.borrow_mut().steps.push(Step::Link(message.to_vec(), turn.now));
        }
    }

    fn on_mail(&mut self, _turn: &mut FakeTurn<'_>, from: CoreId, mail: u32) {
        self.0.borrow_mut().steps.push(Step::Mail(from, mail));
    }

    fn on_disk(&mut self, turn: &mut FakeTurn<'_>, event: DiskEvent) {
        assert!(matches!(event.result, Err(DiskError { .. })));
        self.0.borrow_mut().steps.push(Step::Disk(event.token.0, turn.now));
    }

    fn on_timer(&mut self, turn: &mut FakeTurn<'_>, key: u32) {
        self.0.borrow_mut().steps.push(Step::Timer(key, turn.now));
    }

    fn end_turn(&mut self, turn: &mut FakeTurn<'_>) -> After {
        let mut world = self.0.borrow_mut();
        world.steps.push(Step::EndTurn);
        for (to, mail) in world.outgoing.drain(..) {
            turn.mesh.send(to, mail).expect("the test leaves room");
        }
        for token in world.commands.drain(..) {
            let (token, file) = (DiskToken(token), FileId(0));
            turn.disk.push(DiskCommand::Read { token, file, position: 0, bytes: 1 });
        }
        if core::mem::take(&mut world.revokes) {
            let link = turn.links.open(Carrier::Tcp).expect("the table has room");
            turn.links.revoke(link);
        }
        for (at, key) in world.timers.drain(..) {
            turn.timers.schedule(at, key);
        }
        world.answers.pop_front().unwrap_or(After::Idle)
    }
}
