//! What the cores of a node of a cluster tell each other: core 0 elects for all of them.

use ringlane_dataplane::ids::NodeId;
use ringlane_dataplane::link::Arrival;

/// A mail between two cores.
#[derive(Debug)]
pub enum CoreMail {
    /// A link that the receiver is meant to have, accepted by the sender.
    Arrival(Arrival),
    /// What core 0 wants of the receiver.
    Order(Order),
    /// How the replicas of the sender are, for core 0.
    View(View),
}

/// What the election wants of a core. A newer one takes the place of one that was not sent yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// All its replicas campaign with this epoch.
    Campaign(u64),
    /// All replicas of the node lead in this epoch: it gives their state to the control thread.
    GiveState(u64),
    /// Its replicas lead no more, and do not want to.
    StepDown,
}

/// How the replicas of a core are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    /// The newest durable epoch among them.
    pub(super) epoch: u64,
    /// Who leads in it, as far as its replica knows.
    pub(super) leader: Option<NodeId>,
    /// What has become of the last order to campaign.
    pub(super) standing: Standing,
    /// Whether all of them can lead.
    pub(super) is_eligible: bool,
}

/// What has become of the last order to campaign.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// There was none, or it was taken back.
    Follows,
    /// Not all of them lead yet.
    Campaigns(u64),
    /// All of them lead in this epoch, and have the state of all before it.
    Leads(u64),
    /// One of them does not, or no longer.
    GaveUp(u64),
}
