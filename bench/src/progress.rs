//! A progress bar on standard error, if that is a terminal.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const WIDTH: usize = 24;
const TICK: Duration = Duration::from_millis(250);

/// Steps of a known number, one line that is written over.
#[derive(Debug)]
pub struct Bar {
    steps: usize,
    done: usize,
    started: Instant,
    is_shown: bool,
}

impl Bar {
    /// A bar of some steps.
    #[must_use]
    pub fn new(steps: usize) -> Self {
        Self { steps, done: 0, started: Instant::now(), is_shown: io::stderr().is_terminal() }
    }

    /// Shows what goes on now.
    pub fn show(&self, what: &str) {
        if self.is_shown {
            let share = self.done as f64 / self.steps.max(1) as f64;
            let left = remaining(self.started.elapsed(), share);
            write_line(&format!("{} {}/{}{left}  {what}", bar(share), self.done, self.steps));
        }
    }

    /// One step more is done.
    pub fn step(&mut self) {
        self.done += 1;
    }

    /// Removes the line, so that something else can be printed.
    pub fn clear(&self) {
        if self.is_shown {
            write_line("");
        }
    }
}

/// A bar that fills by itself while a run of known length goes on. It ends when it is dropped.
#[derive(Debug)]
pub struct Timed {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Timed {
    /// Shows the bar for about `length`; without a terminal nothing is started.
    #[must_use]
    pub fn start(what: &str, length: Duration) -> Self {
        if !io::stderr().is_terminal() || length.is_zero() {
            return Self { stop: None, thread: None };
        }
        let (stop, stopped) = mpsc::channel();
        let (what, started) = (what.to_owned(), Instant::now());
        let thread = thread::spawn(move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                let passed = started.elapsed();
                let share = (passed.as_secs_f64() / length.as_secs_f64()).min(1.0);
                let (passed, length) = (passed.as_secs_f64(), length.as_secs_f64());
                write_line(&format!("{} {passed:.0} of {length:.0} s  {what}", bar(share)));
            }
            write_line("");
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // The thread writes to standard error and nothing else; if it panicked, the run goes on.
            let _ = thread.join();
        }
    }
}

fn bar(share: f64) -> String {
    let filled = (share * WIDTH as f64).round() as usize;
    format!("[{}{}]", "#".repeat(filled.min(WIDTH)), ".".repeat(WIDTH.saturating_sub(filled)))
}

fn remaining(passed: Duration, share: f64) -> String {
    if share <= 0.0 {
        return String::new();
    }
    let seconds = passed.as_secs_f64() * (1.0 / share - 1.0);
    if seconds >= 90.0 {
        format!(", {:.0} min left", seconds / 60.0)
    } else {
        format!(", {seconds:.0} s left")
    }
}

fn write_line(text: &str) {
    // A terminal that has gone away does not end a measurement.
    let _ = write!(io::stderr(), "\r\x1b[K{text}");
    let _ = io::stderr().flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_fills_from_the_left() {
        assert_eq!(bar(0.0), "[........................]");
        assert_eq!(bar(0.5), "[############............]");
        assert_eq!(bar(1.0), "[########################]");
    }

    #[test]
    fn the_rest_is_estimated_from_what_is_done() {
        assert_eq!(remaining(Duration::from_secs(10), 0.5), ", 10 s left");
        assert_eq!(remaining(Duration::from_secs(60), 0.1), ", 9 min left");
        assert_eq!(remaining(Duration::from_secs(1), 0.0), "");
    }
}
