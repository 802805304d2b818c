//! What was acknowledged is in the log: the running broker, killed and started again.

use crate::support::{Broker, Client, Kind, Options, Publish, Transport, Version};
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Publishes with QoS 1 and 2 in turn, and waits for every acknowledgement.
fn publish_and_wait(broker: &Broker, client_id: &str, messages: usize) {
    let mut client = Client::plain(broker.tcp, Version::V5, client_id);
    for number in 0..messages {
        client.publish(&format!("t/{}", number % 7), format!("{number}"), 1 + (number % 2) as u8);
    }
    client.disconnect();
}

fn recovered(broker: &Broker) -> u64 {
    broker.metric("log_recovered_records")
}

fn segments(broker: &Broker) -> Vec<PathBuf> {
    let partitions = std::fs::read_dir(broker.data_dir().join("partitions")).expect("partitions/");
    let mut found = Vec::new();
    for partition in partitions {
        let directory = partition.expect("an entry").path();
        let files = std::fs::read_dir(directory).expect("a partition's directory");
        found.extend(files.map(|file| file.expect("an entry").path()));
    }
    found.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    found.sort();
    found
}

/// Every acknowledged message is there after `kill -9`, whatever the number of cores.
fn what_was_acknowledged_survives_a_kill(transport: Transport) {
    const MESSAGES: usize = 60;
    let with_cores = |cores| Options::new(transport).logged().cores(cores);
    let mut broker = Broker::start(&with_cores(1));
    let mut expected = 0;
    for cores in [2, 1, 2] {
        for client in 0..4 {
            publish_and_wait(&broker, &format!("client-{client}"), MESSAGES);
        }
        expected += 4 * MESSAGES as u64;
        broker.kill();
        broker.restart(&with_cores(cores));
        assert!(expected <= recovered(&broker), "{} of {expected}", recovered(&broker));
    }
    assert_eq!(broker.metric("log_poisoned_partitions"), 0);
    broker.stop();
}

/// The same where the core's ring writes the files; without a ring threads do, and a line says so.
fn either_driver_of_files_keeps_what_was_acknowledged(transport: Transport) {
    const MESSAGES: usize = 60;
    let ring = "runtime.transport = \"auto\"\ncommit_log.file_driver = \"io_uring\"";
    let options = match transport {
        Transport::Uring => Options::new(transport).logged().config(ring),
        Transport::Epoll => Options::new(transport).logged(),
    };
    let mut broker = Broker::start(&options);
    broker.wait_until("the start is logged", |broker| broker.log().contains("is ready"));
    let log = broker.log();
    let has_ring = log.contains("transport=io_uring");
    let driver = if has_ring && transport == Transport::Uring { "io_uring" } else { "threads" };
    assert!(log.contains(&format!("files of the commit log driver=\"{driver}\"")), "{log}");
    publish_and_wait(&broker, "client", MESSAGES);
    broker.kill();
    broker.restart(&options);
    assert!(MESSAGES as u64 <= recovered(&broker));
    broker.stop();
}

/// At the level `memory` a message is acknowledged at once; an orderly end flushes it all the same.
fn an_orderly_end_flushes_what_was_acknowledged_in_memory(transport: Transport) {
    let memory = "[[stream]]\nname = \"default\"\nlevel = \"memory\"";
    let options = Options::new(transport).logged().config(memory);
    let mut broker = Broker::start(&options);
    publish_and_wait(&broker, "client", 500);
    broker.terminate();
    assert_eq!(broker.wait().code(), Some(0));
    broker.restart(&options);
    assert!(500 <= recovered(&broker), "{}", recovered(&broker));
    assert_eq!(broker.metric("log_torn_bytes"), 0, "an orderly end leaves nothing behind");
    broker.stop();
}

/// QoS 0 is logged where a stream says so, and nowhere else; subscribers get it all the same.
fn qos_0_is_captured_where_a_stream_says_so(transport: Transport) {
    let captured = "[[stream]]\nname = \"kept\"\nfilters = [\"kept/#\"]\ncapture_qos0 = true";
    let options = Options::new(transport).logged().config(captured);
    let mut broker = Broker::start(&options);
    let mut subscriber = Client::plain(broker.tcp, Version::V5, "subscriber");
    subscriber.subscribe("#", 0);
    let mut publisher = Client::plain(broker.tcp, Version::V5, "publisher");
    for number in 0..20 {
        publisher.publish("kept/a", format!("{number}"), 0);
        publisher.publish("other", format!("{number}"), 0);
    }
    for number in 0..40 {
        let received = subscriber.receive();
        assert_eq!(received.payload, format!("{}", number / 2).into_bytes());
    }
    broker.terminate();
    assert_eq!(broker.wait().code(), Some(0));
    broker.restart(&options);
    let messages = recovered(&broker);
    assert!((20..40).contains(&messages), "{messages}");
    broker.stop();
}

/// Many publishers share the rounds of a log.
fn publishers_share_rounds(transport: Transport) {
    let mut broker = Broker::start(&Options::new(transport).logged().cores(1));
    let mut client = Client::plain(broker.tcp, Version::V5, "client");
    // In one piece: publishers that a busy machine lets come one by one would share nothing.
    let publishes = (1..=1000).map(|id| Publish::new("t", "x").qos(1, id).encode(Version::V5));
    client.send(&publishes.collect::<Vec<_>>().concat());
    for _ in 0..1000 {
        client.expect(Kind::Puback);
    }
    let (rounds, records) =
        (broker.metric("log_rounds_total"), broker.metric("log_flushed_records_total"));
    assert!(1000 <= records && rounds < records / 2, "{rounds} rounds, {records} records");
    assert!(rounds <= broker.metric("log_flush_seconds_count"));
    assert!(0 < broker.metric("log_segments") && 0 < broker.metric("log_bytes"));
    broker.kill();
}

/// Damage below what was durable is refused, with its place; the rest of the directory stays.
fn damage_is_refused_with_its_place(transport: Transport) {
    let options = Options::new(transport).logged().cores(1);
    let mut broker = Broker::start(&options);
    publish_and_wait(&broker, "client", 50);
    // The closing batch names what is durable.
    broker.wait_until_logs_rest();
    broker.kill();
    let damaged =
        segments(&broker).into_iter().find(|path| damage(path.as_path())).expect("a used segment");
    let status = broker.restart_in_vain(&options);
    let log = broker.log();
    assert_eq!(status.code(), Some(1), "{log}");
    let name = damaged.file_name().and_then(|name| name.to_str()).expect("a name");
    assert!(log.contains("partition ") && log.contains(name), "{log}");
}

/// Changes a byte of the first record of a segment, if it has one.
fn damage(path: &Path) -> bool {
    const IN_FIRST_RECORD: u64 = 4096 + 64 + 50;
    let mut file = OpenOptions::new().read(true).write(true).open(path).expect("a segment");
    let mut byte = [0];
    file.seek(SeekFrom::Start(IN_FIRST_RECORD)).expect("a place");
    file.read_exact(&mut byte).expect("a byte");
    if byte == [0] {
        return false;
    }
    file.seek(SeekFrom::Start(IN_FIRST_RECORD)).expect("a place");
    file.write_all(&[byte[0] ^ 1]).expect("a byte");
    true
}

on_both_transports!(
    what_was_acknowledged_survives_a_kill,
    either_driver_of_files_keeps_what_was_acknowledged,
    an_orderly_end_flushes_what_was_acknowledged_in_memory,
    qos_0_is_captured_where_a_stream_says_so,
    publishers_share_rounds,
    damage_is_refused_with_its_place,
);
