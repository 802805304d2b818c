//! 200,000 damaged packets: nothing panics, and what still decodes survives a round trip.

#[path = "support/corpus.rs"]
mod corpus;
#[path = "support/exercise.rs"]
mod exercise;
#[path = "support/random.rs"]
mod random;
#[path = "support/reencode.rs"]
mod reencode;
#[path = "support/samples.rs"]
mod samples;

use exercise::decode_all;
use random::{Random, mutate};
use reencode::round_trip;

#[test]
fn damaged_packets_never_panic_and_survivors_round_trip() {
    let rows = corpus::vectors().into_iter().chain(corpus::catalogue());
    let valid = rows.filter(|row| row.outcome.starts_with("ok")).map(|row| row.bytes);
    let corpus: Vec<Vec<u8>> =
        valid.chain(samples::samples().into_iter().map(|(_, packet)| packet)).collect();
    let mut random = Random::new(0x5EED_0F4D_5154);
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
