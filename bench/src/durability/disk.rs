//! A file system of its own for a broker: ext4 on a file, which can lose power.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The script that also people use; this program needs no other file.
const SCRIPT: &str = include_str!("../../../scripts/faults/disk.sh");

/// What a file system lies on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskKind {
    /// A file.
    Whole,
    /// A file that can be kept from growing, so that writing back fails.
    Thin,
}

/// A mounted file system. It is taken down when this is dropped.
#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
    mount: PathBuf,
}

impl Disk {
    /// Makes and mounts an empty file system in a directory.
    ///
    /// # Errors
    /// If this machine or user cannot: the text says what is missing.
    pub(super) fn make(directory: &Path, kind: DiskKind, bytes: u64) -> Result<Self> {
        let mount = directory.join("mount");
        let disk = Self { directory: directory.to_owned(), mount };
        let mebibytes = bytes.div_ceil(1 << 20).to_string();
        let step = if kind == DiskKind::Thin { "thin" } else { "make" };
        disk.run(step, &[&mebibytes]).context("this fault needs a file system of its own")?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub(super) fn mount(&self) -> &Path {
        &self.mount
    }

    /// Cuts the power: what was not synced is gone, and every later write fails.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn cut(&self) -> Result<()> {
        self.run("cut", &[]).context("the power cut")
    }

    /// Makes everything durable that was written.
    ///
    /// # Errors
    /// If that cannot be done.
    pub(super) fn sync(&self) -> Result<()> {
        self.run("sync", &[]).context("the disk's sync")
    }

    /// Takes all room that is left.
    ///
    /// # Errors
    /// If that cannot be done.
    pub(super) fn fill(&self) -> Result<()> {
        self.run("fill", &[]).context("filling the disk")
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// If that cannot be done.
    pub(super) fn free(&self) -> Result<()> {
        self.run("free", &[]).context("room on the disk")
    }

    /// From now on nothing can be written back that was not before: the disk must be thin.
    ///
    /// # Errors
    /// If that cannot be done.
    pub(super) fn starve(&self) -> Result<()> {
        self.run("starve", &[]).context("starving the disk")
    }

    /// Ends that. Nobody may use the file system.
    ///
    /// # Errors
    /// If somebody does, or it cannot be mounted again where it has given up.
    pub(super) fn feed(&self) -> Result<()> {
        self.run("feed", &[]).context("feeding the disk")
    }

    /// Gives the power back. Nobody may use the file system.
    ///
    /// # Errors
    /// If somebody does, or it cannot be mounted.
    pub(super) fn remount(&self) -> Result<()> {
        self.run("remount", &[]).context("the power's return")
    }

    fn run(&self, step: &str, more: &[&str]) -> Result<()> {
        let output = Command::new("bash")
            .args(["-c", SCRIPT, "disk.sh", step])
            .arg(&self.directory)
            .args(more)
            .output()
            .context("bash")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What cannot be unmounted stays for somebody to look at.
        if self.run("remove", &[]).is_ok() {
            let _ = fs::remove_dir(&self.mount);
        }
    }
}
