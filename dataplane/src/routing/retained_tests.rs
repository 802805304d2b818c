//! Tests of the retained store against a plain map.

use super::super::matching::CASES;
use super::*;
use crate::message::MessageHead;
use proptest::prelude::*;

fn message(topic: &str, payload: &[u8], expires_at: Nanos) -> Message {
    let head = MessageHead {
        publisher: 0,
        accepted_at: Nanos(0),
        expires_at,
        topic_bytes: 0,
        properties_bytes: 0,
        qos: 1,
        retain: true,
    };
    Message::new(head, topic, &[], payload, &mut Vec::new())
}

fn lasting(topic: &str, payload: &[u8]) -> Message {
    message(topic, payload, Nanos::NEVER)
}

fn source(offset: u64) -> RecordId {
    RecordId { partition: PartitionId(1), offset: Offset(offset), level: Level::Memory }
}

fn store(topics: &[&str]) -> RetainedStore {
    let mut store = RetainedStore::new(1000, 1 << 20);
    for (offset, topic) in (0..).zip(topics) {
        assert_eq!(store.set(lasting(topic, b"x"), source(offset)), SetOutcome::Stored);
    }
    store
}

/// Everything that a query finds, asked in steps of `limit`.
fn query(store: &RetainedStore, filter: &str, limit: usize, now: Nanos) -> Vec<String> {
    let mut found = Vec::new();
    let mut from: Option<Box<str>> = None;
    loop {
        let mut examined = 0;
        let progress = store.query(filter, from.as_deref(), limit, now, &mut |message, _| {
            examined += 1;
            found.push(message.topic().to_owned());
        });
        assert!(examined <= limit.max(1), "more found than may be examined");
        match progress {
            QueryProgress::Done => return found,
            QueryProgress::More { after } => {
                assert!(from.is_none_or(|from| from < after), "a step does not go back");
                from = Some(after);
            }
        }
    }
}

#[test]
fn set_says_what_it_did() {
    let mut store = RetainedStore::new(10, 1 << 20);
    assert_eq!(store.set(lasting("a", b""), source(0)), SetOutcome::NothingToClear);
    assert_eq!(store.set(lasting("a", b"1"), source(1)), SetOutcome::Stored);
    assert_eq!(store.set(lasting("a", b"2"), source(2)), SetOutcome::Replaced);
    let mut seen = Vec::new();
    store.query("a", None, 1, Nanos(0), &mut |message, record| {
        seen.push((message.payload().to_vec(), record));
    });
    assert_eq!(seen, [(b"2".to_vec(), source(2))]);
    assert_eq!(store.set(lasting("a", b""), source(3)), SetOutcome::Cleared);
    assert_eq!((store.count(), store.bytes()), (0, 0));
}

#[test]
fn the_number_of_messages_is_bounded() {
    let mut store = RetainedStore::new(2, 1 << 20);
    assert_eq!(store.set(lasting("a", b"1"), source(0)), SetOutcome::Stored);
    assert_eq!(store.set(lasting("b", b"1"), source(1)), SetOutcome::Stored);
    assert_eq!(store.set(lasting("c", b"1"), source(2)), SetOutcome::Refused);
    assert_eq!(store.set(lasting("b", b"2"), source(3)), SetOutcome::Replaced);
    assert_eq!(store.set(lasting("a", b""), source(4)), SetOutcome::Cleared);
    assert_eq!(store.set(lasting("c", b"1"), source(5)), SetOutcome::Stored);
    assert_eq!(store.count(), 2);
}

#[test]
fn the_bytes_are_bounded_and_a_refusal_changes_nothing() {
    let one = cost(&lasting("a", &[0; 100]));
    let mut store = RetainedStore::new(1000, 2 * one);
    assert_eq!(store.set(lasting("a", &[1; 100]), source(0)), SetOutcome::Stored);
    assert_eq!(store.set(lasting("b", &[1; 100]), source(1)), SetOutcome::Stored);
    assert_eq!(store.bytes(), 2 * one);
    assert_eq!(store.set(lasting("c", &[1; 1]), source(2)), SetOutcome::Refused);
    assert_eq!(store.set(lasting("b", &[2; 101]), source(3)), SetOutcome::Refused);
    assert_eq!(store.set(lasting("b", &[2; 50]), source(4)), SetOutcome::Replaced);
    assert_eq!(store.bytes(), 2 * one - 50);
    assert_eq!(store.set(lasting("b", &[3; 100]), source(5)), SetOutcome::Replaced);
}

#[test]
fn the_table_of_cases_holds() {
    for (filter, topic, expected) in CASES {
        let store = store(&[topic]);
        let found = query(&store, filter, 10, Nanos(0));
        assert_eq!(!found.is_empty(), *expected, "{filter:?} against {topic:?}");
    }
}

#[test]
fn a_parent_comes_with_what_is_below_it_and_not_with_its_neighbours() {
    // In byte order " ", "!" and "-" come before "/", and "0" after it.
    let store = store(&["a", "a ", "a!", "a-b", "a/", "a/b", "a/b/c", "a0", "b"]);
    for limit in [1, 2, 3, 100] {
        assert_eq!(query(&store, "a/#", limit, Nanos(0)), ["a", "a/", "a/b", "a/b/c"]);
        assert_eq!(query(&store, "a/+", limit, Nanos(0)), ["a/", "a/b"]);
        assert_eq!(query(&store, "a/b/#", limit, Nanos(0)), ["a/b", "a/b/c"]);
        assert_eq!(query(&store, "+", limit, Nanos(0)), ["a", "a ", "a!", "a-b", "a0", "b"]);
    }
}

#[test]
fn hidden_topics_are_not_even_examined_for_a_leading_wildcard() {
    let mut topics: Vec<String> = (0..500).map(|n| format!("$SYS/{n:03}")).collect();
    topics.extend(["!".to_owned(), "%".to_owned(), "a".to_owned()]);
    let store = store(&topics.iter().map(String::as_str).collect::<Vec<_>>());
    let mut found = Vec::new();
    let progress = store.query("#", None, 3, Nanos(0), &mut |message, _| {
        found.push(message.topic().to_owned());
    });
    assert_eq!(
        (progress, found),
        (QueryProgress::Done, ["!", "%", "a"].map(String::from).to_vec())
    );
    assert_eq!(query(&store, "$SYS/#", 7, Nanos(0)).len(), 500);
    let resumed = store.query("#", Some("$SYS/1"), 10, Nanos(0), &mut |message, _| {
        assert!(["%", "a"].contains(&message.topic()));
    });
    assert_eq!(resumed, QueryProgress::Done);
}

#[test]
fn a_query_stops_at_its_limit_and_knows_when_it_is_done() {
    let store = store(&["a/1", "a/2", "a/3", "b/1"]);
    let more = |after: &str| QueryProgress::More { after: after.into() };
    let step = |from, limit| store.query("a/+", from, limit, Nanos(0), &mut |_, _| {});
    assert_eq!(step(None, 2), more("a/2"));
    assert_eq!(step(None, 0), more("a/1"), "every step makes progress");
    assert_eq!(step(Some("a/2"), 1), QueryProgress::Done, "nothing is left after the last");
    assert_eq!(step(None, 3), QueryProgress::Done);
    assert_eq!(step(Some("zzz"), 1), QueryProgress::Done);
}

#[test]
fn an_exact_filter_resumes_after_itself_with_nothing() {
    let store = store(&["a", "b"]);
    let count = |from| {
        let mut found = 0;
        let progress = store.query("b", from, 1, Nanos(0), &mut |_, _| found += 1);
        assert_eq!(progress, QueryProgress::Done);
        found
    };
    assert_eq!([count(None), count(Some("a")), count(Some("b")), count(Some("c"))], [1, 1, 0, 0]);
}

#[test]
fn what_has_expired_is_skipped_and_swept() {
    let mut store = RetainedStore::new(100, 1 << 20);
    for (offset, topic) in (0..).zip(["a", "b", "c", "d", "e"]) {
        let expires_at = if offset % 2 == 0 { Nanos(100) } else { Nanos::NEVER };
        store.set(message(topic, b"x", expires_at), source(offset));
    }
    assert_eq!(query(&store, "#", 10, Nanos(99)).len(), 5);
    assert_eq!(query(&store, "#", 10, Nanos(100)), ["b", "d"]);
    assert_eq!(query(&store, "a", 10, Nanos(100)), [""; 0]);
    assert_eq!(store.count(), 5);
    assert_eq!(store.sweep_expired(Nanos(100), None, 2).as_deref(), Some("b"));
    assert_eq!(store.count(), 4);
    let rest = store.sweep_expired(Nanos(100), Some("b".into()), 3);
    assert_eq!(rest, None);
    assert_eq!(query(&store, "#", 10, Nanos(0)), ["b", "d"]);
    for topic in ["b", "d"] {
        store.set(lasting(topic, b""), source(9));
    }
    assert_eq!(store.bytes(), 0);
}

#[derive(Clone, Debug)]
enum Operation {
    Set(String, u8, bool),
    Query(String, usize),
    Sweep(usize),
}

fn topic() -> impl Strategy<Value = String> {
    let names = &["a", "b", "", "$s", "a!", "é"][..];
    prop::collection::vec(prop::sample::select(names), 1..4).prop_map(|levels| levels.join("/"))
}

fn filter() -> impl Strategy<Value = String> {
    let names = &["a", "b", "", "$s", "a!", "+", "+"][..];
    let body = prop::collection::vec(prop::sample::select(names), 1..4);
    (body, any::<bool>(), 0..9).prop_map(|(levels, open, all)| match (open, all) {
        (_, 0) => "#".to_owned(),
        (true, _) => format!("{}/#", levels.join("/")),
        (false, _) => levels.join("/"),
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => (topic(), 0u8..4, any::<bool>())
            .prop_map(|(topic, bytes, expires)| Operation::Set(topic, bytes, expires)),
        4 => (filter(), 0usize..5).prop_map(|(filter, limit)| Operation::Query(filter, limit)),
        1 => (1usize..4).prop_map(Operation::Sweep),
    ]
}

/// Topic to expiry; payloads are told apart by the offset.
type Model = BTreeMap<String, (Message, RecordId)>;

const MESSAGES_MAX: usize = 12;
const NOW: Nanos = Nanos(50);

fn set(store: &mut RetainedStore, model: &mut Model, message: Message, record: RecordId) {
    let topic = message.topic().to_owned();
    let expected = match (message.payload().is_empty(), model.contains_key(&topic)) {
        (true, true) => SetOutcome::Cleared,
        (true, false) => SetOutcome::NothingToClear,
        (false, true) => SetOutcome::Replaced,
        (false, false) if model.len() == MESSAGES_MAX => SetOutcome::Refused,
        (false, false) => SetOutcome::Stored,
    };
    assert_eq!(store.set(message.clone(), record), expected);
    match expected {
        SetOutcome::Cleared => drop(model.remove(&topic)),
        SetOutcome::Stored | SetOutcome::Replaced => {
            model.insert(topic, (message, record));
        }
        SetOutcome::NothingToClear | SetOutcome::Refused => {}
    }
}

fn sweep(store: &mut RetainedStore, model: &mut Model, limit: usize) {
    let mut from = None;
    loop {
        from = store.sweep_expired(NOW, from, limit);
        if from.is_none() {
            break;
        }
    }
    model.retain(|_, (message, _)| message.head().expires_at > NOW);
}

proptest! {
    #[test]
    fn it_answers_as_a_map_does(operations in prop::collection::vec(operation(), 0..120)) {
        let mut store = RetainedStore::new(MESSAGES_MAX, 1 << 20);
        let mut model = Model::new();
        for (offset, operation) in (0..).zip(operations) {
            match operation {
                Operation::Set(topic, bytes, expires) => {
                    let expires_at = if expires { NOW } else { Nanos::NEVER };
                    let message = message(&topic, &vec![1; usize::from(bytes)], expires_at);
                    set(&mut store, &mut model, message, source(offset));
                }
                Operation::Query(filter, limit) => {
                    let mut expected: Vec<&str> = model
                        .iter()
                        .filter(|(topic, _)| matches(&filter, topic))
                        .filter(|(_, (message, _))| message.head().expires_at > NOW)
                        .map(|(topic, _)| topic.as_str())
                        .collect();
                    expected.sort_unstable();
                    prop_assert_eq!(query(&store, &filter, limit, NOW), expected);
                }
                Operation::Sweep(limit) => sweep(&mut store, &mut model, limit),
            }
            prop_assert_eq!(store.count(), model.len());
            let bytes: usize = model.values().map(|(message, _)| cost(message)).sum();
            prop_assert_eq!(store.bytes(), bytes);
        }
    }
}
