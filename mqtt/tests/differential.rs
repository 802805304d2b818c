//! The codec against `mqttbytes` on vectors, full packets and 100,000 damaged ones.
//!
//! The explained disagreements (the tables in `support/oracle.rs` are the rule; this is the
//! reading copy). "Accepts" is a malformed packet that `mqttbytes` lets pass, "refuses" a valid
//! one that it does not, "misreads" a valid one that it takes for another.
//!
//! | `mqttbytes` 0.6 | case | versions | statement |
//! |---|---|---|---|
//! | accepts | reserved flags in the first byte | 3.1.1, 5 | MQTT-2.1.3-1 |
//! | accepts | a body in PINGREQ, PINGRESP, DISCONNECT 3.1.1 | 3.1.1, 5 | MQTT-4.13.1-1 |
//! | accepts | bytes behind the last field | 3.1.1, 5 | MQTT-4.13.1-1 |
//! | accepts | properties that cross the end of their block | 5 | MQTT-4.13.1-1 |
//! | accepts | U+0000 in strings | 3.1.1, 5 | MQTT-1.5.4-2 |
//! | accepts | lengths not in their shortest form | 5 | MQTT-1.5.5-1 |
//! | accepts | packet identifier 0 outside PUBLISH | 3.1.1, 5 | MQTT-2.2.1-3 |
//! | accepts | properties that come twice | 5 | §2.2.2.2 |
//! | accepts | flags other than 0 and 1, maxima of 0 | 5 | §3.1.2.11 |
//! | accepts | topic alias 0 | 5 | MQTT-3.3.2-8 |
//! | accepts | subscription identifier 0 | 5 | §3.8.2.1.2 |
//! | accepts | a response topic with wildcards, or empty | 5 | MQTT-3.3.2-14 |
//! | accepts | the reserved connect flag | 3.1.1, 5 | MQTT-3.1.2-3 |
//! | accepts | a will topic with wildcards, or empty | 3.1.1, 5 | MQTT-4.7.0-1 |
//! | accepts | a password without a user name | 3.1.1 | MQTT3-3.1.2-22 |
//! | accepts | authentication data without a method | 5 | §3.1.2.11.10 |
//! | accepts | an empty client identifier without a clean session | 3.1.1 | MQTT3-3.1.3-8 |
//! | accepts | reserved acknowledge flags in CONNACK | 3.1.1, 5 | MQTT-3.2.2-1 |
//! | accepts | Session Present beside a failure | 3.1.1, 5 | MQTT-3.2.2-6 |
//! | accepts | DUP with QoS 0 | 3.1.1, 5 | MQTT-3.3.1-2 |
//! | accepts | wildcards in a topic name | 3.1.1, 5 | MQTT-3.3.2-2 |
//! | accepts | an empty topic name (without an alias) | 3.1.1, 5 | MQTT3-4.7.3-1, §3.3.2.1 |
//! | accepts | SUBSCRIBE, UNSUBSCRIBE without a filter | 3.1.1, 5 | MQTT-3.8.3-2, MQTT-3.10.3-2 |
//! | accepts | reserved bits of the subscription options | 3.1.1, 5 | MQTT-3.8.3-5 |
//! | accepts | No Local on a shared subscription | 5 | MQTT-3.8.3-4 |
//! | accepts | empty topic filters | 3.1.1, 5 | MQTT-4.7.3-1 |
//! | refuses | CONNECT of MQTT 3.1 | 3.1 | MQTT 3.1 §3.1 |
//! | refuses | passwords that are not UTF-8 | 3.1.1, 5 | §3.1.3.6 |
//! | refuses | DISCONNECT without properties | 5 | §3.14.2.1 |
//! | refuses | AUTH | 5 | §3.15 |
//! | misreads | whatever follows a subscription identifier | 5 | §2.2.2.1 |

#[path = "support/corpus.rs"]
mod corpus;
#[path = "support/oracle.rs"]
mod oracle;
#[path = "support/random.rs"]
mod random;
#[path = "support/samples.rs"]
mod samples;

use oracle::{Verdict, compare_all};
use random::{Random, mutate};
use std::collections::BTreeSet;

#[test]
fn vectors_disagree_only_where_the_specification_says_so() {
    let mut explained = 0;
    for row in corpus::vectors().into_iter().chain(corpus::catalogue()) {
        let verdicts = compare_all(&row.bytes);
        explained += verdicts.iter().filter(|v| matches!(v, Verdict::Explained(_))).count();
    }
    assert!(explained > 100, "only {explained} explained: the oracle looks at nothing");
}

#[test]
fn full_packets_are_read_alike() {
    let mut agreed = 0;
    for (version, packet) in samples::samples() {
        let verdict = compare_all(&packet)[usize::from(version.is_v5())];
        agreed += usize::from(verdict == Verdict::Agree);
    }
    assert!(agreed > 30, "only {agreed} packets are read alike");
}

#[test]
fn damaged_packets_disagree_only_where_the_specification_says_so() {
    let rows = corpus::vectors().into_iter().chain(corpus::catalogue()).map(|row| row.bytes);
    let full = samples::samples().into_iter().map(|(_, packet)| packet);
    let corpus: Vec<Vec<u8>> = rows.chain(full).collect();
    let mut random = Random::new(0x0D1F_F4D5);
    let mut statements = BTreeSet::new();
    for _ in 0..100_000 {
        let mut packet = corpus[random.below(corpus.len())].clone();
        mutate(&mut packet, &corpus[random.below(corpus.len())], &mut random);
        for verdict in compare_all(&packet) {
            if let Verdict::Explained(statement) = verdict {
                statements.insert(statement);
            }
        }
    }
    assert!(statements.len() > 25, "damage reaches few rules: {statements:?}");
}
