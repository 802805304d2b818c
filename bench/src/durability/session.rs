//! A subscriber: one persistent session with everything that it must have, has had, and holds.

use super::book::{Book, Fate, Kind, MessageId};
use super::dial::Dial;
use super::findings::Check;
use super::journal::Journal;
use super::track::{Previous, Track};
use crate::fleet;
use crate::ledger::Arrival;
use ringlane_mqtt::{Publish, QoS, ReasonCode, Version, encode, topic};
use serde_json::json;
use std::collections::{HashMap, VecDeque};

/// How a subscriber behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Habit {
    /// It is there whenever the broker is.
    Present,
    /// It is away for some cycles, and fetches what came meanwhile.
    Away,
    /// It answers late, so that much is in flight to it.
    Slow,
    /// It subscribes and unsubscribes before the load, and must get nothing.
    Leaver,
}

/// An answer that the broker waits for.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Puback(u16),
    Pubrec(u16),
    Pubcomp(u16),
}

/// One subscriber.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) dial: Dial,
    pub(super) habit: Habit,
    pub(super) filter: String,
    qos: QoS,
    /// SUBACK came; for a leaver UNSUBACK.
    pub(super) is_ready: bool,
    /// A leaver's: nothing was published while it was subscribed.
    pub(super) is_left_in_peace: bool,
    /// Times that everything owed had come, was confirmed to be acknowledged, and a while passed.
    pub(super) rests: u32,
    /// Acknowledged messages that have not come.
    pub(super) owed: u64,
    /// Of these, what is given up: known to be lost.
    pub(super) overdue: u64,
    /// PINGRESP came after everything.
    pub(super) is_fenced: bool,
    /// Whether the CONNACK of this life of the broker said that the session is there.
    pub(super) was_resumed: bool,
    /// Messages of the present cycle's second half that came.
    pub(super) came_since_start: u64,
    /// QoS 2 messages that are received and not released, by packet identifier.
    held: HashMap<u16, MessageId>,
    tracks: Vec<Track>,
    answers: VecDeque<Answer>,
}

impl Session {
    pub(super) fn new(dial: Dial, habit: Habit, filter: String, qos: QoS) -> Self {
        Self {
            dial,
            habit,
            filter,
            qos,
            is_ready: false,
            is_left_in_peace: false,
            rests: 0,
            owed: 0,
            overdue: 0,
            is_fenced: false,
            was_resumed: false,
            came_since_start: 0,
            held: HashMap::new(),
            tracks: Vec::new(),
            answers: VecDeque::new(),
        }
    }

    /// Prepares for the streams of the book.
    pub(super) fn attend(&mut self, journal: &Journal) {
        let streams = journal.book.streams.iter();
        let wants = |name: &str| self.habit != Habit::Leaver && topic::matches(&self.filter, name);
        self.tracks = streams
            .map(|stream| Track::new(wants(&stream.topic), stream.qos.min(self.qos)))
            .collect();
    }

    /// Asks for the subscription; a leaver will end it at once.
    pub(super) fn subscribe(&mut self, version: Version, out: &mut Vec<u8>) {
        self.is_ready = false;
        fleet::write_subscribe(out, version, SUBSCRIBE_ID, &[(&self.filter, self.qos)]);
    }

    pub(super) fn on_suback(&mut self, version: Version, out: &mut Vec<u8>) {
        if self.habit == Habit::Leaver {
            encode::unsubscribe(out, version, UNSUBSCRIBE_ID, &[&self.filter]);
        } else {
            self.is_ready = true;
        }
    }

    pub(super) fn on_unsuback(&mut self) {
        self.is_ready = true;
    }

    /// A publish was acknowledged: it must come, if it has not.
    pub(super) fn on_kept(&mut self, id: MessageId, journal: &Journal) {
        let track = &self.tracks[id.stream];
        if track.is_wanted && !journal.book.entry(id).clears && !track.is_done(id.sequence) {
            self.owed += 1;
        }
    }

    /// Everything came, was answered, and nothing is held.
    pub(super) fn is_settled(&self) -> bool {
        self.owed == self.overdue && self.held.is_empty() && self.answers.is_empty()
    }

    pub(super) fn on_publish(
        &mut self,
        version: Version,
        publish: &Publish<'_>,
        journal: &mut Journal,
        out: &mut Vec<u8>,
    ) {
        journal.deliveries += 1;
        self.note(publish, journal);
        match publish.qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.answer(version, Answer::Puback(publish.packet_id), out),
            QoS::ExactlyOnce => self.answer(version, Answer::Pubrec(publish.packet_id), out),
        }
        let is_copy_for_subscriber = publish.retain;
        let is_clearing =
            publish.payload.is_empty() && journal.book.is_cleared_topic(publish.topic);
        if is_copy_for_subscriber || is_clearing {
            return;
        }
        match journal.book.find(publish.topic, publish.payload) {
            Ok(id) => self.on_message(id, publish, journal),
            Err(why) => journal.violate(Check::Phantom, self.dial.name(), &why),
        }
    }

    /// PUBREL: the release is the delivery.
    pub(super) fn on_pubrel(
        &mut self,
        version: Version,
        packet_id: u16,
        journal: &mut Journal,
        out: &mut Vec<u8>,
    ) {
        if let Some(id) = self.held.remove(&packet_id) {
            if self.tracks[id.stream].release(id.sequence) == Arrival::Duplicate {
                let what = format!("released again, with packet identifier {packet_id}");
                journal.violate_message(Check::Qos2Dup, self.dial.name(), id, &what);
            } else {
                self.delivered(id, journal);
            }
        }
        self.answer(version, Answer::Pubcomp(packet_id), out);
    }

    fn on_message(&mut self, id: MessageId, publish: &Publish<'_>, journal: &mut Journal) {
        if !self.tracks[id.stream].is_wanted {
            let is_will = journal.book.stream(id).kind == Kind::Will;
            match self.habit {
                Habit::Leaver if is_will => {}
                Habit::Leaver if self.is_ready && self.is_left_in_peace => {
                    let what = "came although its filter was unsubscribed and UNSUBACK received";
                    journal.violate_message(Check::Resurrection, self.dial.name(), id, what);
                }
                Habit::Leaver => {}
                _ => {
                    let what = "came without a subscription";
                    journal.violate_message(Check::Phantom, self.dial.name(), id, what);
                }
            }
            return;
        }
        if journal.book.entry(id).fate == Fate::Refused {
            let what = "came although it was refused or withdrawn";
            journal.violate_message(Check::Phantom, self.dial.name(), id, what);
        }
        if publish.qos < self.tracks[id.stream].qos {
            let what = format!("came with QoS {}", publish.qos as u8);
            journal.violate_message(Check::Phantom, self.dial.name(), id, &what);
        }
        if publish.qos == QoS::ExactlyOnce {
            self.hold(id, publish, journal);
        } else {
            self.take(id, publish, journal);
        }
    }

    /// QoS 1, or less: the arrival is the delivery.
    fn take(&mut self, id: MessageId, publish: &Publish<'_>, journal: &mut Journal) {
        let moment = self.moment(journal);
        match self.tracks[id.stream].arrive(id.sequence, moment) {
            (Arrival::Duplicate, Some(previous)) => self.repeat(id, publish, previous, journal),
            (arrival, _) => {
                self.check_order(arrival, id, journal);
                self.tracks[id.stream].release(id.sequence);
                self.delivered(id, journal);
            }
        }
    }

    /// QoS 2: kept until it is released.
    fn hold(&mut self, id: MessageId, publish: &Publish<'_>, journal: &mut Journal) {
        let packet_id = publish.packet_id;
        match self.held.get(&packet_id).copied() {
            Some(held) if held == id => {
                let moment = self.moment(journal);
                if let (_, Some(previous)) = self.tracks[id.stream].arrive(id.sequence, moment) {
                    self.repeat(id, publish, previous, journal);
                }
                return;
            }
            Some(held) => {
                let what = format!(
                    "came under packet identifier {packet_id}, under which {} is not released",
                    journal.book.name(held)
                );
                journal.violate_message(Check::SessionLie, self.dial.name(), id, &what);
                return;
            }
            None => {}
        }
        let moment = self.moment(journal);
        let (arrival, _) = self.tracks[id.stream].arrive(id.sequence, moment);
        self.check_order(arrival, id, journal);
        self.held.insert(packet_id, id);
    }

    fn check_order(&self, arrival: Arrival, id: MessageId, journal: &mut Journal) {
        if arrival == Arrival::Late && journal.book.stream(id).kind != Kind::Will {
            let what = "came first after a later one";
            journal.violate_message(Check::Order, self.dial.name(), id, what);
        }
    }

    /// A message that came before comes again before it is finished for the client.
    fn repeat(
        &self,
        id: MessageId,
        publish: &Publish<'_>,
        previous: Previous,
        journal: &mut Journal,
    ) {
        journal.repeats += 1;
        let copies_max = journal.book.copies_max(id);
        let what = if previous.connection == self.dial.connection {
            let is_marked = publish.dup && !journal.version.is_v5();
            let is_wrong = previous.copies >= copies_max && !is_marked;
            is_wrong.then_some("came again in one connection")
        } else {
            let is_same_life = previous.life == journal.life && !journal.is_cluster;
            let is_wrong = !publish.dup && is_same_life && copies_max == 1;
            is_wrong.then_some("came again without DUP although the broker was not started again")
        };
        let is_confirmed = self.rests > previous.rests;
        if let Some(what) = what {
            journal.violate_message(Check::Qos1DupUnmarked, self.dial.name(), id, what);
        } else if publish.qos == QoS::AtLeastOnce && is_confirmed {
            let what = "came again although its acknowledgement was confirmed, and a while passed";
            journal.violate_message(Check::Resurrection, self.dial.name(), id, what);
        }
    }

    fn delivered(&mut self, id: MessageId, journal: &mut Journal) {
        if journal.book.entry(id).fate == Fate::Kept {
            self.owed = self.owed.saturating_sub(1);
            self.overdue = self.overdue.min(self.owed);
        }
        self.came_since_start += 1;
        let stream = journal.book.stream(id);
        let details = || {
            json!({
                "topic": stream.topic, "seq": id.sequence, "qos": stream.qos as u8,
                "conn": self.dial.connection,
            })
        };
        journal.history.add(self.dial.name(), "ok", "deliver", details);
    }

    fn note(&self, publish: &Publish<'_>, journal: &mut Journal) {
        let details = || {
            json!({
                "topic": publish.topic, "qos": publish.qos as u8, "mid": publish.packet_id,
                "dup": publish.dup, "retain": publish.retain, "conn": self.dial.connection,
            })
        };
        journal.history.add(self.dial.name(), "info", "receive", details);
    }

    fn moment(&self, journal: &Journal) -> Previous {
        let (connection, life) = (self.dial.connection, journal.life);
        Previous { connection, life, rests: self.rests, copies: 1 }
    }

    fn answer(&mut self, version: Version, answer: Answer, out: &mut Vec<u8>) {
        if self.habit == Habit::Slow {
            self.answers.push_back(answer);
        } else {
            write_answer(version, answer, out);
        }
    }

    /// Gives up to `count` of the answers that a slow subscriber has put off.
    pub(super) fn catch_up(&mut self, version: Version, count: usize, out: &mut Vec<u8>) {
        for answer in self.answers.drain(..count.min(self.answers.len())) {
            write_answer(version, answer, out);
        }
    }

    pub(super) fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    pub(super) fn on_closed(&mut self) {
        self.dial.on_closed();
        self.answers.clear();
        self.is_fenced = false;
    }

    /// The session is gone at the broker, so what it held is void.
    pub(super) fn forget(&mut self) {
        self.held.clear();
        self.is_ready = false;
        self.is_left_in_peace = false;
    }

    /// Gives up what has not come; what is held without a release is named.
    pub(super) fn give_up(&mut self, journal: &mut Journal) {
        self.overdue = self.owed;
        let mut held: Vec<(u16, MessageId)> = self.held.drain().collect();
        held.sort_unstable_by_key(|(packet_id, _)| *packet_id);
        for (packet_id, id) in held {
            let what =
                format!("is received under packet identifier {packet_id} and never released");
            journal.violate_message(Check::SessionLie, self.dial.name(), id, &what);
        }
    }

    /// Acknowledged messages of the whole run that it must have.
    pub(super) fn all_owed(&self, book: &Book) -> u64 {
        let wanted = self.tracks.iter().zip(&book.streams).filter(|(track, _)| track.is_wanted);
        wanted.map(|(_, stream)| stream.kept()).sum()
    }

    /// Names every acknowledged message that never came.
    pub(super) fn report_lost(&self, journal: &mut Journal) {
        for stream in 0..self.tracks.len() {
            let track = &self.tracks[stream];
            let sent = journal.book.streams[stream].entries.len() as u64;
            if !track.is_wanted {
                continue;
            }
            let missing: Vec<u64> = track.missing(sent).collect();
            for sequence in missing {
                let id = MessageId { stream, sequence };
                let entry = journal.book.entry(id);
                if entry.fate == Fate::Kept && !entry.clears {
                    let what = "was acknowledged and never came";
                    journal.violate_message(Check::LostAck, self.dial.name(), id, what);
                }
            }
        }
    }
}

/// A client has one request of this kind at a time.
const SUBSCRIBE_ID: u16 = 65_001;
const UNSUBSCRIBE_ID: u16 = 65_002;

fn write_answer(version: Version, answer: Answer, out: &mut Vec<u8>) {
    let success = ReasonCode::SUCCESS;
    match answer {
        Answer::Puback(packet_id) => encode::puback(out, version, packet_id, success, None),
        Answer::Pubrec(packet_id) => encode::pubrec(out, version, packet_id, success, None),
        Answer::Pubcomp(packet_id) => encode::pubcomp(out, version, packet_id, success, None),
    }
}
