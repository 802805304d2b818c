//! What an operator may choose about the transport, and what can be wrong with it.

use crate::file::FileConfig;
use crate::link::LinkConfig;
use core::fmt;
use core::net::SocketAddr;
use core::str::FromStr;
use core::time::Duration;
use std::io;

/// Which driver is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TransportChoice {
    /// io_uring where the kernel has all of it, else epoll.
    #[default]
    Auto,
    /// io_uring, or an error.
    Uring,
    /// epoll.
    Epoll,
}

impl fmt::Display for TransportChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Epoll => "epoll",
        })
    }
}

impl FromStr for TransportChoice {
    type Err = TransportError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "uring" => Ok(Self::Uring),
            "epoll" => Ok(Self::Epoll),
            _ => Err(TransportError::UnknownChoice { text: text.to_owned() }),
        }
    }
}

/// Which driver runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransportKind {
    /// io_uring.
    Uring,
    /// epoll.
    Epoll,
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "io_uring",
            Self::Epoll => "epoll",
        })
    }
}

/// Sizes and times of one core's driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportConfig {
    /// Bytes of one provided receive buffer (io_uring), 256 to 1 MiB.
    pub receive_buffer_bytes: u32,
    /// Provided receive buffers of a core (io_uring): a power of two from 8 to 32,768. When all
    /// are full the kernel stops receiving until the core has caught up.
    pub receive_buffers: u16,
    /// Entries of the submission queue, 8 to 32,768; the completion queue has four times as
    /// many. A full submission queue costs one more system call, a full completion queue makes
    /// the kernel keep completions aside; neither loses anything.
    pub ring_entries: u32,
    /// Sends of at least this many bytes are zero-copy where the kernel can; `usize::MAX` never.
    ///
    /// The default is never: over loopback, where the kernel copies anyway when the bytes reach
    /// the receiver, zero-copy cost 1.2 to 1.4 times the sender's CPU from 4 KiB to 1 MiB and 1.3 to
    /// 1.9 times that of both ends at every size up to 16 MiB (`cargo run --release --example
    /// send_cost 3`, 2 virtual CPUs of an AMD Zen 5, kernel 6.18). With a network card between, try
    /// 64 KiB and measure.
    pub zero_copy_bytes: usize,
    /// Zero-copy sends whose memory the kernel still holds, at most, per core; further sends are
    /// copied.
    pub zero_copy_pending_max: u16,
    /// How long a closing connection is read and dropped after our FIN.
    pub linger: Duration,
    /// How long a closing connection may take to send what is queued.
    pub flush_timeout: Duration,
    /// How long a listener rests after descriptors, memory or the table were exhausted.
    pub accept_backoff: Duration,
    /// How long a waiting core lets completions gather (io_uring, kernel 6.12; ignored before).
    /// Only a core whose last turn had many completions waits like this, so it saves CPU and
    /// system calls under many small messages and delays no lone one; zero is off.
    ///
    /// 64 pairs with a window of 8 through the `relay` example, a core that parks at once, five
    /// interleaved runs: 0.86 times the CPU and 0.4 times the system calls per message (medians of
    /// the ratios; 2 virtual CPUs of an AMD Zen 5 under load, kernel 6.18).
    pub min_wait: Duration,
    /// The files of the core; `None` for a core that asks the disk for nothing, which has no
    /// threads for it.
    pub files: Option<FileConfig>,
    /// The links of the core to other nodes; `None` for a core that has none.
    pub links: Option<LinkConfig>,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            receive_buffer_bytes: 4096,
            receive_buffers: 1024,
            ring_entries: 1024,
            zero_copy_bytes: usize::MAX,
            zero_copy_pending_max: 1024,
            linger: Duration::from_millis(500),
            flush_timeout: Duration::from_secs(1),
            accept_backoff: Duration::from_millis(100),
            min_wait: Duration::from_micros(50),
            files: None,
            links: None,
        }
    }
}

impl TransportConfig {
    /// Checks the bounds that the fields document.
    ///
    /// # Errors
    /// [`TransportError::Config`] names the field and what it allows.
    pub fn validate(&self) -> Result<(), TransportError> {
        let wrong = |field, allowed| Err(TransportError::Config { field, allowed });
        if !(256..=1 << 20).contains(&self.receive_buffer_bytes) {
            return wrong("receive_buffer_bytes", "256 bytes to 1 MiB");
        }
        if !(8..=1 << 15).contains(&self.receive_buffers) || !self.receive_buffers.is_power_of_two()
        {
            return wrong("receive_buffers", "a power of two from 8 to 32768");
        }
        if !(8..=1 << 15).contains(&self.ring_entries) {
            return wrong("ring_entries", "8 to 32768");
        }
        if self.linger > Duration::from_secs(60) {
            return wrong("linger", "at most 60 s");
        }
        if self.flush_timeout > Duration::from_secs(60) {
            return wrong("flush_timeout", "at most 60 s");
        }
        if self.accept_backoff > Duration::from_secs(60) {
            return wrong("accept_backoff", "at most 60 s");
        }
        if self.min_wait > Duration::from_millis(10) {
            return wrong("min_wait", "at most 10 ms");
        }
        if self.files.as_ref().is_some_and(|files| !(1..=16).contains(&files.threads)) {
            return wrong("files.threads", "1 to 16");
        }
        self.links.as_ref().map_or(Ok(()), LinkConfig::validate)
    }
}

/// What can go wrong before a driver runs.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Not one of the three words.
    #[error("unknown transport {text:?}: use auto, uring or epoll")]
    UnknownChoice {
        /// What was given.
        text: String,
    },
    /// io_uring was asked for and cannot be used.
    #[error("io_uring was asked for but cannot be used: {reason}; {remedy}")]
    UringMissing {
        /// What is missing.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
    /// A setting is out of its bounds.
    #[error("transport setting {field} is out of bounds: it allows {allowed}")]
    Config {
        /// The field of [`TransportConfig`].
        field: &'static str,
        /// What it allows.
        allowed: &'static str,
    },
    /// Another process listens on the address.
    #[error("{address} is already in use: another broker or program listens there")]
    AddressInUse {
        /// The address.
        address: SocketAddr,
    },
    /// A system call of the set-up failed.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl TransportError {
    pub(crate) fn system(what: impl Into<String>, source: io::Error) -> Self {
        Self::System { what: what.into(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_choice_come_back() {
        for choice in [TransportChoice::Auto, TransportChoice::Uring, TransportChoice::Epoll] {
            assert_eq!(choice.to_string().parse::<TransportChoice>().unwrap(), choice);
        }
        let error = "quic".parse::<TransportChoice>().unwrap_err().to_string();
        assert!(error.contains("auto, uring or epoll"), "{error}");
    }

    #[test]
    fn the_defaults_are_valid_and_bounds_are_named() {
        TransportConfig::default().validate().unwrap();
        let odd = TransportConfig { receive_buffers: 1000, ..TransportConfig::default() };
        let error = odd.validate().unwrap_err().to_string();
        assert!(error.contains("receive_buffers"), "{error}");
        let small = TransportConfig { receive_buffer_bytes: 1, ..TransportConfig::default() };
        assert!(small.validate().unwrap_err().to_string().contains("receive_buffer_bytes"));
    }
}
