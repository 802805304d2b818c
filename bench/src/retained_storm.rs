//! A storm of retained messages: many are stored, then many subscribers ask for all of them at once.

use crate::fleet::{self, Target};
use crate::link::Link;
use crate::login::Login;
use crate::meter::{Meter, Spent};
use crate::payload::{PAYLOAD_BYTES_MIN, Stamp};
use crate::report::latency_histogram;
use crate::swarm::{Event, LinkId, Swarm};
use anyhow::{Result, bail, ensure};
use hdrhistogram::Histogram;
use ringlane_mqtt::encode::{self, PublishHead};
use ringlane_mqtt::{Packet, Publish, QoS, Version};
use std::time::{Duration, Instant};

/// The storm.
#[derive(Clone, Debug)]
pub struct RetainedOptions {
    /// What client identifiers begin with.
    pub prefix: String,
    /// What topics begin with.
    pub topic: String,
    /// Messages published; later ones replace earlier ones of their topic.
    pub messages: u64,
    /// Topics, which is how many messages are retained in the end.
    pub topics: u64,
    /// Publishers.
    pub publishers: usize,
    /// Subscribers, each of which gets a message per topic.
    pub subscribers: usize,
    /// Quality of service of publishes and subscriptions.
    pub qos: QoS,
    /// Bytes of a payload.
    pub payload_bytes: usize,
    /// Unacknowledged messages per publisher (QoS 1 and 2).
    pub window: u64,
    /// How long the broker may rest between the last publish and the subscriptions: QoS 0 has no
    /// acknowledgement that a message is retained.
    pub settle: Duration,
    /// Whether the retained messages stay; otherwise they are cleared in the end.
    pub keep: bool,
    /// How long nothing may happen.
    pub patience: Duration,
    /// What is read of the broker.
    pub meter: Meter,
}

/// What happened.
#[derive(Clone, Debug)]
pub struct RetainedOutcome {
    /// Publishes that the broker refused.
    pub rejected: u64,
    /// What storing cost, to the last acknowledgement.
    pub storing: Spent,
    /// What handing out cost, from the first SUBSCRIBE to the last message.
    pub handing_out: Spent,
    /// Messages that came, each counted once per subscriber.
    pub delivered: u64,
    /// Messages that should have come and did not.
    pub missing: u64,
    /// Messages that came twice, were not the latest of their topic, not marked as retained, or not
    /// whole.
    pub wrong: u64,
    /// Per subscriber: SUBSCRIBE to its first message, in nanoseconds.
    pub first: Histogram<u64>,
    /// Per subscriber: SUBSCRIBE to its last message.
    pub last: Histogram<u64>,
}

/// Unsent bytes up to which a QoS 0 publisher goes on.
const UNSENT_BYTES_MAX: usize = 64 * 1024;
const CONNECT_PATIENCE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(10);
const FILLER: u8 = 0x5a;

/// Runs the whole.
///
/// # Errors
/// If a client cannot connect or subscribe, acknowledgements stop, a connection ends, or the broker
/// cannot be read.
pub fn run(target: &Target, options: &RetainedOptions) -> Result<RetainedOutcome> {
    ensure!(
        options.topics > 0 && options.messages >= options.topics,
        "a message per topic at least"
    );
    ensure!(options.publishers > 0 && options.subscribers > 0, "both ends are needed");
    ensure!(options.publishers as u64 <= options.topics, "each publisher needs a topic");
    ensure!(options.payload_bytes >= PAYLOAD_BYTES_MIN, "the payload is too small");
    let mut swarm = Swarm::new()?;
    let mut source = Source::connect(&mut swarm, target, options)?;
    let before = options.meter.read()?;
    source.publish(&mut swarm, options.messages, options.payload_bytes)?;
    let storing = options.meter.read()?.since(&before);
    std::thread::sleep(options.settle);
    let mut audience = Audience::connect(&mut swarm, target, options)?;
    let before = options.meter.read()?;
    audience.subscribe(&mut swarm)?;
    let handing_out = options.meter.read()?.since(&before);
    let listeners: Vec<LinkId> = audience.members.iter().map(|member| member.link).collect();
    fleet::leave_all(&mut swarm, target.version, &listeners)?;
    if !options.keep {
        source.publish(&mut swarm, options.topics, 0)?;
    }
    fleet::leave_all(&mut swarm, target.version, &source.links)?;
    let expected = options.topics * options.subscribers as u64;
    Ok(RetainedOutcome {
        rejected: source.rejected,
        storing,
        handing_out,
        delivered: audience.delivered,
        missing: expected.saturating_sub(audience.delivered),
        wrong: audience.wrong,
        first: audience.first,
        last: audience.last,
    })
}

fn topic(prefix: &str, number: u64) -> String {
    format!("{prefix}/{number:07}/state")
}

/// The publishers.
struct Source<'a> {
    options: &'a RetainedOptions,
    version: Version,
    links: Vec<LinkId>,
    /// Per publisher: publishes that are not acknowledged.
    in_flight: Vec<u64>,
    window: u64,
    rejected: u64,
    ended: bool,
}

impl<'a> Source<'a> {
    fn connect(swarm: &mut Swarm, target: &Target, options: &'a RetainedOptions) -> Result<Self> {
        let logins: Vec<Login> = (0..options.publishers)
            .map(|n| Login::clean(format!("{}-pub-{n}", options.prefix)))
            .collect();
        let members = fleet::connect_all(swarm, target, &logins, CONNECT_PATIENCE)?;
        let receive_maximum = members.iter().map(|it| u64::from(it.receive_maximum)).min();
        Ok(Self {
            options,
            version: target.version,
            links: members.iter().map(|member| member.link).collect(),
            in_flight: vec![0; members.len()],
            window: options.window.clamp(1, receive_maximum.unwrap_or(1)),
            rejected: 0,
            ended: false,
        })
    }

    /// Publishes `count` messages over the topics, and waits until the last is acknowledged.
    fn publish(&mut self, swarm: &mut Swarm, count: u64, payload_bytes: usize) -> Result<()> {
        let mut next: Vec<u64> = (0..self.links.len() as u64).collect();
        let mut moved = Instant::now();
        loop {
            let sent = (0..self.links.len())
                .map(|index| {
                    self.publish_some(swarm, index, &mut next[index], count, payload_bytes)
                })
                .fold(false, |any, some| any | some);
            let is_idle = next.iter().all(|number| *number >= count);
            if is_idle && self.in_flight.iter().all(|count| *count == 0) {
                return fleet::fence(swarm, &self.links, self.options.patience);
            }
            let timeout =
                if sent && self.options.qos == QoS::AtMostOnce { Duration::ZERO } else { GLANCE };
            let mut answers = 0;
            swarm.poll(timeout, &mut |_, link, event| answers += self.on_event(link, &event))?;
            if answers > 0 || sent {
                moved = Instant::now();
            }
            ensure!(!self.ended, "a connection ended while messages were published");
            ensure!(moved.elapsed() < self.options.patience, "publishes are not acknowledged");
        }
    }

    /// Publishes what the window of a publisher allows, or what its socket takes; says whether that
    /// was anything.
    fn publish_some(
        &mut self,
        swarm: &mut Swarm,
        index: usize,
        next: &mut u64,
        count: u64,
        payload_bytes: usize,
    ) -> bool {
        let link = self.links[index];
        let start = *next;
        while *next < count && self.has_room(swarm, index) {
            self.write(swarm, link, *next, payload_bytes);
            self.in_flight[index] += u64::from(self.options.qos != QoS::AtMostOnce);
            *next = self.following(index, *next);
        }
        *next > start
    }

    /// The next message of a publisher. Its topics are its own (their number modulo the publishers),
    /// because there is no order between publishers.
    fn following(&self, index: usize, number: u64) -> u64 {
        let topics = self.options.topics;
        let topic = number % topics + self.links.len() as u64;
        let round = number - number % topics;
        if topic < topics { round + topic } else { round + topics + index as u64 }
    }

    fn has_room(&self, swarm: &Swarm, index: usize) -> bool {
        match self.options.qos {
            QoS::AtMostOnce => swarm
                .link(self.links[index])
                .is_some_and(|link| link.unsent_bytes() < UNSENT_BYTES_MAX),
            _ => self.in_flight[index] < self.window,
        }
    }

    /// Message n is on topic n modulo the topics.
    fn write(&self, swarm: &mut Swarm, link: LinkId, number: u64, payload_bytes: usize) {
        let topics = self.options.topics;
        let topic = topic(&self.options.topic, number % topics);
        let packet_id = swarm.link_mut(link).map_or(1, Link::take_packet_id);
        let head = PublishHead {
            version: self.version,
            dup: false,
            qos: self.options.qos,
            retain: true,
            topic: &topic,
            topic_alias: None,
            packet_id,
            message_expiry_secs: None,
            subscription_ids: &[],
            forwarded: &[],
            payload_bytes,
        };
        let Some(out) = swarm.out(link) else { return };
        encode::publish_head(out, &head);
        let start = out.len();
        out.resize(start + payload_bytes, FILLER);
        if payload_bytes >= PAYLOAD_BYTES_MIN {
            let stream = u32::try_from(number % topics).unwrap_or(u32::MAX);
            let stamp = Stamp { stream, sequence: number / topics, sent_ns: 0 };
            stamp.write(&mut out[start..]);
        }
    }

    /// Returns how many publishes the event finished.
    fn on_event(&mut self, link: LinkId, event: &Event<'_>) -> u64 {
        let Some(index) = self.links.iter().position(|it| *it == link) else {
            self.ended |= matches!(event, Event::Closed(_) | Event::Malformed(_));
            return 0;
        };
        let reason = match event {
            Event::Packet(Packet::Puback(ack) | Packet::Pubcomp(ack)) => ack.reason,
            Event::Packet(Packet::Pubrec(ack)) if ack.reason.is_error() => ack.reason,
            Event::Closed(_) | Event::Malformed(_) => {
                self.ended = true;
                return 0;
            }
            _ => return 0,
        };
        self.rejected += u64::from(reason.is_error());
        self.in_flight[index] = self.in_flight[index].saturating_sub(1);
        1
    }
}

struct Member {
    link: LinkId,
    asked_ns: u64,
    received: u64,
    /// A bit per topic.
    has: Vec<u64>,
}

/// The subscribers.
struct Audience<'a> {
    options: &'a RetainedOptions,
    version: Version,
    members: Vec<Member>,
    /// The member of a socket, by the position of the link.
    places: Vec<usize>,
    delivered: u64,
    wrong: u64,
    first: Histogram<u64>,
    last: Histogram<u64>,
    failure: Option<String>,
}

impl<'a> Audience<'a> {
    fn connect(swarm: &mut Swarm, target: &Target, options: &'a RetainedOptions) -> Result<Self> {
        let logins: Vec<Login> = (0..options.subscribers)
            .map(|n| Login::clean(format!("{}-sub-{n}", options.prefix)))
            .collect();
        let connected = fleet::connect_all(swarm, target, &logins, CONNECT_PATIENCE)?;
        let words = usize::try_from(options.topics.div_ceil(64))?;
        let member = |link| Member { link, asked_ns: 0, received: 0, has: vec![0; words] };
        let mut places = vec![usize::MAX; swarm.slots()];
        for (index, member) in connected.iter().enumerate() {
            places[member.link.index()] = index;
        }
        Ok(Self {
            options,
            version: target.version,
            members: connected.iter().map(|it| member(it.link)).collect(),
            places,
            delivered: 0,
            wrong: 0,
            first: latency_histogram(),
            last: latency_histogram(),
            failure: None,
        })
    }

    /// Subscribes all at once, and waits until each has everything, or nothing more comes.
    fn subscribe(&mut self, swarm: &mut Swarm) -> Result<()> {
        let prefix = &self.options.topic;
        let filters = [format!("{prefix}/#"), format!("{prefix}/+/state"), format!("{prefix}/+/#")];
        for (index, member) in self.members.iter_mut().enumerate() {
            member.asked_ns = swarm.read_clock();
            if let Some(out) = swarm.out(member.link) {
                let filter = filters[index % filters.len()].as_str();
                fleet::write_subscribe(out, self.version, 1, &[(filter, self.options.qos)]);
            }
        }
        let expected = self.options.topics * self.members.len() as u64;
        let (mut known, mut moved) = (0, Instant::now());
        while self.delivered < expected && moved.elapsed() < self.options.patience {
            swarm.poll(GLANCE, &mut |swarm, link, event| self.on_event(swarm, link, &event))?;
            if let Some(failure) = &self.failure {
                bail!("{failure}");
            }
            if self.delivered > known {
                (known, moved) = (self.delivered, Instant::now());
            }
        }
        Ok(())
    }

    fn on_event(&mut self, swarm: &mut Swarm, link: LinkId, event: &Event<'_>) {
        match event {
            Event::Packet(Packet::Publish(publish)) => {
                let index = self.places.get(link.index()).copied().unwrap_or(usize::MAX);
                self.on_publish(swarm.now_ns(), index, publish);
            }
            Event::Packet(Packet::Suback(suback))
                if suback.reasons.iter().any(|reason| *reason >= 0x80) =>
            {
                self.failure = Some(format!("a filter was refused: {:02x?}", suback.reasons));
            }
            Event::Closed(closure) => {
                self.failure = Some(format!("a connection ended: {closure:?}"));
            }
            Event::Malformed(error) => self.failure = Some(error.to_string()),
            _ => {}
        }
    }

    fn on_publish(&mut self, now_ns: u64, index: usize, publish: &Publish<'_>) {
        let topics = self.options.topics;
        let Some(member) = self.members.get_mut(index) else { return };
        let Some(stamp) = self.options.check(publish) else {
            self.wrong += 1;
            return;
        };
        let (word, bit) = ((stamp.stream / 64) as usize, 1u64 << (stamp.stream % 64));
        if member.has[word] & bit != 0 {
            self.wrong += 1;
            return;
        }
        member.has[word] |= bit;
        member.received += 1;
        self.delivered += 1;
        let waited_ns = now_ns.saturating_sub(member.asked_ns).max(1);
        if member.received == 1 {
            self.first.saturating_record(waited_ns);
        }
        if member.received == topics {
            self.last.saturating_record(waited_ns);
        }
    }
}

impl RetainedOptions {
    /// The stamp of a message that is retained, whole, and the latest of its topic.
    fn check(&self, publish: &Publish<'_>) -> Option<Stamp> {
        let stamp = Stamp::read(publish.payload)?;
        let number = u64::from(stamp.stream);
        let is_known = number < self.topics && publish.topic == topic(&self.topic, number);
        let latest = (self.messages - 1).checked_sub(number)? / self.topics;
        let is_whole = publish.payload.len() == self.payload_bytes;
        (is_known && is_whole && publish.retain && stamp.sequence == latest).then_some(stamp)
    }
}
