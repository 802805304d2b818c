//! What carries messages between nodes: a network in memory, as TCP does it, or, in half of the runs, the rings,
//! credits and endpoints of the broker's links over RDMA on queues in memory.
//!
//! Of those, hellos and ends travel on the network as ever, and each write of a queue is a parcel of its own: its bytes
//! are read when it arrives, as a device would, and so memory that was used again too early is seen.

use crate::ledger::Violation;
use ringlane_dataplane::link::memory::{HostId, Network, WayId};
use ringlane_dataplane::link::{LinkEvent, LinkId, Links, Outbox};
use ringlane_transport_rdma::fake::{FakeQueue, Wire};
use ringlane_transport_rdma::{COMPLETIONS_MAX, DownCause, Endpoint, Received};
use std::collections::BTreeMap;

/// Bytes of the memory that a link sends from.
const STAGE_BYTES: u32 = 16 * 1024;
/// Writes without credit, at most.
const WRITES_MAX: u16 = 8;
/// Bytes of a message, at most.
const MESSAGE_BYTES_MAX: u32 = 1 << 24;

type OnEvent<'a> = &'a mut dyn FnMut(&mut Links, LinkEvent<'_>);

/// All links.
#[derive(Debug)]
pub struct Wires {
    /// What is on its way.
    pub network: Network,
    rings: Option<Rings>,
}

impl Wires {
    /// Over rings of so many bytes, or over TCP.
    #[must_use]
    pub fn new(network: Network, ring_bytes: Option<u32>) -> Self {
        let rings = |ring_bytes| Rings { ring_bytes, ..Rings::default() };
        Self { network, rings: ring_bytes.map(rings) }
    }

    /// Takes the messages and commands of a turn of `host`.
    ///
    /// # Errors
    /// A link failed that had no reason to.
    pub fn carry_out(&mut self, host: HostId, links: &mut Links) -> Result<(), Violation> {
        let Self { network, rings } = self;
        let Some(rings) = rings else {
            network.carry_out(host, links);
            return Ok(());
        };
        network.carry_out_commands(host, links);
        rings.take_messages(network, host, links);
        rings.turn(network, host, links)
    }

    /// What is next on a way arrives.
    ///
    /// # Errors
    /// As [`Wires::carry_out`].
    pub fn arrive(
        &mut self,
        id: WayId,
        links: &mut Links,
        on_event: OnEvent<'_>,
    ) -> Result<(), Violation> {
        let Self { network, rings } = self;
        let Some(rings) = rings else {
            network.arrive(id, links, on_event);
            return Ok(());
        };
        let mut landed = None;
        network.arrive(id, links, &mut |links, event| match event {
            LinkEvent::Received { link, .. } => landed = Some(link),
            other => on_event(links, other),
        });
        landed.map_or(Ok(()), |link| rings.land(id, link, links, on_event))
    }

    /// After something has arrived: what its sender had to keep back moves on.
    ///
    /// # Errors
    /// As [`Wires::carry_out`].
    pub fn refill(&mut self, id: WayId, from: HostId, links: &mut Links) -> Result<(), Violation> {
        let Self { network, rings } = self;
        match rings {
            Some(rings) => rings.turn(network, from, links),
            None => {
                network.refill(id, links);
                Ok(())
            }
        }
    }

    /// How often writes came to the end of a ring, and how often there was no credit, since this was asked.
    pub fn take_counts(&mut self) -> [u64; 2] {
        self.rings.as_mut().map_or([0; 2], |rings| core::mem::take(&mut rings.counts))
    }
}

#[derive(Debug, Default)]
struct Rings {
    ring_bytes: u32,
    /// By the link that they are for.
    pairs: BTreeMap<u64, Pair>,
    counts: [u64; 2],
}

/// Both ends of a link, by side: 0 has dialed.
#[derive(Debug)]
struct Pair {
    wire: Wire,
    ends: [Endpoint<FakeQueue>; 2],
    /// Whose they are, as far as they have been used.
    hosts: [Option<(HostId, LinkId)>; 2],
    /// Writes that are on their way.
    parcels: [usize; 2],
}

impl Pair {
    fn new(ring_bytes: u32) -> Self {
        let (wire, one, other) = Wire::new(ring_bytes, STAGE_BYTES, WRITES_MAX);
        let end = |queue| Endpoint::new(queue, ring_bytes, WRITES_MAX, MESSAGE_BYTES_MAX);
        Self { wire, ends: [end(one), end(other)], hosts: [None; 2], parcels: [0; 2] }
    }

    /// A turn of one end: completions, then what may be posted.
    fn turn(
        &mut self,
        side: usize,
        id: WayId,
        network: &mut Network,
        links: &mut Links,
    ) -> Result<[u64; 2], DownCause> {
        let Some((host, link)) = self.hosts[side] else { return Ok([0; 2]) };
        let end = &mut self.ends[side];
        let counted = end.counters();
        while end.poll()? == COMPLETIONS_MAX {}
        let before = end.waiting_bytes();
        end.flush()?;
        let (posted, counters) = (before - end.waiting_bytes(), end.counters());
        if links.sent(link, posted) {
            network.note_room(host, link);
        }
        for _ in self.parcels[side]..self.wire.posted(side) {
            network.put(id, Vec::new());
        }
        self.parcels[side] = self.wire.posted(side);
        Ok([counters.wraps - counted.wraps, counters.exhausted - counted.exhausted])
    }
}

impl Rings {
    fn take_messages(&mut self, network: &Network, host: HostId, links: &mut Links) {
        let ring_bytes = self.ring_bytes;
        self.pairs.retain(|wire, _| network.has_wire(*wire));
        let mut dirty = Vec::new();
        links.take_dirty(&mut dirty);
        for link in dirty {
            let Some(id) = network.way_from(host, link) else { continue };
            let Ok(outbox) = links.begin_send(link, Outbox::default()) else { continue };
            let pair = self.pairs.entry(id.wire()).or_insert_with(|| Pair::new(ring_bytes));
            let side = 1 - id.towards();
            pair.hosts[side] = Some((host, link));
            for (head, body) in outbox.messages() {
                pair.ends[side].push(head, body.cloned());
            }
        }
    }

    /// A turn of all ends of a host. Those whose link is over are left alone.
    fn turn(
        &mut self,
        network: &mut Network,
        host: HostId,
        links: &mut Links,
    ) -> Result<(), Violation> {
        for (&wire, pair) in &mut self.pairs {
            for side in 0..2 {
                let Some((_, link)) = pair.hosts[side].filter(|(at, _)| *at == host) else {
                    continue;
                };
                let id = network.way_from(host, link);
                let Some(id) = id.filter(|id| id.wire() == wire) else { continue };
                let counts = pair.turn(side, id, network, links).map_err(failed)?;
                self.counts.iter_mut().zip(counts).for_each(|(sum, more)| *sum += more);
            }
        }
        Ok(())
    }

    /// A write lands, and whole messages with it.
    fn land(
        &mut self,
        id: WayId,
        link: LinkId,
        links: &mut Links,
        on_event: OnEvent<'_>,
    ) -> Result<(), Violation> {
        let Some(pair) = self.pairs.get_mut(&id.wire()) else { return Ok(()) };
        let to = id.towards();
        if pair.wire.carry(1 - to) {
            pair.parcels[1 - to] -= 1;
        }
        let end = &mut pair.ends[to];
        while end.poll().map_err(failed)? == COMPLETIONS_MAX {}
        while links.is_heard(link)
            && let Some(message) = end.next_message().map_err(failed)?
        {
            match message {
                Received::Whole(message) => on_event(links, LinkEvent::Received { link, message }),
                Received::Records(head, body) => {
                    on_event(links, LinkEvent::Records { link, head, body: &body });
                }
            }
        }
        Ok(())
    }
}

fn failed(cause: DownCause) -> Violation {
    Violation(format!("a link over rings fails: {cause}"))
}
