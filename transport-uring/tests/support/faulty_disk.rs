//! A small file system of a test's own, made by `scripts/faults/disk.sh`, for faults that a
//! directory cannot have.

#![allow(unreachable_pub, reason = "a module of each test file")]
#![allow(dead_code, reason = "every test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "this is test code, though not inside a test function")]

use super::files::Directory;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system; unmounted and removed when it is dropped.
pub struct FaultyDisk {
    directory: Directory,
}

impl FaultyDisk {
    /// Makes one: `step` is `make`, `small` or `thin`. `None`, said on standard error, where that is
    /// not possible: it takes root and loop devices. With `RINGLANE_REQUIRE_FAULTS` set that is a failure.
    #[allow(clippy::print_stderr, reason = "a test that cannot run says so")]
    pub fn make(step: &str, mib: u32) -> Option<Self> {
        let disk = Self { directory: Directory::new() };
        match disk.script(&[step, &disk.place(), &mib.to_string()]) {
            Ok(()) => Some(disk),
            Err(reason) => {
                assert!(std::env::var_os("RINGLANE_REQUIRE_FAULTS").is_none(), "{reason}");
                eprintln!("NOT RUN: {reason}");
                None
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.directory.path("mount")
    }

    /// The power goes: what was not flushed is lost, every later write fails.
    pub fn cut(&self) {
        self.script(&["cut", &self.place()]).unwrap();
    }

    /// The power is back.
    pub fn remount(&self) {
        self.script(&["remount", &self.place()]).unwrap();
    }

    fn place(&self) -> String {
        self.directory.0.display().to_string()
    }

    fn script(&self, arguments: &[&str]) -> Result<(), String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/faults/disk.sh");
        let run = Command::new(script).args(arguments).output().map_err(|e| e.to_string())?;
        match run.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&run.stderr).trim().to_owned()),
        }
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        // What is left would only be a mount in the temporary directory.
        let _ = self.script(&["remove", &self.place()]);
    }
}
