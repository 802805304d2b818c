//! `ringlane log export --format parquet`: what was published is in the file, column by column.

use crate::support::properties::{CONTENT_TYPE, MESSAGE_EXPIRY};
use crate::support::{Broker, Client, Options, Properties, Publish, Transport, Version};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, RowAccessor};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Output};

fn export(data_dir: &Path, out: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringlane"))
        .args(["log", "export", "--format", "parquet", "--data-dir"])
        .arg(data_dir)
        .arg("--out")
        .arg(out)
        .args(more)
        .output()
        .expect("the program runs")
}

/// One column of all rows, as text.
fn column(file: &Path, name: &str) -> Vec<String> {
    let reader = SerializedFileReader::new(File::open(file).expect("the export")).expect("Parquet");
    let rows = reader.get_row_iter(None).expect("rows");
    let value = |row: parquet::record::Row| {
        let field = row.get_column_iter().find(|(column, _)| *column == name);
        match field.expect("the column").1 {
            Field::Str(text) => text.clone(),
            Field::Bytes(bytes) => format!("{:?}", bytes.data()),
            other => other.to_string(),
        }
    };
    rows.map(|row| value(row.expect("a row"))).collect()
}

fn publish(client: &mut Client) {
    let properties = Properties::new()
        .four(MESSAGE_EXPIRY, 600)
        .string(CONTENT_TYPE, "text/plain")
        .pair("unit", "C")
        .pair("unit", "K");
    let rich = Publish::new("site/1/temp", "21.5").qos(2, 0).retain().properties(properties);
    client.publish_packet(rich);
    client.publish_packet(Publish::new("site/2/raw", [0xff, 0]).qos(1, 0));
    client.publish_packet(Publish::new("site/3/empty", "").qos(1, 0));
}

#[test]
fn messages_come_back_as_they_were_published() {
    let mut broker = Broker::start(&Options::new(Transport::Epoll).logged());
    let mut client = Client::plain(broker.tcp, Version::V5, "meter-1");
    publish(&mut client);
    client.disconnect();
    // Beside the broker a message is shown once a later batch says that it is durable.
    broker.wait_until_logs_rest();
    let beside = broker.directory().join("beside.parquet");
    let output = export(&broker.data_dir(), &beside, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    broker.terminate();
    assert_eq!(broker.wait().code(), Some(0));
    let file = broker.directory().join("all.parquet");
    assert!(export(&broker.data_dir(), &file, &[]).status.success());
    for file in [&beside, &file] {
        assert_eq!(column(file, "topic"), ["site/1/temp", "site/2/raw", "site/3/empty"]);
        assert_eq!(column(file, "payload"), ["[50, 49, 46, 53]", "[255, 0]", "[]"]);
    }
    assert_eq!(column(&file, "client_id"), ["meter-1"; 3]);
    assert_eq!(column(&file, "qos"), ["2", "1", "1"]);
    assert_eq!(column(&file, "retain"), ["true", "false", "false"]);
    assert_eq!(column(&file, "level"), ["local_disk"; 3]);
    assert_eq!(column(&file, "expiry_secs"), ["600", "null", "null"]);
    assert_eq!(column(&file, "packet_id")[1..], ["null", "null"]);
    let pairs = "[{name: \"unit\", value: \"C\"}, {name: \"unit\", value: \"K\"}]";
    assert_eq!(column(&file, "user_properties"), [pairs, "[]", "[]"]);
    assert!(column(&file, "time").iter().all(|time| time.starts_with("20")), "times of this age");
    let offsets = column(&file, "offset");
    let mut sorted = offsets.clone();
    sorted.sort_by_key(|offset| offset.parse::<u64>().expect("a number"));
    assert_eq!(offsets, sorted);
}

/// A file is bounded in memory while it is written: there is more than one row group.
#[test]
fn many_messages_are_many_row_groups() {
    const MESSAGES: usize = 80;
    let broker = Broker::start(&Options::new(Transport::Epoll).logged());
    let mut client = Client::plain(broker.tcp, Version::V5, "c");
    for number in 0..MESSAGES {
        client.publish("big", vec![number as u8; 900_000], 1);
    }
    let file = broker.directory().join("all.parquet");
    assert!(export(&broker.data_dir(), &file, &["--topic", "big"]).status.success());
    let reader =
        SerializedFileReader::new(File::open(&file).expect("the export")).expect("Parquet");
    assert_eq!(reader.num_row_groups(), 3);
    let mut rows = 0;
    for row in reader.get_row_iter(None).expect("rows") {
        let row = row.expect("a row");
        let payload = row.get_column_iter().position(|(name, _)| name == "payload");
        let payload = row.get_bytes(payload.expect("the column")).expect("bytes");
        assert_eq!(payload.data(), vec![rows as u8; 900_000]);
        rows += 1;
    }
    assert_eq!(rows, MESSAGES);
    broker.stop();
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let broker = Broker::start(&Options::new(Transport::Epoll).logged());
    publish(&mut Client::plain(broker.tcp, Version::V5, "c"));
    let file = broker.directory().join("all.parquet");
    std::fs::write(&file, "precious").expect("a file");
    let refused = export(&broker.data_dir(), &file, &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(std::fs::read(&file).expect("it is there"), b"precious");
    let other = broker.directory().join("other.parquet");
    let state = export(&broker.data_dir(), &other, &["--state"]);
    assert_eq!(state.status.code(), Some(1));
    assert!(!other.exists() && !broker.directory().join("other.parquet.partial").exists());
    // Nothing that was selected is a file without rows.
    assert!(export(&broker.data_dir(), &other, &["--topic", "none"]).status.success());
    assert_eq!(column(&other, "topic"), [""; 0]);
    broker.stop();
}
