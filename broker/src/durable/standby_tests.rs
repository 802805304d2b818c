//! A standby that was fed record by record, from any moment on, is the one that is made of the states at the end.

use super::model::PartitionState;
use super::records::{StateRecord, SubscriptionOptions, WillBody};
use super::standby::Standby;
use super::start::{CoreState, posted_filters};
use crate::delivery::{Subscriber, Target};
use crate::session::{Session, SubscriptionKind};
use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::random::Random;
use ringlane_dataplane::routing::Placement;
use std::collections::{BTreeMap, BTreeSet};

const PARTITIONS: u32 = 3;
/// The last two are groups.
const CLIENTS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "\0g/x/+", "\0h/x/y"];
const FILTERS: [&str; 7] = ["x/y", "x/z", "x/+", "#", "x/#", "$share/g/x/+", "$share/h/x/y"];

/// What a standby says, without the order that it came to say it in.
#[derive(PartialEq, Eq, Debug)]
struct Said {
    sessions: BTreeMap<String, SaidSession>,
    /// Subscriptions, and the shared ones of them.
    counts: (u64, u64),
    /// Lengths of the lists of subscribers.
    lists: BTreeMap<&'static str, usize>,
    posted: BTreeMap<&'static str, BTreeSet<(u16, u32)>>,
}

#[derive(PartialEq, Eq, Debug)]
struct SaidSession {
    partition: u32,
    expiry_secs: u32,
    will: Option<Box<str>>,
    subscriptions: BTreeMap<String, String>,
}

fn said(mut standby: Standby) -> Said {
    let slots = 0..standby.sessions.slots();
    let sessions = slots.filter_map(|slot| standby.sessions.at(slot));
    let sessions = sessions.map(|session| {
        assert!(session.recorded && session.is_unsettled());
        (session.client_id.as_str().to_owned(), said_session(&standby, session))
    });
    let sessions = sessions.collect();
    let lists = FILTERS.iter().map(|filter| (*filter, standby.routes.get(filter)));
    let lists = lists.filter_map(|(filter, list)| Some((filter, list?.len()))).collect();
    let counts = (standby.subscriptions, standby.shared_subscriptions);
    let posted = standby.routes.take_posted();
    let of = |filter| posted.get(filter).iter().map(|p| (p.partition, p.filter)).collect();
    let by_filter: BTreeMap<_, BTreeSet<_>> = FILTERS.iter().map(|f| (*f, of(*f))).collect();
    assert_eq!(posted.len(), by_filter.values().filter(|of| !of.is_empty()).count());
    Said { sessions, counts, lists, posted: by_filter }
}

fn said_session(standby: &Standby, session: &Session) -> SaidSession {
    let held = session.subscriptions.collect(|filter, held| {
        let text = match &held.kind {
            SubscriptionKind::Shared { key } => format!("{key:?} {:?}", held.qos),
            SubscriptionKind::Plain { position } => {
                let list = standby.routes.get(filter).expect("somebody holds it");
                let found = list[*position as usize];
                assert_eq!(found.target, Target::Session(session.id.slot));
                assert_eq!(found.qos, held.qos);
                format!("{:?}", Subscriber { target: Target::Session(0), ..found })
            }
        };
        Some((filter.to_string(), text))
    });
    SaidSession {
        partition: session.partition.0,
        expiry_secs: session.expiry_secs,
        will: session.will.as_ref().map(|will| will.topic.clone()),
        subscriptions: held.into_iter().collect(),
    }
}

/// The states of a core, and a standby that follows them.
struct Life {
    choices: Random,
    placement: Placement,
    states: Vec<PartitionState>,
    standby: Standby,
}

impl Life {
    fn new(seed: u64) -> Self {
        let placement = Placement::new([7; 16], PARTITIONS, 1);
        Self {
            choices: Random::new(seed),
            placement,
            states: (0..PARTITIONS).map(|_| PartitionState::new(PARTITIONS)).collect(),
            standby: Standby::new(CoreId(0), placement, 100),
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.choices.below(bound as u64) as usize
    }

    fn step(&mut self) {
        let client_id = CLIENTS[self.below(CLIENTS.len())];
        let filter = FILTERS[self.below(FILTERS.len())];
        let index = self.placement.partition_of(self.placement.client_hash(client_id)).0 as usize;
        let expiry_secs = self.below(3) as u32;
        let record = match self.below(12) {
            0 => StateRecord::SessionEnd { client_id },
            1..=3 => {
                let (clean, will) = (self.below(3) == 0, self.will());
                StateRecord::SessionOpen { client_id, clean, expiry_secs, will }
            }
            4 => {
                let will_gone = self.below(2) == 0;
                StateRecord::SessionClosed { client_id, since_ms: 1, expiry_secs, will_gone }
            }
            5 => StateRecord::WillGone { client_id },
            6 => StateRecord::Unsubscribe { client_id, filter },
            7 => StateRecord::Positions { positions: vec![(client_id, 1)] },
            _ => {
                let options = self.options();
                let since = self.states[index].next_posting();
                StateRecord::Subscribe { client_id, filter, options, since }
            }
        };
        self.standby.apply(index, &mut self.states[index], &record);
    }

    fn options(&mut self) -> SubscriptionOptions {
        SubscriptionOptions {
            qos: self.below(3) as u8,
            no_local: self.below(2) == 0,
            retain_as_published: self.below(2) == 0,
            id: self.below(3) as u32,
        }
    }

    fn will(&mut self) -> Option<WillBody<'static>> {
        let will = |topic| WillBody {
            topic,
            payload: b"gone",
            properties: &[],
            qos: 1,
            retain: false,
            delay_secs: 0,
            message_expiry_secs: None,
        };
        ["will/1", "will/2"].get(self.below(3)).map(|topic| will(topic))
    }

    fn fill(&mut self, budget: usize) -> bool {
        let mut left = budget;
        let states = self.states.iter().enumerate();
        states.fold(true, |is_full, (at, state)| self.standby.fill(at, state, &mut left) && is_full)
    }

    /// All of it at once, as a single node does at its start.
    fn anew(&self) -> Said {
        let mut standby = Standby::new(CoreId(0), self.placement, 100);
        for (index, state) in self.states.iter().enumerate() {
            assert!(standby.fill(index, state, &mut { usize::MAX }));
        }
        said(standby)
    }

    /// It leads.
    fn lead(mut self) -> Said {
        let states = self.states.iter().enumerate();
        let posted = self.standby.take_posted(states);
        let mut core = CoreState {
            partitions: self.states,
            posted,
            checkpoints: Vec::new(),
            groups: Default::default(),
            epoch: 1,
        };
        self.standby.begin(&mut core);
        said(self.standby)
    }
}

#[test]
fn record_by_record_is_as_good_as_all_at_once() {
    for seed in 0..200 {
        let mut life = Life::new(seed);
        let steps = 20 + life.below(200);
        for _ in 0..steps {
            life.step();
            life.fill(usize::MAX);
        }
        let anew = life.anew();
        assert_eq!(life.lead(), anew, "seed {seed}");
    }
}

/// The state was there before, and is taken in while records go on; now and then it begins anew.
#[test]
fn a_state_is_taken_in_while_it_changes() {
    for seed in 1000..1200 {
        let mut life = Life::new(seed);
        for _ in 0..300 {
            life.step();
            match life.below(60) {
                0 => life.standby = life.standby.emptied(),
                1..=20 => _ = life.fill(1),
                _ => {}
            }
        }
        if life.below(2) == 0 {
            while !life.fill(2) {}
        }
        let anew = life.anew();
        assert_eq!(life.lead(), anew, "seed {seed}");
    }
}

#[test]
fn a_single_node_takes_its_filters_from_where_they_were_matched() {
    let mut life = Life::new(1);
    (0..200).for_each(|_| life.step());
    let anew = life.anew();
    let posted = posted_filters(&life.states, &life.placement).pop().unwrap();
    let (checkpoints, groups) = (Vec::new(), Default::default());
    let mut core = CoreState { partitions: life.states, posted, checkpoints, groups, epoch: 1 };
    let mut standby = Standby::new(CoreId(0), life.placement, 100);
    standby.begin(&mut core);
    assert_eq!(said(standby), anew);
}
