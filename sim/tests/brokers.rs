//! Runs of whole brokers are what their seed says, and nothing else.

use ringlane::simulation::{Demand, run};

const SHORT: Demand = Demand { seconds: 10, acknowledged: 0 };

#[test]
fn the_same_seed_does_the_same_bit_for_bit() {
    // Three nodes with a stream at `quorum_memory`, and five.
    let traces = [2, 3].map(|seed| {
        let (one, again) = (run(seed, SHORT), run(seed, SHORT));
        assert_eq!(one, again, "seed {seed}");
        assert!(one.0.acknowledged > 100 && one.0.agreed > 100, "{:?}", one.0);
        one.1
    });
    assert_ne!(traces[0], traces[1]);
}
