//! What is crashed and started again: a broker of a recipe, on a directory or on a disk of its own.

use super::disk::{Disk, DiskKind};
use crate::compare::{Recipe, Running, Values};
use anyhow::{Context, Result, bail};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

/// What happens to the broker in each cycle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// SIGKILL.
    Kill,
    /// Its file system stops without a flush, then SIGKILL.
    PowerLoss,
    /// SIGTERM.
    Term,
    /// Its file system is full for a while; then it has room again, and the broker goes on.
    FullDisk,
    /// Writing back fails under its file system, for good; then SIGKILL, and the disk is well again.
    WriteError,
    /// What a command of the user does, until another one makes it good; clients go on meanwhile, as far as
    /// the broker does.
    Command,
    /// Nothing; only the clients' connections are reset.
    None,
}

impl Fault {
    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::PowerLoss => "power-loss",
            Self::Term => "term",
            Self::FullDisk => "full-disk",
            Self::WriteError => "write-error",
            Self::Command => "command",
            Self::None => "none",
        }
    }
}

/// A broker that can be ended and started again with what it kept.
pub trait Host {
    /// Starts it on what it kept, and waits until it answers.
    ///
    /// # Errors
    /// If it does not start.
    fn start(&mut self) -> Result<SocketAddr>;

    /// Where its nodes are, if it is a cluster: clients try them in turn, whatever `start` said.
    fn addresses(&self) -> Vec<SocketAddr> {
        Vec::new()
    }

    /// Begins a fault under which the broker still runs: the power is off, or the disk full.
    ///
    /// # Errors
    /// If this machine cannot do that.
    fn weaken(&mut self, fault: Fault) -> Result<()>;

    /// Ends it as the fault says, and gives back what [`Host::weaken`] took; not called with
    /// [`Fault::None`].
    ///
    /// # Errors
    /// If it had ended before, or cannot be ended.
    fn strike(&mut self, fault: Fault) -> Result<()>;

    /// Starts it and strikes again so soon that it is perhaps still busy with what it kept.
    ///
    /// # Errors
    /// If it cannot be started, or ends by itself.
    fn stumble(&mut self, fault: Fault, after: Duration) -> Result<()>;

    /// Makes its next start end at a failpoint (`NAME:VISIT`), or at none.
    fn arm(&mut self, failpoint: Option<String>);

    /// Whether it ended by itself.
    fn has_ended(&mut self) -> bool;

    /// What it said last, for people.
    fn output(&self) -> String;
}

/// The environment variable that names a failpoint.
const FAILPOINT: &str = "RINGLANE_FAILPOINT";
/// How long a broker may take to end after SIGTERM.
pub(super) const TERM_MAX: Duration = Duration::from_secs(60);

/// A broker of a recipe.
#[derive(Debug)]
pub struct RecipeHost {
    name: String,
    recipe: Recipe,
    values: Values,
    disk: Option<Disk>,
    /// Whether it may end by itself.
    is_armed: bool,
    keeps_directory: bool,
    running: Option<Running>,
}

impl RecipeHost {
    /// A broker on a fresh directory below `room`; with `disk` on a file system of its own, of so
    /// many bytes, that can lose power or fail.
    ///
    /// # Errors
    /// If its program is not installed, or there can be no such file system.
    pub fn new(
        name: &str,
        recipe: Recipe,
        room: PathBuf,
        port: u16,
        cpus: &str,
        disk: Option<(DiskKind, u64)>,
    ) -> Result<Self> {
        let program = recipe.find_program(name)?;
        fs::create_dir_all(&room).with_context(|| room.display().to_string())?;
        let disk = disk.map(|(kind, bytes)| Disk::make(&room, kind, bytes)).transpose()?;
        let parent = disk.as_ref().map_or(room, |disk| disk.mount().to_owned());
        let directory = parent.join(name);
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        // The broker answers for what it makes in its directory, not for the directory itself.
        fs::File::open(&parent)?.sync_all().context("the broker's directory")?;
        let values = Values { program, directory, port, cpu: cpus.to_owned(), ..Values::default() };
        Ok(Self {
            name: name.to_owned(),
            recipe,
            values,
            disk,
            is_armed: false,
            keeps_directory: false,
            running: None,
        })
    }

    /// Leaves what the broker stored when this is dropped, and says where; not with a disk of its own,
    /// which goes in any case.
    pub fn keep_directory(&mut self) -> &std::path::Path {
        self.keeps_directory = true;
        &self.values.directory
    }

    /// Makes everything durable that the broker has written so far: what its first start leaves behind
    /// is then no part of the experiment.
    ///
    /// # Errors
    /// If that cannot be done.
    pub fn settle(&self) -> Result<()> {
        self.disk.as_ref().map_or(Ok(()), Disk::sync)
    }

    /// The version that the program gives.
    #[must_use]
    pub fn version(&self) -> String {
        self.recipe.version_line(&self.values)
    }
}

impl Host for RecipeHost {
    fn start(&mut self) -> Result<SocketAddr> {
        let running = Running::launch(&self.name, &self.recipe, &self.values)?;
        let running = self.running.insert(running);
        running.await_ready(&self.name)?;
        Ok(running.address)
    }

    fn weaken(&mut self, fault: Fault) -> Result<()> {
        match (fault, &self.disk) {
            (Fault::PowerLoss, Some(disk)) => disk.cut(),
            (Fault::FullDisk, Some(disk)) => disk.fill(),
            (Fault::WriteError, Some(disk)) => disk.starve(),
            (Fault::PowerLoss | Fault::FullDisk | Fault::WriteError, None) => {
                bail!("{} has no disk", self.name)
            }
            (Fault::Kill | Fault::Term | Fault::None, _) => Ok(()),
            (Fault::Command, _) => bail!("{} is struck by this program alone", self.name),
        }
    }

    fn strike(&mut self, fault: Fault) -> Result<()> {
        if let (Fault::FullDisk, Some(disk)) = (fault, &self.disk) {
            return disk.free();
        }
        let Some(running) = self.running.take() else { bail!("{} does not run", self.name) };
        match (fault, &self.disk) {
            (Fault::None | Fault::Command, _) => bail!("no fault to strike with"),
            (Fault::Kill, _) if self.is_armed => running.reap(),
            (Fault::Kill, _) => running.kill(),
            (Fault::Term, _) => running.terminate(TERM_MAX),
            (Fault::PowerLoss, Some(disk)) => {
                // A broker may well end by itself when every write fails.
                running.reap()?;
                disk.remount()
            }
            (Fault::WriteError, Some(disk)) => {
                running.reap()?;
                disk.feed()
            }
            (Fault::PowerLoss | Fault::FullDisk | Fault::WriteError, _) => {
                bail!("{} has no disk of its own", self.name)
            }
        }
    }

    fn stumble(&mut self, fault: Fault, after: Duration) -> Result<()> {
        self.running = Some(Running::launch(&self.name, &self.recipe, &self.values)?);
        sleep(after);
        self.weaken(fault)?;
        self.strike(fault)
    }

    fn arm(&mut self, failpoint: Option<String>) {
        self.is_armed = failpoint.is_some();
        self.recipe.environment.remove(FAILPOINT);
        self.recipe.environment.extend(failpoint.map(|text| (FAILPOINT.to_owned(), text)));
    }

    fn has_ended(&mut self) -> bool {
        self.running.as_mut().is_none_or(Running::has_ended)
    }

    fn output(&self) -> String {
        self.running.as_ref().map(Running::output).unwrap_or_default()
    }
}

impl Drop for RecipeHost {
    fn drop(&mut self) {
        // The broker must be gone before its file system can go.
        drop(self.running.take());
        if !self.keeps_directory {
            let _ = fs::remove_dir_all(&self.values.directory);
        }
    }
}
