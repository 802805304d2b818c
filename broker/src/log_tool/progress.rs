//! How far long work has come, on the terminal.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_millis(500);

/// Tells how far it has come, on standard error if that is a terminal, and only once the work has
/// taken a while.
#[derive(Debug)]
pub(super) struct Progress {
    what: String,
    total: u64,
    next: Option<Instant>,
    shown: bool,
}

impl Progress {
    /// Work on `total` bytes.
    pub(super) fn new(what: String, total: u64) -> Self {
        let next = io::stderr().is_terminal().then(|| Instant::now() + EVERY);
        Self { what, total, next, shown: false }
    }

    /// It has come to `done` bytes.
    pub(super) fn at(&mut self, done: u64) {
        let Some(next) = self.next else { return };
        let now = Instant::now();
        if now < next {
            return;
        }
        self.next = Some(now + EVERY);
        self.shown = true;
        let (done, total) = (done >> 20, self.total >> 20);
        // Nobody is left to tell if stderr is closed.
        let _ = write!(io::stderr(), "\r{}: {done} of {total} MiB ", self.what);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
