//! Damage to packets from a fixed seed: every run sees the same ones.

/// A small generator (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("bound fits")
    }

    /// Values at which something changes come more often than the rest.
    fn byte(&mut self) -> u8 {
        const EDGES: [u8; 13] =
            [0x00, 0x01, 0x02, 0x0B, 0x26, 0x2B, 0x23, 0x7F, 0x80, 0x81, 0xC0, 0xED, 0xFF];
        if self.below(2) == 0 { EDGES[self.below(EDGES.len())] } else { self.next() as u8 }
    }
}

/// Damages a packet in up to three places; `other` is where foreign bytes come from.
pub(crate) fn mutate(packet: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(3) {
        let at = random.below(packet.len().max(1));
        match random.below(6) {
            0 if !packet.is_empty() => packet[at] = random.byte(),
            1 if !packet.is_empty() => packet[at] ^= 1 << random.below(8),
            2 => packet.insert(at, random.byte()),
            3 if packet.len() > 1 => drop(packet.remove(at)),
            4 if packet.len() > 1 => packet.truncate(at),
            _ => packet.extend_from_slice(&other[..random.below(other.len() + 1)]),
        }
    }
    // Half of them get a length that fits again, so that the damage reaches the fields.
    if random.below(2) == 0 && (2..130).contains(&packet.len()) {
        packet[1] = u8::try_from(packet.len() - 2).expect("below 128");
    }
}
