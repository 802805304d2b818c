//! `ringlane log` on data directories that were made by hand: what it prints, how it ends.

#[path = "../../dataplane/tests/support/log_image.rs"]
mod log_image;

use log_image::{Image, LogBuilder, owner};
use ringlane_dataplane::log::record::checksum;
use ringlane_dataplane::log::recovery::{RecoverError, Recovered, recover};
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

const SEGMENT_BYTES: u64 = 16 * 1024;

/// A data directory with one log, in partition 3 of 4; removed at the end.
struct Node(PathBuf);

impl Node {
    fn new(log: &LogBuilder) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringlane-log-tool-{}-{number}", std::process::id());
        let node = Self(std::env::temp_dir().join(name));
        fs::create_dir_all(node.0.join("partitions/0003")).expect("as the test made it");
        let (id, key) = ("01".repeat(16), "00".repeat(16));
        let manifest = format!(
            "{{\"format\": 2, \"id\": \"{id}\", \"epoch\": 1, \"partitions\": 4, \"hash_key\": \"{key}\"}}"
        );
        fs::write(node.0.join("manifest.json"), manifest).expect("as the test made it");
        node.put(log);
        node
    }

    /// With the files of a log as they are in `image`.
    fn of(image: Image, log: &LogBuilder) -> Self {
        let mut changed = log.clone();
        changed.image = image;
        Self::new(&changed)
    }

    fn put(&self, log: &LogBuilder) {
        for (path, bytes) in &log.image.files {
            fs::write(
                self.file(
                    path.file_name()
                        .expect("as the test made it")
                        .to_str()
                        .expect("as the test made it"),
                ),
                bytes,
            )
            .expect("as the test made it");
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join("partitions/0003").join(name)
    }

    fn segment(&self, number: u64) -> PathBuf {
        self.file(&format!("{number:020}.log"))
    }

    fn damage(&self, number: u64, position: usize) {
        let mut bytes = fs::read(self.segment(number)).expect("as the test made it");
        bytes[position] ^= 0x40;
        fs::write(self.segment(number), bytes).expect("as the test made it");
    }

    /// Holds the lock as a broker does.
    fn in_use(&self) -> File {
        let mut lock = File::create(self.0.join("lock")).expect("as the test made it");
        flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("as the test made it");
        writeln!(lock, "{}", std::process::id()).expect("as the test made it");
        lock
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringlane"));
        command.arg("log").args(arguments).arg("--data-dir").arg(&self.0);
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        Run(self.command(arguments).output().expect("ringlane runs"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Run(Output);

impl Run {
    fn code(&self) -> i32 {
        self.0.status.code().expect("it ended by itself")
    }

    fn out(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).expect("as the test made it")
    }

    fn err(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).expect("as the test made it")
    }

    /// Its lines as JSON, after it ended well.
    fn json(&self) -> Vec<Value> {
        assert_eq!(self.code(), 0, "{}", self.err());
        self.out().lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    fn offsets(&self) -> Vec<u64> {
        self.json()
            .iter()
            .map(|line| line["offset"].as_u64().expect("as the test made it"))
            .collect()
    }
}

fn append(log: &mut LogBuilder, batches: u64) {
    for _ in 0..batches {
        if log.room() < 600 {
            log.roll();
        }
        let next = log.next;
        let payloads: Vec<_> = (0..3).map(|n| format!("value {}", next + n).into_bytes()).collect();
        log.batch(&payloads);
        log.flush();
    }
}

/// Some 300 records in four segments, all flushed.
fn some_log() -> LogBuilder {
    let mut log = LogBuilder::new(owner(1), SEGMENT_BYTES);
    append(&mut log, 100);
    log.close();
    assert!(log.number() >= 2);
    log
}

#[test]
fn segments_are_listed() {
    let log = some_log();
    let node = Node::new(&log);
    let lines = node.run(&["ls", "--json"]).json();
    assert_eq!(lines.len() as u64, log.number() + 1);
    for (number, pair) in lines.windows(2).enumerate() {
        assert_eq!((&pair[0]["partition"], &pair[0]["segment"]), (&3.into(), &number.into()));
        assert_eq!(pair[0]["next_offset"], pair[1]["base_offset"]);
        assert_eq!(pair[0]["file_bytes"], SEGMENT_BYTES);
    }
    assert_eq!(lines.last().expect("as the test made it")["next_offset"], log.next);
    let text = node.run(&["ls"]);
    assert_eq!((text.code(), text.out().lines().count()), (0, lines.len() + 2));
    assert!(text.out().contains("2023-11-14T22:13:20.000Z"), "{}", text.out());
}

#[test]
fn records_are_read_and_exported() {
    let log = some_log();
    let node = Node::new(&log);
    let lines = node.run(&["read", "--json"]).json();
    assert_eq!(lines.len(), log.records.len());
    for (line, record) in lines.iter().zip(&log.records) {
        assert_eq!(line["offset"], record.offset);
        assert_eq!((&line["partition"], &line["epoch"]), (&3.into(), &1.into()));
        assert_eq!(line["topic"], record.topic.as_str());
        assert_eq!(line["client_id"], record.client_id.as_str());
        assert_eq!(
            line["payload"],
            std::str::from_utf8(&record.payload).expect("as the test made it")
        );
    }
    let file = node.0.join("out.jsonl");
    let path = file.to_str().expect("as the test made it");
    assert_eq!(node.run(&["export", "--out", path]).code(), 0);
    assert_eq!(
        fs::read_to_string(&file).expect("as the test made it"),
        node.run(&["read", "--json"]).out()
    );
    let again = node.run(&["export", "--out", path]);
    assert_eq!(again.code(), 1);
    assert!(again.err().contains("cannot make it"), "{}", again.err());
    let text = node.run(&["read", "--from", "7", "--to", "8"]);
    assert_eq!(
        text.out(),
        "p3@7 2023-11-14T22:13:20.010Z qos2 retain client=client-1 t/3 value 7\n"
    );
}

#[test]
fn bytes_that_are_no_text_come_as_base64() {
    let mut log = LogBuilder::new(owner(1), SEGMENT_BYTES);
    log.batch(&[vec![0xFF, 0, 1]]);
    let lines = Node::new(&log).run(&["export"]).json();
    assert_eq!(lines[0]["payload_base64"], "/wAB");
    assert!(lines[0]["payload"].is_null());
}

#[test]
fn a_selection_is_what_was_asked_for() {
    let log = some_log();
    let node = Node::new(&log);
    let read = |arguments: &[&str]| node.run(&[&["read", "--json"], arguments].concat()).offsets();
    assert_eq!(read(&["--from", "100", "--to", "105"]), [100, 101, 102, 103, 104]);
    assert!(read(&["--from", "latest"]).is_empty());
    assert!(read(&["--partition", "1"]).is_empty());
    assert_eq!(read(&["--topic", "t/1", "--to", "9"]), [1, 5]);
    assert_eq!(read(&["--topic", "+/#"]).len(), log.records.len());
    // Batches are 5 ms apart and have three records each; closing ones take their time, too.
    let base = 1_700_000_000_000_u64;
    let at = format!("@{}", base + 50);
    assert_eq!(read(&["--from", &at])[0], 30);
    assert_eq!(read(&["--to", &at]).last(), Some(&29));
    assert!(read(&["--from", "-10m"]).is_empty());
}

#[test]
fn wrong_usage_ends_with_2() {
    let node = Node::new(&some_log());
    for line in ["read --from x", "read --topic a/#/b", "truncate-tail", "nothing"] {
        let arguments: Vec<_> = line.split(' ').collect();
        assert_eq!(node.run(&arguments).code(), 2, "{line}");
    }
    let unknown = node.run(&["read", "--partition", "4"]);
    assert_eq!(unknown.code(), 1);
    assert_eq!(unknown.err(), "Error: there is no partition 4; there are 0 to 3\n");
}

#[test]
fn a_directory_that_is_none_is_named() {
    let node = Node::new(&some_log());
    fs::remove_file(node.0.join("manifest.json")).expect("as the test made it");
    let run = node.run(&["ls"]);
    assert_eq!(run.code(), 1);
    assert!(run.err().contains("manifest.json: cannot read the manifest"), "{}", run.err());
}

#[test]
fn damage_is_found_and_given_up_by_hand() {
    let log = some_log();
    let node = Node::new(&log);
    let whole = node.run(&["verify"]);
    assert_eq!(whole.code(), 0, "{}", whole.out());
    let ok = format!("partition 3: ok, {} records in {} batches", log.next, log.batches.len());
    assert!(whole.out().contains(&ok), "{}", whole.out());
    let batch = log.batches.iter().find(|batch| batch.segment == 1).expect("one");
    node.damage(1, batch.position as usize + 80);
    let base = batch.header.base_offset.0;

    let found = node.run(&["verify"]);
    assert_eq!(found.code(), 1);
    let place = format!("{}: damaged at position {}", node.segment(1).display(), batch.position);
    assert!(found.out().contains(&place), "{}", found.out());
    let read = node.run(&["read", "--json"]);
    assert_eq!((read.code(), read.out().lines().count() as u64), (1, base));
    assert!(read.err().contains(&place), "{}", read.err());

    let tail = ["truncate-tail", "--partition", "3"];
    let dry = node.run(&tail);
    assert_eq!(dry.code(), 0, "{}", dry.err());
    assert!(dry.out().contains(&format!("given up from offset {base}")), "{}", dry.out());
    assert_eq!(node.run(&["verify"]).code(), 1, "nothing was changed");
    assert_eq!(node.run(&[&tail[..], &["--yes"]].concat()).code(), 0);
    assert_eq!(node.run(&["verify"]).code(), 0);
    assert_eq!(node.run(&["read", "--json"]).offsets(), (0..base).collect::<Vec<_>>());
    assert!(!node.segment(2).exists());
    let none = node.run(&tail);
    assert!(none.out().contains("nothing to give up"), "{}", none.out());
}

/// What a start says of the log as it lies there.
fn start(node: &Node) -> Result<Recovered, RecoverError> {
    let mut image = Image::default();
    for entry in fs::read_dir(node.file("")).expect("as the test made it") {
        let path = entry.expect("as the test made it").path();
        if path.is_file() {
            let bytes = fs::read(&path).expect("as the test made it");
            image.files.insert(path, bytes);
        }
    }
    let directory = node.file("");
    recover(&mut image, directory.as_path(), &owner(1), None, &mut |_| ())
}

/// `verify` says what a start says, and what `truncate-tail` leaves a start opens.
fn check_verdict(log: &LogBuilder, image: Image, case: &str) {
    let node = Node::of(image, log);
    let verify = node.run(&["verify", "--partition", "3"]);
    match start(&node) {
        Ok(Recovered { torn: None, .. }) => {
            assert_eq!(verify.code(), 0, "{case}: {}", verify.out());
            assert!(!verify.out().contains("torn"), "{case}: {}", verify.out());
        }
        Ok(Recovered { torn: Some(torn), .. }) => {
            let said = format!("torn tail of {} bytes at position {}", torn.bytes, torn.position);
            assert_eq!(verify.code(), 0, "{case}: {}", verify.out());
            assert!(verify.out().contains(&said), "{case}: {said}, not {}", verify.out());
        }
        Err(error) => {
            assert_eq!(verify.code(), 1, "{case}: {error}, not {}", verify.out());
            assert!(verify.out().contains(&error.to_string()), "{case}: {}", verify.out());
            let cut = node.run(&["truncate-tail", "--partition", "3", "--yes"]);
            if cut.code() == 1 && matches!(error, RecoverError::Missing { .. }) {
                return assert!(cut.err().contains(&error.to_string()), "{case}: {}", cut.err());
            }
            assert_eq!(cut.code(), 0, "{case}: {}", cut.err());
            start(&node).unwrap_or_else(|error| panic!("{case}: after the cut: {error}"));
        }
    }
}

/// Two and a half segments; of the last one the end was not flushed.
fn small_log() -> LogBuilder {
    let mut log = LogBuilder::new(owner(1), 6144);
    append(&mut log, 14);
    log.close();
    log.batch(&[b"not flushed".to_vec()]);
    log.batch(&[b"nor this".to_vec()]);
    assert_eq!(log.number(), 2);
    log.prepare_segment(3);
    log
}

#[test]
fn a_start_and_the_tools_say_the_same() {
    let log = small_log();
    let path = |number: u64| log_image::segment_path(number);
    let step = if std::env::var_os("RINGLANE_EXHAUSTIVE").is_some() { 1 } else { 61 };
    for number in 0..4 {
        for position in (0..6144_usize).step_by(step) {
            if position > 256 && position < 4096 {
                continue;
            }
            let mut flipped = log.image.clone();
            flipped.segment(number)[position] ^= 1 << (position % 8);
            check_verdict(&log, flipped, &format!("bit flipped in segment {number} at {position}"));
            let mut zeroed = log.image.clone();
            zeroed.segment(number)[position..].fill(0);
            check_verdict(&log, zeroed, &format!("zeros in segment {number} from {position}"));
        }
        let mut gone = log.image.clone();
        gone.files.remove(&path(number));
        check_verdict(&log, gone, &format!("without segment {number}"));
        let mut short = log.image.clone();
        short.segment(number).truncate(5000);
        check_verdict(&log, short, &format!("segment {number} cut short"));
    }
    check_verdict(&log, log.image.clone(), "unharmed");
}

#[test]
fn what_is_left_over_from_trimming_is_no_damage() {
    let mut log = small_log();
    log.flush();
    let base = log.batches.iter().find(|batch| batch.segment == 2).expect("a third segment");
    log.log_start = base.header.base_offset.0;
    log.close();
    // Trimmed from the front, in any order, as a crash leaves it.
    for gone in [&[1][..], &[0, 1]] {
        let mut image = log.image.clone();
        for number in gone {
            image.files.remove(&log_image::segment_path(*number));
        }
        let node = Node::of(image.clone(), &log);
        let verify = node.run(&["verify", "--partition", "3"]);
        assert_eq!(verify.code(), 0, "{gone:?}: {}", verify.out());
        assert_eq!(node.run(&["read"]).code(), 0, "{gone:?}");
        check_verdict(&log, image, &format!("without {gone:?}"));
    }
}

#[test]
fn a_cut_keeps_in_mind_what_was_trimmed() {
    let mut log = small_log();
    log.flush();
    let in_segment = |number| log.batches.iter().find(move |batch| batch.segment == number);
    log.log_start = in_segment(1).expect("a second segment").header.base_offset.0;
    // The only batch that says so is behind the cut.
    let cut = log.next;
    append(&mut log, 1);
    log.close();
    log.image.files.remove(&log_image::segment_path(0));
    let node = Node::new(&log);
    let arguments = ["truncate-tail", "--partition", "3", "--yes", "--at", &cut.to_string()];
    assert_eq!(node.run(&arguments).code(), 0);
    assert_eq!(node.run(&["verify", "--partition", "3"]).code(), 0);
    let opened = start(&node).expect("opens");
    assert_eq!((opened.log_start.0, opened.next_offset.0), (log.log_start, cut));
}

#[test]
fn a_log_that_ends_before_its_checkpoint_is_damaged() {
    let log = small_log();
    let node = Node::new(&log);
    let last = log.batches.iter().find(|batch| batch.segment == 2).expect("a third segment");
    let mut bytes = fs::read(node.segment(2)).expect("as the test made it");
    bytes[last.position as usize..].fill(0);
    fs::write(node.segment(2), bytes).expect("as the test made it");
    assert_eq!(node.run(&["verify", "--partition", "3"]).code(), 0, "the log alone does not know");
    let first = last.header.base_offset.0;
    fs::write(node.file(&format!("{first:020}.checkpoint")), checkpoint(first, 2, first + 1))
        .expect("as the test made it");
    let verify = node.run(&["verify", "--partition", "3"]);
    assert_eq!(verify.code(), 1, "{}", verify.out());
    let durable = format!("the records below offset {} were durable", first + 1);
    assert!(verify.out().contains(&durable), "{}", verify.out());
    assert_eq!(node.run(&["truncate-tail", "--partition", "3", "--yes"]).code(), 0);
    assert_eq!(node.run(&["verify", "--partition", "3"]).code(), 0);
}

/// A checkpoint without any state, of partition 3 of directory 1 (docs/formats/state.md).
fn checkpoint(offset: u64, segment: u64, flushed: u64) -> Vec<u8> {
    let mut bytes = vec![0; 128];
    bytes[..8].copy_from_slice(b"RLNGCKP\x01");
    bytes[8..10].copy_from_slice(&1_u16.to_le_bytes());
    bytes[12..16].copy_from_slice(&3_u32.to_le_bytes());
    bytes[16..32].fill(1);
    for (at, value) in [(32, offset), (40, segment), (48, 4096), (56, flushed)] {
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    let crc = checksum(&bytes[..124]);
    bytes[124..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn a_log_is_cut_at_a_batch_on_request() {
    let log = some_log();
    let node = Node::new(&log);
    fs::write(node.file("00000000000000000009.checkpoint"), "old").expect("as the test made it");
    fs::write(node.file("00000000000000000200.checkpoint"), "new").expect("as the test made it");
    let cut = ["truncate-tail", "--partition", "3", "--yes", "--at"];
    assert_eq!(node.run(&[&cut[..], &["100"]].concat()).code(), 0);
    // Offset 100 lies in the batch that begins with 99.
    assert_eq!(node.run(&["read", "--json"]).offsets(), (0..99).collect::<Vec<_>>());
    assert_eq!(node.run(&["verify"]).code(), 0);
    assert!(node.file("00000000000000000009.checkpoint").exists());
    assert!(!node.file("00000000000000000200.checkpoint").exists());
    let beyond = node.run(&[&cut[..], &["200"]].concat());
    assert_eq!(beyond.code(), 1);
    assert!(beyond.err().contains("cannot be read beyond offset 99"), "{}", beyond.err());
}

#[test]
fn a_segment_without_a_good_header_is_given_up() {
    let log = some_log();
    let node = Node::new(&log);
    node.damage(1, 20);
    let first = log.batches.iter().find(|batch| batch.segment == 1).expect("one");
    assert_eq!(node.run(&["verify"]).code(), 1);
    assert_eq!(node.run(&["truncate-tail", "--partition", "3", "--yes"]).code(), 0);
    assert!(node.segment(0).exists() && !node.segment(1).exists());
    let kept = first.header.base_offset.0;
    assert_eq!(node.run(&["read", "--json"]).offsets(), (0..kept).collect::<Vec<_>>());
    assert_eq!(node.run(&["verify"]).code(), 0);
}

#[test]
fn a_torn_tail_is_no_damage() {
    let mut log = some_log();
    log.batch(&[b"not synced".to_vec()]);
    let torn = *log.batches.last().expect("as the test made it");
    let node = Node::new(&log);
    node.damage(torn.segment, torn.position as usize + 70);
    let run = node.run(&["verify"]);
    assert_eq!(run.code(), 0, "{}", run.out());
    assert!(run.out().contains("the next start cuts it"), "{}", run.out());
    assert_eq!(node.run(&["read", "--json"]).offsets().len() as u64, log.next - 1);
}

#[test]
fn a_running_broker_is_only_looked_at() {
    let mut log = some_log();
    let durable = log.next;
    log.batch(&[b"not durable yet".to_vec()]);
    let node = Node::new(&log);
    let lock = node.in_use();
    assert_eq!(node.run(&["read", "--json"]).offsets().len() as u64, durable);
    let refused = node.run(&["truncate-tail", "--partition", "3", "--at", "5", "--yes"]);
    assert_eq!(refused.code(), 1);
    assert!(refused.err().contains("is in use by pid"), "{}", refused.err());
    drop(lock);
    assert_eq!(node.run(&["read", "--json"]).offsets().len() as u64, durable + 1);
}

/// A child that is killed at the end.
struct Following(Child);

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_is_appended_is_followed_over_segments() {
    let mut log = some_log();
    let node = Node::new(&log);
    let _lock = node.in_use();
    let from = log.next - 2;
    let mut command = node.command(&["read", "--json", "--follow", "--from", &from.to_string()]);
    let child = command.stdout(Stdio::piped()).spawn().expect("ringlane runs");
    let mut child = Following(child);
    let mut lines = BufReader::new(child.0.stdout.take().expect("as the test made it")).lines();
    let mut next = || {
        let line = lines.next().expect("a line").expect("as the test made it");
        serde_json::from_str::<Value>(&line).expect("as the test made it")["offset"]
            .as_u64()
            .expect("as the test made it")
    };
    assert_eq!([next(), next()], [from, from + 1]);
    let (began, segment) = (log.next, log.number());
    append(&mut log, 80);
    log.close();
    assert!(log.number() > segment, "over the end of a segment");
    node.put_in_order(&log);
    for offset in began..log.next {
        assert_eq!(next(), offset);
    }
}

impl Node {
    /// As a broker does: later segments exist before earlier ones say that they are full.
    fn put_in_order(&self, log: &LogBuilder) {
        let mut files: Vec<(&PathBuf, &Vec<u8>)> = log.image.files.iter().collect();
        files.reverse();
        for (path, bytes) in files {
            let target = self.file(
                path.file_name()
                    .expect("as the test made it")
                    .to_str()
                    .expect("as the test made it"),
            );
            if target.exists() {
                // In place: the tool may have it open, and a segment always has its whole length.
                File::options()
                    .write(true)
                    .open(target)
                    .expect("as the test made it")
                    .write_all(bytes)
                    .expect("as the test made it");
            } else {
                let temporary = target.with_extension("tmp");
                fs::write(&temporary, bytes).expect("as the test made it");
                fs::rename(temporary, target).expect("as the test made it");
            }
        }
    }
}
