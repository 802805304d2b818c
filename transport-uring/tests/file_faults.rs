//! Files on a disk that is full, that fails, and whose power goes.

#[path = "support/faulty_disk.rs"]
mod faulty_disk;
#[path = "support/files.rs"]
mod files;
mod support;

use faulty_disk::FaultyDisk;
use files::{FileRig, Kind, headers};
use ringlane_dataplane::disk::{
    DiskDone, DiskError, DiskErrorKind, FileDriver, FileId, FileJob, StartFiles, TEMPORARY_SUFFIX,
};
use ringlane_transport_uring::{FileBackend, StdFiles, TransportKind};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SEGMENT: u64 = 4 << 20;

on_all_files!(
    a_full_disk_makes_no_segment_and_heals,
    a_failed_write_back_is_final_for_its_file_alone,
    a_write_past_the_cache_that_fails_is_final_for_its_file,
    what_was_reported_survives_a_power_loss,
);

fn segments(directory: &Path) -> Vec<String> {
    let mut names = StdFiles.list(directory).expect("it is mounted");
    names.retain(|name| name != "lost+found");
    names.sort();
    names
}

fn a_full_disk_makes_no_segment_and_heals(kind: Kind) {
    let Some(disk) = FaultyDisk::make("small", 40) else { return };
    let mut rig = FileRig::new(kind);
    let mut made: Vec<(FileId, PathBuf)> = Vec::new();
    let error = loop {
        let path = disk.path().join(format!("{}.log", made.len()));
        match rig.create(&path, SEGMENT) {
            Ok(file) => made.push((file, path)),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind, DiskErrorKind::Full, "{error}");
    assert!((4..10).contains(&made.len()), "{} segments", made.len());
    assert_eq!(segments(&disk.path()).len(), made.len(), "nothing is left of the last");
    for (file, _) in &made {
        assert_eq!(rig.write(*file, 4096, headers(100)), Ok(DiskDone::Done), "room was set aside");
    }
    let (oldest, path) = made.remove(0);
    assert_eq!(rig.job(FileJob::Close { file: oldest }), Ok(DiskDone::Done));
    assert_eq!(rig.job(FileJob::Remove { paths: vec![path] }), Ok(DiskDone::Done));
    rig.create(&disk.path().join("next.log"), SEGMENT).expect("there is room again");
}

/// A file of 16 MiB for which the device below the file system has no room any more, of the 48 MiB that it takes.
fn open_without_room(rig: &mut FileRig, disk: &FaultyDisk) -> FileId {
    let path = disk.path().join("lost.log");
    let others = fs::File::create(disk.path().join("others")).expect("there is room");
    (&others).write_all(&vec![7; 34 << 20]).and_then(|()| others.sync_all()).expect("it fits");
    fs::File::create(&path).and_then(|file| file.set_len(16 << 20)).expect("a sparse file");
    let file = rig.disk.open_id();
    assert_eq!(rig.job(FileJob::Open { file, path }), Ok(DiskDone::Done));
    file
}

/// The device below the file system takes 48 MiB of its 256: what is written back beyond that is
/// lost, the first sync says so, and a second one of the kernel's would not.
fn a_failed_write_back_is_final_for_its_file_alone(kind: Kind) {
    let Some(disk) = FaultyDisk::make("thin", 48) else { return };
    let mut rig = FileRig::new(kind);
    let sound = rig.create(&disk.path().join("sound.log"), SEGMENT).expect("there is room");
    let lost = open_without_room(&mut rig, &disk);
    let error = rig.write(lost, 0, headers(16 << 14)).expect_err("no room below the file system");
    let first = DiskError { in_sync: false, ..error };
    assert_eq!(rig.write(lost, 0, headers(1)), Err(first), "the first error is final");
    assert!(matches!(rig.read(lost, 0, 64), Ok(DiskDone::Read(_))), "reading goes on");
    assert_eq!(rig.write(sound, 4096, headers(10)), Ok(DiskDone::Done), "the other file goes on");
    assert_eq!(rig.driver.in_flight(), 0);
}

/// The same without a cache in between.
fn a_write_past_the_cache_that_fails_is_final_for_its_file(kind: Kind) {
    let Some(disk) = FaultyDisk::make("thin", 48) else { return };
    let mut rig = FileRig::new(kind);
    let lost = open_without_room(&mut rig, &disk);
    let written = rig.write_beside(lost, 0, headers((16 << 14) - 1));
    let first = DiskError { in_sync: false, ..written.expect_err("no room below the file system") };
    assert_eq!(rig.write_beside(lost, 0, headers(1)), Err(first), "the first error is final");
    assert_eq!(rig.write(lost, 0, headers(1)), Err(first), "through the cache as well");
    assert_eq!(rig.driver.in_flight(), 0);
}

/// What a run of jobs and rounds was told, before the power went.
#[derive(Default)]
struct Told {
    segments: Vec<(FileId, PathBuf)>,
    /// Headers that are durable in each segment.
    flushed: Vec<usize>,
    /// The number in the newest published checkpoint.
    published: u8,
}

fn what_was_reported_survives_a_power_loss(kind: Kind) {
    let Some(disk) = FaultyDisk::make("make", 96) else { return };
    let checkpoint = disk.path().join("checkpoint");
    for cycle in 0..12 {
        let mut rig = FileRig::new(kind);
        let mut told = Told::default();
        let busy = work(&mut rig, &disk.path(), cycle, &mut told);
        // Somewhere in the middle of a job or a round, wherever that is.
        std::thread::sleep(Duration::from_micros(u64::from(cycle) * 700));
        disk.cut();
        drop(rig);
        disk.remount();
        assert!(busy > 0);
        check(&disk.path(), &told);
        let published = fs::read(&checkpoint).expect("one was published");
        let newest = published.first().copied().unwrap_or(0);
        assert!((told.published..=told.published + 1).contains(&newest), "old or new");
        assert_eq!(published, vec![newest; 100_000], "and whole");
        let left: Vec<PathBuf> =
            segments(&disk.path()).iter().map(|name| disk.path().join(name)).collect();
        StdFiles.remove(&left).expect("the power is back");
    }
}

/// Makes segments, writes and publishes; then leaves some of each under way. How many.
fn work(rig: &mut FileRig, directory: &Path, cycle: u32, told: &mut Told) -> usize {
    for number in 0..2 {
        let path = directory.join(format!("{cycle}-{number}.log"));
        let file = rig.create(&path, 1 << 20).expect("there is room");
        if number == 0 {
            assert_eq!(rig.write(file, 4096, headers(50)), Ok(DiskDone::Done));
        } else {
            let (first, rest) = (headers(50)[..20].to_vec(), headers(50)[20..].to_vec());
            assert_eq!(rig.write_beside(file, 4096, first), Ok(DiskDone::Done));
            assert_eq!(rig.write_beside(file, 4096 + 20 * 64, rest), Ok(DiskDone::Done));
        }
        told.segments.push((file, path));
        told.flushed.push(50);
    }
    let publish = |rig: &mut FileRig, byte: u8| {
        let file = rig.disk.open_id();
        let path = directory.join("checkpoint");
        let jobs = [
            FileJob::Begin { file, path },
            FileJob::Append { file, bytes: vec![byte; 60_000] },
            FileJob::Append { file, bytes: vec![byte; 40_000] },
            FileJob::Publish { file },
            FileJob::Close { file },
        ];
        jobs.map(|job| rig.push_job(job))
    };
    for token in publish(rig, 1) {
        assert_eq!(rig.wait(token), Ok(DiskDone::Done));
    }
    told.published = 1;
    let files = [told.segments[0].0, told.segments[1].0];
    rig.push_write(files[0], 4096 + 50 * 64, headers(50));
    rig.push_write_beside(files[1], 4096 + 50 * 64, headers(50));
    publish(rig, 2);
    let file = rig.disk.open_id();
    let path = directory.join(format!("{cycle}-new.log"));
    rig.push_job(FileJob::Create { file, path, header: vec![9; 4096], bytes: 8 << 20 });
    rig.driver.submit(&mut rig.disk);
    rig.driver.in_flight()
}

/// Every file with a name of its own is whole; what was told durable is there.
fn check(directory: &Path, told: &Told) {
    for ((_, path), flushed) in told.segments.iter().zip(&told.flushed) {
        let content = fs::read(path).expect("it was made");
        assert_eq!(content.len(), 1 << 20);
        let expected = headers(*flushed);
        let expected = expected.iter().flat_map(|batch| batch.header);
        assert!(content[4096..].iter().copied().zip(expected).all(|(is, was)| is == was));
    }
    for name in segments(directory) {
        if name.ends_with("new.log") {
            let content = fs::read(directory.join(&name)).expect("it is listed");
            assert_eq!(content.len(), 8 << 20, "a segment with its name is whole");
            assert!(content[..4096].iter().all(|byte| *byte == 9));
            assert!(content[4096..].iter().all(|byte| *byte == 0));
        } else {
            let known = name == "checkpoint" || name.ends_with(".log");
            assert!(known || name.ends_with(TEMPORARY_SUFFIX), "{name} is unexpected");
        }
    }
}

/// The power goes right behind one piece of work, with nothing after it that would flush for it.
#[test]
fn what_a_job_or_a_call_of_start_up_did_is_durable_when_it_is_done() {
    let Some(disk) = FaultyDisk::make("make", 96) else { return };
    let at = |name: &str| disk.path().join(name);
    let cut_after = |act: &dyn Fn(&mut FileRig)| {
        let kind = Kind { transport: TransportKind::Epoll, backend: FileBackend::Threads };
        let mut rig = FileRig::new(kind);
        act(&mut rig);
        disk.cut();
        drop(rig);
        disk.remount();
    };
    let done = |result| assert_eq!(result, Ok(DiskDone::Done));
    cut_after(&|rig| {
        rig.create(&at("1.log"), 1 << 20).expect("there is room");
    });
    assert_eq!(fs::metadata(at("1.log")).map(|file| file.len()).ok(), Some(1 << 20));
    for byte in [1, 2] {
        cut_after(&|rig| {
            let file = rig.disk.open_id();
            done(rig.job(FileJob::Begin { file, path: at("checkpoint") }));
            done(rig.job(FileJob::Append { file, bytes: vec![byte; 9000] }));
            done(rig.job(FileJob::Publish { file }));
        });
        assert_eq!(fs::read(at("checkpoint")).ok(), Some(vec![byte; 9000]));
        let content = vec![byte; 10];
        cut_after(&|rig| {
            let (path, content) = (at("manifest"), content.clone());
            done(rig.job(FileJob::Replace { path, content }));
        });
        assert_eq!(fs::read(at("manifest")).ok(), Some(content));
    }
    cut_after(&|rig| done(rig.job(FileJob::Remove { paths: vec![at("manifest")] })));
    assert!(!at("manifest").exists());
    cut_after(&|_| StdFiles.replace(&at("manifest"), b"three").expect("it works"));
    assert_eq!(fs::read(at("manifest")).ok().as_deref(), Some(&b"three"[..]));
    cut_after(&|_| StdFiles.zero_from(&at("checkpoint"), 4000).expect("it works"));
    let expected = [vec![2; 4000], vec![0; 5000]].concat();
    assert_eq!(fs::read(at("checkpoint")).ok(), Some(expected));
    cut_after(&|_| StdFiles.make_directory(&at("partitions")).expect("it works"));
    assert!(at("partitions").is_dir());
    cut_after(&|_| StdFiles.remove(&[at("1.log"), at("none")]).expect("it works"));
    assert_eq!(segments(&disk.path()), ["checkpoint", "manifest", "partitions"]);
}
