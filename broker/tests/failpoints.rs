//! The broker ends at each named place of its way to the disk, and nothing that was acknowledged is
//! lost. Only with the feature `failpoints`.

use crate::support;
use crate::support::packets::acknowledge;
use crate::support::{Broker, Client, Connect, Kind, Options, Publish, Transport, Version};

/// Places, and the visits of them at which the process ends. The messages are of 20 KB, so that
/// segments roll.
const PLACES: [(&str, &[u64]); 13] = [
    ("append.before", &[1, 40]),
    ("append.after", &[1, 41, 200]),
    ("write.before", &[1, 9]),
    ("write.after", &[1, 2, 10]),
    ("sync.before", &[1, 10]),
    ("sync.after", &[1, 2, 11]),
    ("segment.before-rename", &[1, 2]),
    ("segment.after-rename", &[1, 2]),
    ("segment.made", &[1, 2]),
    ("puback.before", &[1, 30]),
    ("pubrec.before", &[1, 30]),
    ("pubrec.after", &[1, 31]),
    ("pubcomp.before", &[1, 25]),
];

/// A client that is connected, unless the broker is gone.
fn connect(broker: &Broker) -> Option<Client> {
    let mut client = Client::try_open(broker.tcp, Version::V5).ok()?;
    client.try_send(&Connect::new(Version::V5, "publisher").encode()).ok()?;
    client.try_read(support::PATIENCE).ok().map(|_| client)
}

/// Publishes until the broker is gone, or until the load is at its end; the number of messages
/// that were acknowledged.
fn publish_until_gone(broker: &Broker) -> u64 {
    const WINDOW: u16 = 16;
    let Some(mut client) = connect(broker) else { return 0 };
    let payload = vec![b'x'; 20_000];
    let mut acknowledged = 0;
    for first in (0..400).step_by(usize::from(WINDOW)) {
        for id in 1..=WINDOW {
            let publish = Publish::new("t", &payload).qos(1 + (first + id) as u8 % 2, id);
            if client.try_send(&publish.encode(Version::V5)).is_err() {
                return acknowledged;
            }
        }
        let mut open = WINDOW;
        while 0 < open {
            let Ok(packet) = client.try_read(support::PATIENCE) else { return acknowledged };
            match packet.kind() {
                Kind::Puback => {
                    acknowledged += 1;
                    open -= 1;
                }
                Kind::Pubrec => {
                    acknowledged += 1;
                    if client.try_send(&acknowledge(Kind::Pubrel, packet.id())).is_err() {
                        return acknowledged;
                    }
                }
                Kind::Pubcomp => open -= 1,
                other => panic!("{other:?}"),
            }
        }
    }
    acknowledged
}

fn nothing_is_lost_at_any_place(transport: Transport) {
    let options = Options::new(transport).logged().cores(1);
    for (place, visits) in PLACES {
        for visit in visits {
            let point = format!("{place}:{visit}");
            let mut broker =
                Broker::start_until_end(&options.clone().environment("RINGLANE_FAILPOINT", &point));
            let acknowledged = if broker.is_alive() { publish_until_gone(&broker) } else { 0 };
            assert!(!broker.wait().success(), "{point} was not reached");
            broker.restart(&options);
            let recovered = broker.metric("log_recovered_records");
            assert!(acknowledged <= recovered, "{point}: {acknowledged}, {recovered} recovered");
            broker.stop();
        }
    }
}

/// A start that ends before, in the middle of or behind writing its epoch changes nothing.
fn starts_that_end_early_change_nothing(transport: Transport) {
    let options = Options::new(transport).logged().cores(1);
    let mut broker = Broker::start(&options);
    let acknowledged = publish_until_gone(&broker);
    broker.kill();
    for place in ["epoch.before", "epoch.before-rename", "epoch.after"] {
        let ending = options.clone().environment("RINGLANE_FAILPOINT", place);
        assert!(!broker.restart_in_vain(&ending).success(), "{place} was not reached");
        broker.restart(&options);
        assert!(acknowledged <= broker.metric("log_recovered_records"), "{place}");
        broker.kill();
    }
}

/// Small segments and checkpoints, so that much is written and removed.
const TRIMMED: &str = r#"
    [mqtt]
    max_packet_size = "64KiB"
    [commit_log]
    segment_size = "1MiB"
    checkpoint_size = "64KiB"
    [[stream]]
    name = "default"
    retention_size = "4MiB"
"#;
/// Places, and the visits of them, of a log that is trimmed behind its checkpoints.
const TRIMMED_PLACES: [(&str, &[u64]); 5] = [
    ("checkpoint.taken", &[1, 3]),
    ("checkpoint.before-rename", &[1, 3]),
    ("checkpoint.after-rename", &[1, 4]),
    ("remove.before", &[1, 2]),
    ("remove.after", &[1, 3]),
];

/// Publishes numbers to a session that comes now and then, and much that nobody wants, until the
/// broker is gone; how many numbers were acknowledged by the broker, and how many by the session.
fn live_until_gone(broker: &Broker) -> (u64, u64) {
    let (mut published, mut received) = (0, 0);
    let payload = vec![b'x'; 20_000];
    let Some(mut publisher) = connect(broker) else { return (0, 0) };
    for round in 0..u64::MAX {
        for id in 1..=17 {
            let publish = match id {
                17 => Publish::new("numbers", published.to_string()),
                _ => Publish::new("fill", &payload),
            };
            if publisher.try_send(&publish.qos(1, id).encode(Version::V5)).is_err() {
                return (published, received);
            }
        }
        for _ in 1..=17 {
            let Ok(packet) = publisher.try_read(support::PATIENCE) else {
                return (published, received);
            };
            published += u64::from(packet.id() == 17);
        }
        if round % 50 == 49 {
            received = receive_numbers(broker, received, published);
        }
    }
    (published, received)
}

/// Lets the session receive what it is owed: everything from `from` on, up to `to` at least. Where
/// it has come.
fn receive_numbers(broker: &Broker, from: u64, to: u64) -> u64 {
    let connect = Connect::new(Version::V5, "session").durable();
    let Ok(mut client) = Client::try_open(broker.tcp, Version::V5) else { return from };
    if client.try_send(&connect.encode()).is_err() || client.try_read(support::PATIENCE).is_err() {
        return from;
    }
    let mut next = from;
    while next < to {
        let Ok(packet) = client.try_read(support::PATIENCE) else { return next };
        let message = packet.publish();
        let number: u64 = message.text().parse().expect("a number");
        // What was acknowledged within the second before a crash may come again.
        assert!(number <= next, "{number} instead of {next}");
        next = next.max(number + 1);
        if client.try_send(&acknowledge(Kind::Puback, message.id)).is_err() {
            return next;
        }
    }
    next
}

fn a_trimmed_log_loses_nothing_at_any_place(transport: Transport) {
    let options = Options::new(transport).logged().cores(1).config(TRIMMED);
    for (place, visits) in TRIMMED_PLACES {
        for visit in visits {
            let point = format!("{place}:{visit}");
            // Nothing is removed or taken within the first second.
            let ending = options.clone().environment("RINGLANE_FAILPOINT", &point);
            let mut broker = Broker::start(&ending);
            let connect = Connect::new(Version::V5, "session").durable();
            let mut client = Client::connect(broker.tcp, &connect);
            client.subscribe("numbers", 1);
            client.disconnect();
            let (published, received) = live_until_gone(&broker);
            assert!(!broker.wait().success(), "{point} was not reached");
            broker.restart(&options);
            assert!(0 < published, "{point}");
            assert_eq!(receive_numbers(&broker, received, published), published, "{point}");
            broker.stop();
        }
    }
}

on_both_transports!(
    nothing_is_lost_at_any_place,
    starts_that_end_early_change_nothing,
    a_trimmed_log_loses_nothing_at_any_place,
);
