//! What the disk in memory promises to those who test with it.

use super::*;
use crate::disk::{BATCH_HEADER_BYTES, BatchWrite, DiskErrorKind, DiskToken, ENOSPC, FileId};

struct Bench {
    memory: MemoryDisk,
    disk: Disk,
    file: FileId,
}

fn path() -> PathBuf {
    PathBuf::from("/log/0.log")
}

fn job(job: FileJob) -> DiskCommand {
    DiskCommand::Job { token: DiskToken(9), job }
}

impl Bench {
    /// A disk with one open file of 8 KiB.
    fn new(memory: MemoryDisk) -> Self {
        let mut disk = Disk::new();
        let file = disk.open_id();
        let mut bench = Self { memory, disk, file };
        let create = FileJob::Create { file, path: path(), header: vec![7; 16], bytes: 8192 };
        assert_eq!(bench.run(job(create)), Ok(DiskDone::Done));
        bench
    }

    fn run(&mut self, command: DiskCommand) -> Result<DiskDone, DiskError> {
        self.disk.push(command);
        self.memory.submit(&mut self.disk);
        let mut result = None;
        while result.is_none() {
            self.memory.complete(&mut self.disk, 1, &mut |_, event| result = Some(event.result));
        }
        result.expect("just seen")
    }

    fn write_command(&self, position: u64, byte: u8) -> DiskCommand {
        let batch = BatchWrite { header: [byte; BATCH_HEADER_BYTES], batch: None };
        let (token, file) = (DiskToken(1), self.file);
        DiskCommand::Write {
            token,
            file,
            position,
            batches: vec![batch],
            zeros: 0,
            is_read_soon: true,
        }
    }

    fn write(&mut self, position: u64, byte: u8) -> Result<DiskDone, DiskError> {
        self.run(self.write_command(position, byte))
    }

    /// Begins with writes, and waits until they are done as far as a reader sees.
    fn begin_writes<const N: usize>(&mut self, writes: [(u64, u8); N]) {
        for (position, byte) in writes {
            self.disk.push(self.write_command(position, byte));
        }
        self.memory.submit(&mut self.disk);
        while writes.iter().any(|(position, byte)| self.byte(*position as usize) != *byte) {
            self.memory.complete(&mut self.disk, 1, &mut |_, _| {});
        }
    }

    fn byte(&self, position: usize) -> u8 {
        self.memory.content(&path()).expect("made")[position]
    }
}

#[test]
fn what_was_synced_survives_every_crash_and_what_was_not_does_not_always() {
    let mut lost = 0;
    for seed in 0..64 {
        let mut bench = Bench::new(MemoryDisk::shuffled(seed));
        bench.write(64, 1).unwrap();
        bench.begin_writes([(128, 2), (4096, 3)]);
        assert_eq!((bench.byte(64), bench.byte(128), bench.byte(4096)), (1, 2, 3));
        bench.memory.crash(seed);
        assert_eq!((bench.byte(0), bench.byte(64)), (7, 1), "seed {seed}");
        assert_eq!(bench.byte(128), bench.byte(191), "a sector is not torn");
        lost += usize::from(bench.byte(128) == 0) + usize::from(bench.byte(4096) == 0);
    }
    assert!((16..96).contains(&lost), "{lost} of 128");
}

#[test]
fn the_first_error_of_a_file_is_final() {
    let mut bench = Bench::new(MemoryDisk::new());
    bench.memory.fail(Operation::Sync, "0.log", EIO);
    assert_eq!(bench.write(64, 1), Err(broken().of_sync()));
    assert_eq!(bench.byte(64), 1, "written, but not durable");
    for _ in 0..2 {
        assert_eq!(bench.write(64, 2), Err(broken()));
    }
    let read =
        DiskCommand::Read { token: DiskToken(3), file: bench.file, position: 8190, bytes: 9 };
    assert_eq!(bench.run(read), Ok(DiskDone::Read(vec![0, 0])));
}

#[test]
fn a_full_disk_makes_no_file_until_there_is_room() {
    let mut bench = Bench::new(MemoryDisk::new());
    bench.memory.set_capacity(10_000);
    let file = bench.disk.open_id();
    let second = PathBuf::from("/log/1.log");
    let create = FileJob::Create { file, path: second, header: vec![], bytes: 4096 };
    let full = bench.run(job(create.clone())).unwrap_err();
    assert_eq!((full.kind, full.errno), (DiskErrorKind::Full, ENOSPC));
    assert_eq!(bench.memory.paths(), [path()]);
    bench.memory.set_capacity(20_000);
    assert_eq!(bench.run(job(create)), Ok(DiskDone::Done));
    assert_eq!(bench.memory.list(Path::new("/log")).unwrap(), ["0.log", "1.log"]);
}

#[test]
fn a_file_that_was_begun_appears_when_it_is_published_or_goes_with_its_close() {
    let mut bench = Bench::new(MemoryDisk::new());
    let name = PathBuf::from("/log/5.checkpoint");
    for published in [true, false] {
        let file = bench.disk.open_id();
        bench.run(job(FileJob::Begin { file, path: name.clone() })).unwrap();
        bench.run(job(FileJob::Append { file, bytes: vec![u8::from(published); 3] })).unwrap();
        if published {
            assert_eq!(bench.memory.content(&name), None);
            bench.run(job(FileJob::Publish { file })).unwrap();
        }
        bench.run(job(FileJob::Close { file })).unwrap();
    }
    assert_eq!(bench.memory.content(&name), Some(vec![1; 3]));
    assert_eq!(bench.memory.paths().len(), 2);
}

#[test]
#[should_panic(expected = "while it is in use")]
fn a_close_that_comes_too_early_is_caught() {
    let mut bench = Bench::new(MemoryDisk::new());
    let file = bench.file;
    bench.disk.push(bench.write_command(64, 1));
    bench.disk.push(job(FileJob::Close { file }));
    bench.memory.submit(&mut bench.disk);
}

#[test]
fn a_shuffled_disk_keeps_the_order_of_jobs_and_of_nothing_else() {
    let mut reordered = false;
    for seed in 0..32 {
        let mut bench = Bench::new(MemoryDisk::shuffled(seed));
        for number in 0..4 {
            let (token, file) = (DiskToken(number), bench.file);
            bench.disk.push(DiskCommand::Read { token, file, position: 0, bytes: 1 });
            let (token, path) = (DiskToken(100 + number), PathBuf::from("/log/x"));
            let job = FileJob::Replace { path, content: vec![number as u8] };
            bench.disk.push(DiskCommand::Job { token, job });
        }
        bench.memory.submit(&mut bench.disk);
        let mut tokens = Vec::new();
        while bench.memory.in_flight() > 0 {
            bench.memory.complete(&mut bench.disk, 8, &mut |_, event| tokens.push(event.token.0));
        }
        let (jobs, reads): (Vec<u64>, Vec<u64>) =
            tokens.into_iter().partition(|token| *token >= 100);
        assert_eq!(jobs, [100, 101, 102, 103]);
        reordered |= reads != [0, 1, 2, 3];
    }
    assert!(reordered);
}

#[test]
fn held_commands_wait_and_a_crash_forgets_them() {
    let mut bench = Bench::new(MemoryDisk::new());
    bench.memory.hold(true);
    bench.disk.push(bench.write_command(64, 1));
    bench.memory.submit(&mut bench.disk);
    assert_eq!(bench.memory.complete(&mut bench.disk, 8, &mut |_, _| {}), 0);
    assert_eq!(bench.memory.in_flight(), 1);
    bench.memory.crash(1);
    assert_eq!(bench.memory.in_flight(), 0);
    assert_eq!(bench.write(64, 1), Err(broken()), "no file is open after a crash");
}

#[test]
fn start_up_reads_zeroes_and_removes() {
    let mut memory = MemoryDisk::new();
    let path = path();
    assert_eq!(memory.len(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(memory.list(Path::new("/log")).unwrap_err().kind(), io::ErrorKind::NotFound);
    memory.make_directory(Path::new("/log")).unwrap();
    memory.replace(&path, &[1; 5000]).unwrap();
    memory.zero_from(&path, 4999).unwrap();
    let mut into = [9; 4];
    assert_eq!(memory.read_at(&path, 4998, &mut into).unwrap(), 2);
    assert_eq!(into, [1, 0, 9, 9]);
    memory.fail(Operation::Read, "0.log", EIO);
    assert_eq!(memory.read_at(&path, 0, &mut into).unwrap_err().raw_os_error(), Some(EIO));
    memory.sync(&path).unwrap();
    memory.damage(&path, |bytes| bytes[0] ^= 4);
    assert_eq!(memory.content(&path).unwrap()[0], 5);
    memory.remove(&[path.clone(), PathBuf::from("/log/none")]).unwrap();
    assert!(memory.list(Path::new("/log")).unwrap().is_empty());
}
