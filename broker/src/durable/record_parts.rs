//! The parts that bodies of state records are made of, as bytes and back (`records`).

use super::bytes::{Input, Output};
use super::postings::{Place, PostingRange};
use super::records::{
    BYTES_MAX, Beside, Cursor, FilterPostings, NEVER, RANGE_BYTES, ReplayBody, RetainedBody,
    SentBody, StateRecord, SubscriptionOptions, WillBody,
};
use crate::replay::Position;
use ringlane_dataplane::log::format::COUNT_MAX;

pub(super) fn decode_bool(input: &mut Input<'_>) -> Option<bool> {
    match input.u8()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

pub(super) fn decode_qos(qos: u8) -> Option<u8> {
    (qos <= 2).then_some(qos)
}

pub(super) fn encode_secs(out: &mut Output<'_>, secs: Option<u32>) {
    out.u32(secs.unwrap_or(NEVER));
}

pub(super) fn decode_secs(input: &mut Input<'_>) -> Option<Option<u32>> {
    Some(Some(input.u32()?).filter(|secs| *secs != NEVER))
}

pub(super) fn encode_place(out: &mut Output<'_>, place: &Place) {
    out.u32(place.partition);
    out.u64(place.epoch);
    out.u64(place.offset);
}

pub(super) fn decode_place(input: &mut Input<'_>) -> Option<Place> {
    Some(Place { partition: input.u32()?, epoch: input.count()?, offset: input.count()? })
}

pub(super) fn encode_position(out: &mut Output<'_>, position: &Position) {
    out.u32(position.partition);
    out.u64(position.epoch);
    out.u64(position.next);
}

pub(super) fn decode_position(input: &mut Input<'_>) -> Option<Position> {
    Some(Position { partition: input.u32()?, epoch: input.count()?, next: input.count()? })
}

pub(super) fn decode_replay(input: &mut Input<'_>) -> Option<ReplayBody> {
    let options = decode_options(input)?;
    Some(ReplayBody { options, positions: input.list(20, decode_position)? })
}

pub(super) fn encode_options(options: &SubscriptionOptions) -> u8 {
    options.qos | u8::from(options.no_local) << 2 | u8::from(options.retain_as_published) << 3
}

pub(super) fn decode_options(input: &mut Input<'_>) -> Option<SubscriptionOptions> {
    let bits = input.u8().filter(|bits| *bits < 16)?;
    Some(SubscriptionOptions {
        qos: decode_qos(bits & 3)?,
        no_local: bits & 4 != 0,
        retain_as_published: bits & 8 != 0,
        id: input.u32()?,
    })
}

pub(super) fn encode_will(out: &mut Output<'_>, will: &WillBody<'_>) {
    out.u8(will.qos | u8::from(will.retain) << 2);
    out.u32(will.delay_secs);
    encode_secs(out, will.message_expiry_secs);
    out.text(will.topic);
    out.bytes(will.properties);
    out.bytes(will.payload);
}

pub(super) fn decode_will<'a>(input: &mut Input<'a>) -> Option<WillBody<'a>> {
    let bits = input.u8().filter(|bits| *bits < 8)?;
    Some(WillBody {
        qos: decode_qos(bits & 3)?,
        retain: bits & 4 != 0,
        delay_secs: input.u32()?,
        message_expiry_secs: decode_secs(input)?,
        topic: input.text()?,
        properties: input.bytes()?,
        payload: input.bytes()?,
    })
}

pub(super) fn encode_retained(out: &mut Output<'_>, retained: &RetainedBody<'_>) {
    encode_place(out, &retained.place);
    out.u64(retained.publisher);
    out.u64(retained.accepted_ms);
    encode_secs(out, retained.expiry_secs);
    out.u8(retained.qos | u8::from(retained.memory) << 2);
    out.bytes(retained.properties);
    out.bytes(retained.payload);
}

pub(super) fn decode_retained<'a>(input: &mut Input<'a>) -> Option<RetainedBody<'a>> {
    let place = decode_place(input)?;
    let (publisher, accepted_ms) = (input.u64()?, input.u64()?);
    let expiry_secs = decode_secs(input)?;
    let bits = input.u8().filter(|bits| *bits < 8)?;
    Some(RetainedBody {
        place,
        memory: bits & 4 != 0,
        publisher,
        accepted_ms,
        expiry_secs,
        qos: decode_qos(bits & 3)?,
        properties: input.bytes()?,
        payload: input.bytes()?,
    })
}

pub(super) fn encode_cursor(out: &mut Output<'_>, cursor: &Cursor) {
    out.u32(cursor.partition);
    out.u8(u8::from(cursor.memory));
    out.u64(cursor.epoch);
    out.u64(cursor.next);
}

pub(super) fn encode_filters(out: &mut Output<'_>, filters: &[FilterPostings<'_>]) {
    out.list(filters.iter(), |out, postings| {
        out.text(postings.filter);
        out.list(postings.ranges.iter(), |out, range| {
            encode_place(out, &range.place);
            out.u64(range.first);
            out.u32(range.count);
            out.u64(range.bytes);
            out.u8(u8::from(range.droppable));
        });
    });
}

pub(super) fn decode_filters<'a>(input: &mut Input<'a>) -> Option<Vec<FilterPostings<'a>>> {
    input.list(6, |input| {
        let filter = input.text()?;
        Some(FilterPostings { filter, ranges: input.list(RANGE_BYTES, decode_range)? })
    })
}

pub(super) fn decode_cursor(input: &mut Input<'_>) -> Option<Cursor> {
    Some(Cursor {
        partition: input.u32()?,
        memory: decode_bool(input)?,
        epoch: input.count()?,
        next: input.count()?,
    })
}

/// A range with numbers that nothing counts to is none.
pub(super) fn decode_range(input: &mut Input<'_>) -> Option<PostingRange> {
    let place = decode_place(input)?;
    let (first, count) = (input.count()?, input.u32()?);
    let (bytes, droppable) = (input.u64()?, decode_bool(input)?);
    let fits = |start: u64| start + u64::from(count) <= COUNT_MAX;
    let valid = count > 0 && fits(first) && fits(place.offset) && bytes <= BYTES_MAX;
    valid.then_some(PostingRange { place, first, count, bytes, droppable })
}

/// A session's client identifier, and a posting number.
pub(super) fn encode_posting_of(out: &mut Output<'_>, (client_id, posting): &(&str, u64)) {
    out.text(client_id);
    out.u64(*posting);
}

pub(super) fn decode_open<'a>(
    client_id: &'a str,
    input: &mut Input<'a>,
) -> Option<StateRecord<'a>> {
    let flags = input.u8().filter(|flags| *flags < 4)?;
    let expiry_secs = input.u32()?;
    let will = if flags & 2 != 0 { Some(decode_will(input)?) } else { None };
    Some(StateRecord::SessionOpen { client_id, clean: flags & 1 != 0, expiry_secs, will })
}

pub(super) fn encode_sent(out: &mut Output<'_>, sent: &SentBody) {
    out.u8(u8::from(sent.retain));
    out.u64(sent.posting);
    encode_place(out, &sent.place);
    out.list(sent.subscription_ids.iter(), |out, id| out.u32(*id));
}

pub(super) fn decode_sent(input: &mut Input<'_>) -> Option<SentBody> {
    let retain = decode_bool(input)?;
    let (posting, place) = (input.count()?, decode_place(input)?);
    let subscription_ids = input.list(4, |input| input.u32())?;
    Some(SentBody { posting, place, retain, subscription_ids })
}

pub(super) fn encode_sent_beside(out: &mut Output<'_>, what: Beside, sent: &SentBody) {
    what.encode(out);
    out.u8(u8::from(sent.retain));
    encode_place(out, &sent.place);
    out.list(sent.subscription_ids.iter(), |out, id| out.u32(*id));
}

pub(super) fn decode_sent_beside(input: &mut Input<'_>) -> Option<(Beside, SentBody)> {
    let what = Beside::decode(input)?;
    let retain = decode_bool(input)?;
    let place = decode_place(input)?;
    let subscription_ids = input.list(4, |input| input.u32())?;
    Some((what, SentBody { posting: 0, place, retain, subscription_ids }))
}

/// A partition, and an offset in it.
pub(super) fn encode_offset(out: &mut Output<'_>, (partition, offset): &(u32, u64)) {
    out.u32(*partition);
    out.u64(*offset);
}

pub(super) fn decode_offset(input: &mut Input<'_>) -> Option<(u32, u64)> {
    Some((input.u32()?, input.count()?))
}

/// Two numbers.
pub(super) fn encode_pair(out: &mut Output<'_>, (first, second): &(u64, u64)) {
    out.u64(*first);
    out.u64(*second);
}

pub(super) fn decode_pair(input: &mut Input<'_>) -> Option<(u64, u64)> {
    Some((input.count()?, input.count()?))
}

/// Numbers from a first one up to one behind.
pub(super) fn decode_range_of_numbers(input: &mut Input<'_>) -> Option<(u64, u64)> {
    decode_pair(input).filter(|(first, end)| first < end)
}

/// A group by its hash, and the place of a message.
pub(super) fn encode_held(out: &mut Output<'_>, (group, place): &(u64, Place)) {
    out.u64(*group);
    encode_place(out, place);
}

pub(super) fn decode_held(input: &mut Input<'_>) -> Option<(u64, Place)> {
    Some((input.u64()?, decode_place(input)?))
}

pub(super) fn encode_replay(out: &mut Output<'_>, replay: &ReplayBody) {
    out.u8(encode_options(&replay.options));
    out.u32(replay.options.id);
    out.list(replay.positions.iter(), encode_position);
}

impl Beside {
    fn encode(self, out: &mut Output<'_>) {
        match self {
            Self::Unread => out.u8(0),
            Self::Replay => out.u8(1),
            Self::Group(hash) => {
                out.u8(2);
                out.u64(hash);
            }
        }
    }

    fn decode(input: &mut Input<'_>) -> Option<Self> {
        match input.u8()? {
            0 => Some(Self::Unread),
            1 => Some(Self::Replay),
            2 => Some(Self::Group(input.u64()?)),
            _ => None,
        }
    }
}
