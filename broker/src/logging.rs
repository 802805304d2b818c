//! Log lines: to stderr, through a thread of their own, so that no core ever waits for a terminal.
//!
//! The queue to that thread is bounded; lines beyond it are dropped and counted
//! ([`Logging::dropped_lines`]).

use crate::config::{LogConfig, LogFormat, LogLevel};
use std::env;
use std::io::{self, IsTerminal};
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// Lines that may wait for the writing thread.
const LINES_WAITING_MAX: usize = 8192;

/// The log of this process. Dropping it writes what waits, for at most a second.
#[derive(Debug)]
pub struct Logging {
    dropped: ErrorCounter,
    _worker: WorkerGuard,
}

impl Logging {
    /// Starts the writing thread and takes the lines of all threads from now on.
    ///
    /// # Errors
    /// If this process logs already.
    pub fn start(config: &LogConfig) -> Result<Self, tracing_subscriber::util::TryInitError> {
        let (writer, worker) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(LINES_WAITING_MAX)
            .thread_name("ringlane-log")
            .finish(io::stderr());
        let dropped = writer.error_counter();
        let style = Style {
            format: config.format,
            timestamps: !stderr_is_journal(env::var("JOURNAL_STREAM").ok().as_deref()),
            colors: io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none(),
        };
        let layer = layer::<_, NonBlocking>(style, writer);
        tracing_subscriber::registry().with(layer.with_filter(level(config.level))).try_init()?;
        Ok(Self { dropped, _worker: worker })
    }

    /// Lines that were dropped because the queue was full.
    #[must_use]
    pub fn dropped_lines(&self) -> ErrorCounter {
        self.dropped.clone()
    }
}

/// How a line looks.
#[derive(Clone, Copy, Debug)]
struct Style {
    format: LogFormat,
    timestamps: bool,
    colors: bool,
}

/// The layer that writes lines in this style. Times are RFC 3339 in UTC.
fn layer<S, W>(style: Style, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let plain = fmt::layer().with_writer(writer).with_target(false).with_ansi(style.colors);
    match (style.format, style.timestamps) {
        (LogFormat::Text, true) => plain.boxed(),
        (LogFormat::Text, false) => plain.without_time().boxed(),
        (LogFormat::Json, true) => plain.json().flatten_event(true).with_ansi(false).boxed(),
        (LogFormat::Json, false) => {
            plain.json().flatten_event(true).with_ansi(false).without_time().boxed()
        }
    }
}

/// The filter of a level.
fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    }
}

/// Whether stderr goes to the journal, which has its own times. The variable names the device and
/// the inode of the journal's socket, and children with another stderr inherit it too
/// (systemd.exec(5)).
fn stderr_is_journal(variable: Option<&str>) -> bool {
    let Some((device, inode)) = variable.and_then(|text| text.split_once(':')) else {
        return false;
    };
    let Ok(stat) = rustix::fs::fstat(io::stderr()) else { return false };
    device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(style: Style) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = layer(style, move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(layer.with_filter(LevelFilter::INFO));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(core = 3, client = "a\u{1b}[31m\"1", "connected");
            tracing::debug!("not seen");
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_lines_have_time_level_message_and_fields() {
        let style = Style { format: LogFormat::Text, timestamps: true, colors: false };
        let text = written(style);
        assert_eq!(text.lines().count(), 1, "{text}");
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(time.starts_with("20") && time.ends_with('Z') && time.contains('T'), "{text}");
        assert!(rest.trim_start().starts_with("INFO connected core=3 client="), "{text}");
        assert!(!text.contains('\u{1b}'), "control characters are escaped: {text:?}");
    }

    #[test]
    fn the_journal_gets_no_time() {
        let text = written(Style { format: LogFormat::Text, timestamps: false, colors: false });
        assert!(text.trim_start().starts_with("INFO connected"), "{text}");
    }

    #[test]
    fn json_lines_are_objects() {
        for timestamps in [true, false] {
            let text = written(Style { format: LogFormat::Json, timestamps, colors: true });
            let value: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
            assert_eq!(value["message"], "connected");
            assert_eq!(value["core"], 3);
            assert_eq!(value["level"], "INFO");
            assert_eq!(value["client"], "a\u{1b}[31m\"1");
            assert_eq!(value.get("timestamp").is_some(), timestamps);
        }
    }

    #[test]
    fn only_the_journals_own_socket_counts() {
        let stat = rustix::fs::fstat(io::stderr()).unwrap();
        let own = format!("{}:{}", stat.st_dev, stat.st_ino);
        assert!(stderr_is_journal(Some(&own)));
        for other in [None, Some(""), Some("1"), Some("8:1234567890")] {
            assert!(!stderr_is_journal(other), "{other:?}");
        }
    }
}
