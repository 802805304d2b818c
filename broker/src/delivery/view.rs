//! A message while it is being routed: borrowed from the receive buffer as long as nobody has to
//! keep it, shared as soon as somebody does.

use ringlane_dataplane::message::{Message, MessageHead, MessageMeter};
use ringlane_dataplane::routing::RecordId;
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::QoS;

/// Makes shared messages and counts their bytes.
#[derive(Debug)]
pub(crate) struct MessageMaker {
    scratch: Vec<u8>,
    meter: &'static MessageMeter,
}

impl MessageMaker {
    pub(crate) fn new(meter: &'static MessageMeter) -> Self {
        Self { scratch: Vec::new(), meter }
    }
}

#[derive(Debug)]
enum Shared<'a> {
    Not,
    Borrowed(&'a Message),
    Made(Message),
}

/// A message as the fan-out sees it.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub(crate) topic: &'a str,
    pub(crate) properties: &'a [u8],
    pub(crate) payload: &'a [u8],
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) publisher: u64,
    pub(crate) accepted_at: Nanos,
    pub(crate) expires_at: Nanos,
    /// Where it is logged, if it is.
    pub(crate) record: Option<RecordId>,
    shared: Shared<'a>,
}

impl<'a> View<'a> {
    /// A message that is in nobody's keeping yet.
    pub(crate) fn borrowed(
        head: MessageHead,
        topic: &'a str,
        properties: &'a [u8],
        payload: &'a [u8],
    ) -> Self {
        Self {
            topic,
            properties,
            payload,
            qos: QoS::from_u8(head.qos).unwrap_or(QoS::AtMostOnce),
            retain: head.retain,
            publisher: head.publisher,
            accepted_at: head.accepted_at,
            expires_at: head.expires_at,
            record: None,
            shared: Shared::Not,
        }
    }

    pub(crate) fn of_message(message: &'a Message) -> Self {
        let mut view = Self::borrowed(
            *message.head(),
            message.topic(),
            message.properties(),
            message.payload(),
        );
        view.shared = Shared::Borrowed(message);
        view
    }

    pub(crate) fn of_record(message: &'a Message, record: RecordId) -> Self {
        let mut view = Self::of_message(message);
        view.record = Some(record);
        view
    }

    /// The message as something that can be kept; made at most once.
    pub(crate) fn share(&mut self, maker: &mut MessageMaker) -> &Message {
        if let Shared::Not = self.shared {
            let head = MessageHead {
                publisher: self.publisher,
                accepted_at: self.accepted_at,
                expires_at: self.expires_at,
                topic_bytes: 0,
                properties_bytes: 0,
                qos: self.qos as u8,
                retain: self.retain,
            };
            self.shared = Shared::Made(Message::metered(
                head,
                self.topic,
                self.properties,
                self.payload,
                &mut maker.scratch,
                maker.meter,
            ));
        }
        match &self.shared {
            Shared::Borrowed(message) => message,
            Shared::Made(message) => message,
            Shared::Not => unreachable!("made above"),
        }
    }
}
