//! What the relay does besides relaying: it answers clients and lays the wires.

use super::{Floor, PACKET_BYTES_MAX};
use ringlane_mqtt::{
    ConnackProperties, Frame, Packet, RawPacket, ReasonCode, Subscribe, SubscribeFilter,
    TopicFilter, Unsubscribe, Version, decode_connect, decode_from_client, encode, frame, topic,
};
use std::io::Write;
use std::ops::Range;

/// `Err` is why a client is refused.
type Outcome = Result<(), String>;

impl Floor {
    /// A packet that is not a plain PUBLISH.
    pub(super) fn on_other(&mut self, slot: usize, place: Range<usize>) -> Outcome {
        // Copied, because answering may write from the arena; such packets are rare.
        let bytes = self.arena.bytes[place].to_vec();
        let Ok(Frame::Complete(raw)) = frame(&bytes, PACKET_BYTES_MAX) else {
            return Err("a packet without an end".to_owned());
        };
        match self.version(slot) {
            None => self.on_connect(slot, raw),
            Some(version) => {
                let packet = decode_from_client(version, raw).map_err(|error| error.to_string())?;
                self.on_packet(slot, version, &packet)
            }
        }
    }

    /// The first PUBLISH of a connection lays its wires.
    pub(super) fn on_first_publish(&mut self, slot: usize, place: Range<usize>) -> Outcome {
        let version = self.version(slot).ok_or("a PUBLISH before CONNECT")?;
        let bytes = self.arena.bytes[place].to_vec();
        let packet = match frame(&bytes, PACKET_BYTES_MAX) {
            Ok(Frame::Complete(raw)) => decode_from_client(version, raw),
            Ok(Frame::Incomplete { .. }) => return Err("a packet without an end".to_owned()),
            Err(error) => Err(error),
        };
        let Packet::Publish(publish) = packet.map_err(|error| error.to_string())? else {
            return Err("not a PUBLISH".to_owned());
        };
        for output in 0..self.peers.len() {
            self.wire(slot, output, publish.topic)?;
        }
        if let Some(peer) = &mut self.peers[slot] {
            peer.topic = Some(publish.topic.to_owned());
        }
        Ok(())
    }

    /// Says goodbye, with the reason where the version has room for one, and a line in the log.
    pub(super) fn refuse(&mut self, slot: usize, reason: &str, log: &mut dyn Write) {
        // The relay goes on whether or not anybody reads its log.
        let _ = writeln!(log, "floor: a client was refused: {reason}");
        if let Some(version) = self.version(slot) {
            let code = ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR;
            self.answer(slot, |out| {
                encode::disconnect(out, version, code, Some(reason), None, None);
            });
        }
        self.remove(slot);
    }

    fn version(&self, slot: usize) -> Option<Version> {
        self.peers[slot].as_ref().and_then(|peer| peer.version)
    }

    fn on_connect(&mut self, slot: usize, raw: RawPacket<'_>) -> Outcome {
        let connect = decode_connect(raw).map_err(|error| error.to_string())?;
        if connect.will.is_some() {
            return Err("a will: this relay keeps nothing".to_owned());
        }
        if let Some(peer) = &mut self.peers[slot] {
            peer.version = Some(connect.version);
        }
        let assigned = format!("floor-{slot}");
        let properties = ConnackProperties {
            session_expiry_secs: Some(0),
            maximum_qos: Some(0),
            retain_available: Some(false),
            packet_bytes_max: u32::try_from(PACKET_BYTES_MAX).ok(),
            assigned_client_id: connect.client_id.is_empty().then_some(&*assigned),
            subscription_ids_available: Some(false),
            shared_available: Some(false),
            ..ConnackProperties::default()
        };
        self.answer(slot, |out| {
            encode::connack(out, connect.version, false, ReasonCode::SUCCESS, &properties);
        });
        Ok(())
    }

    fn on_packet(&mut self, slot: usize, version: Version, packet: &Packet<'_>) -> Outcome {
        match packet {
            Packet::Subscribe(subscribe) => return self.on_subscribe(slot, version, subscribe),
            Packet::Unsubscribe(request) => self.on_unsubscribe(slot, version, request),
            Packet::Pingreq => self.answer(slot, encode::pingresp),
            Packet::Disconnect(_) => self.remove(slot),
            Packet::Publish(_) => {
                return Err("a PUBLISH that is retained or not of QoS 0: this relay only \
                            forwards, and has no acknowledgements"
                    .to_owned());
            }
            other => {
                return Err(format!("a packet that it does not know what to do with: {other:?}"));
            }
        }
        Ok(())
    }

    fn on_subscribe(
        &mut self,
        slot: usize,
        version: Version,
        subscribe: &Subscribe<'_>,
    ) -> Outcome {
        let mut reasons = Vec::with_capacity(subscribe.filters.len());
        for entry in subscribe.filters.iter() {
            if subscribe.subscription_id.is_some() || !is_plain(&entry) {
                reasons.push(ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR);
                continue;
            }
            reasons.push(ReasonCode::GRANTED_QOS_0);
            if let Some(peer) = &mut self.peers[slot] {
                peer.filters.push(entry.filter.to_owned());
            }
        }
        for input in 0..self.peers.len() {
            let topic = self.peers[input].as_ref().and_then(|peer| peer.topic.clone());
            if let Some(topic) = topic {
                self.wire(input, slot, &topic)?;
            }
        }
        self.answer(slot, |out| {
            encode::suback(out, version, subscribe.packet_id, &reasons, None);
        });
        Ok(())
    }

    fn on_unsubscribe(&mut self, slot: usize, version: Version, request: &Unsubscribe<'_>) {
        // Before a wire goes: what waits on it may not be overtaken.
        self.write_segments();
        let mut reasons = Vec::with_capacity(request.filters.len());
        let Some(peer) = &mut self.peers[slot] else { return };
        for filter in request.filters.iter() {
            let before = peer.filters.len();
            peer.filters.retain(|held| held != filter);
            reasons.push(match peer.filters.len() < before {
                true => ReasonCode::SUCCESS,
                false => ReasonCode::NO_SUBSCRIPTION_EXISTED,
            });
        }
        for input in peer.inputs.clone() {
            self.unwire(input, slot);
        }
        self.answer(slot, |out| {
            encode::unsuback(out, version, request.packet_id, &reasons, None);
        });
    }

    /// Lays a wire if a filter of the output matches the topic and there is none yet.
    fn wire(&mut self, input: usize, output: usize, name: &str) -> Outcome {
        let Some(peer) = &mut self.peers[output] else { return Ok(()) };
        if peer.inputs.contains(&input)
            || !peer.filters.iter().any(|filter| topic::matches(filter, name))
        {
            return Ok(());
        }
        let (version, is_full) = (peer.version, peer.is_full());
        peer.inputs.push(input);
        let Some(peer) = &mut self.peers[input] else { return Ok(()) };
        peer.outputs.push(output);
        peer.blocked_by += usize::from(is_full);
        if peer.version.is_some_and(Version::is_v5) != version.is_some_and(Version::is_v5) {
            return Err(format!(
                "MQTT 5 on one side of {name:?} and an older version on the other: bytes are \
                 forwarded as they are"
            ));
        }
        self.settle_output(output);
        Ok(())
    }

    /// Takes a wire away if no filter of the output matches any more.
    fn unwire(&mut self, input: usize, output: usize) {
        let topic = self.peers[input].as_ref().and_then(|peer| peer.topic.clone());
        let Some(peer) = &mut self.peers[output] else { return };
        let is_wanted = |topic| peer.filters.iter().any(|filter| topic::matches(filter, topic));
        if topic.as_deref().is_some_and(is_wanted) {
            return;
        }
        peer.inputs.retain(|held| *held != input);
        let is_full = peer.is_full();
        if let Some(peer) = &mut self.peers[input] {
            peer.outputs.retain(|held| *held != output);
        }
        if is_full {
            self.release(input);
        }
        self.settle_input(input);
        self.settle_output(output);
    }

    /// Another input came or went: which of them write at once?
    pub(super) fn settle_output(&mut self, output: usize) {
        let inputs = self.peers[output].as_ref().map(|peer| peer.inputs.clone());
        inputs.into_iter().flatten().for_each(|input| self.settle_input(input));
    }

    /// Writes an answer, behind what was forwarded before it.
    fn answer(&mut self, slot: usize, encode: impl FnOnce(&mut Vec<u8>)) {
        self.write_segments();
        let mut out = Vec::new();
        encode(&mut out);
        if self.peers[slot].as_mut().is_some_and(|peer| peer.write(&out)) {
            self.block_inputs(slot);
        }
    }
}

/// Whether a subscription asks for nothing but messages.
fn is_plain(entry: &SubscribeFilter<'_>) -> bool {
    !entry.no_local && TopicFilter::parse(entry.filter).is_ok_and(|filter| filter.share.is_none())
}
