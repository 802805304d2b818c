//! A message while it is being routed: borrowed from the receive buffer as long as nobody has to
//! keep it, shared as soon as somebody does.

use ringlane_dataplane::batch::MessageRef;
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

    /// A message in an allocation of its own.
    pub(crate) fn make(
        &mut self,
        head: MessageHead,
        topic: &str,
        properties: &[u8],
        payload: &[u8],
    ) -> Message {
        Message::metered(head, topic, properties, payload, &mut self.scratch, self.meter)
    }

    /// A handle that keeps nothing but the message, for whoever may hold it for seconds.
    pub(crate) fn lasting(&mut self, message: &Message) -> Message {
        message.lasting(&mut self.scratch, self.meter)
    }
}

#[derive(Debug)]
enum Shared<'a> {
    Not,
    At(MessageRef<'a>),
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
        Self::at(MessageRef::Handle(message))
    }

    pub(crate) fn of_record(message: MessageRef<'a>, record: RecordId) -> Self {
        let mut view = Self::at(message);
        view.record = Some(record);
        view
    }

    fn at(message: MessageRef<'a>) -> Self {
        let (topic, properties) = (message.topic(), message.properties());
        let mut view = Self::borrowed(*message.head(), topic, properties, message.payload());
        view.shared = Shared::At(message);
        view
    }

    /// A handle on the message. It may keep a whole batch: who holds it for seconds takes
    /// [`View::lasting`].
    pub(crate) fn handle(&mut self, maker: &mut MessageMaker) -> Message {
        match &self.shared {
            Shared::At(message) => message.to_message(),
            Shared::Made(message) => message.clone(),
            Shared::Not => self.share(maker).clone(),
        }
    }

    /// A handle that keeps nothing but the message; the copy for it is made at most once.
    pub(crate) fn lasting(&mut self, maker: &mut MessageMaker) -> Message {
        let message = self.share(maker);
        if message.is_lasting() {
            return message.clone();
        }
        let lasting = maker.lasting(message);
        self.shared = Shared::Made(lasting.clone());
        lasting
    }

    /// The message as something that can be kept; made at most once.
    pub(crate) fn share(&mut self, maker: &mut MessageMaker) -> &Message {
        if let Shared::At(MessageRef::Handle(message)) = self.shared {
            return message;
        }
        match self.shared {
            Shared::At(message) => self.shared = Shared::Made(message.to_message()),
            Shared::Not => {
                let message = maker.make(self.head(), self.topic, self.properties, self.payload);
                self.shared = Shared::Made(message);
            }
            Shared::Made(_) => {}
        }
        match &self.shared {
            Shared::Made(message) => message,
            Shared::At(_) | Shared::Not => unreachable!("made above"),
        }
    }

    fn head(&self) -> MessageHead {
        MessageHead {
            publisher: self.publisher,
            accepted_at: self.accepted_at,
            expires_at: self.expires_at,
            topic_bytes: 0,
            properties_bytes: 0,
            qos: self.qos as u8,
            retain: self.retain,
        }
    }
}
