//! What the subscription tree holds for each filter.

use ringlane_mqtt::QoS;

/// Who gets the message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Target {
    /// The session in this slot.
    Session(u32),
    /// The group in this slot.
    Group(u32),
}

/// One subscription as the fan-out needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subscriber {
    pub(crate) target: Target,
    /// The subscription identifier, 0 for none.
    pub(crate) subscription_id: u32,
    pub(crate) qos: QoS,
    /// No Local [MQTT-3.8.3-3].
    pub(crate) no_local: bool,
    /// Retain As Published [MQTT-3.3.1-12], [MQTT-3.3.1-13].
    pub(crate) retain_as_published: bool,
    /// Retained messages of this subscription are on their way: live ones queue behind them.
    pub(crate) priming: bool,
}

impl Subscriber {
    /// A group in the tree: its members' options apply later.
    pub(crate) fn group(slot: u32) -> Self {
        Self {
            target: Target::Group(slot),
            subscription_id: 0,
            qos: QoS::ExactlyOnce,
            no_local: false,
            retain_as_published: true,
            priming: false,
        }
    }
}
