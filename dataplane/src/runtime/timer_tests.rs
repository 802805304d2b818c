//! Tests of the timer wheel against a sorted list.

use super::*;
use proptest::prelude::*;

const YEAR_SECS: u64 = 31_536_000;

fn fire_all(wheel: &mut TimerWheel<u32>, now: Nanos) -> Vec<u32> {
    let mut fired = Vec::new();
    while wheel.expire(now, 8, &mut fired) {}
    fired
}

#[test]
fn an_empty_wheel_has_no_deadline() {
    let mut wheel = TimerWheel::<u32>::new(Nanos::from_secs(5));
    assert_eq!(wheel.next_deadline(), Nanos::NEVER);
    assert!(wheel.is_empty());
    assert_eq!(fire_all(&mut wheel, Nanos::from_secs(50)), []);
    assert_eq!(wheel.next_deadline(), Nanos::NEVER);
}

#[test]
fn a_timer_fires_within_its_tick_and_never_early() {
    for at in [1, 999_999, 1_000_000, 1_000_001, 63_999_999, 64_000_000, 64_000_001] {
        let mut wheel = TimerWheel::new(Nanos(0));
        wheel.schedule(Nanos(at), 1);
        let tick = at.div_ceil(1_000_000) * 1_000_000;
        assert_eq!(fire_all(&mut wheel, Nanos(tick - 1)), [], "{at}");
        assert_eq!(fire_all(&mut wheel, Nanos(tick)), [1], "{at}");
        assert_eq!(wheel.len(), 0);
    }
}

#[test]
fn the_past_is_due_at_once() {
    let mut wheel = TimerWheel::new(Nanos::from_secs(10));
    wheel.schedule(Nanos::from_secs(3), 1);
    wheel.schedule(Nanos::from_secs(10), 2);
    assert!(wheel.next_deadline() <= Nanos::from_secs(10));
    assert_eq!(fire_all(&mut wheel, Nanos::from_secs(10)), [1, 2]);
}

#[test]
fn deadlines_of_every_size_fire_in_order() {
    let mut wheel = TimerWheel::new(Nanos(0));
    let secs = [0, 1, 4, 5, 262, 3600, 86_400, 10 * YEAR_SECS, 136 * YEAR_SECS, 500 * YEAR_SECS];
    for (key, secs) in secs.iter().enumerate().rev() {
        wheel.schedule(Nanos::from_secs(*secs), key as u32);
    }
    for (key, secs) in secs.iter().enumerate() {
        let at = Nanos::from_secs(*secs);
        if *secs > 0 {
            assert_eq!(fire_all(&mut wheel, Nanos(at.0 - 1)), [], "{secs} s");
        }
        assert!(wheel.next_deadline() <= at);
        assert_eq!(fire_all(&mut wheel, at), [key as u32], "{secs} s");
    }
    assert!(wheel.is_empty());
}

#[test]
fn waiting_for_the_next_deadline_reaches_a_far_timer_in_a_few_steps() {
    let at = Nanos::from_secs(136 * YEAR_SECS);
    let mut wheel = TimerWheel::new(Nanos(123_456_789));
    wheel.schedule(at, 1);
    let mut wakes = 0;
    let mut fired = Vec::new();
    while fired.is_empty() {
        let next = wheel.next_deadline();
        assert!(next <= Nanos(at.0 + 1_000_000));
        while wheel.expire(next, 8, &mut fired) {}
        wakes += 1;
    }
    assert!(wakes <= LEVELS, "{wakes} wake-ups");
}

#[test]
fn never_is_never() {
    let mut wheel = TimerWheel::new(Nanos(0));
    let timer = wheel.schedule(Nanos::NEVER, 1);
    assert_eq!(fire_all(&mut wheel, Nanos(u64::MAX - 1)), []);
    assert_eq!(fire_all(&mut wheel, Nanos::NEVER), []);
    assert_eq!(wheel.next_deadline(), Nanos::NEVER);
    assert!(wheel.cancel(timer));
    assert!(wheel.is_empty());
}

#[test]
fn a_cancelled_timer_stays_silent_and_its_id_goes_stale() {
    let mut wheel = TimerWheel::new(Nanos(0));
    let timer = wheel.schedule(Nanos::from_millis(5), 1);
    assert!(wheel.cancel(timer));
    assert!(!wheel.cancel(timer));
    assert_eq!(wheel.next_deadline(), Nanos::NEVER);
    let reused = wheel.schedule(Nanos::from_millis(6), 2);
    assert!(!wheel.cancel(timer), "the id of another user of the same entry");
    assert_eq!(fire_all(&mut wheel, Nanos::from_millis(6)), [2]);
    assert!(!wheel.cancel(reused), "it has fired");
    assert!(
        !wheel.cancel(TimerId { index: 99, generation: NonZeroU32::MIN }),
        "it was never there"
    );
}

#[test]
fn entries_are_reused() {
    let mut wheel = TimerWheel::new(Nanos(0));
    for round in 0..1000 {
        let timer = wheel.schedule(Nanos::from_secs(60), round);
        wheel.schedule(Nanos::from_millis(u64::from(round)), round);
        assert!(wheel.cancel(timer));
        assert_eq!(fire_all(&mut wheel, Nanos::from_millis(u64::from(round))), [round]);
    }
    assert_eq!(wheel.entries.len(), 2);
}

#[test]
fn steps_are_bounded_and_the_rest_is_announced() {
    let mut wheel = TimerWheel::new(Nanos(0));
    for key in 0..100 {
        wheel.schedule(Nanos::from_secs(100), key);
    }
    let now = Nanos::from_secs(100);
    let mut fired = Vec::new();
    let mut calls = 0;
    loop {
        let before = fired.len();
        let more = wheel.expire(now, 10, &mut fired);
        calls += 1;
        assert!(fired.len() - before <= 10);
        assert_eq!(more, !wheel.is_empty(), "the rest is due at the same time");
        assert_eq!(more, wheel.next_deadline() <= now);
        if !more {
            break;
        }
    }
    assert_eq!(fired, (0..100).collect::<Vec<_>>(), "one after the other, as scheduled");
    assert!(calls <= 100 * LEVELS / 10, "{calls} calls");
}

#[test]
fn timers_can_change_while_a_slot_is_half_emptied() {
    let mut wheel = TimerWheel::new(Nanos(0));
    let at = Nanos::from_millis(200);
    let timers: Vec<_> = (0..10).map(|key| wheel.schedule(at, key)).collect();
    let mut fired = Vec::new();
    assert!(wheel.expire(at, 3, &mut fired), "some moved down, some did not");
    for timer in &timers[1..9] {
        assert!(wheel.cancel(*timer));
    }
    wheel.schedule(at, 10);
    wheel.schedule(Nanos::from_millis(201), 11);
    fired.extend(fire_all(&mut wheel, at));
    fired.sort_unstable();
    assert_eq!(fired, [0, 9, 10]);
    assert_eq!(fire_all(&mut wheel, Nanos::from_millis(201)), [11]);
}

#[test]
fn a_clock_that_stands_still_or_goes_back_does_no_harm() {
    let mut wheel = TimerWheel::new(Nanos::from_secs(10));
    wheel.schedule(Nanos::from_secs(12), 1);
    assert_eq!(fire_all(&mut wheel, Nanos::from_secs(5)), []);
    assert_eq!(fire_all(&mut wheel, Nanos::from_secs(11)), []);
    assert_eq!(fire_all(&mut wheel, Nanos::from_secs(4)), []);
    wheel.schedule(Nanos::from_secs(6), 2);
    assert_eq!(fire_all(&mut wheel, Nanos::from_secs(11)), [2]);
    assert_eq!(fire_all(&mut wheel, Nanos::from_secs(12)), [1]);
}

#[derive(Clone, Debug)]
enum Operation {
    /// Schedule so many nanoseconds from now, or in the past if negative.
    Schedule(i64),
    /// Cancel a timer that was scheduled at some point, pending or not.
    Cancel(prop::sample::Index),
    /// Let time pass and fire with this bound on the steps.
    Advance(u64, usize),
}

fn operation() -> impl Strategy<Value = Operation> {
    // A span of any order of magnitude, so that every level of the wheel is used.
    let span = (0u32..58, any::<u64>()).prop_map(|(bits, noise)| noise % (1 << bits));
    let future = span.clone().prop_map(|nanos| nanos as i64);
    prop_oneof![
        4 => future.prop_map(Operation::Schedule),
        1 => (0i64..5_000_000).prop_map(|nanos| Operation::Schedule(-nanos)),
        2 => any::<prop::sample::Index>().prop_map(Operation::Cancel),
        4 => (span, 1usize..6).prop_map(|(nanos, max)| Operation::Advance(nanos, max)),
    ]
}

/// The wheel beside a plain list of what is pending.
struct Model {
    wheel: TimerWheel<u32>,
    now: Nanos,
    pending: Vec<(u32, Nanos)>,
    ids: Vec<TimerId>,
}

impl Model {
    fn schedule(&mut self, offset: i64) {
        let at = Nanos(self.now.0.saturating_add_signed(offset));
        let key = self.ids.len() as u32;
        self.ids.push(self.wheel.schedule(at, key));
        self.pending.push((key, at));
    }

    fn cancel(&mut self, index: &prop::sample::Index) -> Result<(), TestCaseError> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let key = index.index(self.ids.len());
        let position = self.pending.iter().position(|(pending, _)| *pending as usize == key);
        prop_assert_eq!(self.wheel.cancel(self.ids[key]), position.is_some());
        if let Some(position) = position {
            self.pending.swap_remove(position);
        }
        Ok(())
    }

    fn advance(&mut self, span: u64, max: usize) -> Result<(), TestCaseError> {
        self.now = Nanos(self.now.0.saturating_add(span));
        let present = self.now.0 / TICK_NANOS;
        let mut more = true;
        while more {
            let mut fired = Vec::new();
            more = self.wheel.expire(self.now, max, &mut fired);
            prop_assert!(fired.len() <= max);
            for key in fired {
                let position = self.pending.iter().position(|(pending, _)| *pending == key);
                prop_assert!(position.is_some(), "{} fired and was not pending", key);
                let (_, at) = self.pending.swap_remove(position.expect("checked"));
                prop_assert!(at <= self.now, "fired early");
            }
        }
        let late = self.pending.iter().find(|(_, at)| at.0.div_ceil(TICK_NANOS) <= present);
        prop_assert!(late.is_none(), "{:?} is late at {:?}", late, self.now);
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.wheel.len(), self.pending.len());
        let earliest = self.pending.iter().map(|(_, at)| at.0.div_ceil(TICK_NANOS)).min();
        // What is due already is due at once.
        let bound = earliest.map_or(u64::MAX, |tick| tick.saturating_mul(TICK_NANOS));
        let bound = bound.max(self.now.0);
        prop_assert!(self.wheel.next_deadline().0 <= bound, "the next deadline is late");
        prop_assert!(earliest.is_some() || self.wheel.next_deadline() == Nanos::NEVER);
        Ok(())
    }
}

proptest! {
    #[test]
    fn it_fires_what_a_list_says(
        start in 0u64..u64::MAX / 4,
        operations in prop::collection::vec(operation(), 0..200),
    ) {
        let wheel = TimerWheel::new(Nanos(start));
        let mut model = Model { wheel, now: Nanos(start), pending: Vec::new(), ids: Vec::new() };
        for operation in &operations {
            match operation {
                Operation::Schedule(offset) => model.schedule(*offset),
                Operation::Cancel(index) => model.cancel(index)?,
                Operation::Advance(span, max) => model.advance(*span, *max)?,
            }
            model.check()?;
        }
    }

    #[test]
    fn timers_fire_by_rising_tick(offsets in prop::collection::vec(1u64..1 << 50, 1..100)) {
        let mut wheel = TimerWheel::new(Nanos(0));
        for (key, offset) in offsets.iter().enumerate() {
            wheel.schedule(Nanos(*offset), key as u32);
        }
        let fired = fire_all(&mut wheel, Nanos(1 << 51));
        let ticks: Vec<u64> =
            fired.iter().map(|key| offsets[*key as usize].div_ceil(TICK_NANOS)).collect();
        prop_assert_eq!(ticks.len(), offsets.len());
        prop_assert!(ticks.is_sorted());
    }
}
