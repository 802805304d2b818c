//! Runs of whole brokers: sessions, routing, QoS 2 and clients, which the broker itself puts together.

use crate::counters::{Counter, Counters};
use crate::run::{ACKNOWLEDGED_MIN, Outcome, SECONDS, panic_text};
use ringlane::simulation::{self, Demand, Figures};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A whole run.
pub const WHOLE: Demand = Demand { seconds: SECONDS, acknowledged: ACKNOWLEDGED_MIN };

/// Runs a seed. A panic is a rule that does not hold.
#[must_use]
pub fn run(seed: u64, demand: Demand) -> Outcome {
    match catch_unwind(AssertUnwindSafe(|| simulation::run(seed, demand))) {
        Ok((figures, trace)) => {
            Outcome { counters: counted(&figures), trace, ..Outcome::default() }
        }
        Err(panic) => {
            let failure = Some(format!("{}\n", panic_text(panic.as_ref())));
            Outcome { failure, ..Outcome::default() }
        }
    }
}

fn counted(figures: &Figures) -> Counters {
    let mut counters = Counters::default();
    for (counter, count) in [
        (Counter::Acknowledged, figures.acknowledged),
        (Counter::Faults, figures.faults),
        (Counter::LeaderChange, figures.leader_changes),
        (Counter::Truncation, figures.truncations),
        (Counter::Crash, figures.crashes),
        (Counter::TornTail, figures.torn),
        (Counter::Cut, figures.cuts),
        (Counter::OneWay, figures.one_way),
        (Counter::Late, figures.late),
        (Counter::Reset, figures.resets),
        (Counter::Pause, figures.pauses),
        (Counter::BeganAgain, figures.began_again),
        (Counter::Takeover, figures.takeovers),
        (Counter::CarriedOver, figures.carried_over),
        (Counter::EtcdDown, figures.etcd_away),
        (Counter::Fleeting, figures.fleeting),
        (Counter::WithoutLease, figures.without_lease),
        (Counter::Wiped, figures.wiped),
        (Counter::Learned, figures.learned),
        (Counter::BehindCheckpoint, figures.behind_checkpoint),
        (Counter::FullDisk, figures.full_disks),
        (Counter::DiskFull, figures.no_room),
        (Counter::Refused, figures.refused),
        (Counter::Flipped, figures.damaged),
        (Counter::Replaced, figures.replaced),
        (Counter::Agreed, figures.agreed),
        (Counter::NoRoomForLog, figures.no_room_for_logs),
        (Counter::Unread, figures.unread),
        (Counter::Met, figures.met),
    ] {
        counters.count_many(counter, count);
    }
    counters
}
