//! The job thread's work: one job at a time, in the order of their `Line`.

use super::open::OpenFile;
use super::paths::{self, Zeros};
use crate::sys;
use ringlane_dataplane::disk::{DiskError, FileId, FileJob};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A file that a job opened, for the core's table.
pub(super) type Opened = (FileId, Arc<OpenFile>);

/// A file on the job thread.
#[derive(Debug)]
struct Held {
    open: Arc<OpenFile>,
    /// Of a file that was begun and is not published: where it is, and the name it will have.
    begun: Option<(PathBuf, PathBuf)>,
}

/// The files that jobs have opened and not closed.
#[derive(Debug)]
pub(super) struct Jobs {
    held: HashMap<FileId, Held>,
    /// The core has gone: what has not ended is not wanted any more.
    stopped: Arc<AtomicBool>,
    zeros: Zeros,
}

impl Jobs {
    pub(super) fn new(stopped: Arc<AtomicBool>) -> Self {
        Self { held: HashMap::new(), stopped, zeros: Zeros::default() }
    }

    /// Carries out a job.
    pub(super) fn carry_out(&mut self, job: FileJob) -> Result<Option<Opened>, DiskError> {
        match job {
            FileJob::Create { file, path, header, bytes } => {
                let stopped = || self.stopped.load(Ordering::Relaxed);
                let made = paths::create(&path, &header, bytes, &mut self.zeros, &stopped);
                return made.map(|made| Some(self.hold(file, made, None))).map_err(disk_error);
            }
            FileJob::Open { file, path } => {
                let open = paths::open(&path);
                return open.map(|open| Some(self.hold(file, open, None))).map_err(disk_error);
            }
            FileJob::Begin { file, path } => paths::begin(&path).map(|(begun, temporary)| {
                self.hold(file, begun, Some((temporary, path)));
            }),
            FileJob::Append { file, bytes } => return self.append(file, &bytes).map(|()| None),
            FileJob::Publish { file } => return self.publish(file).map(|()| None),
            FileJob::Close { file } => {
                self.close(file);
                Ok(())
            }
            FileJob::Replace { path, content } => paths::replace(&path, &content),
            FileJob::Remove { paths } => paths::remove(&paths),
        }
        .map(|()| None)
        .map_err(disk_error)
    }

    fn hold(&mut self, id: FileId, file: File, begun: Option<(PathBuf, PathBuf)>) -> Opened {
        let open = Arc::new(OpenFile::new(file));
        let before = self.held.insert(id, Held { open: Arc::clone(&open), begun });
        assert!(before.is_none(), "file {} is open already", id.0);
        (id, open)
    }

    fn append(&mut self, id: FileId, bytes: &[u8]) -> Result<(), DiskError> {
        let held = self.held.get(&id).ok_or_else(not_open)?;
        held.open.check()?;
        let written = (&held.open.file).write_all(bytes);
        held.open.settle(written.map_err(|error| sys::errno_of(&error)))
    }

    fn publish(&mut self, id: FileId) -> Result<(), DiskError> {
        let held = self.held.get_mut(&id).ok_or_else(not_open)?;
        held.open.check()?;
        let (temporary, path) = held.begun.as_ref().ok_or_else(not_open)?;
        let published = paths::publish(&held.open.file, temporary, path);
        held.open.settle(published.map_err(|error| sys::errno_of(&error)))?;
        held.begun = None;
        Ok(())
    }

    fn close(&mut self, id: FileId) {
        let Some(held) = self.held.remove(&id) else { return };
        if let Some((temporary, _)) = &held.begun {
            // What stays is removed at the next start, by its name.
            let _ = fs::remove_file(temporary);
        }
    }
}

fn disk_error(error: io::Error) -> DiskError {
    DiskError::from_errno(sys::errno_of(&error))
}

/// The id names no file that this could be done with.
fn not_open() -> DiskError {
    DiskError::from_errno(libc::EBADF)
}
