//! The program's own code, kept in memory.
//!
//! A core that comes to a function for the first time, or to one whose page the kernel has given
//! to something else, waits in the middle of its turn until the page was read: behind whatever
//! else reads from that disk.

use crate::sys;
use core::ops::Range;
use std::{fs, io};

/// What [`hold_code`] has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeldCode {
    /// How much the program and its libraries have in files.
    pub bytes: usize,
    /// How much of it stays, whatever else needs memory. The rest is there now, and may go when memory runs short:
    /// the system, mostly `RLIMIT_MEMLOCK`, did not allow more.
    pub locked_bytes: usize,
}

/// Reads the program and the libraries that are loaded now into memory, and locks them there
/// (mlock(2)) as far as the system allows.
///
/// # Errors
/// `/proc/self/maps` cannot be read; or something can neither be locked nor be read into memory, which
/// takes `MADV_POPULATE_READ` (Linux 5.14). Whatever else can is.
pub fn hold_code() -> io::Result<HeldCode> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut held = HeldCode { bytes: 0, locked_bytes: 0 };
    let mut result = Ok(());
    for range in maps.lines().filter_map(code) {
        held.bytes += range.len();
        match sys::lock(range.clone()) {
            Ok(()) => held.locked_bytes += range.len(),
            Err(_) => result = result.and(sys::populate(range)),
        }
    }
    result.map(|()| held)
}

/// The range of a line of `/proc/self/maps` (proc_pid_maps(5)), if it is a private mapping of a
/// file: those are what the loader makes of programs and libraries.
fn code(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (range, rights) = (words.next()?, words.next()?);
    let is_file = words.nth(3).is_some_and(|path| path.starts_with('/'));
    if !is_file || !rights.starts_with('r') || !rights.ends_with('p') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_mappings_of_files_that_can_be_read_are_code() {
        let cases = [
            ("5581-5582 r-xp 00001000 fe:00 393 /usr/bin/ringlane", Some(0x5581..0x5582)),
            (
                "5582-5583 rw-p 00002000 fe:00 393 /usr/bin/ring lane (deleted)",
                Some(0x5582..0x5583),
            ),
            ("5583-5584 ---p 00003000 fe:00 393 /usr/bin/ringlane", None),
            ("5584-5585 rw-s 00000000 fe:00 394 /var/lib/ringlane/0.log", None),
            ("5585-5586 rw-p 00000000 00:00 0 [heap]", None),
            ("5586-5587 rw-p 00000000 00:00 0", None),
            ("", None),
        ];
        for (line, expected) in cases {
            assert_eq!(code(line), expected, "{line}");
        }
    }

    /// A field of `/proc/self/smaps` for the mapping that has an address.
    fn said<'a>(maps: &'a str, address: usize, field: &str) -> &'a str {
        let is_it = |line: &&str| code(line).is_some_and(|range| range.contains(&address));
        let lines = maps.lines().skip_while(|line| !is_it(line)).skip(1);
        lines
            .filter_map(|line| line.strip_prefix(field))
            .next()
            .expect("a field of every mapping")
            .trim()
    }

    #[test]
    fn all_code_is_there() {
        let held = hold_code().expect("this kernel has what it takes");
        let here = all_code_is_there as *const () as usize;
        let maps = fs::read_to_string("/proc/self/smaps").expect("every Linux has it");
        assert_eq!(said(&maps, here, "Rss:"), said(&maps, here, "Size:"));
        let is_locked = said(&maps, here, "VmFlags:").split_whitespace().any(|flag| flag == "lo");
        assert!(is_locked || held.locked_bytes < held.bytes);
    }
}
