//! Writes past the page cache (O_DIRECT, open(2)), of what nobody reads soon.
//!
//! Through the cache, each page that the file did not have is found, charged and filled first, and written from there. Where the
//! system has to find memory that was nobody's before (in a virtual machine, with its host), that costs more than all
//! the rest of a write. Here the bytes are gathered in memory that is used again and again.
//!
//! The disk takes whole blocks, and a write begins where the last one ended: what is in front of it in its first block
//! goes with it once more. It is remembered here, or read.

use ringlane_dataplane::disk::BLOCK_BYTES;
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

const BLOCK: u64 = BLOCK_BYTES as u64;
/// Bytes that are gathered and written at once.
const GATHERED_BYTES: usize = 256 * 1024;

/// Where a thread gathers what it writes: memory that begins with a block, made when it is first used.
#[derive(Debug, Default)]
pub(super) struct Blocks(Vec<u8>);

impl Blocks {
    fn memory(&mut self) -> &mut [u8] {
        if self.0.is_empty() {
            self.0 = vec![0; GATHERED_BYTES + BLOCK_BYTES];
        }
        let start = self.0.as_ptr().align_offset(BLOCK_BYTES);
        &mut self.0[start..][..GATHERED_BYTES]
    }
}

/// The way past the cache into one file.
#[derive(Debug)]
pub(super) struct Beside {
    /// `None` where there is none.
    file: Option<File>,
    /// Up to where the last write has come, but for zeros, and its last block.
    end: u64,
    block: Vec<u8>,
}

/// Where in a file something is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) position: u64,
    /// How long it is, with the zeros in the end.
    pub(super) bytes: usize,
    /// Zeros that the next write goes over.
    pub(super) zeros: usize,
}

impl Place {
    /// Where its first block begins, and how much of that is in front of it.
    fn begin(self) -> (u64, usize) {
        let before = self.position % BLOCK;
        (self.position - before, before as usize)
    }

    fn end(self) -> u64 {
        self.position + self.bytes as u64
    }
}

impl Beside {
    /// Looks for the way into a file that is open.
    pub(super) fn open(cached: &File) -> Self {
        let flags = OFlags::DIRECT.bits().cast_signed();
        let path = format!("/proc/self/fd/{}", cached.as_raw_fd());
        let file = OpenOptions::new().write(true).custom_flags(flags).open(path).ok();
        Self { file, end: 0, block: Vec::new() }
    }

    /// Writes pieces. `None`: it has to go through the cache, because it does not end with a block, or because the file
    /// system cannot do it.
    pub(super) fn write<'a>(
        &mut self,
        cached: &File,
        place: Place,
        pieces: impl Iterator<Item = &'a [u8]>,
        blocks: &mut Blocks,
    ) -> Option<io::Result<()>> {
        if !place.end().is_multiple_of(BLOCK) {
            return None;
        }
        let file = self.file.take()?;
        let result = self.gather((&file, cached), place, pieces, blocks.memory());
        let cannot = |error: &io::Error| {
            matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
        };
        if result.as_ref().is_err_and(cannot) {
            return None;
        }
        self.file = Some(file);
        Some(result)
    }

    fn gather<'a>(
        &mut self,
        (file, cached): (&File, &File),
        place: Place,
        pieces: impl Iterator<Item = &'a [u8]>,
        memory: &mut [u8],
    ) -> io::Result<()> {
        let (mut at, mut filled) = place.begin();
        self.fetch(cached, place, &mut memory[..filled])?;
        for mut piece in pieces {
            while !piece.is_empty() {
                if filled == memory.len() {
                    file.write_all_at(memory, at)?;
                    (at, filled) = (at + filled as u64, 0);
                }
                let (now, later) = piece.split_at(piece.len().min(memory.len() - filled));
                memory[filled..][..now.len()].copy_from_slice(now);
                (filled, piece) = (filled + now.len(), later);
            }
        }
        file.write_all_at(&memory[..filled], at)?;
        self.end = place.end() - place.zeros as u64;
        self.block.clear();
        self.block.extend_from_slice(&memory[..filled][filled.saturating_sub(BLOCK_BYTES)..]);
        Ok(())
    }

    /// What is in front of a write in its first block.
    fn fetch(&self, cached: &File, place: Place, into: &mut [u8]) -> io::Result<()> {
        if self.end == place.position && into.len() <= self.block.len() {
            into.copy_from_slice(&self.block[..into.len()]);
            return Ok(());
        }
        cached.read_exact_at(into, place.begin().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    /// A file of zeros, removed in the end. On a disk: what is in memory alone may have no way past the cache.
    struct Zeros(PathBuf);

    impl Zeros {
        fn make(name: &str) -> (Self, File) {
            let room = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
            std::fs::create_dir_all(&room).unwrap();
            let path = room.join(format!("beside-{}-{name}", std::process::id()));
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(true).open(&path);
            let file = file.unwrap();
            file.write_all_at(&vec![0; 1 << 20], 0).unwrap();
            file.sync_all().unwrap();
            (Self(path), file)
        }

        fn read(&self, from: usize, bytes: usize) -> Vec<u8> {
            std::fs::read(&self.0).unwrap()[from..][..bytes].to_vec()
        }
    }

    impl Drop for Zeros {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    /// Writes at a position, with zeros up to the end of the block.
    fn write(way: &mut Beside, cached: &File, position: u64, content: &[u8]) -> bool {
        let end = position + content.len() as u64;
        let zeros = (end.next_multiple_of(BLOCK) - end) as usize;
        let place = Place { position, bytes: content.len() + zeros, zeros };
        let behind = vec![0; zeros];
        let pieces = content.chunks(1000).chain([&behind[..]]);
        let written = way.write(cached, place, pieces, &mut Blocks::default());
        written.map(Result::unwrap).is_some()
    }

    #[test]
    fn what_others_wrote_meanwhile_in_front_of_it_stays() {
        let (zeros, file) = Zeros::make("others");
        let (mut one, mut other) = (Beside::open(&file), Beside::open(&file));
        let mut position = 4096;
        for round in 0..20_u8 {
            let bytes = 100 + usize::from(round) * 997;
            let content = vec![round + 1; bytes];
            // Those of the two do not know what the other one and the cache have written.
            let is_written = match round % 3 {
                0 => write(&mut one, &file, position, &content),
                1 => write(&mut other, &file, position, &content),
                _ => file.write_all_at(&content, position).is_ok(),
            };
            if !is_written {
                println!("NOT RUN: the file system has no way past the cache");
                return;
            }
            position += bytes as u64;
        }
        let mut at = 4096;
        for round in 0..20_u8 {
            let bytes = 100 + usize::from(round) * 997;
            assert_eq!(zeros.read(at, bytes), vec![round + 1; bytes], "round {round}");
            at += bytes;
        }
    }

    #[test]
    fn pieces_that_fill_what_is_gathered_are_written_whole() {
        let (zeros, file) = Zeros::make("full");
        let mut way = Beside::open(&file);
        let mut position = 0;
        for bytes in [GATHERED_BYTES, 1, GATHERED_BYTES - 1, 10, GATHERED_BYTES, BLOCK_BYTES] {
            let content: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
            if !write(&mut way, &file, position, &content) {
                println!("NOT RUN: the file system has no way past the cache");
                return;
            }
            assert!(zeros.read(position as usize, bytes) == content, "{bytes} bytes at {position}");
            position += bytes as u64;
        }
    }

    #[test]
    fn what_does_not_end_with_a_block_or_has_no_way_goes_through_the_cache() {
        let (_zeros, file) = Zeros::make("none");
        let mut way = Beside::open(&file);
        let place = Place { position: 4096, bytes: 100, zeros: 0 };
        let pieces = [&[7; 100][..]];
        let written = way.write(&file, place, pieces.into_iter(), &mut Blocks::default());
        assert!(written.is_none());
        let mut way = Beside { file: None, end: 0, block: Vec::new() };
        assert!(!write(&mut way, &file, 4096, &[7; 100]));
    }
}
