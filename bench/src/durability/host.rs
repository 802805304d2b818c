//! What is crashed and started again: a broker of a recipe, on a directory or on a disk of its own.

use super::disk::Disk;
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

    /// Ends it as the fault says; not called with [`Fault::None`].
    ///
    /// # Errors
    /// If it had ended before, or cannot be ended.
    fn strike(&mut self, fault: Fault) -> Result<()>;

    /// Starts it and strikes again so soon that it is perhaps still busy with what it kept.
    ///
    /// # Errors
    /// If it cannot be started, or ends by itself.
    fn stumble(&mut self, fault: Fault, after: Duration) -> Result<()>;

    /// What it said last, for people.
    fn output(&self) -> String;
}

/// How long a broker may take to end after SIGTERM.
const TERM_MAX: Duration = Duration::from_secs(60);

/// A broker of a recipe.
#[derive(Debug)]
pub struct RecipeHost {
    name: String,
    recipe: Recipe,
    values: Values,
    disk: Option<Disk>,
    running: Option<Running>,
}

impl RecipeHost {
    /// A broker on a fresh directory below `room`; with `disk_bytes` on a file system of its own
    /// that can lose power.
    ///
    /// # Errors
    /// If its program is not installed, or there can be no such file system.
    pub fn new(
        name: &str,
        recipe: Recipe,
        room: PathBuf,
        port: u16,
        cpus: &str,
        disk_bytes: Option<u64>,
    ) -> Result<Self> {
        let program = recipe.find_program(name)?;
        fs::create_dir_all(&room).with_context(|| room.display().to_string())?;
        let disk = disk_bytes.map(|bytes| Disk::make(&room, bytes)).transpose()?;
        let parent = disk.as_ref().map_or(room, |disk| disk.mount().to_owned());
        let directory = parent.join(name);
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        // The broker answers for what it makes in its directory, not for the directory itself.
        fs::File::open(&parent)?.sync_all().context("the broker's directory")?;
        let values = Values { program, directory, port, cpu: cpus.to_owned(), unbatched: false };
        Ok(Self { name: name.to_owned(), recipe, values, disk, running: None })
    }

    /// The version that the program gives.
    #[must_use]
    pub fn version(&self) -> String {
        self.recipe.version_line(&self.values)
    }
}

impl Host for RecipeHost {
    fn start(&mut self) -> Result<SocketAddr> {
        let running = Running::start(&self.name, &self.recipe, &self.values)?;
        let address = running.address;
        self.running = Some(running);
        Ok(address)
    }

    fn strike(&mut self, fault: Fault) -> Result<()> {
        let Some(running) = self.running.take() else { bail!("{} does not run", self.name) };
        match (fault, &self.disk) {
            (Fault::None, _) => bail!("no fault to strike with"),
            (Fault::Kill, _) => running.kill(),
            (Fault::Term, _) => running.terminate(TERM_MAX),
            (Fault::PowerLoss, Some(disk)) => {
                disk.cut()?;
                // A broker may well end by itself when every write fails.
                running.reap()?;
                disk.remount()
            }
            (Fault::PowerLoss, None) => bail!("{} has no disk of its own", self.name),
        }
    }

    fn stumble(&mut self, fault: Fault, after: Duration) -> Result<()> {
        self.running = Some(Running::launch(&self.name, &self.recipe, &self.values)?);
        sleep(after);
        self.strike(fault)
    }

    fn output(&self) -> String {
        self.running.as_ref().map(Running::output).unwrap_or_default()
    }
}

impl Drop for RecipeHost {
    fn drop(&mut self) {
        // The broker must be gone before its file system can go.
        drop(self.running.take());
        let _ = fs::remove_dir_all(&self.values.directory);
    }
}
