//! Sockets, files and wake-ups of the Ringlane broker: io_uring, and epoll where that is missing.
//!
//! [`probe::probe`] finds out what the kernel has, [`choose()`] decides, [`bind`] opens one
//! listening socket per core, and [`open`] gives each core its driver: an implementation of
//! [`ringlane_dataplane::net::Driver`] and of [`ringlane_dataplane::disk::FileDriver`]. The life of a connection (`driver`) is the same code for
//! both; what differs is how an operation starts and ends (`engine`, `epoll`, `uring`).
//!
//! Unsafe code is in `sys` (system calls) and `uring` (ring, buffers, message headers) only.

mod any;
mod choose;
mod config;
mod connection;
mod driver;
mod engine;
mod epoll;
pub mod failpoint;
mod file;
mod link;
mod listen;
pub mod probe;
mod resident;
mod sending;
mod sys;
mod uring;
mod wake;

pub use any::{AnyDriver, EpollDriver, UringDriver, open};
pub use choose::choose;
pub use config::{TransportChoice, TransportConfig, TransportError, TransportKind};
pub use file::{FileBackend, FileConfig, StdFiles};
pub use link::LinkConfig;
pub use listen::{ListenSocket, bind};
pub use resident::{HeldCode, hold_code};
pub use wake::{WakeEvent, Wakers};
