//! Files on a real file system, by every way of doing them that there is.
#![allow(clippy::unwrap_used, reason = "the tests are run by functions that a macro makes")]

#[path = "support/files.rs"]
mod files;
mod support;

use files::{Directory, FileRig, Kind, header, headers};
use ringlane_dataplane::disk::{
    BatchWrite, DiskCommand, DiskDone, DiskError, DiskErrorKind, FileDriver, FileId, FileJob,
    StartFiles,
};
use ringlane_dataplane::ids::CoreId;
use ringlane_transport_uring::{FileConfig, StdFiles, TransportConfig, Wakers, open};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

on_all_files!(
    a_segment_is_made_whole_and_its_blocks_are_written,
    a_segment_is_never_replaced,
    what_was_written_is_read_again,
    a_write_of_many_pieces_is_one_write,
    files_do_not_wait_for_each_other,
    a_file_that_is_published_replaces_the_old_one,
    a_file_that_is_not_published_goes_with_its_close,
    small_files_are_replaced_as_a_whole,
    files_are_removed_and_missing_ones_are_no_error,
    what_goes_past_the_cache_is_read_like_everything_else,
    a_failed_create_leaves_nothing,
    what_names_no_file_is_refused,
    an_id_is_used_again,
    a_core_that_goes_waits_for_what_is_under_way,
    jobs_keep_their_order,
    few_events_per_turn_lose_nothing,
    a_cpu_that_is_not_there_is_refused,
);

fn done(result: Result<DiskDone, DiskError>) {
    assert_eq!(result, Ok(DiskDone::Done));
}

fn bytes_of(batches: &[BatchWrite]) -> Vec<u8> {
    batches.iter().flat_map(|batch| batch.header).collect()
}

fn a_segment_is_made_whole_and_its_blocks_are_written(kind: Kind) {
    let directory = Directory::new();
    let path = directory.path("1.log");
    let mut rig = FileRig::new(kind);
    rig.create(&path, 3 << 20).unwrap();
    let content = fs::read(&path).unwrap();
    assert_eq!(content.len(), 3 << 20);
    assert!(content[..4096].iter().all(|byte| *byte == 9));
    assert!(content[4096..].iter().all(|byte| *byte == 0));
    let metadata = fs::metadata(&path).unwrap();
    assert!(metadata.blocks() * 512 >= 3 << 20, "no hole");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_eq!(directory.names(), ["1.log"]);
}

fn a_segment_is_never_replaced(kind: Kind) {
    let directory = Directory::new();
    let path = directory.path("1.log");
    fs::write(&path, b"precious").unwrap();
    let mut rig = FileRig::new(kind);
    let error = rig.create(&path, 8192).unwrap_err();
    assert_eq!(error, DiskError::from_errno(17), "EEXIST");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    assert_eq!(directory.names(), ["1.log"]);
}

fn what_was_written_is_read_again(kind: Kind) {
    let directory = Directory::new();
    let path = directory.path("1.log");
    let mut rig = FileRig::new(kind);
    let file = rig.create(&path, 8192).unwrap();
    done(rig.write(file, 4096, headers(3)));
    let expected = bytes_of(&headers(3));
    assert_eq!(rig.read(file, 4096, 192), Ok(DiskDone::Read(expected.clone())));
    assert_eq!(fs::read(&path).unwrap()[4096..4288], expected);
    assert_eq!(rig.read(file, 8100, 1000), Ok(DiskDone::Read(vec![0; 92])), "the file ends");
    assert_eq!(rig.read(file, 9000, 10), Ok(DiskDone::Read(Vec::new())));
    assert_eq!(StdFiles.len(&path).unwrap(), 8192, "nothing was written behind the end");
}

/// More pieces than one call takes (IOV_MAX is 1,024).
fn a_write_of_many_pieces_is_one_write(kind: Kind) {
    let directory = Directory::new();
    let mut rig = FileRig::new(kind);
    let file = rig.create(&directory.path("1.log"), 1 << 20).unwrap();
    done(rig.write(file, 4096, headers(5000)));
    let expected = bytes_of(&headers(5000));
    assert_eq!(rig.read(file, 4096, 5000 * 64), Ok(DiskDone::Read(expected)));
}

fn files_do_not_wait_for_each_other(kind: Kind) {
    let directory = Directory::new();
    let mut rig = FileRig::new(kind);
    let made: Vec<FileId> = (0..16)
        .map(|number| rig.create(&directory.path(&format!("{number}.log")), 16384).unwrap())
        .collect();
    for round in 0..20 {
        let writes: Vec<_> = made
            .iter()
            .map(|file| rig.push_write(*file, 4096 + 64 * round, vec![header(round as u8)]))
            .collect();
        writes.into_iter().for_each(|token| done(rig.wait(token)));
    }
    let expected: Vec<u8> = (0..20).flat_map(|round| [round; 64]).collect();
    for file in made {
        assert_eq!(rig.read(file, 4096, 20 * 64), Ok(DiskDone::Read(expected.clone())));
    }
    assert_eq!(rig.driver.in_flight(), 0);
}

fn begin(rig: &mut FileRig, path: &Path, content: &[u8]) -> FileId {
    let file = rig.disk.open_id();
    done(rig.job(FileJob::Begin { file, path: path.to_owned() }));
    for piece in content.chunks(1000) {
        done(rig.job(FileJob::Append { file, bytes: piece.to_vec() }));
    }
    file
}

fn a_file_that_is_published_replaces_the_old_one(kind: Kind) {
    let directory = Directory::new();
    let path = directory.path("7.checkpoint");
    let mut rig = FileRig::new(kind);
    for content in [vec![1; 2500], vec![2; 10]] {
        let file = begin(&mut rig, &path, &content);
        assert!(directory.names().contains(&"7.checkpoint.tmp".to_owned()));
        done(rig.job(FileJob::Publish { file }));
        done(rig.job(FileJob::Close { file }));
        assert_eq!(fs::read(&path).unwrap(), content);
        assert_eq!(directory.names(), ["7.checkpoint"]);
    }
}

fn a_file_that_is_not_published_goes_with_its_close(kind: Kind) {
    let directory = Directory::new();
    let path = directory.path("7.checkpoint");
    fs::write(directory.path("7.checkpoint.tmp"), vec![7; 5000]).unwrap();
    let mut rig = FileRig::new(kind);
    let file = begin(&mut rig, &path, b"new");
    assert_eq!(fs::read(directory.path("7.checkpoint.tmp")).unwrap(), b"new", "no left-over");
    done(rig.job(FileJob::Close { file }));
    assert_eq!(directory.names(), [""; 0]);
}

fn small_files_are_replaced_as_a_whole(kind: Kind) {
    let directory = Directory::new();
    let path = directory.path("manifest.json");
    let mut rig = FileRig::new(kind);
    for content in [b"one".to_vec(), b"two and more".to_vec()] {
        done(rig.job(FileJob::Replace { path: path.clone(), content: content.clone() }));
        assert_eq!(fs::read(&path).unwrap(), content);
    }
    assert_eq!(directory.names(), ["manifest.json"]);
    let path = directory.path("none/manifest.json");
    let error = rig.job(FileJob::Replace { path, content: Vec::new() }).unwrap_err();
    assert_eq!(error, DiskError { kind: DiskErrorKind::Io, errno: 2, in_sync: false });
}

fn files_are_removed_and_missing_ones_are_no_error(kind: Kind) {
    let directory = Directory::new();
    let mut rig = FileRig::new(kind);
    for name in ["a", "b", "c"] {
        fs::write(directory.path(name), name).unwrap();
    }
    let paths = ["a", "none", "c"].map(|name| directory.path(name)).to_vec();
    done(rig.job(FileJob::Remove { paths }));
    assert_eq!(directory.names(), ["b"]);
}

/// Writes go past the cache and through it in turn, from wherever the last one ended, into several files of a thread; what is
/// read meanwhile is in the cache when the next one comes.
fn what_goes_past_the_cache_is_read_like_everything_else(kind: Kind) {
    let directory = Directory::new();
    let mut rig = FileRig::new(kind);
    let mut made: Vec<(FileId, FileId, Vec<u8>)> = (0..9)
        .map(|number| {
            let path = directory.path(&format!("{number}.log"));
            let file = rig.create(&path, 2 << 20).unwrap();
            let reader = rig.disk.open_id();
            done(rig.job(FileJob::Open { file: reader, path }));
            (file, reader, Vec::new())
        })
        .collect();
    for round in 0..40_usize {
        for (index, (file, reader, expected)) in made.iter_mut().enumerate() {
            let counts = [1, 63, 64, 7, 500, 128, 5000];
            let count = if index > 0 && round > 10 { 3 } else { counts[(round + index) % 7] };
            let batches = headers(count);
            let position = 4096 + expected.len() as u64;
            expected.extend(bytes_of(&batches));
            match (round + index) % 5 {
                0 => done(rig.write(*file, position, batches)),
                _ => done(rig.write_beside(*file, position, batches)),
            }
            let read = rig.read(*reader, 4096, expected.len() as u32 + 100).unwrap();
            let DiskDone::Read(read) = read else { panic!("no bytes") };
            assert!(read[..expected.len()] == expected[..], "file {index}, round {round}");
            assert_eq!(read[expected.len()..], [0; 100], "nothing is behind them");
        }
    }
    drop(rig);
    for (index, (_, _, expected)) in made.iter().enumerate() {
        let content = fs::read(directory.path(&format!("{index}.log"))).unwrap();
        assert!(content[4096..][..expected.len()] == expected[..]);
        assert_eq!(content.len(), 2 << 20);
    }
}

fn a_failed_create_leaves_nothing(kind: Kind) {
    let directory = Directory::new();
    let mut rig = FileRig::new(kind);
    // More than ext4, xfs or tmpfs can give one file here.
    let error = rig.create(&directory.path("1.log"), 1 << 60).unwrap_err();
    assert_ne!(error.errno, 0);
    assert_eq!(directory.names(), [""; 0]);
}

fn what_names_no_file_is_refused(kind: Kind) {
    let directory = Directory::new();
    let mut rig = FileRig::new(kind);
    let file = rig.disk.open_id();
    let bad = DiskError::from_errno(9);
    let began = Instant::now();
    assert_eq!(rig.write(file, 0, headers(1)), Err(bad));
    assert!(began.elapsed() < Duration::from_secs(9), "it slept with an answer at hand");
    assert_eq!(rig.read(file, 0, 1), Err(bad));
    assert_eq!(rig.job(FileJob::Append { file, bytes: vec![1] }), Err(bad));
    assert_eq!(rig.job(FileJob::Publish { file }), Err(bad));
    let open = FileJob::Open { file, path: directory.path("none") };
    assert_eq!(rig.job(open), Err(DiskError::from_errno(2)));
    done(rig.job(FileJob::Close { file }));
}

fn an_id_is_used_again(kind: Kind) {
    let directory = Directory::new();
    let (one, two) = (directory.path("1.log"), directory.path("2.log"));
    let mut rig = FileRig::new(kind);
    let file = rig.create(&one, 8192).unwrap();
    done(rig.write(file, 4096, vec![header(1)]));
    // All at once: jobs are carried out in order.
    let close = rig.push_job(FileJob::Close { file });
    let again = rig.disk.open_id();
    assert_eq!(again, file);
    let create =
        FileJob::Create { file: again, path: two.clone(), header: Vec::new(), bytes: 8192 };
    let create = rig.push_job(create);
    done(rig.wait(close));
    done(rig.wait(create));
    done(rig.write(again, 4096, vec![header(2)]));
    assert_eq!((fs::read(one).unwrap()[4096], fs::read(two).unwrap()[4096]), (1, 2));
}

fn a_core_that_goes_waits_for_what_is_under_way(kind: Kind) {
    let directory = Directory::new();
    for _ in 0..20 {
        let mut rig = FileRig::new(kind);
        let path = directory.path("1.log");
        let file = rig.create(&path, 1 << 20).unwrap();
        for position in 0..8 {
            rig.push_write(file, 4096 + 64_000 * position, headers(1000));
            rig.push(|token| DiskCommand::Read { token, file, position: 0, bytes: 1 << 19 });
        }
        let path_of_next = directory.path("2.log");
        let next = rig.disk.open_id();
        let header = vec![1; 4096];
        rig.push_job(FileJob::Create { file: next, path: path_of_next, header, bytes: 64 << 20 });
        rig.driver.submit(&mut rig.disk);
        drop(rig);
        fs::remove_file(path).unwrap();
        for name in directory.names() {
            assert_eq!(
                (name.as_str(), fs::metadata(directory.path(&name)).unwrap().len()),
                ("2.log", 64 << 20)
            );
            fs::remove_file(directory.path(&name)).unwrap();
        }
    }
}

fn jobs_keep_their_order(kind: Kind) {
    let directory = Directory::new();
    let path = directory.path("x");
    let mut rig = FileRig::with(kind, FileConfig { threads: 16, ..FileConfig::default() });
    for number in 0..50 {
        rig.push_job(FileJob::Replace { path: path.clone(), content: vec![number] });
    }
    let last = rig.push_job(FileJob::Replace { path: path.clone(), content: vec![99] });
    done(rig.wait(last));
    assert_eq!(fs::read(&path).unwrap(), [99]);
    assert_eq!(rig.driver.in_flight(), 0);
}

/// What a turn leaves behind keeps the core from sleeping: no wake-up will tell of it.
fn few_events_per_turn_lose_nothing(kind: Kind) {
    let directory = Directory::new();
    let mut rig = FileRig::new(kind);
    let file = rig.create(&directory.path("1.log"), 1 << 20).unwrap();
    rig.events_max = 1;
    let began = Instant::now();
    let tokens: Vec<_> = (0..200)
        .map(|position| rig.push(|token| DiskCommand::Read { token, file, position, bytes: 8 }))
        .collect();
    let job = rig.push_job(FileJob::Remove { paths: Vec::new() });
    for token in tokens {
        assert!(matches!(rig.wait(token), Ok(DiskDone::Read(bytes)) if bytes.len() == 8));
    }
    done(rig.wait(job));
    assert!(began.elapsed() < Duration::from_secs(9), "it slept with an answer at hand");
}

fn a_cpu_that_is_not_there_is_refused(kind: Kind) {
    for cpu in [1000, 1_000_000] {
        let files = FileConfig { backend: kind.backend, cpus: vec![cpu], ..FileConfig::default() };
        let config = TransportConfig { files: Some(files), ..TransportConfig::default() };
        let wakers = Wakers::new(1).unwrap();
        let opened = open(kind.transport, CoreId(0), &config, Vec::new(), wakers);
        let error = opened.map(drop).unwrap_err().to_string();
        assert!(error.contains("Invalid argument"), "{error}");
    }
}
