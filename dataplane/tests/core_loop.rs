//! The turn of a core against a driver and a service that write down what happens.
#![cfg(not(loom))]

mod support;

use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::net::{Sockets, Wait};
use ringlane_dataplane::runtime::{After, CoreLoop, CoreStats, Endpoint, Idle, Mesh, TurnLimits};
use ringlane_dataplane::time::Nanos;
use std::sync::Arc;
use std::time::Duration;
use support::{FakeDriver, FakeService, Shared, Step, World, steps};

const LIMITS: TurnLimits = TurnLimits {
    net_events_max: 3,
    link_events_max: 3,
    mails_max_per_peer: 2,
    disk_events_max: 2,
    timers_max: 4,
};

/// A core with peers and everything around it.
struct Bench {
    world: Shared,
    core: CoreLoop<FakeDriver, FakeService>,
    peers: Vec<Endpoint<u32>>,
    stats: Arc<CoreStats>,
}

fn bench(idle: Idle, peers: usize) -> Bench {
    let world = Shared::new(World::default().into());
    let mut peers: Vec<Endpoint<u32>> = Mesh::build(peers + 1, 16);
    let own = peers.remove(0);
    let stats = Arc::new(CoreStats::default());
    let core = CoreLoop::new(
        FakeDriver(world.clone()),
        FakeService(world.clone()),
        Sockets::new(4),
        own,
        idle,
        LIMITS,
        Arc::clone(&stats),
    );
    Bench { world, core, peers, stats }
}

impl Bench {
    /// Does one turn and returns what happened in it.
    fn turn(&mut self) -> Vec<Step> {
        self.core.turn().expect("the driver works");
        steps(&self.world)
    }

    /// The time, also behind a wait that begins now.
    fn set_now(&mut self, now: u64) {
        let mut world = self.world.borrow_mut();
        (world.now, world.wait_ends) = (now, Some(now));
    }

    /// Does one turn and returns how the driver was asked to wait.
    fn wait(&mut self) -> Wait {
        let steps = self.turn();
        let Some(Step::Poll(wait)) = steps.first() else { panic!("no poll in {steps:?}") };
        *wait
    }

    /// Sends mails from a peer (counted from 1), as one turn of it.
    fn mail(&mut self, peer: usize, mails: &[u32]) -> Vec<CoreId> {
        let end = &mut self.peers[peer - 1];
        for mail in mails {
            end.send(CoreId(0), *mail).expect("the test leaves room");
        }
        let mut woken = Vec::new();
        end.publish(&mut |peer| woken.push(peer));
        woken
    }
}

fn mails(steps: &[Step]) -> Vec<(u16, u32)> {
    steps
        .iter()
        .filter_map(|step| match step {
            Step::Mail(from, mail) => Some((from.0, *mail)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_turn_has_its_order() {
    let mut bench = bench(Idle::Spin, 1);
    bench.world.borrow_mut().timers.push((Nanos(0), 7));
    bench.world.borrow_mut().commands.push(3);
    bench.turn();
    bench.world.borrow_mut().arriving.push_back(b"x".to_vec());
    bench.world.borrow_mut().linked.push_back(b"y".to_vec());
    bench.world.borrow_mut().outgoing.push((CoreId(1), 5));
    bench.world.borrow_mut().commands.push(4);
    bench.world.borrow_mut().revokes = true;
    bench.mail(1, &[9]);
    assert!(bench.peers[0].prepare_sleep());
    assert_eq!(
        bench.turn(),
        [
            Step::Poll(Wait::Poll),
            Step::Net(b"x".to_vec(), Nanos(0)),
            Step::Link(b"y".to_vec(), Nanos(0)),
            Step::Mail(CoreId(1), 9),
            Step::Disk(3, Nanos(0)),
            Step::Timer(7, Nanos(0)),
            Step::EndTurn,
            Step::Submit,
            Step::CarryOut,
            Step::Apply,
            Step::Wake(CoreId(1)),
        ]
    );
    assert_eq!(bench.peers[0].receive(CoreId(0)), Some(5));
}

#[test]
fn an_awake_peer_gets_its_mail_without_a_wake_up() {
    let mut bench = bench(Idle::Spin, 2);
    assert!(bench.peers[1].prepare_sleep());
    bench.world.borrow_mut().outgoing.push((CoreId(1), 5));
    let steps = bench.turn();
    assert!(!steps.iter().any(|step| matches!(step, Step::Wake(_))), "{steps:?}");
    assert_eq!(bench.peers[0].receive(CoreId(0)), Some(5));
}

#[test]
fn every_phase_is_bounded() {
    let mut bench = bench(Idle::Park, 1);
    bench.world.borrow_mut().arriving.extend((0..10).map(|n| vec![n]));
    bench.world.borrow_mut().linked.extend((0..8).map(|n| vec![n]));
    bench.world.borrow_mut().timers.extend((0..10).map(|key| (Nanos(0), key)));
    bench.world.borrow_mut().commands.extend(0..7);
    bench.mail(1, &[0, 1, 2, 3, 4]);
    bench.turn();
    let mut turns = 0;
    let mut timers = 0;
    loop {
        let steps = bench.turn();
        let count = |wanted: fn(&Step) -> bool| steps.iter().filter(|step| wanted(step)).count();
        assert!(count(|step| matches!(step, Step::Net(..))) <= LIMITS.net_events_max);
        assert!(count(|step| matches!(step, Step::Link(..))) <= LIMITS.link_events_max);
        assert!(count(|step| matches!(step, Step::Mail(..))) <= LIMITS.mails_max_per_peer);
        assert!(count(|step| matches!(step, Step::Disk(..))) <= LIMITS.disk_events_max);
        assert!(count(|step| matches!(step, Step::Timer(..))) <= LIMITS.timers_max);
        timers += count(|step| matches!(step, Step::Timer(..)));
        turns += 1;
        if bench.stats.parks.get() > 0 {
            break;
        }
        assert!(turns < 20, "it never comes to rest");
    }
    assert_eq!(timers, 10);
    assert_eq!(bench.stats.net_events.get(), 10);
    assert_eq!(bench.stats.link_events.get(), 8);
    assert_eq!(bench.stats.mails_received.get(), 5);
    assert_eq!(bench.stats.timers_fired.get(), 10);
    assert_eq!(bench.stats.disk_events.get(), 7);
}

#[test]
fn peers_take_turns_at_being_first_and_none_starves() {
    let mut bench = bench(Idle::Spin, 3);
    for peer in 1..=3 {
        bench.mail(peer, &[0, 1, 2, 3, 4, 5, 6, 7]);
    }
    let mut first = Vec::new();
    for turn in 0..4u32 {
        let mails = mails(&bench.turn());
        let own = [turn * 2, turn * 2 + 1];
        for peer in 1..=3 {
            let of_peer: Vec<u32> =
                mails.iter().filter(|(from, _)| *from == peer).map(|(_, mail)| *mail).collect();
            assert_eq!(of_peer, own, "each has the same share of each turn, in order");
        }
        first.push(mails[0].0);
    }
    assert_eq!(first, [1, 1, 2, 3], "the own place, which has no mail, has its turn too");
}

#[test]
fn the_first_turn_does_not_wait() {
    for idle in [Idle::Spin, Idle::Park, Idle::default()] {
        assert_eq!(bench(idle, 1).wait(), Wait::Poll, "{idle:?}");
    }
}

#[test]
fn spin_never_waits() {
    let mut bench = bench(Idle::Spin, 1);
    for _ in 0..100 {
        assert_eq!(bench.wait(), Wait::Poll);
        bench.world.borrow_mut().now += 1_000_000_000;
    }
    assert_eq!(bench.stats.parks.get(), 0);
}

#[test]
fn park_waits_as_soon_as_a_turn_did_nothing() {
    let mut bench = bench(Idle::Park, 1);
    bench.world.borrow_mut().arriving.push_back(b"x".to_vec());
    assert_eq!(bench.wait(), Wait::Poll, "the first turn");
    assert_eq!(bench.wait(), Wait::Poll, "something happened in the turn before");
    bench.world.borrow_mut().wait_ends = Some(5);
    assert_eq!(bench.wait(), Wait::Until(Nanos::NEVER));
    assert_eq!(bench.stats.parks.get(), 1);
}

#[test]
fn spin_then_park_waits_after_its_time() {
    let spin = Duration::from_nanos(100);
    let mut bench = bench(Idle::SpinThenPark { spin }, 1);
    for _ in 0..3 {
        assert_eq!(bench.wait(), Wait::Poll);
    }
    bench.world.borrow_mut().now = 99;
    assert_eq!(bench.wait(), Wait::Poll);
    bench.world.borrow_mut().now = 100;
    bench.world.borrow_mut().wait_ends = Some(200);
    assert_eq!(bench.wait(), Wait::Until(Nanos::NEVER));
    bench.mail(1, &[1]);
    assert_eq!(bench.wait(), Wait::Poll, "there is mail");
    bench.world.borrow_mut().now = 299;
    assert_eq!(bench.wait(), Wait::Poll, "the time begins anew when something happened");
}

#[test]
fn what_is_expected_soon_keeps_a_core_awake_that_spins() {
    for (idle, woken) in [
        (Idle::SpinThenPark { spin: Duration::from_nanos(100) }, Wait::Poll),
        (Idle::Park, Wait::Until(Nanos::NEVER)),
    ] {
        let mut bench = bench(idle, 1);
        bench.world.borrow_mut().answers.extend([After::Soon(Nanos(300)); 3]);
        assert_eq!(bench.wait(), Wait::Poll);
        bench.set_now(299);
        assert_eq!(bench.wait(), woken);
        bench.set_now(300);
        assert_eq!(bench.wait(), Wait::Until(Nanos::NEVER), "no longer than until then");
        assert_eq!(bench.stats.busy_turns.get(), 0, "to wait awake is no work");
    }
}

#[test]
fn the_wait_ends_at_the_next_deadline_and_no_timer_is_early() {
    let mut bench = bench(Idle::Park, 1);
    let at = Nanos(2_500_000);
    bench.world.borrow_mut().timers.push((at, 7));
    bench.turn();
    let mut fired = None;
    for _ in 0..10 {
        for step in bench.turn() {
            if let Step::Timer(7, now) = step {
                fired = Some(now);
            }
        }
        if fired.is_some() {
            break;
        }
    }
    assert_eq!(fired, Some(Nanos(3_000_000)), "at the tick that follows the deadline");
    assert!(bench.stats.parks.get() >= 1);
}

#[test]
fn events_after_a_wait_see_the_time_after_it() {
    let mut bench = bench(Idle::Park, 1);
    bench.turn();
    bench.world.borrow_mut().wait_ends = Some(77);
    bench.world.borrow_mut().arriving.push_back(b"x".to_vec());
    let steps = bench.turn();
    assert!(steps.contains(&Step::Poll(Wait::Until(Nanos::NEVER))));
    assert!(steps.contains(&Step::Net(b"x".to_vec(), Nanos(77))), "{steps:?}");
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "did not call Sockets::set_now")]
fn a_driver_that_does_not_tell_the_time_is_found_out() {
    let mut bench = bench(Idle::Park, 1);
    bench.turn();
    bench.world.borrow_mut().forgetful = true;
    bench.world.borrow_mut().wait_ends = Some(77);
    bench.world.borrow_mut().arriving.push_back(b"x".to_vec());
    bench.turn();
}

#[test]
fn a_core_that_waits_is_woken_and_one_that_does_not_is_not() {
    let mut bench = bench(Idle::Park, 1);
    assert_eq!(bench.mail(1, &[1]), [], "it has not slept yet");
    bench.turn();
    bench.turn();
    assert_eq!(bench.mail(1, &[2]), [], "its sleep has ended with the turn");
    let steps = bench.turn();
    assert_eq!(steps[0], Step::Poll(Wait::Poll), "mail that is there keeps it awake");
    assert_eq!(mails(&steps), [(1, 2)]);
}

#[test]
fn work_that_is_left_over_keeps_the_core_awake() {
    let mut bench = bench(Idle::Park, 1);
    bench.world.borrow_mut().answers.extend([After::MoreWork, After::MoreWork]);
    assert_eq!(bench.wait(), Wait::Poll);
    assert_eq!(bench.wait(), Wait::Poll);
    assert_eq!(bench.wait(), Wait::Poll);
    bench.world.borrow_mut().wait_ends = Some(1);
    assert_eq!(bench.wait(), Wait::Until(Nanos::NEVER));
}

#[test]
fn stop_ends_the_run_after_the_whole_turn() {
    let mut bench = bench(Idle::Spin, 1);
    bench.world.borrow_mut().answers.extend([After::Idle, After::MoreWork, After::Stop]);
    bench.world.borrow_mut().outgoing.push((CoreId(1), 5));
    bench.core.run().expect("the driver works");
    let steps = steps(&bench.world);
    assert_eq!(steps.iter().filter(|step| **step == Step::EndTurn).count(), 3);
    assert_eq!(steps.last(), Some(&Step::Apply), "what the last turn asked for is handed over");
    assert_eq!(bench.peers[0].receive(CoreId(0)), Some(5));
}

#[test]
fn a_broken_driver_ends_the_run_with_its_error() {
    let mut bench = bench(Idle::Park, 1);
    bench.turn();
    bench.world.borrow_mut().broken = true;
    let error = bench.core.run().expect_err("the driver is broken");
    assert_eq!(error.to_string(), "the ring is gone");
    assert_eq!(bench.mail(1, &[1]), [], "it does not advertise sleep any more");
}

#[test]
fn busy_and_idle_time_add_up() {
    let mut bench = bench(Idle::Park, 1);
    bench.turn();
    bench.world.borrow_mut().now += 10;
    bench.world.borrow_mut().wait_ends = Some(110);
    bench.world.borrow_mut().arriving.push_back(b"x".to_vec());
    bench.turn();
    bench.world.borrow_mut().now += 30;
    bench.turn();
    bench.world.borrow_mut().wait_ends = Some(145);
    bench.turn();
    let stats = &bench.stats;
    assert_eq!((stats.idle_ns.get(), stats.busy_ns.get()), (10 + 100 + 5, 30));
    assert_eq!((stats.turns.get(), stats.busy_turns.get()), (4, 1));
    assert_eq!(stats.turn_ns.sum(), 30);
    assert_eq!(stats.turn_ns.counts()[5], 1, "30 lies between 16 and 31");
}
