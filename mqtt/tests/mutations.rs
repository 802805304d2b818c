//! 200,000 damaged packets: nothing panics, and what still decodes survives a round trip.

#[path = "support/corpus.rs"]
mod corpus;
#[path = "support/exercise.rs"]
mod exercise;
#[path = "support/reencode.rs"]
mod reencode;
#[path = "support/samples.rs"]
mod samples;

use exercise::{decode_all, round_trip};

/// A small generator with a fixed seed (xorshift64*): every run sees the same packets.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("bound fits")
    }

    fn byte(&mut self) -> u8 {
        // Values at which something changes come more often than the rest.
        const EDGES: [u8; 12] =
            [0x00, 0x01, 0x02, 0x26, 0x2B, 0x23, 0x7F, 0x80, 0x81, 0xC0, 0xED, 0xFF];
        if self.below(2) == 0 { EDGES[self.below(EDGES.len())] } else { self.next() as u8 }
    }
}

fn mutate(packet: &mut Vec<u8>, other: &[u8], random: &mut Random) {
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

#[test]
fn damaged_packets_never_panic_and_survivors_round_trip() {
    let rows = corpus::vectors().into_iter().chain(corpus::catalogue());
    let valid = rows.filter(|row| row.outcome.starts_with("ok")).map(|row| row.bytes);
    let corpus: Vec<Vec<u8>> =
        valid.chain(samples::samples().into_iter().map(|(_, packet)| packet)).collect();
    let mut random = Random(0x5EED_0F_4D51_5454);
    let mut decoded = 0;
    for _ in 0..200_000 {
        let mut packet = corpus[random.below(corpus.len())].clone();
        let other = &corpus[random.below(corpus.len())];
        mutate(&mut packet, other, &mut random);
        decoded += decode_all(&packet).1;
        round_trip(&packet);
    }
    // The damage is mild enough that the deeper checks are reached as well.
    assert!(decoded > 50_000, "only {decoded} decodings succeeded");
}
