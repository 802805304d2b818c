//! The broker ends at each named place of its way to the disk, and nothing that was acknowledged is
//! lost. Only with the feature `failpoints`.

mod support;

use support::packets::acknowledge;
use support::{Broker, Client, Connect, Kind, Options, Publish, Transport, Version};

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

on_both_transports!(nothing_is_lost_at_any_place, starts_that_end_early_change_nothing);
