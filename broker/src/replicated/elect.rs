//! Who leads, as far as this node has a part in it: the election on core 0, for all cores.
//!
//! It talks to the other nodes over the lanes from core 0 to core 0, to the replicas of the other cores by
//! mails ([`Order`], [`View`]), and to etcd through the control thread.

use super::control_mail::ToControl;
use super::mail::{Order, Standing, View};
use ringlane_dataplane::ids::{CoreId, NodeId};
use ringlane_dataplane::replication::election::{Command, Election, Setup};
use ringlane_dataplane::replication::message::Envelope;
use ringlane_dataplane::time::Nanos;

/// The election, with what it knows of the cores and what it wants of them.
#[derive(Debug)]
pub(super) struct Elect {
    pub(super) election: Election,
    /// By core.
    views: Vec<Option<View>>,
    /// By core: what it was not told yet.
    orders: Vec<Option<Order>>,
    campaign: Option<Campaign>,
    /// What the control thread was told.
    told: (u64, Option<NodeId>),
    commands: Vec<Command>,
}

/// A campaign of this node, until it is over: also while this node leads.
#[derive(Clone, Copy, Debug)]
struct Campaign {
    epoch: u64,
    leads: bool,
}

impl Elect {
    pub(super) fn new(setup: Setup, cores: u16, epoch: u64, now: Nanos) -> Self {
        Self {
            election: Election::new(setup, epoch, now),
            views: vec![None; usize::from(cores)],
            orders: vec![None; usize::from(cores)],
            campaign: None,
            told: (epoch, None),
            commands: Vec::new(),
        }
    }

    /// How the replicas of a core are, when that has changed.
    pub(super) fn on_view(&mut self, core: CoreId, view: View, now: Nanos) {
        let Some(place) = self.views.get_mut(core.index()) else { return };
        let before = place.replace(view);
        // What a replica goes on to believe is no news: its leader may have given up meanwhile.
        let said = |view: View| (view.epoch, view.leader);
        if before.map(said) != Some(said(view)) {
            self.election.on_epoch_seen(view.epoch, view.leader, now);
        }
    }

    /// Does what is due. What is to be sent goes into `sends`, what the control thread is to be told into
    /// `tells`.
    pub(super) fn end_turn(
        &mut self,
        now: Nanos,
        sends: &mut Vec<(NodeId, Envelope)>,
        tells: &mut Vec<ToControl>,
    ) {
        // A core that has not said anything yet has logs that nobody can vouch for.
        let is_eligible = |view: &Option<View>| view.is_some_and(|view| view.is_eligible);
        self.election.set_eligible(self.views.iter().all(is_eligible));
        self.look_at_campaign(now);
        self.election.end_turn(now);
        let mut commands = core::mem::take(&mut self.commands);
        self.election.take_commands(&mut commands);
        for command in commands.drain(..) {
            self.carry_out(command, sends, tells);
        }
        self.commands = commands;
        let known = (self.election.epoch(), self.election.leader());
        if self.told != known {
            self.told = known;
            tells.push(ToControl::Leader { epoch: known.0, leader: known.1 });
        }
    }

    fn look_at_campaign(&mut self, now: Nanos) {
        let Some(Campaign { epoch, leads }) = self.campaign else { return };
        let standings = || self.views.iter().flatten().map(|view| view.standing);
        if standings().any(|standing| standing == Standing::GaveUp(epoch)) {
            self.campaign = None;
            self.election.on_gave_up(now);
        } else if !leads && standings().all(|standing| standing == Standing::Leads(epoch)) {
            self.campaign = Some(Campaign { epoch, leads: true });
            self.election.on_leading(epoch, now);
            self.order(Order::GiveState(epoch));
        }
    }

    fn carry_out(
        &mut self,
        command: Command,
        sends: &mut Vec<(NodeId, Envelope)>,
        tells: &mut Vec<ToControl>,
    ) {
        match command {
            Command::Send { to, message } => sends.push((to, message)),
            Command::AskForEpoch { observed } => tells.push(ToControl::AskForEpoch { observed }),
            Command::Campaign { epoch } => {
                self.campaign = Some(Campaign { epoch, leads: false });
                self.order(Order::Campaign(epoch));
            }
            Command::StepDown => {
                self.campaign = None;
                self.order(Order::StepDown);
            }
        }
    }

    fn order(&mut self, order: Order) {
        self.orders.fill(Some(order));
    }

    /// What a core is to do, and was not told yet.
    pub(super) fn take_order(&mut self, core: CoreId) -> Option<Order> {
        self.orders.get_mut(core.index())?.take()
    }

    /// It could not be told.
    pub(super) fn give_back(&mut self, core: CoreId, order: Order) {
        self.orders[core.index()] = Some(order);
    }
}
