//! What makes publishers send: room in a window, or a schedule; and how long to wait until then.

use super::engine::{Flow, nanos};
use crate::swarm::Swarm;
use ringlane_mqtt::QoS;
use std::mem;
use std::num::NonZeroU64;
use std::time::Duration;

/// Unsent bytes up to which a publisher without a window goes on.
const UNSENT_BYTES_MAX: usize = 64 * 1024;
/// The longest wait.
const GLANCE: Duration = Duration::from_millis(10);
/// The end of a wait is spent looking again and again, because a thread that sleeps is woken late:
/// by 70 us in the middle and by 2 ms at times on the virtual machines seen. So much of a wait at
/// least, and at most.
const SPIN_NS: std::ops::RangeInclusive<u64> = 60_000..=3_000_000;

/// Takes away the 50 us by which the kernel may delay a thread's timers to bundle them. Without
/// that right it only spins sooner too late.
pub(super) fn wake_precisely() {
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

impl Flow<'_> {
    /// Sends what may be sent now. Returns how long nothing more can be, if nothing arrives.
    pub(super) fn pump(&mut self, swarm: &mut Swarm, end_ns: Option<u64>) -> Duration {
        if self.schedule.is_some() {
            return self.pump_schedule(swarm, end_ns);
        }
        let idle =
            if self.window == 0 { self.pump_unlimited(swarm) } else { self.pump_windows(swarm) };
        if idle { GLANCE } else { Duration::ZERO }
    }

    /// Learns how late a wait for the schedule ended: the next ones end earlier by twice that, and
    /// ever less as long as they are in time.
    pub(super) fn on_woken(&mut self, wanted_ns: u64, now_ns: u64) {
        let late_ns = now_ns.saturating_sub(wanted_ns);
        let fading_ns = self.spin_ns - self.spin_ns / 1024;
        self.spin_ns = fading_ns.max(2 * late_ns).clamp(*SPIN_NS.start(), *SPIN_NS.end());
    }

    fn pump_windows(&mut self, swarm: &mut Swarm) -> bool {
        if self.ready.is_empty() {
            return true;
        }
        let now_ns = swarm.now_ns();
        let limit = self.limit();
        let mut ready = mem::take(&mut self.ready);
        for index in ready.drain(..) {
            let stream = &mut self.streams[index];
            stream.queued = false;
            let credit = self.window.saturating_sub(stream.outstanding());
            let left = limit - stream.sent.min(limit);
            let batch = self.options.batch.min(left);
            if batch > 0 && credit >= batch {
                let count = (credit - credit % batch).min(left);
                stream.publish(swarm, index, count, now_ns, |_| now_ns);
            }
        }
        self.ready = ready;
        true
    }

    fn pump_unlimited(&mut self, swarm: &mut Swarm) -> bool {
        let now_ns = swarm.now_ns();
        let limit = self.limit();
        let mut idle = true;
        for (index, stream) in self.streams.iter_mut().enumerate() {
            let unsent = swarm.link(stream.link).map_or(usize::MAX, |link| link.unsent_bytes());
            let room = match self.options.qos {
                QoS::AtMostOnce => u64::MAX,
                _ => self.in_flight_max.saturating_sub(stream.in_flight()),
            };
            let count = self.options.batch.max(64).min(room).min(limit - stream.sent.min(limit));
            if unsent < UNSENT_BYTES_MAX && count > 0 {
                stream.publish(swarm, index, count, now_ns, |_| now_ns);
                idle = false;
            }
        }
        idle
    }

    fn pump_schedule(&mut self, swarm: &mut Swarm, end_ns: Option<u64>) -> Duration {
        let now_ns = swarm.now_ns();
        let limit = self.limit();
        let batch = self.options.batch;
        let until_ns = end_ns.map_or(now_ns, |end_ns| now_ns.min(end_ns - 1));
        let Some(mut schedule) = self.schedule else { return GLANCE };
        while let Some((index, due_ns)) = schedule.take(until_ns) {
            let stream = &mut self.streams[index];
            let count = batch.min(limit - stream.due.min(limit));
            stream.due += count;
            stream.fresh += count;
            if self.is_timed(due_ns) {
                (0..count).for_each(|_| self.lateness.record(now_ns - due_ns));
            }
            self.make_ready(index);
        }
        self.schedule = Some(schedule);
        self.send_due(swarm);
        let next_ns = schedule.next_ns().min(end_ns.unwrap_or(u64::MAX));
        let wait_ns = next_ns.saturating_sub(now_ns).saturating_sub(self.spin_ns);
        Duration::from_nanos(wait_ns.min(nanos(GLANCE)))
    }

    /// Sends what is due and has room.
    pub(super) fn send_due(&mut self, swarm: &mut Swarm) {
        let Some(schedule) = self.schedule else { return };
        let now_ns = swarm.now_ns();
        let mut ready = mem::take(&mut self.ready);
        for index in ready.drain(..) {
            let stream = &mut self.streams[index];
            stream.queued = false;
            let room = match self.options.qos {
                QoS::AtMostOnce => {
                    let unsent =
                        swarm.link(stream.link).map_or(usize::MAX, |link| link.unsent_bytes());
                    UNSENT_BYTES_MAX.saturating_sub(unsent).div_ceil(stream.packet_bytes()) as u64
                }
                _ => self.in_flight_max.saturating_sub(stream.in_flight()),
            };
            let count = room.min(stream.due - stream.sent);
            if count > 0 {
                let intended = |sequence| schedule.intended_ns(index, sequence);
                stream.publish(swarm, index, count, now_ns, intended);
            }
            let held = stream.due - stream.sent;
            self.held_back += held.min(stream.fresh);
            stream.fresh = 0;
            if held > 0 && self.options.qos == QoS::AtMostOnce {
                // Nothing but the socket holds it, and that tells with the next poll.
                self.make_ready(index);
            }
        }
        self.ready.append(&mut ready);
    }

    /// Whether nothing is due and nothing on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.iter().all(|stream| stream.due <= stream.sent && stream.outstanding() == 0)
    }
}
