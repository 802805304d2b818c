//! What a flow is told: who talks to whom, how fast, and for how long.

use crate::meter::Meter;
use ringlane_mqtt::QoS;
use std::ops::Range;
use std::time::Duration;

/// A publisher: one stream.
#[derive(Clone, Debug)]
pub struct PublisherPlan {
    /// Client identifier.
    pub client_id: String,
    /// Topic name.
    pub topic: String,
}

/// A subscriber, and the streams that it must receive in full.
#[derive(Clone, Debug)]
pub struct ListenerPlan {
    /// Client identifier.
    pub client_id: String,
    /// Topic filter.
    pub filter: String,
    /// Publishers, by position, whose messages match the filter.
    pub streams: Range<usize>,
}

/// Who talks to whom.
#[derive(Clone, Debug, Default)]
pub struct FlowPlan {
    /// The publishers.
    pub publishers: Vec<PublisherPlan>,
    /// The subscribers; none to measure acknowledgements alone.
    pub listeners: Vec<ListenerPlan>,
    /// The subscribers are one shared-subscription group: each message goes to one of them. All
    /// have the same streams.
    pub shared: bool,
}

/// When publishing stops.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// After this many messages of each publisher; all of them are measured.
    Messages(u64),
    /// After a time; the warm-up before it is not measured.
    Time {
        /// Not measured.
        warm_up: Duration,
        /// Measured.
        run: Duration,
    },
}

/// What makes a publisher send.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum Pace {
    /// Closed loop: room in its window. Latency counts from the write.
    #[default]
    Window,
    /// Open loop: a fixed schedule of so many messages per second of all publishers together, in
    /// turn. Latency counts from the moment that the schedule says, whenever the message is
    /// written (Source: "coordinated omission", as wrk2 and the OpenMessaging benchmark avoid it).
    Rate(f64),
}

/// How the load is made.
#[derive(Clone, Debug)]
pub struct FlowOptions {
    /// Quality of service of publishes and subscriptions.
    pub qos: QoS,
    /// Bytes of a payload.
    pub payload_bytes: usize,
    /// What makes a publisher send.
    pub pace: Pace,
    /// Messages of a publisher that are not yet with every listener (and, with QoS 1 and 2, not yet
    /// acknowledged). 0 sends as fast as the socket takes it. With a rate it bounds what is
    /// unacknowledged only.
    pub window: u64,
    /// Messages that are sent together, in one write.
    pub batch: u64,
    /// When publishing stops.
    pub limit: Limit,
    /// How long nothing may arrive before the run is over, whatever is missing.
    pub patience: Duration,
    /// What is read of the broker.
    pub meter: Meter,
}

impl Default for FlowOptions {
    fn default() -> Self {
        Self {
            qos: QoS::AtMostOnce,
            payload_bytes: 64,
            pace: Pace::Window,
            window: 1,
            batch: 1,
            limit: Limit::Messages(1000),
            patience: Duration::from_secs(10),
            meter: Meter::default(),
        }
    }
}
